//! Llm: model calls, each with a permit, under layer 1's retries, at the endpoint that can take them.
//!
//! A turn stays at the endpoint where it began. Where that one's door is shut for longer than a run
//! sits, nothing was paid there, and the turn begins anew at another.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use steadfast_core::chat::{ModelAnswer, ModelRequest, Usage};
use steadfast_core::failure::{FatalReason, Verdict};
use steadfast_core::job::JobId;
use steadfast_core::retry::RetryPolicy;
use steadfast_llm::{CHAT, LlmClient};

use crate::accountant::{BudgetKey, EndpointId, Need, Outlook, Permit};
use crate::address::Metered;
use crate::calls::{CallError, Caller, Order, Patience, Try};
use crate::supervisor::Lifeline;

/// A wait that is no reason to go elsewhere: there the provider's prompt cache holds nothing of the job.
const SOON: Duration = Duration::from_secs(1);

/// Asks the model. Answered with the whole answer, or with what the run must do instead.
pub struct Complete {
    /// For which job, for the logs.
    pub job: JobId,
    /// Its place among those that wait.
    pub order: Order,
    /// How the run is told to stop.
    pub patience: Patience,
    /// The endpoint that gave the job's last answer: its prompt cache holds the conversation.
    pub prefers: Option<String>,
    /// The question.
    pub request: ModelRequest,
}

/// The answer, and who gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The answer.
    pub answer: ModelAnswer,
    /// The name of the endpoint, where the configuration names any.
    pub endpoint: Option<String>,
}

impl Message for Complete {
    type Result = Result<Answered, CallError>;
}

/// See the module.
pub struct Llm {
    calls: Arc<Calls>,
    _lifeline: Lifeline,
}

/// What outlives the handling of one message.
struct Calls {
    /// The preferred one first.
    endpoints: Vec<Endpoint>,
    caller: Caller,
    /// For where another endpoint may be quicker.
    hurried: Caller,
    policy: RetryPolicy,
}

struct Endpoint {
    id: EndpointId,
    name: Option<String>,
    client: Arc<LlmClient>,
}

impl Llm {
    pub(crate) fn new(
        clients: &[Arc<LlmClient>],
        caller: Caller,
        settings: &crate::Settings,
        lifeline: Lifeline,
    ) -> Self {
        let named = EndpointId::all(&settings.llm_endpoints).zip(clients).map(|(id, client)| Endpoint {
            id,
            name: settings.llm_endpoints.get(id.index()).map(|endpoint| endpoint.name.clone()),
            client: Arc::clone(client),
        });
        let hurried = Caller {
            accountant: caller.accountant.clone(),
            clock: Arc::clone(&caller.clock),
            dice: caller.dice.clone(),
            park_after: caller.park_after.min(SOON),
        };
        let policy = settings.llm_retry.clone();
        let calls = Calls { endpoints: named.collect(), caller, hurried, policy };
        Llm { calls: Arc::new(calls), _lifeline: lifeline }
    }
}

/// An endpoint at which a turn may begin.
struct Choice<'a> {
    endpoint: &'a Endpoint,
    wait: Duration,
}

impl Calls {
    async fn complete(&self, complete: &Complete) -> Result<Answered, CallError> {
        let tokens = estimate_tokens(&complete.request);
        let mut left: Vec<&Endpoint> = self.endpoints.iter().collect();
        let mut ended: Option<CallError> = None;
        while let Some((endpoint, permit)) = self.begin(&left, complete, tokens, ended.as_ref()).await? {
            left.retain(|other| other.id != endpoint.id);
            match self.turn(endpoint, permit, complete, tokens).await {
                Ok(answer) => return Ok(Answered { answer, endpoint: endpoint.name.clone() }),
                Err(error) if is_about_the_door(&error) => {
                    if !left.is_empty() {
                        let (job, name) = (&complete.job, &endpoint.name);
                        tracing::info!(%job, endpoint = name, %error, "endpoint shut: looking for another");
                    }
                    ended = Some(sooner(ended, error));
                }
                Err(error) => return Err(error),
            }
        }
        // There is at least one endpoint, and without an end one is chosen.
        Err(ended.unwrap_or(CallError::Stopped))
    }

    /// Where among `left` the turn begins, with a permit if one was to be had soon. `None` where none
    /// is sooner than the end that there is.
    async fn begin<'a>(
        &self,
        left: &[&'a Endpoint],
        complete: &Complete,
        tokens: u64,
        ended: Option<&CallError>,
    ) -> Result<Option<(&'a Endpoint, Option<Permit>)>, CallError> {
        if let ([only], 1) = (left, self.endpoints.len()) {
            return Ok(Some((only, None)));
        }
        let mut waits = Vec::new();
        for endpoint in left.iter().copied() {
            let outlook = Outlook { key: BudgetKey::Llm(endpoint.id), tokens: Some(tokens) };
            // Without an answer the accountant is being started again, and knows of no shut door.
            let wait = self.caller.accountant.send(outlook).await.unwrap_or_default();
            waits.push(Choice { endpoint, wait });
        }
        // Whom the job had goes first among those that can send soon. The sort keeps the list's order.
        let other = |endpoint: &Endpoint| complete.prefers.is_none() || complete.prefers != endpoint.name;
        waits.sort_by_key(|choice| {
            (if choice.wait <= SOON { Duration::ZERO } else { choice.wait }, other(choice.endpoint))
        });
        // Others may have been quicker since: whoever finds it so tries the next one.
        for choice in waits.iter().filter(|choice| choice.wait <= SOON) {
            let key = BudgetKey::Llm(choice.endpoint.id);
            let need = Need { operation: CHAT, tokens, order: complete.order, is_retry: false };
            match self.hurried.permit(&key, need, &complete.patience).await {
                Ok(permit) => return Ok(Some((choice.endpoint, Some(permit)))),
                Err(CallError::Park { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let within = match ended {
            Some(CallError::Park { until, .. }) => until.since(self.caller.clock.now()),
            Some(_) | None => Duration::MAX,
        };
        // Nobody knows when one that is fully in use will be free: perhaps at once.
        let worth = |wait: Duration| wait <= within || wait == Duration::MAX;
        let soonest = waits.first().filter(|soonest| worth(soonest.wait));
        Ok(soonest.map(|soonest| (soonest.endpoint, None)))
    }

    /// The whole of layer 1 at one endpoint.
    async fn turn(
        &self,
        endpoint: &Endpoint,
        permit: Option<Permit>,
        complete: &Complete,
        tokens: u64,
    ) -> Result<ModelAnswer, CallError> {
        let (request, patience) = (&complete.request, &complete.patience);
        let key = BudgetKey::Llm(endpoint.id);
        let in_hand = Cell::new(permit);
        self.caller
            .retrying(&self.policy, patience, async |Try { is_retry, .. }| {
                let permit = match in_hand.take() {
                    Some(permit) => permit,
                    None => {
                        let need = Need { operation: CHAT, tokens, order: complete.order, is_retry };
                        self.caller.permit(&key, need, patience).await?
                    }
                };
                let exchange = async {
                    let exchange = endpoint.client.chat(request).await;
                    (exchange.result, exchange.observed)
                };
                let counted = |answer: &ModelAnswer| answer.usage.as_ref().map(Usage::total);
                self.caller.exchange(permit, patience, exchange, counted).await
            })
            .await
    }
}

/// Whether the endpoint takes nothing for now, so that another may be asked at no cost.
fn is_about_the_door(error: &CallError) -> bool {
    match error {
        CallError::Park { .. } => true,
        CallError::Fatal(failure) => failure.verdict == Verdict::Fatal { why: FatalReason::Credentials },
        CallError::Exhausted { .. } | CallError::Stopped | CallError::ActorDied(_) => false,
    }
}

/// What the run hears where no endpoint takes its call: the earliest time to come back, if any is
/// worth coming back to.
fn sooner(one: Option<CallError>, other: CallError) -> CallError {
    match (one, other) {
        (Some(CallError::Park { until, provider, reason, why }), CallError::Park { until: later, .. })
            if until <= later =>
        {
            CallError::Park { until, provider, reason, why }
        }
        (Some(park @ CallError::Park { .. }), CallError::Fatal(_)) => park,
        (_, other) => other,
    }
}

/// Tokens that the server will hold back for this request: about four characters a token, and the
/// whole of what the answer may have.
fn estimate_tokens(request: &ModelRequest) -> u64 {
    use steadfast_core::chat::Message as Said;
    let characters: usize = request
        .messages
        .iter()
        .map(|message| match message {
            Said::System { content } | Said::User { content } | Said::Tool { content, .. } => content.len(),
            Said::Assistant { content, tool_calls } => {
                let calls: usize = tool_calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
                content.as_ref().map_or(0, String::len) + calls
            }
        })
        .sum();
    let tools: usize = request.tools.iter().map(|tool| tool.description.len() + 200).sum();
    ((characters + tools) / 4) as u64 + u64::from(request.max_answer_tokens)
}

impl Actor for Llm {
    type Context = Context<Self>;
}

impl Handler<Metered<Complete>> for Llm {
    type Result = ResponseFuture<Result<Answered, CallError>>;

    fn handle(&mut self, message: Metered<Complete>, _: &mut Self::Context) -> Self::Result {
        let (complete, handling) = message.open();
        let calls = Arc::clone(&self.calls);
        Box::pin(async move {
            let answered = calls.complete(&complete).await;
            if let Ok(Answered { answer, endpoint }) = &answered {
                let (job, request_id) = (&complete.job, answer.request_id.as_deref());
                tracing::debug!(%job, request_id, endpoint, model = %answer.model, "the model answered");
            }
            drop(handling);
            answered
        })
    }
}
