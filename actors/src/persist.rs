//! Calls to the store that must get through: repeated while the store is away, and told in the log
//! once when it goes and once when it is back.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steadfast_core::failure::{Failure, FatalReason, Provider, Verdict};
use steadfast_core::retry::{GaveUp, RetryEnv, RetryPolicy, retry};
use steadfast_core::time::{Clock, Timestamp};
use steadfast_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;

/// The store, whether it answers, and how it is asked again when it does not.
#[derive(Clone)]
pub(crate) struct Persist {
    store: Arc<dyn Store>,
    away: Arc<AtomicBool>,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    dice: Dice,
}

impl Persist {
    pub(crate) fn new(store: Arc<dyn Store>, policy: RetryPolicy, clock: Arc<dyn Clock>, dice: Dice) -> Self {
        // How long is for the caller's `stop` to say.
        let policy = RetryPolicy { max_attempts: u32::MAX, ..policy };
        Persist { store, away: Arc::new(AtomicBool::new(false)), policy, clock, dice }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Notes whether the store answered, and tells the log of a change.
    pub(crate) fn heard<T>(&self, result: &Result<T, StoreError>) {
        let away = matches!(result, Err(StoreError::Unavailable(_)));
        if self.away.swap(away, Ordering::Relaxed) == away {
            return;
        }
        let store = self.store.name();
        match result {
            Err(error) => tracing::error!(store, %error, "store unavailable: runs go on, claims stop"),
            Ok(_) => tracing::info!(store, "store is back"),
        }
    }

    /// Repeats `call` until the store answers or `stop` is cancelled; then the last error.
    pub(crate) async fn through<T, F>(
        &self,
        operation: &'static str,
        stop: &CancellationToken,
        mut call: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let last: RefCell<Option<StoreError>> = RefCell::new(None);
        let env = StoreEnv { clock: &*self.clock, stop, dice: &self.dice };
        let result = retry(&self.policy, &env, |_| {
            let call = call();
            let last = &last;
            async move {
                let result = call.await;
                self.heard(&result);
                result.map_err(|error| {
                    let failure = as_failure(operation, &error, stop.is_cancelled());
                    last.replace(Some(error));
                    failure
                })
            }
        })
        .await;
        result.map_err(|gave_up: GaveUp| {
            last.take().unwrap_or_else(|| StoreError::Unavailable(gave_up.to_string()))
        })
    }
}

/// What a store's error means for the loop: only absence is waited out.
fn as_failure(operation: &'static str, error: &StoreError, stopped: bool) -> Failure {
    let verdict = match error {
        StoreError::Unavailable(_) if !stopped => Verdict::Retry { after: None },
        StoreError::Unavailable(_)
        | StoreError::LeaseLost { .. }
        | StoreError::Corrupt(_)
        | StoreError::Unusable(_)
        | StoreError::TooLarge { .. } => Verdict::Fatal { why: FatalReason::Unusable },
    };
    Failure {
        verdict,
        provider: Provider::Store,
        operation,
        status: None,
        message: error.to_string(),
        request_id: None,
        maybe_charged: false,
        unhealthy: false,
    }
}

struct StoreEnv<'a> {
    clock: &'a dyn Clock,
    stop: &'a CancellationToken,
    dice: &'a Dice,
}

impl RetryEnv for StoreEnv<'_> {
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

    // Each absence is told once, by `heard`.
    fn on_retry(&self, _: &Failure, _: u32, _: Duration) {}
}
