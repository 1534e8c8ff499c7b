//! What a command may have left in the workspace that git and the tools cannot deal with.

use std::fs::{self, FileType};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most entries that a workspace may have: beyond them nothing is published.
const MOST: usize = 2_000_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Tidied {
    /// Pipes, sockets and devices that were removed, relative to the workspace.
    pub removed: Vec<PathBuf>,
    /// Outermost folders that are git repositories of their own, relative to the workspace.
    pub nested: Vec<PathBuf>,
    /// Whether there was more than can be looked at.
    pub too_many: bool,
}

/// Removes what would block a reader, gives back the rights to read, and finds nested repositories.
/// Follows no links. Nothing else runs in the workspace meanwhile.
pub(super) fn tidy(root: &Path) -> Tidied {
    let mut tidied = Tidied::default();
    let mut entries = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        give_rights(&folder, 0o700);
        let Ok(found) = fs::read_dir(&folder) else { continue };
        for entry in found.flatten() {
            entries += 1;
            if entries > MOST {
                tidied.too_many = true;
                return tidied;
            }
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            let relative = || path.strip_prefix(root).unwrap_or(&path).to_owned();
            if entry.file_name().eq_ignore_ascii_case(".git") {
                // The one at the root is ours, and only a decoy.
                if folder != root {
                    tidied.nested.extend(relative().parent().map(Path::to_owned));
                }
            } else if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() {
                give_rights(&path, 0o600);
            } else if is_special(kind) && fs::remove_file(&path).is_ok() {
                tidied.removed.push(relative());
            }
        }
    }
    tidied.nested.sort();
    // What lies in another one goes with it.
    tidied.nested.dedup_by(|inner, outer| inner.starts_with(&*outer));
    tidied
}

fn is_special(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
}

/// Git keeps of a mode only whether the owner may execute, so this changes nothing for it.
fn give_rights(path: &Path, rights: u32) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let mode = metadata.permissions().mode();
    if mode & rights != rights {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode((mode | rights) & 0o7777));
    }
}
