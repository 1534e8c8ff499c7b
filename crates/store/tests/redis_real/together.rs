//! What ends and what begins go in one call: the claim that is asked for in the same turn takes the ends
//! along; neither is in the other's way.

use std::time::Duration;

use steadfast_store::testing::RedisServer;
use steadfast_store::{Settings, State, Store, StoreError, open};

use super::fleet::Talk;
use crate::world::*;

async fn opened(server: &RedisServer) -> std::sync::Arc<dyn Store> {
    open(&Settings::for_tests(server.url()), "a").await.unwrap()
}

/// How many scripts the server has run since it was last asked.
async fn scripts(operator: &mut Talk) -> usize {
    let stats: String = operator.run(&["INFO", "commandstats"]).await;
    let _: String = operator.run(&["CONFIG", "RESETSTAT"]).await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn to_settle_jobs_and_to_claim_the_next_is_one_call() {
    let server = RedisServer::start();
    let (store, mut operator) = (opened(&server).await, Talk::to(&server.url()).await);
    submit_all(&*store, ["a", "b", "c", "d", "e"].map(job)).await;
    let claims = store.claim(3).await.unwrap();
    assert_eq!(ids(&claims), ["a", "b", "c"]);
    let completed = completed();
    scripts(&mut operator).await;
    let (settled, parked, next) = tokio::join!(
        store.settle(&claims[0].lease, &completed),
        store.park(&claims[1].lease, steadfast_core::time::Timestamp::MAX, "why"),
        store.claim(1),
    );
    assert_eq!((settled.unwrap(), parked.unwrap(), ids(&next.unwrap())), ((), (), vec!["d"]));
    assert_eq!(scripts(&mut operator).await, 1);
    assert_eq!(store.count().await.unwrap(), [1, 2, 1, 1]);
    // An end without a claim is not kept waiting for one.
    store.settle(&claims[2].lease, &completed).await.unwrap();
    assert_eq!(look(&*store, "c").await.state, State::Ended);
    // Each is answered for itself.
    let (again, release, next) = tokio::join!(
        store.settle(&claims[0].lease, &completed),
        store.release(&claims[0].lease),
        store.claim(9),
    );
    again.unwrap();
    assert!(matches!(release, Err(StoreError::LeaseLost { .. })), "{release:?}");
    assert_eq!(ids(&next.unwrap()), ["e"]);
}

#[tokio::test]
async fn what_ends_makes_room_for_what_begins() {
    let server = RedisServer::start();
    let mut settings = Settings::for_tests(server.url());
    settings.per_repo_concurrency = 1;
    let store = open(&settings, "a").await.unwrap();
    submit_all(&*store, ["a", "b"].map(|name| of(name, "o/r"))).await;
    let first = claim_one(&*store).await;
    assert!(store.claim(1).await.unwrap().is_empty());
    let completed = completed();
    let (settled, next) = tokio::join!(store.settle(&first.lease, &completed), store.claim(1));
    settled.unwrap();
    assert_eq!(ids(&next.unwrap()), ["b"]);
}

#[tokio::test]
async fn a_claim_that_is_refused_keeps_no_run_from_its_end() {
    let server = RedisServer::start();
    let (store, mut operator) = (opened(&server).await, Talk::to(&server.url()).await);
    submit_all(&*store, ["a", "b"].map(job)).await;
    let first = claim_one(&*store).await;
    let _: String = operator.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let completed = completed();
    let (settled, next) = tokio::join!(store.settle(&first.lease, &completed), store.claim(1));
    settled.unwrap();
    assert!(matches!(&next, Err(StoreError::Unavailable(why)) if why.contains("maxmemory")), "{next:?}");
    let _: String = operator.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(look(&*store, "a").await.state, State::Ended);
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["b"]);
}

#[tokio::test]
async fn a_claim_that_is_dropped_on_its_way_loses_no_end() {
    let server = RedisServer::start();
    let store = opened(&server).await;
    submit_all(&*store, ["a", "b"].map(job)).await;
    let first = claim_one(&*store).await;
    let completed = completed();
    let claim = async {
        // Once: it is sent, and nobody is there for the answer.
        let claim = store.claim(1);
        tokio::pin!(claim);
        assert!(futures_util::poll!(&mut claim).is_pending());
    };
    let (settled, ()) = tokio::join!(store.settle(&first.lease, &completed), claim);
    settled.unwrap();
    assert_eq!(look(&*store, "a").await.state, State::Ended);
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["b"]);
}

#[tokio::test]
async fn a_change_ends_a_wait_for_one_though_it_lets_nothing_be_claimed() {
    let server = RedisServer::start();
    let (store, mut operator) = (opened(&server).await, Talk::to(&server.url()).await);
    // It listens from here on; the first look finds nothing.
    store.wait(Duration::from_millis(300)).await.unwrap();
    let change = async {
        tokio::task::yield_now().await;
        let _: String = operator.run(&["XADD", "job-queue:wake", "*", "job", "x"]).await;
    };
    let (waited, ()) =
        tokio::join!(soon("the wait", store.wait_for_change(Duration::from_secs(3600))), change);
    waited.unwrap();
}
