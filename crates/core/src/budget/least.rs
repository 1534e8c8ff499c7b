//! The least time that any policy needs: a lower bound, by arithmetic alone.

use std::time::Duration;

use super::Kind;

/// A server's limit as it truly is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// How it counts.
    pub kind: Kind,
    /// Units that a window allows.
    pub most: f64,
    /// The window.
    pub window: Duration,
    /// Units that a bucket holds; it is full at the beginning.
    pub burst: f64,
    /// What had passed of a fixed window at the beginning.
    pub passed: Duration,
}

impl Limit {
    /// The least time from the beginning until the last of `units` can be let in. A fixed window
    /// allows its whole again at its end, a rolling one a window after the first was let in.
    pub fn least(&self, units: f64) -> Duration {
        if units <= 0.0 || self.most <= 0.0 {
            return Duration::ZERO;
        }
        let whole = |windows: f64| self.window.mul_f64(windows.max(0.0));
        // Units are whole numbers: a sum that is an exact multiple needs no further window.
        match self.kind {
            Kind::Bucket => whole((units - self.burst) / self.most),
            Kind::Fixed => whole((units / self.most).ceil() - 1.0).saturating_sub(if units > self.most {
                self.passed
            } else {
                Duration::ZERO
            }),
            Kind::Rolling => whole((units / self.most).ceil() - 1.0),
        }
    }
}

/// The work: calls in sequence a job, by how long each takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The sum of all calls.
    pub total: Duration,
    /// The job that takes longest.
    pub longest_job: Duration,
    /// The shortest call: the last that is let in takes no less.
    pub shortest_call: Duration,
    /// Jobs at once.
    pub at_once: u32,
}

/// The least makespan under every limit, each given with the units of all calls.
pub fn makespan(limits: &[(Limit, f64)], work: &Work) -> Duration {
    let limited = limits.iter().map(|(limit, units)| limit.least(*units)).max().unwrap_or_default();
    let crowded = work.total / work.at_once.max(1);
    (limited + work.shortest_call).max(crowded).max(work.longest_job)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the server lets one in at `now`, given when it let in the others; time in ticks.
    fn lets_in(limit: &Limit, before: &[u32], now: u32) -> bool {
        let window = limit.window.as_secs() as u32;
        let passed = limit.passed.as_secs() as u32;
        let held = match limit.kind {
            Kind::Rolling => before.iter().filter(|at| **at + window > now).count() as f64,
            Kind::Fixed => {
                let number = |at: u32| (at + passed) / window;
                before.iter().filter(|at| number(**at) == number(now)).count() as f64
            }
            Kind::Bucket => {
                let rate = limit.most / f64::from(window);
                let (mut level, mut at) = (limit.burst, 0);
                for sent in before {
                    level = (level + f64::from(sent - at) * rate).min(limit.burst) - 1.0;
                    at = *sent;
                }
                level = (level + f64::from(now - at) * rate).min(limit.burst);
                return level >= 1.0 - 1e-9;
            }
        };
        held < limit.most
    }

    /// Tries every choice of instants; the earliest at which the last of `left` is let in.
    fn brute(limit: &Limit, before: &mut Vec<u32>, now: u32, left: u32, best: &mut u32) {
        if left == 0 {
            *best = (*best).min(before.last().copied().unwrap_or(0));
            return;
        }
        if now >= *best {
            return;
        }
        if lets_in(limit, before, now) {
            before.push(now);
            brute(limit, before, now, left - 1, best);
            before.pop();
        }
        brute(limit, before, now + 1, left, best);
    }

    #[test]
    fn the_bound_is_what_brute_force_finds() {
        for kind in [Kind::Bucket, Kind::Fixed, Kind::Rolling] {
            for most in [1_u32, 2, 3] {
                for window in [3_u32, 6] {
                    for passed in [0, 1, window - 1] {
                        for calls in 1..=6_u32 {
                            let limit = Limit {
                                kind,
                                most: f64::from(most),
                                window: Duration::from_secs(u64::from(window)),
                                burst: f64::from(most.min(2)),
                                passed: Duration::from_secs(u64::from(passed)),
                            };
                            let mut best = 64;
                            brute(&limit, &mut Vec::new(), 0, calls, &mut best);
                            let bound = limit.least(f64::from(calls)).as_secs_f64();
                            // Brute force has whole seconds, a bucket's bound need not be whole.
                            assert_eq!(f64::from(best), bound.ceil(), "{limit:?}, {calls} calls");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_to_do_takes_no_time_and_the_largest_bound_holds() {
        let limit = Limit {
            kind: Kind::Rolling,
            most: 10.0,
            window: Duration::from_secs(60),
            burst: 0.0,
            passed: Duration::ZERO,
        };
        assert_eq!(limit.least(0.0), Duration::ZERO);
        let second = Duration::from_secs(1);
        let work = Work { total: second * 100, longest_job: second * 20, shortest_call: second, at_once: 2 };
        assert_eq!(makespan(&[(limit, 11.0)], &work), second * 61);
        assert_eq!(makespan(&[(limit, 10.0)], &work), second * 50);
        assert_eq!(makespan(&[], &Work { at_once: 100, ..work }), second * 20);
    }
}
