//! Several endpoints: who is asked first, who stays, who takes over, and what is heard where none can.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Actor;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use steadfast_core::budget::LimitSettings;
use steadfast_core::chat::{Message, ModelRequest};
use steadfast_core::failure::GateReason;
use steadfast_core::job::JobId;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use steadfast_llm::{Endpoint, LlmClient};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PausedClock, paused, settings};
use crate::Settings;
use crate::accountant::{BudgetKey, EndpointId, Outlook, RateAccountant};
use crate::address::{Address, address};
use crate::calls::Order;
use crate::calls::{CallError, Caller, Patience};
use crate::dice::Dice;
use crate::llm::{Answered, Complete, Llm};
use crate::meter::Meter;
use crate::settings::EndpointBudget;
use crate::supervisor::Lifeline;
use crate::watch;

const QUOTA: &str = r#"{"error":{"message":"pay","code":"insufficient_quota"}}"#;
const GOOD: &str = r#"{"model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;

/// Servers by host: each answers with a status of its own, and all requests are kept.
#[derive(Default)]
struct Servers {
    statuses: Mutex<Vec<(&'static str, u16)>>,
    asked: Mutex<Vec<String>>,
    latency: Mutex<Duration>,
}

impl Servers {
    /// From here on that host answers so.
    fn answer(&self, host: &'static str, status: u16) {
        let mut statuses = self.statuses.lock().unwrap();
        statuses.retain(|(known, _)| *known != host);
        statuses.push((host, status));
    }

    /// Who was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Transport for Servers {
    async fn send(&self, request: Request<Bytes>, _: Timeouts) -> Result<Response<Body>, TransportError> {
        let host = request.uri().host().unwrap().to_owned();
        let known = self.statuses.lock().unwrap().iter().find(|(known, _)| *known == host).copied();
        self.asked.lock().unwrap().push(host);
        let status = known.map_or(200, |(_, status)| status);
        let body = match status {
            200 => GOOD,
            402 => QUOTA,
            _ => r#"{"error":{"message":"no"}}"#,
        };
        let latency = *self.latency.lock().unwrap();
        tokio::time::sleep(latency).await;
        let body: Body = Box::pin(futures_util::stream::iter([Ok(Bytes::from(body))]));
        Ok(Response::builder().status(status).body(body).unwrap())
    }
}

struct Bench {
    servers: Arc<Servers>,
    llm: Address<Llm>,
    accountant: Address<RateAccountant>,
    clock: Arc<PausedClock>,
}

/// An Llm with the endpoints `a` and `b`, and an accountant.
fn bench(change: impl FnOnce(&mut Settings)) -> Bench {
    let mut settings = settings();
    settings.llm_spacing = Duration::ZERO;
    settings.llm_endpoints = ["a", "b"]
        .map(|name| EndpointBudget { name: name.to_owned(), limits: LimitSettings::UNKNOWN })
        .to_vec();
    change(&mut settings);
    let servers = Arc::new(Servers::default());
    let clock = Arc::new(PausedClock::new());
    let client = |endpoint: &EndpointBudget| {
        let settings: steadfast_llm::Settings = serde_json::from_value(serde_json::json!({
            "base_url": format!("http://{}/v1", endpoint.name), "model": "m", "stream": false,
            "tools": "native", "max_tokens_field": "auto", "max_answer_tokens": 100,
            "temperature": "default", "timeout": "30s", "answer_timeout": "10m",
            "max_answer_bytes": "1MB", "quota_recheck": "15m", "max_server_wait": "1h",
            "spacing": "0s", "context_window": 10000,
            "price": {"prompt": 0.0, "cached": 0.0, "completion": 0.0},
        }))
        .unwrap();
        let endpoint = Endpoint::new(&settings.base_url, String::new().into()).unwrap();
        Arc::new(LlmClient::new(endpoint, settings, servers.clone(), clock.clone()))
    };
    let clients: Vec<_> = settings.llm_endpoints.iter().map(client).collect();
    let (nobody, _) = address(Meter::new("supervisor"), 100);
    let (accountant, binding) = address(Meter::new("rate_accountant"), 100);
    let lifeline = Lifeline::new(0, nobody.clone());
    binding.bind(RateAccountant::new(&settings, clock.clone(), accountant.clone(), lifeline).start());
    let (llm, binding) = address(Meter::new("llm"), 100);
    let caller = Caller {
        accountant: accountant.clone(),
        clock: clock.clone(),
        dice: Dice::seeded(1),
        park_after: settings.job.park_after,
    };
    binding.bind(Llm::new(&clients, caller, &settings, Lifeline::new(1, nobody)).start());
    Bench { servers, llm, accountant, clock }
}

impl Bench {
    async fn ask(&self, prefers: Option<&str>) -> Result<Answered, CallError> {
        // The other end is kept by nobody: the lease is sure for longer than any test.
        let (_keep, leased) = watch::channel(Instant::now() + Duration::from_secs(1_000_000));
        let patience = Patience {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            leased,
            span: tracing::Span::none(),
        };
        let request = ModelRequest {
            messages: vec![Message::User { content: "task".into() }],
            tools: Vec::new().into(),
            max_answer_tokens: 100,
        };
        let complete = Complete {
            job: JobId::new("job").unwrap(),
            order: Order { priority: 0, admitted: Timestamp::from_secs(1) },
            patience,
            prefers: prefers.map(str::to_owned),
            request,
        };
        self.llm.send(complete).await.unwrap()
    }

    /// Who answers.
    async fn answerer(&self, prefers: Option<&str>) -> String {
        self.ask(prefers).await.unwrap().endpoint.unwrap()
    }

    async fn outlook(&self, endpoint: u16, tokens: Option<u64>) -> Duration {
        let key = BudgetKey::Llm(EndpointId(endpoint));
        self.accountant.send(Outlook { key, tokens }).await.unwrap()
    }
}

#[test]
fn the_first_is_asked_and_a_job_stays_where_it_was() {
    paused(async {
        let bench = bench(|_| {});
        assert_eq!(bench.answerer(None).await, "a");
        assert_eq!(bench.answerer(Some("b")).await, "b", "its cache holds the conversation");
        assert_eq!(bench.answerer(Some("gone")).await, "a", "one that was taken out of the list");
        assert_eq!(bench.servers.asked(), ["a", "b", "a"]);
    });
}

#[test]
fn what_the_first_has_no_budget_for_goes_to_the_next_and_then_to_the_soonest() {
    paused(async {
        let bench = bench(|settings| {
            settings.llm_endpoints[0].limits.concurrency = 1;
            settings.llm_endpoints[1].limits.concurrency = 1;
        });
        *bench.servers.latency.lock().unwrap() = Duration::from_secs(10);
        let (one, other, third) =
            tokio::join!(bench.answerer(None), bench.answerer(None), bench.answerer(None));
        assert_eq!([one, other, third], ["a", "b", "a"], "the third waits its turn");
        *bench.servers.latency.lock().unwrap() = Duration::from_millis(500);
        let both = tokio::join!(bench.answerer(None), bench.answerer(None));
        assert_eq!(both, ("a".to_owned(), "a".to_owned()), "a second is no reason to go elsewhere");
    });
}

#[test]
fn outlooks_are_each_endpoints_own_and_know_what_a_request_would_wait() {
    paused(async {
        let bench = bench(|settings| {
            settings.llm_endpoints[0].limits.tokens_per_minute = 600;
            settings.llm_endpoints[0].limits.burst = 1;
        });
        assert_eq!(bench.outlook(0, Some(10)).await, Duration::ZERO);
        for _ in 0..6 {
            bench.ask(Some("a")).await.unwrap();
        }
        let (of_a, of_b) = (bench.outlook(0, Some(500)).await, bench.outlook(1, Some(500)).await);
        let second = Duration::from_secs(1);
        assert!(of_a > 5 * second && of_b < second, "{of_a:?} {of_b:?}");
        assert_eq!(bench.outlook(0, None).await, Duration::ZERO, "no door is shut");
        assert!(bench.servers.asked().contains(&"b".to_owned()), "the rest of them went there");
    });
}

#[test]
fn a_refused_key_sends_the_turn_on_at_once_and_the_next_ones_straight_there() {
    paused(async {
        for status in [401, 402] {
            let bench = bench(|_| {});
            bench.servers.answer("a", status);
            let begin = Instant::now();
            assert_eq!(bench.answerer(None).await, "b");
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
            assert_eq!(bench.answerer(Some("a")).await, "b");
            assert_eq!(bench.servers.asked(), ["a", "b", "b"], "{status}: a shut door is not asked again");
            assert!(bench.outlook(0, None).await > Duration::from_secs(800));
            assert_eq!(bench.outlook(1, None).await, Duration::ZERO);
            // Somebody has mended it.
            bench.servers.answer("a", 200);
            tokio::time::sleep(Duration::from_secs(901)).await;
            assert_eq!(bench.answerer(None).await, "a");
        }
    });
}

#[test]
fn where_no_endpoint_takes_it_the_job_parks_until_the_first_may() {
    paused(async {
        let bench = bench(|_| {});
        bench.servers.answer("a", 402);
        assert_eq!(bench.answerer(None).await, "b");
        tokio::time::sleep(Duration::from_secs(600)).await;
        bench.servers.answer("b", 402);
        let Err(CallError::Park { until, reason, .. }) = bench.ask(Some("b")).await else {
            panic!("no wait")
        };
        assert_eq!(reason, GateReason::Quota);
        let wait = until.since(bench.clock.now()).as_secs();
        assert!((295..=301).contains(&wait), "{wait}: a's door opens first");
        bench.servers.asked();
        assert!(matches!(bench.ask(None).await, Err(CallError::Park { .. })));
        assert_eq!(bench.servers.asked(), Vec::<String>::new());
    });
}

#[test]
fn a_key_that_all_refuse_ends_the_job_and_one_that_waits_keeps_it() {
    paused(async {
        let bench = bench(|_| {});
        bench.servers.answer("a", 401);
        bench.servers.answer("b", 401);
        let refused = bench.ask(None).await;
        assert!(
            matches!(&refused, Err(CallError::Fatal(failure)) if failure.status == Some(401)),
            "{refused:?}"
        );
        let later = bench.ask(None).await;
        assert!(matches!(&later, Err(CallError::Park { reason: GateReason::Credentials, .. })), "{later:?}");

        let bench = self::bench(|_| {});
        bench.servers.answer("a", 402);
        bench.servers.answer("b", 401);
        let waits = bench.ask(None).await;
        assert!(matches!(&waits, Err(CallError::Park { reason: GateReason::Quota, .. })), "{waits:?}");
    });
}

#[test]
fn the_retries_of_a_turn_stay_where_it_began() {
    paused(async {
        let bench = bench(|_| {});
        bench.servers.answer("a", 503);
        let result = bench.ask(None).await;
        assert!(matches!(&result, Err(CallError::Exhausted { attempts: 5, .. })), "{result:?}");
        assert_eq!(bench.servers.asked(), ["a"; 5]);
        // Its breaker is open now: the next run begins elsewhere.
        assert_eq!(bench.answerer(Some("a")).await, "b");
    });
}
