//! A budget as an account has it: the fleet's part of it, told in the process's own time.
//!
//! What is shared is timed by the store's clock; how far that is from ours is learned from each of
//! the ledger's answers.

use std::time::Duration;

use steadfast_core::budget::{Closed, Kind, LimitSettings, Outcome, Source, Tick};
use steadfast_core::failure::GateReason;
use steadfast_core::fleet::{Act, Answer, Fleet, Part};
use steadfast_core::headers::Observed;
use steadfast_core::time::Timestamp;

/// Limits are told by this.
const MINUTE: Duration = Duration::from_secs(60);

/// Clocks that are less apart than before count as unchanged: what is measured holds the way.
const SAME: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub struct Shared {
    fleet: Fleet,
    /// The store's clock at the process's instant 0.
    zero: Tick,
}

impl Shared {
    /// Shared with those who use the same ledger, as `me`; `wall` is the time now by this machine.
    pub fn by(limits: &LimitSettings, me: &str, now: Tick, wall: Timestamp) -> Self {
        let wall = Duration::from_millis(u64::try_from(wall.millis()).unwrap_or(0));
        Shared { fleet: Fleet::new(limits, me), zero: wall.saturating_sub(now) }
    }

    /// Of this process alone.
    pub fn own(limits: &LimitSettings, now: Tick) -> Self {
        Shared { fleet: Fleet::alone(limits, now), zero: Duration::ZERO }
    }

    fn theirs(&self, now: Tick) -> Tick {
        self.zero.saturating_add(now)
    }

    /// The ledger's clock said `store` at our `now`.
    pub fn clock(&mut self, now: Tick, store: Timestamp) {
        let store = Duration::from_millis(u64::try_from(store.millis()).unwrap_or(0));
        let zero = store.saturating_sub(now);
        if zero.abs_diff(self.zero) > SAME {
            self.zero = zero;
        }
    }

    /// See [`Fleet::need`].
    pub fn need(&mut self, now: Tick, jobs: u32, waiting: u32, admitted: f64) {
        self.fleet.need(self.theirs(now), jobs, waiting, admitted);
    }

    /// See [`Fleet::sizes`].
    pub fn sizes(&mut self, sizes: impl Iterator<Item = u64>) {
        self.fleet.sizes(sizes);
    }

    /// How long one waits behind `ahead` others of whom the first waits for `first`: a window lets in
    /// many at once, so what is behind it waits by the limit, not by the window.
    pub fn queue(&self, first: Duration, ahead: u32) -> Duration {
        let pace = self.request_limit().map(|(per_minute, _)| MINUTE.div_f64(per_minute.max(0.1)));
        first.saturating_add(pace.map_or(first, |pace| pace.min(first)).saturating_mul(ahead))
    }

    /// See [`Fleet::step`].
    pub fn step(&mut self, now: Tick) -> Vec<Act> {
        self.fleet.step(self.theirs(now))
    }

    /// See [`Fleet::next`].
    pub fn next(&self, now: Tick) -> Option<Duration> {
        self.fleet.next(self.theirs(now))
    }

    /// See [`Fleet::kept`].
    pub fn kept(&mut self, now: Tick, answer: Answer) {
        self.fleet.kept(self.theirs(now), answer);
    }

    /// See [`Fleet::away`].
    pub fn away(&mut self, now: Tick) {
        self.fleet.away(self.theirs(now));
    }

    /// See [`Fleet::hear`].
    pub fn hear(&mut self, now: Tick, words: &[u8]) {
        self.fleet.hear(self.theirs(now), words);
    }

    /// See [`Fleet::leave`].
    pub fn leave(&mut self) -> Vec<Act> {
        self.fleet.leave()
    }

    /// See [`Fleet::part`].
    pub fn part(&self) -> Part {
        self.fleet.part()
    }

    /// See [`Fleet::members`].
    pub fn members(&self) -> Vec<(String, u32)> {
        self.fleet.members()
    }

    /// See [`Fleet::gate`].
    pub fn gate(&self, now: Tick) -> Option<Closed> {
        let gate = self.fleet.gate(self.theirs(now))?;
        Some(Closed { until: gate.until.saturating_sub(self.zero), ..gate })
    }

    /// See [`Fleet::wait`].
    pub fn wait(&mut self, now: Tick, tokens: u64) -> Duration {
        self.fleet.wait(self.theirs(now), tokens)
    }

    /// See [`Fleet::take`].
    pub fn take(&mut self, now: Tick, tokens: u64) -> Tick {
        self.fleet.take(self.theirs(now), tokens)
    }

    /// See [`Fleet::untake`].
    pub fn untake(&mut self, now: Tick, permit: Tick, tokens: u64) {
        self.fleet.untake(self.theirs(now), permit, tokens);
    }

    /// See [`Fleet::done`].
    pub fn done(
        &mut self,
        now: Tick,
        permit: Tick,
        sent: Tick,
        estimated: u64,
        actual: Option<u64>,
        outcome: Outcome,
    ) {
        let sent = self.theirs(sent);
        self.fleet.done(self.theirs(now), permit, sent, estimated, actual, outcome);
    }

    /// See [`Fleet::learn`].
    pub fn learn(&mut self, now: Tick, permit: Tick, observed: &Observed) {
        self.fleet.learn(self.theirs(now), permit, observed);
    }

    /// See [`Fleet::close`].
    pub fn close(&mut self, now: Tick, until: Tick, reason: GateReason) {
        self.fleet.close(self.theirs(now), self.theirs(until), reason);
    }

    /// See [`Fleet::open`].
    pub fn open(&mut self, now: Tick) {
        self.fleet.open(self.theirs(now));
    }

    /// See [`Fleet::in_flight`].
    pub fn in_flight(&self) -> u32 {
        self.fleet.in_flight()
    }

    /// See [`Fleet::request_limit`].
    pub fn request_limit(&self) -> Option<(f64, Source)> {
        self.fleet.request_limit()
    }

    /// See [`Fleet::token_limit`].
    pub fn token_limit(&self) -> Option<(f64, Source)> {
        self.fleet.token_limit()
    }

    /// See [`Fleet::request_kind`].
    pub fn request_kind(&self) -> (Kind, Source) {
        self.fleet.request_kind()
    }
}
