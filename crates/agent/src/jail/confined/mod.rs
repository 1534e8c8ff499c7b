//! Level 2: Landlock and seccomp, for machines that forbid user namespaces, by our own program
//! executed anew.
//!
//! Two processes stand between the worker and a command. The warden ([`warden`]) adopts whatever
//! loses its parent, and ends all of it when the command is over or the worker lets go of it. Its
//! child locks itself in ([`rules`], [`filter`]) and becomes the command's shell. Both are this
//! program, which must therefore call [`entered`] before anything else.

mod filter;
mod rules;
mod warden;
mod way;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::place::{Hidden, Place};
use super::process::Tree;
use super::settings::{CommandSettings, JailSettings};
use super::{Captured, Exit, Task, limits, process};

/// First argument of the warden.
const WARD: &str = "jail-exec";
/// First argument of its child.
const ENTER: &str = "jail-enter";
/// This program, even if its file was replaced meanwhile.
const MYSELF: &str = "/proc/self/exe";
/// Exit code of a jail that could not be made.
const NO_JAIL: u8 = 125;
/// The probe's wall time.
const PROBE: Duration = Duration::from_secs(20);
/// How many times the bound of processes the kernel allows where it counts all of a user's.
const SHARED: u32 = 4;

/// Whether this program called [`entered`]: if not, executing it anew would run it and no jail.
static HAS_ENTRY: AtomicBool = AtomicBool::new(false);

/// What the warden and its child are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    /// The user that the command is to be; none where the worker is not root.
    user: Option<u32>,
    /// What it may read and execute.
    read: Vec<PathBuf>,
    /// Folders that are its own.
    write: Vec<PathBuf>,
    /// Whether it may use the network.
    network: bool,
    /// Whether to say on standard error what of Landlock there is.
    report: bool,
}

/// A Landlock that works on this machine.
#[derive(Debug)]
pub(super) struct Confined {
    system: Vec<PathBuf>,
    network: bool,
    is_root: bool,
    found: String,
}

/// To be called first of all in `main`, before there is a thread: where this process was started as
/// a part of a jail, it does that and gives the exit code. In all others it gives nothing, and lets
/// [`super::Jail::probe`] know that level 2 can be made.
pub fn entered() -> Option<u8> {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().unwrap_or_default();
    let rest = args.collect();
    if first == WARD {
        return Some(told(warden::run(rest)));
    }
    if first == ENTER {
        return Some(told(enter(rest).map(|never| match never {})));
    }
    HAS_ENTRY.store(true, Ordering::Relaxed);
    None
}

fn told(ended: Result<u8, String>) -> u8 {
    match ended {
        Ok(code) => code,
        Err(why) => {
            eprintln!("jail: {why}");
            NO_JAIL
        }
    }
}

/// Takes the specification from the arguments; the rest is the program to be run and its arguments.
fn parse(args: &mut Vec<OsString>) -> Result<Spec, String> {
    let text = if args.is_empty() { OsString::new() } else { args.remove(0) };
    serde_json::from_str(&text.to_string_lossy())
        .map_err(|error| format!("this is for the worker's own use, and its specification is bad: {error}"))
}

/// The warden's child: locks itself in, and becomes the program.
fn enter(mut args: Vec<OsString>) -> Result<std::convert::Infallible, String> {
    let warden = if args.is_empty() { OsString::new() } else { args.remove(0) };
    let spec = parse(&mut args)?;
    let failed = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("death signal"))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.is_none_or(|parent| warden != *parent) {
        return Err("its warden is gone".into());
    }
    rustix::process::setsid().map_err(failed("new session"))?;
    // Where memory runs out, a command goes before the worker does. Not all kernels let one.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // Rights that a service manager gave to the worker would come along, and the program needs none.
    rustix::thread::clear_ambient_capability_set().map_err(failed("capabilities"))?;
    let found = rules::restrict(&spec)?;
    if spec.report {
        eprintln!("{found}");
    }
    filter::apply(spec.network, &found)?;
    let mut args = args.into_iter();
    let program = args.next().ok_or("there is no program to run")?;
    Err(Command::new(program).args(args).exec().to_string())
}

impl Confined {
    /// Runs a command in it; the error says what stands in the way.
    pub async fn probe(settings: &JailSettings, bounds: &CommandSettings) -> Result<Confined, String> {
        if !HAS_ENTRY.load(Ordering::Relaxed) {
            return Err("this program has no entry for it (jail::entered)".into());
        }
        let no_folder = |error: std::io::Error| format!("no folder for a probe: {error}");
        let folder = tempfile::tempdir().map_err(no_folder)?;
        let place = Place::make(&folder.path().join("probe")).map_err(no_folder)?;
        let mut confined = Confined {
            system: settings.system.iter().filter_map(|path| path.canonicalize().ok()).collect(),
            network: settings.network,
            is_root: rustix::process::geteuid().is_root(),
            found: String::new(),
        };
        confined.prepare(&place).await.map_err(|error| error.to_string())?;
        let mut command = confined.command(&[], &place, true).map_err(|error| error.to_string())?;
        // It writes where it may, and does not read what lies beside it, though its mode lets all.
        let script = format!("echo . > probe && ! cat {:?} 2>/dev/null", place.etc.join("passwd"));
        limits::finish(&mut command, &confined.bounds(bounds), &script, false);
        limits::environment(&mut command, settings, &place.home, &place.tmp);
        let task = Task {
            command,
            stdin: Vec::new(),
            stdout: Captured::whole(0),
            stderr: Captured::head_and_tail(600),
            max_processes: None,
            tree: Tree::Warden,
            timeout: PROBE,
        };
        let ended = process::run(task, &CancellationToken::new()).await.map_err(|error| error.to_string())?;
        let said = ended.stderr.text().trim().to_owned();
        if ended.exit != Exit::Code(0) || !place.workspace.join("probe").is_file() {
            return Err(format!("{:?}: {said}", ended.exit));
        }
        confined.found = said;
        Ok(confined)
    }

    /// What was found, for the log.
    pub fn describe(&self) -> String {
        let user = if self.is_root {
            "commands as another user"
        } else {
            "commands as the worker's user, so the kernel does not bound their processes alone, they are counted"
        };
        format!("{}, seccomp, {user}", self.found)
    }

    /// The bounds as the kernel is told them. It counts the processes of a user: where that is the
    /// worker's own, its others must not use the bound up.
    pub fn bounds(&self, bounds: &CommandSettings) -> CommandSettings {
        let mut bounds = bounds.clone();
        if !self.is_root {
            let others = process::of_user(rustix::process::geteuid().as_raw());
            bounds.processes = bounds.processes.saturating_mul(SHARED).saturating_add(others);
        }
        bounds
    }

    /// Gives the workspace to the user that the command will be. Nothing runs in it meanwhile.
    pub async fn prepare(&self, place: &Place) -> std::io::Result<()> {
        if !self.is_root {
            return Ok(());
        }
        let place = place.clone();
        let given = tokio::task::spawn_blocking(move || way::open(&place));
        given.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    /// A child that is the shell within the jail; its arguments and environment are still to come.
    pub fn command(&self, hidden: &[Hidden], place: &Place, report: bool) -> std::io::Result<Command> {
        let root = Hidden { real: place.root.clone(), is_folder: true };
        let hidden: Vec<&Path> = hidden.iter().chain([&root]).map(|hidden| hidden.real.as_path()).collect();
        let spec = Spec {
            user: self.is_root.then_some(place.user),
            read: self.system.iter().flat_map(|shown| way::around(shown, &hidden)).collect(),
            write: place.writable().map(Path::to_owned).into(),
            network: self.network,
            report,
        };
        let mut command = Command::new(MYSELF);
        command.arg0("steadfast").arg(WARD).arg(serde_json::to_string(&spec)?).arg("/bin/sh");
        command.current_dir(&place.workspace);
        Ok(command)
    }
}

#[cfg(test)]
mod tests;
