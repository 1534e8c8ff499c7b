//! How a job that was begun is called off, and how one that has ended is begun again. On all stores.

use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::{
    Cancellation, Claim, ClaimedFrom, Counts, Lease, Renewal, Retried, RetryFrom, State, Store, StoreError,
};

use crate::on_every_store;
use crate::world::*;

on_every_store![
    a_begun_job_that_waits_is_called_off_by_a_run_at_once,
    a_run_hears_that_its_job_is_called_off,
    what_an_untold_run_puts_back_is_claimed_at_once,
    what_a_told_run_puts_back_keeps_its_time,
    a_crashed_run_leaves_the_telling_to_the_next,
    the_cancel_of_a_begun_job_may_be_repeated,
    those_to_be_called_off_come_first,
    one_to_be_called_off_takes_its_repositorys_room,
    an_ended_job_is_retried_from_its_journal,
    a_retry_from_the_start_drops_the_journal,
    a_retried_job_is_like_any_other,
    only_what_has_ended_is_retried,
    a_retry_may_be_repeated,
    a_cancelled_job_can_be_retried,
];

const HOUR: Duration = Duration::from_secs(3600);

/// A job with a step in its journal, running.
async fn begun(store: &dyn Store, name: &str) -> Lease {
    let lease = running(store, name).await.lease;
    store.append(&lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    lease
}

/// A job that was completed with a step in its journal.
async fn done(store: &dyn Store, name: &str) -> Lease {
    let lease = begun(store, name).await;
    store.settle(&lease, &completed()).await.unwrap();
    lease
}

/// The claim of a job that is only to be called off.
async fn to_be_called_off(store: &dyn Store, name: &str) -> Claim {
    let found = look(store, name).await;
    assert_eq!(found.state, State::Queued, "{name}");
    assert_eq!(found.waiting_for.as_deref(), Some("a run that tells of its being called off"), "{name}");
    let claim = claim_one(store).await;
    assert_eq!((claim.job.id.as_str(), claim.cancel_requested), (name, true));
    assert_eq!(claim.counts.steps, 1);
    claim
}

async fn a_begun_job_that_waits_is_called_off_by_a_run_at_once(world: World) {
    let store = world.store("a").await;
    for name in ["parked", "requeued"] {
        let lease = begun(&*store, name).await;
        match name {
            "parked" => store.park(&lease, Timestamp::MAX, "a limit").await.unwrap(),
            _ => store.requeue(&lease, HOUR, &failed("x")).await.unwrap(),
        }
        assert!(store.claim(9).await.unwrap().is_empty());
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::Asked);
        let claim = to_be_called_off(&*store, name).await;
        assert_eq!((claim.from, claim.counts.runs), (ClaimedFrom::Queue, 2));
        store.settle(&claim.lease, &completed()).await.unwrap();
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::AlreadyEnded);
    }
}

async fn a_run_hears_that_its_job_is_called_off(world: World) {
    let store = world.store("a").await;
    let (x, y) = (begun(&*store, "x").await, begun(&*store, "y").await);
    let both = [y.clone(), x.clone()];
    assert_eq!(store.called_off(&both).await.unwrap(), []);
    assert_eq!(store.called_off(&[]).await.unwrap(), []);
    store.cancel(&x.job).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.called_off(&both).await.unwrap(), std::slice::from_ref(&x));
    }
    assert_eq!(store.renew(&both).await.unwrap(), [Renewal::Held, Renewal::CancelRequested]);
    // An older token hears nothing, nor does one whose job is not there.
    store.cancel(&y.job).await.unwrap();
    let nobody = Lease { job: id("nobody"), token: x.token };
    assert_eq!(store.called_off(&[older(&y), nobody]).await.unwrap(), []);
    store.settle(&x, &completed()).await.unwrap();
    assert_eq!(store.called_off(&both).await.unwrap(), [y]);
}

async fn what_an_untold_run_puts_back_is_claimed_at_once(world: World) {
    let store = world.store("a").await;
    for name in ["parked", "requeued", "released"] {
        let lease = begun(&*store, name).await;
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::Asked);
        let put_back = async || match name {
            "parked" => store.park(&lease, Timestamp::MAX, "a limit").await.unwrap(),
            "requeued" => store.requeue(&lease, HOUR, &failed("x")).await.unwrap(),
            _ => store.release(&lease).await.unwrap(),
        };
        put_back().await;
        put_back().await;
        let claim = to_be_called_off(&*store, name).await;
        // The claim told it: now its wait counts, for GitHub's door may be shut.
        store.park(&claim.lease, Timestamp::MAX, "GitHub").await.unwrap();
        let found = look(&*store, name).await;
        assert_eq!((found.state, found.waiting_for.as_deref()), (State::Parked, Some("GitHub")));
        assert!(store.claim(9).await.unwrap().is_empty());
    }
}

async fn what_a_told_run_puts_back_keeps_its_time(world: World) {
    let store = world.store("a").await;
    for name in ["renewed", "asked"] {
        let lease = begun(&*store, name).await;
        store.cancel(&id(name)).await.unwrap();
        match name {
            "renewed" => assert_eq!(
                store.renew(std::slice::from_ref(&lease)).await.unwrap(),
                [Renewal::CancelRequested]
            ),
            _ => assert_eq!(store.called_off(std::slice::from_ref(&lease)).await.unwrap().len(), 1),
        }
        store.park(&lease, Timestamp::MAX, "GitHub").await.unwrap();
        assert!(store.claim(9).await.unwrap().is_empty());
        // Asked once more it still waits: the next run knows already.
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::Asked);
        assert!(store.claim(9).await.unwrap().is_empty());
    }
    let lease = begun(&*store, "soon").await;
    store.cancel(&id("soon")).await.unwrap();
    store.renew(std::slice::from_ref(&lease)).await.unwrap();
    store.park(&lease, Timestamp::from_secs(1), "GitHub").await.unwrap();
    let claim = claim_one(&*store).await;
    assert_eq!((claim.job.id.as_str(), claim.cancel_requested), ("soon", true));
}

async fn a_crashed_run_leaves_the_telling_to_the_next(world: World) {
    let (dying, store) = (world.dying().await, world.store("a").await);
    let lease = begun(&*dying, "x").await;
    assert_eq!(store.cancel(&lease.job).await.unwrap(), Cancellation::Asked);
    let claim = claim_one(&*store).await;
    assert_eq!((claim.from, claim.cancel_requested), (ClaimedFrom::ExpiredLease, true));
    assert_eq!(claim.counts, Counts { runs: 2, crashes: 1, steps: 1, ..Counts::default() });
    assert_eq!(store.called_off(std::slice::from_ref(&claim.lease)).await.unwrap().len(), 1);
}

async fn the_cancel_of_a_begun_job_may_be_repeated(world: World) {
    let store = world.store("a").await;
    let lease = begun(&*store, "x").await;
    store.park(&lease, Timestamp::MAX, "x").await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.cancel(&id("x")).await.unwrap(), Cancellation::Asked);
    }
    // The run that put it away may tell so once more.
    store.park(&lease, Timestamp::MAX, "x").await.unwrap();
    let claim = to_be_called_off(&*store, "x").await;
    assert!(store.claim(9).await.unwrap().is_empty());
    assert_eq!(store.cancel(&id("x")).await.unwrap(), Cancellation::Asked);
    store.settle(&claim.lease, &completed()).await.unwrap();
}

async fn those_to_be_called_off_come_first(world: World) {
    let store = world.with("a", |settings| settings.per_repo_concurrency = 1).await;
    let lease = begun(&*store, "x").await;
    store.requeue(&lease, HOUR, &failed("x")).await.unwrap();
    submit_all(&*store, [wish("other", "test/test", serde_json::json!({ "priority": 9 }))]).await;
    assert_eq!(claim_one(&*store).await.job.id, id("other"));
    submit_all(&*store, [wish("more", "other/r", serde_json::json!({ "priority": 9 }))]).await;
    // Neither priority nor the limit of its repository keeps it: it only tells.
    store.cancel(&id("x")).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x", "more"]);
}

async fn one_to_be_called_off_takes_its_repositorys_room(world: World) {
    let store = world.with("a", |settings| settings.per_repo_concurrency = 1).await;
    let lease = begun(&*store, "x").await;
    store.requeue(&lease, HOUR, &failed("x")).await.unwrap();
    submit_all(&*store, [job("y"), of("other", "other/r")]).await;
    store.cancel(&id("x")).await.unwrap();
    let claims = store.claim(9).await.unwrap();
    assert_eq!(ids(&claims), ["x", "other"], "in the very claim that takes it");
    store.settle(&claims[0].lease, &completed()).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
}

async fn an_ended_job_is_retried_from_its_journal(world: World) {
    let store = world.store("a").await;
    let old = done(&*store, "x").await;
    let first = look(&*store, "x").await;
    assert_eq!(store.retry(&id("x"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
    let found = look(&*store, "x").await;
    assert_eq!((found.state, field(&found, "status")), (State::Queued, Some("queued")));
    assert!(found.admitted_at >= first.at, "{} {}", found.admitted_at, first.at);
    for name in ["result", "completedAt", "endReason", "lastError", "waitingFor", "joinedTo"] {
        assert_eq!(field(&found, name), None, "{name}");
    }
    assert_eq!(field(&found, "retries"), Some("1"));
    assert_eq!(store.count().await.unwrap(), [1, 0, 0, 0]);
    assert_eq!(store.list(Some(State::Ended), 9).await.unwrap().len(), 0);
    let claim = claim_one(&*store).await;
    assert_eq!((claim.from, claim.retries, claim.cancel_requested), (ClaimedFrom::Queue, 1, false));
    assert_eq!(claim.counts, Counts { runs: 2, steps: 1, ..Counts::default() });
    assert_eq!(claim.admitted_at, found.admitted_at);
    assert!(claim.lease.token > old.token);
    assert!(store.settle(&old, &completed()).await.is_err());
    let replay = store.replay(&id("x")).await.unwrap();
    assert_eq!((replay.steps, replay.patch), (vec![b"s".to_vec()], b"p".to_vec()));
    store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.unwrap();
    store.settle(&claim.lease, &completed()).await.unwrap();
    let found = look(&*store, "x").await;
    assert_eq!((found.state, field(&found, "endReason")), (State::Ended, Some("pull_request")));
}

async fn a_retry_from_the_start_drops_the_journal(world: World) {
    let store = world.with("a", |settings| settings.max_journal_bytes = bytesize::ByteSize::b(8)).await;
    let lease = running(&*store, "x").await.lease;
    store.append(&lease, 0, &[b"12345678".to_vec()], Some(b"p")).await.unwrap();
    store.settle(&lease, &completed()).await.unwrap();
    assert_eq!(store.retry(&id("x"), RetryFrom::Start).await.unwrap(), Retried::Queued);
    let replay = store.replay(&id("x")).await.unwrap();
    assert!(replay.steps.is_empty() && replay.patch.is_empty());
    let claim = claim_one(&*store).await;
    assert_eq!((claim.counts.steps, claim.retries), (0, 1));
    // Nor do its bytes count.
    store.append(&claim.lease, 0, &[b"abcdefgh".to_vec()], None).await.unwrap();
    let over = store.append(&claim.lease, 1, &[b"i".to_vec()], None).await;
    assert!(matches!(over, Err(StoreError::TooLarge { what: "journal", .. })), "{over:?}");
    assert_eq!(store.replay(&id("x")).await.unwrap().steps, [b"abcdefgh".to_vec()]);
}

async fn a_retried_job_is_like_any_other(world: World) {
    let (dying, store) = (world.dying().await, world.store("a").await);
    // What counts towards giving it up is forgotten.
    running(&*dying, "x").await;
    let claim = claim_one(&*store).await;
    store.requeue(&claim.lease, Duration::ZERO, &failed("x")).await.unwrap();
    let claim = claim_soon(&*store).await;
    assert_eq!((claim.counts.attempts, claim.counts.crashes), (1, 1));
    store.settle(&claim.lease, &completed()).await.unwrap();
    submit_all(&*store, [job("before")]).await;
    assert_eq!(store.retry(&id("x"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
    submit_all(&*store, [wish("urgent", "test/test", serde_json::json!({ "priority": 1 }))]).await;
    assert_eq!(look(&*store, "x").await.counts, Counts { runs: 3, ..Counts::default() });
    let mut claimed = claim_singly(&*store).await;
    assert_eq!(claimed[0], "urgent");
    claimed.sort_unstable();
    assert_eq!(claimed, ["before", "urgent", "x"]);
    // Not an end of long ago any more.
    let forgetful = world.with("b", |settings| settings.keep_ended = Duration::ZERO).await;
    assert_eq!(forgetful.purge().await.unwrap(), 0);
}

async fn only_what_has_ended_is_retried(world: World) {
    let store = world.store("a").await;
    for from in [RetryFrom::Journal, RetryFrom::Start] {
        assert_eq!(store.retry(&id("nobody"), from).await.unwrap(), Retried::Unknown);
    }
    submit_all(&*store, [job("x")]).await;
    let alive = async || {
        for from in [RetryFrom::Journal, RetryFrom::Start] {
            assert_eq!(store.retry(&id("x"), from).await.unwrap(), Retried::Alive);
        }
    };
    alive().await;
    let lease = claim_one(&*store).await.lease;
    store.append(&lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    alive().await;
    store.park(&lease, Timestamp::MAX, "x").await.unwrap();
    alive().await;
    let found = look(&*store, "x").await;
    assert_eq!((found.state, found.at, field(&found, "retries")), (State::Parked, Timestamp::MAX, None));
    assert_eq!(store.replay(&id("x")).await.unwrap().steps.len(), 1);
}

async fn a_retry_may_be_repeated(world: World) {
    let store = world.store("a").await;
    for (name, from, steps) in [("kept", RetryFrom::Journal, 1), ("dropped", RetryFrom::Start, 0)] {
        done(&*store, name).await;
        for _ in 0..3 {
            assert_eq!(store.retry(&id(name), from).await.unwrap(), Retried::Queued);
        }
        // Another wish than that which was fulfilled comes too late.
        let other = if steps == 1 { RetryFrom::Start } else { RetryFrom::Journal };
        assert_eq!(store.retry(&id(name), other).await.unwrap(), Retried::Alive);
        assert_eq!(store.replay(&id(name)).await.unwrap().steps.len(), steps);
        let claim = claim_one(&*store).await;
        assert_eq!((claim.retries, claim.counts.steps as usize), (1, steps));
        assert_eq!(store.retry(&id(name), from).await.unwrap(), Retried::Alive);
        store.settle(&claim.lease, &completed()).await.unwrap();
        assert_eq!(store.retry(&id(name), from).await.unwrap(), Retried::Queued);
        assert_eq!(claim_one(&*store).await.retries, 2);
    }
}

async fn a_cancelled_job_can_be_retried(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [job("x")]).await;
    assert_eq!(store.cancel(&id("x")).await.unwrap(), Cancellation::Ended);
    assert_eq!(store.retry(&id("x"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
    let claim = claim_one(&*store).await;
    assert!(!claim.cancel_requested);
    assert_eq!(store.renew(std::slice::from_ref(&claim.lease)).await.unwrap(), [Renewal::Held]);
    store.append(&claim.lease, 0, &[b"s".to_vec()], None).await.unwrap();
    // And called off again.
    store.cancel(&id("x")).await.unwrap();
    assert_eq!(store.called_off(std::slice::from_ref(&claim.lease)).await.unwrap().len(), 1);
    store.settle(&claim.lease, &completed()).await.unwrap();
    assert_eq!(store.retry(&id("x"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
    let claim = claim_one(&*store).await;
    assert!(!claim.cancel_requested);
    assert_eq!(store.called_off(std::slice::from_ref(&claim.lease)).await.unwrap(), []);
    store.park(&claim.lease, Timestamp::MAX, "x").await.unwrap();
    assert_eq!(look(&*store, "x").await.state, State::Parked);
}
