//! One exchange with the model's server: sent, read, and judged.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};
use secrecy::ExposeSecret;
use steadfast_core::chat::{Message, ModelAnswer, ModelRequest};
use steadfast_core::classify::openai::{self, Answer, ErrorBody, Waits};
use steadfast_core::failure::{Failure, FatalReason, Verdict};
use steadfast_core::headers::{self, Observed};
use steadfast_core::time::Clock;
use steadfast_http::{Timeouts, Transport, TransportError, read_prefix};
use tokio::time::{Instant, timeout_at};

use crate::assemble::{Assembled, Flaw};
use crate::dialect::{Change, Dialect};
use crate::json_tools;
use crate::request;
use crate::settings::{Endpoint, Settings, ToolsMode};
use crate::stream::{Broken, read};

/// The name of the operation in failures, logs and metrics.
pub const CHAT: &str = "chat";

/// Most bytes of a refusal that are read.
const MAX_REFUSAL: usize = 64 * 1024;

/// Shorter keys are words like `none`, given to servers that want any; masking them would garble
/// messages and hide nothing.
const MIN_MASKED_KEY: usize = 6;

/// What came of one exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The answer, or what its absence means.
    pub result: Result<ModelAnswer, Failure>,
    /// What the headers told about limits; nothing where no answer came.
    pub observed: Observed,
}

/// Asks one model on one server. Cheap to share; holds nothing but what it learned of the server.
pub struct LlmClient {
    endpoint: Endpoint,
    settings: Settings,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    dialect: Mutex<Dialect>,
}

/// One request and what became of it.
struct Sent {
    exchange: Exchange,
    /// The refusal, as far as a change of dialect may cure it.
    refusal: Option<(u16, ErrorBody)>,
}

impl LlmClient {
    /// A client that has learned nothing yet.
    pub fn new(
        endpoint: Endpoint,
        settings: Settings,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let dialect = Mutex::new(Dialect::new(&settings));
        LlmClient { endpoint, settings, transport, clock, dialect }
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks the model. A refusal for a field that this server does not know is followed by one
    /// immediate repeat without it, remembered, and no attempt of its own.
    pub async fn chat(&self, request: &ModelRequest) -> Exchange {
        let mut dialect = self.known_dialect();
        loop {
            let sent = self.send(request, dialect).await;
            if sent.exchange.result.is_ok() {
                self.remember(dialect.taken(&self.settings));
            }
            let change = sent
                .refusal
                .and_then(|(status, error)| dialect.after_refusal(status, &error, &self.settings));
            let Some(Change { to, what, certain }) = change else {
                return sent.exchange;
            };
            tracing::info!(model = %self.settings.model, change = what, certain, "request changed for this server");
            if certain {
                self.remember(to);
            }
            dialect = to;
        }
    }

    fn known_dialect(&self) -> Dialect {
        *self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, learned: Dialect) {
        let mut known = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
        *known = known.merge(learned);
    }

    async fn send(&self, request: &ModelRequest, dialect: Dialect) -> Sent {
        let started = Instant::now();
        let deadline = started + self.settings.answer_timeout;
        let http_request = match self.http_request(request, dialect) {
            Ok(http_request) => http_request,
            Err(error) => return self.unsent(&error),
        };
        let sending = self.transport.send(http_request, self.timeouts());
        let answer = timeout_at(deadline, sending).await.unwrap_or(Err(self.too_slow()));
        let (head, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) => return self.unsent(&error),
        };
        let observed = Observed::of_llm(&head.headers, self.clock.now());
        let request_id = headers::request_id(&head.headers);
        let mut refusal = None;
        let result = if head.status.is_success() {
            let cap = usize::try_from(self.settings.max_answer_bytes.as_u64()).unwrap_or(usize::MAX);
            match timeout_at(deadline, read(body, cap))
                .await
                .unwrap_or(Err(Broken::Transport(self.too_slow())))
            {
                Ok(assembled) => Ok(self.answer(request, assembled, request_id.clone())),
                Err(broken) => Err(self.broken(broken, &head.headers)),
            }
        } else {
            // Status and headers tell the verdict where the words don't come.
            let soon = deadline.min(Instant::now() + self.settings.timeout);
            let body = timeout_at(soon, read_prefix(body, MAX_REFUSAL)).await.unwrap_or_default();
            let body = self.mask(&body);
            let answer =
                Answer { status: head.status.as_u16(), headers: &head.headers, body: body.as_bytes() };
            let failure = openai::refused(CHAT, answer, self.clock.now(), &self.waits());
            if failure.verdict == (Verdict::Fatal { why: FatalReason::Rejected }) {
                refusal = Some((answer.status, ErrorBody::parse(answer.body)));
            }
            Err(failure)
        };
        tracing::debug!(
            model = %self.settings.model,
            status = head.status.as_u16(),
            request_id,
            elapsed_ms = started.elapsed().as_millis(),
            failure = result.as_ref().err().map(tracing::field::display),
            "chat exchange ended"
        );
        Sent { exchange: Exchange { result, observed }, refusal }
    }

    /// No head of an answer came.
    fn unsent(&self, error: &TransportError) -> Sent {
        let failure = self.transport_failure(error, None);
        tracing::debug!(model = %self.settings.model, %failure, "chat exchange ended without an answer");
        Sent { exchange: Exchange { result: Err(failure), observed: Observed::default() }, refusal: None }
    }

    fn http_request(
        &self,
        request: &ModelRequest,
        dialect: Dialect,
    ) -> Result<Request<Bytes>, TransportError> {
        let body = request::build(request, &self.settings, dialect);
        let body = serde_json::to_vec(&body).map_err(|error| TransportError::Unusable(error.to_string()))?;
        let accept = if self.settings.stream { "text/event-stream" } else { "application/json" };
        let mut http_request = Request::post(self.endpoint.chat.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, accept)
            .header(USER_AGENT, HeaderValue::from_static(concat!("steadfast/", env!("CARGO_PKG_VERSION"))))
            .body(Bytes::from(body))
            .map_err(|error| TransportError::Unusable(error.to_string()))?;
        if let Some(authorization) = &self.endpoint.authorization {
            http_request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(http_request)
    }

    /// A server that does not stream sends the head with the whole answer: its time is the answer's.
    fn timeouts(&self) -> Timeouts {
        let whole = self.settings.answer_timeout;
        let patience: Duration = if self.settings.stream { self.settings.timeout.min(whole) } else { whole };
        Timeouts { first_byte: patience, idle: patience }
    }

    fn too_slow(&self) -> TransportError {
        TransportError::Timeout { what: "whole answer", after: self.settings.answer_timeout }
    }

    fn waits(&self) -> Waits {
        Waits { quota_recheck: self.settings.quota_recheck, max_server_wait: self.settings.max_server_wait }
    }

    fn answer(
        &self,
        request: &ModelRequest,
        assembled: Assembled,
        request_id: Option<String>,
    ) -> ModelAnswer {
        let assembled = match self.settings.tools {
            ToolsMode::Native => assembled,
            ToolsMode::Json => json_tools::read(assembled),
        };
        let Assembled { content, reasoning, mut tool_calls, finish, usage, model } = assembled;
        let mut taken: HashSet<&str> = HashSet::new();
        for message in &request.messages {
            match message {
                Message::Assistant { tool_calls, .. } => {
                    taken.extend(tool_calls.iter().map(|call| call.id.as_str()))
                }
                Message::System { .. } | Message::User { .. } | Message::Tool { .. } => {}
            }
        }
        let mut given: HashSet<String> = HashSet::new();
        for (number, call) in tool_calls.iter_mut().enumerate() {
            // Each result is matched to its call by the id alone, over the whole conversation.
            if call.id.is_empty() || taken.contains(call.id.as_str()) || given.contains(&call.id) {
                let turn = request.messages.len();
                let free = |id: &String| !taken.contains(id.as_str()) && !given.contains(id);
                let made_up = (number..).map(|n| format!("call_{turn}_{n}")).find(free);
                call.id = made_up.unwrap_or_default();
            }
            given.insert(call.id.clone());
        }
        ModelAnswer {
            content,
            reasoning,
            tool_calls,
            finish,
            usage,
            model: model.unwrap_or_else(|| self.settings.model.clone()),
            request_id,
        }
    }

    fn broken(&self, broken: Broken, headers: &HeaderMap) -> Failure {
        match broken {
            Broken::Transport(error) => self.transport_failure(&error, Some(headers)),
            Broken::Flaw(Flaw::Unreadable(what)) => openai::unreadable(CHAT, what, headers),
            Broken::Flaw(Flaw::Error { error, begun }) => {
                let masked = serde_json::from_str(&self.mask(error.to_string().as_bytes())).unwrap_or(error);
                let failure = openai::error_within(CHAT, &masked, headers, self.clock.now(), &self.waits());
                Failure { maybe_charged: begun || failure.maybe_charged, ..failure }
            }
        }
    }

    fn transport_failure(&self, error: &TransportError, headers: Option<&HeaderMap>) -> Failure {
        openai::transport(CHAT, error.fault(), &error.to_string(), headers)
    }

    /// The server's words without our key: some echo it.
    fn mask(&self, words: &[u8]) -> String {
        let words = String::from_utf8_lossy(words);
        let key = self.endpoint.key.expose_secret();
        if key.len() >= MIN_MASKED_KEY { words.replace(key, "***") } else { words.into_owned() }
    }
}

#[cfg(test)]
mod tests;
