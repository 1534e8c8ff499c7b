//! Who is there, by locks on files beside the database: the operating system lets go of them when a
//! process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::StoreError;

/// What the files' names end with.
const ENDING: &str = ".here";
/// Most characters of a member's name that are in a file's.
const MOST_NAME: usize = 120;

/// A member's file; as long as it is kept, the member is there.
pub(super) struct Here {
    path: PathBuf,
    lock: File,
}

impl Drop for Here {
    fn drop(&mut self) {
        // Another of the same member may be there: then its lock stays, and the name must too.
        if let Ok(others) = OpenOptions::new().write(true).open(&self.path)
            && self.lock.unlock().is_ok()
        {
            remove_if_free(&self.path, &others);
        }
    }
}

/// `DATABASE.MEMBER.here`: a member is named by letters, digits and what joins them.
fn path(database: &Path, member: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let member: String = member.chars().map(plain).take(MOST_NAME).collect();
    let database = real(database);
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{member}{ENDING}"));
    database.with_file_name(name)
}

/// By whatever way it is reached, its neighbours are the same.
fn real(database: &Path) -> PathBuf {
    std::fs::canonicalize(database).unwrap_or_else(|_| database.to_owned())
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: could not be locked: {error}", path.display()))
}

/// Says that a member is there; it blocks for no longer than others look.
pub(super) fn arrive(database: &Path, member: &str) -> Result<Here> {
    sweep(database);
    let path = path(database, member);
    let open = || -> io::Result<Option<File>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        file.lock_shared()?;
        // Who looked in between may have removed it as one that nobody holds.
        let (held, named) = (file.metadata()?, std::fs::metadata(&path));
        Ok(named.is_ok_and(|named| named.ino() == held.ino()).then_some(file))
    };
    loop {
        if let Some(lock) = open().map_err(|error| failed(&path, &error))? {
            return Ok(Here { path, lock });
        }
    }
}

/// Whether a member is there. Where that cannot be told, it is.
pub(super) fn is_there(database: &Path, member: &str) -> bool {
    let path = path(database, member);
    match OpenOptions::new().write(true).open(&path) {
        Ok(file) => !remove_if_free(&path, &file),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Removes a file that nobody holds. Returns whether nobody does.
fn remove_if_free(path: &Path, file: &File) -> bool {
    match file.try_lock() {
        Ok(()) => {
            // One that stays behind is swept by the next.
            let _left = std::fs::remove_file(path);
            true
        }
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}

/// Removes what processes left that were killed.
fn sweep(database: &Path) {
    let database = real(database);
    let Some(name) = database.file_name().and_then(|name| name.to_str()) else { return };
    let beside = database.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(files) = std::fs::read_dir(beside.unwrap_or(Path::new("."))) else { return };
    for file in files.flatten() {
        let found = file.file_name();
        let Some(found) = found.to_str() else { continue };
        let is_ours = found.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        if is_ours
            && found.ends_with(ENDING)
            && let Ok(held) = OpenOptions::new().write(true).open(file.path())
        {
            remove_if_free(&file.path(), &held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_there_as_long_as_one_of_it_is_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("jobs.db");
        assert!(!is_there(&database, "a/b#1"));
        let (one, two) = (arrive(&database, "a/b#1").unwrap(), arrive(&database, "a/b#1").unwrap());
        assert!(is_there(&database, "a/b#1"));
        drop(one);
        assert!(is_there(&database, "a/b#1"));
        assert!(!is_there(&database, "a/b#2"));
        drop(two);
        assert!(!is_there(&database, "a/b#1"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("jobs.db");
        let others = dir.path().join("other.db.a#1.here");
        std::fs::write(&others, "").unwrap();
        std::fs::write(path(&database, "gone#1"), "").unwrap();
        let _here = arrive(&database, "here#1").unwrap();
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "the one that is there, and another database's");
        assert!(others.exists());
    }
}
