//! What people read on GitHub: the progress comment, the pull request, the commit, the branch.
//!
//! Pure functions of the job and of what the model said. What the model said is made harmless
//! first: no hidden comments, nobody called by `@name`, no other issue closed.

use std::sync::LazyLock;

use regex::Regex;
use steadfast_core::effect::{EffectKey, marker};
use steadfast_core::end::{End, EndStatus};
use steadfast_core::failure::GateReason;
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;

use crate::prompts::sanitise::{cap, one_line, strip_invisible};

/// Most characters of a pull request's title and of a commit's first line.
const MAX_TITLE: usize = 120;
/// Most bytes of a body on GitHub, which takes 65,536 characters.
const MAX_BODY: usize = 60_000;
/// Most characters of [`End::summary`].
pub const MAX_SUMMARY: usize = 4_000;

/// Where a job stands, for the progress comment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProgressState<'a> {
    /// It is being worked on.
    Started,
    /// It is put away until a known time.
    Waiting {
        /// The earliest time that it goes on.
        until: Timestamp,
        /// Why.
        reason: GateReason,
    },
    /// It has its end.
    Ended(&'a End),
}

/// The progress comment, with the marker by which it is found again.
pub fn progress_text(job: &Job, state: ProgressState<'_>) -> String {
    let text = match state {
        ProgressState::Started => {
            "I am working on this. This comment is edited as the work goes on.".to_owned()
        }
        ProgressState::Waiting { until, reason } => format!(
            "This is put on hold until {until} ({reason}). Nothing is lost: the work goes on from where \
             it stands, by itself."
        ),
        ProgressState::Ended(end) => ended(end),
    };
    format!("{}\n\n{}", cap(&text, MAX_BODY), marker(&job.id, &EffectKey::Progress))
}

/// The words for a job's end.
fn ended(end: &End) -> String {
    let head = match (end.status, &end.pr_url) {
        (EndStatus::Completed, Some(url)) => format!("Done: {url}"),
        (EndStatus::Completed, None) => "Done. No change was needed, so there is no pull request.".into(),
        (EndStatus::Failed, _) => "I could not finish this.".into(),
        (EndStatus::Cancelled, _) => "This was called off.".into(),
    };
    let mut parts = vec![head];
    let summary = harmless(&end.summary, None);
    if !summary.is_empty() {
        parts.push(summary);
    }
    if let (EndStatus::Failed | EndStatus::Cancelled, Some(branch)) = (end.status, &end.branch) {
        parts.push(format!("What was done so far is on the branch `{branch}`."));
    }
    parts.join("\n\n")
}

/// A comment that the model asked for, with its marker.
pub fn comment_body(job: &Job, key: &EffectKey, message: &str) -> String {
    format!("{}\n\n{}", cap(&harmless(message, job.task_params.issue_number), MAX_BODY), marker(&job.id, key))
}

/// The job's branch: `{prefix}issue-{number}-{short}`, or `{prefix}job-{short}` without an issue.
pub fn branch_name(prefix: &str, job: &Job) -> String {
    match job.task_params.issue_number {
        Some(number) => format!("{prefix}issue-{number}-{}", job.id.short()),
        None => format!("{prefix}job-{}", job.id.short()),
    }
}

/// The pull request's title: the summary's first line where it is fit for one, else the issue's.
pub fn pull_title(job: &Job, summary: &str) -> String {
    let first = summary.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
    let first = one_line(first.trim_matches(['#', '*', ' ']), usize::MAX);
    let length = first.chars().count();
    // A heading such as `Summary` says nothing.
    let from_summary = (length <= MAX_TITLE && first.contains(' ')).then_some(first);
    let from_issue = || job.task_params.issue_title.as_deref().map(|title| one_line(title, MAX_TITLE));
    let title = from_summary.or_else(from_issue).filter(|title| !title.is_empty());
    let title = title.unwrap_or_else(|| format!("Changes of job {}", job.id.short()));
    harmless(&title, job.task_params.issue_number)
}

/// The pull request's body: summary, checks if any, what it closes, marker.
pub fn pull_body(job: &Job, summary: &str, checks: Option<&str>) -> String {
    let mut parts = vec![cap(&harmless(summary, job.task_params.issue_number), MAX_BODY / 2)];
    parts.extend(checks.map(|checks| cap(checks, MAX_BODY / 4)));
    parts.extend(job.task_params.issue_number.map(|number| format!("Closes #{number}")));
    parts.push(marker(&job.id, &EffectKey::PullRequest));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// The commit's message: title, summary, and the trailer that tells whose commit it is.
pub fn commit_message(job: &Job, summary: &str) -> String {
    let title = pull_title(job, summary);
    let body = cap(&harmless(summary, job.task_params.issue_number), MAX_SUMMARY);
    let trailer = format!("Steadfast-Job: {}", job.id);
    let parts = if body.is_empty() { vec![title, trailer] } else { vec![title, body, trailer] };
    parts.join("\n\n")
}

/// The model's words, fit for GitHub: no hidden comments, so that no marker is forged; `@name` calls
/// nobody; `closes #n` closes no issue but the job's own.
fn harmless(text: &str, own_issue: Option<u64>) -> String {
    #[allow(clippy::expect_used, reason = "a constant pattern; every test of this file compiles it")]
    static MENTION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(^|[^\w`/])@(\w)").expect("pattern is valid"));
    #[allow(clippy::expect_used, reason = "a constant pattern; every test of this file compiles it")]
    static CLOSES: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?i)\b((?:close|fix|resolve)(?:s|d|es|ed)?:?\s+)((?:[\w.-]+/[\w.-]+)?#|https?://\S+/)(\d+)",
        )
        .expect("pattern is valid")
    });
    let visible = strip_invisible(text.trim()).replace("<!--", "<\u{200b}!--");
    let quiet = MENTION.replace_all(&visible, "$1@\u{200b}$2");
    let closes = CLOSES.replace_all(&quiet, |found: &regex::Captures<'_>| {
        let own = &found[2] == "#" && own_issue.is_some_and(|number| found[3] == number.to_string());
        let gap = if own { "" } else { "\u{200b}" };
        format!("{}{gap}{}{gap}{}", &found[1], &found[2], &found[3])
    });
    closes.into_owned()
}
