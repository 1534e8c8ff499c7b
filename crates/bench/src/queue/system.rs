//! The systems that are compared, and how each one's processes are started.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;
use tokio::process::Command;

use super::server::Server;

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Ours on Redis.
    Steadfast,
    /// Ours in a file.
    Sqlite,
    /// BullMQ, on Node.js.
    Bullmq,
    /// apalis-redis, in Rust.
    Apalis,
}

impl System {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            System::Steadfast => "steadfast",
            System::Sqlite => "steadfast-sqlite",
            System::Bullmq => "bullmq",
            System::Apalis => "apalis-redis",
        }
    }

    /// Whether it is ours.
    pub fn is_ours(self) -> bool {
        match self {
            System::Steadfast | System::Sqlite => true,
            System::Bullmq | System::Apalis => false,
        }
    }
}

/// Where a run's queue is; gone with it.
pub enum Place {
    /// A server of its own.
    Redis(Box<Server>),
    /// A file of its own.
    File(TempDir),
}

impl Place {
    /// A new one, empty.
    pub async fn of(system: System) -> anyhow::Result<Self> {
        Ok(match system {
            System::Sqlite => Place::File(
                tempfile::Builder::new().prefix("steadfast-bench").tempdir().context("no folder")?,
            ),
            System::Steadfast | System::Bullmq | System::Apalis => {
                Place::Redis(Box::new(Server::start().await?))
            }
        })
    }

    /// As `queue.url`.
    pub fn url(&self) -> String {
        match self {
            Place::Redis(server) => format!("redis://127.0.0.1:{}", server.port),
            Place::File(folder) => format!("sqlite:{}/queue.db", folder.path().display()),
        }
    }

    fn port(&self) -> String {
        match self {
            Place::Redis(server) => server.port.to_string(),
            Place::File(_) => "0".to_owned(),
        }
    }
}

/// Where the other systems are, if they are there.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The folder of BullMQ's scripts, its modules installed.
    bullmq: Option<PathBuf>,
    /// apalis-redis's program.
    apalis: Option<PathBuf>,
}

impl Peers {
    /// Those that can be run; says which cannot, and why.
    pub async fn found(bullmq: &Path, apalis: Option<&Path>) -> Self {
        let node = Command::new("node").arg("--version").output().await;
        let bullmq = if node.is_err() {
            eprintln!("BullMQ is left out of the comparison: node cannot be run");
            None
        } else if !bullmq.join("node_modules/bullmq").is_dir() {
            eprintln!("BullMQ is left out of the comparison: it is not installed in {}", bullmq.display());
            None
        } else {
            Some(bullmq.to_path_buf())
        };
        let apalis = apalis.filter(|program| program.is_file()).map(Path::to_path_buf);
        if apalis.is_none() {
            eprintln!("apalis-redis is left out of the comparison: its program was not built");
        }
        Peers { bullmq, apalis }
    }

    /// All systems that can be compared on Redis, ours first.
    pub fn compared(&self) -> Vec<System> {
        let bullmq = self.bullmq.as_ref().map(|_| System::Bullmq);
        let apalis = self.apalis.as_ref().map(|_| System::Apalis);
        std::iter::once(System::Steadfast).chain(bullmq).chain(apalis).collect()
    }

    /// A process of a system in a role, `worker` or `producer`, with its number and, ours, more words.
    pub fn command(
        &self,
        system: System,
        place: &Place,
        role: &str,
        number: u64,
        more: &[String],
    ) -> anyhow::Result<Command> {
        let (program, first) = match system {
            System::Steadfast | System::Sqlite => {
                (std::env::current_exe()?, vec![role.to_owned(), place.url()])
            }
            System::Bullmq => {
                let folder = self.bullmq.as_ref().context("BullMQ is not there")?;
                let script = folder.join(format!("{role}.js")).display().to_string();
                (PathBuf::from("node"), vec![script, place.port()])
            }
            System::Apalis => {
                let program = self.apalis.clone().context("apalis-redis is not there")?;
                (program, vec![role.to_owned(), place.port()])
            }
        };
        let mut command = Command::new(program);
        command.args(first).arg(number.to_string()).args(more);
        Ok(command)
    }
}
