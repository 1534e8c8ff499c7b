//! The actor system put together: who is started with what, and how it all ends.

use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use steadfast_agent::prompts::Prompts;
use steadfast_agent::settings::AgentSettings;
use steadfast_agent::workspace::Workshop;
use steadfast_core::time::Clock;
use steadfast_github::GithubClient;
use steadfast_llm::LlmClient;
use steadfast_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::Settings;
use crate::accountant::{Depart, Fleetwide, RateAccountant};
use crate::address::{Address, Binding, address};
use crate::alerts::{Alarm, Alerts, Flush, Webhook};
use crate::calls::Caller;
use crate::dice::Dice;
use crate::github::{Github, SecretSink};
use crate::held::Held;
use crate::job_supervisor::{Drain, JobSupervisor};
use crate::llm::Llm;
use crate::meter::Meter;
use crate::persist::Persist;
use crate::poller::{QueuePoller, StopPolling};
use crate::reporter::Reporter;
use crate::run::RunDeps;
use crate::supervisor::{ChildSpec, Ending, Escalation, Lifeline, Supervisor};

/// What the actors work with. Everything that reaches the outside comes in here.
pub struct Deps {
    /// Sections of the configuration.
    pub settings: Settings,
    /// `[agent]`.
    pub agent: AgentSettings,
    /// The prompt templates.
    pub prompts: Prompts,
    /// Where the queue, the leases and the journals are.
    pub store: Arc<dyn Store>,
    /// The model's clients, one for each of `settings.llm_endpoints` in its order; or the one there is.
    pub llm: Vec<LlmClient>,
    /// GitHub's client.
    pub github: GithubClient,
    /// Where repositories are cloned from: `github.web_url`.
    pub git_url: Url,
    /// Where jobs have their workspaces.
    pub workspaces: Arc<dyn Workshop>,
    /// Where jitter comes from.
    pub dice: Dice,
    /// The wall time.
    pub clock: Arc<dyn Clock>,
    /// Hears of every token that is made.
    pub secrets: SecretSink,
    /// Who is told of what a person must know, if anybody.
    pub webhook: Option<Webhook>,
    /// This process's name among others, as alerts give it.
    pub process: String,
}

/// Longest wait for the ledger to hear that this process stops.
const DEPART: Duration = Duration::from_secs(2);

/// The running system. Dropping it stops nothing: [`Running::drain`] does.
pub struct Running {
    supervisor: Address<Supervisor>,
    poller: Address<QueuePoller>,
    jobs: Address<JobSupervisor>,
    alerts: Address<Alerts>,
    accountant: Address<RateAccountant>,
    /// Becomes a reason when the process must end because of its actors.
    pub escalation: watch::Receiver<Escalation>,
    /// One meter an actor, as the Reporter logs them.
    pub meters: Vec<Arc<Meter>>,
    polling: CancellationToken,
    draining: CancellationToken,
    drain_timeout: Duration,
    alert_timeout: Duration,
}

impl Running {
    /// No more claims; steps in flight end; jobs go back to the queue with their place kept.
    /// Bounded: steps in flight have `supervisor.drain_timeout`, the whole three times that; alerts
    /// that are under way then have `alerts.timeout` to arrive.
    pub async fn drain(&self) {
        // Stopped even where a dying actor cannot be told; who dies meanwhile is started again, since
        // runs wait for it, and its jobs are put back.
        self.polling.cancel();
        self.draining.cancel();
        let told = async {
            // At once: runs are not to begin new steps while the last claim is awaited.
            let (polling, runs) = tokio::join!(self.poller.send_if_alive(StopPolling), self.jobs.send(Drain));
            // Again, for that last claim.
            [polling, runs, self.jobs.send(Drain).await]
        };
        match tokio::time::timeout(3 * self.drain_timeout, told).await {
            Ok(told) => {
                for error in told.into_iter().filter_map(Result::err) {
                    tracing::warn!(%error, "drain: an actor was not there to be told");
                }
            }
            Err(_) => tracing::warn!("drain: not all came home; their leases will end"),
        }
        // The alert of what ends this process is worth a short wait.
        let arrived = tokio::time::timeout(self.alert_timeout, self.alerts.send_if_alive(Flush)).await;
        if !matches!(arrived, Ok(Ok(()))) {
            tracing::warn!("drain: an alert may not have been told");
        }
        // Nobody of ours sends any more: another process may keep the budgets.
        let departed = tokio::time::timeout(DEPART, self.accountant.send_if_alive(Depart)).await;
        if !matches!(departed, Ok(Ok(()))) {
            tracing::warn!("drain: budgets are not handed on; their leases will end");
        }
        if let Err(error) = self.supervisor.send_if_alive(Ending).await {
            tracing::warn!(%error, "drain: an actor was not there to be told");
        }
    }
}

/// An address, its meter and its binding.
struct Post<A: Actor> {
    address: Address<A>,
    binding: Arc<Binding<A>>,
}

fn post<A: Actor>(name: &'static str, capacity: usize, meters: &mut Vec<Arc<Meter>>) -> Post<A> {
    let meter = Meter::new(name);
    meters.push(Arc::clone(&meter));
    let (address, binding) = address(meter, capacity);
    Post { address, binding: Arc::new(binding) }
}

impl<A: Actor<Context = actix::Context<A>>> Post<A> {
    /// How to start this actor, now and after each death.
    fn child(&self, holds_jobs: bool, make: impl Fn(Lifeline) -> A + 'static) -> ChildSpec {
        let binding = Arc::clone(&self.binding);
        let start = move |lifeline: Lifeline| binding.bind(make(lifeline).start());
        ChildSpec { meter: Arc::clone(self.address.meter()), start: Box::new(start), holds_jobs }
    }
}

/// Starts all actors on the current arbiter.
pub fn start(deps: Deps) -> Running {
    let mut meters = Vec::new();
    let capacity = deps.settings.actors.mailbox;
    let supervisor: Post<Supervisor> = post("supervisor", capacity, &mut meters);
    let poller: Post<QueuePoller> = post("queue_poller", capacity, &mut meters);
    let jobs: Post<JobSupervisor> = post("job_supervisor", capacity, &mut meters);
    let llm: Post<Llm> = post("llm", capacity, &mut meters);
    let github: Post<Github> = post("github", capacity, &mut meters);
    let accountant: Post<RateAccountant> = post("rate_accountant", capacity, &mut meters);
    let alerts: Post<Alerts> = post("alerts", capacity, &mut meters);
    let reporter: Post<Reporter> = post("reporter", capacity, &mut meters);
    let job_meter = Meter::new("job");
    meters.push(Arc::clone(&job_meter));

    let settings = Arc::new(deps.settings);
    let (clock, store) = (deps.clock, deps.store);
    // Two of one name, in two containers say, are still two.
    let me = format!("{}#{:08x}", deps.process, deps.dice.number());
    let fleet = Fleetwide { ledger: store.ledger(), me };
    let alarm = Alarm(alerts.address.clone());
    let dice = deps.dice;
    let persist = Persist::new(store, settings.store_retry.clone(), Arc::clone(&clock), dice.clone());
    let (polling, draining) = (CancellationToken::new(), CancellationToken::new());
    let held = Held::new();
    let caller = {
        let (accountant, clock) = (accountant.address.clone(), Arc::clone(&clock));
        let (park_after, dice) = (settings.job.park_after, dice.clone());
        move || Caller {
            accountant: accountant.clone(),
            clock: Arc::clone(&clock),
            dice: dice.clone(),
            park_after,
        }
    };
    let run_deps = Arc::new(RunDeps {
        settings: Arc::clone(&settings),
        agent: Arc::new(deps.agent),
        prompts: Arc::new(deps.prompts),
        persist: persist.clone(),
        clock: Arc::clone(&clock),
        llm: llm.address.clone(),
        github: github.address.clone(),
        workspaces: deps.workspaces,
        git_url: deps.git_url,
        caller: caller(),
        alerts: alarm.clone(),
        job_meter,
    });

    let children = vec![
        // Before those who may have something to tell.
        alerts.child(false, {
            let (alert_settings, clock) = (settings.alerts.clone(), Arc::clone(&clock));
            let (webhook, process) = (deps.webhook.map(Arc::new), Arc::<str>::from(deps.process));
            let dice = dice.clone();
            move |lifeline| {
                let (webhook, process, clock) = (webhook.clone(), Arc::clone(&process), Arc::clone(&clock));
                Alerts::new(webhook, alert_settings.clone(), process, clock, lifeline).drawing(dice.clone())
            }
        }),
        accountant.child(false, {
            let alarm = alarm.clone();
            let (fleet, dice) = (fleet.clone(), dice.clone());
            let (settings, me) = (Arc::clone(&settings), accountant.address.clone());
            move |lifeline| {
                let accountant = RateAccountant::new(&settings, Arc::clone(&clock), me.clone(), lifeline);
                accountant.alerting(alarm.clone()).sharing(fleet.clone()).drawing(dice.clone())
            }
        }),
        llm.child(false, {
            let clients: Vec<_> = deps.llm.into_iter().map(Arc::new).collect();
            let (settings, caller) = (Arc::clone(&settings), caller.clone());
            move |lifeline| Llm::new(&clients, caller(), &settings, lifeline)
        }),
        github.child(false, {
            let (settings, client, secrets) = (Arc::clone(&settings), Arc::new(deps.github), deps.secrets);
            move |lifeline| {
                Github::new(Arc::clone(&client), caller(), &settings, Arc::clone(&secrets), lifeline)
            }
        }),
        jobs.child(true, {
            let (held, draining) = (held.clone(), draining.clone());
            let (supervisor, me) = (supervisor.address.clone(), jobs.address.clone());
            move |lifeline| {
                let deps = Arc::clone(&run_deps);
                JobSupervisor::new(
                    deps,
                    held.clone(),
                    supervisor.clone(),
                    me.clone(),
                    draining.clone(),
                    lifeline,
                )
            }
        }),
        poller.child(false, {
            let (settings, stop) = (Arc::clone(&settings), polling.clone());
            let (jobs, accountant) = (jobs.address.clone(), accountant.address.clone());
            move |lifeline| {
                QueuePoller::new(
                    persist.clone(),
                    jobs.clone(),
                    accountant.clone(),
                    &settings,
                    stop.clone(),
                    lifeline,
                )
            }
        }),
        reporter.child(false, {
            let (settings, meters) = (Arc::clone(&settings), meters.clone());
            move |lifeline| Reporter::new(meters.clone(), &settings, lifeline)
        }),
    ];

    let (escalate, escalation) = watch::channel(None);
    let root = Supervisor::new(
        settings.supervisor.clone(),
        children,
        supervisor.address.clone(),
        jobs.address.clone(),
        held,
        escalate,
    )
    .alerting(alarm)
    .drawing(dice);
    supervisor.binding.bind(root.start());
    Running {
        supervisor: supervisor.address,
        poller: poller.address,
        jobs: jobs.address,
        alerts: alerts.address,
        accountant: accountant.address,
        escalation,
        meters,
        polling,
        draining,
        drain_timeout: settings.supervisor.drain_timeout,
        alert_timeout: settings.alerts.timeout,
    }
}
