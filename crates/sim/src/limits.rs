//! The two ways in which servers limit: a token bucket, and a window that begins anew.

use std::time::Duration;

use crate::config::LimitKind;

const MINUTE: Duration = Duration::from_secs(60);

/// One limit of so much a minute. Times are counted from the world's start.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    limit: f64,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Open,
    Bucket { capacity: f64, level: f64, at: Duration },
    Fixed { window: u64, used: f64 },
}

/// What was charged, so that it can be corrected later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge {
    amount: f64,
    window: u64,
}

impl Limiter {
    pub(crate) fn new(per_minute: Option<u64>, kind: LimitKind) -> Self {
        let limit = per_minute.unwrap_or(0) as f64;
        let shape = match (per_minute, kind) {
            (None, _) | (_, LimitKind::None) => Shape::Open,
            (Some(_), LimitKind::Bucket { holds }) => {
                let capacity = (limit * holds.as_secs_f64() / MINUTE.as_secs_f64()).max(1.0);
                Shape::Bucket { capacity, level: capacity, at: Duration::ZERO }
            }
            (Some(_), LimitKind::Fixed) => Shape::Fixed { window: 0, used: 0.0 },
        };
        Limiter { limit, shape }
    }

    /// The limit a minute, if there is one.
    pub(crate) fn limit(&self) -> Option<u64> {
        match self.shape {
            Shape::Open => None,
            Shape::Bucket { .. } | Shape::Fixed { .. } => Some(self.limit as u64),
        }
    }

    fn advance(&mut self, now: Duration) {
        match &mut self.shape {
            Shape::Open => {}
            Shape::Bucket { capacity, level, at } => {
                let gained = now.saturating_sub(*at).as_secs_f64() * self.limit / MINUTE.as_secs_f64();
                *level = (*level + gained).min(*capacity);
                *at = now.max(*at);
            }
            Shape::Fixed { window, used } => {
                let current = now.as_secs() / MINUTE.as_secs();
                if current > *window {
                    *window = current;
                    *used = 0.0;
                }
            }
        }
    }

    /// How long `amount` would have to wait; `None` if it may go now. An amount above a bucket's
    /// capacity may go when the bucket is full, and leaves it in debt.
    pub(crate) fn wait(&mut self, now: Duration, amount: u64) -> Option<Duration> {
        self.advance(now);
        let amount = amount as f64;
        match self.shape {
            Shape::Open => None,
            Shape::Bucket { capacity, level, .. } => {
                let missing = amount.min(capacity) - level;
                // Refilling in floating point may end a hair below a whole number.
                (missing > 1e-6)
                    .then(|| Duration::from_secs_f64(missing * MINUTE.as_secs_f64() / self.limit.max(1e-9)))
            }
            Shape::Fixed { used, .. } => (used + amount > self.limit).then(|| Self::rest_of_window(now)),
        }
    }

    fn rest_of_window(now: Duration) -> Duration {
        let minute = MINUTE.as_nanos();
        let rest = minute - now.as_nanos() % minute;
        Duration::from_nanos(u64::try_from(rest).unwrap_or(u64::MAX))
    }

    /// Takes `amount`, whether it is there or not, down to a minute's limit of debt.
    pub(crate) fn charge(&mut self, now: Duration, amount: u64) -> Charge {
        self.advance(now);
        let amount = amount as f64;
        match &mut self.shape {
            Shape::Open => Charge { amount, window: 0 },
            Shape::Bucket { level, .. } => {
                *level = (*level - amount).max(-self.limit);
                Charge { amount, window: 0 }
            }
            Shape::Fixed { window, used } => {
                *used += amount;
                Charge { amount, window: *window }
            }
        }
    }

    /// Corrects a charge to what was really used. A window that is over keeps what it counted.
    pub(crate) fn correct(&mut self, now: Duration, charge: Charge, really: u64) {
        self.advance(now);
        let back = charge.amount - really as f64;
        match &mut self.shape {
            Shape::Open => {}
            Shape::Bucket { capacity, level, .. } => *level = (*level + back).clamp(-self.limit, *capacity),
            Shape::Fixed { window, used } if *window == charge.window => *used = (*used - back).max(0.0),
            Shape::Fixed { .. } => {}
        }
    }

    /// What is left now.
    pub(crate) fn remaining(&mut self, now: Duration) -> u64 {
        self.advance(now);
        match self.shape {
            Shape::Open => u64::MAX,
            Shape::Bucket { level, .. } => (level + 1e-6).max(0.0) as u64,
            Shape::Fixed { used, .. } => (self.limit - used).max(0.0) as u64,
        }
    }

    /// How long until all of it is there again.
    pub(crate) fn reset(&mut self, now: Duration) -> Duration {
        self.advance(now);
        match self.shape {
            Shape::Open => Duration::ZERO,
            Shape::Bucket { capacity, level, .. } => {
                let missing = (capacity - level).max(0.0);
                Duration::from_secs_f64(missing * MINUTE.as_secs_f64() / self.limit.max(1e-9))
            }
            Shape::Fixed { .. } => Self::rest_of_window(now),
        }
    }
}

/// A duration as Go and OpenAI write it: `20ms`, `1s`, `59.9s`, `6m0s`, `1h2m3s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let seconds = (millis % 60_000) as f64 / 1000.0;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_bucket_lets_its_burst_pass_and_then_exactly_its_rate() {
        let mut limiter = Limiter::new(Some(60), LimitKind::Bucket { holds: secs(10.0) });
        for _ in 0..10 {
            assert_eq!(limiter.wait(secs(0.0), 1), None);
            limiter.charge(secs(0.0), 1);
        }
        assert_eq!(limiter.wait(secs(0.0), 1), Some(secs(1.0)));
        assert_eq!(limiter.wait(secs(0.4), 1), Some(secs(0.6)));
        assert_eq!(limiter.wait(secs(1.0), 1), None);
        let mut passed = 0;
        for tenth in 10..=6010 {
            let now = Duration::from_millis(tenth * 100);
            if limiter.wait(now, 1).is_none() {
                limiter.charge(now, 1);
                passed += 1;
            }
        }
        assert_eq!(passed, 601);
    }

    #[test]
    fn a_fixed_window_is_full_until_its_very_end() {
        let mut limiter = Limiter::new(Some(3), LimitKind::Fixed);
        for _ in 0..3 {
            assert_eq!(limiter.wait(secs(50.0), 1), None);
            limiter.charge(secs(50.0), 1);
        }
        assert_eq!(limiter.wait(secs(50.0), 1), Some(secs(10.0)));
        assert_eq!(limiter.wait(secs(59.75), 1), Some(secs(0.25)));
        assert_eq!(limiter.wait(secs(60.0), 3), None);
        assert_eq!(limiter.wait(secs(60.0), 4), Some(secs(60.0)));
    }

    #[test]
    fn a_charge_is_corrected_within_its_window_only() {
        let mut fixed = Limiter::new(Some(1000), LimitKind::Fixed);
        let charge = fixed.charge(secs(1.0), 900);
        fixed.correct(secs(2.0), charge, 100);
        assert_eq!(fixed.remaining(secs(2.0)), 900);
        let charge = fixed.charge(secs(59.0), 900);
        fixed.charge(secs(61.0), 300);
        fixed.correct(secs(62.0), charge, 100);
        assert_eq!(fixed.remaining(secs(62.0)), 700);

        let mut bucket = Limiter::new(Some(600), LimitKind::Bucket { holds: secs(60.0) });
        let charge = bucket.charge(secs(0.0), 600);
        assert_eq!(bucket.wait(secs(0.0), 300), Some(secs(30.0)));
        bucket.correct(secs(0.0), charge, 200);
        assert_eq!(bucket.remaining(secs(0.0)), 400);
    }

    #[test]
    fn more_than_a_bucket_holds_goes_when_it_is_full_and_leaves_a_debt() {
        let mut bucket = Limiter::new(Some(600), LimitKind::Bucket { holds: secs(6.0) });
        assert_eq!(bucket.wait(secs(0.0), 300), None);
        bucket.charge(secs(0.0), 300);
        assert_eq!(bucket.wait(secs(0.0), 10), Some(secs(25.0)));
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (millis, text) in
            [(20, "20ms"), (1000, "1s"), (59_900, "59.9s"), (360_000, "6m0s"), (3_723_000, "1h2m3s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_gets_more_than_it_may(
            limit in 1..300_u64,
            holds in 1..60_u64,
            fixed in any::<bool>(),
            steps in prop::collection::vec((0..5_000_u64, 1..4_u64), 1..60),
        ) {
            let kind = match fixed {
                true => LimitKind::Fixed,
                false => LimitKind::Bucket { holds: Duration::from_secs(holds) },
            };
            let mut limiter = Limiter::new(Some(limit), kind);
            let mut now = Duration::ZERO;
            let mut passed: Vec<(Duration, u64)> = Vec::new();
            for (pause, amount) in steps {
                now += Duration::from_millis(pause);
                // More than a whole minute's limit is refused before it comes to a limiter.
                let amount = amount.min(limit);
                match limiter.wait(now, amount) {
                    None => {
                        limiter.charge(now, amount);
                        passed.push((now, amount));
                    }
                    // What it names is enough.
                    Some(wait) => {
                        let mut later = limiter.clone();
                        prop_assert_eq!(later.wait(now + wait + Duration::from_micros(1), amount), None);
                    }
                }
            }
            for (from, _) in &passed {
                for (until, last) in passed.iter().filter(|(until, _)| until >= from) {
                    let within = passed.iter().filter(|(at, _)| at >= from && at <= until);
                    let sum: u64 = within.map(|(_, amount)| amount).sum();
                    let span = (*until - *from).as_secs_f64();
                    let most = match kind {
                        // Each window that the stretch touches gives its limit.
                        LimitKind::Fixed => limit as f64 * (until.as_secs() / 60 - from.as_secs() / 60 + 1) as f64,
                        LimitKind::Bucket { holds } => {
                            let rate = limit as f64 / 60.0;
                            // The last one of all may go into debt by what exceeds the capacity.
                            (rate * holds.as_secs_f64()).max(1.0) + rate * span + *last as f64
                        }
                        LimitKind::None => f64::INFINITY,
                    };
                    prop_assert!(sum as f64 <= most + 1e-3, "{sum} in {span} s, at most {most}");
                }
            }
        }
    }
}
