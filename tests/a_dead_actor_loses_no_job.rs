//! An actor panics while it holds jobs: it is started again after its backoff, the jobs are put back
//! by message with a crash counted, and all complete. A job that always kills its run is set aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Retried, RetryFrom,
    Settlement, State, Store, Whom,
};

use crate::support::in_process::{Hook, Village, field, paused};
use crate::support::job;

const HOUR: Duration = Duration::from_secs(3600);

/// A store that panics where a test wants it: in the very actor that calls it.
struct Treacherous {
    inner: Arc<dyn Store>,
    /// The next renewal panics: it runs in the JobSupervisor.
    renew: AtomicBool,
    /// So many claims panic: they run in the QueuePoller.
    claim: AtomicU32,
    /// Every append of this job panics: it runs in the Job actor.
    append_of: Option<&'static str>,
    /// No settling is ever answered, nor done.
    silent: bool,
}

#[async_trait]
impl Store for Treacherous {
    fn ledger(&self) -> Arc<dyn steadfast_store::Ledger> {
        self.inner.ledger()
    }
    async fn submit(&self, job: &Job) -> Result<Admission> {
        self.inner.submit(job).await
    }
    async fn wait(&self, longest: Duration) -> Result<()> {
        self.inner.wait(longest).await
    }
    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        let left = self.claim.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "on purpose, in a claim");
        self.inner.claim(most).await
    }
    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        self.inner.claim_called_off(most).await
    }
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        assert!(!self.renew.swap(false, Ordering::Relaxed), "on purpose, in a renewal");
        self.inner.renew(leases).await
    }
    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        assert!(self.append_of != Some(lease.job.as_str()), "on purpose, in an append");
        self.inner.append(lease, at, steps, patch).await
    }
    async fn replay(&self, job: &JobId) -> Result<Replay> {
        self.inner.replay(job).await
    }
    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        self.inner.park(lease, until, why).await
    }
    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        self.inner.requeue(lease, after, why).await
    }
    async fn release(&self, lease: &Lease) -> Result<()> {
        self.inner.release(lease).await
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        if self.silent {
            std::future::pending::<()>().await;
        }
        self.inner.settle(lease, settlement).await
    }
    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        self.inner.cancel(job).await
    }
    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        self.inner.called_off(leases).await
    }
    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        self.inner.retry(job, from).await
    }
    async fn pause(&self, whom: &Whom) -> Result<()> {
        self.inner.pause(whom).await
    }
    async fn resume(&self, whom: &Whom) -> Result<()> {
        self.inner.resume(whom).await
    }
    async fn paused(&self) -> Result<Vec<Whom>> {
        self.inner.paused().await
    }
    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        self.inner.inspect(job).await
    }
    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        self.inner.list(state, most).await
    }
    async fn count(&self) -> Result<[u64; 4]> {
        self.inner.count().await
    }
    async fn purge(&self) -> Result<u64> {
        self.inner.purge().await
    }
    async fn now(&self) -> Result<Timestamp> {
        self.inner.now().await
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}

/// A village whose store betrays it.
async fn village(renew: bool, claim: u32, append_of: Option<&'static str>) -> Village {
    watched_village(renew, claim, append_of, &Arc::default()).await
}

/// The same, with somebody who is told of alerts.
async fn watched_village(
    renew: bool,
    claim: u32,
    append_of: Option<&'static str>,
    hook: &Arc<Hook>,
) -> Village {
    Village::with(
        |_| {},
        "",
        move |inner| {
            let (renew, claim) = (AtomicBool::new(renew), AtomicU32::new(claim));
            Arc::new(Treacherous { inner, renew, claim, append_of, silent: false })
        },
        |world| world.transport(),
        Some(hook.webhook()),
    )
    .await
}

fn restarts(village: &Village, actor: &str) -> u32 {
    village.running.meters.iter().find(|meter| meter.name() == actor).unwrap().read().restarts
}

#[test]
fn the_job_supervisor_dies_with_runs_in_its_table() {
    paused(async {
        let village = village(true, 0, None).await;
        // A slow server, so that the first renewal finds all of them running.
        let chat = Target::Operation(Operation::Chat);
        village.world.fault(FaultRule::next(chat, 3, Fault::Hang));
        for (id, issue) in [("one", 1), ("two", 2), ("three", 3)] {
            village.store.submit(&job(id, issue)).await.unwrap();
        }
        for id in ["one", "two", "three"] {
            let ended = village.wait_for(id, State::Ended, HOUR).await;
            assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
            assert_eq!(ended.counts.crashes, 1, "{id}: the crash is counted");
        }
        assert_eq!(restarts(&village, "job_supervisor"), 1);
        let records = village.world.records();
        assert_eq!((records.pulls.len(), records.paid_twice()), (3, 0));
    });
}

#[test]
fn the_poller_dies_and_claims_again_after_its_backoff() {
    paused(async {
        let village = village(false, 3, None).await;
        village.store.submit(&job("one", 1)).await.unwrap();
        let ended = village.wait_for("one", State::Ended, HOUR).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        assert_eq!(restarts(&village, "queue_poller"), 3);
    });
}

#[test]
fn a_job_that_kills_every_run_is_set_aside_and_harms_no_other() {
    paused(async {
        let hook = Arc::default();
        let village = watched_village(false, 0, Some("poison"), &hook).await;
        for (id, issue) in [("poison", 1), ("good", 2), ("better", 3)] {
            village.store.submit(&job(id, issue)).await.unwrap();
        }
        for id in ["good", "better"] {
            let ended = village.wait_for(id, State::Ended, HOUR).await;
            assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        }
        let ended = village.wait_for("poison", State::Ended, HOUR).await;
        assert_eq!(field(&ended, "status"), "failed");
        assert_eq!(field(&ended, "endReason"), "poison");
        assert!(field(&ended, "result").contains("crashed"), "{ended:?}");
        assert_eq!(*village.running.escalation.borrow(), None, "one bad job does not end the process");
        assert_eq!(restarts(&village, "job_supervisor"), 0);
        village.running.drain().await;
        let told = hook.told();
        assert_eq!((told.len(), &told[0]["event"]), (1, &"poison".into()), "{told:#?}");
        assert!(told[0]["text"].as_str().unwrap().starts_with("job poison: set aside"), "{told:#?}");
    });
}

#[test]
fn an_actor_that_dies_again_and_again_ends_the_process_in_order() {
    paused(async {
        let hook = Arc::default();
        let village = watched_village(false, u32::MAX, None, &hook).await;
        village.store.submit(&job("one", 1)).await.unwrap();
        let mut escalation = village.running.escalation.clone();
        let told = tokio::time::timeout(HOUR, escalation.wait_for(Option::is_some)).await;
        let why = told.expect("the Supervisor gives up at last").unwrap().clone().unwrap();
        assert!(why.contains("queue_poller"), "{why}");
        // The poller is dead, and the drain is bounded all the same.
        tokio::time::timeout(HOUR, village.running.drain()).await.expect("the drain ends");
        let told = hook.told();
        assert_eq!((told.len(), &told[0]["event"]), (1, &"escalation".into()), "{told:#?}");
        assert_eq!(village.wait_for("one", State::Queued, HOUR).await.counts.runs, 0, "the job is as it was");
    });
}

#[test]
fn a_drain_waits_for_the_jobs_of_an_actor_that_dies_on_the_way() {
    paused(async {
        let village = village(true, 0, None).await;
        let chat = Target::Operation(Operation::Chat);
        village.world.fault(FaultRule::next(chat, 1, Fault::Hang));
        village.store.submit(&job("one", 1)).await.unwrap();
        village.wait_for("one", State::Running, HOUR).await;
        // The step in flight outlasts the next renewal, which kills the JobSupervisor.
        village.running.drain().await;
        let put_back = village.wait_for("one", State::Queued, Duration::ZERO).await;
        assert_eq!((put_back.counts.crashes, restarts(&village, "job_supervisor")), (1, 1));
    });
}

#[test]
fn a_store_that_hears_no_last_word_keeps_others_working_and_gathers_no_more_runs_than_it_may() {
    paused(async {
        let silent = |inner| -> Arc<dyn Store> {
            let (renew, claim) = (AtomicBool::new(false), AtomicU32::new(0));
            Arc::new(Treacherous { inner, renew, claim, append_of: None, silent: true })
        };
        let village = Village::new(|_| {}, "job.concurrency = 2", silent).await;
        for issue in 1..=9 {
            village.store.submit(&job(&format!("job-{issue}"), issue)).await.unwrap();
        }
        let mut most = 0;
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            most = most.max(village.store.count().await.unwrap()[State::Running as usize]);
        }
        assert_eq!(most, 4, "two whose work is over, and two in their place");
    });
}
