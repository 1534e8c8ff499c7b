//! The queue in a cluster: all of it lies in one slot, wherever that is.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use steadfast_store::testing::RedisServer;
use steadfast_store::{Keep, Renewal, Settings, Store, StoreError, open};

use super::fleet::{Cluster, SLOT, TAG, Talk, until};
use crate::world::*;

fn settings(url: impl Into<String>) -> Settings {
    Settings { prefix: TAG.into(), ..Settings::for_tests(url) }
}

async fn opened(url: &str, runner: &str) -> Arc<dyn Store> {
    open(&settings(url), runner).await.unwrap()
}

/// Repeats what the store says it may not have done, as a runner does.
pub async fn in_the_end<T>(what: &str, mut call: impl AsyncFnMut() -> steadfast_store::Result<T>) -> T {
    let mut done = None;
    until(what, async || match call().await {
        Ok(value) => {
            done = Some(value);
            true
        }
        Err(StoreError::Unavailable(_)) => false,
        Err(error) => panic!("{what}: {error:?}"),
    })
    .await;
    done.unwrap()
}

/// Waits and claims as a runner does, however often the server is away, until there is something.
pub async fn next_claims(store: Arc<dyn Store>) -> Vec<steadfast_store::Claim> {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    loop {
        again.tick().await;
        let claims = match store.wait(BOUND).await {
            Ok(()) => store.claim(9).await,
            Err(error) => Err(error),
        };
        match claims {
            Ok(claims) if claims.is_empty() => {}
            Ok(claims) => return claims,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Asks to keep a budget until nobody else does; who is there.
async fn present(store: &dyn Store, member: &str) -> Vec<String> {
    let ask = Keep { member: member.into(), epoch: 0, lease: Duration::ZERO, note: None, words: None };
    in_the_end("an answer of the ledger", async || store.ledger().keep("llm", &ask).await).await.present
}

#[tokio::test]
async fn any_node_leads_to_the_queue() {
    let cluster = Cluster::of_three().await;
    let slot: u16 = cluster.nodes[1].talk().await.run(&["CLUSTER", "KEYSLOT", TAG]).await;
    assert_eq!(slot, SLOT);
    // Of plain URLs too: the server says what it is.
    for (n, node) in cluster.nodes.iter().enumerate() {
        for url in [node.tcp(), node.server.url()] {
            let store = opened(&url, "a").await;
            let name = format!("job-{n}");
            store.submit(&job(&name)).await.unwrap();
            let claims = store.claim(9).await.unwrap();
            if let Some(claim) = claims.first() {
                store.settle(&claim.lease, &completed()).await.unwrap();
            }
        }
    }
    assert_eq!(opened(&cluster.url(), "a").await.count().await.unwrap(), [0, 0, 0, 3]);
    let keys: i64 = cluster.nodes[0].talk().await.run(&["DBSIZE"]).await;
    let others: i64 = cluster.nodes[1].talk().await.run(&["DBSIZE"]).await;
    assert!(keys > 0 && others == 0, "all is on one node: {keys}, {others}");
    // Keys that lie anywhere are no queue.
    for url in [cluster.url(), cluster.nodes[0].tcp()] {
        for prefix in ["", "steadfast:", "{}"] {
            let apart = Settings { prefix: prefix.into(), ..Settings::for_tests(&*url) };
            match open(&apart, "a").await.err() {
                Some(StoreError::Unusable(why)) => assert!(why.contains("{steadfast}:"), "{why}"),
                other => panic!("{prefix}: {other:?}"),
            }
        }
    }
    let alone = RedisServer::with(&["--port", &super::fleet::free_port().to_string()]);
    let port: Vec<String> = Talk::to(&alone.url()).await.run(&["CONFIG", "GET", "port"]).await;
    let error = open(&settings(format!("redis+cluster://127.0.0.1:{}", port[1])), "a").await.err();
    assert!(matches!(&error, Some(StoreError::Unusable(why)) if why.contains("no cluster")), "{error:?}");
}

#[tokio::test]
async fn a_dead_master_is_followed_by_its_replica() {
    let mut cluster = Cluster::with_replica().await;
    let store = opened(&cluster.url(), "a").await;
    let claim = running(&*store, "held").await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    for n in 0..20 {
        store.submit(&job(&format!("job-{n}"))).await.unwrap();
    }
    let mut listener = store.ledger().listen("me#1").await.unwrap();
    let idle = opened(&cluster.url(), "b").await;
    assert_eq!(idle.claim(20).await.unwrap().len(), 20);
    let waiting = tokio::spawn(next_claims(Arc::clone(&idle)));
    let mut master = cluster.nodes[0].talk().await;
    let replicas: i64 = master.run(&["WAIT", "1", "5000"]).await;
    assert_eq!(replicas, 1);
    cluster.nodes[0].server.stop();

    let error = store.renew(std::slice::from_ref(&claim.lease)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let held = in_the_end("a failover", async || store.renew(std::slice::from_ref(&claim.lease)).await).await;
    assert_eq!(held, [Renewal::Held]);
    store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.unwrap();
    let replay = store.replay(&id("held")).await.unwrap();
    assert_eq!((replay.steps.len(), replay.patch.as_slice()), (2, &b"p"[..]));
    assert_eq!(store.count().await.unwrap(), [0, 21, 0, 0]);
    // Who listened hears that it does not any more, and is there again where the queue is now.
    assert!(soon("the end of listening", listener.next()).await.is_err());
    let mut again = in_the_end("listening", async || store.ledger().listen("me#1").await).await;
    assert_eq!(present(&*idle, "other#1").await, ["me#1"]);
    idle.ledger().say("llm", b"word").await.unwrap();
    assert_eq!(soon("a word", again.next()).await.unwrap().words, b"word");
    // Who waits hears of what comes now.
    store.submit(&job("new")).await.unwrap();
    assert_eq!(ids(&soon("the claim", waiting).await.unwrap()), ["new"]);

    // The master that was comes back as a replica; nobody goes to it.
    cluster.nodes[0].server.restart();
    cluster.nodes[0].becomes_a_replica().await;
    let late = opened(&cluster.nodes[0].tcp(), "late").await;
    assert_eq!(late.count().await.unwrap(), [0, 22, 0, 0]);
}

#[tokio::test]
async fn a_slot_that_moves_takes_the_queue_with_it() {
    let cluster = Cluster::of_three().await;
    let store = opened(&cluster.url(), "a").await;
    let claim = running(&*store, "held").await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], None).await.unwrap();
    store.submit(&job("next")).await.unwrap();
    let mut listener = store.ledger().listen("me#1").await.unwrap();
    let [from, to] = [&cluster.nodes[0], &cluster.nodes[1]];
    let (mut source, mut target) = (from.talk().await, to.talk().await);
    let slot = SLOT.to_string();
    let _: String = target.run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from.id]).await;
    let _: String = source.run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to.id]).await;
    let port = to.port.to_string();
    let keys: Vec<String> = source.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).await;
    assert!(keys.len() > 5, "{keys:?}");
    let check = async || {
        let lease = std::slice::from_ref(&claim.lease);
        match store.renew(lease).await {
            Ok(renewals) => assert_eq!(renewals, [Renewal::Held]),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
        match store.inspect(&id("held")).await {
            Ok(found) => assert_eq!(found.map(|found| found.counts.steps), Some(1)),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
        match store.submit(&job("next")).await {
            Ok(admission) => assert_eq!(admission, steadfast_store::Admission::Duplicate),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
    };
    for key in &keys {
        let moved: Value = source.run(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
        assert_eq!(moved, Value::Okay);
        check().await;
    }
    let waiting = tokio::spawn(next_claims(Arc::clone(&store)));
    for talk in [&mut target, &mut source] {
        let _: String = talk.run(&["CLUSTER", "SETSLOT", &slot, "NODE", &to.id]).await;
    }
    assert_eq!(ids(&soon("the end of the wait", waiting).await.unwrap()), ["next"]);
    let lease = std::slice::from_ref(&claim.lease);
    assert_eq!(in_the_end("a renewal", async || store.renew(lease).await).await, [Renewal::Held]);
    store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.unwrap();
    assert_eq!(store.replay(&id("held")).await.unwrap().steps.len(), 2);
    assert!(soon("the end of listening", listener.next()).await.is_err());
    assert_eq!(source.run::<i64>(&["DBSIZE"]).await, 0);
    // Who reads there blocks on the new node.
    let wait = store.wait(BOUND);
    let (waited, submitted) = tokio::join!(wait, async {
        tokio::task::yield_now().await;
        opened(&from.tcp(), "b").await.submit(&job("last")).await
    });
    waited.unwrap();
    submitted.unwrap();
    assert_eq!(claim_one(&*store).await.job.id, id("last"));
}
