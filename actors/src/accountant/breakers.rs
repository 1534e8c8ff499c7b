//! The breakers of one budget: one for each operation, and one for the whole provider.
//!
//! An operation that fails alone is shut alone. A failure counts against the whole provider only
//! while it is not this operation's own: while the last call of another operation failed too, and
//! those whose last call failed are at least half of all that were heard of within the window.
//!
//! Long before the share of failures tells, a row of them does: after a few that failed one after the
//! other calls are spaced out, and a row as long as a judgement needs opens the breaker. Of each there
//! are two: this process's own, which only its own answers end, and the fleet's.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::breaker::{Breaker, BreakerSettings, BreakerState, Change};
use steadfast_core::budget::Tick;

use super::health::{Event, Health, News};
use super::row::Row;
use crate::dice::Dice;

/// Operations that have a breaker of their own; more share one.
const MOST_OPERATIONS: usize = 64;

/// The name of that one.
const OTHER: &str = "other";

/// A breaker that changed, and the operation whose it is; `None`: the whole provider's.
pub type Changed = (Option<&'static str>, Change);

#[derive(Debug)]
struct Operation {
    breaker: Breaker,
    row: Row,
    /// With what others said.
    fleet: Row,
    /// Whether it is the fleet's row that opened the breaker: then the fleet may close it.
    by_fleet: bool,
    /// Whether the probe that is out is another process's.
    their_probe: bool,
    /// When the last call ended, and whether in good order.
    last: Option<(Tick, bool)>,
}

/// See the module.
#[derive(Debug)]
pub struct Breakers {
    pub(super) dice: Dice,
    settings: BreakerSettings,
    whole: Breaker,
    each: BTreeMap<&'static str, Operation>,
    news: News,
}

impl Breakers {
    /// All closed. Chance is the operating system's, until it is set.
    pub fn new(settings: BreakerSettings) -> Self {
        let whole = Breaker::new(settings.clone());
        Breakers { dice: Dice::from_os(), whole, settings, each: BTreeMap::new(), news: News::default() }
    }

    /// Those of a process called `me`, which tells others.
    pub fn telling(self, me: &str) -> Self {
        Breakers { news: News::of(me), ..self }
    }

    /// What is to be told now.
    pub fn news(&mut self) -> Vec<Health> {
        self.news.take()
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
        let own = |found: &Operation| found.wait(now, self.settings.open_max);
        self.find(operation).map_or(whole, |found| whole.max(own(found)))
    }

    /// How long until a call of any operation that was heard of may go.
    pub fn least_wait(&self, now: Tick) -> Duration {
        let longest = self.settings.open_max;
        let each = self.each.values().map(|operation| operation.wait(now, longest)).min();
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

    /// Operations whose calls are spaced out, and how far; those whose breaker is open are not.
    pub fn spaced(&self) -> Vec<(&'static str, Duration)> {
        let longest = self.settings.open_max;
        let gap = |operation: &Operation| operation.row.gap(longest).max(operation.fleet.gap(longest));
        let each = self.each.iter().map(|(name, operation)| (*name, gap(operation)));
        each.filter(|(_, gap)| !gap.is_zero()).collect()
    }

    /// A call goes out.
    pub fn sent(&mut self, now: Tick, operation: &'static str) {
        self.whole.sent(now);
        let entry = self.entry(operation);
        entry.breaker.sent(now);
        entry.row.sent(now);
        entry.fleet.sent(now);
        entry.their_probe = false;
        if entry.fleet.is_suspicious() || entry.breaker.state() != BreakerState::Closed {
            self.news.tell(now, now, operation, Event::Probing);
        }
    }

    /// The call of `sent` did not go out, or was cut off.
    pub fn unsent(&mut self, now: Tick, sent: Tick, operation: &'static str) {
        self.whole.unsent(now, sent);
        self.entry(operation).breaker.unsent(now, sent);
    }

    /// The call of `sent` ended.
    pub fn ended(&mut self, now: Tick, sent: Tick, operation: &'static str, healthy: bool) -> Vec<Changed> {
        let own = self.name(operation);
        let random = self.dice.share();
        let judgement = Judgement { now, random, settings: self.settings.clone() };
        let entry = self.entry(operation);
        let was_closed = entry.breaker.state() == BreakerState::Closed;
        let mut change = entry.breaker.ended(now, sent, healthy, random);
        let mut all_is_well = change == Some(Change::Recovered);
        // While it is open its own probes decide.
        if was_closed {
            entry.by_fleet = false;
            entry.row.ended(now, sent, healthy);
            all_is_well |= entry.fleet.ended(now, sent, healthy);
            change = change.or_else(|| entry.judge(&judgement));
        }
        if change.is_some() {
            entry.forget_rows();
        }
        entry.last = Some((now, healthy));
        match (healthy, all_is_well) {
            (false, _) => self.news.tell(now, sent, own, Event::Failed),
            (true, true) => self.news.tell(now, sent, own, Event::Well),
            (true, false) => {}
        }
        let mut changed: Vec<Changed> = change.map(|change| (Some(own), change)).into_iter().collect();
        // A probe of the whole provider's decides, whatever it was for.
        let counts = healthy || self.whole.state() != BreakerState::Closed || self.is_widespread(now);
        if counts && let Some(change) = self.whole.ended(now, sent, healthy, self.dice.share()) {
            changed.push((None, change));
        }
        changed
    }

    /// Another process said this.
    pub fn heard(&mut self, now: Tick, health: &Health) -> Option<Changed> {
        let own = *self.each.keys().find(|name| **name == health.operation)?;
        let random = self.dice.share();
        let judgement = Judgement { now, random, settings: self.settings.clone() };
        let sent = now.saturating_sub(health.out());
        if self.news.is_own(health) {
            return None;
        }
        let entry = self.each.get_mut(own)?;
        let change = entry.heard(&judgement, sent, health.event);
        if change.is_some() {
            entry.forget_rows();
        }
        change.map(|change| (Some(own), change))
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
            fleet: Row::default(),
            by_fleet: false,
            their_probe: false,
            last: None,
        })
    }
}

/// By what it is judged whether a row is an outage, and when.
struct Judgement {
    now: Tick,
    random: f64,
    settings: BreakerSettings,
}

impl Operation {
    /// How long until a call may go.
    fn wait(&self, now: Tick, longest: Duration) -> Duration {
        self.breaker.wait(now).max(self.row.wait(now, longest)).max(self.fleet.wait(now, longest))
    }

    /// A row as long as a judgement needs opens the breaker, for as long as it would wait anyway.
    fn judge(&mut self, by: &Judgement) -> Option<Change> {
        let needed = by.settings.min_calls.max(1);
        let long = [self.row, self.fleet].into_iter().find(|row| row.failed >= needed)?;
        let gap = long.gap(by.settings.open_max);
        let change = self.breaker.trip_for(by.now, gap, by.random);
        self.by_fleet = change.is_some() && self.row.failed < needed && long.of_others;
        change
    }

    /// From now on the breaker's own probes decide.
    fn forget_rows(&mut self) {
        self.row.end();
        self.fleet.end();
    }

    fn heard(&mut self, by: &Judgement, sent: Tick, event: Event) -> Option<Change> {
        let Judgement { now, random, .. } = *by;
        // A probe of theirs is known by when we heard of it.
        let probe = match self.breaker.state() {
            BreakerState::HalfOpen { since } if self.their_probe => Some(since),
            BreakerState::HalfOpen { .. } | BreakerState::Open { .. } | BreakerState::Closed => None,
        };
        match event {
            Event::Probing => {
                self.fleet.sent(now);
                if matches!(self.breaker.state(), BreakerState::Open { .. }) {
                    self.breaker.sent(now);
                    self.their_probe = true;
                }
                None
            }
            Event::Failed | Event::Well if self.breaker.state() == BreakerState::Closed => {
                self.fleet.heard(now, sent, event == Event::Well, random);
                self.judge(by)
            }
            Event::Failed => probe.and_then(|since| self.breaker.ended(now, since, false, random)),
            Event::Well if self.by_fleet => {
                probe.and_then(|since| self.breaker.ended(now, since, true, random))
            }
            // What only our own answers close is ours to try again.
            Event::Well => {
                if let Some(since) = probe {
                    self.breaker.unsent(now, since);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::{FEW_IN_A_ROW, FIRST_GAP};
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
            let spaced = failed >= u64::from(FEW_IN_A_ROW);
            assert_eq!(breakers.wait(now, "chat") > Duration::ZERO, spaced, "{failed}");
            assert_eq!(breakers.states().1, []);
        }
        now += breakers.wait(now, "chat");
        let changed = breakers.ended(now, now, "chat", false);
        assert!(matches!(changed[..], [(Some("chat"), Change::Opened(_))]), "{changed:?}");
    }

    /// A few processes that hear each other at once, and a provider that is down from 100 s on.
    struct Fleet {
        each: Vec<Breakers>,
        sent: Vec<f64>,
    }

    impl Fleet {
        fn of(processes: usize, tells: bool) -> Self {
            let settings =
                BreakerSettings { open: secs(15), open_max: secs(60), min_calls: 10, ..breakers().settings };
            let one = |n: usize| {
                let one = Breakers::new(settings.clone());
                let mut one = if tells { one.telling(&format!("p#{n}")) } else { one };
                one.dice = Dice::seeded(n as u64);
                one.register("chat");
                one
            };
            Fleet { each: (0..processes).map(one).collect(), sent: Vec::new() }
        }

        fn pass_on(&mut self, now: Tick) {
            for n in 0..self.each.len() {
                for health in self.each[n].news() {
                    let health = Health::decode(&health.encode()).unwrap();
                    for other in &mut self.each {
                        other.heard(now, &health);
                    }
                }
            }
        }

        /// One request each so many ms, of whoever may send, from then until then; `down` fails.
        fn run(&mut self, every: u64, from: u64, until: u64, mut down: impl FnMut(usize) -> bool) {
            for (turn, ms) in (from * 1_000..until * 1_000).step_by(every as usize).enumerate() {
                let now = Duration::from_millis(ms);
                let processes = self.each.len();
                let who = (0..processes)
                    .map(|n| (turn + n) % processes)
                    .find(|n| self.each[*n].wait(now, "chat").is_zero());
                let Some(who) = who else { continue };
                self.each[who].sent(now, "chat");
                self.sent.push(now.as_secs_f64());
                self.pass_on(now);
                let end = now + Duration::from_millis(every / 2);
                let healthy = !down(who);
                self.each[who].ended(end, now, "chat", healthy);
                self.pass_on(end);
            }
        }

        fn sent(&self, from: f64, until: f64) -> usize {
            self.sent.iter().filter(|at| (from..until).contains(*at)).count()
        }
    }

    #[test]
    fn sixteen_processes_send_into_an_outage_what_one_would_and_find_its_end_together() {
        for (every, most) in [(1_000, 20), (100, 20)] {
            for processes in [1, 16] {
                let mut fleet = Fleet::of(processes, true);
                fleet.run(every, 0, 100, |_| false);
                fleet.run(every, 100, 700, |_| true);
                let into = fleet.sent(100.0, 700.0);
                assert!((12..=most).contains(&into), "{into} of {processes}, one each {every} ms");
                fleet.run(every, 700, 900, |_| false);
                let after = fleet.sent(780.0, 900.0) as u64;
                assert!(after >= 118_000 / every, "{after} of {processes}: found within 72 s, by all");
            }
        }
        let mut each_alone = Fleet::of(16, false);
        each_alone.run(100, 100, 700, |_| true);
        assert!(each_alone.sent(100.0, 700.0) > 200, "what it is worth");
    }

    #[test]
    fn calls_that_were_out_together_and_fail_together_shut_it_for_no_longer_than_at_first() {
        let mut breakers = breakers();
        for _ in 0..40 {
            breakers.sent(secs(10), "chat");
        }
        let ended = |_| breakers.ended(secs(11), secs(10), "chat", false);
        let changed: Vec<Changed> = (0..40).flat_map(ended).collect();
        let [(Some("chat"), Change::Opened(open))] = changed[..] else { panic!("{changed:?}") };
        assert!(open <= OPEN * 6 / 5, "{open:?}");
        assert!(breakers.wait(secs(11), "chat") <= open, "and no row besides");
    }

    #[test]
    fn one_process_that_fails_alone_shuts_no_other_and_is_not_opened_by_them() {
        let mut fleet = Fleet::of(4, true);
        fleet.run(250, 0, 600, |who| who == 2);
        let all = fleet.sent(0.0, 600.0);
        assert!(all > 2_300, "{all} of 2,400");
        assert!(matches!(fleet.each[2].states().1[..], [("chat", _)]), "{:?}", fleet.each[2].states());
        for well in [0, 1, 3] {
            assert_eq!(fleet.each[well].states().1, []);
        }
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
