//! The model server: `/v1/chat/completions` and `/v1/models`, with limits of requests and tokens.

mod answer;
mod messages;
mod request;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use steadfast_core::time::Timestamp;

use crate::config::{LlmConfig, RetryAfter};
use crate::limits::{Charge, Limiter, go_duration};
use crate::model::{self, Said, mix};
use crate::records::ChatRecord;
use crate::reply::Reply;
use crate::world::World;
use answer::{Answer, Call};
use request::{ChatRequest, Refusal};

/// Most prefixes whose hashes are kept as the prompt cache.
const CACHED_PREFIXES: usize = 200_000;
/// Prompts below this are not cached, and cached ones count in steps of 128.
const CACHE_FROM: u64 = 1024;

/// What the model server remembers.
#[derive(Default)]
pub(crate) struct LlmState {
    limits: HashMap<String, Limits>,
    prefixes: HashSet<u64>,
    answers: u64,
    in_work: usize,
}

struct Limits {
    requests: Limiter,
    tokens: Limiter,
}

/// One model call in work: counts as such until dropped, whatever becomes of its future.
struct InWork<'a>(&'a World);

impl<'a> InWork<'a> {
    fn begin(world: &'a World) -> Self {
        let mut state = world.state();
        state.llm.in_work += 1;
        let in_work = state.llm.in_work;
        state.records.max_concurrent_chats = state.records.max_concurrent_chats.max(in_work);
        InWork(world)
    }
}

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        self.0.state().llm.in_work -= 1;
    }
}

/// Tokens of a text by the usual rule of four bytes each.
fn tokens(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim).filter(|key| !key.is_empty())
}

fn authenticate<'a>(headers: &'a HeaderMap, config: &LlmConfig) -> Result<&'a str, Refusal> {
    let Some(key) = bearer(headers) else {
        let message = "You didn't provide an API key: send it as 'Authorization: Bearer KEY'.";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message, None, None));
    };
    if config.api_key.as_deref().is_some_and(|accepted| accepted != key) {
        let message = "Incorrect API key provided.";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message, None, Some("invalid_api_key")));
    }
    Ok(key)
}

/// `GET /v1/models` and `/v1/models/{name}`.
pub(crate) fn models(world: &World, headers: &HeaderMap, name: Option<&str>) -> Reply {
    let config = &world.config.llm;
    if let Err(refusal) = authenticate(headers, config) {
        return refusal.reply();
    }
    let created = world.config.start.secs();
    let one = |name: &str| json!({"id": name, "object": "model", "created": created, "owned_by": "system"});
    match name {
        None if config.models.is_empty() => {
            Reply::json(StatusCode::OK, &json!({"object": "list", "data": [one("simulated-model")]}))
        }
        None => {
            let data: Vec<Value> = config.models.iter().map(|name| one(name)).collect();
            Reply::json(StatusCode::OK, &json!({"object": "list", "data": data}))
        }
        Some(name) if config.models.is_empty() || config.models.iter().any(|known| known == name) => {
            Reply::json(StatusCode::OK, &one(name))
        }
        Some(name) => {
            let message = format!("The model '{name}' does not exist");
            let param = Some("model".to_owned());
            Refusal::new(StatusCode::NOT_FOUND, message, param, Some("model_not_found")).reply()
        }
    }
}

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(world: &World, headers: &HeaderMap, body: &[u8]) -> Reply {
    let _in_work = InWork::begin(world);
    let at = world.now();
    let request_id =
        format!("req_{:016x}", mix(world.config.seed, &[b"request", body, &at.millis().to_le_bytes()]));
    let reply = match answer_chat(world, headers, body, at).await {
        Ok(reply) => reply,
        Err(refusal) => {
            record(world, at, headers, body, refusal.status.as_u16(), None);
            refusal.reply()
        }
    };
    reply
        .with("x-request-id", &request_id)
        .with("openai-version", "2020-10-01")
        .with("openai-processing-ms", &world.now().since(at).as_millis().to_string())
}

async fn answer_chat(
    world: &World,
    headers: &HeaderMap,
    body: &[u8],
    at: Timestamp,
) -> Result<Reply, Refusal> {
    let config = &world.config.llm;
    let key = authenticate(headers, config)?.to_owned();
    let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(|kind| kind.starts_with("application/json")) {
        let message = "Unsupported Content-Type: send the request as 'application/json'.";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Refusal::new(status, message, None, Some("unsupported_content_type")));
    }
    let request = request::parse(body, config)?;
    let Counted { prompt_tokens, cached_tokens, prefixes } = count(world, &request);
    let wanted = prompt_tokens + request.max_tokens.unwrap_or(0);
    if wanted > config.context_window {
        let message = format!(
            "This model's maximum context length is {} tokens. However, you requested {wanted} tokens \
             ({prompt_tokens} in the messages, {} in the completion). Please reduce the length of the messages \
             or completion.",
            config.context_window,
            wanted - prompt_tokens
        );
        let param = Some("messages".to_owned());
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, param, Some("context_length_exceeded")));
    }
    let scope = format!("{}\n{key}", request.model);
    let up_front = prompt_tokens + request.max_tokens.unwrap_or(config.assumed_answer_tokens);
    let charge = match admit(world, &scope, &request.model, up_front) {
        Ok(charge) => charge,
        Err(reply) => {
            record(world, at, headers, body, reply.status.as_u16(), None);
            return Ok(*reply);
        }
    };

    cache(world, prefixes);
    let seen = model::read(&request.messages, &request.tools);
    let said = {
        let state = world.state();
        model::answer(world.config.seed, &seen, &state.scripts)
    };
    let answer = compose(world, &request, said, at, prompt_tokens, cached_tokens);
    let latency = world.config.latency;
    world.pause(latency.llm_first).await;
    let mut reply = if request.stream {
        answer.stream(request.include_usage, latency.llm_per_token)
    } else {
        let tokens = u32::try_from(answer.completion_tokens).unwrap_or(u32::MAX);
        world.pause(latency.llm_per_token.saturating_mul(tokens)).await;
        answer.whole()
    };
    let now = world.since_start();
    let mut state = world.state();
    if let Some(limits) = state.llm.limits.get_mut(&scope) {
        limits.tokens.correct(now, charge, answer.prompt_tokens + answer.completion_tokens);
        if config.tell_limits {
            tell(limits, now, &mut reply);
        }
    }
    drop(state);
    reply.chat = record(world, at, headers, body, 200, Some(&answer));
    Ok(reply)
}

/// A question, counted.
struct Counted {
    prompt_tokens: u64,
    cached_tokens: u64,
    /// Hashes of its beginnings, one a message, for the prompt cache.
    prefixes: Vec<u64>,
}

/// Counts the question, and what of it the prompt cache holds.
fn count(world: &World, request: &ChatRequest) -> Counted {
    let mut total = tokens(&request.tools_text) + 3;
    let mut hash = mix(0, &[request.model.as_bytes(), request.tools_text.as_bytes()]);
    let mut cached = 0;
    let mut prefixes = Vec::with_capacity(request.messages.len());
    let state = world.state();
    for message in &request.messages {
        let text = message.to_string();
        total += tokens(&text) + 4;
        hash = mix(hash, &[text.as_bytes()]);
        prefixes.push(hash);
        if state.llm.prefixes.contains(&hash) {
            cached = total;
        }
    }
    let cached_tokens = if cached >= CACHE_FROM { cached / 128 * 128 } else { 0 };
    Counted { prompt_tokens: total, cached_tokens, prefixes }
}

/// Puts the beginnings of a question that is answered into the prompt cache.
fn cache(world: &World, prefixes: Vec<u64>) {
    let mut state = world.state();
    if state.llm.prefixes.len() > CACHED_PREFIXES {
        state.llm.prefixes.clear();
    }
    state.llm.prefixes.extend(prefixes);
}

/// Takes a request and its tokens from the limits, or refuses.
fn admit(world: &World, scope: &str, model: &str, amount: u64) -> Result<Charge, Box<Reply>> {
    let config = &world.config.llm;
    let now = world.since_start();
    let mut state = world.state();
    let limits = state.llm.limits.entry(scope.to_owned()).or_insert_with(|| Limits {
        requests: Limiter::new(config.requests_per_minute, config.limit_kind),
        tokens: Limiter::new(config.tokens_per_minute, config.limit_kind),
    });
    if let Some(limit) = limits.tokens.limit().filter(|limit| amount > *limit) {
        let message = format!(
            "Request too large for {model} on tokens per min (TPM): Limit {limit}, Requested {amount}. The \
             input or output tokens must be reduced in order to run successfully."
        );
        return Err(Box::new(refuse(config, limits, now, &message, "tokens", None)));
    }
    let waits = [("requests", limits.requests.wait(now, 1)), ("tokens", limits.tokens.wait(now, amount))];
    let longest =
        waits.iter().filter_map(|(kind, wait)| wait.map(|wait| (*kind, wait))).max_by_key(|(_, w)| *w);
    let Some((kind, wait)) = longest else {
        limits.requests.charge(now, 1);
        return Ok(limits.tokens.charge(now, amount));
    };
    if config.count_rejected {
        limits.requests.charge(now, 1);
    }
    let (limit, short, requested) = match kind {
        "requests" => (limits.requests.limit(), "requests per min (RPM)", 1),
        _ => (limits.tokens.limit(), "tokens per min (TPM)", amount),
    };
    let message = format!(
        "Rate limit reached for {model} on {short}: Limit {}, Requested {requested}. Please try again in {}.",
        limit.unwrap_or(0),
        go_duration(wait)
    );
    Err(Box::new(refuse(config, limits, now, &message, kind, Some(wait))))
}

fn refuse(
    config: &LlmConfig,
    limits: &mut Limits,
    now: Duration,
    message: &str,
    kind: &str,
    wait: Option<Duration>,
) -> Reply {
    let body = json!({"error": {
        "message": message, "type": kind, "param": null, "code": "rate_limit_exceeded",
    }});
    let mut reply = Reply::json(StatusCode::TOO_MANY_REQUESTS, &body).because(message);
    if config.tell_limits {
        tell(limits, now, &mut reply);
    }
    if let Some(wait) = wait {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        match config.retry_after {
            RetryAfter::True => {
                reply.set("retry-after", &millis.div_ceil(1000).to_string());
                reply.set("retry-after-ms", &millis.to_string());
            }
            RetryAfter::Always(always) => reply.set("retry-after", &always.as_secs().to_string()),
            RetryAfter::Hidden => {}
        }
    }
    reply
}

fn tell(limits: &mut Limits, now: Duration, reply: &mut Reply) {
    if let Some(limit) = limits.requests.limit() {
        reply.set("x-ratelimit-limit-requests", &limit.to_string());
        reply.set("x-ratelimit-remaining-requests", &limits.requests.remaining(now).to_string());
        reply.set("x-ratelimit-reset-requests", &go_duration(limits.requests.reset(now)));
    }
    if let Some(limit) = limits.tokens.limit() {
        reply.set("x-ratelimit-limit-tokens", &limit.to_string());
        reply.set("x-ratelimit-remaining-tokens", &limits.tokens.remaining(now).to_string());
        reply.set("x-ratelimit-reset-tokens", &go_duration(limits.tokens.reset(now)));
    }
}

/// Gives the model's words ids and a price, and cuts them at the request's maximum.
fn compose(
    world: &World,
    request: &ChatRequest,
    said: Said,
    at: Timestamp,
    prompt_tokens: u64,
    cached_tokens: u64,
) -> Answer {
    let number = {
        let mut state = world.state();
        state.llm.answers += 1;
        state.llm.answers
    };
    let unique = mix(world.config.seed, &[b"answer", &number.to_le_bytes()]);
    let mut left = request.max_tokens.unwrap_or(u64::MAX).saturating_mul(4);
    let mut cut = false;
    let mut take = |text: String| {
        let keep = usize::try_from(left).unwrap_or(usize::MAX).min(text.len());
        let keep = (0..=keep).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        cut |= keep < text.len();
        left = left.saturating_sub(keep as u64);
        text[..keep].to_owned()
    };
    let content = said.content.map(&mut take);
    let calls: Vec<Call> = said
        .calls
        .into_iter()
        .enumerate()
        .map(|(index, (name, arguments))| Call {
            id: format!("call_{unique:016x}{index:02}"),
            name,
            arguments: take(arguments),
        })
        .collect();
    let natural = if calls.is_empty() { "stop" } else { "tool_calls" };
    let finish = said.reason.unwrap_or_else(|| if cut { "length".into() } else { natural.into() });
    let said_tokens = content.as_deref().map_or(0, tokens)
        + calls.iter().map(|call| tokens(&call.arguments) + tokens(&call.name)).sum::<u64>();
    let completion_tokens = said_tokens.clamp(1, request.max_tokens.unwrap_or(u64::MAX));
    Answer {
        id: format!("chatcmpl-{unique:016x}"),
        created: at.secs(),
        model: request.model.clone(),
        content,
        calls,
        finish,
        prompt_tokens,
        cached_tokens,
        completion_tokens,
    }
}

fn record(
    world: &World,
    at: Timestamp,
    headers: &HeaderMap,
    body: &[u8],
    status: u16,
    answer: Option<&Answer>,
) -> Option<usize> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let messages = value["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let seen = model::read(messages, &HashSet::new());
    let hash = mix(0, &[value["messages"].to_string().as_bytes(), value["tools"].to_string().as_bytes()]);
    let named = headers.get("x-steadfast-job").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let record = ChatRecord {
        at,
        issue: model::issue_number(&seen),
        job: named.or_else(|| job_in(&seen.task)),
        turn: seen.turns,
        status,
        prompt_hash: format!("{hash:016x}"),
        prompt_tokens: answer.map_or(0, |answer| answer.prompt_tokens),
        cached_tokens: answer.map_or(0, |answer| answer.cached_tokens),
        completion_tokens: answer.map_or(0, |answer| answer.completion_tokens),
        // The faults that follow take it back where they cut the answer.
        delivered: status == 200,
    };
    world.state().records.chat(record)
}

/// A job's id where the task shows it as in effect markers: `steadfast job=ID `.
fn job_in(task: &str) -> Option<String> {
    let (_, rest) = task.split_once("steadfast job=")?;
    rest.split_whitespace().next().map(str::to_owned)
}
