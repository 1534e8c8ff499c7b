//! What was accepted and rejected, as a teacher: the rate of a bucket, the kind of a window, how
//! much it takes.
//!
//! A bucket's rate is cut by a tenth at a rejection and grows with each answer, so that about one
//! in twenty is rejected while the limit is being felt for, and none once a stated limit is
//! reached. A window's size is what was accepted in it until the first rejection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::door::Opening;
use super::lane::{Edge, Lane, MINUTE};
use super::{Kind, Source, Tick};

/// Requests a second that a limit is felt for with at first; doubles each second.
const FIRST_RATE: f64 = 15.0;
/// ln 2: a rate of this share of all that was sent doubles each second.
const DOUBLING: f64 = std::f64::consts::LN_2;
/// What a rejection leaves of a bucket's rate, where too little was accepted since the last to
/// measure it; and what it leaves of the rate that was measured.
const FIRST_CUT: f64 = 0.75;
const CUT: f64 = 0.9;
const MEASURED_CUT: f64 = 0.98;
const ENOUGH_TO_MEASURE: u32 = 12;
/// Fewer than this tell no rate where the server names its waits.
const ENOUGH_TO_GUESS: f64 = 10.0;
const MOST_HANDFULS: u32 = 3;
/// What an answer adds to the rate, as a share; grows while nothing is rejected.
const GROWTH: f64 = 0.0005;
const MOST_GROWTH: f64 = 0.02;
/// The same after a first guess, until something is rejected.
const FIRST_GROWTH: f64 = 0.1;
/// Nothing was rejected for so long though a bucket was spent as fast as it fills: its rate doubles
/// within a minute, but grows by no more than this with an answer.
const LONG_CLEAN: Duration = Duration::from_secs(120);
const MOST_LEAP: f64 = 0.5;
/// Rejections in a row that are no bucket's.
const SHUT_AFTER: u32 = 4;
/// A closure shorter than this, or than four requests' worth of time, is a bucket's.
const WINDOW_SHUT: Duration = Duration::from_secs(5);
const WINDOW_WORTH: f64 = 4.0;
/// How late an opening may be that the server named.
const NAMED_WITHIN: Duration = Duration::from_millis(1_200);
/// A period within a tenth of a minute is a minute.
const SNAP: f64 = 0.1;
/// How much more than a window took is tried at first, as a share; doubles with each that is let
/// in. And the most windows between tries: of a small window, a try is a large part.
const TRY: f64 = 0.005;
const MOST_BACKOFF: u32 = 8;
const SMALL: f64 = 200.0;
/// Requests a minute below which a felt rate never falls.
const SLOWEST: f64 = 1.0;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Felt {
    /// When this cycle began, from opening to opening; and whether with an opening.
    began: Tick,
    from_opening: bool,
    /// Cycles that were too short to tell a rate.
    handfuls: u32,
    accepted: f64,
    sent: f64,
    last_sent: Option<Tick>,
    /// What was sent before this was sent before we knew better.
    known_at: Tick,
    in_a_row: u32,
    clean: u32,
    extra: f64,
    backoff: u32,
    next_try: Tick,
    tried: Option<Tick>,
    cut_at: Option<Tick>,
    /// Whether `most` was measured at `known_at`.
    measured: bool,
    /// Whether a bucket's rate was measured between two rejections.
    settled: bool,
    /// Whether it is a guess that nothing was rejected at yet.
    guessed: bool,
    /// The edge before it was narrowed by a probe that was let in: room may have been left.
    wider: Option<Edge>,
}

impl Felt {
    pub fn new(now: Tick) -> Self {
        Felt {
            began: now,
            from_opening: false,
            handfuls: 0,
            accepted: 0.0,
            sent: 0.0,
            last_sent: None,
            known_at: Duration::ZERO,
            in_a_row: 0,
            clean: 0,
            extra: 1.0,
            backoff: 1,
            next_try: now,
            tried: None,
            cut_at: None,
            measured: false,
            settled: false,
            guessed: false,
            wider: None,
        }
    }

    /// While nothing is known, the rate doubles each second.
    pub fn wait(&self, now: Tick, lane: &Lane) -> Duration {
        if lane.most.is_finite() {
            return Duration::ZERO;
        }
        let gap = Duration::from_secs_f64(1.0 / (FIRST_RATE + DOUBLING * self.sent));
        self.last_sent.map_or(Duration::ZERO, |sent| (sent + gap).saturating_sub(now))
    }

    pub fn sent(&mut self, now: Tick) {
        if self.last_sent.is_none() {
            self.began = now;
        }
        self.sent += 1.0;
        self.accepted += 1.0;
        self.last_sent = Some(now);
    }

    /// One was not sent after all.
    pub fn unsent(&mut self) {
        self.sent = (self.sent - 1.0).max(0.0);
        self.accepted = (self.accepted - 1.0).max(0.0);
    }

    /// Returns whether a window that was full is tried with more.
    pub fn accepted(&mut self, now: Tick, sent: Tick, lane: &mut Lane) -> bool {
        if lane.most.is_infinite() || sent < self.known_at {
            return false;
        }
        self.in_a_row = 0;
        self.clean = self.clean.saturating_add(1);
        let below = lane.cap.is_none_or(|cap| lane.most < cap);
        if !below {
            return false;
        }
        match lane.kind {
            Kind::Bucket if lane.is_pressed() => {
                let slow = (GROWTH * (1.0 + f64::from(self.clean) / 10.0)).min(MOST_GROWTH);
                let growth = if self.guessed { FIRST_GROWTH.min(0.2 / lane.rate()).max(slow) } else { slow };
                // Nothing was rejected for long: what is felt is far off.
                let far = if now.saturating_sub(self.known_at) > LONG_CLEAN {
                    (DOUBLING / (lane.rate() * MINUTE.as_secs_f64())).min(MOST_LEAP)
                } else {
                    0.0
                };
                self.raise(lane, lane.most * (1.0 + growth.max(far)));
                false
            }
            Kind::Bucket => false,
            Kind::Fixed | Kind::Rolling => self.try_more(now, sent, lane),
        }
    }

    /// A full window is tried with a little more; what is let in is tried with twice that.
    fn try_more(&mut self, now: Tick, sent: Tick, lane: &mut Lane) -> bool {
        let fixed = lane.edge.is_some() && lane.kind == Kind::Fixed;
        let spent = if fixed { lane.in_window } else { lane.rolling };
        if spent + 1.0 <= lane.most {
            return false;
        }
        match self.tried {
            Some(tried) if sent > tried => self.extra *= 2.0,
            Some(tried) if now < tried + lane.window => return false,
            Some(_) => self.extra = 1.0,
            None if now < self.next_try => return false,
            None => self.extra = (lane.most * TRY).max(1.0),
        }
        self.tried = Some(now);
        self.raise(lane, lane.most.floor() + self.extra.floor());
        true
    }

    fn raise(&self, lane: &mut Lane, raised: f64) {
        lane.most = lane.cap.map_or(raised, |cap| raised.min(cap)).max(lane.most);
    }

    /// A window took no more than `most`.
    fn size(&mut self, now: Tick, lane: &mut Lane, most: f64) {
        self.measured = true;
        // A try that was refused at once; one that was let in calls for the next soon.
        let refused = self.tried.take().is_some() && self.extra <= (lane.most * TRY).max(1.0);
        let small = most < SMALL;
        self.backoff = if refused && small { (self.backoff * 2).min(MOST_BACKOFF) } else { 1 };
        lane.most = lane.cap.map_or(most, |cap| most.min(cap)).max(1.0);
        if lane.cap.is_none() {
            lane.source = Source::Felt;
        }
        // A little before the window is over: the next may open at once.
        self.next_try = now + (lane.window * self.backoff).saturating_sub(lane.window / 2);
    }

    /// Was on its way when a window was measured: it was no part of what the window took.
    pub fn straggler(&mut self, sent: Tick, lane: &mut Lane) {
        self.accepted = (self.accepted - 1.0).max(0.0);
        if self.measured && sent < self.known_at && lane.most.is_finite() && lane.kind != Kind::Bucket {
            lane.most = (lane.most - 1.0).max(1.0);
        }
    }

    /// Returns whether the door closes.
    pub fn rejected(&mut self, now: Tick, sent: Tick, hint: Option<Duration>, lane: &mut Lane) -> bool {
        if sent < self.known_at {
            self.straggler(sent, lane);
            return false;
        }
        self.accepted = (self.accepted - 1.0).max(0.0);
        let clean = std::mem::take(&mut self.clean);
        self.guessed = false;
        self.known_at = now;
        match lane.kind {
            Kind::Bucket if lane.most.is_infinite() => true,
            Kind::Bucket => {
                self.in_a_row += 1;
                let long = hint.is_some_and(|hint| hint >= WINDOW_SHUT);
                if long || self.in_a_row >= SHUT_AFTER {
                    self.in_a_row = 0;
                    return true;
                }
                lane.most = self.cut(now, clean, lane).max(SLOWEST);
                // Rejected again after the cut: not before the answer to the last would have come.
                let pause = if self.in_a_row > 1 { now.saturating_sub(sent) } else { Duration::ZERO };
                lane.drain(now, hint.unwrap_or(Duration::ZERO).max(pause));
                false
            }
            Kind::Fixed => self.window_rejected(now, sent, hint, lane),
            Kind::Rolling => {
                if lane.rolling >= lane.most * 0.97 && self.tried.is_none() {
                    lane.widen_guard();
                }
                let held = lane.rolling;
                self.size(now, lane, held);
                true
            }
        }
    }

    /// From one rejection to the next a bucket lets in what it refills: that is its rate.
    fn cut(&mut self, now: Tick, clean: u32, lane: &Lane) -> f64 {
        let since = self.cut_at.replace(now).map(|at| now.saturating_sub(at).as_secs_f64());
        // The first guess contains the burst: it is far too high.
        let cut = lane.most * if self.settled || lane.cap.is_some() { CUT } else { FIRST_CUT };
        self.settled |= clean >= ENOUGH_TO_MEASURE;
        match since {
            Some(since) if clean >= ENOUGH_TO_MEASURE && since > 0.0 => {
                let measured = f64::from(clean) / since * lane.window.as_secs_f64();
                (measured * MEASURED_CUT).clamp(cut, lane.most * MEASURED_CUT)
            }
            Some(_) | None => cut,
        }
    }

    fn window_rejected(&mut self, now: Tick, sent: Tick, hint: Option<Duration>, lane: &mut Lane) -> bool {
        let Some(edge) = lane.edge else {
            if lane.edge_by_count() {
                return true;
            }
            if lane.most.is_infinite() || lane.cap.is_none() {
                let held = lane.rolling;
                self.size(now, lane, held);
            }
            return true;
        };
        let felt = lane.kind_source == Source::Felt;
        let spent = lane.in_window;
        let soon = hint.is_none_or(|hint| hint < WINDOW_SHUT);
        if felt && soon && spent < lane.most * 0.5 && lane.rolling >= lane.most * 0.9 {
            lane.kind = Kind::Rolling;
            let held = lane.rolling;
            self.size(now, lane, held);
            return true;
        }
        if let Some(wider) = self.wider.take()
            && spent < lane.most * 0.5
            && sent < wider.hi + lane.guard
        {
            // Not yet open: the probe had found what was left of the last window.
            let back = lane.window;
            lane.set_edge(Edge { lo: sent.saturating_sub(back), hi: wider.hi.saturating_sub(back) });
            return true;
        }
        let late = sent.saturating_sub(edge.hi) < lane.guard * 4;
        if late && spent < lane.most * 0.5 {
            lane.widen_guard();
            lane.edge = Some(Edge { lo: edge.lo, hi: edge.hi + lane.guard });
            return true;
        }
        if lane.is_told_at_length() {
            return true;
        }
        self.size(now, lane, spent);
        true
    }

    /// The door opened: from opening to opening is a cycle, and what was accepted in it tells the
    /// rate, whatever the kind.
    pub fn opened(&mut self, opening: Opening, lane: &mut Lane) {
        let cycle = opening.at.saturating_sub(self.began).as_secs_f64().max(1e-3);
        let shut = opening.at.saturating_sub(opening.since);
        // The probe belongs to the next cycle.
        let accepted = (self.accepted - 1.0).max(1.0);
        if opening.teaches {
            match (lane.kind_source, lane.kind) {
                (Source::Config | Source::Headers, Kind::Bucket | Kind::Rolling) => {
                    if lane.most.is_infinite() {
                        self.guess_rate(accepted, cycle, opening, lane);
                    }
                }
                (Source::Config | Source::Headers, Kind::Fixed) => self.found_edge(opening, lane),
                (Source::Felt | Source::Assumed, _) => {
                    self.classify(opening, accepted, cycle, shut, lane);
                }
            }
        }
        self.began = opening.at;
        self.from_opening = opening.teaches;
        self.accepted = 1.0;
        self.sent = 0.0;
        self.in_a_row = 0;
        self.measured = false;
        self.known_at = opening.at;
    }

    fn guess_rate(&mut self, accepted: f64, cycle: f64, opening: Opening, lane: &mut Lane) {
        if opening.named && accepted < ENOUGH_TO_GUESS && self.handfuls < MOST_HANDFULS {
            // The server says when: a handful says nothing of the rate, unless it is always one.
            self.handfuls += 1;
            return;
        }
        let shut = opening.at.saturating_sub(opening.since).as_secs_f64().max(1e-3);
        let refill = if opening.named { f64::INFINITY } else { 2.0 / shut };
        let rate = (accepted / cycle).min(refill);
        let most = rate * lane.window.as_secs_f64();
        lane.most = lane.cap.map_or(most, |cap| most.min(cap)).max(SLOWEST);
        if lane.cap.is_none() {
            lane.source = Source::Felt;
        }
        // Held down by how long it was shut, it may be far too low.
        self.guessed = refill < accepted / cycle;
        lane.drain(opening.at, Duration::ZERO);
    }

    fn classify(&mut self, opening: Opening, accepted: f64, cycle: f64, shut: Duration, lane: &mut Lane) {
        let worth = shut.as_secs_f64() * accepted / cycle;
        let window = shut >= WINDOW_SHUT && worth > WINDOW_WORTH;
        if lane.kind == Kind::Rolling {
            // Its log says all.
        } else if window {
            if lane.kind != Kind::Fixed {
                lane.kind = Kind::Fixed;
                lane.edge = None;
                let minute = MINUTE.as_secs_f64();
                // Before the first opening, a window may have passed unseen.
                let first = !self.from_opening && cycle < minute * 2.0;
                let near = (cycle - minute).abs() < minute * SNAP;
                lane.window = if first || near { MINUTE } else { Duration::from_secs_f64(cycle) };
                self.size(opening.at, lane, accepted);
            }
            lane.kind_source = Source::Felt;
            self.found_edge(opening, lane);
        } else if lane.kind == Kind::Fixed && shut >= WINDOW_SHUT {
            self.found_edge(opening, lane);
        } else if lane.kind == Kind::Bucket || accepted < 4.0 {
            lane.kind = Kind::Bucket;
            lane.kind_source = Source::Felt;
            if lane.cap.is_some() {
                // The rate is stated: only the kind was not.
                lane.drain(opening.at, Duration::ZERO);
                return;
            }
            lane.window = MINUTE;
            self.guess_rate(accepted, cycle, opening, lane);
        } else {
            self.found_edge(opening, lane);
        }
    }

    fn found_edge(&mut self, opening: Opening, lane: &mut Lane) {
        let Some(edge) = lane.edge else {
            if opening.rejected.is_none() && !opening.named {
                // It was open all the while: a window began unseen among what was sent.
                lane.unseen = true;
                return;
            }
            let lo = opening.rejected.unwrap_or(opening.since).min(opening.at);
            lane.set_edge(Edge { lo, hi: opening.at });
            return;
        };
        if let Some(rejected) = opening.rejected.filter(|at| lane.not_open(*at).is_some()) {
            lane.set_edge(Edge { lo: rejected, hi: opening.at });
            return;
        }
        // The edge may have been moved on already, for its time had come.
        let back = if edge.lo > opening.at { lane.window } else { Duration::ZERO };
        let (lo, hi) = (edge.lo.saturating_sub(back), edge.hi.saturating_sub(back));
        let next = lo + lane.window;
        if opening.at + lane.guard < next && opening.at > hi + lane.guard {
            // In the middle of a window: it takes more than it did.
            if opening.since > hi {
                self.tried = Some(opening.at);
                self.extra = (lane.most * TRY).max(1.0);
                self.raise(lane, lane.in_window + self.extra.floor());
            }
            return;
        }
        let mut known = if next <= opening.at { next } else { lo };
        if opening.named {
            // A named time is rounded up to a second.
            known = known.max(opening.at.saturating_sub(NAMED_WITHIN));
        }
        let lo = opening.rejected.map_or(known, |at| at.max(known)).min(opening.at);
        let late = hi + if next <= opening.at { lane.window } else { Duration::ZERO };
        self.wider = (opening.at < late).then_some(Edge { lo: known, hi: late });
        lane.set_edge(Edge { lo, hi: opening.at });
    }
}
