//! What lies between one runner and the world: it names each crash point that is passed, and at one
//! of them the runner is gone, as if killed: nothing of it reaches anybody any more.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use steadfast_core::job::{Job, JobId};
use steadfast_core::journal::Step;
use steadfast_core::time::Timestamp;
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use steadfast_store::{
    Admission, Cancellation, Claim, Heard, Inspection, Keep, Kept, Lease, Ledger, Listener, Noted, Renewal,
    Replay, Requeue, Result, Settlement, State, Store,
};
use tempfile::TempDir;

use super::points::{BEFORE, HEARD, Transition, UNHEARD, asked, event, point, transition, what_is_asked};

/// Stands in git's place: both sides of what reaches the remote are crash points, and a runner that
/// is dead reaches it no more. It finds its runner's folder beside the name that it was called by.
pub const GIT: &str = r#"#!/bin/sh
here=${0%/*}
[ -e "$here/dead" ] && exit 1
case " $* " in
*" push --quiet --no-verify "*) what="git push" ;;
*" fetch --quiet "*) what="git fetch" ;;
*" ls-remote -- "*) what="git ls_remote" ;;
*) exec git "$@" ;;
esac
passes() {
    echo "$what / $1" >>"$here/points"
    [ -e "$here/doom" ] || return 0
    times=$(grep -cxF "$what / $1" "$here/points")
    if [ "$(cat "$here/doom")" = "$times $what / $1" ]; then echo killed >"$here/dead"; exit 1; fi
}
passes before
git "$@"
code=$?
passes "done, unheard"
exit $code
"#;

/// The program, written once: one that is written while another thread forks cannot be run.
fn git_program() -> &'static Path {
    static PROGRAM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("git.sh");
        std::fs::write(&path, GIT).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    });
    path
}

/// Where a runner is killed: at the `nth` time that it passes the point, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub point: String,
    pub nth: u32,
}

/// The line of one runner.
pub struct Line {
    dir: PathBuf,
    condition: Mutex<Condition>,
}

#[derive(Default)]
struct Condition {
    passed: BTreeMap<String, u32>,
    kill: Option<Kill>,
    /// The actor that passes here panics, once.
    panic: Option<String>,
    dead: bool,
}

impl Line {
    pub fn new(dir: &Path, kill: Option<Kill>, panic: Option<&str>) -> Arc<Line> {
        std::fs::create_dir_all(dir).unwrap();
        symlink(git_program(), dir.join("git")).unwrap();
        if let Some(kill) = &kill {
            std::fs::write(dir.join("doom"), format!("{} {}", kill.nth, kill.point)).unwrap();
        }
        let condition = Condition { kill, panic: panic.map(str::to_owned), ..Condition::default() };
        Arc::new(Line { dir: dir.to_owned(), condition: Mutex::new(condition) })
    }

    /// The program in git's place.
    pub fn git(&self) -> PathBuf {
        self.dir.join("git")
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_dead(&self) -> bool {
        self.condition().dead || self.dir.join("dead").exists()
    }

    /// The runner is gone, now.
    pub fn cut(&self) {
        self.condition().dead = true;
        let gone = self.dir.join("dead");
        if !gone.exists() {
            std::fs::write(gone, "cut").unwrap();
        }
    }

    /// Whether it was killed at the point where it was to be.
    pub fn was_killed(&self) -> bool {
        std::fs::read_to_string(self.dir.join("dead")).is_ok_and(|why| why.trim() == "killed")
    }

    /// How often each point was passed.
    pub fn passed(&self) -> BTreeMap<String, u32> {
        let mut passed = self.condition().passed.clone();
        for line in std::fs::read_to_string(self.dir.join("points")).unwrap_or_default().lines() {
            *passed.entry(line.to_owned()).or_default() += 1;
        }
        passed
    }

    /// Notes that a point is passed; whether the runner dies of it.
    fn dies_at(&self, point: &str) -> bool {
        let mut condition = self.condition();
        if condition.dead {
            return true;
        }
        let times = condition.passed.entry(point.to_owned()).or_default();
        *times += 1;
        let times = *times;
        let dies = condition.kill.as_ref().is_some_and(|kill| kill.point == point && kill.nth == times);
        let panics = condition.panic.take_if(|at| at == point).is_some();
        drop(condition);
        if dies {
            std::fs::write(self.dir.join("dead"), "killed").unwrap();
            self.cut();
        }
        assert!(!panics, "on purpose, at {point}");
        dies
    }

    /// Goes on, if the runner does.
    async fn alive(&self) {
        if self.is_dead() {
            std::future::pending().await
        }
    }

    async fn pass(&self, point: &str) {
        if self.dies_at(point) {
            std::future::pending().await
        }
        self.alive().await;
    }

    /// A call that changes something.
    async fn around<T>(&self, what: &str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.alive().await;
        self.pass(&point(what, BEFORE)).await;
        let answer = call.await;
        self.pass(&point(what, UNHEARD)).await;
        answer
    }

    /// A call that changes nothing.
    async fn aside<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.alive().await;
        let answer = call.await;
        self.alive().await;
        answer
    }
}

/// A runner's store.
pub struct Watched {
    pub inner: Arc<dyn Store>,
    pub line: Arc<Line>,
}

impl Watched {
    async fn through<T>(
        &self,
        what: Transition<'_>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.line.around(transition(&what), call).await
    }
}

#[async_trait]
impl Store for Watched {
    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(WatchedLedger { inner: self.inner.ledger(), line: Arc::clone(&self.line) })
    }
    async fn submit(&self, job: &Job) -> Result<Admission> {
        self.through(Transition::Submit, self.inner.submit(job)).await
    }
    async fn wait(&self, longest: Duration) -> Result<()> {
        self.line.aside(self.inner.wait(longest)).await
    }
    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        self.line.alive().await;
        self.line.pass(&point(transition(&Transition::Claim), BEFORE)).await;
        let claims = self.inner.claim(most).await?;
        // One that finds nothing changes nothing.
        if !claims.is_empty() {
            self.line.pass(&point(transition(&Transition::Claim), UNHEARD)).await;
        }
        self.line.alive().await;
        Ok(claims)
    }
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        self.through(Transition::Renew, self.inner.renew(leases)).await
    }
    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        let [step] = steps else { panic!("{} steps in one write have no name", steps.len()) };
        let step = Step::decode(step).unwrap();
        let what = event((&step.event, patch.is_some()));
        self.line.around(what, self.inner.append(lease, at, steps, patch)).await
    }
    async fn replay(&self, job: &JobId) -> Result<Replay> {
        self.line.aside(self.inner.replay(job)).await
    }
    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        self.through(Transition::Park, self.inner.park(lease, until, why)).await
    }
    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        self.through(Transition::Requeue(why), self.inner.requeue(lease, after, why)).await
    }
    async fn release(&self, lease: &Lease) -> Result<()> {
        self.through(Transition::Release, self.inner.release(lease)).await
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        let what = Transition::Settle(settlement.status);
        self.through(what, self.inner.settle(lease, settlement)).await
    }
    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        self.through(Transition::Cancel, self.inner.cancel(job)).await
    }
    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        self.line.aside(self.inner.inspect(job)).await
    }
    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        self.line.aside(self.inner.list(state, most)).await
    }
    async fn count(&self) -> Result<[u64; 4]> {
        self.line.aside(self.inner.count()).await
    }
    async fn purge(&self) -> Result<u64> {
        self.through(Transition::Purge, self.inner.purge()).await
    }
    async fn now(&self) -> Result<Timestamp> {
        self.line.aside(self.inner.now()).await
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}

/// A runner's limit ledger. It holds no job: its calls are no crash points, but end with the runner.
struct WatchedLedger {
    inner: Arc<dyn Ledger>,
    line: Arc<Line>,
}

#[async_trait]
impl Ledger for WatchedLedger {
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()> {
        self.line.aside(self.inner.say(budget, words)).await
    }
    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept> {
        self.line.aside(self.inner.keep(budget, keep)).await
    }
    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>> {
        let inner = self.line.aside(self.inner.listen(member)).await?;
        Ok(Box::new(WatchedListener { inner, line: Arc::clone(&self.line) }))
    }
    async fn budgets(&self, most: usize) -> Result<Vec<Noted>> {
        self.line.aside(self.inner.budgets(most)).await
    }
}

struct WatchedListener {
    inner: Box<dyn Listener>,
    line: Arc<Line>,
}

#[async_trait]
impl Listener for WatchedListener {
    async fn next(&mut self) -> Result<Heard> {
        let heard = self.inner.next().await;
        self.line.alive().await;
        heard
    }
}

/// A runner's way to the servers.
pub struct WatchedWire {
    pub inner: Arc<dyn Transport>,
    pub line: Arc<Line>,
}

#[async_trait]
impl Transport for WatchedWire {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> std::result::Result<Response<Body>, TransportError> {
        self.line.alive().await;
        let what = asked(&what_is_asked(&request));
        self.line.pass(&point(what, BEFORE)).await;
        let answer = self.inner.send(request, timeouts).await;
        self.line.pass(&point(what, UNHEARD)).await;
        let (parts, mut body) = answer?.into_parts();
        let mut pieces = Vec::new();
        while let Some(piece) = body.next().await {
            pieces.push(piece);
        }
        self.line.alive().await;
        // The runner has the answer in its hands, and comes to nothing with it.
        let _it_is_seen_by_the_next_call = self.line.dies_at(&point(what, HEARD));
        let body: Body = Box::pin(futures_util::stream::iter(pieces));
        Ok(Response::from_parts(parts, body))
    }
}
