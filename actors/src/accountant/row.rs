//! Calls that failed one after the other: long before a share of failures tells, they do.
//!
//! After a few calls are spaced out, each further from the one before; as far as the outage is old, so
//! that its end is found at the latest when it has lasted twice as long, and no later than the longest
//! time that a breaker is open. An outage of ten minutes costs so `3 + log2(60 s / 1 s) + 8` requests
//! where that is a minute: 17, at any rate. Half of them are those of the last minutes: with `open_max`
//! at two minutes they are 13, and the end is found two minutes late at the worst.

use std::time::Duration;

use steadfast_core::budget::Tick;

/// So many that failed in a row may be the beginning of an outage: calls go one by one.
pub const FEW_IN_A_ROW: u32 = 3;
/// The first distance between them; doubles with each of them that fails.
pub const FIRST_GAP: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// How many.
    pub failed: u32,
    /// Whether some of them were another process's.
    pub of_others: bool,
    /// When the first was sent: what was sent before says nothing of it.
    since: Tick,
    /// When the last call was sent.
    sent: Tick,
    /// The distance between calls, once they are spaced out, and since when they are.
    gap: Duration,
    spaced: Tick,
    /// What of its distance one waits besides: not all who share it go at once.
    spread: f64,
}

impl Row {
    /// A call goes out.
    pub fn sent(&mut self, now: Tick) {
        self.sent = self.sent.max(now);
    }

    /// A call of `sent` ended. Returns whether one in good order ended a row.
    pub fn ended(&mut self, now: Tick, sent: Tick, healthy: bool) -> bool {
        if !healthy {
            self.since = if self.failed == 0 { sent } else { self.since.min(sent) };
            self.failed = self.failed.saturating_add(1);
            if self.failed == FEW_IN_A_ROW {
                (self.gap, self.spaced) = (FIRST_GAP, now);
            } else if self.failed > FEW_IN_A_ROW && sent >= self.spaced {
                // Those that were out together fail together: they are no older an outage.
                self.gap = self.gap.saturating_mul(2);
            }
            return false;
        }
        let ends = self.failed > 0 && sent >= self.since;
        if ends {
            self.end();
        }
        ends
    }

    /// Another process's call ended so; `random` is uniform in 0 to 1.
    pub fn heard(&mut self, now: Tick, sent: Tick, healthy: bool, random: f64) {
        self.ended(now, sent, healthy);
        self.of_others |= !healthy;
        self.spread = random;
    }

    /// Nothing is known of it any more.
    pub fn end(&mut self) {
        (self.failed, self.of_others, self.spread, self.gap) = (0, false, 0.0, Duration::ZERO);
    }

    /// Whether calls are spaced out.
    pub fn is_suspicious(&self) -> bool {
        self.failed >= FEW_IN_A_ROW
    }

    /// The distance between calls.
    pub fn gap(&self, longest: Duration) -> Duration {
        self.gap.min(longest)
    }

    /// How long until a call may go.
    pub fn wait(&self, now: Tick, longest: Duration) -> Duration {
        let gap = self.gap(longest);
        (self.sent + gap + gap.mul_f64(self.spread.clamp(0.0, 1.0))).saturating_sub(now)
    }
}
