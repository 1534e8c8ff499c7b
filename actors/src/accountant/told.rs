//! What an operator is told of a budget's doors: each once, with what is waited for and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use steadfast_core::breaker::Change;
use steadfast_core::budget::Tick;
use steadfast_core::failure::{Failure, GateReason};
use steadfast_core::time::Timestamp;

use super::breakers::Changed;
use super::millis;

/// What was told of one budget and is not over.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Breakers that are open, and since when; `None`: the whole provider's.
    open: BTreeMap<Option<&'static str>, Tick>,
    /// Operations whose calls are spaced out.
    spaced: BTreeSet<&'static str>,
}

impl Told {
    /// A breaker opened, for the first time or after a probe that failed, or closed; it is `wall` now.
    pub fn changed(&mut self, budget: &str, (operation, change): Changed, now: Tick, wall: Timestamp) {
        match change {
            Change::Opened(open) => {
                let (open_ms, until) = (millis(open), wall + open);
                let Some(since) = self.open.get(&operation).copied() else {
                    self.open.insert(operation, now);
                    tracing::error!(
                        budget,
                        operation,
                        open_ms,
                        %until,
                        "breaker opened: the provider fails, only probes are sent"
                    );
                    return;
                };
                let down_ms = millis(now.saturating_sub(since));
                tracing::info!(budget, operation, down_ms, open_ms, %until, "the provider still fails");
            }
            Change::Recovered => {
                let down_ms = self.open.remove(&operation).map(|since| millis(now.saturating_sub(since)));
                tracing::info!(budget, operation, down_ms, "breaker closed: the provider answers again");
            }
        }
    }

    /// These operations' calls are spaced out, the next after so long.
    pub fn spaced(&mut self, budget: &str, spaced: &[(&'static str, Duration)]) {
        for (operation, gap) in spaced {
            if self.spaced.insert(operation) {
                let next_ms = millis(*gap);
                tracing::warn!(
                    budget,
                    operation,
                    next_ms,
                    "calls fail one after the other: sent one at a time, each after a longer wait"
                );
            }
        }
        let open = &self.open;
        self.spaced.retain(|operation| {
            let goes_on = spaced.iter().any(|(still, _)| still == operation);
            if !goes_on && !open.contains_key(&Some(*operation)) {
                tracing::info!(budget, operation, "calls are answered again");
            }
            goes_on
        });
    }
}

/// The gate closed. One that a person must open is an error; one that opens by itself is the course of
/// things.
pub(super) fn closed(budget: &str, wait: Duration, wall: Timestamp, reason: GateReason, failure: &Failure) {
    let (wait_ms, until) = (millis(wait), wall + wait);
    match reason {
        GateReason::RateLimit | GateReason::SecondaryLimit | GateReason::Unavailable => {
            tracing::info!(budget, wait_ms, %until, %reason, "gate closed");
        }
        GateReason::Quota | GateReason::Credentials => {
            tracing::error!(budget, wait_ms, %until, %reason, error = %failure, "gate closed: a person must act");
        }
    }
}
