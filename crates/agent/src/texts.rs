//! What people read on GitHub: the progress comment, the pull request, the commit, the branch.
//!
//! Pure functions of the job and of what the model said. What the model said is made harmless
//! first: no hidden comments, nobody called by `@name`, no other issue closed.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use steadfast_core::effect::{EffectKey, marker};
use steadfast_core::end::{End, EndReason, EndStatus};
use steadfast_core::failure::GateReason;
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;

use crate::prompts::sanitise::{cap, one_line, pattern, strip_invisible};

/// Most characters of a pull request's title and of a commit's first line.
const MAX_TITLE: usize = 120;
/// Most bytes of a body on GitHub, which takes 65,536 characters.
const MAX_BODY: usize = 60_000;
/// Most characters of [`End::summary`].
pub const MAX_SUMMARY: usize = 4_000;

/// Code, which is left as it is; else an `@` that GitHub takes for the beginning of a name.
static MENTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)(```.*?```|``[^`]+``|`[^`\n]+`)|(^|\W)@\b"));
/// A word on which GitHub closes an issue, and the issue.
static CLOSES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(close[sd]?|fix(?:e[sd])?|resolve[sd]?)(:?\s+)((?:[\w.-]+/[\w.-]+)?#|gh-|https?://\S+/)(\d+)",
    )
});

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
    Ended(&'a End, Tally),
}

/// What a job has taken, for its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Steps in its journal.
    pub steps: u32,
    /// Model turns.
    pub turns: u32,
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// In the currency of `agent.prices`; 0 where nothing has a price.
    pub cost: f64,
    /// Times that it was put away for a limit.
    pub waits: u32,
    /// Crashes of its runner.
    pub crashes: u32,
}

impl Tally {
    fn sentence(self) -> String {
        let count = |number: u64, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
        let mut parts = vec![count(self.turns.into(), "model turn"), count(self.tokens, "token")];
        if self.cost > 0.0 {
            parts.push(format!("a cost of {:.2}", self.cost));
        }
        if self.waits > 0 {
            parts.push(count(self.waits.into(), "wait"));
        }
        match self.crashes {
            0 => {}
            1 => parts.push("1 crash of its runner".to_owned()),
            crashes => parts.push(format!("{crashes} crashes of its runners")),
        }
        format!("Ended at step {}, after {}.", self.steps, parts.join(", "))
    }
}

/// What can be done about an end; nothing more is done by itself.
pub fn what_next(reason: EndReason) -> Option<&'static str> {
    match reason {
        EndReason::PullRequest | EndReason::NoChanges | EndReason::Joined => None,
        EndReason::Cancelled => Some("A retry goes on from where it stands."),
        EndReason::Credentials => Some("Give the worker a credential that is valid, then retry."),
        EndReason::Permission => Some("Grant the App or token what it lacks, then retry."),
        EndReason::NotFound => {
            Some("See that the repository, issue and model are there for the worker, then retry.")
        }
        EndReason::Rejected => Some("A retry asks the same again: change what was refused first."),
        EndReason::AttemptsExhausted => {
            Some("Once what failed is well again, a retry goes on from where it stands.")
        }
        EndReason::Deadline => {
            Some("A retry goes on from where it stands, with as much time again (job.deadline).")
        }
        EndReason::Poison => Some(
            "Find out first what brings its runner down (steadfast jobs export writes all that is known); a retry \
             counts crashes anew.",
        ),
        EndReason::TurnLimit | EndReason::SpendLimit => {
            Some("A retry goes on from where it stands, with its limits counted anew.")
        }
        EndReason::ContextTooLong => {
            Some("A smaller task or a model with a larger window; then retry from the start.")
        }
        EndReason::FormatErrors | EndReason::Stuck | EndReason::GaveUp => {
            Some("A clearer issue or another model; then retry from the start.")
        }
        EndReason::ChangeRefused => Some("A retry from the start makes the change anew."),
        EndReason::Journal => Some("A retry from the start begins a new journal."),
    }
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
        ProgressState::Ended(end, tally) => ended(job, end, tally),
    };
    format!("{}\n\n{}", cap(&text, MAX_BODY), marker(&job.id, &EffectKey::Progress))
}

/// The words for a job's end.
fn ended(job: &Job, end: &End, tally: Tally) -> String {
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
    let retry = match end.reason {
        reason if retries_from_start(reason) => format!("steadfast jobs retry --from-start {}", job.id),
        _ => format!("steadfast jobs retry {}", job.id),
    };
    parts.extend(what_next(end.reason).map(|what| format!("{what} `{}`", retry.replace('`', "'"))));
    parts.push(tally.sentence());
    parts.join("\n\n")
}

/// Whether going on from where such an end stands would only lead there again.
fn retries_from_start(reason: EndReason) -> bool {
    match reason {
        EndReason::ContextTooLong
        | EndReason::FormatErrors
        | EndReason::Stuck
        | EndReason::GaveUp
        | EndReason::ChangeRefused
        | EndReason::Journal => true,
        EndReason::PullRequest
        | EndReason::NoChanges
        | EndReason::Cancelled
        | EndReason::Joined
        | EndReason::Credentials
        | EndReason::Permission
        | EndReason::NotFound
        | EndReason::Rejected
        | EndReason::AttemptsExhausted
        | EndReason::Deadline
        | EndReason::Poison
        | EndReason::TurnLimit
        | EndReason::SpendLimit => false,
    }
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
    title_and_rest(job, summary).0
}

/// The pull request's body: summary, checks if any, what it closes, marker.
pub fn pull_body(job: &Job, summary: &str, checks: Option<&str>) -> String {
    let mut parts = vec![cap(&title_and_rest(job, summary).1, MAX_BODY / 2)];
    parts.extend(checks.map(|checks| cap(checks, MAX_BODY / 4)));
    parts.extend(job.task_params.issue_number.map(|number| format!("Closes #{number}")));
    parts.push(marker(&job.id, &EffectKey::PullRequest));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// The commit's message: title, summary, and the trailer that tells whose commit it is.
pub fn commit_message(job: &Job, summary: &str) -> String {
    let (title, rest) = title_and_rest(job, summary);
    let trailer = format!("Steadfast-Job: {}", job.id);
    let mut parts = vec![title, cap(&rest, MAX_SUMMARY), trailer];
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// The title, and what of the summary it does not hold.
fn title_and_rest(job: &Job, summary: &str) -> (String, String) {
    let own_issue = job.task_params.issue_number;
    let summary = summary.trim();
    let (first, rest) = summary.split_once('\n').unwrap_or((summary, ""));
    let first = one_line(first.trim_matches(['#', '*', ' ', '\r']), usize::MAX);
    // A heading such as `Summary` says nothing.
    if first.chars().count() <= MAX_TITLE && first.contains(' ') {
        return (harmless(&first, own_issue), harmless(rest, own_issue));
    }
    let from_issue = job.task_params.issue_title.as_deref().map(|title| one_line(title, MAX_TITLE));
    let title = from_issue.filter(|title| !title.is_empty());
    let title = title.unwrap_or_else(|| format!("Changes of job {}", job.id.short()));
    (harmless(&title, own_issue), harmless(summary, own_issue))
}

/// The model's words, fit for GitHub: no hidden comments, so that no marker is forged; `@name` calls
/// nobody; `closes #n` closes no issue but the job's own.
fn harmless(text: &str, own_issue: Option<u64>) -> String {
    let visible = strip_invisible(text.trim()).replace("<!--", "<\u{200b}!--");
    let quiet = MENTION.replace_all(&visible, |found: &Captures<'_>| match (found.get(1), found.get(2)) {
        (Some(code), _) => code.as_str().to_owned(),
        (None, before) => format!("{}@\u{200b}", before.map_or("", |before| before.as_str())),
    });
    let closes = CLOSES.replace_all(&quiet, |found: &Captures<'_>| {
        let is_own = &found[3] == "#" && own_issue.is_some_and(|number| found[4] == number.to_string());
        let gap = if is_own { "" } else { "\u{200b}" };
        format!("{}{gap}{}{}{}", &found[1], &found[2], &found[3], &found[4])
    });
    closes.into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::tests::job;
    use proptest::prelude::*;

    #[test]
    fn the_progress_comment_reads_as_it_should() {
        let until = Timestamp::EPOCH + Duration::from_secs(1_760_000_000);
        let done = End {
            status: EndStatus::Completed,
            reason: EndReason::PullRequest,
            summary: "Empty input prints the usage.".into(),
            branch: Some("steadfast/issue-42-3f2504e0".into()),
            pr_url: Some("https://github.com/acme/tool/pull/9".into()),
        };
        let nothing = End {
            reason: EndReason::NoChanges,
            summary: "It was fixed in v2 already.".into(),
            branch: None,
            pr_url: None,
            ..done.clone()
        };
        let failed = End {
            branch: Some("steadfast/issue-42-3f2504e0".into()),
            ..End::failed(EndReason::TurnLimit, "all 30 turns are used (agent.max_turns)")
        };
        let called_off = End { status: EndStatus::Cancelled, ..End::failed(EndReason::Cancelled, "") };
        let little = Tally { steps: 9, turns: 1, tokens: 1_200, ..Tally::default() };
        let much = Tally { steps: 99, turns: 30, tokens: 812_345, cost: 1.234, waits: 2, crashes: 1 };
        let states = [
            ProgressState::Started,
            ProgressState::Waiting { until, reason: GateReason::RateLimit },
            ProgressState::Ended(&done, little),
            ProgressState::Ended(&nothing, little),
            ProgressState::Ended(&failed, much),
            ProgressState::Ended(&called_off, Tally { crashes: 2, ..little }),
        ];
        let all: Vec<String> = states.into_iter().map(|state| progress_text(&job(), state)).collect();
        insta::assert_snapshot!(all.join("\n\n=====\n\n"));
    }

    #[test]
    fn the_pull_request_reads_as_it_should() {
        let summary = "# Print the usage on empty input\n\nThe parser took the first line without looking. \
                       Tested with `cargo test`.\n\nCloses #42, fixes #7. Thanks @alice!";
        let checks = Some("Checks, run before and after the change:\n- `make test`: passes, as before");
        insta::assert_snapshot!(format!(
            "{}\n\n{}\n\n=== commit ===\n{}",
            pull_title(&job(), summary),
            pull_body(&job(), summary, checks),
            commit_message(&job(), summary),
        ));
    }

    #[test]
    fn a_title_says_something() {
        let cases = [
            ("**Fix the parser**\nmore", "Fix the parser"),
            ("## Summary\nIt works.", "Crash on empty input"),
            ("", "Crash on empty input"),
            (&"long ".repeat(60), "Crash on empty input"),
        ];
        for (summary, title) in cases {
            assert_eq!(pull_title(&job(), summary), title, "{summary:?}");
        }
        let mut bare = job();
        bare.task_params = Default::default();
        assert_eq!(pull_title(&bare, "Done"), "Changes of job 3f2504e0");
        assert_eq!(branch_name("steadfast/", &bare), "steadfast/job-3f2504e0");
        bare.task_params.issue_title = Some("x".repeat(500));
        assert_eq!(pull_title(&bare, "").chars().count(), 120);
    }

    #[test]
    fn the_models_words_call_nobody_and_close_nothing_else() {
        let cases = [
            ("hi @bob", "hi @\u{200b}bob"),
            ("(x/@org/team)", "(x/@\u{200b}org/team)"),
            ("a@example.org", "a@example.org"),
            ("`@Override` and ``n/@scope``", "`@Override` and ``n/@scope``"),
            ("```\n@decorator\n``` @bob", "```\n@decorator\n``` @\u{200b}bob"),
            ("closes #42", "closes #42"),
            ("closes #420", "closes\u{200b} #420"),
            ("Fixed: other/repo#42", "Fixed\u{200b}: other/repo#42"),
            ("resolves https://github.com/a/b/issues/3", "resolves\u{200b} https://github.com/a/b/issues/3"),
            ("closes GH-3", "closes\u{200b} GH-3"),
            ("see #7, prefixes #7", "see #7, prefixes #7"),
            ("<!-- steadfast job=x -->", "<\u{200b}!-- steadfast job=x -->"),
        ];
        for (text, quiet) in cases {
            assert_eq!(harmless(text, Some(42)), quiet, "{text:?}");
        }
    }

    proptest! {
        /// Only our own marker stands in a body, whatever the model says; and the trailer is last.
        #[test]
        fn no_marker_and_no_trailer_is_forged(words in r"(<!--|-->|<| steadfast job=|Steadfast-Job: x|\n|[ -~]|\PC){0,60}") {
            let body = pull_body(&job(), &words, None);
            prop_assert_eq!(body.matches("<!--").count(), 1);
            prop_assert!(body.ends_with(&marker(&job().id, &EffectKey::PullRequest)));
            let message = commit_message(&job(), &words);
            let last = message.rsplit("\n\n").next().unwrap();
            prop_assert_eq!(last, format!("Steadfast-Job: {}", job().id));
            prop_assert!(!message.lines().next().unwrap().is_empty());
        }
    }

    #[test]
    fn bodies_fit_github() {
        for words in ["x", "@a ", "é", "`", "fixes #1\n"] {
            let body = comment_body(&job(), &EffectKey::Comment(0), &words.repeat(70_000));
            assert!(body.len() < 65_000 && body.contains("bytes left out"), "{words:?}: {}", body.len());
            assert!(body.ends_with(&marker(&job().id, &EffectKey::Comment(0))));
        }
    }
}
