//! The operator's checks: run by the runner, before the first change and before the pull request,
//! so that the pull request can say what failed before and passes now.
//!
//! A check is a `run_command` call of the runner's own. It is safe to repeat, so it is not
//! announced: one that was cut off is run again. Results are kept by the command, so that a
//! changed list of checks does no harm to a job that is under way.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};
use steadfast_core::chat::ToolCall;

use crate::prompts::sanitise::cap;
use crate::settings::AgentSettings;

const BEFORE: &str = "check-before-";
const AFTER: &str = "check-after-";
/// Most bytes of one failing check's output that the model is told.
const MAX_FAILURE: usize = 6_000;

/// How the result of `run_command` begins where the command succeeded.
const PASSED: &str = "exit code 0";

/// When a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum When {
    /// Before the first change.
    Before,
    /// Before the pull request.
    After,
}

/// What came of the checks so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Checks {
    results: BTreeMap<(When, String), Outcome>,
    /// The model was told of new failures, and has had its chance to mend them.
    told: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    failed: bool,
    output: String,
}

/// A command's name in call ids.
fn key(command: &str) -> String {
    let digest = Sha256::digest(command.as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl Checks {
    /// The next check to run, if any.
    pub(super) fn due(&self, settings: &AgentSettings, when: When) -> Option<ToolCall> {
        let is_due = |command: &&String| !self.results.contains_key(&(when, key(command)));
        let command = settings.checks.iter().find(is_due)?;
        let prefix = match when {
            When::Before => BEFORE,
            When::After => AFTER,
        };
        let seconds = settings.command.max_timeout.as_secs().max(1);
        Some(ToolCall {
            id: format!("{prefix}{}", key(command)),
            name: "run_command".into(),
            arguments: json!({ "command": command, "timeout_s": seconds }).to_string(),
        })
    }

    /// Takes the result of a check; false where the id is none of a check.
    pub(super) fn record(&mut self, call_id: &str, output: &str, is_error: bool) -> bool {
        let before = call_id.strip_prefix(BEFORE).map(|key| (When::Before, key.to_owned()));
        let after = || call_id.strip_prefix(AFTER).map(|key| (When::After, key.to_owned()));
        let Some(place) = before.or_else(after) else { return false };
        let failed = is_error || output.lines().next() != Some(PASSED);
        self.results.insert(place, Outcome { failed, output: output.to_owned() });
        true
    }

    /// The workspace will change again: what was found at the end no longer holds.
    pub(super) fn forget_after(&mut self) {
        self.results.retain(|(when, _), _| *when == When::Before);
    }

    /// The model was told of new failures.
    pub(super) fn told(&mut self) {
        self.told = true;
    }

    /// What passed before and fails now, for the model; `None` where nothing does, or where it was
    /// told before.
    pub(super) fn new_failures(&self, settings: &AgentSettings) -> Option<String> {
        let mut failures = Vec::new();
        for command in &settings.checks {
            let (before, after) = self.outcomes(command);
            if let (Some(Outcome { failed: false, .. }), Some(Outcome { failed: true, output })) =
                (before, after)
            {
                failures.push(format!("$ {command}\n{}", cap(output, MAX_FAILURE)));
            }
        }
        (!self.told && !failures.is_empty()).then(|| failures.join("\n\n"))
    }

    /// For the pull request: a line a check; `None` where there are none.
    pub(super) fn report(&self, settings: &AgentSettings) -> Option<String> {
        let mut lines = vec!["Checks, run before and after the change:".to_owned()];
        for command in &settings.checks {
            let (before, after) = self.outcomes(command);
            let words = match (before.map(|o| o.failed), after.map(|o| o.failed)) {
                (Some(true), Some(false)) => "failed before, passes now",
                (Some(false), Some(false)) => "passes, as before",
                (Some(true), Some(true)) => "failed before and after",
                (Some(false), Some(true)) => "**passed before, fails now**",
                (None, Some(false)) => "passes",
                (None, Some(true)) => "**fails**; not known whether it did before",
                (Some(_) | None, None) => "not run",
            };
            lines.push(format!("- `{}`: {words}", command.replace('`', "'")));
        }
        (lines.len() > 1).then(|| lines.join("\n"))
    }

    fn outcomes(&self, command: &str) -> (Option<&Outcome>, Option<&Outcome>) {
        let key = key(command);
        (self.results.get(&(When::Before, key.clone())), self.results.get(&(When::After, key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::settings;

    #[test]
    fn each_check_runs_once_before_and_after_and_is_reported() {
        let settings =
            AgentSettings { checks: vec!["a".into(), "b".into(), "c".into(), "d".into()], ..settings() };
        let mut checks = Checks::default();
        let codes = [(When::Before, [1, 0, 2, 0]), (When::After, [0, 0, 2, 1])];
        for (when, codes) in codes {
            for code in codes {
                let call = checks.due(&settings, when).unwrap();
                assert!(crate::tools::check_call(&call).is_ok(), "{call:?}");
                assert!(checks.record(&call.id, &format!("exit code {code}\nout"), false));
            }
            assert_eq!(checks.due(&settings, when), None);
        }
        assert!(!checks.record("call_1", "", false));
        let report = "Checks, run before and after the change:\n- `a`: failed before, passes now\n- `b`: passes, as \
                      before\n- `c`: failed before and after\n- `d`: **passed before, fails now**";
        assert_eq!(checks.report(&settings).unwrap(), report);
        assert_eq!(checks.new_failures(&settings).unwrap(), "$ d\nexit code 1\nout");
        checks.told();
        assert_eq!(checks.new_failures(&settings), None, "told once");
        checks.forget_after();
        let call = checks.due(&settings, When::After).unwrap();
        checks.record(&call.id, "no end within 600 s", true);
        assert!(checks.report(&settings).unwrap().contains("- `a`: failed before and after"));
        assert!(checks.due(&settings, When::After).is_some());
        assert_eq!(checks.due(&settings, When::Before), None);
    }
}
