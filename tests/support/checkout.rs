//! Workspaces without disk, git and commands: files in memory, commits in the simulated world, and of
//! the commands the one that the fixture's tests are run by. What a run sees of it is what it sees of
//! the real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use steadfast_agent::git::{Identity, Published};
use steadfast_agent::tools::{Checked, check_call};
use steadfast_agent::workspace::{Checkout, OpenSpec, ToolOutcome, Workshop, known_path};
use steadfast_core::chat::ToolCall;
use steadfast_core::classify;
use steadfast_core::failure::Failure;
use steadfast_core::job::JobId;
use steadfast_sim::fixture::{Bug, Work, issues};
use steadfast_sim::{GitFailure, Push, Snapshot, World};
use tokio_util::sync::CancellationToken;

use super::storm::{Deathbed, Line};

/// How long git waits for the remote, and a command runs.
const PATIENCE: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(2);
/// Most names that are tried for a branch.
const NAMES: u32 = 8;
const TRAILER: &str = "Steadfast-Job:";

type Files = BTreeMap<String, String>;

/// Opens them for one runner.
pub struct MemoryWorkshop {
    pub world: Arc<World>,
    pub line: Arc<Line>,
}

struct MemoryCheckout {
    world: Arc<World>,
    line: Arc<Line>,
    job: JobId,
    owner: String,
    name: String,
    base: Snapshot,
    files: Files,
    /// What the model has read.
    seen: Mutex<BTreeSet<String>>,
}

/// One exchange with the remote, through the weather of the runner's line.
async fn remote<T>(
    line: &Line,
    job: &JobId,
    operation: &'static str,
    is_push: bool,
    exchange: impl Future<Output = Result<T, GitFailure>>,
) -> Result<T, Failure> {
    let answer = line.git(job, operation, async {
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(GitFailure { said: String::new() }))
    });
    answer.await.map_err(|failure| {
        let exit = (!failure.said.is_empty()).then_some(128);
        classify::git::classify(operation, exit, &failure.said, is_push)
    })
}

#[async_trait]
impl Workshop for MemoryWorkshop {
    async fn open(&self, spec: OpenSpec, token: Option<SecretString>) -> Result<Box<dyn Checkout>, Failure> {
        let OpenSpec { job, remote: url, base_branch, commit, patch } = spec;
        let mut path = url.path_segments().into_iter().flatten().rev();
        let name = path.next().unwrap_or_default().trim_end_matches(".git").to_owned();
        let owner = path.next().unwrap_or_default().to_owned();
        let what = commit.unwrap_or_else(|| format!("refs/heads/{base_branch}"));
        let token = exposed(token.as_ref());
        let fetch = self.world.git_fetch(&owner, &name, &what, token);
        let base = remote(&self.line, &job, "fetch", false, fetch).await?;
        let mut files = (*base.files).clone();
        let changes: BTreeMap<String, Option<String>> = match patch.is_empty() {
            true => BTreeMap::new(),
            false => serde_json::from_slice(&patch).expect("a patch is what an earlier run made"),
        };
        apply(&mut files, changes);
        let (world, line) = (Arc::clone(&self.world), Arc::clone(&self.line));
        let seen = Mutex::default();
        Ok(Box::new(MemoryCheckout { world, line, job, owner, name, base, files, seen }))
    }
}

fn exposed(token: Option<&SecretString>) -> &str {
    token.map(|token| token.expose_secret()).unwrap_or_default()
}

fn apply(files: &mut Files, changes: BTreeMap<String, Option<String>>) {
    for (path, content) in changes {
        match content {
            Some(content) => drop(files.insert(path, content)),
            None => drop(files.remove(&path)),
        }
    }
}

impl MemoryCheckout {
    fn changes(&self) -> BTreeMap<&str, Option<&str>> {
        let base = &self.base.files;
        let put = self.files.iter().filter(|(path, content)| base.get(*path) != Some(content));
        let put = put.map(|(path, content)| (path.as_str(), Some(content.as_str())));
        let gone = base.keys().filter(|path| !self.files.contains_key(*path));
        put.chain(gone.map(|path| (path.as_str(), None))).collect()
    }

    fn file_tool(&mut self, checked: Checked) -> Result<String, String> {
        let missing = |path: &str| format!("There is no {path}.");
        match checked {
            Checked::ListDirectory { .. } => {
                let paths: Vec<&str> = self.files.keys().map(String::as_str).collect();
                Ok(paths.join("\n"))
            }
            Checked::ReadFile { path, start_line, end_line } => {
                let content = self.files.get(&path).ok_or_else(|| missing(&path))?;
                let (first, last) = (start_line.unwrap_or(1), end_line.unwrap_or(u32::MAX));
                let lines =
                    (1_u32..).zip(content.lines()).filter(|(number, _)| (first..=last).contains(number));
                let shown: String = lines.map(|(number, line)| format!("{number:>6}\t{line}\n")).collect();
                self.seen.lock().unwrap().insert(path);
                Ok(shown)
            }
            Checked::SearchCode { pattern, .. } => {
                let hits = self.files.iter().flat_map(|(path, content)| {
                    let lines = (1_u32..).zip(content.lines());
                    let pattern = &pattern;
                    lines
                        .filter(move |(_, line)| line.contains(pattern))
                        .map(move |(number, line)| format!("{path}:{number}: {line}"))
                });
                Ok(hits.take(100).collect::<Vec<_>>().join("\n"))
            }
            Checked::EditFile { path, old_string, new_string, .. } => {
                if !self.seen.lock().unwrap().contains(&path) {
                    return Err(format!("Read {path} first."));
                }
                let content = self.files.get_mut(&path).ok_or_else(|| missing(&path))?;
                if content.matches(&old_string).count() != 1 {
                    return Err(format!("old_string does not stand once in {path}."));
                }
                *content = content.replace(&old_string, &new_string);
                Ok(format!("Edited {path}."))
            }
            Checked::WriteFile { path, content } => {
                self.seen.lock().unwrap().insert(path.clone());
                self.files.insert(path, content);
                Ok("Written.".to_owned())
            }
            Checked::MoveFile { from, to } => {
                let content = self.files.remove(&from).ok_or_else(|| missing(&from))?;
                self.files.insert(to, content);
                Ok("Moved.".to_owned())
            }
            Checked::DeleteFile { path } => {
                self.files.remove(&path).map(|_| "Deleted.".to_owned()).ok_or_else(|| missing(&path))
            }
            Checked::RunCommand { command, .. } => Ok(self.command(&command)),
            Checked::CommentOnIssue { .. } | Checked::Finish { .. } => {
                Err("This tool does not work on the workspace's files.".to_owned())
            }
        }
    }

    /// What `sh test.sh NAME` prints: the tests of a function fail while its line is not the right one.
    fn command(&self, command: &str) -> String {
        let Some(name) = command.strip_prefix("sh test.sh ") else {
            return "exit code 127\n--- stderr\nsh: not found".to_owned();
        };
        if !self.files.contains_key(&format!("tests/{name}.sh")) {
            return format!("exit code 2\n--- stdout\nno such test: {name}");
        }
        let bugs = issues().iter().filter_map(|issue| match issue.work {
            Work::Bug(bug) => Some(bug),
            Work::NothingWrong { .. } | Work::Document { .. } | Work::AddTests { .. } => None,
        });
        let stands = |Bug { function, fixed, .. }: &Bug| {
            let content = self.files.get(&format!("lib/{function}.sh"));
            content.is_some_and(|content| content.lines().any(|line| line.trim() == *fixed))
        };
        match bugs.filter(|bug| bug.function == name).all(|bug| stands(&bug)) {
            true => "exit code 0\n--- stdout\nall 2 checks passed".to_owned(),
            false => "exit code 1\n--- stdout\n1 of 2 checks failed".to_owned(),
        }
    }
}

#[async_trait]
impl Checkout for MemoryCheckout {
    fn base_commit(&self) -> &str {
        &self.base.sha
    }

    async fn conventions(&self) -> Option<String> {
        self.files.get("AGENTS.md").cloned()
    }

    async fn recall(&self, calls: &[ToolCall]) {
        self.seen.lock().unwrap().extend(calls.iter().filter_map(known_path));
    }

    async fn run(&mut self, call: &ToolCall, cancel: CancellationToken) -> ToolOutcome {
        let refused = |output: String| ToolOutcome { output, is_error: true, changed_files: false };
        let checked = match check_call(call) {
            Ok(checked) => checked,
            Err(why) => return refused(why),
        };
        self.line.passes(Deathbed::Tool, Some(&self.job), &call.name).await;
        let changes = !checked.read_only();
        if matches!(checked, Checked::RunCommand { .. }) {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return refused("called off".to_owned()),
                () = tokio::time::sleep(COMMAND) => {}
            }
        }
        match self.file_tool(checked) {
            Ok(output) => ToolOutcome { output, is_error: false, changed_files: changes },
            Err(why) => refused(why),
        }
    }

    async fn patch(&self) -> Result<Vec<u8>, Failure> {
        let changes = self.changes();
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        Ok(serde_json::to_vec(&changes).expect("paths and texts are JSON"))
    }

    async fn publish(
        &self,
        branch: &str,
        message: &str,
        identity: &Identity,
        token: Option<SecretString>,
    ) -> Result<Published, Failure> {
        if self.changes().is_empty() {
            return Ok(Published::Nothing);
        }
        let (world, line, job, token) = (&self.world, &self.line, &self.job, exposed(token.as_ref()));
        let (owner, repo) = (self.owner.as_str(), self.name.as_str());
        let message = format!("{}\n\n{TRAILER} {job}\n", message.trim_end());
        for number in 1..=NAMES {
            let name = if number == 1 { branch.to_owned() } else { format!("{branch}-{number}") };
            let head = world.git_head(owner, repo, &name, token);
            let there = remote(line, job, "ls_remote", false, head).await?;
            let author = (identity.name.as_str(), identity.email.as_str());
            let (parent, files) = (self.base.sha.as_str(), self.files.clone());
            let push =
                Push { branch: &name, expected: there.as_deref(), parent, files, author, message: &message };
            let sha = world.git_commit_id(owner, repo, &push);
            if there.as_ref() == Some(&sha) {
                return Ok(Published::Pushed { branch: name, sha });
            }
            if let Some(there) = &there {
                let fetch = world.git_fetch(owner, repo, there, token);
                let theirs = remote(line, job, "fetch", false, fetch).await?;
                if !theirs.message.contains(&format!("{TRAILER} {job}\n")) {
                    continue;
                }
            }
            let pushed = world.git_push(owner, repo, push, token);
            let sha = remote(line, job, "push", true, pushed).await?;
            return Ok(Published::Pushed { branch: name, sha });
        }
        Ok(Published::Refused(format!("the branches {branch} to {branch}-{NAMES} are not this job's")))
    }

    async fn remove(self: Box<Self>) {}
}
