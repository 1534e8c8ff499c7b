//! The model's callers alone, Llm and RateAccountant wired as in the whole system, for programs that
//! bring their own runs, such as a benchmark. Nobody restarts them.

use std::time::Duration;

use actix::Actor;
use steadfast_core::chat::{ModelAnswer, ModelRequest};
use steadfast_core::job::JobId;
use steadfast_core::time::Timestamp;
use steadfast_llm::LlmClient;
use tokio::time::Instant;

use crate::Settings;
use crate::accountant::{BudgetKey, EndpointId, Outlook};
use crate::address::{Address, Binding, address};
use crate::alone::{Alone, Process};
use crate::calls::{CallError, Order};
use crate::llm::{Complete, Llm};
use crate::meter::Meter;

/// A process's Llm and RateAccountant.
pub struct Callers {
    llm: Address<Llm>,
    alone: Alone,
    _binding: Binding<Llm>,
}

impl Callers {
    /// Starts both on the current arbiter. Nothing is sent before [`Callers::leased_until`].
    pub fn start(settings: &Settings, client: LlmClient, process: Process) -> Self {
        let (llm, binding) = address::<Llm>(Meter::new("llm"), settings.actors.mailbox);
        let (alone, caller) = Alone::start(settings, process);
        binding.bind(Llm::new(&[std::sync::Arc::new(client)], caller, settings, alone.lifeline()).start());
        Callers { llm, alone, _binding: binding }
    }

    /// Asks the model for a job that was admitted then, with a permit, under layer 1's retries.
    pub async fn complete(
        &self,
        job: &JobId,
        admitted_at: Timestamp,
        request: ModelRequest,
    ) -> Result<ModelAnswer, CallError> {
        let patience = self.alone.patience();
        let order = Order { priority: 0, admitted: admitted_at };
        let complete = Complete { job: job.clone(), order, patience, prefers: None, request };
        self.llm.send(complete).await?.map(|answered| answered.answer)
    }

    /// How long a new call would wait at the least; a poller claims nothing behind a shut door.
    pub async fn outlook(&self) -> Duration {
        self.alone
            .accountant
            .send(Outlook { key: BudgetKey::Llm(EndpointId(0)), tokens: None })
            .await
            .unwrap_or_default()
    }

    /// The process's leases are surely its own until then: calls are sent.
    pub fn leased_until(&self, until: Instant) {
        self.alone.leased_until(until);
    }

    /// A drain: requests that are out end, nothing new begins.
    pub fn stop_softly(&self) {
        self.alone.stop_softly();
    }

    /// The process leaves: another may keep the budget.
    pub async fn depart(&self) {
        self.alone.depart().await;
    }

    /// Drops even what is out.
    pub fn stop_now(&self) {
        self.alone.stop_now();
    }
}
