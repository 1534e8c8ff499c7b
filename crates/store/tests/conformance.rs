//! One promise a test, each on all stores.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use steadfast_core::end::EndStatus;
use steadfast_core::time::Timestamp;
use steadfast_store::{
    Admission, Cancellation, ClaimedFrom, Counts, Renewal, Requeue, State, Store, StoreError,
};

use crate::on_every_store;
use crate::world::*;

on_every_store![
    a_job_is_claimed_once_and_whole,
    the_same_id_twice_is_one_job,
    jobs_are_claimed_in_the_order_in_which_they_came,
    an_old_token_can_change_nothing,
    a_token_that_nobody_was_given_can_change_nothing,
    an_expired_lease_is_taken_over_once_and_the_crash_is_counted,
    a_lease_that_nobody_took_over_still_holds,
    a_parked_job_comes_back_when_its_time_has_come,
    a_requeued_job_waits_and_progress_resets_its_attempts,
    a_dead_actor_counts_as_a_crash_and_not_as_an_attempt,
    a_released_job_keeps_its_place,
    what_waits_can_be_cancelled,
    what_runs_is_asked_to_stop,
    a_cancelled_job_does_not_come_back,
    a_repeated_transition_changes_nothing,
    a_transition_repeated_with_other_arguments_is_refused,
    the_journal_is_replayed_as_it_was_written,
    an_append_fits_or_is_refused,
    caps_are_kept,
    what_could_not_be_read_cannot_be_submitted,
    ended_jobs_are_purged_and_others_are_not,
    jobs_are_listed_newest_first_and_counted,
    the_status_hash_tells_the_story,
    claimers_share_without_overlap,
    a_claim_that_was_cut_off_loses_nothing,
    an_unknown_job_is_unknown,
];

const HOUR: Duration = Duration::from_secs(3600);

async fn a_job_is_claimed_once_and_whole(world: World) {
    let store = world.store("a").await;
    let before = store.now().await.unwrap();
    assert_eq!(store.submit(&job("x")).await.unwrap(), Admission::Queued);
    assert!(store.claim(0).await.unwrap().is_empty());
    let claim = claim_one(&*store).await;
    assert_eq!(claim.job, job("x"));
    assert_eq!(claim.from, ClaimedFrom::Queue);
    assert_eq!(claim.counts, Counts { runs: 1, ..Counts::default() });
    assert!(claim.admitted_at >= before && claim.admitted_at <= store.now().await.unwrap());
    assert!(store.claim(9).await.unwrap().is_empty());
    assert!(!store.name().is_empty());
}

async fn the_same_id_twice_is_one_job(world: World) {
    let (a, b) = (world.store("a").await, world.store("b").await);
    assert_eq!(a.submit(&job("x")).await.unwrap(), Admission::Queued);
    assert_eq!(b.submit(&job("x")).await.unwrap(), Admission::Duplicate);
    let claim = claim_one(&*a).await;
    assert_eq!(b.submit(&job("x")).await.unwrap(), Admission::Duplicate);
    a.settle(&claim.lease, &completed()).await.unwrap();
    assert_eq!(b.submit(&job("x")).await.unwrap(), Admission::Duplicate);
    let found = look(&*b, "x").await;
    assert_eq!((found.state, field(&found, "duplicates")), (State::Ended, Some("3")));
    assert!(b.claim(9).await.unwrap().is_empty());
}

async fn jobs_are_claimed_in_the_order_in_which_they_came(world: World) {
    let store = world.store("a").await;
    let names: Vec<String> = (0..20).rev().map(|n| format!("job-{n}")).collect();
    for name in &names {
        store.submit(&job(name)).await.unwrap();
    }
    let mut claimed = Vec::new();
    for most in [1, 2, 17, 5] {
        claimed.extend(store.claim(most).await.unwrap());
    }
    assert_eq!(ids(&claimed), names);
    // Due times come before places: what is put back to wait goes behind what was due before.
    store.requeue(&claimed[0].lease, Duration::ZERO, &failed("x")).await.unwrap();
    store.park(&claimed[1].lease, Timestamp::from_secs(1), "long ago").await.unwrap();
    let again = store.claim(9).await.unwrap();
    assert_eq!(ids(&again), [names[1].as_str(), names[0].as_str()]);
}

async fn an_old_token_can_change_nothing(world: World) {
    let (dying, store) = (world.dying().await, world.store("b").await);
    let old = running(&*dying, "x").await.lease;
    let new = claim_one(&*store).await.lease;
    assert!(new.token > old.token);
    for lease in [&old, &older(&new)] {
        let refused = [
            store.append(lease, 0, &[b"s".to_vec()], None).await,
            store.park(lease, Timestamp::MAX, "x").await,
            store.requeue(lease, HOUR, &failed("x")).await,
            store.release(lease).await,
            store.settle(lease, &completed()).await,
        ];
        for result in refused {
            match result {
                Err(StoreError::LeaseLost { job, token }) => {
                    assert_eq!((&job, token), (&lease.job, lease.token))
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(store.renew(std::slice::from_ref(lease)).await.unwrap(), [Renewal::Lost]);
    }
    let found = look(&*store, "x").await;
    assert_eq!((found.state, found.counts.steps, found.counts.waits), (State::Running, 0, 0));
    assert_eq!(store.renew(&[old, new.clone()]).await.unwrap(), [Renewal::Lost, Renewal::Held]);
    store.settle(&new, &completed()).await.unwrap();
    assert_eq!(store.renew(&[new]).await.unwrap(), [Renewal::Lost]);
}

async fn a_token_that_nobody_was_given_can_change_nothing(world: World) {
    let store = world.store("a").await;
    // The plainest life there is: claimed once, and ended.
    let lease = running(&*store, "x").await.lease;
    let newer = steadfast_store::Lease { token: steadfast_store::Token(lease.token.0 + 1), ..lease.clone() };
    for wrong in [older(&lease), newer] {
        let settled = store.settle(&wrong, &completed()).await;
        assert!(matches!(settled, Err(StoreError::LeaseLost { .. })), "{settled:?}");
        let parked = store.park(&wrong, Timestamp::MAX, "x").await;
        assert!(matches!(parked, Err(StoreError::LeaseLost { .. })), "{parked:?}");
    }
    assert_eq!(look(&*store, "x").await.state, State::Running);
    store.settle(&lease, &completed()).await.unwrap();
}

async fn an_expired_lease_is_taken_over_once_and_the_crash_is_counted(world: World) {
    let (dying, store) = (world.dying().await, world.store("b").await);
    running(&*dying, "x").await;
    store.submit(&job("y")).await.unwrap();
    // Expired leases come first, though y is due too.
    let claims = store.claim(1).await.unwrap();
    assert_eq!(ids(&claims), ["x"]);
    assert_eq!(claims[0].from, ClaimedFrom::ExpiredLease);
    assert_eq!(claims[0].counts, Counts { runs: 2, crashes: 1, ..Counts::default() });
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
    assert!(store.claim(9).await.unwrap().is_empty());
}

async fn a_lease_that_nobody_took_over_still_holds(world: World) {
    let (dying, store) = (world.dying().await, world.store("b").await);
    let lease = running(&*dying, "x").await.lease;
    dying.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap();
    // Renewed by one who gives it more time, it is not to be had any more.
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    assert!(store.claim(9).await.unwrap().is_empty());
    store.settle(&lease, &completed()).await.unwrap();
}

async fn a_parked_job_comes_back_when_its_time_has_come(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    let until = store.now().await.unwrap() + Duration::from_millis(60);
    store.park(&lease, until, "rate limit of openai").await.unwrap();
    let parked = look(&*store, "x").await;
    assert_eq!((parked.state, parked.at), (State::Parked, until));
    assert_eq!(parked.waiting_for.as_deref(), Some("rate limit of openai"));
    assert_eq!(field(&parked, "status"), Some("queued"));
    assert_eq!(field(&parked, "waitingUntil"), Some(until.to_string().as_str()));
    let claim = claim_soon(&*store).await;
    assert!(store.now().await.unwrap() >= until);
    assert_eq!(claim.counts, Counts { runs: 2, waits: 1, ..Counts::default() });
    assert_eq!(claim.from, ClaimedFrom::Queue);
    assert_eq!(look(&*store, "x").await.waiting_for, None);
    store.park(&claim.lease, Timestamp::MAX, "for ever").await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty());
}

async fn a_requeued_job_waits_and_progress_resets_its_attempts(world: World) {
    let store = world.store("a").await;
    let mut claim = running(&*store, "x").await;
    for attempts in 1..=3 {
        store.requeue(&claim.lease, Duration::ZERO, &failed("HTTP 500")).await.unwrap();
        let queued = look(&*store, "x").await;
        assert_eq!((queued.state, queued.waiting_for.as_deref()), (State::Queued, Some("HTTP 500")));
        claim = claim_soon(&*store).await;
        assert_eq!(claim.counts.attempts, attempts);
    }
    store.append(&claim.lease, 0, &[b"s".to_vec()], None).await.unwrap();
    let long = "é".repeat(2000);
    store.requeue(&claim.lease, HOUR, &failed(&long)).await.unwrap();
    let queued = look(&*store, "x").await;
    assert_eq!((queued.state, queued.counts.attempts), (State::Queued, 1));
    assert_eq!(queued.waiting_for.map(|why| why.chars().count()), Some(500));
    let now = store.now().await.unwrap();
    assert!(queued.at > now + HOUR / 2 && queued.at <= now + HOUR);
    assert!(store.claim(9).await.unwrap().is_empty());
}

async fn a_dead_actor_counts_as_a_crash_and_not_as_an_attempt(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    store.requeue(&lease, Duration::ZERO, &Requeue::Crashed { error: "panic".into() }).await.unwrap();
    let claim = claim_soon(&*store).await;
    assert_eq!(claim.counts, Counts { runs: 2, crashes: 1, ..Counts::default() });
    assert_eq!(claim.from, ClaimedFrom::Queue);
}

async fn a_released_job_keeps_its_place(world: World) {
    let store = world.store("a").await;
    for name in ["x", "y", "z"] {
        store.submit(&job(name)).await.unwrap();
    }
    let claims = store.claim(2).await.unwrap();
    store.release(&claims[1].lease).await.unwrap();
    store.release(&claims[0].lease).await.unwrap();
    let again = store.claim(3).await.unwrap();
    assert_eq!(ids(&again), ["x", "y", "z"]);
    assert_eq!(again[0].counts, Counts { runs: 2, ..Counts::default() });
}

async fn what_waits_can_be_cancelled(world: World) {
    let store = world.store("a").await;
    let parked = running(&*store, "parked").await.lease;
    store.park(&parked, Timestamp::MAX, "x").await.unwrap();
    store.submit(&job("queued")).await.unwrap();
    for name in ["parked", "queued"] {
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::Ended);
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::AlreadyEnded);
        let found = look(&*store, name).await;
        assert_eq!((found.state, found.waiting_for.as_deref()), (State::Ended, None));
        assert_eq!(field(&found, "status"), Some("cancelled"));
        assert_eq!(field(&found, "endReason"), Some("cancelled"));
        assert!(field(&found, "completedAt").is_some());
    }
    assert_eq!(store.cancel(&id("nobody")).await.unwrap(), Cancellation::Unknown);
    assert!(store.claim(9).await.unwrap().is_empty());
    assert!(store.release(&parked).await.is_err());
}

async fn what_runs_is_asked_to_stop(world: World) {
    let store = world.store("a").await;
    let (x, y) = (running(&*store, "x").await.lease, running(&*store, "y").await.lease);
    assert_eq!(store.cancel(&x.job).await.unwrap(), Cancellation::Asked);
    assert_eq!(store.cancel(&x.job).await.unwrap(), Cancellation::Asked);
    let renewals = store.renew(&[x.clone(), y]).await.unwrap();
    assert_eq!(renewals, [Renewal::CancelRequested, Renewal::Held]);
    store.append(&x, 0, &[b"s".to_vec()], None).await.unwrap();
    // Whatever end the run gives it: it may have been done already.
    store.settle(&x, &completed()).await.unwrap();
    let found = look(&*store, "x").await;
    assert_eq!(field(&found, "status"), Some("completed"));
    assert_eq!(store.cancel(&x.job).await.unwrap(), Cancellation::AlreadyEnded);
}

async fn a_cancelled_job_does_not_come_back(world: World) {
    let (dying, store) = (world.dying().await, world.store("a").await);
    let names = ["parked", "requeued", "released"];
    for name in names {
        let lease = running(&*store, name).await.lease;
        assert_eq!(store.cancel(&lease.job).await.unwrap(), Cancellation::Asked);
        match name {
            "parked" => store.park(&lease, Timestamp::MAX, "x").await.unwrap(),
            "requeued" => store.requeue(&lease, HOUR, &failed("x")).await.unwrap(),
            _ => store.release(&lease).await.unwrap(),
        }
    }
    let crashed = running(&*dying, "crashed").await.lease;
    assert_eq!(store.cancel(&crashed.job).await.unwrap(), Cancellation::Asked);
    assert!(store.claim(9).await.unwrap().is_empty());
    for name in names.into_iter().chain(["crashed"]) {
        let found = look(&*store, name).await;
        assert_eq!((found.state, field(&found, "status")), (State::Ended, Some("cancelled")), "{name}");
    }
}

async fn a_repeated_transition_changes_nothing(world: World) {
    let store = world.store("a").await;
    let until = Timestamp::from_secs(1);
    let mut claim = running(&*store, "x").await;
    for _ in 0..3 {
        store.park(&claim.lease, until, "x").await.unwrap();
    }
    claim = claim_one(&*store).await;
    assert_eq!(claim.counts.waits, 1);
    for _ in 0..3 {
        store.requeue(&claim.lease, Duration::ZERO, &failed("x")).await.unwrap();
    }
    claim = claim_soon(&*store).await;
    assert_eq!(claim.counts.attempts, 1);
    for _ in 0..3 {
        store.release(&claim.lease).await.unwrap();
    }
    claim = claim_one(&*store).await;
    for _ in 0..3 {
        store.settle(&claim.lease, &completed()).await.unwrap();
    }
    let found = look(&*store, "x").await;
    assert_eq!(found.counts, Counts { runs: 4, waits: 1, attempts: 1, ..Counts::default() });
}

async fn a_transition_repeated_with_other_arguments_is_refused(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    store.park(&lease, Timestamp::MAX, "x").await.unwrap();
    let lost = |result| assert!(matches!(result, Err(StoreError::LeaseLost { .. })), "{result:?}");
    lost(store.park(&lease, Timestamp::from_secs(1), "x").await);
    lost(store.requeue(&lease, HOUR, &failed("x")).await);
    lost(store.release(&lease).await);
    lost(store.append(&lease, 0, &[b"s".to_vec()], None).await);
    lost(store.settle(&lease, &completed()).await);
    let lease = running(&*store, "y").await.lease;
    store.settle(&lease, &completed()).await.unwrap();
    let mut other = completed();
    other.status = EndStatus::Failed;
    lost(store.settle(&lease, &other).await);
    assert_eq!(look(&*store, "x").await.state, State::Parked);
}

async fn the_journal_is_replayed_as_it_was_written(world: World) {
    let (dying, store) = (world.dying().await, world.store("b").await);
    let old = running(&*dying, "x").await.lease;
    let steps: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; usize::from(n)]).collect();
    dying.append(&old, 0, &steps[..1], Some(b"first\0patch")).await.unwrap();
    let claim = claim_one(&*store).await;
    assert_eq!(claim.counts.steps, 1);
    store.append(&claim.lease, 1, &steps[1..], None).await.unwrap();
    let replay = store.replay(&id("x")).await.unwrap();
    assert_eq!((replay.steps, replay.patch.as_slice()), (steps, &b"first\0patch"[..]));
    store.append(&claim.lease, 100, &[b"\xff".to_vec()], Some(b"second")).await.unwrap();
    store.append(&claim.lease, 101, &[], Some(b"third")).await.unwrap();
    // Late repetitions bring no older patch back.
    store.append(&claim.lease, 100, &[b"\xff".to_vec()], Some(b"second")).await.unwrap();
    store.settle(&claim.lease, &completed()).await.unwrap();
    let replay = store.replay(&id("x")).await.unwrap();
    assert_eq!((replay.steps.len(), replay.patch.as_slice()), (101, &b"third"[..]));
}

async fn an_append_fits_or_is_refused(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    let (a, b, c) = (b"a".to_vec(), b"b".to_vec(), b"c".to_vec());
    for _ in 0..2 {
        store.append(&lease, 0, &[a.clone(), b.clone()], None).await.unwrap();
    }
    store.append(&lease, 1, std::slice::from_ref(&b), None).await.unwrap();
    for (at, steps) in [
        (3, vec![c.clone()]),
        (1, vec![c.clone()]),
        (0, vec![b.clone()]),
        (1, vec![b.clone(), c.clone()]),
        (9, vec![]),
    ] {
        let refused = store.append(&lease, at, &steps, None).await;
        match refused {
            Err(StoreError::Corrupt(why)) => assert!(why.contains('x'), "{why}"),
            other => panic!("{at} {steps:?}: {other:?}"),
        }
    }
    assert_eq!(store.replay(&id("x")).await.unwrap().steps, [a, b]);
    assert_eq!(look(&*store, "x").await.counts.steps, 2);
}

async fn caps_are_kept(world: World) {
    let small = |settings: &mut steadfast_store::Settings| {
        settings.max_steps = 3;
        settings.max_step_bytes = bytesize::ByteSize::b(10);
        settings.max_journal_bytes = bytesize::ByteSize::b(20);
        settings.max_patch_bytes = bytesize::ByteSize::b(5);
        settings.max_job_bytes = bytesize::ByteSize::b(400);
    };
    let store = world.with("a", small).await;
    let lease = running(&*store, "x").await.lease;
    let over = |result: Result<(), StoreError>, wanted: (&str, usize, usize)| match result {
        Err(StoreError::TooLarge { what, actual, limit }) => assert_eq!((what, actual, limit), wanted),
        other => panic!("{wanted:?}: {other:?}"),
    };
    over(store.append(&lease, 0, &[vec![0; 11]], None).await, ("step", 11, 10));
    over(store.append(&lease, 0, &[], Some(&[0; 6])).await, ("patch", 6, 5));
    over(store.append(&lease, 0, &vec![vec![0]; 4], None).await, ("steps", 4, 3));
    over(store.append(&lease, 0, &vec![vec![0; 7]; 3], None).await, ("journal", 21, 20));
    store.append(&lease, 0, &vec![vec![0; 10]; 2], Some(&[0; 5])).await.unwrap();
    over(store.append(&lease, 2, &[vec![0]], None).await, ("journal", 21, 20));
    assert_eq!(look(&*store, "x").await.counts.steps, 2);
    let mut large = job("large");
    large.task_params.issue_body = Some("x".repeat(400));
    match store.submit(&large).await {
        Err(StoreError::TooLarge { what: "job", limit: 400, .. }) => {}
        other => panic!("{other:?}"),
    }
}

async fn what_could_not_be_read_cannot_be_submitted(world: World) {
    let store = world.store("a").await;
    let mut bad = job("x");
    bad.repo_name = "../..".into();
    for job in [bad, job("retry:x")] {
        let error = store.submit(&job).await.unwrap_err();
        assert!(matches!(error, StoreError::Unusable(_)), "{error:?}");
        assert!(error.to_string().contains(job.id.as_str()), "{error}");
    }
    assert_eq!(store.count().await.unwrap(), [0; 4]);
}

async fn ended_jobs_are_purged_and_others_are_not(world: World) {
    let store = world.store("a").await;
    let forgetful = world.with("b", |settings| settings.keep_ended = Duration::ZERO).await;
    for name in ["completed", "cancelled", "queued"] {
        store.submit(&job(name)).await.unwrap();
    }
    let claim = claim_one(&*store).await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    store.settle(&claim.lease, &completed()).await.unwrap();
    store.cancel(&id("cancelled")).await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 0);
    assert_eq!(forgetful.purge().await.unwrap(), 2);
    assert_eq!(forgetful.purge().await.unwrap(), 0);
    assert_eq!(store.count().await.unwrap(), [1, 0, 0, 0]);
    assert!(store.inspect(&id("completed")).await.unwrap().is_none());
    assert!(store.replay(&id("completed")).await.unwrap().steps.is_empty());
    // What is forgotten may come again, with nothing left of its first life.
    assert_eq!(store.submit(&job("completed")).await.unwrap(), Admission::Queued);
    let replay = store.replay(&id("completed")).await.unwrap();
    assert!(replay.steps.is_empty() && replay.patch.is_empty());
}

async fn jobs_are_listed_newest_first_and_counted(world: World) {
    let store = world.store("a").await;
    for name in ["ended", "parked", "running", "first", "second"] {
        store.submit(&job(name)).await.unwrap();
    }
    let claims = store.claim(3).await.unwrap();
    store.settle(&claims[0].lease, &completed()).await.unwrap();
    store.park(&claims[1].lease, Timestamp::MAX, "x").await.unwrap();
    let list = async |state, most| -> Vec<String> {
        let list = store.list(state, most).await.unwrap();
        list.into_iter().map(|job| job.job.id.to_string()).collect()
    };
    assert_eq!(list(None, 99).await, ["second", "first", "running", "parked", "ended"]);
    assert_eq!(list(None, 2).await, ["second", "first"]);
    assert_eq!(list(None, 0).await, [""; 0]);
    assert_eq!(list(Some(State::Queued), 99).await, ["second", "first"]);
    assert_eq!(list(Some(State::Queued), 1).await, ["second"]);
    assert_eq!(list(Some(State::Running), 99).await, ["running"]);
    assert_eq!(list(Some(State::Parked), 99).await, ["parked"]);
    assert_eq!(list(Some(State::Ended), 99).await, ["ended"]);
    assert_eq!(store.count().await.unwrap(), [2, 1, 1, 1]);
}

async fn the_status_hash_tells_the_story(world: World) {
    let store = world.store("runner-1").await;
    let claim = running(&*store, "x").await;
    let found = look(&*store, "x").await;
    let names = |found: &steadfast_store::Inspection| -> Vec<String> {
        found.status.iter().map(|(name, _)| name.clone()).collect()
    };
    let counts = ["runs", "attempts", "crashes", "waits", "steps", "duplicates"];
    let mut wanted = vec!["status", "state", "admittedAt", "startedAt"];
    wanted.extend(counts);
    wanted.push("runner");
    assert_eq!(names(&found), wanted);
    assert_eq!(field(&found, "status"), Some("in_progress"));
    assert_eq!(field(&found, "state"), Some("running"));
    assert_eq!(field(&found, "runner"), Some("runner-1"));
    assert_eq!(field(&found, "admittedAt"), Some(found.admitted_at.to_string().as_str()));
    assert!(found.at > store.now().await.unwrap(), "the end of the lease is to come");
    let started = field(&found, "startedAt").map(str::to_owned);
    store.requeue(&claim.lease, Duration::ZERO, &failed("HTTP 503")).await.unwrap();
    let claim = claim_soon(&*store).await;
    store.settle(&claim.lease, &completed()).await.unwrap();
    let found = look(&*store, "x").await;
    let mut wanted = vec!["status", "state", "admittedAt", "startedAt", "completedAt"];
    wanted.extend(counts);
    wanted.extend(["runner", "lastError", "result", "endReason"]);
    assert_eq!(names(&found), wanted);
    assert_eq!(field(&found, "status"), Some("completed"));
    assert_eq!(field(&found, "startedAt"), started.as_deref());
    assert_eq!(field(&found, "completedAt"), Some(found.at.to_string().as_str()));
    assert_eq!(field(&found, "endReason"), Some("pull_request"));
    assert_eq!(field(&found, "lastError"), Some("HTTP 503"));
    let result: serde_json::Value = serde_json::from_str(field(&found, "result").unwrap()).unwrap();
    assert_eq!(result, completed().result);
}

async fn claimers_share_without_overlap(world: World) {
    const JOBS: usize = 120;
    let store = world.store("submitter").await;
    let mut claimers = Vec::new();
    for claimer in 0..6 {
        let store = world.store(&format!("claimer-{claimer}")).await;
        claimers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                for claim in store.claim(3).await.unwrap() {
                    if claim.job.id.as_str() == "last" {
                        store.release(&claim.lease).await.unwrap();
                        return mine;
                    }
                    store.settle(&claim.lease, &completed()).await.unwrap();
                    mine.push(claim.job.id);
                }
                store.wait(BOUND).await.unwrap();
            }
        }));
    }
    for n in 0..JOBS {
        store.submit(&job(&format!("job-{n}"))).await.unwrap();
    }
    // The last job tells each claimer in turn to stop, once nothing else is left.
    let mut claimed = Vec::new();
    soon("the end of all jobs", async {
        while store.count().await.unwrap()[3] < JOBS as u64 {
            tokio::task::yield_now().await;
        }
        store.submit(&job("last")).await.unwrap();
        for claimer in claimers {
            claimed.extend(claimer.await.unwrap());
        }
    })
    .await;
    let distinct: BTreeSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (JOBS, JOBS));
    for job in store.list(Some(State::Ended), JOBS + 1).await.unwrap() {
        assert_eq!((job.counts.runs, job.counts.crashes), (1, 0));
    }
}

async fn a_claim_that_was_cut_off_loses_nothing(world: World) {
    const JOBS: usize = 20;
    let store = world.store("a").await;
    for n in 0..JOBS {
        store.submit(&job(&format!("job-{n}"))).await.unwrap();
    }
    let mut claimed = Vec::new();
    soon("the claim of all jobs", async {
        for round in 0.. {
            let mut claim = Box::pin(store.claim(1));
            // Dropped after some polls: at every point at which it can be cut off.
            let mut claims = None;
            for _ in 0..round % 24 {
                if let Some(result) = (&mut claim).now_or_never() {
                    claims = Some(result.unwrap());
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(claim);
            if claims.is_none() && round % 24 == 23 {
                claims = Some(store.claim(4).await.unwrap());
            }
            claimed.extend(claims.unwrap_or_default());
            if claimed.len() >= JOBS {
                break;
            }
        }
    })
    .await;
    let distinct: BTreeSet<_> = claimed.iter().map(|claim| claim.lease.job.clone()).collect();
    assert_eq!((claimed.len(), distinct.len()), (JOBS, JOBS));
    for claim in &claimed {
        assert_eq!(claim.counts, Counts { runs: 1, ..Counts::default() });
        store.settle(&claim.lease, &completed()).await.unwrap();
    }
}

async fn an_unknown_job_is_unknown(world: World) {
    let store: Arc<dyn Store> = world.store("a").await;
    let lease = steadfast_store::Lease { job: id("x"), token: steadfast_store::Token(1) };
    assert!(store.inspect(&id("x")).await.unwrap().is_none());
    assert!(store.replay(&id("x")).await.unwrap().steps.is_empty());
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Lost]);
    assert!(matches!(store.release(&lease).await, Err(StoreError::LeaseLost { .. })));
    assert!(matches!(store.append(&lease, 0, &[], None).await, Err(StoreError::LeaseLost { .. })));
    assert!(store.claim(9).await.unwrap().is_empty());
}
