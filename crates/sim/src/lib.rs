//! Simulated OpenAI and GitHub, as strict as the real ones, with a git remote.
