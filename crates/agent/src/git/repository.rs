//! The repository of one job: fetched, checked out, read as a patch, committed and pushed.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use steadfast_core::classify;
use steadfast_core::failure::{Failure, FatalReason, Verdict};
use steadfast_core::job::{JobId, is_git_ref};
use url::Url;

use super::checks;
use super::run::{Answer, Call, Git, unusable};
use super::{GitSettings, Identity, Published};

/// Where the base commit is kept.
const BASE: &str = "refs/steadfast/base";
/// Most names that are tried for a branch.
const NAMES: u32 = 8;
/// Most paths that one call of git names.
const MOST_PATHS: usize = 1000;
/// Most bytes of a list of changed paths: some hundred thousand of them.
const RAW: usize = 64 << 20;
/// The trailer that says whose a commit is.
const TRAILER: &str = "Steadfast-Job:";

/// See the module.
#[derive(Debug)]
pub(crate) struct Repository {
    git: Git,
    base: String,
}

/// What a remote branch is to us.
enum Standing {
    /// Not there.
    Free,
    /// There, with exactly our commit.
    Done,
    /// There, with a commit of an earlier run of this job.
    Ours(String),
    /// There, and somebody else's.
    Theirs,
}

impl Repository {
    /// Fetches one commit and checks it out: `commit`, or the head of `branch`.
    pub async fn open(
        settings: GitSettings,
        git_dir: PathBuf,
        work_tree: PathBuf,
        remote: Url,
        branch: &str,
        commit: Option<&str>,
        token: Option<&SecretString>,
    ) -> Result<Repository, Failure> {
        check_remote(&remote)?;
        check_branch("open", branch)?;
        let git = Git { settings, git_dir, work_tree, remote };
        git.text(git.call("init", &["init", "--quiet", "--template="])).await?;
        git.check_configuration().await?;
        git.fetch_base(branch, commit, token).await?;
        let base = git.text(git.call("rev_parse", &["rev-parse", "--verify", BASE])).await?;
        let mut checkout = git.call("checkout", &["checkout", "--quiet", "--force", "--detach", BASE]);
        checkout.timeout = git.settings.fetch_timeout;
        git.text(checkout).await?;
        Ok(Repository { git, base })
    }

    /// The commit that the workspace stands on, in full.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The folder with git's own data.
    pub fn git_dir(&self) -> &Path {
        &self.git.git_dir
    }

    /// Puts a patch of [`Repository::patch`] onto a fresh checkout.
    pub async fn apply(&self, patch: Vec<u8>) -> Result<(), Failure> {
        let mut apply = self.git.call("apply", &["apply", "--index", "--binary", "--whitespace=nowarn", "-"]);
        apply.stdin = patch;
        // Elsewhere it takes every path for one outside of its folder, and leaves it out in silence.
        apply.in_work_tree = true;
        let why = match self.git.run(apply).await? {
            Answer::Failed(_, stderr) => stderr,
            Answer::TooLarge(_) => "git answered too much".into(),
            Answer::Done(_) => {
                let args = ["diff", "--cached", "--quiet", "--no-ext-diff", "--no-textconv", &self.base];
                match self.git.run(self.git.call("diff", &args)).await? {
                    Answer::Failed(1, _) => return Ok(()),
                    Answer::Failed(_, stderr) => stderr,
                    Answer::Done(_) | Answer::TooLarge(_) => "it changed nothing".into(),
                }
            }
        };
        Err(unusable("apply", format!("the job's patch does not fit its base commit: {}", why.trim())))
    }

    /// All changes against the base commit as git's binary patch; `nested` are folders that are
    /// repositories of their own and left out.
    pub async fn patch(&self, nested: &[PathBuf]) -> Result<Vec<u8>, Failure> {
        self.stage(nested).await?;
        let bytes = match self.git.run(self.diff("--no-renames")).await? {
            Answer::Done(patch) => return Ok(patch),
            Answer::Failed(code, stderr) => {
                return Err(classify::git::classify("diff", Some(code), &stderr, false));
            }
            Answer::TooLarge(bytes) => bytes,
        };
        let small = self.small_changes().await?;
        let most = self.git.settings.max_patch_bytes;
        tracing::warn!(bytes, most = %most, kept = small.len(), "changes too large to keep, the largest files left out");
        if small.is_empty() {
            // Without a path git would take all of them.
            return Ok(Vec::new());
        }
        let mut diff = self.diff("--no-renames");
        diff.args.push("--".into());
        diff.args.extend(small.into_iter().map(|path| format!(":(top,literal){path}")));
        self.git.bytes(diff).await
    }

    /// Changed paths, smallest first, as many as surely fit into a patch of the largest size. What
    /// is not text takes at most 5/4 of its size in a patch, and every file its header.
    async fn small_changes(&self) -> Result<Vec<String>, Failure> {
        let changes = self.changes().await?;
        // A patch holds what is taken away as well as what is put there.
        let blobs: String =
            changes.iter().map(|change| format!("{}\n{}\n", change.old, change.blob)).collect();
        let mut sizes = self.git.call("cat_file", &["cat-file", "--batch-check=%(objectsize)"]);
        sizes.stdin = blobs.into_bytes();
        sizes.cap = RAW;
        let sizes = self.git.text(sizes).await?;
        // What is not there is said to be missing.
        let sizes: Vec<u64> = sizes.lines().map(|size| size.trim().parse().unwrap_or(0)).collect();
        let of_change = sizes.chunks(2).map(|pair| pair.iter().sum());
        let mut sized: Vec<(u64, String)> =
            of_change.zip(changes.into_iter().map(|change| change.path)).collect();
        sized.sort();
        let mut room = self.git.settings.max_patch_bytes.as_u64() / 2;
        let fits = |(size, path): (u64, String)| {
            let needed = size.saturating_mul(5) / 4 + 2 * path.len() as u64 + 300;
            room = room.checked_sub(needed)?;
            Some(path)
        };
        Ok(sized.into_iter().take(MOST_PATHS).map_while(fits).collect())
    }

    async fn changes(&self) -> Result<Vec<checks::Change>, Failure> {
        let args = ["diff", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", &self.base];
        let mut diff = self.git.call("diff", &args);
        diff.cap = RAW;
        Ok(checks::parse_raw(&self.git.bytes(diff).await?))
    }

    /// Those of the folders that git does not ignore.
    pub async fn not_ignored(&self, folders: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
        if folders.is_empty() {
            return Ok(folders);
        }
        let mut check = self.git.call("check_ignore", &["check-ignore", "-z", "--stdin"]);
        check.stdin = join(&folders, b"");
        let ignored = match self.git.run(check).await? {
            Answer::Done(ignored) => ignored,
            // None of them.
            Answer::Failed(1, _) => return Ok(folders),
            Answer::TooLarge(_) => return Err(unusable("check_ignore", "git answered too much")),
            Answer::Failed(code, stderr) => {
                return Err(classify::git::classify("check_ignore", Some(code), &stderr, false));
            }
        };
        let is_ignored =
            |folder: &PathBuf| ignored.split(|byte| *byte == 0).any(|path| path == bytes_of(folder));
        Ok(folders.into_iter().filter(|folder| !is_ignored(folder)).collect())
    }

    /// Stages everything in the workspace but `nested`.
    async fn stage(&self, nested: &[PathBuf]) -> Result<(), Failure> {
        // We are alone here: a lock is left over from a git that was killed.
        let lock = self.git.git_dir.join("index.lock");
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(lock)).await;
        drop(removed);
        let from_stdin = ["add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul"];
        let mut add = self.git.call("add", &from_stdin);
        add.stdin = [b".\0".to_vec(), join(nested, b":(exclude,top,literal)")].concat();
        self.git.text(add).await.map(drop)
    }

    fn diff(&self, renames: &str) -> Call<'static> {
        let mut args = vec!["diff", "--cached", "--binary", "--full-index", renames];
        args.extend(["--no-color", "--no-ext-diff", "--no-textconv", &self.base]);
        let mut diff = self.git.call("diff", &args);
        diff.cap = usize::try_from(self.git.settings.max_patch_bytes.as_u64()).unwrap_or(usize::MAX);
        diff
    }

    /// Commits everything as one commit on the base, checks it, and pushes it to `branch`, or to
    /// `branch-2` and so on where that is somebody else's. The same content gives the same commit.
    pub async fn publish(
        &self,
        job: &JobId,
        branch: &str,
        message: &str,
        identity: &Identity,
        token: Option<&SecretString>,
        nested: &[PathBuf],
    ) -> Result<Published, Failure> {
        check_branch("publish", branch)?;
        if let Some(folder) = nested.first() {
            let folder = folder.display();
            return Ok(Published::Refused(format!(
                "{folder} is a git repository of its own: remove {folder}/.git so that its files can be part \
                 of the change, or remove the folder"
            )));
        }
        self.stage(nested).await?;
        let changes = self.changes().await?;
        if changes.is_empty() {
            return Ok(Published::Nothing);
        }
        if let Some(why) = self.refused(&changes, token).await? {
            return Ok(Published::Refused(why));
        }
        let sha = self.commit(job, message, identity).await?;
        for number in 1..=NAMES {
            let name = if number == 1 { branch.to_owned() } else { format!("{branch}-{number}") };
            let expected = match self.standing(job, &name, &sha, token).await? {
                Standing::Done => return Ok(Published::Pushed { branch: name, sha }),
                Standing::Theirs => continue,
                Standing::Free => String::new(),
                Standing::Ours(theirs) => theirs,
            };
            self.push(&name, &sha, &expected, token).await?;
            return Ok(Published::Pushed { branch: name, sha });
        }
        Ok(Published::Refused(format!(
            "the branches {branch} to {branch}-{NAMES} stand on the remote and are not this job's: remove what \
             is not needed"
        )))
    }

    async fn refused(
        &self,
        changes: &[checks::Change],
        token: Option<&SecretString>,
    ) -> Result<Option<String>, Failure> {
        if let Some(why) = checks::refuse_changes(changes, &self.git.settings) {
            return Ok(Some(why));
        }
        for link in changes.iter().filter(|change| change.is_symlink()) {
            let args = ["cat-file", "blob", &link.blob];
            let target = self.git.bytes(self.git.call("cat_file", &args)).await?;
            if checks::leads_out(&link.path, &target) {
                return Ok(Some(format!(
                    "{} is a symbolic link to {:?}, which is outside the repository",
                    link.path,
                    String::from_utf8_lossy(&target)
                )));
            }
        }
        // Renames are shown as such, so that what only moved is not taken for new.
        match self.git.run(self.diff("--find-renames")).await? {
            Answer::Done(patch) => Ok(checks::find_secret(&patch, token)),
            Answer::TooLarge(bytes) => Ok(Some(format!(
                "the change is {bytes} bytes as a patch, more than agent.git.max_patch_bytes ({}): was \
                 something generated or built left in the workspace?",
                self.git.settings.max_patch_bytes
            ))),
            Answer::Failed(code, stderr) => Err(classify::git::classify("diff", Some(code), &stderr, false)),
        }
    }

    /// The dates are the base commit's, so that a repeated publish gives the same commit.
    async fn commit(&self, job: &JobId, message: &str, identity: &Identity) -> Result<String, Failure> {
        let tree = self.git.text(self.git.call("write_tree", &["write-tree"])).await?;
        let args = ["show", "--no-patch", "--format=%ct", &self.base];
        let date = format!("{} +0000", self.git.text(self.git.call("show", &args)).await?);
        let args = ["commit-tree", &tree, "-p", &self.base, "-F", "-"];
        let mut commit = self.git.call("commit_tree", &args);
        commit.stdin = with_trailer(message, job).into_bytes();
        for (name, value) in [
            ("GIT_AUTHOR_NAME", &identity.name),
            ("GIT_AUTHOR_EMAIL", &identity.email),
            ("GIT_AUTHOR_DATE", &date),
            ("GIT_COMMITTER_NAME", &identity.name),
            ("GIT_COMMITTER_EMAIL", &identity.email),
            ("GIT_COMMITTER_DATE", &date),
        ] {
            commit.env.push((name, value.clone()));
        }
        self.git.text(commit).await
    }

    /// Looks at the branch on the remote.
    async fn standing(
        &self,
        job: &JobId,
        branch: &str,
        sha: &str,
        token: Option<&SecretString>,
    ) -> Result<Standing, Failure> {
        let reference = format!("refs/heads/{branch}");
        let args = ["ls-remote", "--", self.git.remote.as_str(), &reference];
        let mut list = self.git.call("ls_remote", &args);
        list.token = token;
        let listed = self.git.text(list).await?;
        // A pattern of ls-remote matches the ends of names too.
        let exact = |line: &str| {
            line.split_once('\t').filter(|(_, name)| *name == reference).map(|(sha, _)| sha.to_owned())
        };
        let Some(there) = listed.lines().find_map(exact) else { return Ok(Standing::Free) };
        if there == sha {
            return Ok(Standing::Done);
        }
        self.git.fetch(&there, "refs/steadfast/there", token).await?;
        let args = ["show", "--no-patch", "--format=%B", &there];
        let message = self.git.text(self.git.call("show", &args)).await?;
        Ok(if is_ours(&message, job) { Standing::Ours(there) } else { Standing::Theirs })
    }

    async fn push(
        &self,
        branch: &str,
        sha: &str,
        expected: &str,
        token: Option<&SecretString>,
    ) -> Result<(), Failure> {
        // An empty expectation means that the branch must not be there.
        let lease = format!("--force-with-lease=refs/heads/{branch}:{expected}");
        let refspec = format!("{sha}:refs/heads/{branch}");
        let args = ["push", "--quiet", "--no-verify", &lease, "--", self.git.remote.as_str(), &refspec];
        let mut push = self.git.call("push", &args);
        push.token = token;
        push.timeout = self.git.settings.push_timeout;
        push.is_push = true;
        self.git.text(push).await.map(drop)
    }
}

impl Git {
    /// A git before 2.31 would pass over the configuration in its environment, and with it over
    /// every guard against the repository.
    async fn check_configuration(&self) -> Result<(), Failure> {
        let get = self.call("config", &["config", "--get", "core.hooksPath"]);
        match self.run(get).await? {
            Answer::Done(value) if value.trim_ascii() == b"/dev/null" => Ok(()),
            Answer::Done(_) | Answer::TooLarge(_) | Answer::Failed(..) => {
                Err(unusable("config", "git does not heed GIT_CONFIG_COUNT: it must be 2.31 or newer"))
            }
        }
    }

    async fn fetch_base(
        &self,
        branch: &str,
        commit: Option<&str>,
        token: Option<&SecretString>,
    ) -> Result<(), Failure> {
        let head = format!("refs/heads/{branch}");
        let Some(commit) = commit else { return self.fetch(&head, BASE, token).await };
        let is_full = matches!(commit.len(), 40 | 64);
        if is_full {
            match self.fetch(commit, BASE, token).await {
                // Not every server gives a commit that is no branch's head: the branch may hold it.
                Err(failure) if matches!(failure.verdict, Verdict::Fatal { why: FatalReason::NotFound }) => {}
                other => return other,
            }
        }
        self.fetch_deep(&head, token).await?;
        let wanted = format!("{commit}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
        let Answer::Done(found) = self.run(self.call("rev_parse", &args)).await? else {
            let message = format!("the commit {commit} is not on the branch {branch}");
            let verdict = Verdict::Fatal { why: FatalReason::NotFound };
            return Err(Failure { verdict, ..unusable("fetch", message) });
        };
        let found = String::from_utf8_lossy(&found).trim().to_owned();
        self.text(self.call("update_ref", &["update-ref", BASE, &found])).await.map(drop)
    }

    /// Fetches one commit, without its past.
    async fn fetch(&self, what: &str, to: &str, token: Option<&SecretString>) -> Result<(), Failure> {
        self.fetch_with(&["--depth=1"], &format!("+{what}:{to}"), token).await
    }

    async fn fetch_deep(&self, branch: &str, token: Option<&SecretString>) -> Result<(), Failure> {
        self.fetch_with(&[], &format!("+{branch}:refs/steadfast/branch"), token).await
    }

    async fn fetch_with(
        &self,
        depth: &[&str],
        refspec: &str,
        token: Option<&SecretString>,
    ) -> Result<(), Failure> {
        let plain = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"];
        let args = [&plain[..], depth, &["--", self.remote.as_str(), refspec]].concat();
        let mut fetch = self.call("fetch", &args);
        fetch.token = token;
        fetch.timeout = self.settings.fetch_timeout;
        self.text(fetch).await.map(drop)
    }
}

fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// Paths for git's standard input, each with `before` in front.
fn join(paths: &[PathBuf], before: &[u8]) -> Vec<u8> {
    paths.iter().flat_map(|path| [before, bytes_of(path), b"\0"].concat()).collect()
}

/// Only schemes that git itself speaks, and no credentials within.
fn check_remote(remote: &Url) -> Result<(), Failure> {
    if !matches!(remote.scheme(), "https" | "http" | "file") {
        let message = format!("a remote of scheme {:?} is not supported: use https", remote.scheme());
        return Err(unusable("open", message));
    }
    if !remote.username().is_empty() || remote.password().is_some() {
        return Err(unusable("open", "the remote's URL holds credentials: they belong in the configuration"));
    }
    Ok(())
}

/// A name that cannot be an option or a pattern.
fn check_branch(operation: &'static str, branch: &str) -> Result<(), Failure> {
    if is_git_ref(branch) {
        return Ok(());
    }
    Err(unusable(operation, format!("{branch:?} is not a name that git takes for a branch")))
}

/// The message, ending in the job's trailer.
fn with_trailer(message: &str, job: &JobId) -> String {
    if is_ours(message, job) && !message.contains('\0') {
        return message.to_owned();
    }
    // Git takes no NUL in a message.
    format!("{}\n\n{TRAILER} {job}\n", message.replace('\0', "").trim_end())
}

/// Whether a commit's last paragraph has the job's trailer.
fn is_ours(message: &str, job: &JobId) -> bool {
    let last = message.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let value = |line: &str| line.trim_end().strip_prefix(TRAILER).map(|value| value.trim().to_owned());
    last.lines().filter_map(value).any(|value| value == job.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trailer_is_known_by_its_whole_value_in_the_last_paragraph() {
        let job = JobId::new("test-1").unwrap();
        let message = with_trailer("Fix it\n\nBecause.", &job);
        assert_eq!(message, "Fix it\n\nBecause.\n\nSteadfast-Job: test-1\n");
        assert_eq!(with_trailer(&message, &job), message);
        assert_eq!(with_trailer("a\0b", &job), "ab\n\nSteadfast-Job: test-1\n");
        assert!(is_ours(&message, &job));
        assert!(!is_ours(&message, &JobId::new("test-12").unwrap()));
        assert!(!is_ours(&message, &JobId::new("test").unwrap()));
        assert!(!is_ours("x\n\nSteadfast-Job: test-1\n\nby a person", &job));
    }

    #[test]
    fn remotes_with_credentials_or_other_schemes_are_refused() {
        for bad in ["https://x:secret@h/o/r", "https://me@h/o/r", "ext::sh", "ssh://h/o/r"] {
            let failure = check_remote(&Url::parse(bad).unwrap()).unwrap_err();
            assert!(!failure.message.contains("secret"), "{failure}");
        }
        assert!(check_remote(&Url::parse("https://github.com/o/r.git").unwrap()).is_ok());
    }
}
