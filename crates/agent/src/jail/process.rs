//! One child process: its output drained within a cap, its whole group killed at a time limit, on
//! cancelling, and when the future that waits for it is dropped.
//!
//! The child runs on the blocking pool with std's process, not tokio's: a paused clock does not run
//! ahead while blocking work is out.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio_util::sync::CancellationToken;

use super::capture::Captured;

/// How often the processes of a command are counted.
const COUNT_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 40_000_000 };
/// How long a killed group may take to be gone before it is left to the kernel.
const DYING: Duration = Duration::from_secs(5);
/// Most bytes read at the end from a pipe that something out of reach may still write to.
const LAST_READ: usize = 1 << 20;

/// A child to be run.
pub(crate) struct Task {
    /// Program, arguments, environment, folder.
    pub command: Command,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// Its output, empty.
    pub stdout: Captured,
    /// Its errors, empty.
    pub stderr: Captured,
    /// Most processes and threads that it may have at once; it is killed beyond them.
    pub max_processes: Option<u32>,
    /// Its wall time.
    pub timeout: Duration,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// By what.
    pub exit: Exit,
    /// What it wrote.
    pub stdout: Captured,
    /// What it complained of.
    pub stderr: Captured,
}

/// By what a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// Killed at its wall time.
    TimedOut,
    /// Killed because the work was called off.
    Cancelled,
    /// Killed because it had too many processes.
    TooManyProcesses,
}

/// Runs a child to its end. Errors are those of starting it.
pub(crate) async fn run(task: Task, cancel: &CancellationToken) -> io::Result<Ended> {
    let timeout = task.timeout;
    let group = Arc::new(Group::default());
    // Dropping this future drops the guard, and that kills the group.
    let _guard = KillOnDrop(Arc::clone(&group));
    let supervised = Arc::clone(&group);
    let mut running = tokio::task::spawn_blocking(move || supervise(task, &supervised));
    let cut_short = tokio::select! {
        biased;
        ended = &mut running => return ended.unwrap_or_else(|error| Err(io::Error::other(error))),
        () = cancel.cancelled() => Exit::Cancelled,
        () = tokio::time::sleep(timeout) => Exit::TimedOut,
    };
    group.kill();
    match tokio::time::timeout(DYING, running).await {
        Ok(Ok(Ok(ended))) => Ok(Ended { exit: cut_short, ..ended }),
        Ok(Ok(Err(error))) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        // Never started, or not gone in time: nothing is known of its output.
        Ok(_) | Err(_) => {
            Ok(Ended { exit: cut_short, stdout: Captured::whole(0), stderr: Captured::whole(0) })
        }
    }
}

/// The process group of a child, killed at most while its leader is not reaped: so the number can
/// never be another group's.
#[derive(Default)]
struct Group(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    NotStarted,
    Running(Pid),
    Killed,
    Reaped,
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut state = self.state();
        if matches!(*state, State::Killed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = command.spawn()?;
        *state = State::Running(Pid::from_child(&child));
        Ok(child)
    }

    fn kill(&self) {
        let mut state = self.state();
        match *state {
            State::Running(pid) => {
                // It fails if the group is gone, and that is what was wanted.
                let _ = kill_process_group(pid, Signal::KILL);
                *state = State::Killed;
            }
            State::NotStarted => *state = State::Killed,
            State::Killed | State::Reaped => {}
        }
    }

    /// Kills what is left of the group, and lets the leader go.
    fn reap(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut state = self.state();
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        *state = State::Reaped;
        child.wait()
    }
}

struct KillOnDrop(Arc<Group>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn supervise(task: Task, group: &Group) -> io::Result<Ended> {
    let Task { mut command, stdin, mut stdout, mut stderr, max_processes, timeout: _ } = task;
    let feed = if stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(feed).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = group.spawn(&mut command)?;
    let watched = watch(&mut child, &stdin, &mut stdout, &mut stderr, max_processes, group);
    if watched.is_err() {
        group.kill();
    }
    let status = group.reap(&mut child)?;
    let too_many = watched?;
    let exit = match (too_many, status.code(), status.signal()) {
        (true, _, _) => Exit::TooManyProcesses,
        (false, Some(code), _) => Exit::Code(code),
        (false, None, signal) => Exit::Signal(signal.unwrap_or_default()),
    };
    Ok(Ended { exit, stdout, stderr })
}

/// Feeds and drains the child until it ends; whether it was killed for having too many processes.
fn watch(
    child: &mut Child,
    stdin: &[u8],
    stdout: &mut Captured,
    stderr: &mut Captured,
    max_processes: Option<u32>,
    group: &Group,
) -> io::Result<bool> {
    let pid = Pid::from_child(child);
    let exit = pidfd_open(pid, PidfdFlags::empty())?;
    let (mut input, mut output, mut errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    for pipe in
        [input.as_ref().map(AsFd::as_fd), output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)]
            .into_iter()
            .flatten()
    {
        set_nonblocking(pipe)?;
    }
    let mut unsent = stdin;
    let mut too_many = false;
    let tick = max_processes.map(|_| COUNT_EVERY);
    loop {
        let mut wait_for = vec![PollFd::new(&exit, PollFlags::IN)];
        wait_for.extend(output.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        wait_for.extend(errors.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        wait_for.extend(input.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        match poll(&mut wait_for, tick.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = !wait_for[0].revents().is_empty();
        drop(wait_for);
        feed(&mut input, &mut unsent);
        let most = if ended { LAST_READ } else { 1 << 16 };
        drain(&mut output, stdout, most);
        drain(&mut errors, stderr, most);
        if ended {
            return Ok(too_many);
        }
        if max_processes.is_some_and(|most| !too_many && count(pid, most) > most) {
            too_many = true;
            group.kill();
        }
    }
}

fn set_nonblocking(pipe: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    Ok(rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?)
}

fn feed(pipe: &mut Option<std::process::ChildStdin>, unsent: &mut &[u8]) {
    let Some(open) = pipe else { return };
    match open.write(unsent) {
        Ok(sent) => *unsent = &unsent[sent..],
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            return;
        }
        // The child reads no more.
        Err(_) => *unsent = &[],
    }
    if unsent.is_empty() {
        *pipe = None;
    }
}

/// Reads what is there, at most about `most` bytes; closes the pipe at its end.
fn drain<R: Read>(pipe: &mut Option<R>, into: &mut Captured, most: usize) {
    let mut buffer = [0; 1 << 13];
    let mut read = 0;
    while let Some(open) = pipe
        && read < most
    {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(bytes) => {
                into.push(&buffer[..bytes]);
                read += bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

/// How many threads there are in the tree below `root`; counting stops beyond `most`. The kernel
/// does not hold root to `RLIMIT_NPROC`, so somebody else has to count.
fn count(root: Pid, most: u32) -> u32 {
    let mut found = 0;
    let mut todo = vec![root.as_raw_nonzero().get()];
    while let Some(pid) = todo.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            found += 1;
            if found > most {
                return found;
            }
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(script: &str) -> Task {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Task {
            command,
            stdin: Vec::new(),
            stdout: Captured::head_and_tail(1000),
            stderr: Captured::head_and_tail(1000),
            max_processes: None,
            timeout: Duration::from_secs(60),
        }
    }

    async fn ended(task: Task) -> Ended {
        run(task, &CancellationToken::new()).await.unwrap()
    }

    #[tokio::test]
    async fn gives_output_errors_and_exit_code() {
        let ended = ended(task("echo out; echo err >&2; exit 3")).await;
        assert_eq!(ended.exit, Exit::Code(3));
        assert_eq!((ended.stdout.text().as_str(), ended.stderr.text().as_str()), ("out\n", "err\n"));
    }

    #[tokio::test]
    async fn feeds_more_than_a_pipe_holds() {
        let fed = Task { stdin: vec![b'x'; 1 << 20], ..task("wc -c") };
        assert_eq!(ended(fed).await.stdout.text().trim(), (1 << 20).to_string());
        let unread = Task { stdin: vec![b'x'; 1 << 20], ..task("exit 0") };
        assert_eq!(ended(unread).await.exit, Exit::Code(0));
    }

    #[tokio::test]
    async fn huge_output_is_drained_and_not_stored() {
        let ended = ended(task("head -c 50000000 /dev/zero")).await;
        assert_eq!((ended.exit, ended.stdout.total()), (Exit::Code(0), 50_000_000));
        assert!(ended.stdout.text().len() < 1100);
    }

    /// The pid that a script's background child wrote, and a wait for its end.
    async fn gone(pid: &str) -> bool {
        for _ in 0..500 {
            let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            // Killed processes stay as zombies where nobody reaps orphans.
            if state.is_empty() || state.contains(") Z ") {
                return true;
            }
            tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
        }
        false
    }

    #[tokio::test]
    async fn the_time_limit_kills_grandchildren() {
        let slow = Task { timeout: Duration::from_millis(300), ..task("sleep 1000 & echo $!; wait") };
        let ended = ended(slow).await;
        assert_eq!(ended.exit, Exit::TimedOut);
        assert!(gone(&ended.stdout.text()).await, "grandchild {} lives", ended.stdout.text());
    }

    #[tokio::test]
    async fn what_is_left_in_the_background_ends_with_the_command() {
        let ended = ended(task("sleep 1000 & echo $!")).await;
        assert_eq!(ended.exit, Exit::Code(0));
        assert!(gone(&ended.stdout.text()).await, "background process lives");
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", file.display());
        let never = CancellationToken::new();
        let pid = {
            let mut future = Box::pin(run(task(&script), &never));
            loop {
                let short = tokio::time::timeout(Duration::from_millis(10), &mut future);
                assert!(short.await.is_err(), "ended by itself");
                if let Ok(pid) = fs::read_to_string(&file) {
                    break pid;
                }
            }
        };
        assert!(gone(&pid).await, "child lives");
    }

    #[tokio::test]
    async fn cancelling_ends_it() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(run(task("sleep 1000"), &cancel).await.unwrap().exit, Exit::Cancelled);
    }

    #[tokio::test]
    async fn too_many_processes_end_it() {
        let many = Task { max_processes: Some(8), ..task("for i in $(seq 30); do sleep 1000 & done; wait") };
        assert_eq!(ended(many).await.exit, Exit::TooManyProcesses);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_does_not_run_ahead_of_a_child() {
        assert_eq!(ended(task("sleep 0.2")).await.exit, Exit::Code(0));
    }
}
