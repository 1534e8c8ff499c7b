//! The queue behind Sentinel: the master dies, another takes its place, and everything goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use steadfast_store::{Admission, Renewal, Settings, StoreError, open};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::cluster::{in_the_end, next_claims};
use super::fleet::{Node, Watched, free_port, until};
use super::gate::{request, written};
use crate::world::*;

#[tokio::test]
async fn a_dead_master_is_followed_by_the_one_that_sentinel_makes() {
    let mut watched = Watched::start().await;
    let settings = Settings::for_tests(watched.url());
    let store = open(&settings, "a").await.unwrap();
    assert!(store.name().starts_with("redis+sentinel://127.0.0.1:"), "{}", store.name());
    let claim = running(&*store, "held").await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    let mut listener = store.ledger().listen("me#1").await.unwrap();
    let waiting = tokio::spawn(next_claims(open(&settings, "b").await.unwrap()));
    let replicas: i64 = watched.servers[0].talk().await.run(&["WAIT", "1", "5000"]).await;
    assert_eq!(replicas, 1);
    // One sentinel less is none too few.
    watched.lose_a_sentinel();
    watched.servers[0].server.stop();
    let lease = std::slice::from_ref(&claim.lease);
    let error = store.renew(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");

    assert_eq!(in_the_end("a failover", async || store.renew(lease).await).await, [Renewal::Held]);
    store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.unwrap();
    assert_eq!(store.replay(&id("held")).await.unwrap().steps.len(), 2);
    assert!(soon("the end of listening", listener.next()).await.is_err());
    let _again = in_the_end("listening", async || store.ledger().listen("me#1").await).await;
    assert_eq!(store.submit(&job("new")).await.unwrap(), Admission::Queued);
    assert_eq!(ids(&soon("the claim", waiting).await.unwrap()), ["new"]);
    store.settle(&claim.lease, &completed()).await.unwrap();

    // The master that was comes back, is made a replica, and nobody writes to it.
    watched.servers[0].server.restart();
    watched.servers[0].becomes_a_replica().await;
    let late = open(&settings, "late").await.unwrap();
    assert_eq!(late.count().await.unwrap(), [0, 1, 0, 1]);
    assert_eq!(late.submit(&job("new")).await.unwrap(), Admission::Duplicate);

    // What cannot be: a name that nobody watches, a sentinel taken for Redis, Redis for a sentinel.
    let refused = async |url: String| match open(&Settings::for_tests(url), "a").await.err() {
        Some(StoreError::Unusable(why)) => why,
        other => panic!("{other:?}"),
    };
    let unknown = refused(watched.url().replace("/queue", "/nobody")).await;
    assert!(unknown.contains("nobody"), "{unknown}");
    let is_sentinel = refused(format!("redis://{}", watched.live_sentinel())).await;
    assert!(is_sentinel.contains("redis+sentinel://"), "{is_sentinel}");
    let no_sentinel = refused(format!("redis+sentinel://127.0.0.1:{}/queue", watched.servers[1].port)).await;
    assert!(no_sentinel.contains("sentinel"), "{no_sentinel}");
    let nobody =
        open(&Settings::for_tests("redis+sentinel://127.0.0.1:1,127.0.0.1:2/queue"), "a").await.err();
    assert!(matches!(nobody, Some(StoreError::Unavailable(_))), "{nobody:?}");
}

#[tokio::test]
async fn a_master_that_hangs_is_left_for_the_next() {
    let watched = Watched::start().await;
    let settings =
        Settings { response_timeout: Duration::from_millis(500), ..Settings::for_tests(watched.url()) };
    let store = open(&settings, "a").await.unwrap();
    let claim = running(&*store, "held").await;
    let mut listener = store.ledger().listen("me#1").await.unwrap();
    let waiting = tokio::spawn(next_claims(open(&settings, "b").await.unwrap()));
    let mut master = watched.servers[0].talk().await;
    assert_eq!(master.run::<i64>(&["WAIT", "1", "5000"]).await, 1);
    let hanging = tokio::spawn(async move { master.ask::<String>(&["DEBUG", "SLEEP", "5"]).await.is_ok() });
    let lease = std::slice::from_ref(&claim.lease);
    until("a hanging master", async || store.renew(lease).await.is_err()).await;
    assert_eq!(in_the_end("a failover", async || store.renew(lease).await).await, [Renewal::Held]);
    assert_eq!(store.submit(&job("new")).await.unwrap(), Admission::Queued);
    assert_eq!(ids(&soon("the claim", waiting).await.unwrap()), ["new"]);
    assert!(soon("the end of listening", listener.next()).await.is_err());
    let promoted: Vec<redis::Value> = watched.servers[1].talk().await.run(&["ROLE"]).await;
    assert_eq!(redis::from_redis_value_ref::<String>(&promoted[0]).unwrap(), "master");
    hanging.await.unwrap();
    watched.servers[0].becomes_a_replica().await;
    store.settle(&claim.lease, &completed()).await.unwrap();
    assert_eq!(store.count().await.unwrap(), [0, 1, 0, 1]);
}

/// Answers as a sentinel does, with the port that is in the cell.
async fn false_sentinel(master: Arc<AtomicU16>, epoch: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let master = Arc::clone(&master);
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                while let Some(words) = request(&mut socket).await {
                    let port = master.load(Ordering::Relaxed).to_string();
                    let fields = ["ip", "127.0.0.1", "port", &port, "config-epoch", &epoch.to_string()]
                        .map(|word| word.as_bytes().to_vec());
                    let answer = match words[0].eq_ignore_ascii_case(b"SENTINEL") {
                        true => written(&fields),
                        false => b"+OK\r\n".to_vec(),
                    };
                    // Who hung up has seen enough.
                    let _ = socket.write_all(&answer).await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn the_newest_word_of_most_sentinels_counts_also_against_a_master_that_still_answers() {
    let [old, new] = [Node::start(free_port(), &[]), Node::start(free_port(), &[])];
    let [stale, moving] = [&old, &old].map(|node| Arc::new(AtomicU16::new(node.port)));
    // One was cut off from the others, and is asked first.
    let ports = [
        false_sentinel(stale, 1).await,
        false_sentinel(Arc::clone(&moving), 2).await,
        false_sentinel(Arc::clone(&moving), 2).await,
    ];
    let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let store = open(&Settings::for_tests(format!("redis+sentinel://{hosts}/queue")), "a").await.unwrap();
    store.submit(&job("x")).await.unwrap();
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store.claim(1).await.unwrap();
            next_claims(store).await
        })
    };
    let mut talk = old.talk().await;
    until("the claim", async || talk.run::<i64>(&["ZCARD", "job-queue:leases"]).await == 1).await;
    // The sentinels made another the master; the old one, cut off from them, does not know.
    moving.store(new.port, Ordering::Relaxed);
    let mut other = new.talk().await;
    until("the queue on the new master", async || {
        store.count().await.unwrap();
        other.run::<i64>(&["EXISTS", "job-queue"]).await == 1
    })
    .await;
    store.submit(&job("y")).await.unwrap();
    assert_eq!(ids(&soon("the claim", waiting).await.unwrap()), ["y"]);
    assert_eq!(other.run::<i64>(&["ZCARD", "job-queue:leases"]).await, 1);
}
