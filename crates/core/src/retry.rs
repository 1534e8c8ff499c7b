//! The one retry utility: a policy, the arithmetic of its delays, and the loop around a call.
//!
//! Every provider call and every tool retries through [`retry`]; nothing retries by hand. The loop
//! never sits on a wait that is longer than its policy's longest delay: it answers
//! [`GaveUp::Park`], and the caller puts the job away until then.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FatalReason, GateReason, Verdict};
use crate::time::Timestamp;

/// How one layer retries. All numbers are configuration keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Tries in all, the first among them; at least 1.
    pub max_attempts: u32,
    /// Delay before the second try.
    #[serde(with = "humantime_serde")]
    pub initial: Duration,
    /// Longest delay, and the longest wait named by a server that is sat on.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// Growth of the delay from try to try; at least 1.
    pub multiplier: f64,
    /// Random part of a delay, as a share of it on both sides; 0 to 1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// The delay after failed try number `failed` (1 is the first), before jitter:
    /// `initial * multiplier^(failed-1)`, at most `max`.
    pub fn envelope(&self, failed: u32) -> Duration {
        let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(capped).map_or(self.max, |delay| delay.min(self.max))
    }

    /// The envelope with jitter on both sides. `random` is uniform in 0 to 1.
    pub fn delay(&self, failed: u32, random: f64) -> Duration {
        let factor = 1.0 + self.jitter() * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        scaled(self.envelope(failed), factor)
    }

    /// A server's own wait with jitter upward only, so that nobody comes early and not everybody
    /// at once. `random` is uniform in 0 to 1. At most a tenth of `max` is added.
    pub fn server_wait(&self, wait: Duration, random: f64) -> Duration {
        let most = scaled(wait, self.jitter()).min(self.max / 10);
        wait.saturating_add(scaled(most, random.clamp(0.0, 1.0)))
    }

    /// The configuration is checked elsewhere; arithmetic here holds whatever it says.
    fn jitter(&self) -> f64 {
        self.jitter.clamp(0.0, 1.0)
    }
}

/// `Duration::mul_f64` panics where the product does not fit.
fn scaled(duration: Duration, factor: f64) -> Duration {
    match duration.as_secs_f64() * factor {
        seconds if seconds > 0.0 => Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        _ => Duration::ZERO,
    }
}

/// What the loop needs from outside: time, sleep, chance. Simulations bring their own.
pub trait RetryEnv {
    /// The wall time now.
    fn now(&self) -> Timestamp;
    /// Uniform in 0 to 1.
    fn random(&self) -> f64;
    /// Waits.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send;
    /// Hears of a failed try that will be repeated after `wait`.
    fn on_retry(&self, failure: &Failure, attempt: u32, wait: Duration);
}

/// Which try this is, handed to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// The try before was refused for a stale credential: get a new one.
    pub refresh: bool,
    /// The try before had an unknown outcome: look for the effect before repeating it.
    pub verify: bool,
}

/// Why the loop ended without a result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GaveUp {
    /// The wait is longer than this layer sits: park until `until`.
    #[error("{reason} until {until}: {failure}")]
    Park {
        /// The earliest time to come back.
        until: Timestamp,
        /// Why.
        reason: GateReason,
        /// The last failure.
        failure: Failure,
    },
    /// All tries failed in ways that another try, later, may mend.
    #[error("gave up after {attempts} attempts: {failure}")]
    Exhausted {
        /// How many.
        attempts: u32,
        /// The last failure.
        failure: Failure,
    },
    /// Repeating cannot help, or must not happen here ([`Verdict::Shrink`]).
    #[error("{0}")]
    Fatal(Failure),
}

impl GaveUp {
    /// The failure that ended the loop.
    pub fn failure(&self) -> &Failure {
        match self {
            GaveUp::Park { failure, .. } | GaveUp::Exhausted { failure, .. } | GaveUp::Fatal(failure) => {
                failure
            }
        }
    }
}

/// Calls `call` until it succeeds, its failure cannot be helped here, or the policy is used up.
///
/// A credential is refreshed once and that try is not counted; a second refusal is
/// [`GaveUp::Fatal`]. An effect with unknown outcome comes back with [`Attempt::verify`] set, after
/// the delay, and is counted.
pub async fn retry<T, E, C, F>(policy: &RetryPolicy, env: &E, mut call: C) -> Result<T, GaveUp>
where
    E: RetryEnv,
    C: FnMut(Attempt) -> F,
    F: Future<Output = Result<T, Failure>>,
{
    let mut attempt = Attempt { number: 1, refresh: false, verify: false };
    let mut refreshed = false;
    loop {
        let failure = match call(attempt).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let exhausted = attempt.number >= policy.max_attempts;
        let wait = match failure.verdict {
            Verdict::Fatal { .. } | Verdict::Shrink => return Err(GaveUp::Fatal(failure)),
            Verdict::Refresh if refreshed => {
                let verdict = Verdict::Fatal { why: FatalReason::Credentials };
                return Err(GaveUp::Fatal(Failure { verdict, ..failure }));
            }
            Verdict::Refresh => {
                refreshed = true;
                attempt.refresh = true;
                continue;
            }
            Verdict::WaitUntil { at, reason } => {
                let named = at.since(env.now());
                if exhausted || named > policy.max {
                    return Err(GaveUp::Park { until: at, reason, failure });
                }
                policy.server_wait(named, env.random())
            }
            Verdict::Retry { after: Some(named) } => {
                if named > policy.max {
                    let until = env.now() + named;
                    return Err(GaveUp::Park { until, reason: GateReason::Unavailable, failure });
                }
                let wait = policy.server_wait(named, env.random());
                wait.max(policy.delay(attempt.number, env.random()))
            }
            Verdict::Retry { after: None } | Verdict::Verify => policy.delay(attempt.number, env.random()),
        };
        if exhausted {
            return Err(GaveUp::Exhausted { attempts: attempt.number, failure });
        }
        env.on_retry(&failure, attempt.number, wait);
        env.sleep(wait).await;
        let verify = attempt.verify || matches!(failure.verdict, Verdict::Verify);
        attempt = Attempt { number: attempt.number + 1, refresh: false, verify };
    }
}

#[cfg(test)]
mod tests;
