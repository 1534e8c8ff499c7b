//! Alerts: what is told, how seldom, and that a webhook in trouble holds up nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Actor;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use steadfast_core::budget::LimitSettings;
use steadfast_core::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::job::JobId;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use tokio::time::Instant;

use super::{PausedClock, paused, settings};
use crate::accountant::{Acquire, BudgetKey, End, EndpointId, Need, RateAccountant};
use crate::address::{Address, address};
use crate::alerts::{Alarm, Alert, AlertKind, Alerts, Flush, UnusableWebhook, Webhook};
use crate::calls::Order;
use crate::meter::Meter;
use crate::settings::EndpointBudget;
use crate::supervisor::Lifeline;

const ADDRESS: &str = "https://hooks.example/services/secret";

/// What the webhook does with one request; without a word it takes it.
#[derive(Clone, Copy)]
pub(super) enum Reply {
    Status(u16),
    Hang,
}

/// Answers as it was told to, and keeps what it was sent.
#[derive(Default)]
pub(super) struct Hook {
    replies: Mutex<VecDeque<Reply>>,
    told: Mutex<Vec<(Instant, Value)>>,
}

impl Hook {
    pub(super) fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }
}

#[async_trait]
impl Transport for Hook {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Body>, TransportError> {
        assert_eq!(request.uri().to_string(), ADDRESS);
        assert_eq!(request.headers()["content-type"], "application/json");
        let body = serde_json::from_slice(request.body()).unwrap();
        self.told.lock().unwrap().push((Instant::now(), body));
        let reply = self.replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(204));
        match reply {
            Reply::Status(status) => {
                let body: Body = Box::pin(futures_util::stream::empty());
                Ok(Response::builder().status(status).body(body).unwrap())
            }
            Reply::Hang => {
                tokio::time::sleep(timeouts.first_byte).await;
                Err(TransportError::Timeout { what: "answer", after: timeouts.first_byte })
            }
        }
    }
}

/// Alerts that go to a hook with these replies.
pub(super) fn bench(replies: impl IntoIterator<Item = Reply>) -> (Arc<Hook>, Address<Alerts>) {
    let hook = Arc::new(Hook { replies: Mutex::new(replies.into_iter().collect()), ..Hook::default() });
    let webhook = Webhook::new(&ADDRESS.to_owned().into(), hook.clone()).unwrap();
    let (alerts, binding) = address(Meter::new("alerts"), 100);
    let (nobody, _) = address(Meter::new("supervisor"), 100);
    let clock = Arc::new(PausedClock::new());
    let lifeline = Lifeline::new(0, nobody);
    let webhook = Some(Arc::new(webhook));
    binding.bind(Alerts::new(webhook, settings().alerts, "box-1".into(), clock, lifeline).start());
    (hook, alerts)
}

fn of(budget: &str, reason: GateReason) -> Alert {
    let until = Timestamp::from_secs(1_760_000_900);
    Alert::of_budget(AlertKind::GateClosed, Provider::Llm, budget.to_owned(), reason, until)
}

#[test]
fn what_is_told_is_one_object_with_a_sentence() {
    paused(async {
        let (hook, alerts) = bench([]);
        alerts.send(of("llm:main", GateReason::Quota)).await.unwrap();
        alerts.send(Alert::escalation("more than 3 restarts within 60s, the last of llm")).await.unwrap();
        alerts.send(Alert::poison(&JobId::new("j-1").unwrap(), "set aside\nafter step 3")).await.unwrap();
        alerts.send(Flush).await.unwrap();
        let mut told = hook.told();
        let since = told[0]["since"].as_str().unwrap().to_owned();
        assert!(since.starts_with("2025-10-09T08:53:20."), "{since}");
        for one in &mut told {
            one["since"] = json!("now");
        }
        let until = "2025-10-09T09:08:20.000Z";
        let want = json!([
            {"event": "gate_closed", "provider": "llm", "budget": "llm:main", "reason": "quota exhausted",
             "since": "now", "until": until, "process": "box-1",
             "text": format!("llm:main: quota exhausted: nothing is sent before {until}; someone must pay")},
            {"event": "escalation", "provider": null, "budget": null, "since": "now", "until": null,
             "reason": "more than 3 restarts within 60s, the last of llm", "process": "box-1",
             "text": "more than 3 restarts within 60s, the last of llm: the process drains and ends with an error"},
            {"event": "poison", "provider": null, "budget": null, "reason": "poison", "since": "now",
             "until": null, "process": "box-1", "text": "job j-1: set aside after step 3"},
        ]);
        assert_eq!(json!(told), want);
    });
}

#[test]
fn each_kind_about_each_budget_is_told_seldom_and_what_was_held_back_is_counted() {
    paused(async {
        let (hook, alerts) = bench([]);
        for _ in 0..4 {
            alerts.send(of("llm", GateReason::Quota)).await.unwrap();
        }
        alerts.send(of("llm:b", GateReason::Quota)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(299)).await;
        alerts.send(of("llm", GateReason::Quota)).await.unwrap();
        assert_eq!(hook.told().len(), 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        alerts.send(of("llm", GateReason::Quota)).await.unwrap();
        alerts.send(Flush).await.unwrap();
        let told = hook.told();
        let last = told[2]["text"].as_str().unwrap();
        assert!(told.len() == 3 && last.ends_with("; 4 more like it since the last alert"), "{told:#?}");
    });
}

#[test]
fn of_many_budgets_the_oldest_are_forgotten() {
    paused(async {
        let (hook, alerts) = bench([]);
        for number in 0..1_001 {
            alerts.send(of(&format!("github:{number}"), GateReason::Credentials)).await.unwrap();
            alerts.send(Flush).await.unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(hook.told().len(), 1_001);
        for (number, told) in [(1_000, 1_001), (0, 1_002)] {
            alerts.send(of(&format!("github:{number}"), GateReason::Credentials)).await.unwrap();
            alerts.send(Flush).await.unwrap();
            assert_eq!(hook.told().len(), told, "{number}");
        }
    });
}

#[test]
fn what_is_not_taken_is_tried_again_and_what_is_refused_is_not() {
    paused(async {
        use Reply::{Hang, Status};
        let rows: [(&[Reply], usize); 5] = [
            (&[Status(503), Hang, Status(200)], 3),
            (&[Status(503); 9], 4),
            (&[Status(404)], 1),
            (&[Status(302)], 1),
            (&[Status(200)], 1),
        ];
        for (replies, tries) in rows {
            let (hook, alerts) = bench(replies.iter().copied());
            alerts.send(of("llm", GateReason::Quota)).await.unwrap();
            alerts.send(Flush).await.unwrap();
            let told = hook.told();
            assert_eq!(told.len(), tries);
            assert!(told.iter().all(|one| *one == told[0]), "the same each time: {told:#?}");
        }
    });
}

#[test]
fn a_webhook_that_hangs_holds_up_nobody_and_memory_is_bounded() {
    paused(async {
        let (hook, alerts) = bench([Reply::Hang; 1000]);
        let alarm = Alarm(alerts.clone());
        let begin = Instant::now();
        for number in 0..50 {
            alarm.raise(of(&format!("github:{number}"), GateReason::Credentials));
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        alerts.send(of("llm", GateReason::Credentials)).await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(10), "{:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(hook.told().len(), 16);
        alerts.send(Flush).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(120), "given up in the end: {:?}", begin.elapsed());
    });
}

#[test]
fn the_accountant_tells_of_doors_that_a_person_must_open_and_of_breakers() {
    paused(async {
        let (hook, alerts) = bench([]);
        let mut settings = settings();
        settings.llm_spacing = Duration::ZERO;
        settings.llm_endpoints = ["a", "b"]
            .map(|name| EndpointBudget { name: name.to_owned(), limits: LimitSettings::UNKNOWN })
            .to_vec();
        let (accountant, binding) = address(Meter::new("rate_accountant"), 100);
        let (nobody, _) = address(Meter::new("supervisor"), 100);
        let clock = Arc::new(PausedClock::new());
        let actor =
            RateAccountant::new(&settings, clock.clone(), accountant.clone(), Lifeline::new(0, nobody));
        binding.bind(actor.alerting(Alarm(alerts.clone())).start());
        let meets = async |key: BudgetKey, verdict: Verdict, status: u16| {
            let order = Order { priority: 0, admitted: Timestamp::from_secs(1) };
            let need = Need { operation: "chat", tokens: 1, order, is_retry: false };
            let acquire = Acquire { key, need, patience: Duration::from_secs(60) };
            let permit = accountant.send(acquire).await.unwrap().permit().await.unwrap().unwrap();
            let failure = Failure {
                verdict,
                provider: Provider::Llm,
                operation: "chat",
                status: Some(status),
                message: "wrong key: sk-secret".into(),
                request_id: None,
                maybe_charged: false,
                unhealthy: status >= 500,
            };
            permit.report(Observed::default(), End::Failed(failure)).await;
        };
        let [a, b] = [0, 1].map(|id| BudgetKey::Llm(EndpointId(id)));
        let wait = |reason| Verdict::WaitUntil { at: clock.now() + Duration::from_secs(50), reason };
        meets(BudgetKey::Github(7), wait(GateReason::SecondaryLimit), 403).await;
        meets(b.clone(), wait(GateReason::Quota), 429).await;
        meets(BudgetKey::Github(0), Verdict::Fatal { why: FatalReason::Credentials }, 401).await;
        for _ in 0..5 {
            meets(a.clone(), Verdict::Retry { after: None }, 503).await;
        }
        alerts.send(Flush).await.unwrap();
        let told = hook.told();
        let news =
            |one: &Value| ["event", "budget", "reason"].map(|key| one[key].as_str().unwrap().to_owned());
        let want = [
            ["gate_closed", "llm:b", "quota exhausted"],
            ["gate_closed", "github:personal", "credentials refused"],
            ["breaker_opened", "llm:a", "unavailable"],
        ];
        assert_eq!(told.iter().map(news).collect::<Vec<_>>(), want);
        assert!(!json!(told).to_string().contains("secret"), "{told:#?}");
    });
}

#[test]
fn an_address_that_cannot_be_told_anything_is_refused_without_showing_it() {
    let rows = [
        ("hooks.example/hunter2", UnusableWebhook::Address),
        ("ftp://hooks.example/hunter2", UnusableWebhook::Address),
        ("https://me:hunter2@hooks.example/", UnusableWebhook::UserInfo),
    ];
    for (address, want) in rows {
        let error = Webhook::check(&address.to_owned().into()).unwrap_err();
        assert_eq!(error, want, "{address}");
        assert!(!error.to_string().contains("hunter2"));
    }
}
