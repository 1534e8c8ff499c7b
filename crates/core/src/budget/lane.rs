//! One counted dimension of a budget, requests or tokens: what may be sent, and when.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Kind, Source, Tick, WindowKind};

/// The window that limits are stated for unless a server shows another.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// Difference in arrival between two requests that is allowed for at the edge of a window.
const FIRST_GUARD: Duration = Duration::from_millis(100);
/// The guard never grows beyond this.
const LAST_GUARD: Duration = Duration::from_secs(2);
/// Windows are no shorter, and no longer, than these.
const SHORTEST_WINDOW: Duration = Duration::from_millis(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(32 * 86_400);
/// A window is spent over no less than this part of it: limits are often enforced in pieces.
const SPREAD: f64 = 20.0;

/// The longest that an answer's headers are compared with what had been sent.
const KEPT: Duration = Duration::from_secs(60);
/// Probes in a shut window are this many windows apart, over its size: one or two in a hundred requests.
const PROBE_SHARE: f64 = 75.0;

/// How well we know what we spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// All of it: more is left than we think only of what we do not know how much it holds.
    Whole,
    /// Others tell of theirs later: then the server knows better, both ways.
    Late,
}

/// When a fixed window opens, as an interval: rejected at `lo`, accepted at `hi`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Edge {
    pub lo: Tick,
    pub hi: Tick,
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lane {
    pub kind: Kind,
    pub kind_source: Source,
    /// What is spent in a window; infinite: not known.
    #[serde(with = "unbounded")]
    pub most: f64,
    /// What config or headers say; `most` never exceeds it.
    pub cap: Option<f64>,
    pub source: Source,
    pub window: Duration,
    pub edge: Option<Edge>,
    pub guard: Duration,
    /// What others on the key were seen to hold of a rolling window.
    pub others: f64,
    /// A fixed window began at an instant that we did not see: the next rejection tells when.
    pub unseen: bool,
    /// Spent since the edge of a fixed window.
    pub in_window: f64,
    /// Spent in the last window's length.
    pub rolling: f64,
    burst: f64,
    burst_known: bool,
    level: f64,
    at: Tick,
    log: VecDeque<(Tick, f64)>,
    /// How many of the log have left the rolling window: kept for answers that come late.
    returned: usize,
    last_sent: Option<Tick>,
    held_until: Tick,
    /// When the bucket was full, or will be.
    #[serde(default)]
    full: Tick,
    /// What a bucket's units cost beyond what was taken for them.
    #[serde(default)]
    amended: VecDeque<Amended>,
}

/// A correction: when it came to be, of what was taken when, by how much.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Amended {
    when: Tick,
    taken: Tick,
    by: f64,
}

impl Lane {
    pub fn new(per_minute: u32, window: WindowKind, burst: u32, now: Tick) -> Self {
        let cap = (per_minute > 0).then(|| f64::from(per_minute));
        let (kind, kind_source) = match window {
            WindowKind::Auto => (Kind::Bucket, Source::Assumed),
            WindowKind::Bucket => (Kind::Bucket, Source::Config),
            WindowKind::Fixed => (Kind::Fixed, Source::Config),
            WindowKind::Rolling => (Kind::Rolling, Source::Config),
        };
        let mut lane = Lane {
            kind,
            kind_source,
            most: cap.unwrap_or(f64::INFINITY),
            cap,
            source: if cap.is_some() { Source::Config } else { Source::Assumed },
            window: MINUTE,
            edge: None,
            guard: FIRST_GUARD,
            others: 0.0,
            unseen: false,
            in_window: 0.0,
            rolling: 0.0,
            burst: f64::from(burst),
            burst_known: burst > 0,
            level: 0.0,
            at: now,
            log: VecDeque::new(),
            returned: 0,
            last_sent: None,
            held_until: Duration::ZERO,
            full: Duration::ZERO,
            amended: VecDeque::new(),
        };
        lane.level = lane.room();
        lane
    }

    pub fn per_minute(&self) -> Option<(f64, Source)> {
        let a_minute = self.most * MINUTE.as_secs_f64() / self.window.as_secs_f64();
        a_minute.is_finite().then_some((a_minute, self.source))
    }

    /// Whether it can be meant: no window without length, no limit of nothing.
    pub fn is_plausible(&self) -> bool {
        let windows = SHORTEST_WINDOW..=LONGEST_WINDOW;
        windows.contains(&self.window)
            && self.guard <= LAST_GUARD
            && self.most > 0.0
            && self.cap.is_none_or(|cap| cap > 0.0)
            && self.returned <= self.log.len()
    }

    /// Units a second.
    pub fn rate(&self) -> f64 {
        self.most / self.window.as_secs_f64()
    }

    /// What our bucket holds at most: the server's, less what may arrive closer together than it
    /// was sent; a second's worth where nobody said.
    fn room(&self) -> f64 {
        let burst = if self.burst_known { self.burst } else { self.rate().max(1.0) };
        (burst - self.rate() * self.guard.as_secs_f64()).max(1.0)
    }

    /// What may be spent at once.
    pub fn at_once(&self) -> f64 {
        match self.kind {
            Kind::Bucket => self.room(),
            Kind::Fixed | Kind::Rolling => self.most,
        }
    }

    /// Whether answers say of a window of hours or days what is left of it. A refusal while some is left is of
    /// something else, and what that window took until then is not its size: it would be an hour before
    /// more is tried.
    pub fn is_told_at_length(&self) -> bool {
        self.source == Source::Headers && self.window > MINUTE
    }

    /// Whether the bucket is spent as fast as it fills: only then does an answer say something of
    /// the limit.
    pub fn is_pressed(&self) -> bool {
        self.level < (1.0 + self.room() * 0.05).min(self.room() * 0.999)
    }

    fn advance(&mut self, now: Tick) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.rate();
        if gained > 0.0 {
            let room = self.room();
            if self.level < room {
                let filled = (room - self.level) / self.rate();
                self.full = self.at + Duration::try_from_secs_f64(filled).unwrap_or(LONGEST_WINDOW);
            }
            self.level = (self.level + gained).min(room);
        }
        self.at = self.at.max(now);
        let keep = self.window + self.guard;
        while let Some((_, amount)) = self.log.get(self.returned).filter(|(sent, _)| *sent + keep <= now) {
            self.rolling -= amount;
            self.returned += 1;
        }
        if self.returned == self.log.len() {
            self.rolling = 0.0;
        }
        while self.returned > 0 && self.log.front().is_some_and(|(sent, _)| *sent + keep + KEPT <= now) {
            self.log.pop_front();
            self.returned -= 1;
        }
        while self.amended.front().is_some_and(|first| first.when + KEPT <= now) {
            self.amended.pop_front();
        }
        if let Some(edge) = self.edge {
            let passed = now.saturating_sub(edge.hi + self.guard).as_nanos() / self.window.as_nanos().max(1);
            if passed > 0 {
                let by = self.window.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
                self.set_edge(Edge { lo: edge.lo.saturating_add(by), hi: edge.hi.saturating_add(by) });
            }
        }
    }

    /// The window opened at `edge`; what was sent near it counts for this window too.
    pub fn set_edge(&mut self, edge: Edge) {
        self.edge = Some(edge);
        let from = edge.lo.saturating_sub(self.guard);
        self.in_window =
            self.log.iter().rev().take_while(|(at, _)| *at >= from).map(|(_, amount)| amount).sum();
    }

    /// A window is full, and began when the first of what it holds was sent. Returns whether that
    /// was not known.
    pub fn edge_by_count(&mut self) -> bool {
        if !std::mem::take(&mut self.unseen) {
            return false;
        }
        let held = self.log.len().saturating_sub(self.most as usize);
        let at = |index: usize| self.log.get(index).map(|(sent, _)| *sent);
        let Some(hi) = at(held) else { return false };
        self.set_edge(Edge { lo: at(held.saturating_sub(1)).unwrap_or(hi), hi });
        true
    }

    /// How long until `amount` may be sent; more than there ever is waits for a whole window.
    pub fn wait(&mut self, now: Tick, amount: f64) -> Duration {
        self.advance(now);
        if self.most.is_infinite() {
            return Duration::ZERO;
        }
        match (self.kind, self.edge) {
            (Kind::Bucket, _) => {
                let held = self.held_until.saturating_sub(now).max(self.twice_the_rate(now));
                let room = self.room();
                let missing = amount.min(room) - self.level;
                // What needs all that there may be waits for what was kept back, too.
                let held =
                    if amount > room { held.max((self.full + self.guard).saturating_sub(now)) } else { held };
                // Short by less than a millionth is floating point, not a debt.
                if missing <= 1e-6 {
                    return held;
                }
                let filled = Duration::try_from_secs_f64(missing / self.rate()).unwrap_or(Duration::MAX);
                filled.saturating_add(if amount > room { self.guard } else { Duration::ZERO }).max(held)
            }
            (Kind::Fixed, Some(edge)) => {
                let full = self.in_window > 0.0 && self.in_window + amount > self.most + 1e-6;
                let opens = if full { edge.hi + self.window + self.guard } else { now };
                opens.saturating_sub(now).max(self.spread(now, amount))
            }
            (Kind::Fixed, None) if self.unseen => self.spread(now, amount),
            (Kind::Fixed, None) | (Kind::Rolling, _) => {
                self.until_returned(now, amount).max(self.spread(now, amount))
            }
        }
    }

    /// A rolling window has room again when enough of the oldest has left it.
    fn until_returned(&self, now: Tick, amount: f64) -> Duration {
        let most = (self.most - self.others).max(1.0);
        let mut over = self.rolling + amount - most - 1e-6;
        let mut opens = now;
        for (sent, amount) in self.log.iter().skip(self.returned) {
            if over <= 0.0 {
                break;
            }
            over -= amount;
            opens = *sent + self.window + self.guard;
        }
        opens.saturating_sub(now)
    }

    /// When a rolling window has room again by our count.
    pub fn returned(&self, now: Tick) -> Option<Tick> {
        (self.kind == Kind::Rolling && self.most.is_finite()).then(|| now + self.until_returned(now, 1.0))
    }

    fn spread(&self, now: Tick, amount: f64) -> Duration {
        let share = (amount / self.most / SPREAD).min(1.0 / SPREAD);
        let gap = self.window.mul_f64(share);
        self.last_sent.map_or(Duration::ZERO, |sent| (sent + gap).saturating_sub(now))
    }

    /// A bucket whose size is only felt for is not emptied at once: what piled up goes at twice the
    /// rate.
    fn twice_the_rate(&self, now: Tick) -> Duration {
        let (Source::Felt, Some(sent)) = (self.source, self.last_sent) else { return Duration::ZERO };
        let gap = Duration::try_from_secs_f64(0.5 / self.rate()).unwrap_or_default();
        (sent + gap).saturating_sub(now)
    }

    /// Whether the count says that a window is full whose end is not known well.
    pub fn must_probe(&self, now: Tick) -> bool {
        let unsure = self.edge.is_none_or(|edge| edge.hi.saturating_sub(edge.lo) > self.guard * 4);
        let full = match self.edge {
            Some(_) => self.in_window + 1.0 > self.most + 1e-6,
            None => !self.unseen && !self.until_returned(now, 1.0).is_zero(),
        };
        self.kind == Kind::Fixed && self.most.is_finite() && unsure && full
    }

    /// When the window should open next, after `last`, the most telling instant first.
    pub fn expected(&self, last: Tick) -> Option<Tick> {
        match (self.kind, self.edge) {
            // What was refused was refused for something else.
            (Kind::Fixed, Some(_)) if self.is_told_at_length() && self.in_window + 1.0 <= self.most => None,
            (Kind::Fixed, Some(edge)) => {
                let (lo, hi) = (edge.lo + self.window, edge.hi + self.window);
                let middle = lo + hi.saturating_sub(lo) / 2;
                let sure = hi.saturating_sub(lo) <= self.guard * 4;
                [(!sure).then_some(middle), Some(hi + self.guard)].into_iter().flatten().find(|at| *at > last)
            }
            // A first guess, before anything is known: a minute after the first that still counts.
            (Kind::Fixed, None) | (Kind::Bucket | Kind::Rolling, _) => None,
        }
    }

    /// When a fixed window was thought to have opened that was not open yet at `rejected`: little of it was
    /// spent.
    pub fn not_open(&self, rejected: Tick) -> Option<Tick> {
        let edge = self.edge.filter(|edge| self.kind == Kind::Fixed && edge.hi <= rejected)?;
        (self.in_window < self.most * 0.5).then_some(edge.hi)
    }

    /// When to look whether a window that was felt for takes more than it did; in a small one, a
    /// probe is a large part.
    pub fn may_grow(&self, last: Tick) -> Option<Tick> {
        let gap = self.window.mul_f64((PROBE_SHARE / self.most).max(1.0 / 12.0));
        (self.kind_source == Source::Felt && self.cap.is_none()).then_some(last + gap)
    }

    /// When the oldest that still counts would leave a window of a minute.
    pub fn oldest_leaves(&self) -> Option<Tick> {
        self.log.get(self.returned).map(|(sent, _)| *sent + MINUTE + self.guard)
    }

    pub fn take(&mut self, now: Tick, amount: f64) {
        self.advance(now);
        self.level -= amount;
        self.in_window += amount;
        self.rolling += amount;
        self.log.push_back((now, amount));
        self.last_sent = Some(now);
    }

    /// Whether something was taken at `sent`, and not given back.
    pub fn knows(&self, sent: Tick) -> bool {
        let at = self.log.partition_point(|(at, _)| *at < sent);
        self.log.get(at).is_some_and(|(at, left)| *at == sent && *left > 0.0)
    }

    /// What was taken at `sent` was not counted by the server.
    pub fn undo(&mut self, now: Tick, sent: Tick, amount: f64) {
        self.correct(now, sent, amount, 0.0);
        let at = self.log.partition_point(|(at, _)| *at < sent);
        if self.log.get(at).is_some_and(|(at, left)| *at == sent && *left <= 0.0) {
            self.log.remove(at);
            self.returned -= usize::from(at < self.returned);
        }
    }

    /// What was taken at `sent` as `estimated` was `actual` by the server's count.
    pub fn correct(&mut self, now: Tick, sent: Tick, estimated: f64, actual: f64) {
        self.advance(now);
        let by = actual - estimated;
        self.level = (self.level - by).min(self.room());
        if self.edge.is_none_or(|edge| sent >= edge.lo.saturating_sub(self.guard)) {
            self.in_window = (self.in_window + by).max(0.0);
        }
        let from = self.log.partition_point(|(at, _)| *at < sent);
        let found = (from..self.log.len())
            .take_while(|index| self.log[*index].0 == sent)
            .find(|index| self.log[*index].1 == estimated);
        if let Some(index) = found {
            self.log[index].1 = actual;
            if actual > 0.0 {
                self.amended.push_back(Amended { when: now, taken: sent, by });
            }
            self.log.swap(from, index);
            if from >= self.returned {
                self.rolling = (self.rolling + by).max(0.0);
            }
        }
    }

    /// What was taken was `by` more, by the server's count; of which request is not known.
    pub fn overspent(&mut self, now: Tick, by: f64) {
        self.advance(now);
        self.level = (self.level - by).min(self.room());
        self.in_window = (self.in_window + by).max(0.0);
        self.amended.push_back(Amended { when: now, taken: Duration::ZERO, by });
        if self.kind != Kind::Bucket
            && let Some((_, last)) = self.log.back_mut()
        {
            let before = *last;
            *last = (*last + by).max(0.0);
            self.rolling = (self.rolling + *last - before).max(0.0);
        }
    }

    /// What the server said was left when it met the request sent at `sent`. Less than we think is
    /// believed; more, only of a bucket whose size nobody told.
    pub fn believe(&mut self, now: Tick, sent: Tick, remaining: f64, count: Count) {
        self.advance(now);
        let since: f64 =
            self.log.iter().rev().take_while(|(at, _)| *at > sent).map(|(_, amount)| amount).sum();
        match self.kind {
            Kind::Bucket => {
                let refilled = remaining + now.saturating_sub(sent).as_secs_f64() * self.rate();
                let reserve = self.rate() * self.guard.as_secs_f64();
                if self.kind_source == Source::Headers && (!self.burst_known || remaining + 1.0 > self.burst)
                {
                    let second = self.rate().max(1.0);
                    if remaining + 1.0 > second && self.cap.is_none_or(|cap| remaining < cap) {
                        self.burst = remaining + 1.0;
                        self.burst_known = true;
                        self.level = self.level.max((refilled - since - reserve).min(self.room()));
                    }
                }
                let told = self.kind_source == Source::Headers;
                let left = if told { self.since(now, sent, remaining, sent) } else { refilled - since };
                self.level = self.level.min(left.max(self.level - self.room()));
                if told && count == Count::Late && remaining > 0.0 {
                    // What was sent a moment before may have come there after it.
                    let least = self.since(now, sent, remaining, sent.saturating_sub(self.guard));
                    self.level = self.level.max((least - reserve).min(self.room()));
                }
            }
            Kind::Fixed => {
                let this_window = self.edge.is_some_and(|edge| sent >= edge.hi);
                // What others used up of the window was let in too: it is no smaller than that.
                if let Some(cap) = self.cap.filter(|_| this_window) {
                    self.most = self.most.max((cap - remaining).min(cap));
                }
                if this_window && self.most.is_finite() {
                    self.in_window = self.in_window.max(self.most - remaining + since);
                }
            }
            Kind::Rolling => {
                let begin = sent.saturating_sub(self.window);
                let ours = self.log.iter().filter(|(at, _)| *at > begin && *at <= sent);
                let before: f64 = ours.map(|(_, amount)| amount).sum();
                self.others = (self.most - remaining - before).max(0.0);
            }
        }
    }

    /// What a bucket holds that held `level` at `sent`, after all that was taken after `from` and
    /// corrected since.
    fn since(&self, now: Tick, sent: Tick, level: f64, from: Tick) -> f64 {
        let taken = self.log.iter().skip(self.log.partition_point(|(at, _)| *at <= from)).copied();
        let later = |amended: &&Amended| amended.when > sent && amended.taken <= from;
        let amended = self.amended.iter().filter(later).map(|amended| (amended.when, amended.by));
        let (mut taken, mut amended) = (taken.peekable(), amended.peekable());
        let most = self.room() + self.rate() * self.guard.as_secs_f64();
        let (mut level, mut at) = (level, sent);
        loop {
            let first_taken = taken.peek().map_or(Duration::MAX, |(at, _)| *at);
            let first_amended = amended.peek().map_or(Duration::MAX, |(at, _)| *at);
            let next = if first_taken <= first_amended { taken.next() } else { amended.next() };
            let (until, amount) = next.unwrap_or((now, 0.0));
            level =
                (level + until.saturating_sub(at).as_secs_f64() * self.rate()).min(most.max(level)) - amount;
            at = at.max(until);
            if next.is_none() {
                return level;
            }
        }
    }

    /// A rejection says that nothing is left. Nothing goes before `wait` has passed; what a bucket
    /// refills meanwhile is ours.
    pub fn drain(&mut self, now: Tick, wait: Duration) {
        self.advance(now);
        self.level = self.level.min(0.0);
        self.held_until = now.saturating_add(wait);
    }

    /// The same of a request of `amount`: a server that named the wait has what is missing then.
    pub fn refused(&mut self, now: Tick, amount: f64, hint: Option<Duration>) {
        self.drain(now, hint.unwrap_or_default());
        if let Some(wait) = hint {
            let missing = wait.as_secs_f64() * self.rate();
            self.level = (amount.min(self.room()) - missing).max(self.level);
        }
    }

    /// Requests came closer together than they were sent.
    pub fn widen_guard(&mut self) {
        self.guard = (self.guard * 2).min(LAST_GUARD);
    }

    /// A limit that config or headers state, for a window.
    pub fn state(&mut self, limit: f64, window: Duration, source: Source) {
        let same = self.cap == Some(limit) && self.window == window;
        if same {
            return;
        }
        let (unknown, at_cap) = (self.cap.is_none(), self.cap.is_some_and(|cap| self.most >= cap));
        self.cap = Some(limit);
        self.window = window;
        self.source = source;
        if unknown || at_cap || self.most > limit {
            self.most = limit;
        }
        self.level = self.level.min(self.room());
    }
}

impl Lane {
    /// What was spent, in no more than `most` pieces: as much, as late or later.
    pub fn compact(&mut self, most: usize) {
        let piece = self.log.len().div_ceil(most.max(1));
        if piece < 2 {
            return;
        }
        let whole = std::mem::take(&mut self.log);
        let returned = self.returned;
        self.returned = 0;
        let mut index = 0;
        while index < whole.len() {
            // A piece is wholly within the window, or wholly out of it.
            let end =
                if index < returned { returned.min(index + piece) } else { whole.len().min(index + piece) };
            let amount = whole.range(index..end).map(|(_, amount)| amount).sum();
            let last = whole.get(end - 1).map_or(Duration::ZERO, |(at, _)| *at);
            self.log.push_back((last, amount));
            self.returned += usize::from(end <= returned);
            index = end;
        }
    }
}

/// JSON has no infinity: `null` stands for it.
mod unbounded {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(most: &f64, to: S) -> Result<S::Ok, S::Error> {
        most.is_finite().then_some(*most).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::INFINITY))
    }
}
