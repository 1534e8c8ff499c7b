//! A job as the queue brings it: parsed once, at the edge, and trusted from there on.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::time::Timestamp;

/// Most characters of a job id.
pub const MAX_JOB_ID: usize = 128;

/// The highest priority, and below zero the lowest.
pub const MAX_PRIORITY: i64 = 9;

/// A job's name: 1 to 128 visible ASCII characters. Safe in a key, not in a path or a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// Parses an id.
    pub fn new(id: impl Into<String>) -> Result<Self, JobError> {
        let id = id.into();
        if id.is_empty() || id.len() > MAX_JOB_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(JobError::Id);
        }
        Ok(JobId(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Eight lower-case hexadecimal characters that stand for this job in a branch's name: the
    /// beginning of a UUID, else of the id's SHA-256, since ids like `test-1234` begin alike.
    pub fn short(&self) -> String {
        let head = self.0.get(..8).unwrap_or("");
        let is_uuid = self.0.len() == 36 && self.0.matches('-').count() == 4;
        if is_uuid && head.bytes().all(|b| b.is_ascii_hexdigit()) {
            return head.to_ascii_lowercase();
        }
        use sha2::Digest;
        let digest = sha2::Sha256::digest(self.0.as_bytes());
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for JobId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JobId::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The id is empty, too long or not visible ASCII.
    #[error("id must be 1 to {MAX_JOB_ID} visible ASCII characters")]
    Id,
    /// Not JSON, or not the shape of a job.
    #[error("not a job: {0}")]
    Shape(String),
    /// More bytes than `queue.max_job_bytes`.
    #[error("{actual} bytes, more than queue.max_job_bytes ({limit})")]
    TooLarge {
        /// Bytes of the entry.
        actual: usize,
        /// The cap.
        limit: usize,
    },
    /// A name that GitHub or git would not have, and that must not reach a URL or a command line.
    #[error("{field} is not a name that it could be: {value:?}")]
    Name {
        /// Which field.
        field: &'static str,
        /// Its value, at most 100 characters.
        value: String,
    },
}

/// One unit of work: an issue to be solved in a repository. Field names on the wire are camelCase;
/// fields that we don't know are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job's name; the same id twice is one job.
    pub id: JobId,
    /// GitHub App installation; 0 = none: the personal token is used.
    pub installation_id: u64,
    /// Owner of the repository.
    pub repo_owner: String,
    /// The repository, without its owner.
    pub repo_name: String,
    /// The commit to start from; the base branch's head if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_sha: Option<String>,
    /// The base branch; the repository's default branch if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_name: Option<String>,
    /// What made the job: `label`, `comment`, ...; free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_type: Option<String>,
    /// The webhook's whole body: large, never sent to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_payload: Option<Value>,
    /// Free text: `bug_fix`, `refactor`, `documentation`, `autonomous`, ...
    pub task_type: String,
    /// What to do.
    pub task_params: TaskParams,
    /// The producer's own status; the queue's states are in the status hash.
    pub status: String,
    /// When the producer made it, ISO 8601; kept as it came.
    pub created_at: String,
    /// Whatever else the producer sent.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the job is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskParams {
    /// The issue's number; without one nothing is commented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_number: Option<u64>,
    /// The issue's title; written by a stranger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_title: Option<String>,
    /// The issue's text; written by a stranger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_body: Option<String>,
    /// Further words of the one who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Value>,
    /// Whatever else the producer sent.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Job {
    /// Reads a queue entry, checking every name that will reach a URL, a path or a command line.
    pub fn parse(json: &str, max_bytes: usize) -> Result<Self, JobError> {
        if json.len() > max_bytes {
            return Err(JobError::TooLarge { actual: json.len(), limit: max_bytes });
        }
        let job: Job = serde_json::from_str(json).map_err(|e| JobError::Shape(e.to_string()))?;
        job.check()?;
        Ok(job)
    }

    /// Checks what [`Job::parse`] checks, for a job made in the program.
    pub fn check(&self) -> Result<(), JobError> {
        let bad = |field, value: &str| JobError::Name { field, value: value.chars().take(100).collect() };
        for (field, name) in [("repoOwner", &self.repo_owner), ("repoName", &self.repo_name)] {
            if !is_github_name(name) {
                return Err(bad(field, name));
            }
        }
        if let Some(name) = self.ref_name.as_deref().filter(|name| !is_git_ref(name)) {
            return Err(bad("refName", name));
        }
        if let Some(sha) = self.commit_sha.as_deref().filter(|sha| !is_commit(sha)) {
            return Err(bad("commitSha", sha));
        }
        Ok(())
    }

    /// `owner/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.repo_owner, self.repo_name)
    }

    /// Whose turn it takes: the owner, as GitHub compares names.
    pub fn owner_key(&self) -> String {
        self.repo_owner.to_ascii_lowercase()
    }

    /// The repository, as GitHub compares names.
    pub fn repository_key(&self) -> String {
        self.repository().to_ascii_lowercase()
    }

    /// How urgent it is: `priority`, from -9 (can wait) to 9 (before all others); beyond that, the
    /// nearer of the two. Absent, or anything but an integer: 0, since other producers may mean
    /// something else by the word.
    pub fn priority(&self) -> i8 {
        let asked = self.extra.get("priority").and_then(Value::as_i64).unwrap_or(0);
        i8::try_from(asked.clamp(-MAX_PRIORITY, MAX_PRIORITY)).unwrap_or(0)
    }

    /// Not to be begun before then: `notBefore`, RFC 3339. Anything else is no wish.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.extra.get("notBefore")?.as_str()?.parse().ok()
    }

    /// What it must be alone with while it is alive: its issue, if `unique` is true (`by_default`
    /// where it says nothing). A job without an issue is never unique.
    pub fn unique_key(&self, by_default: bool) -> Option<String> {
        let wanted = self.extra.get("unique").and_then(Value::as_bool).unwrap_or(by_default);
        let issue = self.task_params.issue_number.filter(|_| wanted)?;
        Some(format!("{}#{issue}", self.repository_key()))
    }
}

/// A GitHub owner or repository name.
fn is_github_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 100 && name.bytes().all(allowed) && name != "." && name != ".."
}

/// A branch or tag name that git would take (`git check-ref-format`), within what we accept.
pub fn is_git_ref(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['-', '/', '.'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("//")
        && !name.contains("@{")
        && name != "@"
        && !name.chars().any(forbidden)
        && name.split('/').all(|part| !part.starts_with('.') && !part.ends_with(".lock"))
}

/// A full or abbreviated commit id.
fn is_commit(sha: &str) -> bool {
    (7..=64).contains(&sha.len()) && sha.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = r#"{"id":"test-123","installationId":0,"repoOwner":"test",
        "repoName":"test","taskType":"autonomous","status":"pending",
        "taskParams":{"issueTitle":"Test","issueBody":"List files"},
        "createdAt":"2025-10-09T00:00:00.000Z"}"#;

    #[test]
    fn reads_the_seed_systems_entry() {
        let job = Job::parse(SEED, 1 << 20).unwrap();
        assert_eq!(job.id.as_str(), "test-123");
        assert_eq!(job.task_params.issue_title.as_deref(), Some("Test"));
        assert_eq!(job.repository(), "test/test");
    }

    #[test]
    fn keeps_unknown_fields() {
        let json = SEED.replacen('{', r#"{"later":[1],"#, 1).replacen(
            r#""taskParams":{"#,
            r#""taskParams":{"mood":"x","#,
            1,
        );
        let job = Job::parse(&json, 1 << 20).unwrap();
        let again = serde_json::to_value(&job).unwrap();
        assert_eq!(again["later"], serde_json::json!([1]));
        assert_eq!(again["taskParams"]["mood"], "x");
    }

    #[test]
    fn wishes_for_the_queue_are_read_leniently() {
        let job = |wish: &str| {
            let json = SEED.replacen('{', &format!("{{{wish}"), 1);
            Job::parse(&json.replace(r#""taskParams":{"#, r#""taskParams":{"issueNumber":7,"#), 1 << 20)
                .unwrap()
        };
        for (wish, priority) in
            [("", 0), ("\"priority\":3,", 3), ("\"priority\":-99,", -9), ("\"priority\":\"high\",", 0)]
        {
            assert_eq!(job(wish).priority(), priority, "{wish}");
        }
        let later = Timestamp::from_millis(1_760_000_000_000);
        assert_eq!(job(&format!("\"notBefore\":\"{later}\",")).not_before(), Some(later));
        assert_eq!(job("\"notBefore\":\"soon\",").not_before(), None);
        assert_eq!(job("").unique_key(true).as_deref(), Some("test/test#7"));
        assert_eq!(job("").unique_key(false), None);
        assert_eq!(job("\"unique\":true,").unique_key(false).as_deref(), Some("test/test#7"));
        assert_eq!(job("\"unique\":false,").unique_key(true), None);
        assert_eq!(Job::parse(SEED, 1 << 20).unwrap().unique_key(true), None, "without an issue");
    }

    #[test]
    fn refuses_what_must_not_reach_a_path_or_a_url() {
        for (field, from, to) in [
            ("repoOwner", r#""repoOwner":"test""#, r#""repoOwner":"..""#),
            ("repoName", r#""repoName":"test""#, r#""repoName":"a/b""#),
            ("repoName", r#""repoName":"test""#, r#""repoName":"""#),
            ("refName", r#""status""#, r#""refName":"--upload-pack=x","status""#),
            ("commitSha", r#""status""#, r#""commitSha":"HEAD~1","status""#),
        ] {
            let json = SEED.replace(from, to);
            match Job::parse(&json, 1 << 20) {
                Err(JobError::Name { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn says_which_field_is_missing() {
        let json = SEED.replace(r#""repoName":"test","#, "");
        let error = Job::parse(&json, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("repoName"), "{error}");
        let long = SEED.replace("test-123", &"x".repeat(129));
        assert!(Job::parse(&long, 1 << 20).unwrap_err().to_string().contains("128"));
        assert!(matches!(Job::parse(SEED, 10), Err(JobError::TooLarge { limit: 10, .. })));
    }

    #[test]
    fn ids_that_begin_alike_have_different_short_forms() {
        let short = |id: &str| JobId::new(id).unwrap().short();
        assert_eq!(short("3F2504E0-4F89-41D3-9A0C-0305E82C3301"), "3f2504e0");
        assert_ne!(short("test-1234"), short("test-1235"));
        assert_eq!(short("x").len(), 8);
    }
}
