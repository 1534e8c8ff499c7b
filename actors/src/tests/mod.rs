//! Tests of the actors under paused time, and of what we rely on in actix.

mod accountant;
mod actix_as_it_is;
mod alerts;
mod calls;
mod endpoints;
mod keepers;
mod supervisor;

use std::future::Future;
use std::time::Duration;

use steadfast_core::breaker::BreakerSettings;
use steadfast_core::budget::{LimitSettings, WindowKind};
use steadfast_core::retry::RetryPolicy;
use steadfast_core::retry_budget::RetryBudgetSettings;
use steadfast_core::time::{Clock, Timestamp};
use tokio::time::Instant;

use crate::Settings;
use crate::settings::{
    AlertSettings, BackoffSettings, JobSettings, MailboxSettings, MetricsSettings, SupervisorSettings,
};

/// Runs `test` on an actix system whose clock is paused: it moves by itself when nothing runs.
pub(crate) fn paused<F: Future<Output = ()> + 'static>(test: F) {
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    });
    system.block_on(test);
}

/// Wall time that follows the paused clock.
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn new() -> Self {
        PausedClock(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_760_000_000) + self.0.elapsed()
    }
}

/// The defaults of config.toml, as far as the actors know them.
pub(crate) fn settings() -> Settings {
    let secs = Duration::from_secs;
    let policy = |max_attempts, max| RetryPolicy {
        max_attempts,
        initial: secs(1),
        max: secs(max),
        multiplier: 2.0,
        jitter: 0.2,
    };
    let limits = LimitSettings {
        requests_per_minute: 0,
        tokens_per_minute: 0,
        concurrency: 0,
        window: WindowKind::Auto,
        burst: 0,
    };
    Settings {
        job: JobSettings {
            concurrency: 4,
            per_repo_concurrency: 0,
            park_after: secs(60),
            deadline: secs(24 * 3600),
            max_attempts: 5,
            max_crashes: 3,
            report_wait_over: secs(60),
            retry: policy(5, 16),
        },
        supervisor: SupervisorSettings {
            max_restarts: 3,
            window: secs(60),
            drain_timeout: secs(30),
            backoff: BackoffSettings {
                initial: Duration::from_millis(100),
                max: secs(30),
                multiplier: 2.0,
                jitter: 0.2,
            },
        },
        actors: MailboxSettings { mailbox: 1000, job_mailbox: 16 },
        metrics: MetricsSettings { log_interval: secs(30) },
        breaker: BreakerSettings {
            window: secs(60),
            min_calls: 5,
            failure_rate: 0.5,
            slow_after: secs(120),
            slow_rate: 0.8,
            open: secs(30),
            open_max: secs(600),
        },
        retry_budget: RetryBudgetSettings { share: 0.2, window: secs(60), floor: 10 },
        credentials_recheck: secs(900),
        lease: secs(30),
        store_retry: policy(1, 5),
        llm_retry: policy(5, 60),
        llm_limits: limits.clone(),
        llm_endpoints: Vec::new(),
        alerts: AlertSettings { min_interval: secs(300), timeout: secs(10) },
        llm_spacing: Duration::from_millis(100),
        token_retry: policy(5, 30),
        github_retry: policy(3, 30),
        github_limits: limits,
        github_shown_after: secs(5),
    }
}
