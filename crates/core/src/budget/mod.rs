//! What a provider allows, as arithmetic: requests and tokens, concurrency, and the gate.
//!
//! Time is a [`Tick`]: the monotonic time since the process began. A limit and the kind of its
//! window come from the configuration, else from the server's headers, else from what was accepted
//! and rejected; each says which ([`Source`]). docs/pacing.md and the files here say how:
//! [`lane`] counts, [`door`] closes and opens, [`headers`] and [`felt`] learn.

mod door;
mod felt;
mod headers;
mod lane;
pub mod least;
mod settings;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::settings::{LimitSettings, WindowKind};

use self::door::Door;
use self::felt::Felt;
use self::headers::Told;
use self::lane::{Count, Lane};
use crate::failure::GateReason;
use crate::headers::Observed;

/// Monotonic time since an arbitrary beginning.
pub type Tick = Duration;

/// Where a limit, or the kind of its window, comes from; shown beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// config.toml.
    Config,
    /// The server's headers.
    Headers,
    /// What was accepted and rejected.
    Felt,
    /// Nothing yet: the careful choice.
    Assumed,
}

/// What is added to each instant inside, so that a window may have begun before the process did.
const ORIGIN: Duration = Duration::from_secs(2 * 86_400);

/// Pieces in which a note keeps what was spent.
const NOTED_PIECES: usize = 60;

/// How a limit is counted by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Refilled continuously.
    Bucket,
    /// Whole again at instants of the clock, one window apart.
    Fixed,
    /// Each unit comes back one window after it was spent.
    Rolling,
}

/// A gate that is closed until a known time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// When it opens.
    pub until: Tick,
    /// Why it is closed.
    pub reason: GateReason,
}

/// How the server met a request, as far as its limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was let in, whatever became of it then.
    Accepted,
    /// 429 or what stands for it; with the wait that the server named.
    Rejected(Option<Duration>),
    /// No answer: whether it was counted is not known, so it is taken as counted.
    Unknown,
}

/// One budget: what one credential may ask of one provider's resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Budget {
    requests: Lane,
    tokens: Lane,
    told_requests: Told,
    told_tokens: Told,
    felt: Felt,
    door: Door,
    gate: Option<Closed>,
    concurrency: Option<u32>,
    in_flight: u32,
}

impl Budget {
    /// A budget that begins at `now` with what the configuration knows.
    pub fn new(settings: &LimitSettings, now: Tick) -> Self {
        let now = inside(now);
        Budget {
            requests: Lane::new(settings.requests_per_minute, settings.window, settings.burst, now),
            tokens: Lane::new(settings.tokens_per_minute, settings.window, 0, now),
            told_requests: Told::default(),
            told_tokens: Told::default(),
            felt: Felt::new(now),
            door: Door::default(),
            gate: None,
            concurrency: (settings.concurrency > 0).then_some(settings.concurrency),
            in_flight: 0,
        }
    }

    /// The gate, if it is closed at `now`.
    pub fn gate(&self, now: Tick) -> Option<Closed> {
        let now = inside(now);
        let named = || self.door.named(now).map(|until| Closed { until, reason: GateReason::RateLimit });
        let closed = self.gate.filter(|gate| gate.until > now).or_else(named)?;
        Some(Closed { until: closed.until.saturating_sub(ORIGIN), ..closed })
    }

    /// How long until a request of `tokens` may be sent, as far as is known; [`Duration::MAX`]
    /// while all concurrency is in use, since nobody knows when an answer comes.
    pub fn wait(&mut self, now: Tick, tokens: u64) -> Duration {
        let now = inside(now);
        if self.concurrency.is_some_and(|most| self.in_flight >= most) {
            return Duration::MAX;
        }
        let gate = self.gate.filter(|gate| gate.until > now).map_or(Duration::ZERO, |gate| gate.until - now);
        self.settle(now);
        let door = self.door.wait(now, &self.requests);
        if self.door.is_shut() {
            return gate.max(door).max(self.tokens.wait(now, tokens as f64));
        }
        let mut requests = self.requests.wait(now, 1.0);
        if self.requests.must_probe(now) {
            self.door.shut_by_count(now, &self.requests);
            requests = self.door.wait(now, &self.requests);
        }
        let ramp = self.felt.wait(now, &self.requests);
        gate.max(door).max(requests).max(ramp).max(self.tokens.wait(now, tokens as f64))
    }

    /// Spends one request and `tokens`; [`Budget::wait`] said zero before.
    pub fn take(&mut self, now: Tick, tokens: u64) {
        let now = inside(now);
        self.in_flight = self.in_flight.saturating_add(1);
        self.requests.take(now, 1.0);
        self.tokens.take(now, tokens as f64);
        self.felt.sent(now);
        self.door.sent(now);
    }

    /// Gives back an unused request that was taken at `sent`.
    pub fn untake(&mut self, now: Tick, sent: Tick, tokens: u64) {
        let (now, sent) = (inside(now), inside(sent));
        self.in_flight = self.in_flight.saturating_sub(1);
        self.requests.undo(now, sent, 1.0);
        self.tokens.undo(now, sent, tokens as f64);
        self.felt.unsent();
        self.door.unsent(sent);
    }

    /// The same of one whose place among the concurrent ones is free already.
    pub fn unspend(&mut self, now: Tick, sent: Tick, tokens: u64) {
        let (now, sent) = (inside(now), inside(sent));
        if self.requests.knows(sent) {
            self.requests.undo(now, sent, 1.0);
            self.tokens.undo(now, sent, tokens as f64);
            self.felt.unsent();
        }
    }

    /// Requests cost `by` more tokens than was estimated, or less.
    pub fn overspent(&mut self, now: Tick, by: f64) {
        self.tokens.overspent(inside(now), by);
    }

    /// The request taken at `sent` ended: its place among the concurrent ones is free, the tokens
    /// are corrected from the estimate to what the server counted, and how it was met teaches.
    pub fn done(&mut self, now: Tick, sent: Tick, estimated: u64, actual: Option<u64>, outcome: Outcome) {
        let (now, sent) = (inside(now), inside(sent));
        self.in_flight = self.in_flight.saturating_sub(1);
        self.settle(now);
        match outcome {
            Outcome::Accepted => {
                if let Some(actual) = actual {
                    self.tokens.correct(now, sent, estimated as f64, actual as f64);
                }
                if let Some(opening) = self.door.accepted(sent) {
                    self.felt.opened(opening, &mut self.requests);
                }
                if self.felt.accepted(now, sent, &mut self.requests) {
                    self.door.reopen();
                }
            }
            Outcome::Rejected(hint) => {
                self.requests.undo(now, sent, 1.0);
                self.tokens.undo(now, sent, estimated as f64);
                self.rejected(now, sent, estimated, hint);
            }
            Outcome::Unknown => {}
        }
    }

    /// The request with the permit of `permit`, sent only at `sent`, was rejected. Its permit gives
    /// back what it took; what the rejection says is of when it was sent.
    pub fn refused(&mut self, now: Tick, permit: Tick, sent: Tick, tokens: u64, hint: Option<Duration>) {
        let (now, permit, sent) = (inside(now), inside(permit), inside(sent));
        self.in_flight = self.in_flight.saturating_sub(1);
        self.settle(now);
        self.requests.undo(now, permit, 1.0);
        self.tokens.undo(now, permit, tokens as f64);
        let known_by = if self.door.is_probe(permit) { permit } else { sent };
        self.rejected(now, known_by, tokens, hint);
    }

    fn rejected(&mut self, now: Tick, sent: Tick, tokens: u64, hint: Option<Duration>) {
        self.door.heard(now.saturating_sub(sent));
        let hint = self.door.judge(now, sent, hint);
        if self.door.rejected(now, sent, hint) {
            self.felt.straggler(sent, &mut self.requests);
            return;
        }
        let tokens_were_short = self.tokens.most.is_finite()
            && self.requests.most.is_finite()
            && (self.requests.kind, self.tokens.kind) == (Kind::Bucket, Kind::Bucket)
            && !self.requests.is_pressed();
        if tokens_were_short {
            let tests = self.door.shut_to_test(now, hint);
            self.tokens.refused(now, tokens as f64, hint.filter(|_| !tests));
            return;
        }
        if self.felt.rejected(now, sent, hint, &mut self.requests) {
            self.door.shut(now, hint, &self.requests);
        }
    }

    /// A probe that was not rejected in the time that rejections take was let in.
    fn settle(&mut self, now: Tick) {
        if let Some(opening) = self.door.settle(now) {
            self.felt.opened(opening, &mut self.requests);
        }
    }

    /// Closes the gate until `until`, or later if it is closed for longer already. Returns whether
    /// it was open at `now`.
    pub fn close(&mut self, now: Tick, until: Tick, reason: GateReason) -> bool {
        let was_open = self.gate(now).is_none();
        let (now, until) = (inside(now), inside(until));
        if self.gate.is_none_or(|gate| gate.until < until) {
            self.gate = Some(Closed { until, reason });
            // One goes first on opening; the rest follow when it was let in.
            self.door.after_gate(now, until);
        }
        was_open
    }

    /// Opens the gate: the provider answered again.
    pub fn open(&mut self) {
        self.gate = None;
        self.door.forget();
    }

    /// Takes limits and what is left of them from the headers of the answer to a request that was
    /// sent at `sent`. The configuration's limits stay; less left than we think is believed.
    pub fn learn(&mut self, now: Tick, sent: Tick, observed: &Observed) {
        self.hear(now, sent, observed, Count::Whole);
    }

    /// The same where others tell of what they spent only later: more left than we think is believed, too.
    pub(crate) fn learn_of_many(&mut self, now: Tick, sent: Tick, observed: &Observed) {
        self.hear(now, sent, observed, Count::Late);
    }

    fn hear(&mut self, now: Tick, sent: Tick, observed: &Observed, count: Count) {
        let (now, sent) = (inside(now), inside(sent));
        let lanes = [
            (&observed.requests, &mut self.requests, &mut self.told_requests),
            (&observed.tokens, &mut self.tokens, &mut self.told_tokens),
        ];
        for (window, lane, told) in lanes {
            let Some(window) = window else { continue };
            if let Some(until) = told.learn(now, sent, window, lane, count) {
                let reason = GateReason::RateLimit;
                if self.gate.is_none_or(|gate| gate.until < until) {
                    self.gate = Some(Closed { until, reason });
                    self.door.after_gate(now, until);
                }
            }
        }
    }

    /// Bounds requests in flight no longer: somebody else does.
    pub(crate) fn forget_places(&mut self) {
        self.concurrency = None;
        self.in_flight = 0;
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The request limit a minute and where it comes from.
    pub fn request_limit(&self) -> Option<(f64, Source)> {
        self.requests.per_minute()
    }

    /// The token limit a minute and where it comes from.
    pub fn token_limit(&self) -> Option<(f64, Source)> {
        self.tokens.per_minute()
    }

    /// Whether only probes go, since a rejection or the count closed the door.
    pub fn is_shut(&self) -> bool {
        self.door.is_shut()
    }

    /// Requests a second in the long run, as far as is known.
    pub fn rate(&self) -> Option<f64> {
        self.requests.most.is_finite().then(|| self.requests.rate())
    }

    /// Tokens that may be spent at once, where their rate is known.
    pub fn token_room(&self) -> Option<f64> {
        self.tokens.most.is_finite().then(|| self.tokens.at_once())
    }

    /// Tokens a second in the long run, as far as is known.
    pub fn token_rate(&self) -> Option<f64> {
        self.tokens.most.is_finite().then(|| self.tokens.rate())
    }

    /// When the window that is being spent ends, if it ends for all at once.
    pub fn window_ends(&self) -> Option<Tick> {
        let edge = self.requests.edge.filter(|_| self.requests.kind == Kind::Fixed)?;
        Some((edge.lo + self.requests.window).saturating_sub(ORIGIN))
    }

    /// Length of the window that requests are counted in.
    pub fn window(&self) -> Duration {
        self.requests.window
    }

    /// The same with its memory of single requests summed up: small enough to be noted.
    pub fn summary(&self) -> Budget {
        let mut summary = self.clone();
        summary.requests.compact(NOTED_PIECES);
        summary.tokens.compact(NOTED_PIECES);
        summary.in_flight = 0;
        summary
    }

    /// Whether windows and limits that were noted can be meant.
    pub fn is_plausible(&self) -> bool {
        self.requests.is_plausible() && self.tokens.is_plausible()
    }

    /// How requests are counted by the server, and where that comes from.
    pub fn request_kind(&self) -> (Kind, Source) {
        (self.requests.kind, self.requests.kind_source)
    }
}

fn inside(at: Tick) -> Tick {
    at.saturating_add(ORIGIN)
}

#[cfg(test)]
mod tests;
