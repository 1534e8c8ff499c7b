//! What the end of a request teaches an account: its budget, its gate, its breakers.

use std::time::Duration;

use steadfast_core::budget::{Outcome, Tick};
use steadfast_core::failure::{Failure, FatalReason, GateReason, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::time::Timestamp;

use super::account::{Account, Answer, Sent};
use super::breakers::Changed;
use super::messages::End;

/// The most that is added to a wait that the server named.
const MOST_ADDED: Duration = Duration::from_secs(60);

/// What people should hear of.
#[derive(Debug, Default)]
pub struct Heard {
    /// Breakers that opened or closed.
    pub changed: Vec<Changed>,
    /// The gate closed for this long.
    pub closed: Option<(Duration, GateReason)>,
}

impl<W: Answer> Account<W> {
    /// A request ended. `recheck` is how long a gate stays closed that a person must open.
    pub fn ended(
        &mut self,
        now: Tick,
        sent: Sent,
        observed: &Observed,
        end: &End,
        wall: Timestamp,
        recheck: Duration,
    ) -> Heard {
        // One that was sent under an accountant that died counts from this one's beginning.
        let at = sent.at.min(now);
        let before = self.budget.gate(now).map(|gate| gate.reason);
        match end {
            End::Cut => {
                self.budget.done(now, sent.permit, at, sent.tokens, None, Outcome::Unknown);
                self.breakers.unsent(now, at, sent.operation);
                Heard::default()
            }
            End::Answered(tokens) => {
                self.budget.done(now, sent.permit, at, sent.tokens, *tokens, Outcome::Accepted);
                self.budget.learn(now, sent.permit, observed);
                self.in_vain = 0;
                if self.budget.gate(now).is_some_and(|gate| gate.reason == GateReason::Credentials) {
                    self.budget.open(now);
                }
                let changed = self.breakers.ended(now, at, sent.operation, true);
                Heard { changed, closed: None }
            }
            End::Failed(failure) => {
                let met = outcome(failure, wall);
                self.counts.rejected += u64::from(matches!(met, Outcome::Rejected(_)));
                self.budget.done(now, sent.permit, at, sent.tokens, None, met);
                self.budget.learn(now, sent.permit, observed);
                let changed = self.breakers.ended(now, at, sent.operation, !failure.unhealthy);
                let closed = self.failed(now, failure, met, before, wall, recheck);
                Heard { changed, closed }
            }
        }
    }

    /// Closes the gate where the failure says so. Returns for how long, if that is news: it was open,
    /// or only now is it for a person to open.
    fn failed(
        &mut self,
        now: Tick,
        failure: &Failure,
        met: Outcome,
        before: Option<GateReason>,
        wall: Timestamp,
        recheck: Duration,
    ) -> Option<(Duration, GateReason)> {
        let was_open = before.is_none();
        let heard = self.close_for(now, failure, wall, recheck);
        let named = self.budget.gate(now).map(|gate| (gate.until.saturating_sub(now), gate.reason));
        // Without a word of the server's the callers' own backoff is the wait, unless that is in
        // vain too.
        let bare = (met == Outcome::Rejected(None)).then_some((Duration::ZERO, GateReason::RateLimit));
        let (wait, reason) = heard.or(named.filter(|_| met != Outcome::Accepted)).or(bare)?;
        let more = match reason {
            GateReason::RateLimit | GateReason::SecondaryLimit => self.added(was_open),
            GateReason::Quota | GateReason::Credentials | GateReason::Unavailable => Duration::ZERO,
        };
        let wait = wait + more;
        if !more.is_zero() {
            self.budget.close(now, now.saturating_add(wait), reason);
        }
        let by_a_person = matches!(reason, GateReason::Quota | GateReason::Credentials);
        let news = was_open || (by_a_person && before != Some(reason));
        (news && !wait.is_zero()).then_some((wait, reason))
    }

    /// What is added to a named wait each time that keeping it was in vain. Servers count refused
    /// requests too: two processes that each come back just when they were told to can keep each
    /// other out for ever.
    fn added(&mut self, was_open: bool) -> Duration {
        // Those that were in flight together are refused together: once is enough.
        self.in_vain = self.in_vain.saturating_add(u32::from(was_open));
        let doubled = 0.5 * 2_f64.powi(i32::try_from(self.in_vain.min(20)).unwrap_or(20));
        let more = if self.in_vain < 2 { 0.0 } else { doubled * self.breakers.dice.between(0.8..1.2) };
        Duration::from_secs_f64(more).min(MOST_ADDED)
    }

    /// What a failure means for everybody who shares this budget.
    fn close_for(
        &mut self,
        now: Tick,
        failure: &Failure,
        wall: Timestamp,
        recheck: Duration,
    ) -> Option<(Duration, GateReason)> {
        let (wait, reason) = match failure.verdict {
            // The budget has heard of it as a rejection.
            Verdict::WaitUntil { reason: GateReason::RateLimit, .. } => return None,
            Verdict::WaitUntil { at, reason } => (at.since(wall), reason),
            Verdict::Fatal { why: FatalReason::Credentials } => (recheck, GateReason::Credentials),
            Verdict::Retry { .. }
            | Verdict::Refresh
            | Verdict::Verify
            | Verdict::Shrink
            | Verdict::Fatal { .. } => return None,
        };
        self.budget.close(now, now.saturating_add(wait), reason);
        Some((wait, reason))
    }
}

/// How the server's limits met a request that failed so.
fn outcome(failure: &Failure, wall: Timestamp) -> Outcome {
    match failure.verdict {
        Verdict::WaitUntil { at, reason: GateReason::RateLimit } => Outcome::Rejected(Some(at.since(wall))),
        Verdict::Retry { after } if failure.status == Some(429) => Outcome::Rejected(after),
        Verdict::WaitUntil { .. }
        | Verdict::Retry { .. }
        | Verdict::Refresh
        | Verdict::Verify
        | Verdict::Shrink
        | Verdict::Fatal { .. } => match failure.status {
            Some(_) => Outcome::Accepted,
            None => Outcome::Unknown,
        },
    }
}
