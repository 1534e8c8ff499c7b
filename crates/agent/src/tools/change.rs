//! `write_file`, `move_file` and `delete_file`.

use std::path::Path;

use super::files::{Files, Said};

impl Files {
    /// Writes a whole file; one that is there must have been read.
    pub fn write_file(&self, path: &str, content: &str) -> Said {
        let mut resolved = self.resolve_for_writing(path)?;
        let exists = self.dir.symlink_metadata(&resolved).is_ok();
        if exists {
            // A link is written where it leads.
            resolved = self.resolve(&resolved.to_string_lossy())?;
            self.resolve_for_writing(&resolved.to_string_lossy())?;
            let there = self.content(&resolved)?;
            self.check_seen(&resolved, &there)?;
        } else {
            self.make_parent(&resolved)?;
        }
        self.store(&resolved, content.as_bytes(), exists)?;
        let (verb, lines) = (if exists { "Replaced" } else { "Made" }, content.lines().count());
        Ok(format!("{verb} {} ({lines} lines).", resolved.display()))
    }

    /// Moves a file or a folder to where nothing is.
    pub fn move_file(&self, from: &str, to: &str) -> Said {
        let (from, to) = (self.resolve_for_writing(from)?, self.resolve_for_writing(to)?);
        let shown = to.to_string_lossy();
        self.dir.symlink_metadata(&from).map_err(|error| self.explain(&from.to_string_lossy(), &error))?;
        if self.dir.symlink_metadata(&to).is_ok() {
            return Err(format!("{shown} exists already: delete it first, or choose another name."));
        }
        if to.starts_with(&from) {
            return Err(format!("{shown} lies in {}, which cannot be moved into itself.", from.display()));
        }
        self.make_parent(&to)?;
        self.touch();
        self.dir.rename(&from, &self.dir, &to).map_err(|error| self.explain(&shown, &error))?;
        self.moved(&from, Some(&to));
        Ok(format!("Moved {} to {shown}.", from.display()))
    }

    /// Deletes a file or a link, never a folder.
    pub fn delete_file(&self, path: &str) -> Said {
        let resolved = self.resolve_for_writing(path)?;
        let shown = resolved.to_string_lossy();
        let metadata = self.dir.symlink_metadata(&resolved).map_err(|error| self.explain(&shown, &error))?;
        if metadata.is_dir() {
            return Err(format!("{shown} is a folder: delete its files, or use run_command."));
        }
        self.touch();
        self.dir.remove_file(&resolved).map_err(|error| self.explain(&shown, &error))?;
        self.moved(&resolved, None);
        Ok(format!("Deleted {shown}."))
    }

    fn make_parent(&self, path: &Path) -> Result<(), String> {
        let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
            return Ok(());
        };
        self.touch();
        self.dir.create_dir_all(parent).map_err(|error| self.explain(&parent.to_string_lossy(), &error))
    }
}
