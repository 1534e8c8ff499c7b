//! The arithmetic: medians over runs, percentiles of waits.

use anyhow::Context;
use hdrhistogram::Histogram;

/// Longest wait that is told apart, in microseconds.
const LONGEST_US: u64 = 600_000_000;

/// Waits, in microseconds.
pub struct Waits(Histogram<u64>);

impl Waits {
    /// None yet.
    pub fn new() -> anyhow::Result<Self> {
        let waits = Histogram::new_with_bounds(1, LONGEST_US, 3);
        Ok(Waits(waits.context("no histogram has these bounds")?))
    }

    /// Enters one.
    pub fn enter(&mut self, wait_us: u64) {
        self.0.saturating_record(wait_us.max(1));
    }

    /// The wait that this share of all does not exceed, in milliseconds; none without any.
    pub fn at_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1000.0)
    }
}

/// The middle one; of an even number, the mean of the two in the middle. None of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_middle_one_is_the_median() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut waits = Waits::new().unwrap();
        assert_eq!(waits.at_ms(0.5), None);
        for wait in 1..=100 {
            waits.enter(wait * 10);
        }
        assert_eq!(waits.at_ms(0.5), Some(0.5));
        assert_eq!(waits.at_ms(0.99), Some(0.99));
        // Beyond what is told apart, and nothing at all.
        waits.enter(u64::MAX);
        waits.enter(0);
        assert_eq!(waits.at_ms(0.0), Some(0.001));
        assert!(waits.at_ms(1.0).unwrap() >= 600_000.0);
    }

    proptest! {
        #[test]
        fn half_are_on_either_side(values in proptest::collection::vec(-1e9..1e9f64, 1..50)) {
            let middle = median(values.iter().copied()).unwrap();
            let below = values.iter().filter(|&&value| value < middle).count();
            let above = values.iter().filter(|&&value| value > middle).count();
            prop_assert!(below * 2 <= values.len() && above * 2 <= values.len());
        }
    }
}
