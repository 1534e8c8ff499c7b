//! What ends a wait, on all stores.

use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::{Cancellation, Requeue, Retried, RetryFrom, Store, Whom};
use tokio::time::Instant;

use crate::on_every_store;
use crate::world::*;

on_every_store![
    a_wait_lasts_no_longer_than_it_may,
    a_wait_ends_at_once_if_there_is_something,
    another_process_ends_a_wait,
    a_due_time_ends_a_wait,
    an_expired_lease_ends_a_wait,
    a_wait_that_was_dropped_took_nothing,
    what_cannot_be_claimed_ends_no_wait,
    an_end_of_what_held_jobs_back_ends_a_wait,
    a_job_that_was_put_off_ends_a_wait_when_it_is_due,
];

/// Far longer than anything here takes, and far shorter than the longest wait.
const PROMPT: Duration = Duration::from_secs(10);

/// Longest wait.
const LONG: Duration = Duration::from_secs(3600);

async fn ends<T>(wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PROMPT, wait).await {
        Ok(value) => value,
        Err(_) => panic!("the wait went on"),
    }
}

async fn a_wait_lasts_no_longer_than_it_may(world: World) {
    let store = world.store("a").await;
    running(&*store, "x").await;
    let begun = Instant::now();
    ends(store.wait(Duration::from_millis(30))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    ends(store.wait(Duration::ZERO)).await.unwrap();
}

async fn a_wait_ends_at_once_if_there_is_something(world: World) {
    let store = world.store("a").await;
    store.submit(&job("x")).await.unwrap();
    ends(store.wait(LONG)).await.unwrap();
    assert_eq!(store.claim(1).await.unwrap().len(), 1);
}

async fn another_process_ends_a_wait(world: World) {
    let (store, other) = (world.store("a").await, world.store("b").await);
    let lease = running(&*other, "x").await.lease;
    let mut lease = Some(lease);
    for round in 0..4 {
        let wait = async {
            ends(store.wait(LONG)).await.unwrap();
            // Not before there is something: an end for nothing would be another poll.
            claim_one(&*store).await
        };
        let change = async {
            tokio::task::yield_now().await;
            match (round, lease.take()) {
                (0, Some(lease)) => other.release(&lease).await.unwrap(),
                (1, Some(lease)) => {
                    let why = Requeue::Failed { error: "x".into() };
                    other.requeue(&lease, Duration::from_millis(20), &why).await.unwrap();
                }
                (2, Some(lease)) => other.park(&lease, Timestamp::from_secs(1), "x").await.unwrap(),
                _ => assert!(other.submit(&job("y")).await.is_ok()),
            }
        };
        let (claim, ()) = tokio::join!(wait, change);
        lease = Some(claim.lease);
    }
}

async fn a_due_time_ends_a_wait(world: World) {
    let store = world.store("a").await;
    let (far, near) = (running(&*store, "far").await.lease, running(&*store, "near").await.lease);
    store.park(&far, Timestamp::MAX, "x").await.unwrap();
    let until = store.now().await.unwrap() + Duration::from_millis(50);
    store.park(&near, until, "x").await.unwrap();
    ends(store.wait(LONG)).await.unwrap();
    assert!(store.now().await.unwrap() >= until);
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["near"]);
}

async fn an_expired_lease_ends_a_wait(world: World) {
    let short = |settings: &mut steadfast_store::Settings| settings.lease = Duration::from_millis(80);
    let (store, other) = (world.with("a", short).await, world.with("b", short).await);
    // Claimed after the waiting began: the waiter could not have known.
    let (waited, _) = tokio::join!(ends(store.wait(LONG)), running(&*other, "x"));
    waited.unwrap();
    let claim = claim_soon(&*store).await;
    assert_eq!(claim.job.id.as_str(), "x");
}

async fn a_wait_that_was_dropped_took_nothing(world: World) {
    let (store, other) = (world.store("a").await, world.store("b").await);
    for _ in 0..5 {
        let wait = tokio::time::timeout(Duration::from_millis(2), store.wait(LONG));
        assert!(wait.await.is_err());
    }
    other.submit(&job("x")).await.unwrap();
    ends(store.wait(LONG)).await.unwrap();
    assert_eq!(store.claim(9).await.unwrap().len(), 1);
}

/// Asserts that there is nothing to claim and that a wait knows it.
async fn waits_in_vain(store: &dyn Store, why: &str) {
    const SHORT: Duration = Duration::from_millis(40);
    assert!(store.claim(9).await.unwrap().is_empty(), "{why}");
    let begun = Instant::now();
    ends(store.wait(SHORT)).await.unwrap();
    assert!(begun.elapsed() >= SHORT, "{why}: the wait ended for nothing after {:?}", begun.elapsed());
}

async fn what_cannot_be_claimed_ends_no_wait(world: World) {
    let store = world.with("a", |settings| settings.per_repo_concurrency = 1).await;
    let dying = world
        .with("dying", |settings| (settings.lease, settings.per_repo_concurrency) = (Duration::ZERO, 1))
        .await;
    submit_all(&*store, [of("r-0", "o/r"), of("r-1", "o/r")]).await;
    let claim = claim_one(&*store).await;
    waits_in_vain(&*store, "its repository is at its limit").await;
    store.pause(&Whom::owner("p")).await.unwrap();
    submit_all(&*store, [of("p-0", "p/r")]).await;
    waits_in_vain(&*store, "its owner is paused").await;
    store.resume(&Whom::owner("p")).await.unwrap();
    assert_eq!(ids(&dying.claim(1).await.unwrap()), ["p-0"]);
    store.pause(&Whom::owner("p")).await.unwrap();
    waits_in_vain(&*store, "an expired lease of an owner who is paused").await;
    submit_all(&*store, [of("q-0", "q/r")]).await;
    store.pause(&Whom::All).await.unwrap();
    store.settle(&claim.lease, &completed()).await.unwrap();
    waits_in_vain(&*store, "all is paused").await;
    store.resume(&Whom::All).await.unwrap();
    ends(store.wait(LONG)).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["r-1", "q-0"]);
}

async fn an_end_of_what_held_jobs_back_ends_a_wait(world: World) {
    let limit = |settings: &mut steadfast_store::Settings| settings.per_repo_concurrency = 1;
    let (store, other) = (world.with("a", limit).await, world.with("b", limit).await);
    submit_all(&*other, [of("r-0", "o/r"), of("r-1", "o/r")]).await;
    let mut held = Some(claim_one(&*other).await.lease);
    for round in 0..6 {
        let wait = async {
            ends(store.wait(LONG)).await.unwrap();
            claim_one(&*store).await
        };
        let change = async {
            tokio::task::yield_now().await;
            match (round, held.take()) {
                // A run of a repository that is at its limit is over.
                (0, Some(lease)) => other.settle(&lease, &completed()).await.unwrap(),
                (1, Some(lease)) => {
                    other.park(&lease, Timestamp::MAX, "x").await.unwrap();
                    submit_all(&*other, [of("r-2", "o/r")]).await;
                }
                // What ended is wanted again.
                (2, Some(lease)) => {
                    other.settle(&lease, &completed()).await.unwrap();
                    assert_eq!(other.retry(&lease.job, RetryFrom::Journal).await.unwrap(), Retried::Queued);
                }
                // What was put away is to be called off.
                (3, Some(lease)) => {
                    other.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap();
                    other.park(&lease, Timestamp::MAX, "x").await.unwrap();
                    assert_eq!(other.cancel(&lease.job).await.unwrap(), Cancellation::Asked);
                }
                (4, Some(lease)) => {
                    other.settle(&lease, &completed()).await.unwrap();
                    other.pause(&Whom::owner("o")).await.unwrap();
                    submit_all(&*other, [of("r-3", "o/r")]).await;
                    other.resume(&Whom::owner("o")).await.unwrap();
                }
                (5, Some(lease)) => {
                    other.settle(&lease, &completed()).await.unwrap();
                    other.pause(&Whom::All).await.unwrap();
                    submit_all(&*other, [of("r-4", "o/r")]).await;
                    other.resume(&Whom::All).await.unwrap();
                }
                (round, held) => panic!("round {round} with {held:?}"),
            }
        };
        let (claim, ()) = tokio::join!(wait, change);
        held = Some(claim.lease);
    }
}

async fn a_job_that_was_put_off_ends_a_wait_when_it_is_due(world: World) {
    let (store, other) = (world.store("a").await, world.store("b").await);
    let due = store.now().await.unwrap() + Duration::from_millis(60);
    let late = wish("late", "o/r", serde_json::json!({ "notBefore": due.to_string() }));
    let (waited, ()) = tokio::join!(ends(store.wait(LONG)), submit_all(&*other, [late]));
    waited.unwrap();
    let claim = claim_soon(&*store).await;
    assert_eq!(claim.job.id, id("late"));
    assert!(store.now().await.unwrap() >= due);
}

#[tokio::test(start_paused = true)]
async fn in_memory_hours_pass_at_once_and_to_the_moment() {
    let store = World::memory().store("a").await;
    let lease = running(&*store, "x").await.lease;
    let begun = store.now().await.unwrap();
    store.park(&lease, begun + LONG, "an hour").await.unwrap();
    store.wait(2 * LONG).await.unwrap();
    assert_eq!(store.now().await.unwrap(), begun + LONG);
    claim_one(&*store).await;
}
