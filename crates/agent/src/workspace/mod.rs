//! Workspaces: a job's checkout, its git directory beside it, and the tools that work on it.
//!
//! One folder a run, locked while in use: `work` (what tools and commands see), `git` (the real git
//! directory, which no command sees), `home`, `tmp` and `etc`. Whatever is done here runs on the
//! blocking pool.

mod command;
mod decoy;
mod room;
mod seam;
mod slot;
mod tidy;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use steadfast_core::chat::ToolCall;
use steadfast_core::failure::Failure;
use steadfast_core::job::JobId;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use crate::git::Published;
use crate::git::{self, GitSettings, Identity, Repository};
use crate::jail::{Jail, shorten};
use crate::tools::{Checked, Files, Stop, check_call};
pub use seam::{Checkout, Workshop};
use slot::Slot;

/// The longest that a tool other than a command may take.
const TOOL: Duration = Duration::from_secs(60);
/// Most bytes of `AGENTS.md` that are read; the prompt has a cap of its own.
const CONVENTIONS: usize = 1 << 20;

/// Makes workspaces below one folder.
#[derive(Debug)]
pub struct Workspaces {
    root: PathBuf,
    git: GitSettings,
    jail: Arc<Jail>,
}

/// What a workspace is to hold.
#[derive(Clone, Debug)]
pub struct OpenSpec {
    /// The job, whose name stands in the commit.
    pub job: JobId,
    /// Where the repository is fetched from and pushed to; without credentials.
    pub remote: Url,
    /// The branch whose head is checked out, without `refs/heads/`.
    pub base_branch: String,
    /// The commit to check out instead.
    pub commit: Option<String>,
    /// What [`Workspace::patch`] gave before; empty for a fresh start.
    pub patch: Vec<u8>,
}

/// What came of a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolOutcome {
    /// What the model is told; capped.
    pub output: String,
    /// Whether the tool refused or failed. A command that ran and failed is no error.
    pub is_error: bool,
    /// Whether files may have changed, so that a new patch is due.
    pub changed_files: bool,
}

/// An open workspace. Dropped without [`Workspace::remove`], its folder is left to a sweep.
#[derive(Debug)]
pub struct Workspace {
    job: JobId,
    slot: Slot,
    /// One call of git at a time: they share the index.
    repository: Mutex<Repository>,
    base: String,
    files: Arc<Files>,
    jail: Arc<Jail>,
}

impl Workspaces {
    /// Workspaces below `root`, which is made when it is needed.
    pub fn new(root: PathBuf, git: GitSettings, jail: Arc<Jail>) -> Workspaces {
        Workspaces { root, git, jail }
    }

    /// Fetches, checks out, and puts the patch on. The token goes to git alone and is not kept.
    pub async fn open(&self, spec: OpenSpec, token: Option<SecretString>) -> Result<Workspace, Failure> {
        // Git runs in folders of its own, so the root must not be relative.
        let root =
            std::path::absolute(&self.root).map_err(|error| git::io("open", "workspace root", &error))?;
        let job = spec.job.clone();
        let at = root.clone();
        let slot = match blocking("open", "workspace folder", move || Slot::take(&root, &job)).await {
            Ok(slot) => slot,
            Err(failure) => return Err(room::judge(&at, failure).await),
        };
        let folder = slot.folder.clone();
        match self.fill(slot, spec, token).await {
            Ok(workspace) => Ok(workspace),
            Err(failure) => {
                // Before it is removed: that makes room.
                let failure = room::judge(&folder, failure).await;
                slot::remove(folder).await;
                Err(failure)
            }
        }
    }

    async fn fill(
        &self,
        slot: Slot,
        spec: OpenSpec,
        token: Option<SecretString>,
    ) -> Result<Workspace, Failure> {
        let OpenSpec { job, remote, base_branch, commit, patch } = spec;
        let repository = Repository::open(
            self.git.clone(),
            slot.git_dir.clone(),
            slot.place.workspace.clone(),
            remote,
            &base_branch,
            commit.as_deref(),
            token.as_ref(),
        )
        .await?;
        // Before the patch: the decoy's index is that of the base commit, as a clone's would be.
        let (from, to) = (repository.git_dir().to_owned(), slot.place.workspace.join(".git"));
        blocking("open", "decoy of the git directory", move || decoy::make(&from, &to)).await?;
        if !patch.is_empty() {
            repository.apply(patch).await?;
        }
        let root = slot.place.workspace.clone();
        let cap = usize::try_from(self.jail.bounds().max_output_bytes.as_u64()).unwrap_or(usize::MAX);
        let files = blocking("open", "workspace", move || Files::open(&root, cap)).await?;
        let base = repository.base().to_owned();
        let (repository, jail) = (Mutex::new(repository), Arc::clone(&self.jail));
        Ok(Workspace { job, slot, repository, base, files: Arc::new(files), jail })
    }

    /// Removes the folders of workspaces that are not in use: left over from a crash, say.
    pub async fn sweep(&self) {
        let root = self.root.clone();
        match blocking("sweep", "workspace root", move || slot::unused(&root)).await {
            Ok(unused) => {
                let count = unused.len();
                for folder in unused {
                    slot::remove(folder).await;
                }
                tracing::debug!(count, "workspaces swept");
            }
            Err(failure) => tracing::warn!(error = %failure, "workspaces not swept"),
        }
    }
}

impl Workspace {
    /// The commit that the workspace stands on, in full.
    pub fn base_commit(&self) -> &str {
        &self.base
    }

    /// The repository's `AGENTS.md` if it has one, its beginning at least.
    pub async fn conventions(&self) -> Option<String> {
        let files = Arc::clone(&self.files);
        tokio::task::spawn_blocking(move || files.text("AGENTS.md", CONVENTIONS)).await.ok().flatten()
    }

    /// After a resume: the calls that an earlier run finished without error, oldest first. The files
    /// that they read or wrote count as read, as they are now; without it the model has to read
    /// them again before it edits them.
    pub async fn recall(&self, calls: &[ToolCall]) {
        let paths: Vec<String> = calls.iter().filter_map(known_path).collect();
        let files = Arc::clone(&self.files);
        // It fails only if it panics, and then nothing is recalled.
        let _ = tokio::task::spawn_blocking(move || paths.iter().for_each(|path| files.recall(path))).await;
    }

    /// Runs one tool call. `comment_on_issue` and `finish` are not for the workspace.
    pub async fn run(&mut self, call: &ToolCall, cancel: CancellationToken) -> ToolOutcome {
        let checked = match check_call(call) {
            Ok(checked) => checked,
            Err(why) => return ToolOutcome { output: why, is_error: true, changed_files: false },
        };
        if let Checked::RunCommand { command, timeout } = &checked {
            return self.run_command(command, *timeout, &cancel).await;
        }
        let (files, stop) = (Arc::clone(&self.files), Arc::new(Stop::default()));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let work = tokio::task::spawn_blocking(move || run_file_tool(&files, checked, &stop));
        let said = tokio::select! {
            biased;
            said = work => said.unwrap_or_else(|error| Err(format!("The tool failed: {error}."))),
            () = cancel.cancelled() => Err("Called off.".into()),
            () = tokio::time::sleep(TOOL) => Err(format!("No result within {TOOL:?}: ask for less at once.")),
        };
        let is_error = said.is_err();
        let (Ok(output) | Err(output)) = said;
        let output = shorten(&output, self.files.cap());
        ToolOutcome { output, is_error, changed_files: self.files.was_touched() }
    }

    /// All changes against the base commit as git's binary patch: new files, deletions and modes
    /// among them, what git ignores not. The same content gives the same bytes.
    pub async fn patch(&self) -> Result<Vec<u8>, Failure> {
        let repository = self.repository.lock().await;
        let patch = async { repository.patch(&self.nested(&repository).await?).await };
        self.judged(patch.await).await
    }

    /// Commits everything on the base commit and pushes it. Doing it again changes nothing.
    pub async fn publish(
        &self,
        branch: &str,
        message: &str,
        identity: &Identity,
        token: Option<SecretString>,
    ) -> Result<Published, Failure> {
        let repository = self.repository.lock().await;
        let published = async {
            let nested = self.nested(&repository).await?;
            repository.publish(&self.job, branch, message, identity, token.as_ref(), &nested).await
        };
        self.judged(published.await).await
    }

    /// The result; a failure of a full disk as one.
    async fn judged<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        match result {
            Ok(done) => Ok(done),
            Err(failure) => Err(room::judge(&self.slot.folder, failure).await),
        }
    }

    /// Removes the workspace from the disk.
    pub async fn remove(self) {
        let Workspace { slot, .. } = self;
        slot::remove(slot.folder.clone()).await;
    }

    /// Nested repositories that git would stage.
    async fn nested(&self, repository: &Repository) -> Result<Vec<PathBuf>, Failure> {
        let root = self.slot.place.workspace.clone();
        let tidied = blocking("stage", "workspace", move || Ok(tidy::tidy(&root))).await?;
        if tidied.too_many {
            return Err(git::unusable("stage", "the workspace holds more files than can be looked at"));
        }
        repository.not_ignored(tidied.nested).await
    }
}

/// The file that the model knows after a call.
pub fn known_path(call: &ToolCall) -> Option<String> {
    match check_call(call).ok()? {
        Checked::ReadFile { path, .. } | Checked::EditFile { path, .. } | Checked::WriteFile { path, .. } => {
            Some(path)
        }
        Checked::MoveFile { to, .. } => Some(to),
        Checked::ListDirectory { .. }
        | Checked::SearchCode { .. }
        | Checked::DeleteFile { .. }
        | Checked::RunCommand { .. }
        | Checked::CommentOnIssue { .. }
        | Checked::Finish { .. } => None,
    }
}

fn run_file_tool(files: &Files, checked: Checked, stop: &Stop) -> Result<String, String> {
    match checked {
        Checked::ListDirectory { path, recursive, max_depth } => {
            files.list_directory(&path, recursive, max_depth, stop)
        }
        Checked::ReadFile { path, start_line, end_line } => files.read_file(&path, start_line, end_line),
        Checked::SearchCode { pattern, path, glob, context } => {
            files.search_code(&pattern, path.as_deref(), glob.as_deref(), context, stop)
        }
        Checked::EditFile { path, old_string, new_string, replace_all } => {
            files.edit_file(&path, &old_string, &new_string, replace_all)
        }
        Checked::WriteFile { path, content } => files.write_file(&path, &content),
        Checked::MoveFile { from, to } => files.move_file(&from, &to),
        Checked::DeleteFile { path } => files.delete_file(&path),
        Checked::RunCommand { .. } | Checked::CommentOnIssue { .. } | Checked::Finish { .. } => {
            Err("This tool does not work on the workspace's files.".into())
        }
    }
}

/// Ends a walk that nobody waits for any more.
struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Runs file work on the blocking pool.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    what: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|error| git::io(operation, what, &error))
}

/// Some of the paths, for the model.
fn show(paths: &[PathBuf]) -> String {
    let some: Vec<String> = paths.iter().take(5).map(|path| path.display().to_string()).collect();
    some.join(", ") + if paths.len() > some.len() { ", ..." } else { "" }
}
