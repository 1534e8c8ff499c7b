//! Time and chance for the retry loops, from tokio's clock: a paused runtime pauses all of it.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::failure::Failure;
use steadfast_core::retry::RetryEnv;
use steadfast_core::time::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;

/// The environment of one retry loop. A sleep ends early when `stop` is cancelled; the call that
/// follows is expected to notice.
pub(crate) struct Env {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: CancellationToken,
    pub(crate) dice: Dice,
}

impl RetryEnv for Env {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn random(&self) -> f64 {
        self.dice.share()
    }

    async fn sleep(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn on_retry(&self, failure: &Failure, attempt: u32, wait: Duration) {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let (provider, operation) = (failure.provider, failure.operation);
        if failure.is_rate_limit() {
            tracing::info!(%provider, operation, attempt, wait_ms, status = failure.status, "rate limited");
        } else {
            tracing::warn!(%provider, operation, attempt, wait_ms, error = %failure, "call failed, trying again");
        }
    }
}
