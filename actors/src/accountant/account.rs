//! An account: one budget, its breakers, and those who wait for it. Pure: time comes in, answers go
//! out.
//!
//! Each operation has a line of its own, and its retries another, so that a shut breaker or a spent
//! retry budget holds up nobody else; between the lines that may move, the order decides.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::breaker::BreakerSettings;
use steadfast_core::budget::Tick;
use steadfast_core::failure::GateReason;
use steadfast_core::fleet::Act;
use steadfast_core::retry_budget::RetryBudget;

use crate::dice::Dice;

use super::breakers::{Breakers, Changed};
use super::health::Health;
use super::messages::{Need, Shut};
use super::shared::Shared;
use super::waiting::{Place, Waiter, Waiting};

/// A job that is sent away comes back after this long at the earliest: less would be churn.
const SHORTEST_PARK: Duration = Duration::from_secs(1);

/// Where an answer goes.
pub trait Answer {
    /// Whether nobody is there to hear it any more.
    fn is_gone(&self) -> bool;
}

/// One that asks.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What for.
    pub need: Need,
    /// When its patience ends.
    pub until: Tick,
}

/// What a permit took, so that it can be accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Tick,
    /// What the budget knows it by.
    pub permit: Tick,
    /// For which operation.
    pub operation: &'static str,
    /// Tokens, as estimated.
    pub tokens: u64,
    /// Whether it took of the retry budget.
    pub is_retry: bool,
}

/// What came of serving those who wait.
#[derive(Debug)]
pub struct Served<W> {
    /// Whose turn it was.
    pub go: Vec<(W, Sent)>,
    /// Whose patience ends before their turn.
    pub away: Vec<(W, Shut)>,
    /// When to serve again, unless something is heard before.
    pub next: Option<Tick>,
}

/// An operation, and whether these are its retries.
type Line = (&'static str, bool);

/// Numbers since the beginning, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Permits handed out and not given back.
    pub used: u64,
    /// Requests that the provider refused for their rate.
    pub rejected: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Account<W> {
    pub(super) budget: Shared,
    pub(super) breakers: Breakers,
    pub(super) lines: BTreeMap<Line, Waiting<W>>,
    pub(super) counts: Counts,
    /// Refusals in a row, each though the wait that the one before named was kept.
    pub(super) in_vain: u32,
    last_sent: Option<Tick>,
    spacing: Duration,
    arrivals: u64,
    /// When the job was admitted that asked last, in seconds.
    admitted: f64,
}

impl<W: Answer> Account<W> {
    /// With nothing sent and nobody waiting; requests are at least `spacing` apart.
    pub fn new(budget: Shared, spacing: Duration, breaker: BreakerSettings) -> Self {
        Account {
            budget,
            breakers: Breakers::new(breaker),
            lines: BTreeMap::new(),
            counts: Counts::default(),
            in_vain: 0,
            last_sent: None,
            spacing,
            arrivals: 0,
            admitted: 0.0,
        }
    }

    /// Of a process called `me`, which tells those who share the budget how the provider is.
    pub fn telling(self, me: &str) -> Self {
        Account { breakers: self.breakers.telling(me), ..self }
    }

    /// Another process said this. Returns the breaker that it changed.
    pub fn heard(&mut self, now: Tick, health: &Health) -> Option<Changed> {
        self.breakers.heard(now, health)
    }

    /// With chance from `dice`.
    pub fn drawing(mut self, dice: &Dice) -> Self {
        self.breakers.dice = dice.clone();
        self
    }

    /// Whether forgetting it would lose more than what the next headers tell.
    pub fn is_in_use(&self, now: Tick) -> bool {
        self.lines.values().any(|line| !line.is_empty())
            || self.budget.in_flight() > 0
            || self.budget.gate(now).is_some()
            || self.breakers.is_any_open(now)
    }

    /// One more waits; [`Account::serve`] gives it its turn.
    pub fn join(&mut self, now: Tick, ask: Ask, answer: W) -> Place {
        let Ask { need, until } = ask;
        self.admitted = need.order.admitted.secs() as f64;
        let place = Place::new(need.order, self.arrivals);
        self.arrivals += 1;
        let line = (self.breakers.register(need.operation), need.is_retry);
        let waiter = Waiter::new(need.tokens, now, until, answer);
        self.lines.entry(line).or_default().join(place, waiter);
        place
    }

    /// One no longer waits.
    pub fn leave(&mut self, operation: &'static str, is_retry: bool, place: Place) {
        let line = (self.breakers.register(operation), is_retry);
        if let Some(line) = self.lines.get_mut(&line) {
            line.remove(place);
        }
    }

    /// Hands out permits while there are any, and sends away those whose patience ends before the
    /// next.
    pub fn serve(&mut self, now: Tick, retries: &mut RetryBudget) -> Served<W> {
        let mut served = Served { go: Vec::new(), away: Vec::new(), next: None };
        let mut held = Duration::ZERO;
        while let Some((line, place, tokens)) = self.next_up(now, retries) {
            let wait = self.wait(now, tokens);
            let turn = if wait.is_zero() { Some(place) } else { self.overtaking(now, line) };
            let waiter = turn.and_then(|place| self.lines.get_mut(&line)?.remove(place));
            let Some(waiter) = waiter else {
                held = wait;
                break;
            };
            let (operation, is_retry) = line;
            let permit = self.budget.take(now, waiter.tokens);
            let sent = Sent { at: now, permit, operation, tokens: waiter.tokens, is_retry };
            self.take(sent, retries);
            served.go.push((waiter.answer, sent));
        }
        self.turn_away(now, held, retries, &mut served);
        served
    }

    /// What is to be done for those who share the budget, and when to ask again.
    pub fn share(&mut self, now: Tick) -> (Vec<Act>, Option<Tick>) {
        let waiting: usize = self.lines.values().map(|line| line.len()).sum();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let jobs = waiting.saturating_add(self.budget.in_flight());
        self.budget.need(now, jobs, waiting, self.admitted);
        self.budget.sizes(self.lines.values().flat_map(Waiting::sizes));
        let mut acts = self.budget.step(now);
        acts.extend(self.breakers.news().iter().map(|health| Act::Say(health.encode())));
        (acts, self.budget.next(now).map(|wait| now.saturating_add(wait)))
    }

    /// A permit was not used.
    pub fn give_back(&mut self, now: Tick, sent: Sent, retries: &mut RetryBudget) {
        self.counts.used = self.counts.used.saturating_sub(1);
        self.budget.untake(now, sent.permit, sent.tokens);
        self.breakers.unsent(now, sent.at, sent.operation);
        retries.unsent(sent.at, sent.is_retry);
    }

    /// How long a new call would wait: at a shut door; with its `tokens`, also for the budget, and
    /// for those before it. The least time between two calls is no want of budget.
    pub fn outlook(&mut self, now: Tick, tokens: Option<u64>) -> Duration {
        let gate = self.budget.gate(now).map_or(Duration::ZERO, |gate| gate.until.saturating_sub(now));
        let shut = gate.max(self.breakers.least_wait(now));
        let Some(tokens) = tokens.filter(|_| shut.is_zero()) else { return shut };
        if self.in_vain > 1 && self.budget.in_flight() > 0 {
            return Duration::MAX;
        }
        let ahead: usize = self.lines.values().map(|line| line.len()).sum();
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        let first = self.budget.wait(now, tokens);
        self.budget.queue(first, if first.is_zero() { 0 } else { ahead })
    }

    fn take(&mut self, sent: Sent, retries: &mut RetryBudget) {
        self.counts.used += 1;
        self.breakers.sent(sent.at, sent.operation);
        retries.sent(sent.at, sent.is_retry);
        self.last_sent = Some(sent.at);
    }

    /// The first of all who wait in a line that may move.
    fn next_up(&mut self, now: Tick, retries: &mut RetryBudget) -> Option<(Line, Place, u64)> {
        let mut first: Option<(Line, Place, u64)> = None;
        for (line, waiting) in &mut self.lines {
            if waiting.is_empty() || !shut_for(&self.breakers, retries, now, *line).is_zero() {
                continue;
            }
            if let Some((place, tokens)) = waiting.first()
                && first.is_none_or(|(_, earliest, _)| place < earliest)
            {
                first = Some((*line, place, tokens));
            }
        }
        first
    }

    /// Where tokens alone hold up the first, one that needs fewer may go.
    fn overtaking(&mut self, now: Tick, line: Line) -> Option<Place> {
        if !self.wait(now, 0).is_zero() {
            return None;
        }
        let budget = &mut self.budget;
        self.lines.get_mut(&line)?.overtaking(|tokens| budget.wait(now, tokens).is_zero())
    }

    /// How long until a call of `tokens` could go, whatever its line.
    fn wait(&mut self, now: Tick, tokens: u64) -> Duration {
        // Where all are refused one at a time is enough to find out when no longer.
        if self.in_vain > 1 && self.budget.in_flight() > 0 {
            return Duration::MAX;
        }
        let spaced = self.last_sent.map_or(Duration::ZERO, |sent| (sent + self.spacing).saturating_sub(now));
        self.budget.wait(now, tokens).max(spaced)
    }

    /// Sends away those whose patience ends before their line moves; the rest wait on. `held` is
    /// how long the one whose turn it is must wait, and all behind it.
    fn turn_away(&mut self, now: Tick, held: Duration, retries: &mut RetryBudget, served: &mut Served<W>) {
        let gate = self.budget.gate(now).map(|gate| gate.reason);
        let lines: Vec<Line> =
            self.lines.iter().filter(|(_, waiting)| !waiting.is_empty()).map(|(line, _)| *line).collect();
        for line in lines {
            let shut = shut_for(&self.breakers, retries, now, line);
            let first = self.lines.get_mut(&line).and_then(Waiting::first);
            let Some((_, tokens)) = first else { continue };
            let wait = shut.max(held).max(self.wait(now, tokens));
            // Nobody knows when an answer comes; a breaker's time is known.
            let wait = if wait == Duration::MAX { shut } else { wait };
            let opens = now.saturating_add(wait);
            let reason = gate.or((!shut.is_zero()).then_some(GateReason::Unavailable));
            let Some(waiting) = self.lines.get_mut(&line) else { continue };
            for (ahead, waiter) in (1u32..).zip(waiting.tired(now, opens)) {
                // Behind a shut door all wait alike; behind a pace, each for those before it.
                let queue =
                    if reason.is_some() { wait } else { self.budget.queue(wait, ahead.saturating_sub(1)) };
                served.away.push((waiter.answer, Shut { wait: queue.max(SHORTEST_PARK), reason }));
            }
            let moves = (!wait.is_zero()).then_some(opens);
            let next = [served.next, waiting.first_until(), moves.filter(|_| !waiting.is_empty())];
            served.next = next.into_iter().flatten().min();
        }
    }
}

/// How long a line is shut, whatever the budget says.
fn shut_for(breakers: &Breakers, retries: &mut RetryBudget, now: Tick, line: Line) -> Duration {
    let (operation, is_retry) = line;
    let retry = if is_retry { retries.wait(now) } else { Duration::ZERO };
    breakers.wait(now, operation).max(retry)
}
