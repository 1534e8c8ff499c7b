//! Repositories in memory: commits that hold all their files, and branches. What git over HTTP would
//! have answered, [`World::git_fetch`] and [`World::git_push`] answer, with the same faults, rights and
//! latency, and in git's own words where it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::{Commit, FIRST_COMMIT, GROUPS};
use crate::SimError;
use crate::config::{Level, Repository};
use crate::faults::{Fault, Operation};
use crate::fixture;
use crate::github::{RepoName, git_rights, notice_branches};
use crate::world::World;

/// A commit, with all its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id: of what is in it, so that the same commit made twice is one.
    pub sha: String,
    /// The commit before it.
    pub parent: Option<String>,
    /// Files by path.
    pub files: Arc<BTreeMap<String, String>>,
    /// What it says of itself.
    pub message: String,
    author: String,
    email: String,
    at: i64,
}

/// A commit to be made.
pub(crate) struct NewCommit {
    pub(crate) parent: String,
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) author: String,
    pub(crate) email: String,
    pub(crate) message: String,
}

/// What git would have said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct GitFailure {
    /// On its standard error.
    pub said: String,
}

impl GitFailure {
    fn new(said: impl Into<String>) -> GitFailure {
        GitFailure { said: said.into() }
    }
}

/// See the module.
pub(crate) struct Memory(Mutex<BTreeMap<(String, String), Kept>>);

#[derive(Default)]
struct Kept {
    branches: BTreeMap<String, String>,
    commits: BTreeMap<String, Snapshot>,
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn tree(files: &BTreeMap<String, String>) -> String {
    let parts: Vec<&str> = files.iter().flat_map(|(path, content)| [path.as_str(), content]).collect();
    digest(&parts)
}

impl Kept {
    fn of(repository: &Repository) -> Kept {
        let mut kept = Kept::default();
        let (mut files, mut parent) = (BTreeMap::new(), None);
        for (at, (message, belongs)) in (FIRST_COMMIT..).step_by(86_400).zip(GROUPS) {
            let new = fixture::files().iter().filter(|(path, _)| belongs(path));
            files.extend(new.map(|(path, content)| ((*path).to_owned(), (*content).to_owned())));
            let (author, email) = ("Ada Fixture".to_owned(), "ada@example.invalid".to_owned());
            let commit = NewCommit {
                parent: parent.clone().unwrap_or_default(),
                files: files.clone(),
                author,
                email,
                message: message.to_owned(),
            };
            parent = Some(kept.add(commit, at));
        }
        kept.branches.extend(parent.map(|head| (repository.default_branch.clone(), head)));
        kept
    }

    fn add(&mut self, new: NewCommit, at: i64) -> String {
        let NewCommit { parent, files, author, email, message } = new;
        let sha = digest(&[&tree(&files), &parent, &author, &email, &at.to_string(), &message]);
        let parent = (!parent.is_empty()).then_some(parent);
        let files = Arc::new(files);
        let snapshot = Snapshot { sha: sha.clone(), parent, files, message, author, email, at };
        self.commits.insert(sha.clone(), snapshot);
        sha
    }

    fn find(&self, rev: &str) -> Option<&Snapshot> {
        let branch = rev.strip_prefix("refs/heads/").unwrap_or(rev);
        self.commits.get(self.branches.get(branch).map_or(rev, String::as_str))
    }

    fn ancestors<'a>(&'a self, sha: &'a str) -> BTreeSet<&'a str> {
        let parent = |sha: &&'a str| self.commits.get(*sha)?.parent.as_deref();
        std::iter::successors(Some(sha), parent).collect()
    }
}

impl Memory {
    pub(super) fn create(repositories: &[Repository]) -> Memory {
        let kept = |repository: &Repository| {
            ((repository.owner.clone(), repository.name.clone()), Kept::of(repository))
        };
        Memory(Mutex::new(repositories.iter().map(kept).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, owner: &str, name: &str, ask: impl FnOnce(&mut Kept) -> T) -> Result<T, SimError> {
        let mut all = self.lock();
        let kept = all.get_mut(&(owner.to_owned(), name.to_owned()));
        kept.map(ask).ok_or_else(|| SimError::Git(format!("there is no repository {owner}/{name}")))
    }

    pub(super) fn branches(&self, owner: &str, name: &str) -> Result<Vec<(String, String)>, SimError> {
        self.with(owner, name, |kept| kept.branches.clone().into_iter().collect())
    }

    pub(super) fn resolve(&self, owner: &str, name: &str, rev: &str) -> Option<String> {
        self.with(owner, name, |kept| kept.find(rev).map(|commit| commit.sha.clone())).ok().flatten()
    }

    pub(super) fn ahead(&self, owner: &str, name: &str, base: &str, head: &str) -> Result<u64, SimError> {
        self.with(owner, name, |kept| kept.ancestors(head).difference(&kept.ancestors(base)).count() as u64)
    }

    pub(super) fn commit(&self, owner: &str, name: &str, sha: &str) -> Result<Commit, SimError> {
        let found = self.with(owner, name, |kept| {
            kept.find(sha).map(|commit| Commit {
                tree: tree(&commit.files),
                parents: commit.parent.clone().into_iter().collect(),
                author: commit.author.clone(),
                email: commit.email.clone(),
                at: commit.at,
                message: commit.message.clone(),
            })
        })?;
        found.ok_or_else(|| SimError::Git(format!("there is no commit {sha}")))
    }

    pub(super) fn set_branch(
        &self,
        owner: &str,
        name: &str,
        branch: &str,
        sha: Option<&str>,
    ) -> Result<(), SimError> {
        self.with(owner, name, |kept| match sha {
            Some(sha) => drop(kept.branches.insert(branch.to_owned(), sha.to_owned())),
            None => drop(kept.branches.remove(branch)),
        })
    }

    pub(super) fn file(&self, owner: &str, name: &str, rev: &str, path: &str) -> Result<String, SimError> {
        let found = self.with(owner, name, |kept| kept.find(rev)?.files.get(path).cloned())?;
        found.ok_or_else(|| SimError::Git(format!("there is no {path} at {rev}")))
    }

    /// Makes the commit and puts it at the branch's head, if that is `expected`.
    fn push(
        &self,
        repo: &RepoName,
        branch: &str,
        expected: Option<&str>,
        new: NewCommit,
    ) -> GitResult<String> {
        let pushed = self.with(&repo.owner, &repo.name, |kept| {
            if kept.branches.get(branch).map(String::as_str) != expected {
                return Err(GitFailure::new("! [rejected] (stale info)"));
            }
            let at = kept.commits.get(&new.parent).map_or(FIRST_COMMIT, |parent| parent.at);
            let sha = kept.add(new, at);
            kept.branches.insert(branch.to_owned(), sha.clone());
            Ok(sha)
        });
        pushed.unwrap_or_else(|_| Err(GitFailure::new("remote: Repository not found.")))
    }
}

type GitResult<T> = Result<T, GitFailure>;

/// Who commits what, on which commit.
#[derive(Clone, Debug)]
pub struct Push<'a> {
    /// The branch.
    pub branch: &'a str,
    /// The commit that must be its head now; `None`: it must not be there.
    pub expected: Option<&'a str>,
    /// The commit to build on.
    pub parent: &'a str,
    /// All files.
    pub files: BTreeMap<String, String>,
    /// The author's name and address.
    pub author: (&'a str, &'a str),
    /// The commit's message.
    pub message: &'a str,
}

impl World {
    /// What git would fetch from a repository in memory: `what` is a commit or `refs/heads/...`.
    /// Where there is no such branch or commit, git says so.
    pub async fn git_fetch(&self, owner: &str, name: &str, what: &str, token: &str) -> GitResult<Snapshot> {
        let repo = RepoName { owner: owner.to_owned(), name: name.to_owned() };
        self.git(Operation::GitFetch, &repo, token, |memory| {
            let found = memory.with(owner, name, |kept| kept.find(what).cloned());
            let found = found.map_err(|_| GitFailure::new("remote: Repository not found."))?;
            found.ok_or_else(|| GitFailure::new(format!("fatal: couldn't find remote ref {what}")))
        })
        .await
    }

    /// The commit at a branch's head, if there is such a branch.
    pub async fn git_head(
        &self,
        owner: &str,
        name: &str,
        branch: &str,
        token: &str,
    ) -> GitResult<Option<String>> {
        let repo = RepoName { owner: owner.to_owned(), name: name.to_owned() };
        self.git(Operation::GitFetch, &repo, token, |memory| {
            let found = memory.with(owner, name, |kept| kept.branches.get(branch).cloned());
            found.map_err(|_| GitFailure::new("remote: Repository not found."))
        })
        .await
    }

    /// Commits and pushes to a repository in memory. Answers the commit's id.
    pub async fn git_push(&self, owner: &str, name: &str, push: Push<'_>, token: &str) -> GitResult<String> {
        let repo = RepoName { owner: owner.to_owned(), name: name.to_owned() };
        let new = NewCommit {
            parent: push.parent.to_owned(),
            files: push.files,
            author: push.author.0.to_owned(),
            email: push.author.1.to_owned(),
            message: push.message.to_owned(),
        };
        self.git(Operation::GitPush, &repo, token, |memory| {
            memory.push(&repo, push.branch, push.expected, new)
        })
        .await
    }

    /// The id that the commit of [`World::git_push`] has, before it is pushed.
    pub fn git_commit_id(&self, owner: &str, name: &str, push: &Push<'_>) -> String {
        let at = self.repos.memory().map(|memory| {
            let parent = |kept: &mut Kept| kept.commits.get(push.parent).map(|parent| parent.at);
            memory.with(owner, name, parent).ok().flatten()
        });
        let at = at.flatten().unwrap_or(FIRST_COMMIT).to_string();
        digest(&[&tree(&push.files), push.parent, push.author.0, push.author.1, &at, push.message])
    }

    /// One exchange with the git server: faults before the work, the work, faults after it.
    async fn git<T>(
        &self,
        operation: Operation,
        repo: &RepoName,
        token: &str,
        work: impl FnOnce(&Memory) -> GitResult<T>,
    ) -> GitResult<T> {
        let lost = || GitFailure::new("error: RPC failed; curl 56 Recv failure: Connection reset by peer");
        let refused = |code: u16| GitFailure::new(format!("fatal: The requested URL returned error: {code}"));
        let fault = self.draw_fault(operation);
        match &fault {
            Some(Fault::Hang) => return pending().await,
            Some(Fault::Reset) => return Err(lost()),
            Some(Fault::Status { code, .. }) => return Err(refused(*code)),
            Some(Fault::PrimaryLimit { .. }) => return Err(refused(429)),
            Some(
                Fault::DoneButLost
                | Fault::CutBody { .. }
                | Fault::SilentAfter { .. }
                | Fault::SlowStream { .. },
            )
            | None => {}
        }
        let level = if operation == Operation::GitPush { Level::Write } else { Level::Read };
        git_rights(self, repo, token, level).map_err(GitFailure::new)?;
        self.pause(self.config().latency.git).await;
        let Some(memory) = self.repos.memory() else {
            return Err(GitFailure::new("fatal: these repositories are not in memory"));
        };
        let answer = work(memory);
        if level == Level::Write {
            notice_branches(self, repo).await;
        }
        match fault {
            Some(Fault::DoneButLost | Fault::CutBody { .. }) => Err(lost()),
            Some(Fault::SilentAfter { .. }) => pending().await,
            _ => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use steadfast_core::time::Timestamp;

    use super::*;
    use crate::config::{GitForm, WorldConfig};
    use crate::faults::{FaultRule, Target};

    const TOKEN: &str = "ghp_simulated0123456789abcdefghijklmnop";

    fn world() -> Arc<World> {
        let mut config = WorldConfig::new(1, Timestamp::from_secs(1_760_000_000));
        config.git = GitForm::Memory;
        config.github.personal_token = Some(TOKEN.to_owned());
        World::new(config).unwrap()
    }

    fn push<'a>(base: &'a Snapshot, expected: Option<&'a str>, word: &str) -> Push<'a> {
        let mut files = (*base.files).clone();
        files.insert("README.md".to_owned(), word.to_owned());
        let author = ("A", "a@example.invalid");
        Push { branch: "b", expected, parent: &base.sha, files, author, message: "m" }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pushed_stands_and_is_the_same_commit_again() {
        let world = world();
        let base = world.git_fetch("acme", "shell-tools", "refs/heads/main", TOKEN).await.unwrap();
        let first = push(&base, None, "one");
        let sha = world.git_commit_id("acme", "shell-tools", &first);
        assert_eq!(world.git_push("acme", "shell-tools", first, TOKEN).await, Ok(sha.clone()));
        assert_eq!(world.git_head("acme", "shell-tools", "b", TOKEN).await, Ok(Some(sha.clone())));
        let stale = world.git_push("acme", "shell-tools", push(&base, None, "two"), TOKEN).await;
        assert!(stale.unwrap_err().said.contains("stale info"));
        let again = world.git_push("acme", "shell-tools", push(&base, Some(&sha), "one"), TOKEN).await;
        assert_eq!(again, Ok(sha.clone()));
        let branches = world.records().branches;
        assert_eq!(branches.iter().map(|one| one.sha.as_str()).collect::<Vec<_>>(), [sha.as_str()]);
        assert_eq!(world.repos.ahead("acme", "shell-tools", &base.sha, &sha).unwrap(), 1);
        assert_eq!(world.file_at("acme", "shell-tools", "b", "README.md").unwrap(), "one");
    }

    #[tokio::test(start_paused = true)]
    async fn faults_and_wrong_tokens_are_told_in_the_words_of_git() {
        let world = world();
        let fetch = || world.git_fetch("acme", "shell-tools", "refs/heads/main", TOKEN);
        let refused = world.git_fetch("acme", "shell-tools", "refs/heads/main", "ghp_wrong").await;
        assert!(refused.unwrap_err().said.contains("Authentication failed"));
        let missing = world.git_fetch("acme", "shell-tools", "refs/heads/none", TOKEN).await;
        assert!(missing.unwrap_err().said.contains("couldn't find remote ref"));
        world.fault(FaultRule::next(Target::Operation(Operation::GitFetch), 1, Fault::html_502()));
        assert!(fetch().await.unwrap_err().said.contains("502"));
        assert!(fetch().await.is_ok());
        world.fault(FaultRule::next(Target::Operation(Operation::GitPush), 1, Fault::DoneButLost));
        let base = fetch().await.unwrap();
        let lost = world.git_push("acme", "shell-tools", push(&base, None, "one"), TOKEN).await;
        assert!(lost.unwrap_err().said.contains("Connection reset"));
        assert!(world.git_head("acme", "shell-tools", "b", TOKEN).await.unwrap().is_some());
    }
}
