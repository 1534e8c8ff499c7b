//! JobSupervisor: the table of runs. Starts a Job actor for each claim, keeps the leases alive,
//! tells runs to stop, and settles them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseActFuture, ResponseFuture};
use steadfast_core::job::JobId;
use steadfast_store::{Claim, Lease, Renewal, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accountant::millis;
use crate::address::{Address, Metered};
use crate::alerts::Alert;
use crate::held::Held;
use crate::job::{Halt, Job};
use crate::run::{Outcome, RunDeps};
use crate::stop::{Reason, Stop, leased};
use crate::supervisor::{Lifeline, Supervisor};
use crate::watch;

/// Share of a lease after which it is no longer taken for ours, counted from when its last renewal
/// was asked for: the rest is the margin for clocks and for what is on its way.
const SURE: f64 = 0.9;
/// Looks at the leases in each lease: a renewal is due after three or four looks, and after a failed
/// one at each.
const LOOKS: u32 = 10;

/// Between two looks for jobs that somebody called off.
const LOOK_FOR_CALLS_OFF: Duration = Duration::from_secs(1);

/// Asks how many more jobs may run; answered when it is at least one, or with 0 when draining.
pub(crate) struct Room;

impl Message for Room {
    type Result = usize;
}

/// Runs claimed jobs.
pub(crate) struct Start {
    pub(crate) claims: Vec<Claim>,
    /// When the claim was asked for: their leases began then, at the earliest.
    pub(crate) asked: Instant,
}

impl Message for Start {
    type Result = ();
}

/// A run is over.
pub(crate) struct RunEnded {
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome,
}

impl Message for RunEnded {
    type Result = ();
}

/// From the Supervisor: jobs that a dead actor held are to be put back, a crash counted for each.
pub(crate) struct Requeue {
    pub(crate) leases: Vec<Lease>,
    pub(crate) error: String,
}

impl Message for Requeue {
    type Result = ();
}

/// Ends all runs after their steps in flight; answered when none is left.
pub(crate) struct Drain;

impl Message for Drain {
    type Result = ();
}

/// How many runs there are to see to, and of how many the work is over: what is left of those is to tell
/// the store, which takes their last word and the claim for their place in one round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Running {
    all: usize,
    leaving: usize,
}

impl Running {
    /// How many more may work, of `most`. If the store takes no last words, no more than as many again
    /// gather.
    fn room(self, most: usize) -> usize {
        most.saturating_sub(self.all.saturating_sub(self.leaving.min(most)))
    }
}

/// See the module.
pub struct JobSupervisor {
    deps: Arc<RunDeps>,
    held: Held,
    jobs: BTreeMap<JobId, Address<Job>>,
    supervisor: Address<Supervisor>,
    me: Address<JobSupervisor>,
    running: watch::Sender<Running>,
    /// Outlives this actor: one restarted in a draining process starts nothing.
    draining: CancellationToken,
    /// A renewal is on its way, or was asked for then and succeeded.
    renewing: bool,
    renewed: Instant,
    doubtful: bool,
    /// The store is being asked for jobs that somebody called off.
    asking: bool,
    /// Jobs of a dead actor that are on their way back into the queue.
    returning: usize,
    _lifeline: Lifeline,
}

impl JobSupervisor {
    pub(crate) fn new(
        deps: Arc<RunDeps>,
        held: Held,
        supervisor: Address<Supervisor>,
        me: Address<JobSupervisor>,
        draining: CancellationToken,
        lifeline: Lifeline,
    ) -> Self {
        JobSupervisor {
            deps,
            held,
            jobs: BTreeMap::new(),
            supervisor,
            me,
            running: watch::channel(Running::default()).0,
            draining,
            renewing: false,
            renewed: Instant::now(),
            doubtful: false,
            asking: false,
            returning: 0,
            _lifeline: lifeline,
        }
    }

    fn start(&mut self, claim: Claim) {
        let stop = Stop::new(self.held.leased());
        self.held.insert(&claim.lease, stop.clone());
        let job = claim.lease.job.clone();
        let counts = claim.counts;
        tracing::info!(
            %job,
            repository = claim.job.repository(),
            issue = claim.job.task_params.issue_number,
            run = counts.runs,
            steps = counts.steps,
            crashes = counts.crashes,
            "job claimed"
        );
        if self.draining.is_cancelled() {
            stop.softly();
        }
        let address =
            Job::start_run(Arc::clone(&self.deps), claim, stop, self.me.clone(), self.supervisor.clone());
        self.jobs.insert(job, address);
        self.count();
    }

    /// Publishes how many there are to see to: a drain waits for those that are put back, too.
    fn count(&self) {
        let running = Running { all: self.held.len() + self.returning, leaving: self.held.leaving() };
        self.running.send_replace(running);
    }

    /// The run's place in the table is free.
    fn forget(&mut self, lease: &Lease) {
        if self.held.take(lease) {
            self.jobs.remove(&lease.job);
        }
        self.count();
    }

    /// Tells a run to stop, by message; directly if its mailbox will not take one.
    fn halt(&self, lease: &Lease, halt: Halt) {
        let told = self.jobs.get(&lease.job).map(|address| address.try_send(halt));
        if !matches!(told, Some(Ok(())))
            && let Some(stop) = self.held.stop_of(lease)
        {
            halt.apply(&stop);
        }
    }

    /// The leases began then, or later.
    fn began(&mut self, asked: Instant) {
        self.renewed = asked;
        self.held.leased_until(asked + self.deps.settings.lease.mul_f64(SURE));
    }

    /// The leases were ours at that time.
    fn sure_from(&mut self, asked: Instant) {
        self.began(asked);
        if std::mem::take(&mut self.doubtful) {
            tracing::info!("leases are ours again: runs go on");
        }
    }

    /// Renews all leases in one call when it is time to; tells of silence once.
    fn look_at_leases(&mut self, ctx: &mut Context<Self>) {
        let leases = self.held.leases();
        if leases.is_empty() {
            return self.sure_from(Instant::now());
        }
        let lease = self.deps.settings.lease;
        let silent = self.renewed.elapsed();
        if silent > lease.mul_f64(SURE) && !self.doubtful {
            self.doubtful = true;
            tracing::warn!(
                silent_ms = millis(silent),
                "leases may have ended: runs send nothing until they are renewed"
            );
        }
        if self.renewing || silent < lease / 3 {
            return;
        }
        self.renewing = true;
        let persist = self.deps.persist.clone();
        let asked = Instant::now();
        let renewal = async move {
            let answers = persist.store().renew(&leases).await;
            persist.heard(&answers);
            (leases, answers)
        };
        let heard = actix::fut::ActorFutureExt::map(
            actix::fut::wrap_future::<_, Self>(renewal),
            move |(leases, answers), supervisor, _| supervisor.heard_renewal(asked, &leases, answers),
        );
        ctx.spawn(heard);
    }

    /// Stops the runs of jobs that somebody called off. One that does not hear of it here does at
    /// the next renewal.
    fn look_for_calls_off(&mut self, ctx: &mut Context<Self>) {
        let leases = self.held.leases();
        if leases.is_empty() || std::mem::replace(&mut self.asking, true) {
            return;
        }
        let persist = self.deps.persist.clone();
        let ask = async move {
            let called_off = persist.store().called_off(&leases).await;
            persist.heard(&called_off);
            called_off
        };
        let heard = actix::fut::ActorFutureExt::map(
            actix::fut::wrap_future::<_, Self>(ask),
            |called_off, supervisor, _| {
                supervisor.asking = false;
                match called_off {
                    Ok(leases) => {
                        leases.iter().for_each(|lease| supervisor.halt(lease, Halt::Now(Reason::Cancelled)))
                    }
                    Err(error) => tracing::debug!(%error, "nobody says which jobs are called off"),
                }
            },
        );
        ctx.spawn(heard);
    }

    fn heard_renewal(&mut self, asked: Instant, leases: &[Lease], answers: Result<Vec<Renewal>, StoreError>) {
        self.renewing = false;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%error, "leases could not be renewed");
                return;
            }
        };
        // The lost ones are stopped before the others are set going again.
        for (lease, answer) in leases.iter().zip(answers) {
            match answer {
                Renewal::Held => {}
                Renewal::CancelRequested => self.halt(lease, Halt::Now(Reason::Cancelled)),
                Renewal::Lost => {
                    tracing::warn!(job = %lease.job, "lease lost: stopping the run");
                    if let Some(stop) = self.held.stop_of(lease) {
                        stop.now(Reason::LeaseLost);
                    }
                }
            }
        }
        self.sure_from(asked);
    }
}

impl Actor for JobSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Not first after an interval: nothing is claimed before.
        self.look_at_leases(ctx);
        ctx.run_interval(self.deps.settings.lease / LOOKS, JobSupervisor::look_at_leases);
        ctx.run_interval(LOOK_FOR_CALLS_OFF, JobSupervisor::look_for_calls_off);
    }
}

impl Handler<Metered<Room>> for JobSupervisor {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, message: Metered<Room>, _: &mut Self::Context) -> Self::Result {
        let (Room, handling) = message.open();
        drop(handling);
        let most = self.deps.settings.job.concurrency as usize;
        let (mut running, draining) = (self.running.subscribe(), self.draining.clone());
        let surely_ours = self.held.leased();
        Box::pin(async move {
            // While it is not sure that our leases are ours, a claim would take them from ourselves.
            let room = async {
                leased(&surely_ours).await;
                running
                    .wait_for(|running| running.room(most) > 0)
                    .await
                    .map_or(0, |running| running.room(most))
            };
            tokio::select! {
                biased;
                () = draining.cancelled() => 0,
                room = room => room,
            }
        })
    }
}

impl Handler<Metered<Start>> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, message: Metered<Start>, _: &mut Self::Context) {
        let (Start { claims, asked }, _handling) = message.open();
        match self.held.len() {
            0 => self.sure_from(asked),
            // An answer may have been on its way for long: the oldest counts.
            _ => self.began(asked.min(self.renewed)),
        }
        for claim in claims {
            self.start(claim);
        }
    }
}

impl Handler<Metered<RunEnded>> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, message: Metered<RunEnded>, ctx: &mut Self::Context) {
        let (RunEnded { lease, outcome }, handling) = message.open();
        let deps = Arc::clone(&self.deps);
        self.held.leaves(&lease);
        self.count();
        let settle = async move {
            settle(&deps, &lease, outcome).await;
            drop(handling);
            lease
        };
        let settled = actix::fut::ActorFutureExt::map(
            actix::fut::wrap_future::<_, Self>(settle),
            |lease, supervisor, _| supervisor.forget(&lease),
        );
        ctx.spawn(settled);
    }
}

/// Moves the job on in the store, however long the store is away; the lease is renewed meanwhile,
/// and when it is lost, whoever has the job settles it.
async fn settle(deps: &RunDeps, lease: &Lease, outcome: Outcome) {
    let store = deps.persist.store();
    let for_ever = CancellationToken::new();
    let settled = deps.persist.through("settle", &for_ever, || async {
        match &outcome {
            Outcome::Ended(settlement) => store.settle(lease, settlement).await,
            Outcome::Parked { until, why } => store.park(lease, *until, why).await,
            Outcome::Requeue { after, error } => {
                let why = steadfast_store::Requeue::Failed { error: error.clone() };
                store.requeue(lease, *after, &why).await
            }
            Outcome::Released => store.release(lease).await,
            Outcome::LeaseLost => Ok(()),
        }
    });
    let settled = settled.await;
    let job = &lease.job;
    match settled {
        Ok(()) => {
            outcome.log(job);
            if let Some(why) = outcome.poison() {
                tracing::error!(%job, "job set aside as poison: a person must look at it");
                deps.alerts.raise(Alert::poison(job, why));
            }
        }
        Err(StoreError::LeaseLost { .. }) => {
            tracing::warn!(%job, "another runner has the job: nothing to settle")
        }
        Err(error) => tracing::error!(%job, %error, "cannot settle the job: left to the end of its lease"),
    }
}

impl Handler<Metered<Requeue>> for JobSupervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, message: Metered<Requeue>, _: &mut Self::Context) -> Self::Result {
        let (Requeue { leases, error }, handling) = message.open();
        for lease in &leases {
            self.jobs.remove(&lease.job);
        }
        let returning = leases.len();
        self.returning += returning;
        self.count();
        let deps = Arc::clone(&self.deps);
        let put_back = async move {
            for lease in leases {
                put_back(&deps, &lease, &error).await;
            }
            drop(handling);
        };
        let done = actix::fut::ActorFutureExt::map(
            actix::fut::wrap_future::<_, Self>(put_back),
            move |(), supervisor, _| {
                supervisor.returning -= returning;
                supervisor.count();
            },
        );
        Box::pin(done)
    }
}

/// Puts a dead actor's job back, however long the store is away.
async fn put_back(deps: &RunDeps, lease: &Lease, error: &str) {
    let for_ever = CancellationToken::new();
    let why = steadfast_store::Requeue::Crashed { error: error.to_owned() };
    let store = deps.persist.store();
    let requeued = deps.persist.through("requeue", &for_ever, || store.requeue(lease, Duration::ZERO, &why));
    match requeued.await {
        Ok(()) => tracing::info!(job = %lease.job, reason = error, "job requeued"),
        Err(failed) => tracing::warn!(job = %lease.job, error = %failed, "left to the end of its lease"),
    }
}

impl Handler<Metered<Drain>> for JobSupervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, message: Metered<Drain>, _: &mut Self::Context) -> Self::Result {
        let (Drain, handling) = message.open();
        self.draining.cancel();
        for lease in self.held.leases() {
            self.halt(&lease, Halt::Softly);
        }
        let mut running = self.running.subscribe();
        let (held, patience) = (self.held.clone(), self.deps.settings.supervisor.drain_timeout);
        Box::pin(async move {
            let all_over = running.wait_for(|running| running.all == 0);
            if tokio::time::timeout(patience, all_over).await.is_err() {
                tracing::warn!(runs = held.len(), "steps in flight took too long: dropping them");
                held.stops().iter().for_each(|stop| stop.now(Reason::Drain));
                // What is left is a settle that the store does not take: its lease will end.
                let _bounded =
                    tokio::time::timeout(patience, running.wait_for(|running| running.all == 0)).await;
            }
            drop(handling);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Running;

    #[test]
    fn there_is_room_for_work_and_for_as_many_last_words() {
        let room = |all, leaving| Running { all, leaving }.room(3);
        assert_eq!((room(0, 0), room(2, 0), room(3, 0)), (3, 1, 0));
        // The work of some is over.
        assert_eq!((room(3, 1), room(3, 3), room(5, 2)), (1, 3, 0));
        // Nobody hears the last words of these.
        assert_eq!((room(6, 4), room(6, 6), room(7, 7)), (0, 0, 0));
    }
}
