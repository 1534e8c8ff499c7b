//! One process's part in a budget that a fleet shares.
//!
//! Of the processes that use a budget one is its *keeper*, by a lease in the ledger. It has the
//! budget's arithmetic ([`crate::budget`]) and says, ahead of time and for all, who may send when;
//! the others say what they need and what was refused. A process alone is its keeper and asks
//! nobody. Who cannot reach the ledger goes on evenly with its part of what was last known.
//!
//! Pure: instants are the store's clock, as time since the Unix epoch; [`Fleet::step`] says what is
//! to be said, [`Fleet::hear`] takes in what was heard. docs/decisions/0004 says why it is so.

mod keeper;
mod talk;
#[cfg(test)]
mod tests;
mod words;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::words::{Grants, Met, Plan, Unused, Want, Word};

use self::keeper::Keeper;
use self::words::MOST_TOLD;
use crate::budget::{Budget, Closed, Kind, LimitSettings, Outcome, Source, Tick};
use crate::failure::GateReason;
use crate::headers::Observed;

/// How long after the promised plan a keeper counts as gone.
const GRACE: Duration = Duration::from_secs(2);
/// A need that falls is believed after this long: between two calls a job asks for nothing.
const REMEMBERED: Duration = Duration::from_secs(8);

/// What is to be done for the fleet's sake.
#[derive(Clone, Debug)]
pub enum Act {
    /// Say this on the budget's channel.
    Say(Vec<u8>),
    /// Take or keep the keepership.
    Keep {
        /// 0: to become the keeper.
        epoch: u64,
        /// For how long; zero: give it up.
        lease: Duration,
        /// The budget, to be noted.
        note: Option<Box<Learned>>,
        /// What is said with it.
        words: Option<Vec<u8>>,
    },
}

/// What the ledger said to [`Act::Keep`].
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Whether the keepership is ours.
    pub yours: bool,
    /// Its epoch.
    pub epoch: u64,
    /// Until when it is the keeper's.
    pub until: Tick,
    /// The last note, where it is newly ours.
    pub note: Option<Learned>,
    /// The runners that hold leases.
    pub present: Vec<String>,
}

/// What was learned of a budget, to go on with after a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Learned {
    /// With what configuration: under another it is worth nothing.
    pub settings: LimitSettings,
    /// The budget.
    pub budget: Budget,
    /// When it was noted; 0 in notes of builds that did not say so.
    #[serde(default)]
    pub noted_at: Tick,
    /// Until when permits are out that it does not know as spent.
    pub granted_until: Tick,
    /// Nobody but the keeper may have those permits.
    #[serde(default)]
    pub alone: bool,
}

impl Learned {
    /// Whether it can be meant: nothing that is computed with it overflows.
    pub fn is_plausible(&self) -> bool {
        let numbers = serde_json::to_value(self).is_ok_and(|note| words::is_of_this_world(&note));
        numbers && self.budget.is_plausible()
    }
}

/// What stands behind this process's permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Nothing was needed yet.
    Idle,
    /// The keeper is being looked for.
    Seeking,
    /// It keeps the budget.
    Keeper,
    /// Another keeps it.
    Member,
    /// The ledger is away: its part of what was last known.
    Adrift,
}

/// A permit in stock.
#[derive(Clone, Copy, Debug)]
struct Granted {
    at: Tick,
    until: Tick,
    probe: bool,
    tokens: u64,
}

/// What the last plan said, for the time without one.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    members: u32,
    rate: Option<f64>,
    token_rate: Option<f64>,
    opens: Option<Tick>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Fleet {
    me: String,
    settings: LimitSettings,
    part: Part,
    keeper: Option<Box<Keeper>>,
    /// Adrift: our part of the budget.
    own: Option<Box<Budget>>,
    epoch: u64,
    stock: VecDeque<Granted>,
    /// Tokens that requests cost beyond what came with their permits, not told yet.
    off: f64,
    /// Tokens of those that wait, in the order of their turns, where they are counted.
    sizes: Vec<u64>,
    /// How many sizes the keeper was told, and no permit came for.
    asked: usize,
    /// Permits that nobody could use, to be given back.
    unused: Vec<Unused>,
    /// Whether there is less than is wanted: then what is not used is given back.
    tight: bool,
    counts_tokens: bool,
    /// So much of `off` is news.
    slack: u64,
    flight: Option<u32>,
    in_flight: u32,
    gate: Option<Closed>,
    last: Last,
    /// When something is to be done whatever happens.
    due: Tick,
    /// Alone: when the budget was noted, and what was sent since.
    noted: (Tick, u32),
    /// An [`Act::Keep`] is under way.
    asking: bool,
    jobs: u32,
    /// Callers that wait right now.
    waiting: u32,
    admitted: f64,
    /// The most jobs of late, and until when that is remembered.
    peak: (u32, Tick),
    /// Tokens that a request cost, smoothed.
    cost: f64,
    said: Want,
    said_at: Tick,
    say_each: Duration,
    must_say: bool,
    /// Whether there is a ledger.
    shares: bool,
    observed: Option<(Tick, Observed)>,
    /// The permit of the request that ended last, and when it was sent.
    ended: Option<(Tick, Tick)>,
    out: Vec<Act>,
}

impl Fleet {
    /// A process called `me`, its runner's name and after a `#` what makes it one of its kind.
    pub fn new(settings: &LimitSettings, me: &str) -> Self {
        Fleet {
            me: me.to_owned(),
            settings: settings.clone(),
            part: Part::Idle,
            keeper: None,
            own: None,
            epoch: 0,
            stock: VecDeque::new(),
            off: 0.0,
            sizes: Vec::new(),
            asked: 0,
            unused: Vec::new(),
            tight: false,
            counts_tokens: false,
            slack: 0,
            flight: None,
            in_flight: 0,
            gate: None,
            last: Last::default(),
            due: Duration::ZERO,
            noted: (Duration::ZERO, 0),
            asking: false,
            jobs: 0,
            waiting: 0,
            admitted: 0.0,
            peak: (0, Duration::ZERO),
            cost: 0.0,
            said: Want::default(),
            said_at: Duration::ZERO,
            say_each: Duration::from_secs(5),
            must_say: false,
            shares: true,
            observed: None,
            ended: None,
            out: Vec::new(),
        }
    }

    /// A process that shares with nobody.
    pub fn alone(settings: &LimitSettings, now: Tick) -> Self {
        let keeper = Keeper::new(1, Budget::new(settings, now), now);
        let flight = (settings.concurrency > 0).then_some(settings.concurrency);
        let part = Part::Keeper;
        Fleet { part, keeper: Some(Box::new(keeper)), flight, shares: false, ..Fleet::new(settings, "") }
    }

    /// What stands behind this process's permits.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The budget, where this process has one of its own: the fleet's, or its part of it.
    fn budget(&self) -> Option<&Budget> {
        match self.part {
            Part::Keeper => self.keeper.as_ref().map(|keeper| &keeper.budget),
            Part::Adrift => self.own.as_deref(),
            Part::Idle | Part::Seeking | Part::Member => None,
        }
    }

    /// The budget that permits are taken from directly, none being dealt ahead.
    fn direct(&mut self) -> Option<&mut Budget> {
        match self.part {
            Part::Keeper => {
                let keeper = self.keeper.as_mut()?;
                keeper.is_alone(&self.me).then_some(&mut keeper.budget)
            }
            Part::Adrift => self.own.as_deref_mut(),
            Part::Idle | Part::Seeking | Part::Member => None,
        }
    }

    /// What this process needs: its callers, waiting or under way, and when their jobs were
    /// admitted, as a mean in seconds.
    pub fn need(&mut self, now: Tick, jobs: u32, waiting: u32, admitted: f64) {
        self.waiting = waiting;
        self.admitted = admitted;
        if jobs >= self.peak.0 || now >= self.peak.1 {
            self.peak = (jobs, now + REMEMBERED);
        }
        self.jobs = self.peak.0;
    }

    /// Tokens of the requests that wait, in the order of their turns.
    pub fn sizes(&mut self, sizes: impl Iterator<Item = u64>) {
        self.sizes.clear();
        if self.counts_tokens {
            self.sizes.extend(sizes.take(MOST_TOLD));
        }
    }

    fn wants(&self) -> Want {
        Want {
            from: self.me.clone(),
            jobs: self.jobs,
            admitted: self.admitted,
            tokens: self.cost.ceil() as u64,
            stock: u32::try_from(self.stock.len()).unwrap_or(u32::MAX),
            sizes: self.uncovered(),
            unused: Vec::new(),
            off: 0,
            observed: None,
        }
    }

    /// What those that wait need beyond the permits that are there.
    fn uncovered(&self) -> Vec<u64> {
        let mut held: Vec<u64> = self.stock.iter().map(|granted| granted.tokens).collect();
        let mut uncovered = Vec::new();
        for size in &self.sizes {
            let fits = held.iter().enumerate().filter(|(_, tokens)| *tokens >= size);
            match fits.min_by_key(|(_, tokens)| **tokens).map(|(index, _)| index) {
                Some(index) => {
                    held.swap_remove(index);
                }
                None => uncovered.push(*size),
            }
        }
        uncovered
    }

    /// The gate, if it is closed at `now`.
    pub fn gate(&self, now: Tick) -> Option<Closed> {
        let known = self.budget().and_then(|budget| budget.gate(now));
        known.or(self.gate).filter(|gate| gate.until > now)
    }

    /// How long until a request of `tokens` may be sent; [`Duration::MAX`] where that is not known.
    pub fn wait(&mut self, now: Tick, tokens: u64) -> Duration {
        if self.cost == 0.0 {
            self.cost = tokens as f64;
        }
        let share_is_out = self.flight.is_some_and(|most| self.in_flight >= most);
        let whole = self.settings.concurrency;
        // What is under way since before this process kept the budget, the budget does not count.
        let whole_is_out = whole > 0 && self.in_flight >= whole;
        let keeps = self.part == Part::Keeper;
        match self.direct() {
            // Alone, the whole of it is ours, concurrency too.
            Some(_) if if keeps { whole_is_out } else { share_is_out } => return Duration::MAX,
            Some(budget) => return budget.wait(now, tokens),
            None if share_is_out => return Duration::MAX,
            None => {}
        }
        if let Some(gate) = self.gate(now) {
            return gate.until - now;
        }
        self.expire(now);
        let fits = self.stock.iter().filter(|granted| self.fits(granted, tokens));
        fits.map(|granted| granted.at).min().map_or(Duration::MAX, |at| at.saturating_sub(now))
    }

    /// Whether the permit is for a request of `tokens`.
    fn fits(&self, granted: &Granted, tokens: u64) -> bool {
        !self.counts_tokens || granted.probe || granted.tokens == 0 || granted.tokens >= tokens
    }

    /// Forgets permits whose time is over.
    fn expire(&mut self, now: Tick) {
        while let Some(granted) = self.stock.front().copied().filter(|granted| granted.until <= now) {
            self.stock.pop_front();
            self.not_used(granted);
        }
    }

    /// Spends one permit; [`Fleet::wait`] said zero before. Returns the permit's instant, by which
    /// it is known.
    pub fn take(&mut self, now: Tick, tokens: u64) -> Tick {
        self.in_flight = self.in_flight.saturating_add(1);
        if let Some(budget) = self.direct() {
            budget.take(now, tokens);
            self.noted.1 = self.noted.1.saturating_add(1);
            return now;
        }
        let due = self.stock.iter().enumerate().filter(|(_, granted)| granted.at <= now);
        let fit = due.filter(|(_, granted)| self.fits(granted, tokens));
        // The one that was dealt for it, or is nearest to that.
        let fit = fit.min_by_key(|(_, granted)| if self.counts_tokens { granted.tokens } else { 0 });
        let index = fit.map_or(0, |(index, _)| index);
        let Some(granted) = self.stock.remove(index) else { return now };
        if self.counts_tokens {
            self.off += tokens as f64 - self.dealt(&granted) as f64;
        }
        granted.at
    }

    /// Tokens that the keeper took for it.
    fn dealt(&self, granted: &Granted) -> u64 {
        if granted.tokens > 0 { granted.tokens } else { self.said.tokens }
    }

    /// Gives back a permit that was not used.
    pub fn untake(&mut self, now: Tick, permit: Tick, tokens: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(budget) = self.direct() {
            budget.untake(now, permit, tokens);
            return;
        }
        self.stock.push_front(Granted { at: permit, until: permit.max(now) + GRACE, probe: false, tokens });
    }

    /// The request with this permit, sent at `sent`, ended: see [`Budget::done`].
    pub fn done(
        &mut self,
        now: Tick,
        permit: Tick,
        sent: Tick,
        estimated: u64,
        actual: Option<u64>,
        outcome: Outcome,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.ended = Some((permit, sent));
        let cost = actual.unwrap_or(estimated) as f64;
        self.cost += (cost - self.cost) * 0.1;
        let alone = self.direct().is_some();
        if actual.is_some() && !alone {
            self.off += cost - estimated as f64;
        }
        match (self.part, &mut self.keeper, &mut self.own) {
            (Part::Keeper, Some(keeper), _) => {
                if outcome == Outcome::Accepted {
                    let took = now.saturating_sub(sent).as_secs_f64();
                    keeper.latency += (took - keeper.latency) * 0.05;
                }
                if alone {
                    keeper.budget.done(now, permit, estimated, actual, outcome);
                } else {
                    keeper.overspent(now, std::mem::take(&mut self.off));
                    keeper.met(now, permit, sent, estimated, Some(outcome));
                }
            }
            (Part::Adrift, _, Some(own)) => own.done(now, permit, estimated, actual, outcome),
            (Part::Idle | Part::Seeking | Part::Member | Part::Keeper | Part::Adrift, ..) => {
                if matches!(outcome, Outcome::Rejected(_)) {
                    let outcome = Some(outcome);
                    self.say_met(Met { permit, sent, tokens: estimated, outcome, ..self.met() });
                }
            }
        }
    }

    /// A word about one request, nothing in it yet; permit 0 is no request's.
    fn met(&self) -> Met {
        Met {
            from: self.me.clone(),
            permit: Duration::ZERO,
            sent: Duration::ZERO,
            tokens: 0,
            outcome: None,
            closed: None,
            reopened: false,
        }
    }

    fn say_met(&mut self, met: Met) {
        self.out.push(Act::Say(Word::Met(met).encode()));
    }

    /// Takes what an answer's headers tell: see [`Budget::learn`].
    pub fn learn(&mut self, now: Tick, permit: Tick, observed: &Observed) {
        // What is left was told of when it was sent, which may be long after its permit's instant.
        let alone = self.direct().is_some();
        let ended = self.ended.filter(|(of, _)| *of == permit && !alone);
        let permit = ended.map_or(permit, |(_, sent)| sent.max(permit));
        match (self.part, &mut self.keeper, &mut self.own) {
            (Part::Keeper, Some(keeper), _) => {
                let was_open = keeper.budget.gate(now).is_none();
                if alone {
                    keeper.budget.learn(now, permit, observed);
                } else {
                    keeper.learn(now, permit, observed);
                }
                if was_open && keeper.budget.gate(now).is_some() {
                    keeper.replan(now);
                }
            }
            (Part::Adrift, _, Some(own)) => own.learn(now, permit, observed),
            (Part::Idle | Part::Seeking | Part::Member | Part::Keeper | Part::Adrift, ..) => {
                if observed.requests.is_some() || observed.tokens.is_some() {
                    self.observed = Some((permit, observed.clone()));
                }
            }
        }
    }

    /// Closes the gate for all: see [`Budget::close`].
    pub fn close(&mut self, now: Tick, until: Tick, reason: GateReason) {
        let closed = Closed { until, reason };
        let before = self.gate(now);
        match (self.part, &mut self.keeper, &mut self.own) {
            (Part::Keeper, Some(keeper), _) => {
                keeper.budget.close(now, until, reason);
                keeper.replan(now);
            }
            (Part::Adrift, _, Some(own)) => {
                own.close(now, until, reason);
            }
            (Part::Idle | Part::Seeking | Part::Member | Part::Keeper | Part::Adrift, ..) => {
                if before.is_none_or(|gate| gate.until < until) {
                    self.gate = Some(closed);
                    self.say_met(Met { closed: Some(closed), ..self.met() });
                }
            }
        }
    }

    /// The provider answered again: see [`Budget::open`].
    pub fn open(&mut self, now: Tick) {
        self.gate = None;
        match (self.part, &mut self.keeper, &mut self.own) {
            (Part::Keeper, Some(keeper), _) => {
                keeper.budget.open();
                keeper.replan(now);
            }
            (Part::Adrift, _, Some(own)) => own.open(),
            (Part::Idle | Part::Seeking | Part::Member | Part::Keeper | Part::Adrift, ..) => {
                self.say_met(Met { reopened: true, ..self.met() });
            }
        }
    }

    /// Requests of this process in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The request limit a minute and where it comes from, as far as this process knows.
    pub fn request_limit(&self) -> Option<(f64, Source)> {
        match self.budget() {
            Some(budget) => budget.request_limit(),
            None => self.last.rate.map(|rate| (rate * 60.0, Source::Assumed)),
        }
    }

    /// The token limit a minute and where it comes from, as far as this process knows.
    pub fn token_limit(&self) -> Option<(f64, Source)> {
        match self.budget() {
            Some(budget) => budget.token_limit(),
            None => self.last.token_rate.map(|rate| (rate * 60.0, Source::Assumed)),
        }
    }

    /// How requests are counted by the server, and where that comes from.
    pub fn request_kind(&self) -> (Kind, Source) {
        self.budget().map_or((Kind::Bucket, Source::Assumed), Budget::request_kind)
    }

    /// Members with a need, and how many callers each has, where this process keeps the budget.
    pub fn members(&self) -> Vec<(String, u32)> {
        let keeper = self.keeper.iter().filter(|_| self.part == Part::Keeper);
        keeper.flat_map(|keeper| keeper.members()).map(|(name, jobs)| (name.to_owned(), jobs)).collect()
    }
}
