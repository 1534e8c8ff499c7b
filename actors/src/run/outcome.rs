//! How a run ends, for the store.

use std::time::Duration;

use steadfast_core::job::JobId;
use steadfast_core::time::Timestamp;
use steadfast_store::Settlement;

use crate::accountant::millis;

/// What becomes of the job.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It has its end.
    Ended(Settlement),
    /// It is put away until a known time.
    Parked {
        /// When it is due.
        until: Timestamp,
        /// What it waits for.
        why: String,
    },
    /// Another run may have more luck.
    Requeue {
        /// The backoff.
        after: Duration,
        /// What failed.
        error: String,
    },
    /// Given back with its place kept.
    Released,
    /// Somebody else has it.
    LeaseLost,
}

impl Outcome {
    /// Why the job was set aside, if it was.
    pub(crate) fn poison(&self) -> Option<&str> {
        match self {
            Outcome::Ended(settlement) => {
                let text = |name: &str| settlement.result.get(name).and_then(|value| value.as_str());
                (text("reason") == Some("poison")).then(|| text("error").unwrap_or_default())
            }
            Outcome::Parked { .. } | Outcome::Requeue { .. } | Outcome::Released | Outcome::LeaseLost => None,
        }
    }

    /// Tells the log, once the store has it.
    pub(crate) fn log(&self, job: &JobId) {
        match self {
            Outcome::Ended(settlement) => {
                let field = |name: &str| settlement.result.get(name).map(ToString::to_string);
                let text = |name: &str| settlement.result.get(name).and_then(|value| value.as_str());
                tracing::info!(
                    %job,
                    status = settlement.status.as_str(),
                    reason = text("reason"),
                    turns = field("iterations"),
                    tokens = field("tokens"),
                    pull_request = text("prUrl"),
                    error = text("error"),
                    "job ended"
                );
            }
            Outcome::Parked { until, why } => tracing::info!(%job, %until, why, "job parked"),
            Outcome::Requeue { after, error } => {
                tracing::warn!(%job, wait_ms = millis(*after), error, "job requeued");
            }
            Outcome::Released => tracing::info!(%job, "job released"),
            Outcome::LeaseLost => {}
        }
    }
}
