//! The tools over a real folder, and the checks of their calls.
