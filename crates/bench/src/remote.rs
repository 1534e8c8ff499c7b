//! The model's server behind the transport seam: true limits, and troubles by the clock or by chance.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use steadfast_core::headers::{Observed, Window};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::scenario::Scenario;
use crate::server::Server;
use crate::world::{Call, Random, calls};

/// What goes wrong beside the limits. Times are seconds from the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// 503, silence and refused connections, in turn by chance.
    Outage { from: f64, until: f64 },
    /// No quota left.
    Quota { from: f64, until: f64 },
    /// This share of calls fails after it was let in: 5xx, streams that are cut.
    Faults { share: f64 },
}

impl Trouble {
    fn lasts(self, now: f64) -> bool {
        match self {
            Trouble::None | Trouble::Faults { .. } => false,
            Trouble::Outage { from, until } | Trouble::Quota { from, until } => (from..until).contains(&now),
        }
    }
}

/// What was counted at the server.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that arrived, those in a trouble that lasts apart.
    pub sent: usize,
    /// 429 of the rate.
    pub rejected: usize,
    /// Requests while a trouble lasted.
    pub in_trouble: usize,
    /// Answers for calls that had been answered.
    pub wasted: usize,
    /// Seconds at which requests arrived, and whether they were let in.
    pub trace: Vec<(f64, bool)>,
}

struct State {
    server: Server,
    random: Random,
    tally: Tally,
    answered: Vec<Vec<bool>>,
}

/// See the module. Time begins with it.
pub struct Remote {
    plan: Vec<Vec<Call>>,
    start: Instant,
    trouble: Trouble,
    state: Mutex<State>,
}

/// The text by which a request tells which call it is.
pub fn name_of(job: usize, call: usize) -> String {
    format!("{job}/{call}")
}

fn call_of(body: &[u8]) -> Option<(usize, usize)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = body.get("messages")?.as_array()?.last()?.get("content")?.as_str()?.to_owned();
    let (job, call) = text.split_once('/')?;
    Some((job.parse().ok()?, call.parse().ok()?))
}

impl Remote {
    /// A server of the scenario, whose calls and chances are drawn from the seed.
    pub fn new(scenario: &Scenario, trouble: Trouble, seed: u64) -> Arc<Self> {
        let plan = calls(scenario, seed);
        let answered = plan.iter().map(|job| vec![false; job.len()]).collect();
        let state = State {
            server: scenario.server.clone(),
            random: Random(seed ^ 0xb0b),
            tally: Tally::default(),
            answered,
        };
        Arc::new(Remote { plan, start: Instant::now(), trouble, state: Mutex::new(state) })
    }

    /// Seconds since the start.
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The call as it will be.
    pub fn call(&self, job: usize, call: usize) -> Option<Call> {
        self.plan.get(job)?.get(call).copied()
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// Somebody else's request on the same key.
    pub fn seize(&self) {
        let now = self.now();
        self.state().server.requests.seize(now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A way through the network, or the time that a refusal takes.
    fn way(&self) -> Duration {
        Duration::from_secs_f64(0.02 + 0.04 * self.state().random.unit())
    }

    async fn answer(&self, body: &[u8]) -> Result<Response<Body>, TransportError> {
        let named = call_of(body).and_then(|(job, call)| Some((job, call, self.call(job, call)?)));
        let Some((job, index, call)) = named else {
            return Ok(refusal(StatusCode::BAD_REQUEST, "invalid_request_error", &Observed::default(), None));
        };
        sleep(self.way()).await;
        let met = self.now();
        if self.trouble.lasts(met) {
            return self.in_trouble().await;
        }
        let answer = {
            let mut state = self.state();
            let answer = state.server.arrive(met, call.estimate as f64);
            state.tally.sent += 1;
            state.tally.rejected += usize::from(!answer.accepted);
            state.tally.trace.push((met, answer.accepted));
            answer
        };
        let back = self.way();
        if !answer.accepted {
            sleep(back + Duration::from_millis(10)).await;
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Ok(refusal(status, "rate_limit_exceeded", &answer.observed, answer.retry_after));
        }
        let latency = Duration::from_secs_f64(call.latency);
        if let Trouble::Faults { share } = self.trouble {
            let (drawn, which) = {
                let mut state = self.state();
                (state.random.unit(), state.random.unit())
            };
            if drawn < share {
                return self.fault(which, latency, &answer.observed).await;
            }
        }
        sleep(latency + back).await;
        {
            let now = self.now();
            let mut state = self.state();
            if let Some(meter) = &mut state.server.tokens {
                meter.correct(now, met, call.actual as f64 - call.estimate as f64);
            }
            let again = state.answered.get_mut(job).and_then(|job| job.get_mut(index));
            let again = again.is_some_and(|answered| std::mem::replace(answered, true));
            state.tally.wasted += usize::from(again);
        }
        Ok(whole(call.actual, &answer.observed))
    }

    async fn in_trouble(&self) -> Result<Response<Body>, TransportError> {
        let drawn = {
            let mut state = self.state();
            state.tally.in_trouble += 1;
            state.random.unit()
        };
        let nothing = Observed::default();
        match self.trouble {
            Trouble::Quota { .. } => {
                Ok(refusal(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", &nothing, None))
            }
            Trouble::None | Trouble::Outage { .. } | Trouble::Faults { .. } if drawn < 0.4 => {
                Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "server_error", &nothing, None))
            }
            Trouble::None | Trouble::Outage { .. } | Trouble::Faults { .. } if drawn < 0.7 => pending().await,
            Trouble::None | Trouble::Outage { .. } | Trouble::Faults { .. } => {
                Err(TransportError::Connect("connection refused".to_owned()))
            }
        }
    }

    /// A call that was let in fails: at once, or in the middle of its answer.
    async fn fault(
        &self,
        which: f64,
        latency: Duration,
        observed: &Observed,
    ) -> Result<Response<Body>, TransportError> {
        if which < 0.5 {
            sleep(Duration::from_millis(50)).await;
            let status =
                if which < 0.25 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_GATEWAY };
            return Ok(refusal(status, "server_error", observed, None));
        }
        sleep(latency / 2).await;
        let pieces =
            [Ok(event(&chunk("partly", None))), Err(TransportError::CutOff("connection reset".to_owned()))];
        Ok(respond(StatusCode::OK, "text/event-stream", observed, stream::iter(pieces).boxed()))
    }
}

fn event(data: &Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

fn chunk(content: &str, finish: Option<&str>) -> Value {
    json!({
        "id": "answer", "object": "chat.completion.chunk", "model": "simulated",
        "choices": [{ "index": 0, "delta": { "role": "assistant", "content": content }, "finish_reason": finish }],
    })
}

fn whole(tokens: u64, observed: &Observed) -> Response<Body> {
    let usage = json!({
        "id": "answer", "object": "chat.completion.chunk", "model": "simulated", "choices": [],
        "usage": { "prompt_tokens": tokens - tokens / 10, "completion_tokens": tokens / 10, "total_tokens": tokens },
    });
    let pieces = [
        Ok(event(&chunk("done", Some("stop")))),
        Ok(event(&usage)),
        Ok(Bytes::from_static(b"data: [DONE]\n\n")),
    ];
    respond(StatusCode::OK, "text/event-stream", observed, stream::iter(pieces).boxed())
}

fn refusal(
    status: StatusCode,
    code: &str,
    observed: &Observed,
    retry_after: Option<Duration>,
) -> Response<Body> {
    let body = json!({ "error": { "message": code, "type": code, "code": code } }).to_string();
    let body = stream::iter([Ok(Bytes::from(body))]).boxed();
    let mut response = respond(status, "application/json", observed, body);
    if let Some(wait) = retry_after {
        response.headers_mut().insert("retry-after", wait.as_secs().into());
    }
    response
}

fn respond(status: StatusCode, kind: &'static str, observed: &Observed, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static(kind));
    let mut tell = |name: &'static str, text: String| {
        if let Ok(value) = text.parse() {
            headers.insert(name, value);
        }
    };
    let number = |value: Option<u64>| value.unwrap_or(0).to_string();
    let reset = |window: &Window| format!("{}ms", window.reset.unwrap_or_default().as_millis());
    if let Some(window) = &observed.requests {
        tell("x-ratelimit-limit-requests", number(window.limit));
        tell("x-ratelimit-remaining-requests", number(window.remaining));
        tell("x-ratelimit-reset-requests", reset(window));
    }
    if let Some(window) = &observed.tokens {
        tell("x-ratelimit-limit-tokens", number(window.limit));
        tell("x-ratelimit-remaining-tokens", number(window.remaining));
        tell("x-ratelimit-reset-tokens", reset(window));
    }
    response
}

/// One process's connection to the server; cut, it hears nothing more, as a killed process does.
pub struct Line {
    remote: Arc<Remote>,
    cut: CancellationToken,
}

impl Line {
    /// A connection until `cut`.
    pub fn transport(remote: Arc<Remote>, cut: CancellationToken) -> Arc<dyn Transport> {
        Arc::new(Line { remote, cut })
    }
}

#[async_trait]
impl Transport for Line {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Body>, TransportError> {
        let after = timeouts.first_byte;
        let answer = timeout(after, self.remote.answer(request.body()));
        tokio::select! {
            biased;
            () = self.cut.cancelled() => pending().await,
            answer = answer => answer.unwrap_or(Err(TransportError::Timeout { what: "answer", after })),
        }
    }
}
