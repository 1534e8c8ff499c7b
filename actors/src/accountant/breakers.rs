//! The breakers of one budget: one for each operation, and one for the whole provider.
//!
//! An operation that fails alone is shut alone. A failure counts against the whole provider only
//! while it is not this operation's own: while the last call of another operation failed too, and
//! those whose last call failed are at least half of all that were heard of within the window.
//!
//! Long before the share of failures tells, a row of them does: after a few that failed one after the
//! other calls are spaced out, and a row as long as a judgement needs opens the breaker.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::breaker::{Breaker, BreakerSettings, BreakerState, Change};
use steadfast_core::budget::Tick;

/// Operations that have a breaker of their own; more share one.
const MOST_OPERATIONS: usize = 64;

/// The name of that one.
const OTHER: &str = "other";

/// So many that failed in a row may be the beginning of an outage: calls go one by one.
const FEW_IN_A_ROW: u32 = 3;
/// The first distance between them; doubles with each that fails, up to the time that a breaker is open.
const FIRST_GAP: Duration = Duration::from_secs(1);

/// Calls that failed one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// How many.
    failed: u32,
    /// When the first was sent: what was sent before says nothing of it.
    since: Tick,
    /// When the last call was sent.
    sent: Tick,
}

impl Row {
    fn sent(&mut self, now: Tick) {
        self.sent = now;
    }

    /// Returns whether the row is as long as `judgement`.
    fn ended(&mut self, sent: Tick, healthy: bool, judgement: u32) -> bool {
        if !healthy {
            self.since = if self.failed == 0 { sent } else { self.since.min(sent) };
            self.failed = self.failed.saturating_add(1);
        } else if sent >= self.since {
            self.failed = 0;
        }
        self.failed >= judgement.max(1)
    }

    fn wait(&self, now: Tick, longest: Duration) -> Duration {
        let Some(more) = self.failed.checked_sub(FEW_IN_A_ROW) else { return Duration::ZERO };
        let gap = FIRST_GAP.saturating_mul(1 << more.min(16)).min(longest);
        (self.sent + gap).saturating_sub(now)
    }
}

/// A breaker that changed, and the operation whose it is; `None`: the whole provider's.
pub type Changed = (Option<&'static str>, Change);

#[derive(Debug)]
struct Operation {
    breaker: Breaker,
    row: Row,
    /// When the last call ended, and whether in good order.
    last: Option<(Tick, bool)>,
}

/// See the module.
#[derive(Debug)]
pub struct Breakers {
    settings: BreakerSettings,
    whole: Breaker,
    each: BTreeMap<&'static str, Operation>,
}

impl Breakers {
    /// All closed.
    pub fn new(settings: BreakerSettings) -> Self {
        Breakers { whole: Breaker::new(settings.clone()), settings, each: BTreeMap::new() }
    }

    /// The name by which this operation is kept, from now on.
    pub fn register(&mut self, operation: &'static str) -> &'static str {
        let name = self.name(operation);
        self.entry(name);
        name
    }

    /// How long until a call of this operation may go.
    pub fn wait(&self, now: Tick, operation: &'static str) -> Duration {
        let whole = self.whole.wait(now);
        let own = |found: &Operation| found.breaker.wait(now).max(found.row.wait(now, self.settings.open));
        self.find(operation).map_or(whole, |found| whole.max(own(found)))
    }

    /// How long until a call of any operation that was heard of may go.
    pub fn least_wait(&self, now: Tick) -> Duration {
        let each = self.each.values().map(|operation| operation.breaker.wait(now)).min();
        self.whole.wait(now).max(each.unwrap_or_default())
    }

    /// Whether one of them is not closed.
    pub fn is_any_open(&self, now: Tick) -> bool {
        let open = |breaker: &Breaker| !breaker.wait(now).is_zero();
        open(&self.whole) || self.each.values().any(|operation| open(&operation.breaker))
    }

    /// The whole provider's, then each that is not closed.
    pub fn states(&self) -> (BreakerState, Vec<(&'static str, BreakerState)>) {
        let each = self.each.iter().map(|(name, operation)| (*name, operation.breaker.state()));
        (self.whole.state(), each.filter(|(_, state)| *state != BreakerState::Closed).collect())
    }

    /// A call goes out.
    pub fn sent(&mut self, now: Tick, operation: &'static str) {
        self.whole.sent(now);
        let entry = self.entry(operation);
        entry.breaker.sent(now);
        entry.row.sent(now);
    }

    /// The call of `sent` did not go out, or was cut off.
    pub fn unsent(&mut self, now: Tick, sent: Tick, operation: &'static str) {
        self.whole.unsent(now, sent);
        self.entry(operation).breaker.unsent(now, sent);
    }

    /// The call of `sent` ended.
    pub fn ended(&mut self, now: Tick, sent: Tick, operation: &'static str, healthy: bool) -> Vec<Changed> {
        let own = self.name(operation);
        let judgement = self.settings.min_calls;
        let entry = self.entry(operation);
        let mut change = entry.breaker.ended(now, sent, healthy, rand::random());
        if entry.row.ended(sent, healthy, judgement) {
            change = change.or(entry.breaker.trip(now, rand::random()));
        }
        if change.is_some() {
            // From now on the breaker's own probes decide.
            entry.row.failed = 0;
        }
        entry.last = Some((now, healthy));
        let mut changed: Vec<Changed> = change.map(|change| (Some(own), change)).into_iter().collect();
        // A probe of the whole provider's decides, whatever it was for.
        let counts = healthy || self.whole.state() != BreakerState::Closed || self.is_widespread(now);
        if counts && let Some(change) = self.whole.ended(now, sent, healthy, rand::random()) {
            changed.push((None, change));
        }
        changed
    }

    fn is_widespread(&self, now: Tick) -> bool {
        let window = self.settings.window;
        let recent = |last: &(Tick, bool)| now.saturating_sub(last.0) <= window;
        let last: Vec<bool> =
            self.each.values().filter_map(|operation| operation.last.filter(recent)).map(|l| l.1).collect();
        let failing = last.iter().filter(|healthy| !**healthy).count();
        failing > 1 && failing * 2 >= last.len()
    }

    fn name(&self, operation: &'static str) -> &'static str {
        let known = self.each.contains_key(operation) || self.each.len() < MOST_OPERATIONS - 1;
        if known { operation } else { OTHER }
    }

    fn find(&self, operation: &'static str) -> Option<&Operation> {
        self.each.get(self.name(operation))
    }

    fn entry(&mut self, operation: &'static str) -> &mut Operation {
        let settings = &self.settings;
        self.each.entry(self.name(operation)).or_insert_with(|| Operation {
            breaker: Breaker::new(settings.clone()),
            row: Row::default(),
            last: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(30);

    fn breakers() -> Breakers {
        Breakers::new(crate::tests::settings().breaker)
    }

    fn secs(s: u64) -> Tick {
        Duration::from_secs(s)
    }

    fn fail(breakers: &mut Breakers, operation: &'static str, times: u64) {
        for second in 0..times {
            breakers.ended(secs(second), secs(second), operation, false);
        }
    }

    #[test]
    fn an_operation_that_fails_alone_shuts_no_other() {
        let mut breakers = breakers();
        breakers.ended(secs(0), secs(0), "find_pull", true);
        fail(&mut breakers, "create_pull", 20);
        assert!(breakers.wait(secs(1), "create_pull") > OPEN / 2);
        assert_eq!(breakers.wait(secs(1), "find_pull"), Duration::ZERO);
        assert_eq!(breakers.wait(secs(1), "user"), Duration::ZERO, "one that was never called");
        assert_eq!(breakers.states().0, BreakerState::Closed);
        assert!(breakers.is_any_open(secs(1)));
        assert_eq!(breakers.least_wait(secs(1)), Duration::ZERO);
    }

    #[test]
    fn operations_that_fail_together_shut_the_whole_provider_and_a_probe_opens_it() {
        let mut breakers = breakers();
        fail(&mut breakers, "create_pull", 3);
        fail(&mut breakers, "user", 6);
        assert!(breakers.wait(secs(6), "never_called") > OPEN / 2);
        let later = secs(100);
        breakers.sent(later, "user");
        assert!(breakers.wait(later, "never_called") > Duration::ZERO, "one probe at a time");
        let changed = breakers.ended(later, later, "user", true);
        assert_eq!(changed, [(Some("user"), Change::Recovered), (None, Change::Recovered)]);
        assert_eq!(breakers.wait(later, "never_called"), Duration::ZERO);
    }

    #[test]
    fn the_first_failures_in_a_row_space_calls_out_and_as_many_as_a_judgement_needs_open_it() {
        let mut breakers = breakers();
        let judgement = u64::from(breakers.settings.min_calls);
        let mut now = secs(1);
        for second in 0..100 {
            breakers.ended(secs(1), Duration::from_millis(second), "chat", true);
        }
        for failed in 1..judgement {
            now += breakers.wait(now, "chat");
            breakers.sent(now, "chat");
            assert_eq!(breakers.ended(now, now, "chat", false), [], "{failed} failed");
            // Sent before the first of them failed: no sign of health.
            breakers.ended(now, Duration::from_millis(500), "chat", true);
            assert_eq!(breakers.wait(now, "chat").is_zero(), failed < u64::from(FEW_IN_A_ROW), "{failed}");
            assert_eq!(breakers.states().1, []);
        }
        now += breakers.wait(now, "chat");
        let changed = breakers.ended(now, now, "chat", false);
        assert!(matches!(changed[..], [(Some("chat"), Change::Opened(_))]), "{changed:?}");
    }

    #[test]
    fn one_good_answer_ends_the_suspicion() {
        let mut breakers = breakers();
        for _ in 0..FEW_IN_A_ROW {
            breakers.sent(secs(1), "chat");
            breakers.ended(secs(1), secs(1), "chat", false);
        }
        assert_eq!(breakers.wait(secs(1), "chat"), FIRST_GAP);
        breakers.ended(secs(2), secs(2), "chat", true);
        assert_eq!(breakers.wait(secs(2), "chat"), Duration::ZERO);
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let mut breakers = breakers();
        for number in 0..200 {
            let name: &'static str = format!("operation_{number}").leak();
            breakers.sent(secs(1), name);
        }
        assert_eq!(breakers.each.len(), MOST_OPERATIONS);
        fail(&mut breakers, "operation_150", 5);
        assert!(breakers.wait(secs(5), "operation_160") > Duration::ZERO, "those share one");
        assert_eq!(breakers.wait(secs(5), "operation_1"), Duration::ZERO);
    }
}
