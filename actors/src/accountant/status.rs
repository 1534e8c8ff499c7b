//! Where a budget stands, as data: for the log, for metrics, for whoever shares it.

use std::time::Duration;

use serde::Serialize;
use steadfast_core::breaker::BreakerState;
use steadfast_core::budget::{Kind, Source, Tick};
use steadfast_core::failure::GateReason;

use super::account::{Account, Answer, Counts};
use super::millis;

/// A limit a minute, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// Units a minute.
    pub per_minute: f64,
    /// Where it comes from.
    pub source: Source,
}

/// A gate that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GateStatus {
    /// Why.
    pub reason: GateReason,
    /// For how long from now, in milliseconds.
    pub wait_ms: u64,
}

/// How a breaker stands, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stand {
    /// Calls go through.
    Closed,
    /// Nothing goes through.
    Open,
    /// One probe is out.
    HalfOpen,
}

impl Stand {
    fn of(state: BreakerState) -> Self {
        match state {
            BreakerState::Closed => Stand::Closed,
            BreakerState::Open { .. } => Stand::Open,
            BreakerState::HalfOpen { .. } => Stand::HalfOpen,
        }
    }

    /// As logs and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Stand::Closed => "closed",
            Stand::Open => "open",
            Stand::HalfOpen => "half_open",
        }
    }
}

/// The breaker of an operation that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OperationStatus {
    /// Of which operation.
    pub operation: &'static str,
    /// How it stands.
    pub breaker: Stand,
}

/// One budget at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetStatus {
    /// Whose, as [`super::BudgetKey::name`] says it.
    pub budget: String,
    /// Requests a minute, where a limit is known.
    pub limit: Option<Limit>,
    /// Tokens a minute, where a limit is known.
    pub token_limit: Option<Limit>,
    /// How the provider counts requests.
    pub kind: Kind,
    /// Where that comes from.
    pub kind_source: Source,
    /// Permits used since the accountant began.
    pub used: u64,
    /// Requests refused for their rate since then.
    pub rejected: u64,
    /// Requests that are out.
    pub in_flight: u32,
    /// Calls that wait for a permit.
    pub waiting: usize,
    /// How long the one of them waits that waits longest, in milliseconds.
    pub oldest_wait_ms: u64,
    /// The gate, if it is closed.
    pub gate: Option<GateStatus>,
    /// The breaker of the whole provider.
    pub breaker: Stand,
    /// Breakers of operations that are not closed.
    pub operations: Vec<OperationStatus>,
}

impl<W: Answer> Account<W> {
    /// Where it stands.
    pub fn status(&self, now: Tick, budget: String) -> BudgetStatus {
        let limit =
            |limit: Option<(f64, Source)>| limit.map(|(per_minute, source)| Limit { per_minute, source });
        let (kind, kind_source) = self.budget.request_kind();
        let (whole, each) = self.breakers.states();
        let gate = self
            .budget
            .gate(now)
            .map(|gate| GateStatus { reason: gate.reason, wait_ms: millis(gate.until.saturating_sub(now)) });
        let oldest = self.lines.values().filter_map(|line| line.oldest()).min();
        let operations = each
            .into_iter()
            .map(|(operation, state)| OperationStatus { operation, breaker: Stand::of(state) })
            .collect();
        BudgetStatus {
            budget,
            limit: limit(self.budget.request_limit()),
            token_limit: limit(self.budget.token_limit()),
            kind,
            kind_source,
            used: self.counts.used,
            rejected: self.counts.rejected,
            in_flight: self.budget.in_flight(),
            waiting: self.lines.values().map(|line| line.len()).sum(),
            oldest_wait_ms: millis(oldest.map_or(Duration::ZERO, |since| now.saturating_sub(since))),
            gate,
            breaker: Stand::of(whole),
            operations,
        }
    }

    /// Permits and refusals so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

impl BudgetStatus {
    /// Logs it, with what was used and refused since `before`; nothing where nothing happened.
    pub(super) fn log(&self, before: Counts) {
        let used = self.used.saturating_sub(before.used);
        let rejected = self.rejected.saturating_sub(before.rejected);
        if used == 0 && rejected == 0 && self.waiting == 0 && self.in_flight == 0 {
            return;
        }
        let source = self.limit.map_or(Source::Assumed, |limit| limit.source);
        let open: Vec<String> = self
            .operations
            .iter()
            .map(|operation| format!("{} {}", operation.operation, operation.breaker.name()))
            .collect();
        tracing::info!(
            budget = self.budget,
            limit = self.limit.map(|limit| limit.per_minute.round()),
            source = source_name(source),
            kind = kind_name(self.kind),
            used,
            waiting = self.waiting,
            oldest_wait_ms = self.oldest_wait_ms,
            rejected,
            gate = self.gate.map(|gate| tracing::field::display(gate.reason)),
            breaker = self.breaker.name(),
            operations = (!open.is_empty()).then(|| open.join(", ")),
            "budget"
        );
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Config => "config",
        Source::Headers => "headers",
        Source::Felt => "felt",
        Source::Assumed => "assumed",
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bucket => "bucket",
        Kind::Fixed => "fixed",
        Kind::Rolling => "rolling",
    }
}
