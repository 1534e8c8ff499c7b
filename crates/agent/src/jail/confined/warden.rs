//! The warden of one command: adopts what loses its parent, and ends all below it.
//!
//! It stands outside of the jail. It is told to end everything by its standard input's end, so that
//! it does so as well when the worker was killed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Uid, fchown};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open, set_child_subreaper,
    wait,
};

use super::{ENTER, MYSELF, parse};

/// How often orphans that ended are let go: until then they count as processes.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Added to a signal's number, as shells do.
const BY_SIGNAL: i32 = 128;

/// Runs the command to its end, or to the end of standard input; its exit code.
pub(super) fn run(mut args: Vec<OsString>) -> Result<u8, String> {
    let text = args.first().cloned().unwrap_or_default();
    let spec = parse(&mut args)?;
    let failed = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    let this = getpid();
    set_child_subreaper(Some(this)).map_err(failed("cannot adopt orphans"))?;
    children()
        .map_err(|error| format!("this kernel does not list children (CONFIG_PROC_CHILDREN): {error}"))?;
    let mut command = Command::new(MYSELF);
    command.arg0("steadfast").arg(ENTER).arg(this.as_raw_nonzero().to_string()).arg(text).args(args);
    command.stdin(Stdio::null());
    if let Some(user) = spec.user {
        // A pipe that is opened by name, as `/dev/stderr`, is asked whose it is.
        let owner = Some(Uid::from_raw(user));
        fchown(std::io::stdout(), owner, None).map_err(failed("cannot hand over the output"))?;
        fchown(std::io::stderr(), owner, None).map_err(failed("cannot hand over the errors"))?;
        // std clears the other groups along with it.
        command.uid(user).gid(user);
    }
    let child = command.spawn().map_err(|error| match spec.user {
        Some(user) => format!("cannot run as user {user}, and not as root: {error}"),
        None => error.to_string(),
    })?;
    let child = Pid::from_child(&child);
    let watched = watch(child);
    // Whatever happened: nothing is left behind.
    let swept = sweep(child);
    let code = watched.map_err(failed("cannot watch the command"))?;
    let late = swept.map_err(failed("cannot end all that the command started"))?;
    Ok(code.or(late).unwrap_or(u8::MAX))
}

/// Waits until the command has ended, and gives its exit code; or until standard input has.
fn watch(child: Pid) -> Result<Option<u8>, Errno> {
    let ended = pidfd_open(child, PidfdFlags::empty())?;
    let leash = std::io::stdin();
    loop {
        let mut wait_for = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&leash, PollFlags::IN)];
        match poll(&mut wait_for, Some(&LOOK_EVERY)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let is_let_go = !wait_for[1].revents().is_empty();
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            if pid == child {
                return Ok(Some(exit_code(status)));
            }
        }
        if is_let_go {
            return Ok(None);
        }
    }
}

/// Kills and waits until there is no child any more; the exit code of the command, if it was one of
/// them. Only children are killed, whose numbers cannot be given to others before we wait for them:
/// theirs become ours by that.
fn sweep(child: Pid) -> Result<Option<u8>, Errno> {
    let mut code = None;
    loop {
        let children = children()?;
        for pid in &children {
            let _ = kill_process(*pid, Signal::KILL);
        }
        // The list may leave one out while another ends: then nobody may be waited for yet.
        let mut options = if children.is_empty() { WaitOptions::NOHANG } else { WaitOptions::empty() };
        loop {
            match wait(options) {
                Ok(Some((pid, status))) if pid == child => code = Some(exit_code(status)),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(Errno::CHILD) => return Ok(code),
                Err(error) => return Err(error),
            }
            options = WaitOptions::NOHANG;
        }
    }
}

/// This process's children: there is but one thread.
fn children() -> Result<Vec<Pid>, Errno> {
    let this = getpid().as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/self/task/{this}/children"))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or(status.terminating_signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
