//! The tools that the model may ask for: their names, parameters and checks, and the file tools.
//!
//! [`specs`] and [`check_call`] are pure and belong to the state machine; what a checked call does
//! is in the files beside this one, run by [`crate::workspace::Workspace::run`].

mod change;
mod check;
mod edit;
mod files;
mod read;
mod search;
mod spec;
mod walk;

#[cfg(test)]
mod tests;

use steadfast_core::chat::{ToolCall, ToolSpec};

pub(crate) use files::{Files, Stop};

/// A call whose tool is known and whose arguments fit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Lists a folder.
    ListDirectory {
        /// Which.
        path: String,
        /// Whether its folders are listed too.
        recursive: bool,
        /// How deep, at least 1.
        max_depth: Option<u32>,
    },
    /// Reads a text file.
    ReadFile {
        /// Which.
        path: String,
        /// First line, from 1.
        start_line: Option<u32>,
        /// Last line, inclusive.
        end_line: Option<u32>,
    },
    /// Searches files for a regular expression.
    SearchCode {
        /// The expression, in the syntax of Rust's regex crate.
        pattern: String,
        /// The folder or file to search; all of the workspace if absent.
        path: Option<String>,
        /// Which files, such as `*.rs`.
        glob: Option<String>,
        /// Lines shown around a match.
        context: u32,
    },
    /// Replaces text in a file that was read.
    EditFile {
        /// Which.
        path: String,
        /// What stands there.
        old_string: String,
        /// What shall stand there.
        new_string: String,
        /// Whether every occurrence is replaced; else there must be one.
        replace_all: bool,
    },
    /// Writes a whole file.
    WriteFile {
        /// Which.
        path: String,
        /// All of it.
        content: String,
    },
    /// Moves a file or a folder.
    MoveFile {
        /// From where.
        from: String,
        /// To where; nothing may be there.
        to: String,
    },
    /// Deletes a file.
    DeleteFile {
        /// Which.
        path: String,
    },
    /// Runs a command in the jail.
    RunCommand {
        /// For the shell.
        command: String,
        /// Wall time; the configured default if absent.
        timeout: Option<std::time::Duration>,
    },
    /// Comments on the issue: an effect, done by the state machine's owner.
    CommentOnIssue {
        /// The comment.
        message: String,
    },
    /// Ends the work: done by the state machine.
    Finish {
        /// What was done.
        summary: String,
    },
}

impl Checked {
    /// Whether running it twice is as good as running it once, so that it is not announced.
    pub fn read_only(&self) -> bool {
        match self {
            Checked::ListDirectory { .. } | Checked::ReadFile { .. } | Checked::SearchCode { .. } => true,
            Checked::EditFile { .. }
            | Checked::WriteFile { .. }
            | Checked::MoveFile { .. }
            | Checked::DeleteFile { .. }
            | Checked::RunCommand { .. }
            | Checked::CommentOnIssue { .. }
            | Checked::Finish { .. } => false,
        }
    }
}

/// All tools as the model is told of them, always in the same order.
pub fn specs() -> Vec<ToolSpec> {
    spec::TOOLS.iter().map(spec::Tool::to_spec).collect()
}

/// Checks a call against its tool. The error is for the model: what was expected, and the closest
/// tool or parameter.
pub fn check_call(call: &ToolCall) -> Result<Checked, String> {
    check::check(call)
}
