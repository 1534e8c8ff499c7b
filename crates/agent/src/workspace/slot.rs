//! The folder of one open workspace, locked while it is in use, and the sweep of those that are not.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};
use steadfast_core::job::JobId;
use tokio_util::sync::CancellationToken;

use crate::jail::{Captured, Place, Task, process};

/// In a workspace's folder: locked as long as it is in use.
const LOCK: &str = "lock";
/// In the root: held while folders are made or swept, so that none is swept before it is locked.
const ROOT_LOCK: &str = ".lock";
/// Characters of a digest of the job's id, with which a folder's name begins.
const DIGEST: usize = 16;
/// What follows it; the rest is chance.
const MARK: &str = ".workspace-";
/// How long the removal of a stubborn folder may take.
const REMOVAL: Duration = Duration::from_secs(120);

/// A folder in use.
#[derive(Debug)]
pub(super) struct Slot {
    pub folder: PathBuf,
    pub place: Place,
    pub git_dir: PathBuf,
    /// Unlocked when dropped, by our end at the latest.
    _lock: File,
}

impl Slot {
    /// Makes a fresh folder below `root` for a job.
    pub fn take(root: &Path, job: &JobId) -> io::Result<Slot> {
        let _making = lock_root(root, File::lock_shared)?;
        // Ids are not safe in paths.
        let digest = Sha256::digest(job.as_str().as_bytes());
        let name: String = digest.iter().take(DIGEST / 2).map(|byte| format!("{byte:02x}")).collect();
        let folder = tempfile::Builder::new().prefix(&format!("{name}{MARK}")).tempdir_in(root)?.keep();
        let lock = File::create(folder.join(LOCK))?;
        lock.lock()?;
        let place = Place::make(&folder)?;
        let git_dir = folder.join("git");
        DirBuilder::new().mode(0o700).create(&git_dir)?;
        Ok(Slot { folder, place, git_dir, _lock: lock })
    }
}

/// Folders of ours that are not in use. No name is used twice, so none of them ever is again.
pub(super) fn unused(root: &Path) -> io::Result<Vec<PathBuf>> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let _sweeping = lock_root(root, File::lock)?;
    let mut unused = Vec::new();
    for entry in fs::read_dir(root)?.flatten() {
        let is_ours = entry.file_type()?.is_dir() && is_our_name(&entry.file_name().to_string_lossy());
        if is_ours && !is_in_use(&entry.path())? {
            unused.push(entry.path());
        }
    }
    Ok(unused)
}

/// Whether [`Slot::take`] gives such names: what else lies in the root is not ours to remove.
fn is_our_name(name: &str) -> bool {
    let Some((digest, rest)) = name.split_once(MARK) else { return false };
    digest.len() == DIGEST && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) && !rest.is_empty()
}

fn is_in_use(folder: &Path) -> io::Result<bool> {
    let lock = match File::open(folder.join(LOCK)) {
        Ok(lock) => lock,
        // Made halfway, or removed halfway.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn lock_root(root: &Path, lock: fn(&File) -> io::Result<()>) -> io::Result<File> {
    if !root.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(ROOT_LOCK))?;
    lock(&file)?;
    Ok(file)
}

/// Removes a folder, however its content was left: folders without rights, deeper than we may hold
/// open files.
pub(super) async fn remove(folder: PathBuf) {
    let at = folder.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let _ = fs::set_permissions(&at, fs::Permissions::from_mode(0o700));
        fs::remove_dir_all(&at)
    });
    match removed.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return,
        Ok(Err(_)) | Err(_) => {}
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"chmod -R u+rwX -- "$1"; exec rm -rf -- "$1""#, "sh"]).arg(&folder);
    let (stdout, stderr) = (Captured::whole(0), Captured::head_and_tail(1000));
    let task = Task {
        command,
        stdin: Vec::new(),
        stdout,
        stderr,
        max_processes: None,
        tree: process::Tree::Group,
        timeout: REMOVAL,
    };
    match process::run(task, &CancellationToken::new()).await {
        Ok(ended) if ended.exit == process::Exit::Code(0) => {}
        Ok(ended) => {
            tracing::warn!(folder = %folder.display(), error = ended.stderr.text(), "workspace not removed");
        }
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "workspace not removed"),
    }
}
