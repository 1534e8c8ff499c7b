//! A breaker: while a provider fails, nothing is sent but single probes, further and further apart.
//!
//! Opens when, of the last calls within a window, too many failed or too many were slow, and there
//! were enough to tell. 429 is no failure here: that is the gate's matter.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::Tick;

/// When a breaker opens and for how long. All numbers are configuration keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerSettings {
    /// Time over which calls are counted, of the last 100.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Fewest calls in the window for a judgement.
    pub min_calls: u32,
    /// Share of failures that opens it; above 0, at most 1.
    pub failure_rate: f64,
    /// A call whose end comes later than this after it was sent is slow; zero: none is.
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
    /// Share of slow calls that opens it; above 0, at most 1.
    pub slow_rate: f64,
    /// How long it stays open at first, give or take a fifth; doubles with each failed probe.
    #[serde(with = "humantime_serde")]
    pub open: Duration,
    /// The longest that it stays open, give or take a fifth.
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

/// How one call ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: Tick,
    failed: bool,
    slow: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    calls: VecDeque<Ended>,
    failed: u32,
    slow: u32,
    failed_probes: u32,
}

/// Most calls that are counted, whatever the window: among more, an outage is seen too late.
const MOST_CALLS: usize = 100;

/// Random part of the time that it stays open, on both sides: a fleet is not to probe in step.
const JITTER: f64 = 0.2;

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        let calls = VecDeque::new();
        Breaker { settings, state: BreakerState::Closed, calls, failed: 0, slow: 0, failed_probes: 0 }
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

    /// The call of `sent` did not go out, or nobody knows what came of it: if it was the probe,
    /// another may go.
    pub fn unsent(&mut self, now: Tick, sent: Tick) {
        if self.state == (BreakerState::HalfOpen { since: sent }) {
            self.state = BreakerState::Open { until: now };
        }
    }

    /// The call of `sent` ended; `healthy` is whether the provider did its work or said in good
    /// order why not. `random` is uniform in 0 to 1. What was sent before it opened says nothing of
    /// how the provider is now.
    pub fn ended(&mut self, now: Tick, sent: Tick, healthy: bool, random: f64) -> Option<Change> {
        let slow_after = self.settings.slow_after;
        let slow = !slow_after.is_zero() && now.saturating_sub(sent) > slow_after;
        match self.state {
            BreakerState::Open { .. } => None,
            BreakerState::HalfOpen { since } if sent < since => None,
            BreakerState::HalfOpen { .. } if healthy && !slow => {
                self.state = BreakerState::Closed;
                self.calls.clear();
                (self.failed, self.slow, self.failed_probes) = (0, 0, 0);
                Some(Change::Recovered)
            }
            BreakerState::HalfOpen { .. } => {
                self.failed_probes = self.failed_probes.saturating_add(1);
                Some(self.open(now, random))
            }
            BreakerState::Closed => {
                self.count(Ended { at: now, failed: !healthy, slow });
                self.is_too_much(!healthy, slow).then(|| self.open(now, random))
            }
        }
    }

    /// Opens it for another reason than the shares; `None` if it was not closed.
    pub fn trip(&mut self, now: Tick, random: f64) -> Option<Change> {
        (self.state == BreakerState::Closed).then(|| self.open(now, random))
    }

    /// The same, for about as long as `at_least`, where that is longer than at first.
    pub fn trip_for(&mut self, now: Tick, at_least: Duration, random: f64) -> Option<Change> {
        if self.state != BreakerState::Closed {
            return None;
        }
        let first = self.settings.open.as_secs_f64().max(1e-3);
        let doublings = (at_least.as_secs_f64() / first).log2().round();
        self.failed_probes = if doublings > 0.0 { doublings.min(16.0) as u32 } else { 0 };
        Some(self.open(now, random))
    }

    fn count(&mut self, ended: Ended) {
        self.failed += u32::from(ended.failed);
        self.slow += u32::from(ended.slow);
        self.calls.push_back(ended);
        let too_old = |call: &Ended| ended.at.saturating_sub(call.at) > self.settings.window;
        while self.calls.len() > MOST_CALLS || self.calls.front().is_some_and(too_old) {
            let Some(gone) = self.calls.pop_front() else { break };
            self.failed -= u32::from(gone.failed);
            self.slow -= u32::from(gone.slow);
        }
    }

    /// Only the end of a bad call opens it, never the leaving of good ones.
    fn is_too_much(&self, failed: bool, slow: bool) -> bool {
        let calls = self.calls.len();
        let share = |count: u32| f64::from(count) / calls as f64;
        // More than are counted can never come together.
        let enough = calls >= (self.settings.min_calls.max(1) as usize).min(MOST_CALLS);
        enough
            && ((failed && share(self.failed) >= self.settings.failure_rate)
                || (slow && share(self.slow) >= self.settings.slow_rate))
    }

    fn open(&mut self, now: Tick, random: f64) -> Change {
        let doubled = self.settings.open.saturating_mul(1 << self.failed_probes.min(16));
        let factor = 1.0 + JITTER * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        let seconds = doubled.min(self.settings.open_max).as_secs_f64() * factor;
        let open = Duration::try_from_secs_f64(seconds).unwrap_or(self.settings.open_max);
        self.state = BreakerState::Open { until: now.saturating_add(open) };
        Change::Opened(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Open times without jitter.
    const MIDDLE: f64 = 0.5;

    fn secs(s: u64) -> Tick {
        Duration::from_secs(s)
    }

    fn breaker() -> Breaker {
        Breaker::new(BreakerSettings {
            window: secs(60),
            min_calls: 4,
            failure_rate: 0.5,
            slow_after: secs(10),
            slow_rate: 0.8,
            open: secs(30),
            open_max: secs(100),
        })
    }

    /// A quick call that ended at `second`.
    fn quick(breaker: &mut Breaker, second: u64, healthy: bool) -> Option<Change> {
        breaker.ended(secs(second), secs(second), healthy, MIDDLE)
    }

    fn opened() -> Breaker {
        let mut breaker = breaker();
        for second in 0..4 {
            quick(&mut breaker, second, false);
        }
        assert_eq!(breaker.state(), BreakerState::Open { until: secs(33) });
        breaker
    }

    #[test]
    fn opens_on_the_failure_rate_and_not_before_there_is_enough_to_tell() {
        let mut breaker = breaker();
        for second in 0..3 {
            assert_eq!(quick(&mut breaker, second, false), None);
        }
        assert_eq!(quick(&mut breaker, 3, false), Some(Change::Opened(secs(30))));
        assert_eq!(breaker.wait(secs(3)), secs(30));
        assert_eq!(breaker.wait(secs(40)), Duration::ZERO);
    }

    #[test]
    fn opens_on_the_slow_rate_unless_that_is_off() {
        let slow = |breaker: &mut Breaker, at: u64| breaker.ended(secs(at), secs(at - 11), true, MIDDLE);
        let mut told = breaker();
        quick(&mut told, 20, true);
        for at in 21..24 {
            assert_eq!(slow(&mut told, at), None, "three of four are less than 0.8");
        }
        assert_eq!(slow(&mut told, 24), Some(Change::Opened(secs(30))));
        told.sent(secs(60));
        assert_eq!(told.ended(secs(75), secs(60), true, MIDDLE), Some(Change::Opened(secs(60))));
        let mut off = breaker();
        off.settings.slow_after = Duration::ZERO;
        assert!((21..60).all(|at| slow(&mut off, at).is_none()));
    }

    #[test]
    fn old_failures_are_forgotten_by_time_and_by_count() {
        let mut by_time = breaker();
        for second in 0..3 {
            quick(&mut by_time, second, false);
        }
        assert_eq!(quick(&mut by_time, 100, false), None);
        let mut by_count = breaker();
        for _ in 0..50 {
            quick(&mut by_count, 0, true);
        }
        for failure in 1..50 {
            assert_eq!(quick(&mut by_count, 1, false), None, "{failure}");
        }
        assert!(quick(&mut by_count, 1, false).is_some(), "half of the last hundred");
        assert_eq!((by_count.calls.len(), by_count.failed), (100, 50));
    }

    #[test]
    fn one_probe_goes_and_a_failed_one_doubles_the_wait_up_to_the_bound() {
        let mut breaker = opened();
        let mut now = secs(33);
        for open in [60, 100, 100] {
            assert_eq!(breaker.wait(now), Duration::ZERO);
            breaker.sent(now);
            assert!(breaker.wait(now) > Duration::ZERO, "a second probe must wait");
            assert_eq!(breaker.ended(now, now, false, MIDDLE), Some(Change::Opened(secs(open))));
            now += secs(open);
        }
        breaker.sent(now);
        assert_eq!(breaker.ended(now, now, true, MIDDLE), Some(Change::Recovered));
        assert_eq!(breaker.wait(now), Duration::ZERO);
    }

    #[test]
    fn one_that_is_tripped_is_open_as_after_failures() {
        let mut breaker = breaker();
        assert_eq!(breaker.trip(secs(1), MIDDLE), Some(Change::Opened(secs(30))));
        assert_eq!(breaker.trip(secs(2), MIDDLE), None);
        assert_eq!(breaker.wait(secs(2)), secs(29));
        breaker.sent(secs(31));
        assert_eq!(breaker.trip(secs(31), MIDDLE), None, "its probe decides");
        assert_eq!(breaker.ended(secs(32), secs(31), true, MIDDLE), Some(Change::Recovered));
    }

    #[test]
    fn one_that_is_tripped_late_is_open_for_as_long_as_was_waited_before() {
        for (at_least, open) in [(0, 30), (15, 30), (60, 60), (90, 100)] {
            let mut breaker = breaker();
            let opened = breaker.trip_for(secs(1), secs(at_least), MIDDLE);
            assert_eq!(opened, Some(Change::Opened(secs(open))), "{at_least}");
            assert_eq!(breaker.trip_for(secs(2), secs(60), MIDDLE), None);
        }
    }

    #[test]
    fn the_open_time_has_a_fifth_of_chance_on_both_sides() {
        for (random, least, most) in [(0.0, 23_999, 24_001), (1.0, 35_999, 36_001)] {
            let mut breaker = breaker();
            let mut last = None;
            for second in 0..4 {
                last = breaker.ended(secs(second), secs(second), false, random);
            }
            let Some(Change::Opened(open)) = last else { panic!("{last:?}") };
            assert!((least..=most).contains(&open.as_millis()), "{open:?}");
        }
    }

    #[test]
    fn what_was_out_before_it_opened_neither_closes_it_nor_ends_the_probe() {
        let mut breaker = opened();
        assert_eq!(breaker.ended(secs(5), secs(2), true, MIDDLE), None);
        breaker.sent(secs(40));
        assert_eq!(breaker.ended(secs(41), secs(3), true, MIDDLE), None);
        assert_eq!(breaker.ended(secs(41), secs(3), false, MIDDLE), None);
        breaker.unsent(secs(42), secs(3));
        assert_eq!(breaker.state(), BreakerState::HalfOpen { since: secs(40) });
        breaker.unsent(secs(42), secs(40));
        assert_eq!(breaker.wait(secs(42)), Duration::ZERO, "the probe itself was not sent");
    }

    #[test]
    fn a_probe_that_is_never_heard_of_does_not_close_the_door_for_ever() {
        let mut breaker = opened();
        breaker.sent(secs(40));
        assert_eq!(breaker.wait(secs(100)), Duration::ZERO);
    }
}
