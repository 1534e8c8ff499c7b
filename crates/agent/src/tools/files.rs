//! The workspace's files as tools see them: every path beneath the root by the kernel's own check
//! (openat2), `.git` not writable, and what was read remembered by its hash.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::jail::WORKSPACE;

/// Largest file that a tool reads or edits.
pub(super) const MAX_FILE: u64 = 8 << 20;
/// Least likeness (Jaro-Winkler) of a name that is offered for one that is not there.
const ALIKE: f64 = 0.8;

/// What a tool says: its output, or why it refused, both for the model.
pub(super) type Said = Result<String, String>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Files {
    pub(super) dir: Dir,
    pub(super) root: PathBuf,
    pub(super) cap: usize,
    /// By path without links: the content as the model knows it.
    seen: Mutex<HashMap<PathBuf, [u8; 32]>>,
    /// Whether something was changed, or half changed, since it was last asked.
    touched: AtomicBool,
}

/// Set when nobody waits for a tool any more.
#[derive(Debug, Default)]
pub(crate) struct Stop(AtomicBool);

impl Stop {
    /// Nobody waits.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether nobody waits.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Files {
    /// The files below `root`; no output has more than `cap` bytes.
    pub fn open(root: &Path, cap: usize) -> io::Result<Files> {
        let dir = Dir::open_ambient_dir(root, ambient_authority())?;
        Ok(Files { dir, root: root.to_owned(), cap, seen: Mutex::default(), touched: AtomicBool::new(false) })
    }

    /// Something is about to be changed.
    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Whether something was changed since this was last asked, a change that failed halfway
    /// included.
    pub fn was_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Most bytes of an output.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// The path without links, for a path that exists; relative to the root.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        let canonical = self.dir.canonicalize(given(path)?).map_err(|error| self.explain(path, &error))?;
        Ok(if canonical == Path::new(".") { PathBuf::new() } else { canonical })
    }

    /// The same for a path whose last part may be missing, or may be a link that is meant itself;
    /// an error if it lies in `.git`.
    pub(super) fn resolve_for_writing(&self, path: &str) -> Result<PathBuf, String> {
        let path = given(path)?;
        let (Some(name), parent) = (path.file_name(), path.parent()) else {
            return Err(format!("{} is not the path of a file in the workspace.", path.display()));
        };
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        let mut missing = vec![name.to_owned()];
        let mut at = parent.unwrap_or(Path::new("."));
        // Folders that are still to be made.
        let mut resolved = loop {
            match self.dir.canonicalize(at) {
                Ok(resolved) => break resolved,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match (at.file_name(), at.parent()) {
                        (Some(name), Some(parent)) => {
                            missing.push(name.to_owned());
                            at = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                        }
                        (_, _) => return Err(self.explain(&path.to_string_lossy(), &error)),
                    }
                }
                Err(error) => return Err(self.explain(&path.to_string_lossy(), &error)),
            }
        };
        if resolved == Path::new(".") {
            resolved = PathBuf::new();
        }
        resolved.extend(missing.iter().rev());
        let is_git = |part: Component<'_>| part.as_os_str().eq_ignore_ascii_case(".git");
        if resolved.components().any(is_git) {
            return Err(format!("{} lies in .git, which may be read and not written.", path.display()));
        }
        Ok(resolved)
    }

    /// Opens a regular file; one that would block, such as a pipe, is none.
    pub(super) fn open_file(&self, path: &Path, options: &mut OpenOptions) -> Result<File, String> {
        let shown = path.to_string_lossy();
        let shown = if shown.is_empty() { ".".into() } else { shown };
        options.custom_flags(OFlags::NONBLOCK.bits() as i32);
        let file =
            self.dir.open_with(Path::new(&*shown), options).map_err(|error| self.explain(&shown, &error))?;
        let metadata = file.metadata().map_err(|error| self.explain(&shown, &error))?;
        if metadata.is_dir() {
            return Err(format!("{shown} is a folder: use list_directory."));
        }
        if !metadata.is_file() {
            return Err(format!("{shown} is not a regular file."));
        }
        if metadata.len() > MAX_FILE {
            return Err(format!(
                "{shown} has {} bytes, more than the {MAX_FILE} that this tool takes: use search_code, or \
                 run_command with head, tail or sed.",
                metadata.len()
            ));
        }
        Ok(file)
    }

    /// The whole content of a regular file.
    pub(super) fn content(&self, path: &Path) -> Result<Vec<u8>, String> {
        let file = self.open_file(path, OpenOptions::new().read(true))?;
        let mut content = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut content)
            .map_err(|error| self.explain(&path.to_string_lossy(), &error))?;
        Ok(content)
    }

    /// Writes a regular file in place, so that its mode stays; makes it if it is not there.
    pub(super) fn store(&self, path: &Path, content: &[u8], exists: bool) -> Result<(), String> {
        if content.len() as u64 > MAX_FILE {
            return Err(format!("{} would have more than {MAX_FILE} bytes.", path.display()));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(!exists);
        // Opening may make the file.
        if !exists {
            self.touch();
        }
        let mut file = self.open_file(path, &mut options)?;
        self.touch();
        let written = file.set_len(0).and_then(|()| file.write_all(content));
        written.map_err(|error| self.explain(&path.to_string_lossy(), &error))?;
        self.saw(path, content);
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<PathBuf, [u8; 32]>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model knows this content of a file.
    pub(super) fn saw(&self, path: &Path, content: &[u8]) {
        self.seen().insert(path.to_owned(), Sha256::digest(content).into());
    }

    /// The file is not there any more, or is at `to` with all below it.
    pub(super) fn moved(&self, from: &Path, to: Option<&Path>) {
        let mut seen = self.seen();
        let below: Vec<PathBuf> = seen.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in below {
            let hash = seen.remove(&path);
            if let (Some(hash), Some(to), Ok(rest)) = (hash, to, path.strip_prefix(from)) {
                // Joining an empty rest would leave a trailing slash.
                let at = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
                seen.insert(at, hash);
            }
        }
    }

    /// Whether the model knows the file as it is now; else why not.
    pub(super) fn check_seen(&self, path: &Path, content: &[u8]) -> Result<(), String> {
        let shown = path.display();
        let now: [u8; 32] = Sha256::digest(content).into();
        match self.seen().get(path) {
            Some(known) if *known == now => Ok(()),
            Some(_) => Err(format!(
                "{shown} has changed since it was last read, by a command or an earlier edit: read it again \
                 before changing it."
            )),
            None => Err(format!("{shown} has not been read yet: read it with read_file before changing it.")),
        }
    }

    /// A message for what went wrong with a path.
    pub(super) fn explain(&self, path: &str, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::NotFound => {
                let near =
                    self.nearest(path).map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
                format!("{path} does not exist.{near}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("{path} leads out of the workspace or may not be used: paths stay within it.")
            }
            io::ErrorKind::NotADirectory => format!("a part of {path} is a file and not a folder."),
            io::ErrorKind::IsADirectory => format!("{path} is a folder."),
            io::ErrorKind::AlreadyExists => format!("{path} exists already."),
            _ => format!("{path}: {error}."),
        }
    }

    /// The name in the same folder that is most like one that is not there.
    fn nearest(&self, path: &str) -> Option<String> {
        let path = Path::new(path);
        let name = path.file_name()?.to_str()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = self.dir.read_dir(parent).ok()?.flatten().take(2000);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let like = |candidate: String| (strsim::jaro_winkler(name, &candidate), candidate);
        let (likeness, near) = names.map(like).max_by(|a, b| a.0.total_cmp(&b.0))?;
        let near = if parent == Path::new(".") { PathBuf::from(near) } else { parent.join(near) };
        (likeness >= ALIKE).then(|| near.display().to_string())
    }
}

/// A path as the model gave it; an absolute one is refused with the relative one that it may mean.
fn given(path: &str) -> Result<&Path, String> {
    if path.contains('\0') {
        return Err("a path cannot hold a NUL character.".into());
    }
    if let Some(absolute) = path.strip_prefix('/') {
        let inside = path.strip_prefix(WORKSPACE).unwrap_or(absolute).trim_start_matches('/');
        let inside = if inside.is_empty() { "." } else { inside };
        return Err(format!("{path} is absolute: paths are relative to the workspace, such as {inside}."));
    }
    Ok(Path::new(path))
}
