//! Repositories that git itself keeps: bare ones in a temporary folder, made by `git fast-import` with fixed
//! dates, so that the same commit ids arise every time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Commit, FIRST_COMMIT, GROUPS};
use crate::SimError;
use crate::config::Repository;
use crate::fixture;

/// All of them. The folder goes when this goes.
pub(crate) struct Hosted {
    root: TempDir,
    exec_path: PathBuf,
}

/// A git command that reads no configuration but the repository's and inherits nothing.
fn command() -> Command {
    let mut command = Command::new("git");
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

fn failed(what: &str, why: impl std::fmt::Display) -> SimError {
    SimError::Git(format!("{what}: {why}"))
}

fn run(what: &str, command: &mut Command) -> Result<String, SimError> {
    let output = command.output().map_err(|error| failed(what, error))?;
    if !output.status.success() {
        return Err(failed(what, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

impl Hosted {
    /// Makes every repository. Blocks for some milliseconds each.
    pub(crate) fn create(repositories: &[Repository]) -> Result<Self, SimError> {
        let exec_path = PathBuf::from(run("git --exec-path", command().arg("--exec-path"))?);
        let root = tempfile::Builder::new()
            .prefix("steadfast-sim-")
            .tempdir()
            .map_err(|error| failed("temporary folder", error))?;
        let repos = Hosted { root, exec_path };
        for repository in repositories {
            repos.create_one(repository)?;
        }
        Ok(repos)
    }

    fn create_one(&self, repository: &Repository) -> Result<(), SimError> {
        let path = self.path(&repository.owner, &repository.name);
        let branch = format!("--initial-branch={}", repository.default_branch);
        run("git init", command().args(["init", "--quiet", "--bare", "--template=", &branch]).arg(&path))?;
        for (key, value) in [
            ("http.receivepack", "true"),
            ("uploadpack.allowFilter", "true"),
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
        ] {
            run("git config", self.at(&path).args(["config", key, value]))?;
        }
        let mut import = self.at(&path);
        import.args(["fast-import", "--quiet"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = import.spawn().map_err(|error| failed("git fast-import", error))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(&history(&repository.default_branch))
                .map_err(|error| failed("git fast-import", error))?;
        }
        let output = child.wait_with_output().map_err(|error| failed("git fast-import", error))?;
        if !output.status.success() {
            return Err(failed("git fast-import", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(())
    }

    fn at(&self, path: &Path) -> Command {
        let mut command = command();
        command.arg("--git-dir").arg(path);
        command
    }

    /// Where a repository is.
    pub(crate) fn path(&self, owner: &str, name: &str) -> PathBuf {
        self.root.path().join(owner).join(format!("{name}.git"))
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn exec_path(&self) -> &Path {
        &self.exec_path
    }

    /// All branches with their commits. Blocks.
    pub(crate) fn branches(&self, owner: &str, name: &str) -> Result<Vec<(String, String)>, SimError> {
        let mut command = self.at(&self.path(owner, name));
        command.args(["for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/heads/"]);
        let listing = run("git for-each-ref", &mut command)?;
        let pairs = listing.lines().filter_map(|line| line.rsplit_once(' '));
        Ok(pairs.map(|(name, sha)| (name.to_owned(), sha.to_owned())).collect())
    }

    /// The commit id that `rev` names, if it names one. Blocks.
    pub(crate) fn resolve(&self, owner: &str, name: &str, rev: &str) -> Option<String> {
        let mut command = self.at(&self.path(owner, name));
        command.args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{rev}^{{commit}}")]);
        run("git rev-parse", &mut command).ok()
    }

    /// Commits that are in `head` and not in `base`. Blocks.
    pub(crate) fn ahead(&self, owner: &str, name: &str, base: &str, head: &str) -> Result<u64, SimError> {
        let mut command = self.at(&self.path(owner, name));
        command.args(["rev-list", "--count", "--end-of-options", &format!("{base}..{head}")]);
        let count = run("git rev-list", &mut command)?;
        count.trim().parse().map_err(|error| failed("git rev-list", error))
    }

    /// A commit's tree, author, address, seconds, and message. Blocks.
    pub(crate) fn commit(&self, owner: &str, name: &str, sha: &str) -> Result<Commit, SimError> {
        let mut command = self.at(&self.path(owner, name));
        command.args(["show", "--no-patch", "--format=%T%n%P%n%an%n%ae%n%at%n%B", "--end-of-options", sha]);
        let text = run("git show", &mut command)?;
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default().to_owned();
        Ok(Commit {
            tree: next(),
            parents: next().split_whitespace().map(str::to_owned).collect(),
            author: next(),
            email: next(),
            at: next().parse().unwrap_or(0),
            message: lines.collect::<Vec<_>>().join("\n").trim_end().to_owned(),
        })
    }

    /// Sets a branch, or removes it. Blocks.
    pub(crate) fn set_branch(
        &self,
        owner: &str,
        name: &str,
        branch: &str,
        sha: Option<&str>,
    ) -> Result<(), SimError> {
        let mut command = self.at(&self.path(owner, name));
        let reference = format!("refs/heads/{branch}");
        match sha {
            Some(sha) => command.args(["update-ref", "--", &reference, sha]),
            None => command.args(["update-ref", "-d", "--", &reference]),
        };
        run("git update-ref", &mut command).map(drop)
    }

    /// A file's content at a revision. Blocks.
    pub(crate) fn file(&self, owner: &str, name: &str, rev: &str, path: &str) -> Result<String, SimError> {
        let mut command = self.at(&self.path(owner, name));
        command.args(["cat-file", "blob", &format!("{rev}:{path}")]);
        run("git cat-file", &mut command)
    }
}

/// The fixture's commits in fast-import's format: documents, functions, tests, and one that only
/// makes the history deeper.
fn history(branch: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, (message, belongs)) in GROUPS.iter().enumerate() {
        let at = FIRST_COMMIT + index as i64 * 86_400;
        let who = format!("Ada Fixture <ada@example.invalid> {at} +0000");
        out.extend_from_slice(
            format!(
                "commit refs/heads/{branch}\nauthor {who}\ncommitter {who}\ndata {}\n{message}\n",
                message.len()
            )
            .as_bytes(),
        );
        for (path, content) in fixture::files().iter().filter(|(path, _)| belongs(path)) {
            let head = format!("M 100644 inline {path}\ndata {}\n", content.len());
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(content.as_bytes());
            out.push(b'\n');
        }
        out.push(b'\n');
    }
    out.extend_from_slice(b"done\n");
    out
}
