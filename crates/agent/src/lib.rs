//! The agent: its loop as a state machine without I/O, tools, workspace and jail.

pub mod git;
pub mod jail;
pub mod machine;
pub mod prompts;
pub mod settings;
pub mod texts;
pub mod tools;
pub mod workspace;
