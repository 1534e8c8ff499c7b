//! Alerts: what a person must know reaches the webhook, once and without secrets; a webhook that is
//! away costs nobody anything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::in_process::{Hook, Village, paused};
use crate::support::{API_KEY, Queue, TOKEN, Town, eventually, job};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn hours_without_quota_are_told_a_few_times_and_a_webhook_that_is_away_holds_up_nobody() {
    for away in [false, true] {
        paused(async move {
            let hook = Hook::new(away);
            let village =
                Village::with(|_| {}, "", |store| store, |world| world.transport(), Some(hook.webhook()))
                    .await;
            let chat = Target::Operation(Operation::Chat);
            let rule = FaultRule::between(chat, Duration::ZERO, HOUR, Fault::insufficient_quota());
            village.world.fault(rule);
            for (id, issue) in [("one", 1), ("two", 2), ("three", 3)] {
                village.store.submit(&job(id, issue)).await.unwrap();
            }
            for id in ["one", "two", "three"] {
                village.wait_for(id, State::Ended, 3 * HOUR).await;
            }
            assert_eq!(village.world.records().pulls.len(), 3);
            village.running.drain().await;
            let told = hook.told();
            // It looks again each quarter of an hour; one that is away is tried four times each.
            let most = if away { 6 * 4 } else { 6 };
            assert!((3..=most).contains(&told.len()), "{}: {told:#?}", told.len());
            for one in &told {
                assert_eq!(one["event"], "gate_closed", "{one}");
                assert_eq!((&one["provider"], &one["budget"]), (&"llm".into(), &"llm".into()));
                assert_eq!(
                    (&one["reason"], &one["process"]),
                    (&"quota exhausted".into(), &"in-process".into())
                );
                assert!(one["until"].as_str() > one["since"].as_str(), "{one}");
            }
        });
    }
}

/// Answers one request after the other, and keeps what was posted.
async fn listen(listener: TcpListener, posted: Arc<Mutex<Vec<String>>>) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        // The whole of it is there with the object's end.
        while !text.ends_with(b"}") {
            match socket.read(&mut piece).await.unwrap() {
                0 => break,
                read => text.extend_from_slice(&piece[..read]),
            }
        }
        posted.lock().unwrap().push(String::from_utf8(text).unwrap());
        socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_told_over_the_wire_and_neither_it_nor_the_webhook_is_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let posted = Arc::new(Mutex::new(Vec::new()));
    let listening = tokio::spawn(listen(listener, Arc::clone(&posted)));
    let path = "/services/T0123/webhook-secret-0123456789";
    let extra = format!("alerts.webhook = \"http://{address}{path}\"\nlog.level = \"trace\"");
    let mut town = Town::with(Queue::Sqlite, |_| {}, &extra).await;
    let chat = Target::Operation(Operation::Chat);
    town.world.fault(FaultRule::next(chat, 1, Fault::unauthorized()));
    town.submit("one", 1).await;
    let mut worker = town.worker();
    let told = eventually("an alert", async || posted.lock().unwrap().first().cloned()).await;
    let told = told.unwrap_or_else(|| panic!("nobody was told\n{}", town.logs()));
    town.end_of("one").await;
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    listening.abort();
    assert!(told.starts_with(&format!("POST {path} HTTP/1.1")), "{told}");
    let body: Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&body["event"], &body["budget"]), (&"gate_closed".into(), &"llm".into()), "{body}");
    assert_eq!(body["reason"], "credentials refused");
    assert_eq!(posted.lock().unwrap().len(), 1, "once");
    for secret in [API_KEY, TOKEN] {
        assert!(!told.contains(secret));
    }
    let logs = std::fs::read_to_string(&worker.log).unwrap();
    assert!(logs.contains("job claimed") && !logs.contains("webhook-secret"), "the webhook is in the log");
}
