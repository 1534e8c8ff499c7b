//! What lies between one runner and the world: a store that answers late, or not, or not truthfully,
//! a wire that goes dead with its runner, a clock that jumps. All of it from a seed, all of it traced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use steadfast_core::job::JobId;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_store::{Result, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::trace::Trace;
use super::witness::Witness;

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
    /// A renewal of leases.
    Renew,
    /// A journal is read.
    Replay,
    /// A request to a provider.
    Request,
    /// A fetch or a push.
    Git,
    /// A tool.
    Tool,
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
    trace: Arc<Trace>,
    pub witness: Arc<Witness>,
    /// How far its wall clock is ahead, in milliseconds.
    skew: AtomicI64,
    gone: CancellationToken,
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

impl Fate {
    fn word(&self) -> &'static str {
        match self {
            Fate::Fair => "",
            Fate::Refused => ", not done",
            Fate::Denied => ", but the answer is lost",
            Fate::LateDone(_) => ", late",
            Fate::LateAnswer(_) => ", and the answer is late",
            Fate::Panic => ", and the actor panics",
        }
    }
}

/// A call to the store, as the trace names it.
pub struct Call<'a> {
    pub name: &'static str,
    pub job: Option<&'a JobId>,
    pub kind: Option<Deathbed>,
    /// Whether the trace has it where all goes well.
    pub told: bool,
    /// Whether the actor that calls may panic of it.
    pub panics: bool,
    /// What else is worth a word.
    pub detail: String,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    pub fn new(
        name: &str,
        seed: u64,
        (rates, panics): (Rates, u32),
        ledger: Arc<Mutex<Ledger>>,
        trace: Arc<Trace>,
        witness: Arc<Witness>,
    ) -> Arc<Line> {
        let condition = Condition {
            dice: StdRng::seed_from_u64(seed),
            rates,
            panics_left: panics,
            away_until: None,
            frozen_until: None,
            dead: false,
            death: None,
        };
        let condition = Mutex::new(condition);
        let (skew, gone) = (AtomicI64::new(0), CancellationToken::new());
        Arc::new(Line { name: name.to_owned(), condition, ledger, trace, witness, skew, gone })
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        locked(&self.condition)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        locked(&self.ledger)
    }

    /// One line of the story.
    pub fn note(&self, job: Option<&JobId>, what: impl Into<String>) {
        self.trace.note(&self.name, job.map(JobId::as_str), what);
    }

    /// The store cannot be reached by this runner for so long.
    pub fn lose_store(&self, wait: Duration) {
        self.witness.disturb(&self.name);
        self.condition().away_until = Some(Instant::now() + wait);
    }

    /// The runner stands still for so long, then goes on as if nothing had been.
    pub fn freeze(&self, wait: Duration) {
        self.witness.disturb(&self.name);
        self.condition().frozen_until = Some(Instant::now() + wait);
    }

    /// The runner is to die.
    pub fn doom(&self, death: Death) {
        self.condition().death = Some(death);
    }

    /// The runner is gone, now.
    pub fn cut(&self) {
        self.witness.disturb(&self.name);
        self.condition().dead = true;
        self.gone.cancel();
    }

    /// Waits for its death.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether what was said to it arrives.
    pub(super) async fn hears(&self) -> Result<()> {
        self.alive().await;
        let away = self.condition().away_until.is_some_and(|until| Instant::now() < until);
        if away { Err(StoreError::Unavailable("away".to_owned())) } else { Ok(()) }
    }

    /// The runner's wall clock jumps, ahead or back.
    pub fn jump(&self, millis: i64) {
        self.skew.fetch_add(millis, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.condition().dead
    }

    /// Whether nothing holds it up.
    pub fn is_fit(&self) -> bool {
        let condition = self.condition();
        let passed = |until: Option<Instant>| until.is_none_or(|until| until <= Instant::now());
        !condition.dead && passed(condition.away_until) && passed(condition.frozen_until)
    }

    /// Fair weather from here on.
    pub fn clear(&self) {
        self.skew.store(0, Ordering::Relaxed);
        let mut condition = self.condition();
        condition.rates = Rates::default();
        condition.away_until = None;
        condition.frozen_until = None;
        condition.death = None;
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.condition().frozen_until.is_some_and(|until| Instant::now() < until)
    }

    /// Goes on when the runner does: never, if it is dead.
    pub(super) async fn alive(&self) {
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
    pub(super) fn dies(&self, at: Deathbed) -> Option<bool> {
        let mut condition = self.condition();
        let death = condition.death.as_mut().filter(|death| death.at == at)?;
        if death.skip > 0 {
            death.skip -= 1;
            return None;
        }
        let done = death.done;
        condition.death = None;
        drop(condition);
        self.ledger().deaths += 1;
        Some(done)
    }

    pub(super) async fn die<T>(&self, job: Option<&JobId>, at: &str) -> T {
        self.note(job, format!("{at}: the runner dies"));
        self.cut();
        std::future::pending().await
    }

    /// Something that the runner does by itself, which it may die of.
    pub async fn passes(&self, at: Deathbed, job: Option<&JobId>, what: &str) {
        self.alive().await;
        if self.dies(at).is_some() {
            self.die(job, what).await
        }
        self.note(job, what);
    }

    /// One exchange with the git remote.
    pub async fn git<T, E: std::fmt::Display>(
        &self,
        job: &JobId,
        what: &'static str,
        exchange: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        self.alive().await;
        let dies = self.dies(Deathbed::Git);
        if dies == Some(false) {
            return self.die(Some(job), what).await;
        }
        self.witness.sends(&self.name, job, what).await;
        let answer = exchange.await;
        if dies == Some(true) {
            return self.die(Some(job), what).await;
        }
        self.alive().await;
        match &answer {
            Ok(_) => self.note(Some(job), format!("{what} -> ok")),
            Err(error) => self.note(Some(job), format!("{what} -> {error}")),
        }
        answer
    }

    fn fate(&self, panics: bool) -> Fate {
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
        } else if below(panic) && panics && condition.panics_left > 0 {
            condition.panics_left -= 1;
            drop(condition);
            self.witness.disturb(&self.name);
            self.ledger().panics += 1;
            Fate::Panic
        } else {
            Fate::Fair
        }
    }

    /// One call to the store, through the weather.
    pub(super) async fn store<T>(
        &self,
        call: Call<'_>,
        done: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let Call { name, job, kind, told, panics, detail } = call;
        self.alive().await;
        let away = self.condition().away_until.is_some_and(|until| Instant::now() < until);
        if away {
            let wait = self.condition().dice.random_range(1..5000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if told {
                self.note(job, format!("{name}{detail} -> the store is away"));
            }
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        let dies = kind.and_then(|kind| self.dies(kind));
        if dies == Some(false) {
            return self.die(job, name).await;
        }
        let fate = self.fate(panics);
        match fate {
            Fate::Refused => {
                self.note(job, format!("{name}{detail}{}", fate.word()));
                return Err(StoreError::Unavailable("not done".to_owned()));
            }
            Fate::LateDone(late) => tokio::time::sleep(late).await,
            Fate::Fair | Fate::Denied | Fate::LateAnswer(_) | Fate::Panic => {}
        }
        self.alive().await;
        let answer = done.await;
        let fair = matches!(fate, Fate::Fair) && answer.is_ok();
        if told || !fair {
            let outcome = answer.as_ref().err().map_or("ok".to_owned(), ToString::to_string);
            self.note(job, format!("{name}{detail} -> {outcome}{}", fate.word()));
        }
        if dies == Some(true) {
            return self.die(job, name).await;
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

/// A runner's wall clock: the world's, as far off as the line says.
pub struct SkewedClock {
    pub right: Arc<dyn Clock>,
    pub line: Arc<Line>,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let skew = self.line.skew.load(Ordering::Relaxed);
        let by = Duration::from_millis(skew.unsigned_abs());
        let right = self.right.now();
        if skew < 0 { right - by } else { right + by }
    }
}
