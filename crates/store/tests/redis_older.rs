//! What an older build left in Redis, or does there beside this one: read on, and nothing lost.

use std::time::Duration;

use serde_json::json;
use steadfast_store::testing::RedisServer;
use steadfast_store::{ClaimedFrom, Requeue, Settings, State, Store, open};
use tokio::time::Instant;

use crate::redis_specifics::Other;
use crate::world::*;

/// A job as an older build took it in: no place, and due like all others.
async fn left(other: &mut Other, name: &str, data: &str, due: &str) {
    let key = format!("job:{name}");
    let fields = "status queued state queued admittedAt 2025-10-09T00:00:00.000Z runs 0 attempts 0 crashes 0 \
                  waits 0 steps 0 duplicates 0 journalBytes 0 token 0 closed submit";
    let mut set = vec!["HSET", &key, "seq", due, "due", due];
    set.extend(fields.split_whitespace());
    let _: i64 = other.run(&set).await;
    let _: String = other.run(&["SET", &format!("job-queue:data:{name}"), data]).await;
    let _: i64 = other.run(&["ZADD", "job-queue:due", due, name]).await;
    let _: i64 = other.run(&["ZADD", "job-queue:state:queued", due, name]).await;
}

/// A job as an older build ends it: it knows of no lane.
async fn ended(other: &mut Other, name: &str) {
    let key = format!("job:{name}");
    let _: i64 = other.run(&["HSET", &key, "state", "ended", "status", "cancelled"]).await;
    for set in ["due", "leases", "state:queued", "state:running"] {
        let _: i64 = other.run(&["ZREM", &format!("job-queue:{set}"), name]).await;
    }
    for set in ["ended", "state:ended"] {
        let _: i64 = other.run(&["ZADD", &format!("job-queue:{set}"), "1760000000000", name]).await;
    }
}

async fn limited(server: &RedisServer, runner: &str, per_repo: u32) -> std::sync::Arc<dyn Store> {
    let settings = Settings { per_repo_concurrency: per_repo, ..Settings::for_tests(server.url()) };
    open(&settings, runner).await.unwrap()
}

#[tokio::test]
async fn what_an_older_build_left_is_read_on() {
    let server = RedisServer::start();
    let (store, mut other) = (limited(&server, "a", 9).await, Other::of(&server).await);
    left(&mut other, "first", &json("first"), "1760000000000001").await;
    left(&mut other, "second", &json("second"), "1760000000000002").await;
    let urgent = serde_json::to_string(&wish("urgent", "O/r", json!({ "priority": 5 }))).unwrap();
    left(&mut other, "urgent", &urgent, "1760000000000003").await;
    left(&mut other, "later", &json("later"), "9000000000000000").await;
    left(&mut other, "damaged", "no job", "1760000000000000").await;
    // One whose runner is gone.
    left(&mut other, "ran", &json("ran"), "1760000000000000").await;
    let _: i64 = other.run(&["HSET", "job:ran", "state", "running", "token", "7", "runs", "1"]).await;
    let _: i64 = other.run(&["ZREM", "job-queue:due", "ran"]).await;
    let _: i64 = other.run(&["ZREM", "job-queue:state:queued", "ran"]).await;
    let _: i64 = other.run(&["ZADD", "job-queue:state:running", "1760000000000000", "ran"]).await;
    let _: i64 = other.run(&["ZADD", "job-queue:leases", "1", "ran"]).await;

    soon("the end of the wait", store.wait(Duration::from_secs(3600))).await.unwrap();
    let claims = store.claim(99).await.unwrap();
    assert_eq!(ids(&claims), ["ran", "urgent", "first", "second"]);
    assert_eq!((claims[0].from, claims[0].counts.crashes), (ClaimedFrom::ExpiredLease, 1));
    assert!(claims[0].lease.token.0 > 7);
    assert_eq!(other.hash("job:damaged").await["status"], "failed");
    assert_eq!(store.count().await.unwrap(), [1, 4, 0, 1]);
    assert_eq!(store.list(Some(State::Running), 9).await.unwrap().len(), 4);
    for claim in &claims {
        store.requeue(&claim.lease, Duration::ZERO, &Requeue::Failed { error: "x".into() }).await.unwrap();
    }
    let claims = store.claim(99).await.unwrap();
    assert_eq!(claims.len(), 4);
    for claim in &claims {
        store.settle(&claim.lease, &completed()).await.unwrap();
    }
    assert_eq!(store.count().await.unwrap(), [1, 0, 0, 5]);
}

#[tokio::test]
async fn what_came_due_while_nobody_was_there_is_let_go_in_parts() {
    let server = RedisServer::start();
    let (store, mut other) = (limited(&server, "a", 0).await, Other::of(&server).await);
    for n in 0..300 {
        let name = format!("job-{n:03}");
        left(&mut other, &name, &json(&name), &(1_760_000_000_000_000_u64 + n).to_string()).await;
    }
    let mut all = Vec::new();
    while all.len() < 300 {
        soon("the end of the wait", store.wait(Duration::from_secs(3600))).await.unwrap();
        let claims = store.claim(99).await.unwrap();
        assert!(!claims.is_empty());
        all.extend(claims.into_iter().map(|claim| claim.job.id.as_str().to_owned()));
    }
    assert!(all.is_sorted(), "{all:?}");
}

#[tokio::test]
async fn what_an_older_build_ended_does_not_run() {
    let server = RedisServer::start();
    let (store, mut other) = (limited(&server, "a", 0).await, Other::of(&server).await);
    for name in ["x", "y"] {
        store.submit(&job(name)).await.unwrap();
    }
    ended(&mut other, "x").await;
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
    ended(&mut other, "y").await;
    store.submit(&job("z")).await.unwrap();
    ended(&mut other, "z").await;
    assert!(store.claim(9).await.unwrap().is_empty());
    let begun = Instant::now();
    store.wait(Duration::from_millis(50)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50), "nothing is left to be looked at");
    assert_eq!(other.run::<i64>(&["EXISTS", "job-queue:turns"]).await, 0);
}

#[tokio::test]
async fn a_run_that_an_older_build_ended_counts_no_more() {
    let server = RedisServer::start();
    let (store, mut other) = (limited(&server, "a", 1).await, Other::of(&server).await);
    store.submit(&job("x")).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x"]);
    ended(&mut other, "x").await;
    // Who comes to the limit sees that it is gone.
    store.submit(&job("y")).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
}

#[tokio::test]
async fn what_was_held_for_a_run_that_an_older_build_ended_goes_at_the_next_purge() {
    let server = RedisServer::start();
    let (store, mut other) = (limited(&server, "a", 1).await, Other::of(&server).await);
    for name in ["x", "y"] {
        store.submit(&job(name)).await.unwrap();
    }
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x"]);
    ended(&mut other, "x").await;
    assert!(store.claim(9).await.unwrap().is_empty());
    store.purge().await.unwrap();
    soon("the end of the wait", store.wait(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
}

#[tokio::test]
async fn processes_with_different_limits_share_a_queue() {
    let server = RedisServer::start();
    let (free, tight, wide) =
        (limited(&server, "a", 0).await, limited(&server, "b", 1).await, limited(&server, "c", 2).await);
    for n in 0..6 {
        free.submit(&job(&format!("job-{n}"))).await.unwrap();
    }
    assert_eq!(ids(&free.claim(1).await.unwrap()), ["job-0"]);
    // It runs already, whoever claimed it.
    assert!(tight.claim(9).await.unwrap().is_empty());
    let begun = Instant::now();
    tight.wait(Duration::from_millis(30)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    soon("the end of the wait", wide.wait(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(ids(&wide.claim(9).await.unwrap()), ["job-1"]);
    assert!(tight.claim(9).await.unwrap().is_empty());
    assert_eq!(ids(&free.claim(9).await.unwrap()), ["job-2", "job-3", "job-4", "job-5"]);
}
