//! What of the file system a command is given: the way to its workspace, and the system around what
//! is hidden.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Place;

/// Gives a workspace to the user of its commands, and lets that user pass the folders on the way to
/// it. Only the worker's own folders are opened, and only to be passed: the workspace is shut to all
/// others instead.
pub(super) fn open(place: &Place) -> io::Result<()> {
    for folder in place.writable() {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700))?;
    }
    place.give()?;
    let workspace = place.workspace.canonicalize()?;
    for folder in workspace.ancestors().skip(1) {
        let metadata = folder.metadata()?;
        let mode = metadata.permissions().mode();
        if mode & 0o001 != 0 || metadata.uid() == place.user {
            continue;
        }
        if !folder.starts_with(&place.root) {
            let folder = folder.display();
            return Err(io::Error::other(format!(
                "commands run as another user, who may not pass {folder} to the workspace: chmod o+x {folder}, \
                 or set agent.workspaces to a folder elsewhere"
            )));
        }
        std::fs::set_permissions(folder, PermissionsExt::from_mode(mode | 0o001))?;
    }
    Ok(())
}

/// All of `shown` but what is hidden below it. A rule of Landlock grants a whole folder, so a folder
/// with something hidden in it is given entry by entry, and cannot itself be listed.
pub(super) fn around(shown: &Path, hidden: &[&Path]) -> Vec<PathBuf> {
    let mut given = Vec::new();
    let mut todo = vec![shown.to_owned()];
    while let Some(path) = todo.pop() {
        if hidden.iter().any(|hidden| path.starts_with(hidden)) {
            continue;
        }
        if !hidden.iter().any(|hidden| hidden.starts_with(&path)) {
            given.push(path);
            continue;
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        // What a link leads to is given where it is, or not at all.
        todo.extend(entries.map(|entry| entry.path()).filter(|entry| !entry.is_symlink()));
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_left_out_and_all_beside_it_given() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["a/keys/deep", "a/tools", "b"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("a/config.toml"), "").unwrap();
        std::fs::write(at("a/readme"), "").unwrap();
        std::os::unix::fs::symlink(at("a/keys"), at("a/link")).unwrap();
        let (keys, config) = (at("a/keys"), at("a/config.toml"));
        let mut given = around(folder.path(), &[&keys, &config]);
        given.sort();
        assert_eq!(given, [at("a/readme"), at("a/tools"), at("b")]);
        assert_eq!(around(folder.path(), &[]), [folder.path()]);
        assert!(around(&at("a/keys/deep"), &[&keys]).is_empty());
    }
}
