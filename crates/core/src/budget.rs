//! What a provider allows, as arithmetic: requests and tokens a minute, concurrency, and the gate.
//!
//! Time is a [`Tick`]: the monotonic time since the process began. A limit comes from the
//! configuration, else from the server's headers, else it is felt for: a bare rejection cuts the
//! rate to 0.7 of what it was, and quiet raises it again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::GateReason;
use crate::headers::Observed;

/// Monotonic time since an arbitrary beginning.
pub type Tick = Duration;

/// Share of the rate that a rejection without any hint leaves (AWS SDKs' adaptive mode: 0.7).
const CUT: f64 = 0.7;
/// A rate that was felt for grows by this share for each minute without a rejection.
const RECOVERY_PER_MINUTE: f64 = 0.1;
/// Requests a minute below which a felt rate never falls.
const SLOWEST: f64 = 6.0;
/// Requests of the last minute below which a bare rejection says nothing of the rate: the callers'
/// backoff is the answer to it.
const ENOUGH_TO_TELL: usize = 10;
/// A bare rejection cuts at most once in this time: the requests in flight are rejected together.
const CUT_ONCE_IN: Duration = Duration::from_secs(2);

/// Limits from the configuration; 0 = not known, found out while running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Requests a minute; 0 = learned from headers and rejections.
    pub requests_per_minute: u32,
    /// Tokens a minute, prompt and answer together; 0 = learned.
    pub tokens_per_minute: u32,
    /// Requests in flight at once; 0 = no limit of its own.
    pub concurrency: u32,
}

/// Where a limit comes from; shown beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// config.toml.
    Config,
    /// The server's headers.
    Headers,
    /// Rejections without a hint.
    Felt,
}

/// A continuously refilled bucket of `per_minute`, holding at most `burst`. May go below zero,
/// where more was spent than was held back for.
#[derive(Clone, Debug)]
struct Bucket {
    per_minute: f64,
    burst: f64,
    level: f64,
    at: Tick,
    source: Source,
}

impl Bucket {
    /// A second's worth of burst: limits stated by the minute are often enforced by the second.
    fn new(per_minute: f64, source: Source, now: Tick) -> Self {
        let burst = (per_minute / 60.0).max(1.0);
        Bucket { per_minute, burst, level: burst, at: now, source }
    }

    fn refill(&mut self, now: Tick) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.per_minute / 60.0;
        self.level = (self.level + gained).min(self.burst);
        self.at = self.at.max(now);
    }

    /// How long until `amount` can be taken; an amount above the burst needs a full bucket.
    fn wait(&mut self, now: Tick, amount: f64) -> Duration {
        self.refill(now);
        let missing = amount.min(self.burst) - self.level;
        // A bucket that is short by less than a millionth is full: floating point, not a debt.
        if missing <= 1e-6 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(missing * 60.0 / self.per_minute).unwrap_or(Duration::MAX)
    }
}

/// A gate that is closed until a known time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Closed {
    /// When it opens.
    pub until: Tick,
    /// Why it is closed.
    pub reason: GateReason,
}

/// One budget: what one credential may ask of one provider's resource.
#[derive(Clone, Debug)]
pub struct Budget {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    concurrency: Option<u32>,
    in_flight: u32,
    gate: Option<Closed>,
    last_cut: Option<Tick>,
    last_recovery: Tick,
    /// Requests of the last minute, for a first guess when a limit must be felt for.
    recent: std::collections::VecDeque<Tick>,
}

impl Budget {
    /// A budget that begins at `now` with what the configuration knows.
    pub fn new(settings: &LimitSettings, now: Tick) -> Self {
        let bucket = |limit: u32| (limit > 0).then(|| Bucket::new(f64::from(limit), Source::Config, now));
        Budget {
            requests: bucket(settings.requests_per_minute),
            tokens: bucket(settings.tokens_per_minute),
            concurrency: (settings.concurrency > 0).then_some(settings.concurrency),
            in_flight: 0,
            gate: None,
            last_cut: None,
            last_recovery: now,
            recent: std::collections::VecDeque::new(),
        }
    }

    /// The gate, if it is closed at `now`.
    pub fn gate(&self, now: Tick) -> Option<Closed> {
        self.gate.filter(|gate| gate.until > now)
    }

    /// How long until a request of `tokens` may be sent, as far as is known; [`Duration::MAX`]
    /// while all concurrency is in use, since nobody knows when an answer comes.
    pub fn wait(&mut self, now: Tick, tokens: u64) -> Duration {
        self.recover(now);
        if self.concurrency.is_some_and(|most| self.in_flight >= most) {
            return Duration::MAX;
        }
        let gate = self.gate(now).map_or(Duration::ZERO, |gate| gate.until - now);
        let requests = self.requests.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(now, 1.0));
        let for_tokens =
            self.tokens.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(now, tokens as f64));
        gate.max(requests).max(for_tokens)
    }

    /// Spends one request and `tokens`; [`Budget::wait`] said zero before.
    pub fn take(&mut self, now: Tick, tokens: u64) {
        self.in_flight += 1;
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|sent| now.saturating_sub(*sent) > Duration::from_secs(60)) {
            self.recent.pop_front();
        }
        if let Some(bucket) = &mut self.requests {
            bucket.level -= 1.0;
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.level -= tokens as f64;
        }
    }

    /// Gives back an unused request that was taken.
    pub fn untake(&mut self, tokens: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(bucket) = &mut self.requests {
            bucket.level = (bucket.level + 1.0).min(bucket.burst);
        }
        self.correct(tokens, 0);
    }

    /// A request ended: its place among the concurrent ones is free, and the tokens are corrected
    /// from the estimate to what the server counted.
    pub fn done(&mut self, estimated: u64, actual: Option<u64>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(actual) = actual {
            self.correct(estimated, actual);
        }
    }

    fn correct(&mut self, estimated: u64, actual: u64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.level = (bucket.level + estimated as f64 - actual as f64).min(bucket.burst);
        }
    }

    /// Closes the gate until `until`, or later if it is closed for longer already. Returns whether
    /// it was open at `now`.
    pub fn close(&mut self, now: Tick, until: Tick, reason: GateReason) -> bool {
        let was_open = self.gate(now).is_none();
        if self.gate.is_none_or(|gate| gate.until < until) {
            self.gate = Some(Closed { until, reason });
        }
        was_open
    }

    /// Opens the gate: the provider answered again.
    pub fn open(&mut self) {
        self.gate = None;
    }

    /// Takes limits from the headers of an answer, where the configuration says nothing, and
    /// closes the gate where they say that nothing is left.
    pub fn learn(&mut self, now: Tick, observed: &Observed) {
        for (window, bucket) in
            [(&observed.requests, &mut self.requests), (&observed.tokens, &mut self.tokens)]
        {
            let Some(limit) = window.as_ref().and_then(|window| window.limit).filter(|limit| *limit > 0)
            else {
                continue;
            };
            let per_minute = limit as f64;
            match bucket {
                Some(known) if known.source == Source::Config => {}
                Some(known) if known.source == Source::Headers => {
                    known.per_minute = per_minute;
                    known.burst = (per_minute / 60.0).max(1.0);
                }
                Some(_) | None => *bucket = Some(Bucket::new(per_minute, Source::Headers, now)),
            }
        }
        for window in [&observed.requests, &observed.tokens].into_iter().flatten() {
            if let (Some(0), Some(reset)) = (window.remaining, window.reset) {
                self.close(now, now + reset, GateReason::RateLimit);
            }
        }
    }

    /// A rejection that says neither when nor how much: the rate is cut.
    pub fn rejected_without_hint(&mut self, now: Tick) {
        if self.last_cut.is_some_and(|cut| now.saturating_sub(cut) < CUT_ONCE_IN) {
            return;
        }
        self.last_cut = Some(now);
        self.last_recovery = now;
        match &mut self.requests {
            Some(bucket) if bucket.source == Source::Felt => {
                bucket.per_minute = (bucket.per_minute * CUT).max(SLOWEST);
                bucket.burst = (bucket.per_minute / 60.0).max(1.0);
                bucket.level = bucket.level.min(0.0);
            }
            // A stated limit stays stated: the rejection says that others use it too.
            Some(bucket) => bucket.level = bucket.level.min(0.0),
            None if self.recent.len() < ENOUGH_TO_TELL => {}
            None => {
                let guess = (self.recent.len() as f64 * CUT).max(SLOWEST);
                let mut bucket = Bucket::new(guess, Source::Felt, now);
                bucket.level = 0.0;
                self.requests = Some(bucket);
            }
        }
    }

    /// A rate that was felt for grows again with time.
    fn recover(&mut self, now: Tick) {
        let quiet = now.saturating_sub(self.last_recovery);
        self.last_recovery = now;
        if let Some(bucket) = self.requests.as_mut().filter(|bucket| bucket.source == Source::Felt) {
            bucket.refill(now);
            bucket.per_minute *= 1.0 + RECOVERY_PER_MINUTE * quiet.as_secs_f64() / 60.0;
            bucket.burst = (bucket.per_minute / 60.0).max(1.0);
        }
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The request limit a minute and where it comes from.
    pub fn request_limit(&self) -> Option<(f64, Source)> {
        self.requests.as_ref().map(|bucket| (bucket.per_minute, bucket.source))
    }

    /// The token limit a minute and where it comes from.
    pub fn token_limit(&self) -> Option<(f64, Source)> {
        self.tokens.as_ref().map(|bucket| (bucket.per_minute, bucket.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Window;

    fn secs(s: u64) -> Tick {
        Duration::from_secs(s)
    }

    fn budget(requests: u32, tokens: u32, concurrency: u32) -> Budget {
        let settings =
            LimitSettings { requests_per_minute: requests, tokens_per_minute: tokens, concurrency };
        Budget::new(&settings, Duration::ZERO)
    }

    /// Sends as fast as the budget lets it; how many went within `span`.
    fn greedy(budget: &mut Budget, mut now: Tick, span: Duration, tokens: u64) -> u32 {
        let end = now + span;
        let mut sent = 0;
        while now < end {
            let wait = budget.wait(now, tokens);
            if wait.is_zero() {
                budget.take(now, tokens);
                budget.done(tokens, None);
                sent += 1;
            }
            now += wait.max(Duration::from_millis(1));
        }
        sent
    }

    #[test]
    fn a_configured_rate_is_kept_and_used() {
        let sent = greedy(&mut budget(60, 0, 0), secs(0), secs(600), 10);
        assert!((599..=601).contains(&sent), "{sent}");
    }

    #[test]
    fn tokens_bind_where_they_are_the_tighter_limit() {
        let sent = greedy(&mut budget(600, 6_000, 0), secs(0), secs(600), 1_000);
        assert!((59..=61).contains(&sent), "{sent}");
    }

    #[test]
    fn a_correction_gives_back_what_was_held_too_much() {
        let mut budget = budget(0, 600, 0);
        budget.take(secs(0), 600);
        assert!(budget.wait(secs(0), 1) > Duration::ZERO);
        budget.done(600, Some(0));
        assert_eq!(budget.wait(secs(0), 1), Duration::ZERO);
    }

    #[test]
    fn an_amount_larger_than_the_burst_goes_when_the_bucket_is_full() {
        let mut budget = budget(0, 60, 0);
        assert_eq!(budget.wait(secs(0), 10_000), Duration::ZERO);
        budget.take(secs(0), 10_000);
        assert!(budget.wait(secs(0), 1) > secs(3_600));
    }

    #[test]
    fn concurrency_is_bounded_and_freed() {
        let mut budget = budget(0, 0, 2);
        budget.take(secs(0), 1);
        budget.take(secs(0), 1);
        assert_eq!(budget.wait(secs(0), 1), Duration::MAX);
        budget.untake(1);
        assert_eq!(budget.wait(secs(0), 1), Duration::ZERO);
    }

    #[test]
    fn the_gate_closes_everything_until_its_time_and_the_later_time_wins() {
        let mut budget = budget(0, 0, 0);
        assert!(budget.close(secs(0), secs(10), GateReason::RateLimit));
        assert!(!budget.close(secs(0), secs(5), GateReason::RateLimit));
        assert_eq!(budget.wait(secs(4), 1), secs(6));
        assert_eq!(budget.wait(secs(10), 1), Duration::ZERO);
    }

    #[test]
    fn headers_teach_what_the_configuration_leaves_open_and_only_that() {
        let window = Window { limit: Some(120), remaining: Some(0), reset: Some(secs(7)) };
        let observed = Observed { requests: Some(window), tokens: None, resource: None };
        let mut open = budget(0, 0, 0);
        open.learn(secs(0), &observed);
        assert_eq!(open.request_limit(), Some((120.0, Source::Headers)));
        assert_eq!(open.wait(secs(0), 1), secs(7));
        let mut told = budget(60, 0, 0);
        told.learn(secs(0), &observed);
        assert_eq!(told.request_limit(), Some((60.0, Source::Config)));
    }

    #[test]
    fn a_bare_rejection_of_the_first_requests_says_nothing_of_the_rate() {
        let mut budget = budget(0, 0, 0);
        budget.take(secs(0), 1);
        budget.done(1, None);
        budget.rejected_without_hint(secs(1));
        assert_eq!(budget.request_limit(), None);
        assert_eq!(budget.wait(secs(1), 1), Duration::ZERO);
    }

    #[test]
    fn a_bare_rejection_cuts_the_rate_once_and_quiet_raises_it_again() {
        let mut budget = budget(0, 0, 0);
        for second in 0..100 {
            budget.take(secs(second), 1);
            budget.done(1, None);
        }
        budget.rejected_without_hint(secs(100));
        budget.rejected_without_hint(secs(100));
        let (cut, source) = budget.request_limit().unwrap();
        assert_eq!(source, Source::Felt);
        assert!((35.0..50.0).contains(&cut), "{cut}");
        budget.wait(secs(160), 1);
        assert!(budget.request_limit().unwrap().0 > cut);
    }
}
