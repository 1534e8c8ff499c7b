//! OpenAI-compatible chat completions: wire types, streaming, tool calls, usage.
//!
//! [`LlmClient`] makes one exchange at a time and says what a failure means; retrying, pacing and
//! gates are its callers' matter.

mod assemble;
mod client;
mod dialect;
mod json_tools;
mod request;
mod settings;
mod stream;
#[cfg(test)]
mod testing;
pub mod wire;

pub use client::{CHAT, Exchange, LlmClient};
pub use settings::{
    Endpoint, EndpointSettings, MaxTokensField, Price, Settings, Temperature, ToolsMode, UnusableEndpoint,
};
