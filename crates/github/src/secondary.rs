//! How many secondary rate limits came in a row: each doubles the wait after one that names none.

use std::sync::{Mutex, PoisonError};

use steadfast_core::failure::{Failure, GateReason, Verdict};
use steadfast_core::time::Timestamp;

/// Counts them. Rejections of requests that were in flight together are one.
#[derive(Default)]
pub(crate) struct SecondaryStreak(Mutex<State>);

#[derive(Default)]
struct State {
    in_a_row: u32,
    closed_until: Timestamp,
}

impl SecondaryStreak {
    /// How many came before one that comes now.
    pub(crate) fn before(&self, now: Timestamp) -> u32 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < state.closed_until { state.in_a_row.saturating_sub(1) } else { state.in_a_row }
    }

    /// Learns from a refusal.
    pub(crate) fn refused(&self, failure: &Failure, now: Timestamp) {
        if let Verdict::WaitUntil { at, reason: GateReason::SecondaryLimit } = failure.verdict {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if now >= state.closed_until {
                state.in_a_row = state.in_a_row.saturating_add(1);
            }
            state.closed_until = state.closed_until.max(at);
        }
    }

    /// Learns from a success; one that was in flight when the limit hit says nothing.
    pub(crate) fn succeeded(&self, now: Timestamp) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= state.closed_until {
            state.in_a_row = 0;
        }
    }
}
