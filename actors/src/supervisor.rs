//! Supervisor: the life of the other actors.
//!
//! actix's own supervisor does not survive a panic, so this one keeps the means to start each
//! child anew. A child holds a [`Lifeline`]; when the child is gone, by panic or otherwise, the
//! lifeline is dropped with it and tells the Supervisor, which starts another after a backoff and
//! binds the children's addresses to it. Jobs that the dead actor held are re-queued by message.
//! Too many restarts within a window escalate: the process drains and exits with an error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use steadfast_core::retry::RetryPolicy;
use steadfast_store::Lease;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::address::{Address, Metered};
use crate::alerts::{Alarm, Alert};
use crate::dice::Dice;
use crate::held::Held;
use crate::job_supervisor::{JobSupervisor, Requeue};
use crate::meter::Meter;
use crate::settings::SupervisorSettings;

/// Held by a child: tells the Supervisor when the child is gone.
pub(crate) struct Lifeline {
    child: usize,
    supervisor: Address<Supervisor>,
}

impl Lifeline {
    pub(crate) fn new(child: usize, supervisor: Address<Supervisor>) -> Self {
        Lifeline { child, supervisor }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // One for each incarnation of a child.
        self.supervisor.tell_from_drop(ChildGone { child: self.child });
    }
}

/// A child is gone.
struct ChildGone {
    child: usize,
}

impl Message for ChildGone {
    type Result = ();
}

/// A Job actor died with its run: its job is to be put back, its crash counted.
pub(crate) struct RunDied {
    pub(crate) lease: Lease,
}

impl Message for RunDied {
    type Result = ();
}

/// From here on the deaths of children are expected: the process is ending.
pub(crate) struct Ending;

impl Message for Ending {
    type Result = ();
}

/// How to start a child, again and again.
pub(crate) struct ChildSpec {
    pub(crate) meter: Arc<Meter>,
    /// Starts an incarnation and binds its address.
    pub(crate) start: Box<dyn Fn(Lifeline)>,
    /// Whether it holds jobs that must be put back when it dies.
    pub(crate) holds_jobs: bool,
}

struct Child {
    spec: ChildSpec,
    deaths: VecDeque<Instant>,
}

/// Whether the process must end because of its actors, and why.
pub type Escalation = Option<String>;

/// See the module.
pub struct Supervisor {
    children: Vec<Child>,
    restarts: VecDeque<Instant>,
    settings: SupervisorSettings,
    backoff: RetryPolicy,
    me: Address<Supervisor>,
    jobs: Address<JobSupervisor>,
    held: Held,
    escalation: watch::Sender<Escalation>,
    alerts: Option<Alarm>,
    dice: Dice,
    ending: bool,
}

impl Supervisor {
    pub(crate) fn new(
        settings: SupervisorSettings,
        children: Vec<ChildSpec>,
        me: Address<Supervisor>,
        jobs: Address<JobSupervisor>,
        held: Held,
        escalation: watch::Sender<Escalation>,
    ) -> Self {
        let children = children.into_iter().map(|spec| Child { spec, deaths: VecDeque::new() }).collect();
        let backoff = settings.backoff.policy();
        Supervisor {
            children,
            restarts: VecDeque::new(),
            settings,
            backoff,
            me,
            jobs,
            held,
            escalation,
            alerts: None,
            dice: Dice::from_os(),
            ending: false,
        }
    }

    /// Tells of what a person must know.
    pub(crate) fn alerting(self, alarm: Alarm) -> Self {
        Supervisor { alerts: Some(alarm), ..self }
    }

    /// With chance from `dice`.
    pub(crate) fn drawing(self, dice: Dice) -> Self {
        Supervisor { dice, ..self }
    }

    fn start_child(&self, child: usize) {
        let lifeline = Lifeline::new(child, self.me.clone());
        if let Some(child) = self.children.get(child) {
            (child.spec.start)(lifeline);
        }
    }

    /// Puts jobs back through the JobSupervisor, waiting for it if it is itself away.
    fn requeue(&self, ctx: &mut Context<Self>, leases: Vec<Lease>, error: String) {
        if leases.is_empty() {
            return;
        }
        let jobs = self.jobs.clone();
        let requeue = async move {
            // The store takes an expired lease back by itself: a lost message costs time, no job.
            if let Err(failed) = jobs.send(Requeue { leases, error }).await {
                tracing::warn!(error = %failed, "jobs are left to the end of their leases");
            }
        };
        ctx.spawn(actix::fut::wrap_future(requeue));
    }

    /// Counts a restart; true when there were too many.
    fn too_many(&mut self, now: Instant) -> bool {
        let window = self.settings.window;
        self.restarts.push_back(now);
        forget_before(&mut self.restarts, now, window);
        self.restarts.len() > self.settings.max_restarts as usize
    }
}

fn forget_before(times: &mut VecDeque<Instant>, now: Instant, window: Duration) {
    while times.front().is_some_and(|at| now.duration_since(*at) > window) {
        times.pop_front();
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        for child in 0..self.children.len() {
            self.start_child(child);
        }
    }
}

impl Handler<Metered<ChildGone>> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: Metered<ChildGone>, ctx: &mut Self::Context) {
        let (ChildGone { child: index }, _handling) = message.open();
        if self.ending {
            return;
        }
        let now = Instant::now();
        let too_many = self.too_many(now);
        let window = self.settings.window;
        let Some(child) = self.children.get_mut(index) else { return };
        child.deaths.push_back(now);
        forget_before(&mut child.deaths, now, window);
        let deaths = u32::try_from(child.deaths.len()).unwrap_or(u32::MAX);
        let name = child.spec.meter.name();
        if too_many {
            let why = format!(
                "more than {} restarts within {window:?}, the last of {name}",
                self.settings.max_restarts
            );
            tracing::error!(actor = name, "{why}: draining and ending with an error");
            if let Some(alarm) = &self.alerts {
                alarm.raise(Alert::escalation(&why));
            }
            self.escalation.send_replace(Some(why));
        }
        let wait = self.backoff.delay(deaths, self.dice.share());
        let wait_ms = crate::accountant::millis(wait);
        tracing::error!(actor = name, deaths, wait_ms, "actor died, starting it again");
        child.spec.meter.restarted();
        let orphans = if child.spec.holds_jobs { self.held.take_all() } else { Vec::new() };
        ctx.run_later(wait, move |supervisor, _| {
            if !supervisor.ending {
                supervisor.start_child(index);
            }
        });
        self.requeue(ctx, orphans, format!("the actor {name} died"));
    }
}

impl Handler<Metered<RunDied>> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: Metered<RunDied>, ctx: &mut Self::Context) {
        let (RunDied { lease }, _handling) = message.open();
        // A run that its supervisor no longer knows was put back with that supervisor's others.
        if self.held.take(&lease) {
            tracing::error!(job = %lease.job, "the run died: putting the job back, its crash counted");
            self.requeue(ctx, vec![lease], "the run died".into());
        }
    }
}

impl Handler<Metered<Ending>> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: Metered<Ending>, _: &mut Self::Context) {
        let (Ending, _handling) = message.open();
        self.ending = true;
    }
}
