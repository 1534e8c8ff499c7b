//! QueuePoller: claims jobs, only as many as there is room for, and none whose first model call
//! could not be sent before it would be parked. What was called off is claimed in any case.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use steadfast_store::{Claim, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accountant::{BudgetKey, EndpointId, Outlook, RateAccountant, millis};
use crate::address::{Address, Metered};
use crate::job_supervisor::{JobSupervisor, Room, Start};
use crate::persist::Persist;
use crate::supervisor::Lifeline;
use crate::watch;

/// Longest wait for work before looking again; new work ends it sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two looks for jobs that only wait to be called off.
const LOOK_FOR_CALLS_OFF: Duration = Duration::from_secs(1);
/// Most of them at once: each sends a request or two to GitHub.
const CALLS_OFF: usize = 16;
/// Between two removals of jobs that ended long ago.
const PURGE_EVERY: Duration = Duration::from_secs(600);

/// No more claims; answered when the last claim has been handed over.
pub(crate) struct StopPolling;

impl Message for StopPolling {
    type Result = ();
}

/// See the module.
pub struct QueuePoller {
    polling: Arc<Polling>,
    done: watch::Receiver<bool>,
    done_sender: Option<watch::Sender<bool>>,
    _lifeline: Lifeline,
}

struct Polling {
    persist: Persist,
    jobs: Address<JobSupervisor>,
    accountant: Address<RateAccountant>,
    /// At least one.
    endpoints: Vec<EndpointId>,
    park_after: Duration,
    /// Outlives this actor: a restarted poller of a draining process claims nothing.
    stop: CancellationToken,
}

impl QueuePoller {
    pub(crate) fn new(
        persist: Persist,
        jobs: Address<JobSupervisor>,
        accountant: Address<RateAccountant>,
        settings: &crate::Settings,
        stop: CancellationToken,
        lifeline: Lifeline,
    ) -> Self {
        let (done_sender, done) = watch::channel(false);
        let (endpoints, park_after) =
            (EndpointId::all(&settings.llm_endpoints).collect(), settings.job.park_after);
        let polling = Polling { persist, jobs, accountant, endpoints, park_after, stop };
        QueuePoller { polling: Arc::new(polling), done, done_sender: Some(done_sender), _lifeline: lifeline }
    }
}

impl Polling {
    async fn poll(&self) {
        let mut purged = Instant::now();
        while !self.stop.is_cancelled() {
            self.round().await;
            if purged.elapsed() > PURGE_EVERY {
                purged = Instant::now();
                self.purge().await;
            }
        }
    }

    /// Sees to it that jobs are called off though there is neither room nor budget for work: that
    /// takes no model, and not long.
    async fn call_off(&self) {
        while !self.stop.is_cancelled() {
            self.pause(LOOK_FOR_CALLS_OFF).await;
            let asked = Instant::now();
            match self.persist.store().claim_called_off(CALLS_OFF).await {
                Ok(claims) if claims.is_empty() => {}
                Ok(claims) => self.hand_over(claims, asked).await,
                // Told by the claims for work.
                Err(error) => tracing::debug!(%error, "nobody says which jobs are called off"),
            }
        }
    }

    /// Waits for room and an open door, then claims and hands over, or waits for work.
    async fn round(&self) {
        let Some(room) = self.room().await else { return };
        let shut = tokio::select! {
            biased;
            shut = self.soonest() => shut,
            () = self.stop.cancelled() => return,
        };
        if shut > self.park_after {
            tracing::debug!(wait_ms = millis(shut), "no claims while the model's door is shut");
            return self.pause((shut - self.park_after).min(LOOK_AGAIN)).await;
        }
        let store = self.persist.store();
        let asked = Instant::now();
        let claimed = store.claim(room).await;
        self.persist.heard(&claimed);
        match claimed {
            Ok(claims) if claims.is_empty() => {
                let waited = tokio::select! {
                    biased;
                    waited = store.wait_for_change(LOOK_AGAIN) => waited,
                    () = self.stop.cancelled() => Ok(()),
                };
                self.persist.heard(&waited);
                if waited.is_err() {
                    self.pause(Duration::from_secs(1)).await;
                }
            }
            Ok(claims) => self.hand_over(claims, asked).await,
            Err(error) => {
                if !matches!(error, StoreError::Unavailable(_)) {
                    tracing::error!(%error, "cannot claim jobs");
                }
                self.pause(Duration::from_secs(1)).await;
            }
        }
    }

    /// How long every endpoint's door is shut.
    async fn soonest(&self) -> Duration {
        let mut soonest = Duration::MAX;
        for endpoint in &self.endpoints {
            let outlook = Outlook { key: BudgetKey::Llm(*endpoint), tokens: None };
            // Without an answer it is being started again, and knows of no shut door.
            soonest = soonest.min(self.accountant.send(outlook).await.unwrap_or_default());
        }
        soonest
    }

    /// How many jobs may be claimed; `None` while there is nobody to ask.
    async fn room(&self) -> Option<usize> {
        let room = tokio::select! {
            biased;
            room = self.jobs.send(Room) => room,
            () = self.stop.cancelled() => return None,
        };
        match room {
            Ok(0) => {
                // Draining, or about to be restarted.
                self.pause(Duration::from_millis(100)).await;
                None
            }
            Ok(room) => Some(room),
            Err(_) => None,
        }
    }

    async fn hand_over(&self, claims: Vec<Claim>, asked: Instant) {
        let leases: Vec<_> = claims.iter().map(|claim| claim.lease.clone()).collect();
        if let Err(error) = self.jobs.send(Start { claims, asked }).await {
            tracing::warn!(%error, "claims could not be handed over: giving them back");
            for lease in &leases {
                // One that was started after all goes on under a new token elsewhere; this one's
                // runner finds its lease lost.
                if let Err(error) = self.persist.store().release(lease).await {
                    tracing::warn!(job = %lease.job, %error, "left to the end of its lease");
                }
            }
        }
    }

    async fn purge(&self) {
        match self.persist.store().purge().await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(purged, "removed jobs that ended long ago"),
            Err(error) => tracing::warn!(%error, "cannot remove jobs that ended long ago"),
        }
    }

    async fn pause(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

impl Actor for QueuePoller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let polling = Arc::clone(&self.polling);
        let done = self.done_sender.take();
        // As the actor's own future: a panic in it is this actor's death.
        ctx.spawn(actix::fut::wrap_future(async move {
            futures_util::future::join(polling.poll(), polling.call_off()).await;
            if let Some(done) = done {
                done.send_replace(true);
            }
        }));
    }
}

impl Handler<Metered<StopPolling>> for QueuePoller {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, message: Metered<StopPolling>, _: &mut Self::Context) -> Self::Result {
        let (StopPolling, handling) = message.open();
        self.polling.stop.cancel();
        let mut done = self.done.clone();
        Box::pin(async move {
            // The other end is gone only with the polling itself.
            let _ended_either_way = done.wait_for(|done| *done).await.map(|_| ());
            drop(handling);
        })
    }
}
