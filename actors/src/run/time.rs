//! The store's time, as a run knows it. A runner's own clock may be years off; due times and deadlines are
//! the store's.

use steadfast_core::time::Timestamp;
use tokio::time::Instant;

use super::{Outcome, Run};

/// What the store's clock said, and when that was heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreTime {
    at: Timestamp,
    heard: Instant,
}

impl Run {
    /// Asks the store for its time, once a run.
    pub(super) async fn set_the_time(&mut self) -> Result<(), Outcome> {
        let persist = &self.deps.persist;
        let stop = self.stop.patience().hard;
        let at = persist.through("time", &stop, || persist.store().now()).await;
        let at = at.map_err(|error| self.store_failed(error))?;
        self.time = Some(StoreTime { at, heard: Instant::now() });
        Ok(())
    }

    /// The time now by the store's clock; by this machine's, where the store was not asked yet.
    pub(super) fn now(&self) -> Timestamp {
        match self.time {
            Some(StoreTime { at, heard }) => at + heard.elapsed(),
            None => self.deps.clock.now(),
        }
    }

    /// What this machine's clock calls `until`, by the store's.
    pub(super) fn by_the_store(&self, until: Timestamp) -> Timestamp {
        self.now() + until.since(self.deps.clock.now())
    }
}
