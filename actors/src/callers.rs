//! The model's callers alone, Llm and RateAccountant wired as in the whole system, for programs that
//! bring their own runs, such as a benchmark. Nobody restarts them.

use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use steadfast_core::chat::{ModelAnswer, ModelRequest};
use steadfast_core::job::JobId;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_llm::LlmClient;
use steadfast_store::Ledger;
use tokio::time::Instant;

use crate::Settings;
use crate::accountant::{BudgetKey, Depart, EndpointId, Fleetwide, Halt, Outlook, RateAccountant};
use crate::address::{Address, Binding, address};
use crate::calls::{CallError, Caller, Order};
use crate::dice::Dice;
use crate::held::Held;
use crate::llm::{Complete, Llm};
use crate::meter::Meter;
use crate::stop::{Reason, Stop};
use crate::supervisor::{Lifeline, Supervisor};

/// A process's Llm and RateAccountant.
pub struct Callers {
    llm: Address<Llm>,
    accountant: Address<RateAccountant>,
    held: Held,
    stop: Stop,
    _bindings: (Binding<Llm>, Binding<RateAccountant>),
}

impl Callers {
    /// Starts both on the current arbiter. Nothing is sent before [`Callers::leased_until`].
    /// The process is called `me` at `ledger`, over which it shares its budget.
    pub fn start(
        settings: Settings,
        client: LlmClient,
        clock: Arc<dyn Clock>,
        ledger: Arc<dyn Ledger>,
        me: String,
    ) -> Self {
        let (settings, client) = (Arc::new(settings), Arc::new(client));
        let capacity = settings.actors.mailbox;
        // Without a binding: the death of a child is told to nobody.
        let (nobody, _) = address::<Supervisor>(Meter::new("supervisor"), capacity);
        let (llm, llm_binding) = address::<Llm>(Meter::new("llm"), capacity);
        let (accountant, binding) = address::<RateAccountant>(Meter::new("rate_accountant"), capacity);
        let lifeline = |child| Lifeline::new(child, nobody.clone());
        let to_itself = accountant.clone();
        let actor = RateAccountant::new(&settings, Arc::clone(&clock), to_itself, lifeline(0));
        binding.bind(actor.sharing(Fleetwide { ledger, me }).start());
        let (park_after, dice) = (settings.job.park_after, Dice::from_os());
        let caller = Caller { accountant: accountant.clone(), clock, dice, park_after };
        llm_binding.bind(Llm::new(&[client], caller, &settings, lifeline(1)).start());
        let held = Held::new();
        let stop = Stop::new(held.leased());
        Callers { llm, accountant, held, stop, _bindings: (llm_binding, binding) }
    }

    /// Asks the model for a job that was admitted then, with a permit, under layer 1's retries.
    pub async fn complete(
        &self,
        job: &JobId,
        admitted_at: Timestamp,
        request: ModelRequest,
    ) -> Result<ModelAnswer, CallError> {
        let patience = self.stop.patience();
        let order = Order { priority: 0, admitted: admitted_at };
        let complete = Complete { job: job.clone(), order, patience, prefers: None, request };
        self.llm.send(complete).await?.map(|answered| answered.answer)
    }

    /// How long a new call would wait at the least; a poller claims nothing behind a shut door.
    pub async fn outlook(&self) -> Duration {
        self.accountant
            .send(Outlook { key: BudgetKey::Llm(EndpointId(0)), tokens: None })
            .await
            .unwrap_or_default()
    }

    /// The process's leases are surely its own until then: calls are sent.
    pub fn leased_until(&self, until: Instant) {
        self.held.leased_until(until);
    }

    /// A drain: requests that are out end, nothing new begins.
    pub fn stop_softly(&self) {
        self.stop.softly();
    }

    /// The process leaves: another may keep the budget.
    pub async fn depart(&self) {
        if let Err(error) = self.accountant.send(Depart).await {
            tracing::debug!(%error, "the accountant was gone before");
        }
    }

    /// Drops even what is out.
    pub fn stop_now(&self) {
        self.stop.now(Reason::Drain);
    }
}

impl Drop for Callers {
    /// The process is dead: what it kept is left to the end of its lease.
    fn drop(&mut self) {
        self.accountant.tell_from_drop(Halt);
    }
}
