//! The jail in which the model's commands run: a ladder of levels, probed by really running one.
//!
//! An issue's text is written by strangers and steers the model, so every command is taken for
//! hostile. A command sees the system's programs read-only, its own workspace, HOME and /tmp, and
//! nothing else of the machine: no other process, no network, no environment of the worker.

mod bubblewrap;
mod capture;
pub mod confined;
mod limits;
mod place;
pub(crate) mod process;
mod settings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use bubblewrap::Bubblewrap;
pub(crate) use capture::{Captured, shorten};
use confined::Confined;
use place::Hidden;
pub(crate) use place::Place;
use process::Tree;
pub(crate) use process::{Exit, Task};
pub use settings::{CommandSettings, JailSettings, SYSTEM};

/// How well commands are locked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Level {
    /// Not at all, but for a clean environment, a process group and resource limits. It sees all
    /// that the worker sees, and a process of it that leaves the group outlives the command.
    None,
    /// By another user id.
    User,
    /// By Landlock and seccomp.
    Landlock,
    /// By bubblewrap: namespaces of its own, no network, the system read-only.
    Bubblewrap,
}

impl From<Level> for u8 {
    fn from(level: Level) -> u8 {
        match level {
            Level::None => 0,
            Level::User => 1,
            Level::Landlock => 2,
            Level::Bubblewrap => 3,
        }
    }
}

impl TryFrom<u8> for Level {
    type Error = String;
    fn try_from(level: u8) -> Result<Self, String> {
        match level {
            0 => Ok(Level::None),
            1 => Ok(Level::User),
            2 => Ok(Level::Landlock),
            3 => Ok(Level::Bubblewrap),
            other => Err(format!("there is no jail level {other}: 0 none, 1 user, 2 landlock, 3 bubblewrap")),
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::None => "0 (none)",
            Level::User => "1 (user)",
            Level::Landlock => "2 (landlock)",
            Level::Bubblewrap => "3 (bubblewrap)",
        })
    }
}

/// The jail as it was found on this machine.
#[derive(Debug)]
pub struct Jail {
    settings: JailSettings,
    command: CommandSettings,
    found: Found,
    why: String,
    hidden: Vec<Hidden>,
}

/// What commands are locked in by.
#[derive(Debug)]
enum Found {
    Bubblewrap(Bubblewrap),
    Landlock(Confined),
    Nothing,
}

/// Where a command of the highest level finds its workspace.
pub(crate) const WORKSPACE: &str = "/workspace";
/// Processes of the jail itself around a command, at most.
const WRAPPERS: u32 = 16;
/// Where it finds its HOME.
const HOME: &str = "/home/steadfast";

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailError {
    /// The machine offers less than the configuration asks for.
    #[error(
        "commands are not run here: the jail's level is {level}, agent.jail.min_level asks for {wanted}. {why}"
    )]
    TooWeak {
        /// What there is.
        level: Level,
        /// What is asked for.
        wanted: Level,
        /// Why there is no more, and the cure.
        why: String,
    },
    /// It could not be started, or not be ended.
    #[error("the command could not be run: {0}")]
    Run(#[from] std::io::Error),
}

impl Jail {
    /// Finds out the highest level of this machine by running a command in it.
    pub async fn probe(settings: JailSettings, command: CommandSettings) -> Jail {
        Jail::probe_up_to(Level::Bubblewrap, settings, command).await
    }

    /// The same, but no level above `most` is tried.
    pub(crate) async fn probe_up_to(most: Level, settings: JailSettings, command: CommandSettings) -> Jail {
        let (found, why) = Found::probe(most, &settings, &command).await;
        let jail = Jail { settings, command, found, why, hidden: Vec::new() };
        let (level, wanted, why) = (jail.level(), jail.settings.min_level, jail.why());
        if level < wanted {
            tracing::error!(%level, %wanted, why, "jail too weak, commands will be refused");
        } else {
            tracing::info!(%level, network = jail.settings.network, why, "jail probed");
        }
        jail
    }

    /// Hides files and folders from commands, where [`JailSettings::system`] would show them: the
    /// worker's configuration, its key files, its store. The folder of the workspaces is hidden anyway.
    pub fn hiding(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Jail {
        self.hidden.extend(paths.into_iter().filter_map(|path| Hidden::new(&path)));
        self
    }

    /// The level in which commands run.
    pub fn level(&self) -> Level {
        match self.found {
            Found::Bubblewrap(_) => Level::Bubblewrap,
            Found::Landlock(_) => Level::Landlock,
            Found::Nothing => Level::None,
        }
    }

    /// How the level was found, or what stands in the way of a higher one and the cure.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Whether the level is at least the one that the configuration asks for.
    pub fn suffices(&self) -> bool {
        self.level() >= self.settings.min_level
    }

    /// The bounds of commands and tools.
    pub fn bounds(&self) -> &CommandSettings {
        &self.command
    }

    /// Runs a shell command of the model in `place`.
    pub(crate) async fn run(
        &self,
        place: &Place,
        command: &str,
        timeout: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<process::Ended, JailError> {
        if !self.suffices() {
            let (level, wanted, why) = (self.level(), self.settings.min_level, self.why.clone());
            return Err(JailError::TooWeak { level, wanted, why });
        }
        let mut bounds = self.command.clone();
        let (mut child, tree, home, tmp) = match &self.found {
            Found::Bubblewrap(bubblewrap) => {
                bubblewrap.prepare(place).await?;
                let child = bubblewrap.command(&self.hidden, place);
                (child, Tree::Namespace, Path::new(HOME), Path::new("/tmp"))
            }
            Found::Landlock(confined) => {
                confined.prepare(place).await?;
                bounds = confined.bounds(&bounds);
                let child = confined.command(&self.hidden, place, false)?;
                (child, Tree::Warden, place.home.as_path(), place.tmp.as_path())
            }
            Found::Nothing => {
                let mut child = limits::shell();
                child.current_dir(&place.workspace);
                (child, Tree::Group, place.home.as_path(), place.tmp.as_path())
            }
        };
        limits::finish(&mut child, &bounds, command, tree == Tree::Namespace);
        limits::environment(&mut child, &self.settings, home, tmp);
        // Both streams in whole, so that the one that says more may have the other's room.
        let cap = usize::try_from(self.command.max_output_bytes.as_u64()).unwrap_or(usize::MAX);
        let task = Task {
            command: child,
            stdin: Vec::new(),
            stdout: Captured::head_and_tail(cap),
            stderr: Captured::head_and_tail(cap),
            // The kernel's bound comes first where it holds: it refuses and does not kill.
            max_processes: Some(self.command.processes.saturating_add(WRAPPERS)),
            tree,
            timeout: timeout.unwrap_or(self.command.timeout).min(self.command.max_timeout),
        };
        Ok(process::run(task, cancel).await?)
    }
}

impl Found {
    async fn probe(most: Level, settings: &JailSettings, command: &CommandSettings) -> (Found, String) {
        let mut whys = Vec::new();
        if most >= Level::Bubblewrap {
            match Bubblewrap::probe(settings, command).await {
                Ok(bubblewrap) => {
                    let why = format!("a probe ran in bubblewrap ({})", bubblewrap.describe());
                    return (Found::Bubblewrap(bubblewrap), why);
                }
                Err(why) => whys.push(format!("Not level 3: {why}")),
            }
        }
        if most >= Level::Landlock {
            match Confined::probe(settings, command).await {
                Ok(confined) => {
                    whys.insert(0, format!("a probe ran in {}", confined.describe()));
                    return (Found::Landlock(confined), whys.join(". "));
                }
                Err(why) => whys.push(format!("Not level 2: {why}")),
            }
        }
        (Found::Nothing, whys.join(". "))
    }
}

#[cfg(test)]
pub(crate) mod tests;
