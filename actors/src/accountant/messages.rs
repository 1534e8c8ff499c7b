//! What is said to the accountant and by it: whose budget, asking for a permit, what came of it.

use std::time::Duration;

use actix::Message;
use steadfast_core::failure::{Failure, GateReason, Provider};
use steadfast_core::headers::Observed;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::RateAccountant;
use super::account::{Answer, Ask, Sent};
use super::status::BudgetStatus;
use super::waiting::Place;
use crate::address::Address;
use crate::calls::Order;
use crate::settings::EndpointBudget;

/// Whose budget: a provider and, within it, the credential that is limited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetKey {
    /// One of the model's endpoints: a server, with the key and model that are asked of it.
    Llm(EndpointId),
    /// GitHub, by installation; 0 is the personal token.
    Github(u64),
    /// The git remote: no limit of its own, but a breaker.
    Git,
}

/// Place of an endpoint in `[[llm.endpoints]]`; 0 where there is but the one of `[llm]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId(pub u16);

impl EndpointId {
    /// Its place in lists.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All that there are with these settings, the preferred one first.
    pub fn all(endpoints: &[EndpointBudget]) -> impl Iterator<Item = EndpointId> + use<> {
        // More than fit are refused with the configuration.
        let count = u16::try_from(endpoints.len().max(1)).unwrap_or(u16::MAX);
        (0..count).map(EndpointId)
    }
}

impl BudgetKey {
    /// As logs, metrics and the ledger name it: `llm`, `llm:NAME`, `github:123`, `github:personal`,
    /// `git`.
    pub fn name(&self, endpoints: &[EndpointBudget]) -> String {
        match self {
            BudgetKey::Llm(id) => match endpoints.get(id.index()) {
                Some(endpoint) => format!("llm:{}", endpoint.name),
                None => "llm".to_owned(),
            },
            BudgetKey::Github(0) => "github:personal".to_owned(),
            BudgetKey::Github(installation) => format!("github:{installation}"),
            BudgetKey::Git => "git".to_owned(),
        }
    }

    /// The provider.
    pub fn provider(&self) -> Provider {
        match self {
            BudgetKey::Llm(_) => Provider::Llm,
            BudgetKey::Github(_) => Provider::Github,
            BudgetKey::Git => Provider::Git,
        }
    }
}

/// What one request takes of a budget, and its place among those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What is asked, by the name that failures have for it: each operation has its own breaker.
    pub operation: &'static str,
    /// Tokens of the request and its answer, estimated high.
    pub tokens: u64,
    /// The caller's place: higher priority first, then the oldest job.
    pub order: Order,
    /// Whether it repeats a request that failed, after no wait of the server's naming: then the
    /// retry budget must have room for it.
    pub is_retry: bool,
}

/// Asks for a permit. Answered at once with a [`Ticket`] for it.
pub struct Acquire {
    /// Whose budget.
    pub key: BudgetKey,
    /// What for.
    pub need: Need,
    /// The longest wait that is sat out.
    pub patience: Duration,
}

impl Message for Acquire {
    type Result = Ticket;
}

/// A place among those that wait for a permit; dropped, the place is given up.
#[must_use = "dropping it gives the place up"]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Permit, Shut>>,
    leave: Option<(Address<RateAccountant>, Leave)>,
}

/// The accountant died with all that waited for it: nothing was sent, so asking again is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the accountant died before this call's turn came: ask again")]
pub struct Lost;

impl Ticket {
    pub(super) fn new(
        answer: oneshot::Receiver<Result<Permit, Shut>>,
        accountant: Address<RateAccountant>,
        leave: Leave,
    ) -> Self {
        Ticket { answer, leave: Some((accountant, leave)) }
    }

    /// Waits for this call's turn, or until it is known that the wait would be longer than the
    /// call's patience.
    pub async fn permit(mut self) -> Result<Result<Permit, Shut>, Lost> {
        let answer = (&mut self.answer).await;
        // No place is kept for it any more.
        self.leave = None;
        answer.map_err(|_| Lost)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some((accountant, leave)) = self.leave.take() else { return };
        match self.answer.try_recv() {
            // One for each ticket that exists.
            Err(TryRecvError::Empty) => accountant.tell_from_drop(leave),
            // A permit gives itself back, and an accountant that died keeps no places.
            Ok(_) | Err(TryRecvError::Closed) => {}
        }
    }
}

/// The right to send one request. Dropped without a report, it is given back unused.
pub struct Permit {
    key: BudgetKey,
    sent: Sent,
    accountant: Option<Address<RateAccountant>>,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub enum End {
    /// An answer that was of use; with the tokens that the server counted, if it did.
    Answered(Option<u64>),
    /// It failed.
    Failed(Failure),
    /// It was dropped on its way: what the provider made of it is not known.
    Cut,
}

impl Permit {
    pub(super) fn new(key: BudgetKey, sent: Sent, accountant: Address<RateAccountant>) -> Self {
        Permit { key, sent, accountant: Some(accountant) }
    }

    /// The request was sent, and this came of it.
    pub(crate) async fn report(mut self, observed: Observed, end: End) {
        let Some(accountant) = self.accountant.take() else { return };
        let report = Report { key: self.key.clone(), sent: self.sent, observed, end };
        // An accountant that died with the report has forgotten the permit too.
        if let Err(error) = accountant.send(report).await {
            tracing::debug!(%error, "a report was lost with the accountant");
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(accountant) = self.accountant.take() {
            // One for each permit that exists.
            accountant.tell_from_drop(GiveBack { key: self.key.clone(), sent: self.sent });
        }
    }
}

/// The door is shut for longer than the caller sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut {
    /// How long from now.
    pub wait: Duration,
    /// Why; `None`: the pace itself is that far behind.
    pub reason: Option<GateReason>,
}

/// What came of a request that had a permit.
pub(super) struct Report {
    pub key: BudgetKey,
    pub sent: Sent,
    pub observed: Observed,
    pub end: End,
}

impl Message for Report {
    type Result = ();
}

/// A permit that was not used.
pub(super) struct GiveBack {
    pub key: BudgetKey,
    pub sent: Sent,
}

impl Message for GiveBack {
    type Result = ();
}

/// A caller that no longer waits.
pub(super) struct Leave {
    pub key: BudgetKey,
    pub operation: &'static str,
    pub is_retry: bool,
    pub place: Place,
}

impl Message for Leave {
    type Result = ();
}

/// Asks how long a new call would wait, without taking its place. With its `tokens`, what is left of
/// the budget and those who wait already are counted in; without, only a door that is shut.
pub struct Outlook {
    /// Whose budget.
    pub key: BudgetKey,
    /// Tokens of the request and its answer.
    pub tokens: Option<u64>,
}

impl Message for Outlook {
    type Result = Duration;
}

/// Asks where every budget stands.
pub struct Budgets;

impl Message for Budgets {
    type Result = Vec<BudgetStatus>;
}

/// Where an answer goes.
pub(super) type Answering = oneshot::Sender<Result<Permit, Shut>>;

impl Answer for Answering {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

impl Acquire {
    /// As the account takes it; `until` is where its patience ends.
    pub(super) fn ask(&self, until: Duration) -> Ask {
        Ask { need: self.need, until }
    }
}
