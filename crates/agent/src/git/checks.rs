//! What must not be pushed: too much, workflows, links that lead out, submodules, secrets.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};
use secrecy::{ExposeSecret, SecretString};

use super::GitSettings;

/// One changed path of `git diff --raw -z`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The new mode, `000000` if it was deleted.
    pub mode: String,
    /// The old content, zeros if there was none.
    pub old: String,
    /// The new content, zeros if there is none.
    pub blob: String,
    /// Where.
    pub path: String,
}

impl Change {
    /// Whether it is a symbolic link now.
    pub fn is_symlink(&self) -> bool {
        self.mode == "120000"
    }
}

/// Reads `:oldmode newmode oldsha newsha status\0path\0...`.
pub(super) fn parse_raw(raw: &[u8]) -> Vec<Change> {
    let mut fields = raw.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let mut changes = Vec::new();
    while let (Some(head), Some(path)) = (fields.next(), fields.next()) {
        let mut words = head.split(' ').skip(1);
        let mut word = || words.next().unwrap_or_default().to_owned();
        changes.push(Change { mode: word(), old: word(), blob: word(), path: path.into_owned() });
    }
    changes
}

/// Why the paths and modes of a change forbid it.
pub(super) fn refuse_changes(changes: &[Change], settings: &GitSettings) -> Option<String> {
    let (count, most) = (changes.len(), settings.max_changed_files);
    if count > usize::try_from(most).unwrap_or(usize::MAX) {
        let some: Vec<&str> = changes.iter().take(5).map(|change| change.path.as_str()).collect();
        return Some(format!(
            "the change touches {count} files ({}, ...), more than agent.git.max_changed_files ({most}): was \
             something generated or built left in the workspace?",
            some.join(", ")
        ));
    }
    let is_workflow = |change: &&Change| {
        let first = change.path.split('/').next().unwrap_or_default();
        first.eq_ignore_ascii_case(".github")
    };
    if let Some(change) = changes.iter().find(is_workflow).filter(|_| !settings.allow_workflows) {
        return Some(format!(
            "{} is below .github/, which must not be changed here (agent.git.allow_workflows): put it back as \
             it was",
            change.path
        ));
    }
    let module = changes.iter().find(|change| change.mode == "160000")?;
    Some(format!("{} is a submodule or a git repository of its own, which must not be pushed", module.path))
}

/// Whether a link at `path` leads out of the repository or into `.git`, by its words alone.
pub(super) fn leads_out(path: &str, target: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(target) else { return true };
    if target.starts_with('/') {
        return true;
    }
    let mut at: Vec<&str> = path.split('/').collect();
    at.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if at.pop().is_none() => return true,
            ".." => {}
            part if part.eq_ignore_ascii_case(".git") => return true,
            part => at.push(part),
        }
    }
    false
}

/// Secrets by their form. Tokens of GitHub may hold dots since 2026.
const SECRETS: [(&str, &str); 12] = [
    ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9_.\-]{30,}"),
    ("a GitHub token", r"\bgithub_pat_[A-Za-z0-9_]{40,}"),
    ("a private key", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    ("an AWS key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("an API key", r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_\-]{32,}"),
    ("a Google key", r"\bAIza[A-Za-z0-9_\-]{35}"),
    ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}"),
    ("a GitLab token", r"\bglpat-[A-Za-z0-9_\-]{20,}"),
    ("an npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a PyPI token", r"\bpypi-[A-Za-z0-9_\-]{50,}"),
    ("a crates.io token", r"\bcio[A-Za-z0-9]{32}\b"),
    ("a Stripe key", r"\b[rs]k_live_[A-Za-z0-9]{20,}"),
];

static PATTERNS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let compile = |(what, pattern): (&'static str, &str)| {
        let regex = RegexBuilder::new(pattern).unicode(false).build().ok()?;
        Some((what, regex))
    };
    SECRETS.into_iter().filter_map(compile).collect()
});

/// Looks for secrets in the lines that a patch adds; one that stood in a line that it removes is
/// not new. The answer names file and kind, never the secret.
pub(super) fn find_secret(patch: &[u8], token: Option<&SecretString>) -> Option<String> {
    let mut file = String::new();
    for line in patch.split(|byte| *byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"+++ ") {
            let name = String::from_utf8_lossy(name).trim_end().to_owned();
            file = name.strip_prefix("b/").unwrap_or(&name).to_owned();
            // No `continue`: an added line may begin with two plus signs and be none of the patch's.
        }
        let Some(added) = line.strip_prefix(b"+") else { continue };
        let token = token.map(|token| token.expose_secret().as_bytes()).filter(|token| token.len() >= 8);
        if token.is_some_and(|token| contains(added, token)) {
            return Some(secret("the worker's own token", &file));
        }
        for (what, pattern) in PATTERNS.iter() {
            let new = |found: &regex::bytes::Match<'_>| !removes(patch, found.as_bytes());
            if pattern.find_iter(added).any(|found| new(&found)) {
                return Some(secret(what, &file));
            }
        }
    }
    None
}

fn secret(what: &str, file: &str) -> String {
    format!("{file} holds what looks like {what}: take it out, a secret must not be pushed")
}

fn removes(patch: &[u8], text: &[u8]) -> bool {
    let removed = |line: &[u8]| line.starts_with(b"-") && contains(line, text);
    patch.split(|byte| *byte == b'\n').any(removed)
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_patterns_compile() {
        assert_eq!(PATTERNS.len(), SECRETS.len());
    }

    #[test]
    fn reads_raw_changes() {
        let raw = b":100644 120000 aa bb M\0a b\0:000000 100644 cc dd A\0c/d\0";
        let change = |mode: &str, old: &str, blob: &str, path: &str| Change {
            mode: mode.into(),
            old: old.into(),
            blob: blob.into(),
            path: path.into(),
        };
        let expected = [change("120000", "aa", "bb", "a b"), change("100644", "cc", "dd", "c/d")];
        assert_eq!(parse_raw(raw), expected);
        assert_eq!(parse_raw(b""), []);
    }

    #[test]
    fn links_that_lead_out_are_known_by_their_words() {
        for (path, target, out) in [
            ("a", "/etc/passwd", true),
            ("a", "../x", true),
            ("a/b", "../x", false),
            ("a/b", "../../x", true),
            ("a/b/c", "../../x/../..", true),
            ("a", "b/./c", false),
            ("a", ".git/config", true),
            ("a", "sub/.GIT/hooks", true),
        ] {
            assert_eq!(leads_out(path, target.as_bytes()), out, "{path} -> {target}");
        }
    }

    #[test]
    fn new_secrets_are_found_and_moved_ones_are_not() {
        // Put together here, so that this file holds none.
        let key = ["ghs", "_123_ey.J0eXAi.OiJKV1Qi", "LCJhbGciOiJIUzI1"].concat();
        let added = format!("--- a/x\n+++ b/dir/x\n@@ -1 +1 @@\n-old\n+key = {key}\n");
        let why = find_secret(added.as_bytes(), None).unwrap();
        assert!(why.contains("dir/x") && why.contains("GitHub") && !why.contains(&key), "{why}");
        let moved = format!("+++ b/x\n-key={key}\n+key = {key}\n {key}\n");
        assert_eq!(find_secret(moved.as_bytes(), None), None);
        let pem = ["+-----BEGIN RSA PRIV", "ATE KEY-----"].concat();
        assert!(find_secret(pem.as_bytes(), None).is_some());
        let plus = format!("+++ b/x\n+++ {key}\n");
        assert!(find_secret(plus.as_bytes(), None).is_some());
        assert_eq!(find_secret(b"+++ b/x\n+nothing of sk-this or ghp_short kind", None), None);
        let own = SecretString::from("opaque-value-1".to_owned());
        assert!(find_secret(b"+x opaque-value-1 y", Some(&own)).is_some());
    }
}
