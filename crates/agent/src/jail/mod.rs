//! The jail in which the model's commands run: a ladder of levels, probed by really running one.

mod settings;

use serde::{Deserialize, Serialize};

pub use settings::{CommandSettings, JailSettings, SYSTEM};

/// How well commands are locked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Level {
    /// Not at all, but for a clean environment, a process group and resource limits.
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
