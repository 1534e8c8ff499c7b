//! From an answer, or its absence, to a verdict: one function a provider. docs/providers.md has
//! the tables; each row is a test case here.

pub mod clean;
pub mod git;
pub mod github;
pub mod openai;
pub mod transport;
pub mod webhook;
