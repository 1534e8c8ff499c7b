//! What a command may write to, whose it is, and what is hidden from it, at every level.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::HOME;

/// The folders of one workspace that a command may write to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The workspace.
    pub workspace: PathBuf,
    /// Its private HOME.
    pub home: PathBuf,
    /// Its private /tmp.
    pub tmp: PathBuf,
    /// Files that stand for `/etc/passwd` and `/etc/group`.
    pub etc: PathBuf,
    /// The folder of all workspaces, without links: no command sees it.
    pub root: PathBuf,
    /// The user id of its commands, as they see it.
    pub user: u32,
}

/// A file or folder that commands must not see.
#[derive(Clone, Debug)]
pub(super) struct Hidden {
    /// Where it really is.
    pub real: PathBuf,
    pub is_folder: bool,
}

impl Hidden {
    /// `None` if it is not there.
    pub fn new(path: &Path) -> Option<Hidden> {
        let real = path.canonicalize().ok()?;
        Some(Hidden { is_folder: real.is_dir(), real })
    }
}

impl Place {
    /// Makes the folders of a workspace below `folder`.
    pub(crate) fn make(folder: &Path) -> std::io::Result<Place> {
        let user = user_for(folder);
        let place = Place {
            workspace: folder.join("work"),
            home: folder.join("home"),
            tmp: folder.join("tmp"),
            etc: folder.join("etc"),
            root: PathBuf::new(),
            user,
        };
        for path in [&place.workspace, &place.home, &place.tmp, &place.etc] {
            std::fs::create_dir_all(path)?;
        }
        let place = Place { root: folder.parent().unwrap_or(folder).canonicalize()?, ..place };
        let passwd =
            format!("steadfast:x:{user}:{user}::{HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        std::fs::write(place.etc.join("passwd"), passwd)?;
        std::fs::write(place.etc.join("group"), format!("steadfast:x:{user}:\nnogroup:x:65534:\n"))?;
        Ok(place)
    }

    /// The folders that commands write to.
    pub fn writable(&self) -> [&Path; 3] {
        [&self.workspace, &self.home, &self.tmp]
    }

    /// Gives them to the user that the commands will be. Nothing runs in them meanwhile.
    pub fn give(&self) -> std::io::Result<()> {
        self.writable().into_iter().try_for_each(|folder| give(folder, self.user))
    }
}

/// The user id of a workspace's commands. Where the worker is root they really are that user, so it
/// differs from workspace to workspace; the range is one that nobody gives out ("Users, Groups, UIDs
/// and GIDs on systemd Systems": 60578 to 61183 are unused).
fn user_for(folder: &Path) -> u32 {
    if !rustix::process::geteuid().is_root() {
        return 1000;
    }
    let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    let number = digest.iter().take(4).fold(0, |number: u32, byte| (number << 8) | u32::from(*byte));
    60_600 + number % 500
}

/// Makes everything in a folder the user's own. Follows no links.
fn give(folder: &Path, user: u32) -> std::io::Result<()> {
    let give_one = |path: &Path, metadata: &std::fs::Metadata| {
        if metadata.uid() == user && metadata.gid() == user {
            return Ok(());
        }
        lchown(path, Some(user), Some(user))
    };
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        give_one(&folder, &folder.symlink_metadata()?)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            } else {
                give_one(&entry.path(), &entry.metadata()?)?;
            }
        }
    }
    Ok(())
}
