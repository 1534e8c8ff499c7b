//! One write at a time, spaced: GitHub's own advice against its secondary limits.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The lane that writes go through.
pub(crate) struct WriteLane {
    spacing: Duration,
    last_end: Mutex<Option<Instant>>,
}

/// The right to write; the spacing counts from when it is dropped, be it that the write ended or
/// that nobody waits for it any longer.
pub(crate) struct WriteTurn<'a> {
    last_end: MutexGuard<'a, Option<Instant>>,
}

impl WriteLane {
    pub(crate) fn new(spacing: Duration) -> Self {
        WriteLane { spacing, last_end: Mutex::new(None) }
    }

    /// Waits for its turn, first come, first served.
    pub(crate) async fn turn(&self) -> WriteTurn<'_> {
        let last_end = self.last_end.lock().await;
        if let Some(last) = *last_end {
            tokio::time::sleep_until(last + self.spacing).await;
        }
        WriteTurn { last_end }
    }
}

impl Drop for WriteTurn<'_> {
    fn drop(&mut self) {
        *self.last_end = Some(Instant::now());
    }
}
