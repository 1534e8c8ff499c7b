//! What lies between one runner and the world: a store that answers late, or not, or not truthfully,
//! and a wire that goes dead with its runner. All of it from a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use steadfast_store::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Retried, RetryFrom,
    Settlement, State, Store, StoreError, Whom,
};
use tokio::time::Instant;

/// How often a call to the store goes wrong, 0 to 1 each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Not done, and told so.
    pub refused: f64,
    /// Done, and told that it may not have been.
    pub denied: f64,
    /// Done or answered some seconds late.
    pub late: f64,
    /// The actor that calls panics.
    pub panic: f64,
}

/// At which call a runner dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deathbed {
    /// An append to a journal.
    Append,
    /// A transition out of running.
    Settle,
    /// A claim.
    Claim,
    /// A request to a provider.
    Request,
}

/// A death to come.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub at: Deathbed,
    /// Calls of this kind that pass first.
    pub skip: u32,
    /// Whether the call is done before it dies.
    pub done: bool,
}

/// What happened on all lines, for the bounds of what may have been lost.
#[derive(Debug, Default)]
pub struct Ledger {
    pub panics: u32,
    pub deaths: u32,
    /// Claims by a runner that never heard of them, by job.
    pub unheard: BTreeMap<JobId, i64>,
}

/// The line of one runner.
pub struct Line {
    pub name: String,
    condition: Mutex<Condition>,
    ledger: Arc<Mutex<Ledger>>,
}

struct Condition {
    dice: StdRng,
    rates: Rates,
    panics_left: u32,
    away_until: Option<Instant>,
    frozen_until: Option<Instant>,
    dead: bool,
    death: Option<Death>,
}

/// What becomes of one call to the store.
enum Fate {
    Fair,
    Refused,
    Denied,
    LateDone(Duration),
    LateAnswer(Duration),
    Panic,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    pub fn new(name: &str, seed: u64, rates: Rates, panics: u32, ledger: Arc<Mutex<Ledger>>) -> Arc<Line> {
        let condition = Condition {
            dice: StdRng::seed_from_u64(seed),
            rates,
            panics_left: panics,
            away_until: None,
            frozen_until: None,
            dead: false,
            death: None,
        };
        Arc::new(Line { name: name.to_owned(), condition: Mutex::new(condition), ledger })
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        locked(&self.condition)
    }

    /// The store cannot be reached by this runner for so long.
    pub fn lose_store(&self, wait: Duration) {
        self.condition().away_until = Some(Instant::now() + wait);
    }

    /// The runner stands still for so long, then goes on as if nothing had been.
    pub fn freeze(&self, wait: Duration) {
        self.condition().frozen_until = Some(Instant::now() + wait);
    }

    /// The runner is to die.
    pub fn doom(&self, death: Death) {
        self.condition().death = Some(death);
    }

    /// The runner is gone, now.
    pub fn cut(&self) {
        self.condition().dead = true;
    }

    pub fn is_dead(&self) -> bool {
        self.condition().dead
    }

    /// Fair weather from here on.
    pub fn clear(&self) {
        let mut condition = self.condition();
        condition.rates = Rates::default();
        condition.away_until = None;
        condition.frozen_until = None;
        condition.death = None;
    }

    fn is_frozen(&self) -> bool {
        self.condition().frozen_until.is_some_and(|until| Instant::now() < until)
    }

    /// Goes on when the runner does: never, if it is dead.
    async fn alive(&self) {
        loop {
            let (dead, frozen) = {
                let condition = self.condition();
                (condition.dead, condition.frozen_until.filter(|until| Instant::now() < *until))
            };
            match (dead, frozen) {
                (true, _) => std::future::pending().await,
                (false, Some(_)) => tokio::time::sleep(Duration::from_secs(1)).await,
                (false, None) => return,
            }
        }
    }

    /// Whether it dies of this call; and whether the call is done first.
    fn dies(&self, at: Deathbed) -> Option<bool> {
        let mut condition = self.condition();
        let death = condition.death.as_mut().filter(|death| death.at == at)?;
        if death.skip > 0 {
            death.skip -= 1;
            return None;
        }
        let done = death.done;
        condition.death = None;
        drop(condition);
        locked(&self.ledger).deaths += 1;
        Some(done)
    }

    async fn die<T>(&self) -> T {
        self.condition().dead = true;
        std::future::pending().await
    }

    fn fate(&self) -> Fate {
        let mut condition = self.condition();
        let (roll, late) = (condition.dice.random::<f64>(), condition.dice.random_range(10..4500));
        let (Rates { refused, denied, late: lates, panic }, late) =
            (condition.rates, Duration::from_millis(late));
        let mut edge = 0.0;
        let mut below = |share: f64| {
            edge += share;
            roll < edge
        };
        if below(refused) {
            Fate::Refused
        } else if below(denied) {
            Fate::Denied
        } else if below(lates / 2.0) {
            Fate::LateDone(late)
        } else if below(lates / 2.0) {
            Fate::LateAnswer(late)
        } else if below(panic) && condition.panics_left > 0 {
            condition.panics_left -= 1;
            locked(&self.ledger).panics += 1;
            Fate::Panic
        } else {
            Fate::Fair
        }
    }

    /// One call to the store, through the weather.
    async fn store<T>(
        &self,
        kind: Option<Deathbed>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.alive().await;
        let away = self.condition().away_until.is_some_and(|until| Instant::now() < until);
        if away {
            let wait = self.condition().dice.random_range(1..5000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        let dies = kind.and_then(|kind| self.dies(kind));
        if dies == Some(false) {
            return self.die().await;
        }
        let fate = self.fate();
        match fate {
            Fate::Refused => return Err(StoreError::Unavailable("not done".to_owned())),
            Fate::LateDone(late) => tokio::time::sleep(late).await,
            Fate::Fair | Fate::Denied | Fate::LateAnswer(_) | Fate::Panic => {}
        }
        self.alive().await;
        let answer = call.await;
        if dies == Some(true) {
            return self.die().await;
        }
        match fate {
            Fate::Denied => return Err(StoreError::Unavailable("done, perhaps".to_owned())),
            Fate::LateAnswer(late) => tokio::time::sleep(late).await,
            Fate::Panic => panic!("on purpose, on the line of {}", self.name),
            Fate::Fair | Fate::Refused | Fate::LateDone(_) => {}
        }
        self.alive().await;
        answer
    }
}

/// A runner's store.
pub struct StormyStore {
    pub inner: Arc<dyn Store>,
    pub line: Arc<Line>,
}

impl StormyStore {
    /// A claim, noting whose answer was not heard: their leases end as if their runner had crashed.
    async fn claiming(&self, claim: impl Future<Output = Result<Vec<Claim>>> + Send) -> Result<Vec<Claim>> {
        let note = |claims: &[Claim], change: i64| {
            let mut ledger = locked(&self.line.ledger);
            for claim in claims {
                *ledger.unheard.entry(claim.lease.job.clone()).or_default() += change;
            }
        };
        let claiming = async {
            let claims = claim.await?;
            note(&claims, 1);
            Ok(claims)
        };
        let claims = self.line.store(Some(Deathbed::Claim), claiming).await?;
        note(&claims, -1);
        Ok(claims)
    }
}

#[async_trait]
impl Store for StormyStore {
    fn ledger(&self) -> Arc<dyn steadfast_store::Ledger> {
        self.inner.ledger()
    }
    async fn submit(&self, job: &Job) -> Result<Admission> {
        self.line.store(None, self.inner.submit(job)).await
    }
    async fn wait(&self, longest: Duration) -> Result<()> {
        self.line.store(None, self.inner.wait(longest)).await
    }
    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        self.claiming(self.inner.claim(most)).await
    }
    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        self.claiming(self.inner.claim_called_off(most)).await
    }
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        self.line.store(None, self.inner.renew(leases)).await
    }
    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        self.line.store(None, self.inner.called_off(leases)).await
    }
    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        self.line.store(Some(Deathbed::Append), self.inner.append(lease, at, steps, patch)).await
    }
    async fn replay(&self, job: &JobId) -> Result<Replay> {
        self.line.store(None, self.inner.replay(job)).await
    }
    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        self.line.store(Some(Deathbed::Settle), self.inner.park(lease, until, why)).await
    }
    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        self.line.store(Some(Deathbed::Settle), self.inner.requeue(lease, after, why)).await
    }
    async fn release(&self, lease: &Lease) -> Result<()> {
        self.line.store(Some(Deathbed::Settle), self.inner.release(lease)).await
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        self.line.store(Some(Deathbed::Settle), self.inner.settle(lease, settlement)).await
    }
    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        self.line.store(None, self.inner.cancel(job)).await
    }
    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        self.line.store(None, self.inner.retry(job, from)).await
    }
    async fn pause(&self, whom: &Whom) -> Result<()> {
        self.line.store(None, self.inner.pause(whom)).await
    }
    async fn resume(&self, whom: &Whom) -> Result<()> {
        self.line.store(None, self.inner.resume(whom)).await
    }
    async fn paused(&self) -> Result<Vec<Whom>> {
        self.line.store(None, self.inner.paused()).await
    }
    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        self.line.store(None, self.inner.inspect(job)).await
    }
    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        self.line.store(None, self.inner.list(state, most)).await
    }
    async fn count(&self) -> Result<[u64; 4]> {
        self.line.store(None, self.inner.count()).await
    }
    async fn purge(&self) -> Result<u64> {
        self.line.store(None, self.inner.purge()).await
    }
    async fn now(&self) -> Result<Timestamp> {
        self.line.store(None, self.inner.now()).await
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}

/// A runner's way to the providers. What goes wrong beyond it is the world's own affair.
pub struct StormyWire {
    pub inner: Arc<dyn Transport>,
    pub line: Arc<Line>,
}

#[async_trait]
impl Transport for StormyWire {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> std::result::Result<http::Response<Body>, TransportError> {
        if self.line.is_frozen() {
            // Whatever it was about to send when it froze, the connection is gone when it wakes up.
            self.line.alive().await;
            return Err(TransportError::Connect("the runner stood still".to_owned()));
        }
        self.line.alive().await;
        let dies = self.line.dies(Deathbed::Request);
        if dies == Some(false) {
            return self.line.die().await;
        }
        let answer = self.inner.send(request, timeouts).await;
        if dies == Some(true) {
            return self.line.die().await;
        }
        self.line.alive().await;
        answer
    }
}
