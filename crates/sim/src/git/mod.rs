//! What the simulated GitHub hosts: repositories that git itself keeps, or the same in memory, where a
//! simulation is to start no process.

pub(crate) mod backend;
mod hosted;
mod memory;

use std::path::{Path, PathBuf};

use hosted::Hosted;
pub(crate) use memory::Memory;
pub use memory::{GitFailure, Push, Snapshot};

use crate::SimError;
use crate::config::{GitForm, Repository};

/// When the fixture's first commit was made: 2025-01-06T09:00:00Z.
const FIRST_COMMIT: i64 = 1_736_154_000;

/// Whether a path is among a commit's files.
type Belongs = fn(&str) -> bool;

/// The fixture's commits, and which files each brings.
const GROUPS: [(&str, Belongs); 4] = [
    ("Say what this is and how to work on it", |path| path.ends_with(".md")),
    ("Add the functions", |path| path.starts_with("lib/")),
    ("Add a runner for tests", |path| path == "test.sh"),
    ("Add the tests", |path| path.starts_with("tests/")),
];

/// What a commit says of itself.
pub(crate) struct Commit {
    pub(crate) tree: String,
    pub(crate) parents: Vec<String>,
    pub(crate) author: String,
    pub(crate) email: String,
    /// Seconds since the Unix epoch.
    pub(crate) at: i64,
    pub(crate) message: String,
}

/// All hosted repositories.
pub(crate) enum Repos {
    Hosted(Hosted),
    Memory(Memory),
}

impl Repos {
    /// Makes every repository. Git's own take some milliseconds each.
    pub(crate) fn create(form: GitForm, repositories: &[Repository]) -> Result<Self, SimError> {
        Ok(match form {
            GitForm::Git => Repos::Hosted(Hosted::create(repositories)?),
            GitForm::Memory => Repos::Memory(Memory::create(repositories)),
        })
    }

    /// Whether to ask it means to start a process and wait for it.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self, Repos::Hosted(_))
    }

    /// Those that are in memory.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        match self {
            Repos::Hosted(_) => None,
            Repos::Memory(memory) => Some(memory),
        }
    }

    /// Where a repository is. In memory it is nowhere.
    pub(crate) fn path(&self, owner: &str, name: &str) -> PathBuf {
        match self {
            Repos::Hosted(hosted) => hosted.path(owner, name),
            Repos::Memory(_) => Path::new(owner).join(format!("{name}.git")),
        }
    }

    /// The folder of all of them. In memory there is none.
    pub(crate) fn root(&self) -> &Path {
        match self {
            Repos::Hosted(hosted) => hosted.root(),
            Repos::Memory(_) => Path::new(""),
        }
    }

    /// Where git has its programs; in memory there is none that could answer.
    pub(crate) fn exec_path(&self) -> Option<&Path> {
        match self {
            Repos::Hosted(hosted) => Some(hosted.exec_path()),
            Repos::Memory(_) => None,
        }
    }

    /// All branches with their commits.
    pub(crate) fn branches(&self, owner: &str, name: &str) -> Result<Vec<(String, String)>, SimError> {
        match self {
            Repos::Hosted(hosted) => hosted.branches(owner, name),
            Repos::Memory(memory) => memory.branches(owner, name),
        }
    }

    /// The commit id that `rev` names, if it names one.
    pub(crate) fn resolve(&self, owner: &str, name: &str, rev: &str) -> Option<String> {
        match self {
            Repos::Hosted(hosted) => hosted.resolve(owner, name, rev),
            Repos::Memory(memory) => memory.resolve(owner, name, rev),
        }
    }

    /// How many commits are in `head` and not in `base`.
    pub(crate) fn ahead(&self, owner: &str, name: &str, base: &str, head: &str) -> Result<u64, SimError> {
        match self {
            Repos::Hosted(hosted) => hosted.ahead(owner, name, base, head),
            Repos::Memory(memory) => memory.ahead(owner, name, base, head),
        }
    }

    /// What a commit says of itself.
    pub(crate) fn commit(&self, owner: &str, name: &str, sha: &str) -> Result<Commit, SimError> {
        match self {
            Repos::Hosted(hosted) => hosted.commit(owner, name, sha),
            Repos::Memory(memory) => memory.commit(owner, name, sha),
        }
    }

    /// Sets a branch, or removes it.
    pub(crate) fn set_branch(
        &self,
        owner: &str,
        name: &str,
        branch: &str,
        sha: Option<&str>,
    ) -> Result<(), SimError> {
        match self {
            Repos::Hosted(hosted) => hosted.set_branch(owner, name, branch, sha),
            Repos::Memory(memory) => memory.set_branch(owner, name, branch, sha),
        }
    }

    /// A file's content at a revision.
    pub(crate) fn file(&self, owner: &str, name: &str, rev: &str, path: &str) -> Result<String, SimError> {
        match self {
            Repos::Hosted(hosted) => hosted.file(owner, name, rev, path),
            Repos::Memory(memory) => memory.file(owner, name, rev, path),
        }
    }
}
