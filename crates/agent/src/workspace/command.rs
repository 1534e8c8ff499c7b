//! `run_command`: in the jail, and what the model is told of its end.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ToolOutcome, Workspace, blocking, show, tidy};
use crate::jail::process::Ended;
use crate::jail::{Exit, shorten};

/// Longest command; longer ones belong in a script.
const COMMAND: usize = 64 << 10;
/// Bytes of the cap that are kept free for what is said beside the output.
const WORDS: usize = 600;

impl Workspace {
    pub(super) async fn run_command(
        &mut self,
        command: &str,
        timeout: Option<Duration>,
        cancel: &CancellationToken,
    ) -> ToolOutcome {
        let refused = |why: String| ToolOutcome { output: why, is_error: true, changed_files: false };
        if command.len() > COMMAND || command.contains('\0') {
            return refused(format!(
                "The command must be at most {COMMAND} bytes, without NUL characters: write a script with \
                 write_file and run that."
            ));
        }
        let ended = match self.jail.run(&self.slot.place, command, timeout, cancel).await {
            Ok(ended) => ended,
            Err(why) => return refused(why.to_string()),
        };
        let bounds = self.jail.bounds();
        let wall = timeout.unwrap_or(bounds.timeout).min(bounds.max_timeout);
        let killed = "it and all that it had started were killed";
        let (head, is_error) = match ended.exit {
            Exit::Code(code) => (format!("exit code {code}"), false),
            Exit::Signal(signal) => (format!("ended by signal {signal}{}", signal_hint(signal)), false),
            Exit::TimedOut => (format!("no end within {}: {killed}", seconds(wall)), true),
            Exit::Cancelled => (format!("called off: {killed}"), true),
            Exit::TooManyProcesses => {
                (format!("more than {} processes at once: {killed}", bounds.processes), true)
            }
        };
        let mut output = head;
        output.push('\n');
        output.push_str(&streams(&ended, self.files.cap().saturating_sub(WORDS)));
        output.push_str(&self.notes().await);
        ToolOutcome { output, is_error, changed_files: true }
    }

    /// What the command left behind that the model should know of.
    async fn notes(&self) -> String {
        let root = self.slot.place.workspace.clone();
        let Ok(tidied) = blocking("tidy", "workspace", move || Ok(tidy::tidy(&root))).await else {
            return String::new();
        };
        let mut notes = String::new();
        if !tidied.removed.is_empty() {
            let removed = show(&tidied.removed);
            notes.push_str(&format!("\n[removed, since they are not files: {removed}]"));
        }
        if tidied.nested.is_empty() {
            return notes;
        }
        let nested = self.repository.lock().await.not_ignored(tidied.nested).await.unwrap_or_default();
        if !nested.is_empty() {
            notes.push_str(&format!(
                "\n[git repositories of their own: {}. Their files are not kept and cannot be published: \
                 remove the .git in them]",
                show(&nested)
            ));
        }
        notes
    }
}

/// Both streams, within `cap` bytes; the one that says less leaves its room to the other.
fn streams(ended: &Ended, cap: usize) -> String {
    let (stdout, stderr) = (ended.stdout.text(), ended.stderr.text());
    if stdout.is_empty() && stderr.is_empty() {
        return "(no output)".into();
    }
    let half = cap / 2;
    let for_stderr = stderr.len().min(half.max(cap.saturating_sub(stdout.len())));
    let for_stdout = cap - for_stderr;
    let mut output = String::new();
    for (name, text, room) in [("stdout", stdout, for_stdout), ("stderr", stderr, for_stderr)] {
        if !text.is_empty() {
            output.push_str(&format!("--- {name}\n{}\n", shorten(text.trim_end(), room)));
        }
    }
    output.truncate(output.trim_end().len());
    output
}

fn signal_hint(signal: i32) -> &'static str {
    match signal {
        9 => " (killed: out of memory?)",
        11 => " (segmentation fault)",
        24 => " (too much processor time)",
        25 => " (a file grew too large)",
        _ => "",
    }
}

fn seconds(wall: Duration) -> String {
    format!("{} s", wall.as_secs_f64())
}
