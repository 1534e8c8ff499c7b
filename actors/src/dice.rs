//! Chance, for jitter and the like: one source that all actors of a process are handed, so that a
//! simulation which seeds it plays the same again.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A source of chance. Clones draw from the same one.
#[derive(Clone)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    /// Seeded by the operating system: no two processes draw alike.
    pub fn from_os() -> Dice {
        Dice(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// The same seed gives the same draws, in the same order.
    pub fn seeded(seed: u64) -> Dice {
        Dice(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn draw(&self) -> MutexGuard<'_, StdRng> {
        // Whatever a panic left behind is as good a generator as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From 0 to 1, without 1: as the backoff's arithmetic takes it.
    pub(crate) fn share(&self) -> f64 {
        self.draw().random()
    }

    /// From the range.
    pub(crate) fn between(&self, range: Range<f64>) -> f64 {
        self.draw().random_range(range)
    }

    /// Any number.
    pub(crate) fn number(&self) -> u32 {
        self.draw().random()
    }
}

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_own_draws_and_clones_share_them() {
        let draws = |dice: &Dice| [dice.number(), dice.clone().number(), dice.number()];
        assert_eq!(draws(&Dice::seeded(7)), draws(&Dice::seeded(7)));
        assert_ne!(draws(&Dice::seeded(7)), draws(&Dice::seeded(8)));
        assert_ne!(draws(&Dice::from_os()), draws(&Dice::from_os()));
    }
}
