//! What every call to a provider has in common: who asks, how long it may sit, how it ends.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::budget::Tick;
use steadfast_core::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::retry::{Attempt, GaveUp, RetryPolicy, retry};
use steadfast_core::time::{Clock, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::accountant::{Acquire, BudgetKey, End, Lost, Need, Permit, RateAccountant};
use crate::address::Address;
use crate::dice::Dice;
use crate::env::Env;
use crate::stop::{Leased, is_leased, leased};

/// Place of a call among those that wait: higher priority first, then the job that was admitted
/// first. What goes first is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Higher goes first.
    pub priority: i32,
    /// When the job was admitted.
    pub admitted: Timestamp,
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        other.priority.cmp(&self.priority).then(self.admitted.cmp(&other.admitted))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Which try of a call this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Try {
    /// The try before was refused for a stale credential: get a new one.
    pub(crate) refresh: bool,
    /// The try before had an unknown outcome: look for the effect before repeating it.
    pub(crate) verify: bool,
    /// It repeats one that failed, after our own backoff and no wait of the server's naming: the
    /// retry budget has a say.
    pub(crate) is_retry: bool,
}

/// How a run is told to stop, as its calls hear it.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Cancelled when nothing new is to be begun and no wait sat out (a drain); a request that is
    /// out is waited for.
    pub soft: CancellationToken,
    /// Cancelled when even a request that is out is to be dropped.
    pub hard: CancellationToken,
    /// Until when the run's lease is surely its own: nothing is sent after it.
    pub(crate) leased: Leased,
    /// The run's span, so that what a call logs names its job.
    pub(crate) span: tracing::Span,
}

/// Why a call gave no result, as its run hears it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The wait is longer than a run sits: park until then. Never an attempt.
    #[error("{why}")]
    Park {
        /// The earliest time to come back.
        until: Timestamp,
        /// Whose door is shut.
        provider: Provider,
        /// Of which kind.
        reason: GateReason,
        /// For people: who, why.
        why: String,
    },
    /// Every try of the layer failed; another run may have more luck. An attempt.
    #[error("gave up after {attempts} attempts: {failure}")]
    Exhausted {
        /// Tries made.
        attempts: u32,
        /// The last failure.
        failure: Failure,
    },
    /// Repeating cannot help, or the request must shrink.
    #[error("{0}")]
    Fatal(Failure),
    /// The run was told to stop.
    #[error("stopped")]
    Stopped,
    /// An actor on the way died.
    #[error("{0}")]
    ActorDied(#[from] crate::address::SendError),
}

impl CallError {
    /// From the end of a retry loop. Being rejected for the rate for as long as the layer lasts is
    /// a wait, not an attempt, and so is a full disk: the job parks for the layer's longest delay.
    pub(crate) fn from_gave_up(gave_up: GaveUp, policy: &RetryPolicy, now: Timestamp, stopped: bool) -> Self {
        if stopped {
            return CallError::Stopped;
        }
        match gave_up {
            GaveUp::Park { until, reason, failure } => CallError::Park {
                until,
                provider: failure.provider,
                reason,
                why: if is_full_disk(&failure) {
                    // A person has to hear of it.
                    failure.to_string()
                } else {
                    format!("{} {}: {reason}", failure.provider, failure.operation)
                },
            },
            GaveUp::Exhausted { failure, .. } if failure.is_rate_limit() => CallError::Park {
                until: now + policy.max,
                provider: failure.provider,
                reason: GateReason::RateLimit,
                why: format!("{} {}: {}", failure.provider, failure.operation, GateReason::RateLimit),
            },
            GaveUp::Exhausted { failure, .. } if is_full_disk(&failure) => CallError::Park {
                until: now + policy.max,
                provider: failure.provider,
                reason: GateReason::Unavailable,
                why: failure.to_string(),
            },
            GaveUp::Exhausted { attempts, failure } => CallError::Exhausted { attempts, failure },
            GaveUp::Fatal(failure) => CallError::Fatal(failure),
        }
    }
}

/// What the calls of one provider share: permits, time, and the bound on sitting out a wait.
pub(crate) struct Caller {
    pub(crate) accountant: Address<RateAccountant>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dice: Dice,
    /// Longest wait for a permit.
    pub(crate) park_after: Duration,
}

impl Caller {
    /// Runs `call` under `policy`. An `Err` of `call` ends the loop as it is; a [`Failure`] within
    /// an `Ok` is what the loop retries on. What a model's server refused for its rate goes straight
    /// back to the accountant, which knows better than one caller when to send again.
    pub(crate) async fn retrying<T, C, F>(
        &self,
        policy: &RetryPolicy,
        patience: &Patience,
        call: C,
    ) -> Result<T, CallError>
    where
        C: FnMut(Try) -> F,
        F: Future<Output = Result<Result<T, Failure>, CallError>>,
    {
        let (clock, stop) = (Arc::clone(&self.clock), patience.soft.clone());
        let env = Env { clock, stop, dice: self.dice.clone() };
        let ended: RefCell<Option<CallError>> = RefCell::new(None);
        let named = Cell::new(false);
        let call = RefCell::new(call);
        let result = retry(policy, &env, |attempt: Attempt| {
            let Attempt { number, refresh, verify } = attempt;
            let mut this = Try { refresh, verify, is_retry: number > 1 && !named.get() };
            let (ended, named, call) = (&ended, &named, &call);
            let since = Instant::now();
            async move {
                loop {
                    let tried = (call.borrow_mut())(this);
                    match tried.await {
                        Ok(Err(failure))
                            if is_left_to_the_pace(&failure) && since.elapsed() < self.park_after =>
                        {
                            let (provider, operation) = (failure.provider, failure.operation);
                            tracing::info!(%provider, operation, status = failure.status, "rate limited");
                            // No retry of our own choosing: the pace says when.
                            this = Try { refresh: false, is_retry: false, ..this };
                        }
                        Ok(tried) => {
                            named.set(tried.as_ref().is_err_and(names_its_wait));
                            return tried;
                        }
                        Err(end) => {
                            let failure = placeholder(&end);
                            ended.replace(Some(end));
                            return Err(failure);
                        }
                    }
                }
            }
        })
        .instrument(patience.span.clone())
        .await;
        match (result, ended.take()) {
            (Ok(done), _) => Ok(done),
            (Err(_), Some(end)) => Err(end),
            (Err(gave_up), None) => {
                let stopped = patience.soft.is_cancelled();
                Err(CallError::from_gave_up(gave_up, policy, self.clock.now(), stopped))
            }
        }
    }

    /// Waits for a permit, at most `park_after`; before that, until the lease is surely ours, and again
    /// where it is not any more by the time that there is a permit.
    pub(crate) async fn permit(
        &self,
        key: &BudgetKey,
        need: Need,
        patience: &Patience,
    ) -> Result<Permit, CallError> {
        let answer = tokio::select! {
            biased;
            () = patience.soft.cancelled() => return Err(CallError::Stopped),
            answer = async {
                loop {
                    leased(&patience.leased).await;
                    let acquire = Acquire { key: key.clone(), need, patience: self.park_after };
                    match self.accountant.send(acquire).await?.permit().await {
                        // Dropped, it goes to somebody else.
                        Ok(Ok(_)) if !is_leased(&patience.leased) => {}
                        Ok(answer) => break Ok::<_, CallError>(answer),
                        Err(Lost) => tracing::debug!("asking the next accountant for a permit"),
                    }
                }
            } => answer?,
        };
        answer.map_err(|shut| {
            let reason = shut.reason.unwrap_or(GateReason::RateLimit);
            CallError::Park {
                until: self.clock.now() + shut.wait,
                provider: key.provider(),
                reason,
                why: format!("{}: {reason}", key.provider()),
            }
        })
    }

    /// Sends one request with its permit and reports what came of it. `tokens` reads from the
    /// result what the server counted.
    pub(crate) async fn exchange<T>(
        &self,
        permit: Permit,
        patience: &Patience,
        request: impl Future<Output = (Result<T, Failure>, Observed)>,
        tokens: impl Fn(&T) -> Option<u64>,
    ) -> Result<Result<T, Failure>, CallError> {
        let (result, observed) = tokio::select! {
            biased;
            () = patience.hard.cancelled() => {
                permit.report(Observed::default(), End::Cut).await;
                return Err(CallError::Stopped);
            }
            answer = request => answer,
        };
        let end = match &result {
            Ok(done) => End::Answered(tokens(done)),
            Err(failure) => End::Failed(failure.clone()),
        };
        permit.report(observed, end).await;
        Ok(result)
    }
}

/// Whether the accountant's pace and gate answer it alone. GitHub asks for a wait of each caller.
fn is_left_to_the_pace(failure: &Failure) -> bool {
    match failure.provider {
        Provider::Llm => failure.is_rate_limit(),
        Provider::Github | Provider::Git | Provider::Store | Provider::Webhook => false,
    }
}

/// Whether this machine has no room: the one wait that git's failures name.
fn is_full_disk(failure: &Failure) -> bool {
    failure.provider == Provider::Git && matches!(failure.verdict, Verdict::Retry { after: Some(_) })
}

/// Whether the server named how long to wait: then repeating is what it asks for.
fn names_its_wait(failure: &Failure) -> bool {
    match failure.verdict {
        Verdict::WaitUntil { .. } | Verdict::Retry { after: Some(_) } => true,
        Verdict::Retry { after: None }
        | Verdict::Refresh
        | Verdict::Verify
        | Verdict::Shrink
        | Verdict::Fatal { .. } => false,
    }
}

/// Ends the retry loop where the real reason is a [`CallError`] that is kept beside it.
fn placeholder(end: &CallError) -> Failure {
    Failure {
        verdict: Verdict::Fatal { why: FatalReason::Unusable },
        provider: Provider::Llm,
        operation: "call",
        status: None,
        message: end.to_string(),
        request_id: None,
        maybe_charged: false,
        unhealthy: false,
    }
}

/// Monotonic time since `start`, as the budgets count it.
pub(crate) fn tick(start: tokio::time::Instant) -> Tick {
    start.elapsed()
}
