//! The `.git` that commands see: history and index for builds that ask for a version, no remote, no
//! credentials. A copy, so that nothing done to it reaches the real one.

use std::fs;
use std::io;
use std::path::Path;

const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";
/// Most entries of a git directory that was just fetched.
const MOST: usize = 200_000;

/// Copies what a repository needs from `git_dir` to `decoy`.
pub(super) fn make(git_dir: &Path, decoy: &Path) -> io::Result<()> {
    fs::create_dir(decoy)?;
    for name in ["HEAD", "index", "shallow", "packed-refs"] {
        let from = git_dir.join(name);
        if from.is_file() {
            fs::copy(from, decoy.join(name))?;
        }
    }
    let mut budget = MOST;
    for name in ["refs", "objects"] {
        copy_folder(&git_dir.join(name), &decoy.join(name), &mut budget)?;
    }
    fs::write(decoy.join("config"), CONFIG)
}

/// A git directory's own folders are shallow, so this does not recurse deeply.
fn copy_folder(from: &Path, to: &Path, budget: &mut usize) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        *budget =
            budget.checked_sub(1).ok_or_else(|| io::Error::other("too many files in the git directory"))?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target, budget)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
