//! What answers' headers teach: the limit, what is left, and by how the reset moves the kind.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lane::{Count, Edge, Lane, MINUTE};
use super::{Kind, Source, Tick};
use crate::headers::Window;

/// Answers that the kind is told from.
const ENOUGH: usize = 6;
const KEPT: usize = 12;
/// Seconds that two are apart at least, and all together.
const APART: f64 = 0.1;
const SPAN: f64 = 1.0;
/// Seconds within which a quantity counts as constant.
const CONSTANT: f64 = 1.0;

/// A reset further away is no reset.
const FURTHEST: Duration = Duration::from_secs(32 * 86_400);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen {
    sent: f64,
    remaining: f64,
    reset: f64,
}

/// What the headers of one dimension said of late.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    seen: VecDeque<Seen>,
    longest: Duration,
}

impl Told {
    /// Learns from one answer. Returns until when nothing can be sent, if it says so.
    pub fn learn(
        &mut self,
        now: Tick,
        sent: Tick,
        window: &Window,
        lane: &mut Lane,
        count: Count,
    ) -> Option<Tick> {
        let reset = window.reset.filter(|reset| *reset <= FURTHEST);
        let stated = window.limit.filter(|limit| *limit > 0).map(|limit| limit as f64);
        self.longest = self.longest.max(reset.unwrap_or_default());
        if let Some(limit) = stated
            && lane.source != Source::Config
        {
            lane.state(limit, length(self.longest), Source::Headers);
            if lane.window > MINUTE && lane.kind_source == Source::Assumed {
                // Who counts by the hour or the day counts from an instant.
                lane.kind = Kind::Fixed;
                lane.kind_source = Source::Headers;
            }
        }
        if let (Some(remaining), Some(reset)) = (window.remaining, reset) {
            self.note(Seen {
                sent: sent.as_secs_f64(),
                remaining: remaining as f64,
                reset: reset.as_secs_f64(),
            });
            self.tell_kind(lane);
            let told = lane.kind == Kind::Fixed && lane.kind_source != Source::Felt;
            if told && reset > Duration::ZERO {
                self.tell_edge(sent + reset, lane);
            }
        }
        if let Some(remaining) = window.remaining {
            lane.believe(now, sent, remaining as f64, count);
        }
        // A window that is used up is closed until its reset; a bucket refills at once.
        let closed = matches!(window.remaining, Some(0)) && lane.kind_source == Source::Assumed;
        reset.filter(|_| closed).map(|reset| (sent + reset).max(now))
    }

    fn note(&mut self, seen: Seen) {
        if self.seen.back().is_some_and(|last| (seen.sent - last.sent).abs() < APART) {
            return;
        }
        self.seen.push_back(seen);
        if self.seen.len() > KEPT {
            self.seen.pop_front();
        }
    }

    /// A fixed window's reset is an instant, a rolling one's a constant, a bucket's grows with
    /// what was spent: the steadiest of the three tells the kind.
    fn tell_kind(&self, lane: &mut Lane) {
        if self.seen.len() < ENOUGH || lane.kind_source == Source::Config || lane.most.is_infinite() {
            return;
        }
        let rate = lane.cap.unwrap_or(lane.most) / lane.window.as_secs_f64();
        let period = lane.window.as_secs_f64();
        let spread = |of: &dyn Fn(&Seen) -> f64| {
            let values = self.seen.iter().map(of);
            let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
            high - low
        };
        let first = self.seen.front().map_or(0.0, |seen| seen.sent + seen.reset);
        let instant = spread(&|seen| {
            let off = (seen.sent + seen.reset - first).rem_euclid(period);
            if off > period / 2.0 { off - period } else { off }
        });
        let constant = spread(&|seen| seen.reset);
        let refill = spread(&|seen| seen.reset + seen.remaining / rate);
        if spread(&|seen| seen.sent) < SPAN {
            return;
        }
        let kinds = [(instant, Kind::Fixed), (refill, Kind::Bucket), (constant, Kind::Rolling)];
        let mut sorted = kinds;
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [(best, kind), (next, other), _] = sorted;
        // At an even pace a bucket's level, and so its reset, stays as it is: like a rolling
        // window's, but short.
        let short = self.seen.iter().all(|seen| seen.reset < period * 0.6);
        let evenly = matches!((kind, other), (Kind::Bucket, Kind::Rolling) | (Kind::Rolling, Kind::Bucket));
        let kind = if evenly && short { Kind::Bucket } else { kind };
        let clear = best < CONSTANT + 2.0 / rate.max(0.1) && (next > best * 2.0 + 0.5 || evenly);
        if !clear || (lane.kind == kind && lane.kind_source == Source::Headers) {
            return;
        }
        lane.kind = kind;
        lane.kind_source = Source::Headers;
        lane.edge = None;
        // What was felt for under another kind says nothing now.
        lane.most = lane.cap.unwrap_or(lane.most);
    }

    /// The next edge is told: this window's was one length before.
    fn tell_edge(&self, next: Tick, lane: &mut Lane) {
        let opened = next.saturating_sub(lane.window);
        let Some(edge) = lane.edge else {
            lane.set_edge(Edge { lo: opened, hi: opened });
            return;
        };
        let period = lane.window.as_secs_f64();
        let off = (opened.as_secs_f64() - edge.hi.as_secs_f64()).rem_euclid(period);
        let off = if off > period / 2.0 { off - period } else { off };
        let guard = lane.guard.as_secs_f64();
        if off > 0.0 && off < guard * 4.0 {
            let hi = edge.hi + Duration::from_secs_f64(off);
            lane.set_edge(Edge { lo: hi, hi });
        } else if off.abs() >= guard * 4.0 {
            lane.set_edge(Edge { lo: opened, hi: opened });
        }
    }
}

/// Limits are stated for a minute unless a reset is far away: then for an hour, or a day. Some
/// minutes' reset (`6m0s`) is still a minute's limit, told of a bucket that is overdrawn.
fn length(longest: Duration) -> Duration {
    match longest.as_secs() {
        0..=900 => MINUTE,
        901..=3_700 => MINUTE * 60,
        _ => MINUTE * 60 * 24,
    }
}
