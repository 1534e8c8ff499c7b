//! A breaker: while a provider fails, nothing is sent but single probes, further and further apart.
//!
//! Opens when, of the last calls within a window, at least half failed and there were enough to
//! tell. 429 is no failure here: that is the gate's matter.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::Tick;

/// When a breaker opens and for how long. All numbers are configuration keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerSettings {
    /// Time over which calls are counted.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Fewest calls in the window for a judgement.
    pub min_calls: u32,
    /// Share of failures that opens it; above 0, at most 1.
    pub failure_rate: f64,
    /// How long it stays open at first; doubles with each failed probe.
    #[serde(with = "humantime_serde")]
    pub open: Duration,
    /// The longest that it stays open.
    #[serde(with = "humantime_serde")]
    pub open_max: Duration,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Nothing goes through until then.
    Open {
        /// When a probe may go.
        until: Tick,
    },
    /// One probe is out; the rest wait for its end.
    HalfOpen {
        /// When the probe went out.
        since: Tick,
    },
}

/// A change that people should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened for this long.
    Opened(Duration),
    /// It closed: the provider answers again.
    Recovered,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    calls: VecDeque<(Tick, bool)>,
    failed_probes: u32,
}

/// Most calls that are remembered, whatever the window.
const MOST_CALLS: usize = 1000;

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Breaker { settings, state: BreakerState::Closed, calls: VecDeque::new(), failed_probes: 0 }
    }

    /// Where it stands.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// How long until a call may go through; zero if now. A probe that was lost without a word is
    /// given up for lost after the window.
    pub fn wait(&self, now: Tick) -> Duration {
        match self.state {
            BreakerState::Closed => Duration::ZERO,
            BreakerState::Open { until } => until.saturating_sub(now),
            BreakerState::HalfOpen { since } => (since + self.settings.window).saturating_sub(now),
        }
    }

    /// A call goes out; [`Breaker::wait`] said zero before.
    pub fn sent(&mut self, now: Tick) {
        match self.state {
            BreakerState::Closed => {}
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => {
                self.state = BreakerState::HalfOpen { since: now };
            }
        }
    }

    /// A call that was to go out did not: if it was the probe, another may go.
    pub fn unsent(&mut self, now: Tick) {
        if matches!(self.state, BreakerState::HalfOpen { .. }) {
            self.state = BreakerState::Open { until: now };
        }
    }

    /// A call ended; `healthy` is whether the provider did its work or said in good order why not.
    pub fn ended(&mut self, now: Tick, healthy: bool) -> Option<Change> {
        match (self.state, healthy) {
            (BreakerState::HalfOpen { .. } | BreakerState::Open { .. }, true) => {
                self.state = BreakerState::Closed;
                self.calls.clear();
                self.failed_probes = 0;
                Some(Change::Recovered)
            }
            (BreakerState::HalfOpen { .. }, false) => {
                self.failed_probes = self.failed_probes.saturating_add(1);
                Some(self.open(now))
            }
            // A call that was out when it opened tells nothing new.
            (BreakerState::Open { .. }, false) => None,
            (BreakerState::Closed, _) => {
                self.calls.push_back((now, healthy));
                let too_old = |sent: Tick| now.saturating_sub(sent) > self.settings.window;
                while self.calls.len() > MOST_CALLS || self.calls.front().is_some_and(|call| too_old(call.0))
                {
                    self.calls.pop_front();
                }
                let failed = self.calls.iter().filter(|call| !call.1).count();
                let enough = self.calls.len() >= self.settings.min_calls.max(1) as usize;
                let rate = failed as f64 / self.calls.len() as f64;
                (enough && !healthy && rate >= self.settings.failure_rate).then(|| self.open(now))
            }
        }
    }

    fn open(&mut self, now: Tick) -> Change {
        let doubled = self.settings.open.saturating_mul(1 << self.failed_probes.min(16));
        let open = doubled.min(self.settings.open_max);
        self.state = BreakerState::Open { until: now + open };
        Change::Opened(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Tick {
        Duration::from_secs(s)
    }

    fn breaker() -> Breaker {
        Breaker::new(BreakerSettings {
            window: secs(60),
            min_calls: 4,
            failure_rate: 0.5,
            open: secs(30),
            open_max: secs(100),
        })
    }

    #[test]
    fn opens_on_the_failure_rate_and_not_before_there_is_enough_to_tell() {
        let mut breaker = breaker();
        for second in 0..3 {
            assert_eq!(breaker.ended(secs(second), false), None);
        }
        assert_eq!(breaker.ended(secs(3), false), Some(Change::Opened(secs(30))));
        assert_eq!(breaker.wait(secs(3)), secs(30));
        assert_eq!(breaker.wait(secs(40)), Duration::ZERO);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut breaker = breaker();
        for second in 0..3 {
            breaker.ended(secs(second), false);
        }
        assert_eq!(breaker.ended(secs(100), false), None);
    }

    #[test]
    fn one_probe_goes_and_a_failed_one_doubles_the_wait_up_to_the_bound() {
        let mut breaker = breaker();
        for second in 0..4 {
            breaker.ended(secs(second), false);
        }
        let mut now = secs(33);
        for open in [60, 100, 100] {
            assert_eq!(breaker.wait(now), Duration::ZERO);
            breaker.sent(now);
            assert!(breaker.wait(now) > Duration::ZERO, "a second probe must wait");
            assert_eq!(breaker.ended(now, false), Some(Change::Opened(secs(open))));
            now += secs(open);
        }
        breaker.sent(now);
        assert_eq!(breaker.ended(now, true), Some(Change::Recovered));
        assert_eq!(breaker.wait(now), Duration::ZERO);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_does_not_close_the_door_for_ever() {
        let mut breaker = breaker();
        for second in 0..4 {
            breaker.ended(secs(second), false);
        }
        breaker.sent(secs(40));
        assert_eq!(breaker.wait(secs(100)), Duration::ZERO);
    }
}
