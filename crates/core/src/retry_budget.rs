//! The retry budget of a provider: retries are a small share of its requests, so that an outage is
//! not answered with a storm.
//!
//! Whenever a retry goes, in the window that ends with it retries are at most `floor` and `share`
//! of all requests. The window is counted in slices; the slice that its old edge cuts through counts
//! against the retry: its retries still do, its requests no more.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::Tick;

/// `[retry_budget]`: how many requests may be retries. All numbers are configuration keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudgetSettings {
    /// Most retries, as a share of all requests in the window, retries among them; 0 to 1.
    pub share: f64,
    /// Time over which they are counted.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Retries in a window that go besides, however few requests there are; at least 1.
    pub floor: u32,
}

/// Slices that a window is counted in.
const SLICES: u64 = 60;

/// What was sent in one slice of time; `sent` counts the retries too.
#[derive(Clone, Copy, Debug)]
struct Slice {
    number: u64,
    sent: u64,
    retries: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    settings: RetryBudgetSettings,
    /// The length of a slice in nanoseconds.
    slice: u64,
    /// Oldest first, those that the window still touches: at most [`SLICES`] and one.
    slices: VecDeque<Slice>,
    sent: u64,
    retries: u64,
}

impl RetryBudget {
    /// A budget of which nothing is used.
    pub fn new(settings: RetryBudgetSettings) -> Self {
        let slice = u64::try_from(settings.window.as_nanos()).unwrap_or(u64::MAX) / SLICES;
        RetryBudget { settings, slice: slice.max(1), slices: VecDeque::new(), sent: 0, retries: 0 }
    }

    /// How long until a retry may be sent if nothing else is sent before; zero if now.
    pub fn wait(&mut self, now: Tick) -> Duration {
        let number = self.advance(now);
        let (mut sent, mut retries) = (self.sent, self.retries);
        let mut losing_requests = self.slices.iter().peekable();
        let mut losing_retries = self.slices.iter().peekable();
        for at in number..=number + SLICES + 1 {
            while let Some(slice) = losing_requests.next_if(|slice| slice.number + SLICES <= at) {
                sent -= slice.sent;
            }
            while let Some(slice) = losing_retries.next_if(|slice| slice.number + SLICES < at) {
                retries -= slice.retries;
            }
            if self.has_room(sent, retries) {
                return Duration::from_nanos(self.slice.saturating_mul(at)).saturating_sub(now);
            }
        }
        // Never reached: an empty window has room for one.
        self.settings.window
    }

    /// A request goes out.
    pub fn sent(&mut self, now: Tick, is_retry: bool) {
        let number = self.advance(now);
        if self.slices.back().is_none_or(|slice| slice.number < number) {
            self.slices.push_back(Slice { number, sent: 0, retries: 0 });
        }
        if let Some(slice) = self.slices.back_mut() {
            slice.sent += 1;
            slice.retries += u64::from(is_retry);
            self.sent += 1;
            self.retries += u64::from(is_retry);
        }
    }

    /// The request of `sent` did not go out after all.
    pub fn unsent(&mut self, sent: Tick, is_retry: bool) {
        let number = self.number(sent);
        let Some(slice) = self.slices.iter_mut().rev().find(|slice| slice.number == number) else { return };
        if slice.sent > 0 && slice.retries >= u64::from(is_retry) {
            slice.sent -= 1;
            slice.retries -= u64::from(is_retry);
            self.sent -= 1;
            self.retries -= u64::from(is_retry);
        }
    }

    fn has_room(&self, sent: u64, retries: u64) -> bool {
        let most = f64::from(self.settings.floor.max(1)) + self.settings.share * (sent + 1) as f64;
        (retries + 1) as f64 <= most
    }

    fn number(&self, at: Tick) -> u64 {
        u64::try_from(at.as_nanos()).unwrap_or(u64::MAX) / self.slice
    }

    /// Forgets what the window no longer touches. Returns the number of the slice of `now`.
    fn advance(&mut self, now: Tick) -> u64 {
        let number = self.number(now);
        while let Some(gone) = self.slices.front().copied().filter(|slice| slice.number + SLICES < number) {
            self.slices.pop_front();
            self.sent -= gone.sent;
            self.retries -= gone.retries;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn budget(share: f64, floor: u32) -> RetryBudget {
        RetryBudget::new(RetryBudgetSettings { share, window: WINDOW, floor })
    }

    fn secs(s: u64) -> Tick {
        Duration::from_secs(s)
    }

    #[test]
    fn a_few_retries_go_however_few_requests_there_are_and_the_next_a_window_later() {
        let mut budget = budget(0.0, 3);
        for _ in 0..3 {
            assert_eq!(budget.wait(secs(5)), Duration::ZERO);
            budget.sent(secs(5), true);
        }
        let wait = budget.wait(secs(5));
        assert!(wait > WINDOW && wait <= WINDOW + secs(1), "{wait:?}");
        assert_eq!(budget.wait(secs(5) + wait), Duration::ZERO);
    }

    #[test]
    fn requests_make_room_for_their_share() {
        let mut budget = budget(0.2, 1);
        for _ in 0..100 {
            budget.sent(secs(1), false);
        }
        let mut retries = 0;
        while budget.wait(secs(2)).is_zero() {
            budget.sent(secs(2), true);
            retries += 1;
        }
        assert_eq!(retries, 26, "a fifth of all 126, and one");
    }

    #[test]
    fn what_was_not_sent_is_given_back() {
        let mut budget = budget(0.0, 1);
        budget.sent(secs(1), true);
        assert!(!budget.wait(secs(2)).is_zero());
        budget.unsent(secs(1), true);
        assert_eq!(budget.wait(secs(2)), Duration::ZERO);
        budget.unsent(secs(1), true);
        assert_eq!((budget.sent, budget.retries), (0, 0));
    }

    proptest! {
        /// Whatever is sent when: each retry finds room in the window that ends with it, and the
        /// wait that was told is right: over then, and not a slice earlier.
        #[test]
        fn retries_stay_within_their_share_in_every_window(
            steps in prop::collection::vec((0..5_000_u64, any::<bool>(), any::<bool>()), 1..400),
            share in 0.0..1.0_f64,
            floor in 1..5_u32,
        ) {
            let mut budget = budget(share, floor);
            let mut now = Duration::ZERO;
            let mut log: Vec<(Tick, bool)> = Vec::new();
            for (pause, wants_retry, patient) in steps {
                now += Duration::from_millis(pause);
                let wait = budget.wait(now);
                let is_retry = wants_retry && (wait.is_zero() || patient);
                if is_retry && !wait.is_zero() {
                    prop_assert!(wait <= WINDOW + secs(1), "{:?}", wait);
                    prop_assert!(!budget.clone().wait(now + wait - Duration::from_nanos(1)).is_zero());
                    now += wait;
                    prop_assert_eq!(budget.wait(now), Duration::ZERO);
                }
                budget.sent(now, is_retry);
                log.push((now, is_retry));
                if is_retry {
                    let window = || log.iter().filter(|(at, _)| *at + WINDOW > now);
                    let retries = window().filter(|(_, is_retry)| *is_retry).count();
                    let most = f64::from(floor) + share * window().count() as f64;
                    prop_assert!(retries as f64 <= most + 1e-9, "{} of {}", retries, window().count());
                }
            }
            prop_assert!(budget.slices.len() as u64 <= SLICES + 1);
        }
    }
}
