//! A server that cannot do it now, refuses, hangs or is something else: the error says so, nothing
//! is lost, and the queue goes on when the server does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{Admission, Renewal, Requeue, Settings, StoreError, open};
use tokio::io::AsyncWriteExt;

use super::fleet::Talk;
use super::gate::Gate;
use crate::world::*;

/// What every call says while the server answers so; and that afterwards all is as it was.
async fn while_it_answers(error: &str, check: impl Fn(&StoreError)) {
    let server = RedisServer::start();
    let gate = Gate::before(&server);
    let store = open(&Settings::for_tests(gate.url()), "a").await.unwrap();
    let claim = running(&*store, "held").await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], None).await.unwrap();
    store.submit(&job("queued")).await.unwrap();
    gate.answer(&server, error);
    let lease = std::slice::from_ref(&claim.lease);
    let failed = Requeue::Failed { error: "x".into() };
    let refused = [
        store.submit(&job("new")).await.err(),
        store.claim(9).await.err(),
        store.wait(BOUND).await.err(),
        store.renew(lease).await.err(),
        store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.err(),
        store.replay(&id("held")).await.err(),
        store.park(&claim.lease, Timestamp::MAX, "x").await.err(),
        store.requeue(&claim.lease, Duration::ZERO, &failed).await.err(),
        store.release(&claim.lease).await.err(),
        store.settle(&claim.lease, &completed()).await.err(),
        store.cancel(&id("held")).await.err(),
        store.inspect(&id("held")).await.err(),
        store.list(None, 9).await.err(),
        store.count().await.err(),
        store.purge().await.err(),
        store.now().await.err(),
        store.ledger().say("llm", b"x").await.err(),
        store.ledger().budgets(9).await.err(),
    ];
    for (n, error) in refused.into_iter().enumerate() {
        match error {
            Some(error) => check(&error),
            None => panic!("call {n} took {error:?} for an answer"),
        }
    }
    gate.open(&server);
    assert_eq!(store.renew(lease).await.unwrap(), [Renewal::Held], "{error}");
    assert_eq!(store.count().await.unwrap(), [1, 1, 0, 0], "{error}");
    store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.unwrap();
    assert_eq!(store.submit(&job("new")).await.unwrap(), Admission::Queued);
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["queued", "new"]);
    store.settle(&claim.lease, &completed()).await.unwrap();
}

#[tokio::test]
async fn what_passes_says_so_and_everything_goes_on_after_it() {
    for (answer, word) in [
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "failing over"),
        ("CLUSTERDOWN The cluster is down", "failing over"),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", "failing over"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "moving"),
        ("BUSY Redis is busy running a script.", "another client's script"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist", "its disk"),
        ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
        ("READONLY You can't write against a read only replica.", "replica"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "noeviction"),
    ] {
        while_it_answers(answer, |error| {
            let right = matches!(error, StoreError::Unavailable(why) if why.contains(word));
            assert!(right, "{answer}: {error:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_person_must_mend_says_so_and_everything_goes_on_after_it() {
    for (answer, word) in [
        ("NOAUTH Authentication required.", "PASSWORD"),
        ("NOPERM this user has no permissions to run the 'x' command", "docs/redis.md"),
        ("DENIED Redis is running in protected mode", "protected mode"),
    ] {
        while_it_answers(answer, |error| {
            // It served before: it is away until it serves again, and no job suffers for it.
            let right = matches!(error, StoreError::Unavailable(why) if why.contains(word));
            assert!(right, "{answer}: {error:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn who_is_no_redis_is_told_from_one_that_hangs() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let said = Arc::new(Mutex::new(""));
    let says = Arc::clone(&said);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let words = *says.lock().unwrap();
            // Who hung up already has seen enough.
            let _ = socket.write_all(words.as_bytes()).await;
            open.push(socket);
        }
    });
    let mut settings = Settings::for_tests(format!("redis://{address}"));
    settings.connect_timeout = Duration::from_millis(200);
    let garbage =
        ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\u{15}\u{3}\u{1}\0\u{2}\u{2}\n\r\n"];
    for words in garbage {
        *said.lock().unwrap() = words;
        let error = open(&settings, "a").await.err();
        assert!(
            matches!(&error, Some(StoreError::Unusable(why)) if why.contains("not redis")),
            "{words}: {error:?}"
        );
    }
    *said.lock().unwrap() = "";
    let error = open(&settings, "a").await.err();
    assert!(matches!(&error, Some(StoreError::Unavailable(why)) if why.contains("200ms")), "{error:?}");
}

/// Keeps what is warned of on this thread.
#[derive(Clone, Default)]
pub struct Warned(pub Arc<Mutex<String>>);

impl tracing::field::Visit for Warned {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        write!(self.0.lock().unwrap(), " {field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Warned {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_server_that_drops_keys_is_warned_of_once() {
    let warned = Warned::default();
    let _guard = tracing::subscriber::set_default(warned.clone());
    let mut server = RedisServer::with(&["--maxmemory-policy", "allkeys-lru"]);
    let store = open(&Settings::for_tests(server.url()), "a").await.unwrap();
    let said = std::mem::take(&mut *warned.0.lock().unwrap());
    assert!(said.contains("allkeys-lru") && said.contains("noeviction"), "{said}");
    server.restart();
    store.submit(&job("x")).await.unwrap();
    let good = RedisServer::start();
    open(&Settings::for_tests(good.url()), "a").await.unwrap();
    assert_eq!(*warned.0.lock().unwrap(), "");
}

#[tokio::test]
async fn a_full_server_takes_nothing_in_and_lets_everything_out() {
    let server = RedisServer::with(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let settings = Settings { keep_ended: Duration::ZERO, ..Settings::for_tests(server.url()) };
    let store = open(&settings, "a").await.unwrap();
    let held = running(&*store, "held").await;
    // It fills up by its own load, not by a setting changed under it.
    let mut taken = 0;
    let full = loop {
        match store.submit(&job(&format!("job-{taken}"))).await {
            Ok(Admission::Queued) => taken += 1,
            Ok(other) => panic!("job-{taken} was not there: {other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(&full, StoreError::Unavailable(why) if why.contains("maxmemory")), "{full:?}");
    assert!(taken > 100, "{taken}");
    let large = vec![vec![b'x'; 1000]; 10];
    assert!(matches!(store.append(&held.lease, 0, &large, None).await, Err(StoreError::Unavailable(_))));
    assert_eq!(store.renew(std::slice::from_ref(&held.lease)).await.unwrap(), [Renewal::Held]);
    // What ends makes room, and the rest goes on: all that were taken in, each once.
    store.settle(&held.lease, &completed()).await.unwrap();
    let mut cancelled = 0;
    while store.submit(&job("one-more")).await.is_err() {
        store.cancel(&id(&format!("job-{cancelled}"))).await.unwrap();
        store.purge().await.unwrap();
        cancelled += 1;
        assert!(cancelled < taken, "room is made by what goes");
    }
    let _: String = Talk::to(&server.url()).await.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let mut done = 0;
    loop {
        let claims = store.claim(256).await.unwrap();
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            assert_eq!(claim.counts.runs, 1);
            store.settle(&claim.lease, &completed()).await.unwrap();
            done += 1;
        }
    }
    assert_eq!(done, taken - cancelled + 1);
}

#[tokio::test]
async fn many_callers_wait_for_a_silent_server_once_and_not_in_a_row() {
    let server = RedisServer::start();
    let gate = Gate::before(&server);
    let connect_timeout = Duration::from_millis(300);
    let store = open(&Settings { connect_timeout, ..Settings::for_tests(gate.url()) }, "a").await.unwrap();
    let claim = running(&*store, "held").await;
    let before = gate.lead_nowhere();
    let lease = std::slice::from_ref(&claim.lease);
    let calls = futures_util::future::join_all((0..50).map(|_| store.renew(lease))).await;
    for error in calls.into_iter().map(Result::unwrap_err) {
        assert!(matches!(&error, StoreError::Unavailable(_)), "{error:?}");
    }
    let came = gate.came() - before;
    assert!(came <= 2, "{came} connections for one outage");
    gate.open(&server);
    assert_eq!(store.renew(lease).await.unwrap(), [Renewal::Held]);
}

#[tokio::test]
async fn a_server_with_as_many_clients_as_it_takes_says_so() {
    let server = RedisServer::with(&["--maxclients", "5"]);
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(Talk::to(&server.url()).await);
    }
    let error = open(&Settings::for_tests(server.url()), "a").await.err();
    assert!(
        matches!(&error, Some(StoreError::Unavailable(why)) if why.contains("as many clients")),
        "{error:?}"
    );
    drop(others);
    super::cluster::in_the_end("room", async || open(&Settings::for_tests(server.url()), "a").await).await;
}
