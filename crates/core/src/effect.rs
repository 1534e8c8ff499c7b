//! What the outside world sees of a job, and the marker by which it is found again.

use serde::{Deserialize, Serialize};

use crate::job::JobId;

/// One effect of one job. The same key is the same effect, whoever tries it and however often.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKey {
    /// The one comment that is edited as the job goes.
    Progress,
    /// A comment that the model asked for, by the tool call's position in the job (from 0).
    Comment(u32),
    /// The branch on the remote.
    Branch,
    /// The pull request.
    PullRequest,
}

impl EffectKey {
    /// A short name for markers and logs: `progress`, `comment-3`, `branch`, `pull-request`.
    pub fn name(&self) -> String {
        match self {
            EffectKey::Progress => "progress".into(),
            EffectKey::Comment(position) => format!("comment-{position}"),
            EffectKey::Branch => "branch".into(),
            EffectKey::PullRequest => "pull-request".into(),
        }
    }
}

/// The hidden HTML comment that identifies an effect of a job within a text on GitHub.
///
/// The id is written so that it cannot end the comment: everything but letters, digits, `.` and
/// `_` is percent-encoded.
pub fn marker(job: &JobId, key: &EffectKey) -> String {
    let mut id = String::with_capacity(job.as_str().len());
    for byte in job.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') {
            id.push(char::from(byte));
        } else {
            id.push_str(&format!("%{byte:02x}"));
        }
    }
    format!("<!-- steadfast job={id} effect={} -->", key.name())
}

/// What stands in the world once an effect is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectOutcome {
    /// A comment.
    Comment {
        /// GitHub's id of it.
        id: u64,
        /// Its page.
        url: String,
    },
    /// A branch.
    Branch {
        /// Its name, without `refs/heads/`.
        name: String,
        /// The commit at its head.
        sha: String,
    },
    /// A pull request.
    PullRequest {
        /// Its number.
        number: u64,
        /// Its page.
        url: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_id_cannot_end_the_marker() {
        let id = JobId::new("--><script>").unwrap();
        let text = marker(&id, &EffectKey::Comment(3));
        assert_eq!(text, "<!-- steadfast job=%2d%2d%3e%3cscript%3e effect=comment-3 -->");
        assert_eq!(text.matches("-->").count(), 1);
    }

    #[test]
    fn no_marker_is_part_of_another() {
        let job = JobId::new("a").unwrap();
        let one = marker(&job, &EffectKey::Comment(1));
        let twelve = marker(&job, &EffectKey::Comment(12));
        assert!(!twelve.contains(&one) && !one.contains(&twelve));
        assert!(!marker(&JobId::new("ab").unwrap(), &EffectKey::Comment(1)).contains(&one));
    }
}
