//! How git is run, and what may be pushed: `[agent.git]`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `[agent.git]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSettings {
    /// The git program. Default `git`, found in `PATH`.
    pub program: PathBuf,
    /// Longest time of a fetch or a checkout. Default 10 minutes.
    #[serde(with = "humantime_serde")]
    pub fetch_timeout: Duration,
    /// Longest time of a push. Default 5 minutes.
    #[serde(with = "humantime_serde")]
    pub push_timeout: Duration,
    /// Longest time of any other call of git. Default 2 minutes.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Largest file that git may write, a fetched pack among them. Default 4 GB.
    pub max_file_bytes: ByteSize,
    /// Whether a change below `.github/` may be pushed. Default false.
    pub allow_workflows: bool,
    /// Most files that a pushed change may touch. Default 100.
    pub max_changed_files: u32,
    /// Largest change that is pushed or kept for a resume, as a patch. Default 1 MB.
    pub max_patch_bytes: ByteSize,
}

/// Who stands in a commit as author and committer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name, such as `steadfast[bot]`.
    pub name: String,
    /// The address, such as `1234+steadfast[bot]@users.noreply.github.com`.
    pub email: String,
}
