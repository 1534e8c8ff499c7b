//! What a command of the model may do and use: `[agent.jail]` and `[agent.command]`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::Level;

/// `[agent.jail]`: how commands are locked in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailSettings {
    /// The weakest jail in which commands are run: 3 bubblewrap, 2 Landlock, 1 another user,
    /// 0 none. Below it commands are refused. Default 2.
    pub min_level: Level,
    /// Whether commands may use the network: all of the machine's, with the services on its own
    /// loopback. Default false.
    pub network: bool,
    /// Names of environment variables that commands inherit from the worker, where set. A name
    /// that speaks of a secret (token, key, password) is never handed on. Default `LANG`,
    /// `LC_ALL`, `TZ`, `PATH`.
    pub env_allow: Vec<String>,
    /// Files and folders that commands may read, beside the workspace; those that are not there
    /// are left out. Default: the system's programs and libraries, and what they need of `/etc`.
    pub system: Vec<PathBuf>,
    /// The bubblewrap program. Default `bwrap`, found in `PATH`.
    pub bubblewrap: PathBuf,
}

/// `[agent.command]`: the bounds of one command, and of what a tool tells the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// Wall time of a command that names none. Default 2 minutes.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest wall time that a command may ask for. Default 10 minutes.
    #[serde(with = "humantime_serde")]
    pub max_timeout: Duration,
    /// Processor time of each process of a command. Default 10 minutes.
    #[serde(with = "humantime_serde")]
    pub cpu: Duration,
    /// Private memory of each process of a command (`RLIMIT_DATA`). Default 4 GB.
    pub memory: ByteSize,
    /// Processes and threads of a command at one time. Default 512.
    pub processes: u32,
    /// Size of each file that a command writes. Default 1 GB.
    pub file_size: ByteSize,
    /// Files that each process of a command holds open. Default 1024.
    pub open_files: u32,
    /// Most bytes that any one tool tells the model; the middle is left out beyond it.
    /// Default 32 KB.
    pub max_output_bytes: ByteSize,
}

/// What [`JailSettings::system`] is by default.
pub const SYSTEM: [&str; 27] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/debian_version",
    "/etc/hosts",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/pki",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/ssl",
];
