//! Job: one run of one job, from claim to settle. Dies alone if it panics.

use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, Message};
use steadfast_store::{Claim, Lease};
use tracing::Instrument;

use crate::address::{Address, Metered, address};
use crate::job_supervisor::{JobSupervisor, RunEnded};
use crate::run::{Run, RunDeps};
use crate::stop::{Reason, Stop};
use crate::supervisor::{RunDied, Supervisor};

/// Tells a run to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// After the step in flight; the job goes back with its place kept.
    Softly,
    /// At once.
    Now(Reason),
}

impl Halt {
    pub(crate) fn apply(self, stop: &Stop) {
        match self {
            Halt::Softly => stop.softly(),
            Halt::Now(reason) => stop.now(reason),
        }
    }
}

impl Message for Halt {
    type Result = ();
}

/// See the module.
pub struct Job {
    run: Option<Run>,
    stop: Stop,
    exit: Exit,
}

/// Says how the run ended: dropped without a word, it died.
struct Exit {
    lease: Lease,
    jobs: Address<JobSupervisor>,
    supervisor: Address<Supervisor>,
    told: bool,
}

impl Drop for Exit {
    fn drop(&mut self) {
        if !self.told {
            // One for each run.
            self.supervisor.tell_from_drop(RunDied { lease: self.lease.clone() });
        }
    }
}

impl Job {
    /// Starts the actor for a claim.
    pub(crate) fn start_run(
        deps: Arc<RunDeps>,
        claim: Claim,
        stop: Stop,
        jobs: Address<JobSupervisor>,
        supervisor: Address<Supervisor>,
    ) -> Address<Job> {
        let exit = Exit { lease: claim.lease.clone(), jobs, supervisor, told: false };
        let (reached_at, binding) = address(Arc::clone(&deps.job_meter), deps.settings.actors.job_mailbox);
        let run = Run::new(deps, claim, stop.clone());
        binding.bind(Job { run: Some(run), stop, exit }.start());
        reached_at
    }
}

impl Actor for Job {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(run) = self.run.take() else { return };
        let span = tracing::info_span!("run", job = %self.exit.lease.job);
        let driven = wrap_future::<_, Self>(run.drive().instrument(span)).map(|outcome, job, ctx| {
            job.exit.told = true;
            let (jobs, lease) = (job.exit.jobs.clone(), job.exit.lease.clone());
            // Outlives this actor, which has nothing more to do. Should the JobSupervisor die with
            // the message, its successor is told to put the job back.
            actix::spawn(async move {
                if let Err(error) = jobs.send(RunEnded { lease, outcome }).await {
                    tracing::warn!(%error, "the end of a run was not heard: the job is put back");
                }
            });
            actix::ActorContext::stop(ctx);
        });
        ctx.spawn(driven);
    }
}

impl Handler<Metered<Halt>> for Job {
    type Result = ();

    fn handle(&mut self, message: Metered<Halt>, _: &mut Self::Context) {
        let (halt, _handling) = message.open();
        halt.apply(&self.stop);
    }
}
