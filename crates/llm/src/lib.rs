//! OpenAI-compatible chat completions: wire types, streaming, tool calls, usage.
