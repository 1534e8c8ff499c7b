//! OpenAI-compatible chat completions: wire types, streaming, tool calls, usage.
//!
//! [`LlmClient`] makes one exchange at a time and says what a failure means; retrying, pacing and
//! gates are its callers' matter.

mod settings;
pub mod wire;

pub use settings::{Endpoint, MaxTokensField, Price, Settings, Temperature, ToolsMode, UnusableEndpoint};
