//! The command line: what is asked for, and how it ends.

mod config;
mod jobs;
mod limits;
mod print;
mod submit;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use steadfast_store::{Location, Store, StoreError};

use crate::config::{Loaded, LogSettings};
use crate::exit::Exit;
use crate::logs::{self, Redactor};

const AFTER_HELP: &str = "\
Examples:
  steadfast submit --repo acme/shop --issue 42 --title 'Total is off by one' --body-file issue.md
  steadfast                       run the worker until SIGTERM or Ctrl-C
  steadfast jobs list             what is queued, running, parked, ended
  steadfast jobs show 6f1c...     one job, step by step
  steadfast jobs pause --owner o  begin no more jobs of one owner
  steadfast limits                what the fleet knows of its rate limits
  steadfast config check          all that is wrong with the configuration, at once

Exit codes:
  0   done; for run: asked to stop, and drained
  1   failed, the message says why; trying again alone does not help
  2   the command line cannot be understood
  70  run gave up after too many restarts of its parts: start it anew
  75  the queue cannot be reached: try again later

Configuration: built-in defaults, then ./config.toml or --config FILE, then STEADFAST_ variables.
Logs go to standard error, results to standard output.";

/// The worker that finishes autonomous code-agent jobs, however hard the APIs push back.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, about, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Configuration file; without it ./config.toml is read if it is there.
    #[arg(long, global = true, value_name = "FILE", env = "STEADFAST_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker (also without any command). SIGTERM or Ctrl-C drains it.
    Run,
    /// Put a job into the queue.
    Submit(Box<submit::SubmitArgs>),
    /// Look at jobs, call them off, retry them, pause and resume the queue.
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// What the fleet knows of its rate limits: used, waiting, gates, breakers.
    Limits(limits::LimitsArgs),
    /// Check, show or document the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs the program.
pub fn main() -> Exit {
    let cli = Cli::parse();
    let file = cli.config.as_deref();
    let command = match cli.command.unwrap_or(Command::Run) {
        Command::Config(command) => return config::run(&command, file),
        command @ (Command::Run | Command::Submit(_) | Command::Jobs(_) | Command::Limits(_)) => command,
    };
    let loaded = match crate::config::load(file) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Failed;
        }
    };
    let redactor = Redactor::new(loaded.secrets.all());
    match dispatch(command, loaded, &redactor) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("steadfast: {}", redactor.mask(&format!("{error:#}")));
            match error.downcast_ref::<StoreError>() {
                Some(StoreError::Unavailable(_)) => Exit::Unavailable,
                Some(
                    StoreError::LeaseLost { .. }
                    | StoreError::Corrupt(_)
                    | StoreError::Unusable(_)
                    | StoreError::TooLarge { .. },
                )
                | None => Exit::Failed,
            }
        }
    }
}

fn dispatch(command: Command, loaded: Loaded, redactor: &Redactor) -> anyhow::Result<Exit> {
    match command {
        Command::Run => {
            logs::init(&loaded.config.log, redactor)?;
            for note in &loaded.notes {
                tracing::warn!("{note}");
            }
            hide_memory();
            crate::run::run(loaded, redactor.clone())
        }
        Command::Submit(args) => {
            // Read and checked before the queue is opened: a bad job leaves no trace.
            let jobs = args.jobs(&loaded)?;
            with_store(&loaded, redactor, async |store| submit::run(&args, &jobs, store).await)
        }
        Command::Jobs(command) => with_store(&loaded, redactor, async |store| {
            jobs::run(&command, store, &loaded.config.agent).await
        }),
        Command::Limits(args) => {
            with_store(&loaded, redactor, async |store| limits::run(&args, &*store).await)
        }
        Command::Config(_) => unreachable!("handled before the configuration is loaded"),
    }
}

/// Opens the queue and does one thing with it. Only warnings are logged, unless a level was set.
fn with_store<F>(loaded: &Loaded, redactor: &Redactor, work: F) -> anyhow::Result<Exit>
where
    F: AsyncFnOnce(Arc<dyn Store>) -> anyhow::Result<Exit>,
{
    let quiet = LogSettings { level: "warn".into(), ..loaded.config.log.clone() };
    logs::init(if loaded.is_default("log.level") { &quiet } else { &loaded.config.log }, redactor)?;
    if matches!(loaded.config.queue.url.parse(), Ok(Location::Memory)) {
        anyhow::bail!(
            "queue.url is memory: that queue is in the worker's own process and cannot be reached from here"
        );
    }
    install_tls();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = steadfast_store::open(&loaded.config.queue, "steadfast-cli").await?;
        work(store).await
    })
}

/// Keeps other processes of the same user from reading this one's memory and environment, where its
/// secrets stand, and its memory from being dumped when it crashes.
fn hide_memory() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot hide this process's memory from others of the same user");
    }
}

/// Chooses ring for all TLS of the process; a second call changes nothing.
pub fn install_tls() {
    // An error means that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
}
