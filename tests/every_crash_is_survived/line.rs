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
    Replay, Requeue, Result, Retried, RetryFrom, Settlement, State, Store, StoreError, Whom,
};
use tempfile::TempDir;
use tokio::time::Instant;

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
    [ "$(cat "$here/doom" "$here/loss" 2>/dev/null)" = "$(grep -cxF "$what / $1" "$here/points") $what / $1" ] || return 0
    if [ -e "$here/doom" ]; then echo killed >"$here/dead"; exit 1; fi
    : >"$here/lost"
    echo "fatal: unable to access the remote: Recv failure: Connection reset by peer" >&2
    exit 128
}
passes before
[ "$what" = "git push" ] && [ -e "$here/meddle" ] && mv "$here/meddle" "$here/meddled" && sh "$here/meddled"
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

/// What strikes a runner, and where: at the `nth` time that it passes the point, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blow {
    pub point: String,
    pub nth: u32,
    pub what: What,
}

/// What strikes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is killed.
    Kill,
    /// It stands still, longer than its lease, and goes on as if nothing had been. A request that it
    /// was about to send has no connection any more.
    Freeze,
    /// It cannot reach the store, longer than its lease.
    Partition,
    /// No answer comes, and in time it gives up waiting.
    TimeOut,
    /// The connection breaks at once.
    Reset,
    /// The actor that asks panics.
    Panic,
}

/// How long a runner is frozen or cut off: several leases.
const AWAY: Duration = Duration::from_secs(120);

/// The line of one runner.
pub struct Line {
    dir: PathBuf,
    condition: Mutex<Condition>,
}

#[derive(Default)]
struct Condition {
    passed: BTreeMap<String, u32>,
    blow: Option<Blow>,
    struck: bool,
    frozen_until: Option<Instant>,
    away_until: Option<Instant>,
    /// The actor that passes here panics, once.
    panic: Option<String>,
    dead: bool,
}

impl Line {
    pub fn new(dir: &Path, blow: Option<Blow>, panic: Option<&str>) -> Arc<Line> {
        std::fs::create_dir_all(dir).unwrap();
        symlink(git_program(), dir.join("git")).unwrap();
        if let Some(blow) = &blow {
            let file = if blow.what == What::Kill { "doom" } else { "loss" };
            std::fs::write(dir.join(file), format!("{} {}", blow.nth, blow.point)).unwrap();
        }
        let condition = Condition { blow, panic: panic.map(str::to_owned), ..Condition::default() };
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

    /// The shell's commands are run right before its first push.
    pub fn meddle_before_the_push(&self, commands: &str) {
        std::fs::write(self.dir.join("meddle"), commands).unwrap();
    }

    /// Whether what was to strike it did.
    pub fn was_struck(&self) -> bool {
        let killed = std::fs::read_to_string(self.dir.join("dead")).is_ok_and(|why| why.trim() == "killed");
        self.condition().struck || killed || self.dir.join("lost").exists()
    }

    /// How often each point was passed.
    pub fn passed(&self) -> BTreeMap<String, u32> {
        let mut passed = self.condition().passed.clone();
        for line in std::fs::read_to_string(self.dir.join("points")).unwrap_or_default().lines() {
            *passed.entry(line.to_owned()).or_default() += 1;
        }
        passed
    }

    /// Notes that a point is passed; what strikes the runner there.
    fn strikes(&self, point: &str) -> Option<What> {
        let mut condition = self.condition();
        let times = condition.passed.entry(point.to_owned()).or_default();
        *times += 1;
        let times = *times;
        let blow = condition.blow.take_if(|blow| blow.point == point && blow.nth == times);
        let panics = condition.panic.take_if(|at| at == point).is_some();
        let until = Some(Instant::now() + AWAY);
        let what = blow.map(|blow| blow.what);
        condition.struck |= what.is_some();
        match what {
            Some(What::Kill) => condition.dead = true,
            Some(What::Freeze) => condition.frozen_until = until,
            Some(What::Partition) => condition.away_until = until,
            Some(What::TimeOut | What::Reset | What::Panic) | None => {}
        }
        drop(condition);
        if what == Some(What::Kill) {
            std::fs::write(self.dir.join("dead"), "killed").unwrap();
        }
        assert!(!panics && what != Some(What::Panic), "on purpose, at {point}");
        what
    }

    /// Goes on when the runner does: never, if it is dead.
    async fn alive(&self) {
        if self.is_dead() {
            std::future::pending().await
        }
        let frozen = self.condition().frozen_until;
        if let Some(until) = frozen {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Whether the store is out of reach.
    fn reaches_store(&self) -> Result<()> {
        match self.condition().away_until {
            Some(until) if Instant::now() < until => Err(StoreError::Unavailable("cut off".to_owned())),
            Some(_) | None => Ok(()),
        }
    }

    async fn pass(&self, point: &str) {
        self.alive().await;
        self.strikes(point);
        self.alive().await;
    }

    /// A call that changes something.
    async fn around<T>(&self, what: &str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.pass(&point(what, BEFORE)).await;
        self.reaches_store()?;
        let answer = call.await;
        self.pass(&point(what, UNHEARD)).await;
        self.reaches_store()?;
        answer
    }

    /// A call that changes nothing.
    async fn aside<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.alive().await;
        self.reaches_store()?;
        let answer = call.await;
        self.alive().await;
        self.reaches_store()?;
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

    async fn claiming(
        &self,
        what: Transition<'_>,
        call: impl Future<Output = Result<Vec<Claim>>> + Send,
    ) -> Result<Vec<Claim>> {
        self.line.pass(&point(transition(&what), BEFORE)).await;
        self.line.reaches_store()?;
        let claims = call.await?;
        // One that finds nothing changes nothing.
        if !claims.is_empty() {
            self.line.pass(&point(transition(&what), UNHEARD)).await;
        }
        self.line.alive().await;
        Ok(claims)
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
        self.claiming(Transition::Claim, self.inner.claim(most)).await
    }
    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        self.claiming(Transition::ClaimCalledOff, self.inner.claim_called_off(most)).await
    }
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        self.through(Transition::Renew, self.inner.renew(leases)).await
    }
    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        self.line.aside(self.inner.called_off(leases)).await
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
    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        self.through(Transition::Retry, self.inner.retry(job, from)).await
    }
    async fn pause(&self, whom: &Whom) -> Result<()> {
        self.through(Transition::Pause, self.inner.pause(whom)).await
    }
    async fn resume(&self, whom: &Whom) -> Result<()> {
        self.through(Transition::Resume, self.inner.resume(whom)).await
    }
    async fn paused(&self) -> Result<Vec<Whom>> {
        self.line.aside(self.inner.paused()).await
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

impl WatchedWire {
    /// Passes one side of a request; what strikes there is the request's end.
    async fn pass(
        &self,
        what: &str,
        side: &str,
        timeouts: Timeouts,
    ) -> std::result::Result<(), TransportError> {
        self.line.alive().await;
        let strikes = self.line.strikes(&point(what, side));
        self.line.alive().await;
        match strikes {
            Some(What::TimeOut) => {
                let after = timeouts.first_byte;
                tokio::time::sleep(after).await;
                Err(TransportError::Timeout { what: "answer", after })
            }
            Some(What::Reset) => Err(TransportError::Lost("reset by peer".to_owned())),
            Some(What::Freeze) => Err(TransportError::Connect("the runner stood still".to_owned())),
            Some(What::Kill | What::Partition | What::Panic) | None => Ok(()),
        }
    }
}

#[async_trait]
impl Transport for WatchedWire {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> std::result::Result<Response<Body>, TransportError> {
        let what = asked(&what_is_asked(&request));
        self.pass(what, BEFORE, timeouts).await?;
        let answer = self.inner.send(request, timeouts).await;
        self.pass(what, UNHEARD, timeouts).await?;
        let (parts, mut body) = answer?.into_parts();
        let mut pieces = Vec::new();
        while let Some(piece) = body.next().await {
            pieces.push(piece);
        }
        self.line.alive().await;
        // The runner has the answer in its hands: what strikes it is seen by its next call.
        self.line.strikes(&point(what, HEARD));
        let body: Body = Box::pin(futures_util::stream::iter(pieces));
        Ok(Response::from_parts(parts, body))
    }
}
