//! One living job an issue, for those who wish it so. On all stores.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use steadfast_core::job::Job;
use steadfast_store::{Admission, Retried, RetryFrom, State};

use crate::on_every_store;
use crate::world::*;

on_every_store![
    a_second_job_for_an_issue_is_joined_to_the_first,
    the_issue_is_free_when_its_job_ends,
    the_setting_is_for_jobs_that_say_nothing,
    only_the_same_issue_of_the_same_repository_is_shared,
    of_many_at_once_one_is_queued,
    a_retry_does_not_make_two,
    joined_jobs_are_purged_like_others,
];

fn alone(id: &str, repository: &str, issue: u64) -> Job {
    wish(id, repository, json!({ "unique": true, "issue": issue }))
}

fn joined(to: &str) -> Admission {
    Admission::Joined { to: id(to) }
}

async fn a_second_job_for_an_issue_is_joined_to_the_first(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [alone("first", "o/r", 7)]).await;
    assert_eq!(store.submit(&alone("second", "O/R", 7)).await.unwrap(), joined("first"));
    let found = look(&*store, "second").await;
    assert_eq!((found.state, found.waiting_for.as_deref()), (State::Ended, None));
    for (name, value) in [("status", "cancelled"), ("endReason", "joined"), ("joinedTo", "first")] {
        assert_eq!(field(&found, name), Some(value));
    }
    assert!(field(&found, "result").unwrap().contains("first"));
    assert!(field(&found, "completedAt").is_some());
    assert_eq!(found.job, alone("second", "O/R", 7));
    // The same id again is a duplicate, as ever.
    for name in ["first", "second"] {
        assert_eq!(store.submit(&alone(name, "o/r", 7)).await.unwrap(), Admission::Duplicate);
    }
    // Wherever the first one is.
    let claim = claim_one(&*store).await;
    assert_eq!(store.submit(&alone("third", "o/r", 7)).await.unwrap(), joined("first"));
    store.requeue(&claim.lease, Duration::from_secs(3600), &failed("x")).await.unwrap();
    assert_eq!(store.submit(&alone("fourth", "o/r", 7)).await.unwrap(), joined("first"));
    assert!(store.claim(9).await.unwrap().is_empty());
    assert_eq!(store.count().await.unwrap(), [1, 0, 0, 3]);
}

async fn the_issue_is_free_when_its_job_ends(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [alone("settled", "o/r", 7)]).await;
    let claim = claim_one(&*store).await;
    store.settle(&claim.lease, &completed()).await.unwrap();
    submit_all(&*store, [alone("cancelled", "o/r", 7)]).await;
    store.cancel(&id("cancelled")).await.unwrap();
    submit_all(&*store, [alone("last", "o/r", 7)]).await;
    assert_eq!(store.submit(&alone("more", "o/r", 7)).await.unwrap(), joined("last"));
    // The end of one that was joined frees nothing.
    let forgetful = world.with("b", |settings| settings.keep_ended = Duration::ZERO).await;
    assert_eq!(forgetful.purge().await.unwrap(), 3);
    assert_eq!(store.submit(&alone("again", "o/r", 7)).await.unwrap(), joined("last"));
    let claim = claim_one(&*store).await;
    assert_eq!(claim.job.id, id("last"));
}

async fn the_setting_is_for_jobs_that_say_nothing(world: World) {
    let store = world.with("a", |settings| settings.unique_issues = true).await;
    let plain = |name: &str| wish(name, "o/r", json!({ "issue": 7 }));
    submit_all(&*store, [plain("first")]).await;
    assert_eq!(store.submit(&plain("second")).await.unwrap(), joined("first"));
    let free = |name: &str| wish(name, "o/r", json!({ "issue": 7, "unique": false }));
    submit_all(&*store, [free("free"), of("no-issue", "o/r"), of("nor-this", "o/r")]).await;
    // One that was taken in without the wish is nobody's rival.
    let lax = world.store("b").await;
    submit_all(&*lax, [wish("lax", "o/r", json!({ "issue": 7 })), wish("p", "o/r", json!({ "issue": 8 }))])
        .await;
    submit_all(&*store, [wish("q", "o/r", json!({ "issue": 8 }))]).await;
    assert_eq!(store.count().await.unwrap(), [7, 0, 0, 1]);
}

async fn only_the_same_issue_of_the_same_repository_is_shared(world: World) {
    let store = world.store("a").await;
    submit_all(
        &*store,
        [alone("a", "o/r", 7), alone("b", "o/r", 8), alone("c", "o/s", 7), alone("d", "p/r", 7)],
    )
    .await;
    assert_eq!(store.claim(9).await.unwrap().len(), 4);
    assert_eq!(store.submit(&alone("e", "o/s", 7)).await.unwrap(), joined("c"));
}

async fn of_many_at_once_one_is_queued(world: World) {
    const JOBS: usize = 24;
    let mut tasks = Vec::new();
    for n in 0..JOBS {
        let store = world.store(&format!("runner-{}", n % 3)).await;
        tasks.push(tokio::spawn(async move {
            store.submit(&alone(&format!("job-{n}"), "o/r", (n % 2) as u64)).await.unwrap()
        }));
    }
    let mut queued = BTreeMap::new();
    let mut others = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        match soon("an admission", task).await.unwrap() {
            Admission::Queued => {
                assert!(queued.insert(n % 2, id(&format!("job-{n}"))).is_none(), "two for one")
            }
            Admission::Joined { to } => others.push((n % 2, to)),
            Admission::Duplicate => panic!("no id came twice"),
        }
    }
    assert_eq!((queued.len(), others.len()), (2, JOBS - 2));
    for (issue, to) in others {
        assert_eq!(to, queued[&issue]);
    }
    let store = world.store("last").await;
    assert_eq!(store.claim(99).await.unwrap().len(), 2);
}

async fn a_retry_does_not_make_two(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [alone("first", "o/r", 7)]).await;
    let claim = claim_one(&*store).await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], None).await.unwrap();
    store.settle(&claim.lease, &completed()).await.unwrap();
    submit_all(&*store, [alone("second", "o/r", 7)]).await;
    for from in [RetryFrom::Journal, RetryFrom::Start] {
        let retried = store.retry(&id("first"), from).await.unwrap();
        assert_eq!(retried, Retried::Joined { to: id("second") });
    }
    let found = look(&*store, "first").await;
    assert_eq!(
        (found.state, field(&found, "status")),
        (State::Ended, Some("completed")),
        "nothing was changed"
    );
    assert_eq!(store.replay(&id("first")).await.unwrap().steps.len(), 1);
    store.cancel(&id("second")).await.unwrap();
    assert_eq!(store.retry(&id("first"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
    // It is its issue's job again; one that was joined before may be retried after it.
    assert_eq!(store.submit(&alone("third", "o/r", 7)).await.unwrap(), joined("first"));
    assert_eq!(
        store.retry(&id("third"), RetryFrom::Journal).await.unwrap(),
        Retried::Joined { to: id("first") }
    );
    let claim = claim_one(&*store).await;
    assert_eq!(claim.job.id, id("first"));
    store.settle(&claim.lease, &completed()).await.unwrap();
    assert_eq!(store.retry(&id("third"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
    assert_eq!(field(&look(&*store, "third").await, "joinedTo"), None);
    assert_eq!(claim_singly(&*store).await, ["third"]);
}

async fn joined_jobs_are_purged_like_others(world: World) {
    let store = world.with("a", |settings| settings.keep_ended = Duration::ZERO).await;
    submit_all(&*store, [alone("first", "o/r", 7)]).await;
    assert_eq!(store.submit(&alone("second", "o/r", 7)).await.unwrap(), joined("first"));
    assert_eq!(store.purge().await.unwrap(), 1);
    assert!(store.inspect(&id("second")).await.unwrap().is_none());
    assert_eq!(store.submit(&alone("second", "o/r", 7)).await.unwrap(), joined("first"));
}
