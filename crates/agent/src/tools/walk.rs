//! `list_directory`, and the walk over the workspace that honours `.gitignore`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::{DirEntry, WalkBuilder};

use super::files::{Files, Said, Stop};

/// Levels of a recursive list that names none.
const DEPTH: u32 = 5;
/// Most entries that a list shows.
const SHOWN: usize = 500;
/// Most entries that a list counts.
const COUNTED: usize = 20_000;

impl Files {
    /// What is in a folder.
    pub fn list_directory(&self, path: &str, recursive: bool, max_depth: Option<u32>, stop: &Stop) -> Said {
        let folder = self.resolve(path)?;
        let shown = if folder.as_os_str().is_empty() { ".".into() } else { folder.display().to_string() };
        let metadata =
            self.dir.metadata(if folder.as_os_str().is_empty() { Path::new(".") } else { &folder });
        if !metadata.map_err(|error| self.explain(&shown, &error))?.is_dir() {
            return Err(format!("{shown} is a file: use read_file."));
        }
        let depth = if recursive { max_depth.unwrap_or(DEPTH) as usize } else { 1 };
        let mut entries = self.entries(&folder, depth, true, stop);
        let mut note = String::new();
        if entries.is_empty() {
            entries = self.entries(&folder, depth, false, stop);
            note = "[git ignores all of these]".into();
        }
        if entries.is_empty() {
            return Ok(format!("{shown} is empty."));
        }
        let total = entries.len();
        let mut output = format!("{shown}:\n");
        for (position, entry) in entries.into_iter().enumerate() {
            if position >= SHOWN || output.len() + entry.len() > self.cap.saturating_sub(200) {
                let more = if total >= COUNTED { "at least " } else { "" };
                note = format!("[{more}{} more: list a folder within]", total - position);
                break;
            }
            output.push_str(&entry);
            output.push('\n');
        }
        Ok(output + &note)
    }

    fn entries(&self, folder: &Path, depth: usize, ignoring: bool, stop: &Stop) -> Vec<String> {
        let mut entries = Vec::new();
        for (path, entry) in self.walk(folder, Some(depth), ignoring) {
            if stop.is_set() || entries.len() >= COUNTED {
                break;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            let kind = entry.file_type();
            let is = |test: fn(&std::fs::FileType) -> bool| kind.as_ref().is_some_and(test);
            if is(std::fs::FileType::is_dir) {
                entries.push(format!("{name}/"));
            } else if is(std::fs::FileType::is_symlink) {
                let target = self.dir.read_link_contents(&path).unwrap_or_default();
                entries.push(format!("{name} -> {}", target.display()));
            } else {
                entries.push(name);
            }
        }
        entries
    }

    /// Everything below `folder` (which has no links in it) in order of names, links not followed,
    /// `.git` left out.
    pub(super) fn walk(
        &self,
        folder: &Path,
        depth: Option<usize>,
        ignoring: bool,
    ) -> impl Iterator<Item = (PathBuf, DirEntry)> {
        // The walk begins at the root, so that the .gitignore files above the folder count, and
        // none above the root.
        let (root, wanted) = (Arc::new(self.root.clone()), Arc::new(folder.to_owned()));
        let (walk_root, walk_wanted) = (Arc::clone(&root), Arc::clone(&wanted));
        let above = folder.components().count();
        let mut builder = WalkBuilder::new(&*root);
        builder
            .standard_filters(false)
            .git_ignore(ignoring)
            .require_git(false)
            .parents(false)
            .follow_links(false)
            .sort_by_file_name(|a, b| a.cmp(b))
            .max_depth(depth.map(|depth| depth + above))
            .filter_entry(move |entry| {
                let path = entry.path().strip_prefix(&*walk_root).unwrap_or(Path::new(""));
                let is_git = entry.depth() > 0 && entry.file_name() == ".git";
                !is_git && (path.starts_with(&*walk_wanted) || walk_wanted.starts_with(path))
            });
        builder.build().flatten().filter_map(move |entry| {
            let path = entry.path().strip_prefix(&*root).ok()?.to_owned();
            let inside = path.starts_with(&*wanted) && path != *wanted;
            inside.then_some((path, entry))
        })
    }
}
