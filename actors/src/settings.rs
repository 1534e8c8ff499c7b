//! The settings of the actor system: sections `[job]`, `[supervisor]`, `[actors]`, `[metrics]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_core::breaker::BreakerSettings;
use steadfast_core::budget::LimitSettings;
use steadfast_core::retry::RetryPolicy;
use steadfast_core::retry_budget::RetryBudgetSettings;

/// `[job]`: how many jobs run, how long they may wait, when they are given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSettings {
    /// Jobs that run at once in this process.
    pub concurrency: u32,
    /// Most jobs of one repository that run at once, in the whole fleet; 0 is no such limit. The store
    /// heeds it when it is asked for jobs.
    pub per_repo_concurrency: u32,
    /// A job whose next call must wait longer than this is parked and frees its slot.
    #[serde(with = "humantime_serde")]
    pub park_after: Duration,
    /// From admission to the end, waits included; then the job fails.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Runs without progress before the job fails; a new step begins the count anew.
    pub max_attempts: u32,
    /// Crashes of its runner before the job is set aside as poison.
    pub max_crashes: u32,
    /// Waits longer than this are told in the progress comment.
    #[serde(with = "humantime_serde")]
    pub report_wait_over: Duration,
    /// Layer 3: the backoff between runs.
    pub retry: RetryPolicy,
}

/// `[supervisor]`: how actors are restarted, and when the process gives up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorSettings {
    /// Restarts within `window` above which the process drains and exits with an error.
    pub max_restarts: u32,
    /// See `max_restarts`. The backoff of an actor that dies again and again must fit into it that
    /// often, or it never counts as too many.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How long a drain waits for steps in flight.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// The delays before restarts; `max_attempts` is not used.
    pub backoff: BackoffSettings,
}

/// The delays before restarts of an actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackoffSettings {
    /// Delay before the first restart.
    #[serde(with = "humantime_serde")]
    pub initial: Duration,
    /// Longest delay.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// Growth from restart to restart.
    pub multiplier: f64,
    /// Random part, as a share on both sides; 0 to 1.
    pub jitter: f64,
}

impl BackoffSettings {
    /// As a retry policy, for its arithmetic.
    pub fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: u32::MAX,
            initial: self.initial,
            max: self.max,
            multiplier: self.multiplier,
            jitter: self.jitter,
        }
    }
}

/// `[actors]`: the bounds of the mailboxes, in messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailboxSettings {
    /// Of every actor but the Job actors.
    pub mailbox: usize,
    /// Of each Job actor.
    pub job_mailbox: usize,
}

/// `[metrics]`: what is logged of meters and budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// Between two lines of each actor's meters, and of each budget that was used.
    #[serde(with = "humantime_serde")]
    pub log_interval: Duration,
}

/// `[alerts]`: who is told of what a person must know; the address itself is a secret and no part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertSettings {
    /// Least time between two alerts of one kind about one budget. Default 5m.
    #[serde(with = "humantime_serde")]
    pub min_interval: Duration,
    /// Longest time for one try to tell. Default 10s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// One of `[[llm.endpoints]]`, as far as its budget goes.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointBudget {
    /// Its name, unique in the list.
    pub name: String,
    /// What its provider allows.
    pub limits: LimitSettings,
}

/// All that the actors are handed of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[job]`.
    pub job: JobSettings,
    /// `[supervisor]`.
    pub supervisor: SupervisorSettings,
    /// `[actors]`.
    pub actors: MailboxSettings,
    /// `[metrics]`.
    pub metrics: MetricsSettings,
    /// `[breaker]`: of every provider.
    pub breaker: BreakerSettings,
    /// `[retry_budget]`: of every provider.
    pub retry_budget: RetryBudgetSettings,
    /// `llm.quota_recheck`: how long a gate that a person must open stays closed.
    pub credentials_recheck: Duration,
    /// `queue.lease`.
    pub lease: Duration,
    /// `[queue.retry]`: how a store that is away is asked again; its `max_attempts` is not used.
    pub store_retry: RetryPolicy,
    /// `[llm.retry]`: layer 1a.
    pub llm_retry: RetryPolicy,
    /// `[llm.limits]`: of the one endpoint, where `llm_endpoints` is empty.
    pub llm_limits: LimitSettings,
    /// `[[llm.endpoints]]`, the preferred one first; empty: there is one, without a name.
    pub llm_endpoints: Vec<EndpointBudget>,
    /// `[alerts]`.
    pub alerts: AlertSettings,
    /// `llm.spacing`: least time between two model calls.
    pub llm_spacing: Duration,
    /// `[github.token_retry]`: layer 1b.
    pub token_retry: RetryPolicy,
    /// `[github.retry]`: layer 2.
    pub github_retry: RetryPolicy,
    /// `[github.limits]`.
    pub github_limits: LimitSettings,
    /// `github.shown_after`: an effect that may stand is looked for only after it.
    pub github_shown_after: Duration,
}
