//! Llm: model calls, each with a permit, under layer 1's retries.

use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use steadfast_core::chat::{ModelAnswer, ModelRequest, Usage};
use steadfast_core::job::JobId;
use steadfast_core::retry::RetryPolicy;
use steadfast_llm::{CHAT, LlmClient};

use crate::accountant::{BudgetKey, Need};
use crate::address::Metered;
use crate::calls::{CallError, Caller, Order, Patience, Try};
use crate::supervisor::Lifeline;

/// Asks the model. Answered with the whole answer, or with what the run must do instead.
pub struct Complete {
    /// For which job, for the logs.
    pub job: JobId,
    /// Its place among those that wait.
    pub order: Order,
    /// How the run is told to stop.
    pub patience: Patience,
    /// The question.
    pub request: ModelRequest,
}

impl Message for Complete {
    type Result = Result<ModelAnswer, CallError>;
}

/// See the module.
pub struct Llm {
    calls: Arc<Calls>,
    _lifeline: Lifeline,
}

/// What outlives the handling of one message.
struct Calls {
    client: Arc<LlmClient>,
    caller: Caller,
    policy: RetryPolicy,
}

impl Llm {
    pub(crate) fn new(
        client: Arc<LlmClient>,
        caller: Caller,
        settings: &crate::Settings,
        lifeline: Lifeline,
    ) -> Self {
        let calls = Calls { client, caller, policy: settings.llm_retry.clone() };
        Llm { calls: Arc::new(calls), _lifeline: lifeline }
    }
}

impl Calls {
    async fn complete(&self, complete: Complete) -> Result<ModelAnswer, CallError> {
        let Complete { order, patience, request, .. } = complete;
        let estimate = estimate_tokens(&request);
        let (request, patience) = (&request, &patience);
        self.caller
            .retrying(&self.policy, patience, async |Try { is_retry, .. }| {
                let need = Need { operation: CHAT, tokens: estimate, order, is_retry };
                let permit = self.caller.permit(&BudgetKey::Llm, need, patience).await?;
                let exchange = async {
                    let exchange = self.client.chat(request).await;
                    (exchange.result, exchange.observed)
                };
                let counted = |answer: &ModelAnswer| answer.usage.as_ref().map(Usage::total);
                self.caller.exchange(permit, patience, exchange, counted).await
            })
            .await
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
    type Result = ResponseFuture<Result<ModelAnswer, CallError>>;

    fn handle(&mut self, message: Metered<Complete>, _: &mut Self::Context) -> Self::Result {
        let (complete, handling) = message.open();
        let calls = Arc::clone(&self.calls);
        Box::pin(async move {
            let job = complete.job.clone();
            let answer = calls.complete(complete).await;
            if let Ok(answer) = &answer {
                let request_id = answer.request_id.as_deref();
                tracing::debug!(%job, request_id, model = %answer.model, "the model answered");
            }
            drop(handling);
            answer
        })
    }
}
