//! One child process: its output drained within a cap, its whole group killed at a time limit, on
//! cancelling, and when the future that waits for it is dropped.
//!
//! The child runs on the blocking pool with std's process, not tokio's: a paused clock does not run
//! ahead while blocking work is out.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio_util::sync::CancellationToken;

use super::capture::Captured;

/// How often the first process of a namespace is looked for.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// How often the processes of a command are counted.
const COUNT_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 40_000_000 };
/// Rounds of reading after which they are counted though no pause came.
const COUNT_AFTER: u32 = 32;
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
    /// How all that it starts is held together, and killed.
    pub tree: Tree,
    /// Its wall time.
    pub timeout: Duration,
}

/// What holds a child and all that it starts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// Its process group.
    Group,
    /// A process namespace that it makes: it is fed a line once the first process in there is known,
    /// and is over only when that one is gone, and all others of the namespace before it.
    Namespace,
    /// The child itself is a warden: it ends all below it, and then itself, when the pipe that it
    /// reads is closed. The kernel closes it should we die.
    Warden,
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
    match tokio::time::timeout(DYING * 3, running).await {
        Ok(Ok(Ok(ended))) => Ok(Ended { exit: cut_short, ..ended }),
        // Killed before it was started.
        Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::Interrupted => {
            Ok(Ended { exit: cut_short, stdout: Captured::whole(0), stderr: Captured::whole(0) })
        }
        Ok(Ok(Err(error))) => Err(error),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(undead()),
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
    Running(Pid, Hold),
    Killed,
    Reaped,
}

/// By what a running child is killed.
enum Hold {
    /// A signal to its group.
    Group,
    /// A warden's pipe, closed.
    Leash(Option<ChildStdin>),
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut Command, tree: Tree) -> io::Result<Child> {
        let mut state = self.state();
        if matches!(*state, State::Killed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut child = command.spawn()?;
        let hold = match tree {
            Tree::Warden => Hold::Leash(child.stdin.take()),
            Tree::Group | Tree::Namespace => Hold::Group,
        };
        *state = State::Running(Pid::from_child(&child), hold);
        Ok(child)
    }

    fn kill(&self) {
        let mut state = self.state();
        match &mut *state {
            State::Running(pid, Hold::Group) => {
                // It fails if the group is gone, and that is what was wanted.
                let _ = kill_process_group(*pid, Signal::KILL);
                *state = State::Killed;
            }
            State::Running(_, Hold::Leash(leash)) => {
                drop(leash.take());
                *state = State::Killed;
            }
            State::NotStarted => *state = State::Killed,
            State::Killed | State::Reaped => {}
        }
    }

    /// Kills what is left of the group, and lets the leader go.
    fn reap(&self, child: &mut Child, is_warden: bool) -> io::Result<ExitStatus> {
        let mut state = self.state();
        // A warden ends what is left below it; killed, it could not.
        if !is_warden {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        }
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
    let Task { mut command, stdin, mut stdout, mut stderr, max_processes, tree, timeout: _ } = task;
    let is_namespace = tree == Tree::Namespace;
    let is_fed = tree != Tree::Group || !stdin.is_empty();
    command
        .stdin(if is_fed { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = group.spawn(&mut command, tree)?;
    let mut namespace = is_namespace.then_some(Namespace::Sought);
    let input = if is_namespace { &b"\n"[..] } else { &stdin };
    let mut watch = Watch { group, stdout: &mut stdout, stderr: &mut stderr, max_processes };
    let watched = watch.run(&mut child, input, &mut namespace);
    let status = group.reap(&mut child, tree == Tree::Warden)?;
    if let Some(Namespace::Known(first)) = namespace {
        wait_for_end(&first)?;
    }
    let too_many = watched?;
    let exit = match (too_many, status.code(), status.signal()) {
        (true, _, _) => Exit::TooManyProcesses,
        (false, Some(code), _) => Exit::Code(code),
        (false, None, signal) => Exit::Signal(signal.unwrap_or_default()),
    };
    Ok(Ended { exit, stdout, stderr })
}

/// The process namespace that a child makes.
enum Namespace {
    /// Its first process is not known yet.
    Sought,
    /// Its first process.
    Known(OwnedFd),
}

/// What is done while a child runs.
struct Watch<'a> {
    group: &'a Group,
    stdout: &'a mut Captured,
    stderr: &'a mut Captured,
    max_processes: Option<u32>,
}

impl Watch<'_> {
    /// Feeds and drains the child until it ends; whether it was killed for having too many
    /// processes.
    fn run(
        &mut self,
        child: &mut Child,
        input: &[u8],
        namespace: &mut Option<Namespace>,
    ) -> io::Result<bool> {
        let pid = Pid::from_child(child);
        let exit = pidfd_open(pid, PidfdFlags::empty())?;
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        stdin.as_ref().map_or(Ok(()), set_nonblocking)?;
        stdout.as_ref().map_or(Ok(()), set_nonblocking)?;
        stderr.as_ref().map_or(Ok(()), set_nonblocking)?;
        let mut unsent = input;
        let (mut too_many, mut uncounted) = (false, 0);
        loop {
            if matches!(namespace, Some(Namespace::Sought)) {
                *namespace = first_child(pid).map(Namespace::Known).or(Some(Namespace::Sought));
            }
            let is_sought = matches!(namespace, Some(Namespace::Sought));
            let mut wait_for = vec![PollFd::new(&exit, PollFlags::IN)];
            wait_for.extend(stdout.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            wait_for.extend(stderr.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            if !is_sought {
                wait_for.extend(stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
            }
            let tick = match (is_sought, self.max_processes) {
                (true, _) => Some(&LOOK_EVERY),
                (false, Some(_)) => Some(&COUNT_EVERY),
                (false, None) => None,
            };
            uncounted += 1;
            match poll(&mut wait_for, tick) {
                Ok(0) => uncounted = COUNT_AFTER,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = !wait_for[0].revents().is_empty();
            drop(wait_for);
            if !is_sought {
                feed(&mut stdin, &mut unsent);
            }
            let most = if ended { LAST_READ } else { 1 << 16 };
            drain(&mut stdout, self.stdout, most);
            drain(&mut stderr, self.stderr, most);
            if ended {
                return Ok(too_many);
            }
            if let Some(most) = self.max_processes
                && !too_many
                && uncounted >= COUNT_AFTER
            {
                uncounted = 0;
                too_many = count(pid, most) > most;
                if too_many {
                    self.group.kill();
                }
            }
        }
    }
}

/// The first process of the namespace that `parent` made, if it has made it.
fn first_child(parent: Pid) -> Option<OwnedFd> {
    let parent = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let child = Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)?;
    pidfd_open(child, PidfdFlags::empty()).ok()
}

/// Waits until a namespace's first process is gone, which the kernel lets happen last.
fn wait_for_end(first: &OwnedFd) -> io::Result<()> {
    let longest = Timespec { tv_sec: DYING.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(first, PollFlags::IN)], Some(&longest)) {
        Ok(0) => Err(undead()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn undead() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("its processes are not gone {DYING:?} after they were killed"),
    )
}

fn set_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    Ok(rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?)
}

fn feed(pipe: &mut Option<ChildStdin>, unsent: &mut &[u8]) {
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

/// How many processes and threads a user has, as far as they are seen.
pub(crate) fn of_user(user: u32) -> u32 {
    let mut found: u32 = 0;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if is_process && process.metadata().is_ok_and(|process| process.uid() == user) {
            let threads = fs::read_dir(process.path().join("task")).map_or(1, Iterator::count);
            found = found.saturating_add(u32::try_from(threads).unwrap_or(u32::MAX));
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
            tree: Tree::Group,
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

    /// Waits until the process is no more.
    async fn gone(pid: &str) {
        let stat = format!("/proc/{}/stat", pid.trim().parse::<u32>().unwrap());
        // Killed processes stay as zombies where nobody reaps orphans.
        let lives = || fs::read_to_string(&stat).is_ok_and(|state| !state.contains(") Z "));
        until(|| !lives()).await;
    }

    /// Waits for something, for some seconds at most, on a clock that may be paused.
    async fn until(holds: impl Fn() -> bool) {
        for _ in 0..3_000_000 {
            if holds() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("it never came");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_kills_grandchildren() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let never = CancellationToken::new();
        let mut running = Box::pin(run(task(&script), &never));
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = until(|| file.exists()) => {}
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(running.await.unwrap().exit, Exit::TimedOut);
        gone(&fs::read_to_string(&file).unwrap()).await;
    }

    #[tokio::test]
    async fn what_is_left_in_the_background_ends_with_the_command() {
        let ended = ended(task("sleep 1000 & echo $!")).await;
        assert_eq!(ended.exit, Exit::Code(0));
        gone(&ended.stdout.text()).await;
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", file.display());
        let never = CancellationToken::new();
        let mut running = Box::pin(run(task(&script), &never));
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = until(|| file.exists()) => {}
        }
        drop(running);
        gone(&fs::read_to_string(&file).unwrap()).await;
    }

    #[tokio::test]
    async fn cancelling_ends_it() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(run(task("sleep 1000"), &cancel).await.unwrap().exit, Exit::Cancelled);
    }

    #[tokio::test]
    async fn too_many_processes_end_it_even_while_it_prints() {
        for then in ["wait", "yes"] {
            let script = format!("for i in $(seq 30); do sleep 1000 & done; {then}");
            let many = Task { max_processes: Some(8), ..task(&script) };
            assert_eq!(ended(many).await.exit, Exit::TooManyProcesses, "{then}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_does_not_run_ahead_of_a_child() {
        assert_eq!(ended(task("sleep 0.2")).await.exit, Exit::Code(0));
    }
}
