//! Whose job is next: priorities, owners in turn, repositories at their limit, and jobs that are not
//! to be begun yet. On all stores.

use std::time::Duration;

use serde_json::json;
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;
use steadfast_store::{Cancellation, ClaimedFrom, Requeue, Settings, State, Whom};

use crate::on_every_store;
use crate::world::*;

on_every_store![
    the_highest_priority_is_claimed_first,
    owners_are_served_in_turn,
    an_owner_who_comes_late_takes_its_turn,
    an_owner_without_anything_ready_is_forgotten,
    owners_are_told_apart_as_github_does,
    each_priority_has_turns_of_its_own,
    within_an_owner_the_earliest_due_is_first,
    a_repository_at_its_limit_lets_others_pass,
    the_limit_of_a_repository_is_the_whole_fleets,
    one_claim_keeps_to_the_limit_of_a_repository,
    an_expired_lease_is_taken_over_whatever_the_limit,
    expired_leases_come_first_even_behind_some_that_end,
    a_job_put_off_is_not_begun_before_its_time,
    a_job_is_put_off_for_a_year_at_most,
    one_claim_gives_no_job_twice,
];

fn urgency(id: &str, repository: &str, priority: i64) -> Job {
    wish(id, repository, json!({ "priority": priority }))
}

fn limited(most: u32) -> impl FnOnce(&mut Settings) {
    move |settings| settings.per_repo_concurrency = most
}

async fn the_highest_priority_is_claimed_first(world: World) {
    let store = world.store("a").await;
    let jobs = [("zero", 0), ("low", -9), ("high", 9), ("lower", -99), ("higher", 99), ("one", 1)];
    submit_all(&*store, jobs.map(|(name, priority)| urgency(name, "o/r", priority))).await;
    let high = look(&*store, "high").await;
    assert_eq!(field(&high, "priority"), Some("9"));
    assert_eq!(field(&look(&*store, "zero").await, "priority"), None);
    let claims = store.claim(9).await.unwrap();
    assert_eq!(ids(&claims), ["high", "higher", "one", "zero", "low", "lower"]);
    // It keeps its priority over a run.
    for claim in &claims {
        store.requeue(&claim.lease, Duration::ZERO, &Requeue::Failed { error: "x".into() }).await.unwrap();
    }
    assert_eq!(claim_singly(&*store).await, ["high", "higher", "one", "zero", "low", "lower"]);
}

async fn owners_are_served_in_turn(world: World) {
    let store = world.store("a").await;
    let many = (0..6).map(|n| of(&format!("many-{n}"), &format!("many/r{}", n % 2)));
    submit_all(&*store, many).await;
    submit_all(&*store, [of("few-0", "few/r"), of("few-1", "few/s"), of("one-0", "one/r")]).await;
    let wanted = ["many-0", "few-0", "one-0", "many-1", "few-1", "many-2", "many-3", "many-4", "many-5"];
    // In one claim as in many.
    let first = store.claim(2).await.unwrap();
    assert_eq!(ids(&first), &wanted[..2]);
    assert_eq!(ids(&store.claim(4).await.unwrap()), &wanted[2..6]);
    assert_eq!(claim_singly(&*store).await, &wanted[6..]);
}

async fn an_owner_who_comes_late_takes_its_turn(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, (0..4).map(|n| of(&format!("a-{n}"), "a/r"))).await;
    assert_eq!(ids(&store.claim(2).await.unwrap()), ["a-0", "a-1"]);
    // Served last, a is behind who came in since.
    submit_all(&*store, [of("b-0", "b/r"), of("b-1", "b/r")]).await;
    assert_eq!(ids(&store.claim(1).await.unwrap()), ["a-2"], "a was served before b came in");
    assert_eq!(claim_singly(&*store).await, ["b-0", "a-3", "b-1"]);
}

async fn an_owner_without_anything_ready_is_forgotten(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [of("a-0", "a/r"), of("b-0", "b/r"), of("b-1", "b/r")]).await;
    let first = claim_one(&*store).await;
    assert_eq!(first.job.id, id("a-0"));
    // Its only job is away and comes back: it came in after b.
    store.release(&first.lease).await.unwrap();
    submit_all(&*store, [of("c-0", "c/r")]).await;
    store.cancel(&id("c-0")).await.unwrap();
    submit_all(&*store, [of("a-1", "a/r"), of("c-1", "c/r")]).await;
    assert_eq!(claim_singly(&*store).await, ["b-0", "a-0", "c-1", "b-1", "a-1"]);
}

async fn owners_are_told_apart_as_github_does(world: World) {
    let store = world.with("a", limited(2)).await;
    let jobs = [of("x-0", "Acme/Shop"), of("x-1", "acme/shop"), of("x-2", "ACME/SHOP"), of("y-0", "other/r")];
    submit_all(&*store, jobs).await;
    assert_eq!(claim_singly(&*store).await, ["x-0", "y-0", "x-1"], "one owner, one repository");
}

async fn each_priority_has_turns_of_its_own(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [urgency("a-0", "a/r", 5), urgency("a-1", "a/r", 0), urgency("a-2", "a/r", 0)]).await;
    submit_all(&*store, [urgency("b-0", "b/r", 0), urgency("b-1", "b/r", 5), urgency("b-2", "b/r", 5)]).await;
    assert_eq!(claim_singly(&*store).await, ["a-0", "b-1", "b-2", "a-1", "b-0", "a-2"]);
}

async fn within_an_owner_the_earliest_due_is_first(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [of("x", "o/r"), of("y", "o/s"), of("z", "o/r")]).await;
    let claims = store.claim(9).await.unwrap();
    assert_eq!(ids(&claims), ["x", "y", "z"]);
    for (claim, due) in claims.iter().zip([30, 20, 10]) {
        store.park(&claim.lease, Timestamp::from_secs(due), "x").await.unwrap();
    }
    assert_eq!(claim_singly(&*store).await, ["z", "y", "x"]);
}

async fn a_repository_at_its_limit_lets_others_pass(world: World) {
    let store = world.with("a", limited(1)).await;
    submit_all(&*store, [of("r-0", "o/r"), of("r-1", "o/r"), of("s-0", "o/s"), of("p-0", "p/r")]).await;
    submit_all(&*store, [urgency("r-2", "o/r", 9)]).await;
    let claims = store.claim(9).await.unwrap();
    assert_eq!(ids(&claims), ["r-2", "s-0", "p-0"], "nobody waits behind a repository that is at its limit");
    assert!(store.claim(9).await.unwrap().is_empty());
    // Each way out of running makes room.
    store.settle(&claims[0].lease, &completed()).await.unwrap();
    let claim = claim_one(&*store).await;
    assert_eq!(claim.job.id, id("r-0"));
    store.park(&claim.lease, Timestamp::MAX, "x").await.unwrap();
    let claim = claim_one(&*store).await;
    assert_eq!(claim.job.id, id("r-1"));
    assert!(store.claim(9).await.unwrap().is_empty());
    store.release(&claim.lease).await.unwrap();
    assert_eq!(claim_one(&*store).await.job.id, id("r-1"));
}

async fn the_limit_of_a_repository_is_the_whole_fleets(world: World) {
    let (a, b) = (world.with("a", limited(2)).await, world.with("b", limited(2)).await);
    let unlimited = world.with("c", limited(0)).await;
    submit_all(&*a, (0..4).map(|n| of(&format!("r-{n}"), "o/r"))).await;
    assert_eq!(ids(&a.claim(1).await.unwrap()), ["r-0"]);
    let second = b.claim(9).await.unwrap();
    assert_eq!(ids(&second), ["r-1"]);
    assert!(a.claim(9).await.unwrap().is_empty());
    b.settle(&second[0].lease, &completed()).await.unwrap();
    assert_eq!(ids(&a.claim(9).await.unwrap()), ["r-2"]);
    assert_eq!(ids(&unlimited.claim(9).await.unwrap()), ["r-3"]);
}

async fn one_claim_keeps_to_the_limit_of_a_repository(world: World) {
    let store = world.with("a", limited(3)).await;
    let jobs = (0..20).map(|n| of(&format!("job-{n}"), &format!("o/r{}", n % 2)));
    submit_all(&*store, jobs).await;
    let claims = store.claim(99).await.unwrap();
    assert_eq!(ids(&claims), ["job-0", "job-1", "job-2", "job-3", "job-4", "job-5"]);
}

async fn an_expired_lease_is_taken_over_whatever_the_limit(world: World) {
    let dying = world.dying().await;
    let store = world.with("a", limited(1)).await;
    submit_all(&*store, [of("r-0", "o/r"), of("r-1", "o/r")]).await;
    assert_eq!(ids(&dying.claim(1).await.unwrap()), ["r-0"]);
    let claims = store.claim(9).await.unwrap();
    assert_eq!(ids(&claims), ["r-0"], "it was counted already, and still is");
    assert_eq!(claims[0].from, ClaimedFrom::ExpiredLease);
    store.settle(&claims[0].lease, &completed()).await.unwrap();
    assert_eq!(claim_singly(&*store).await, ["r-1"]);
}

async fn expired_leases_come_first_even_behind_some_that_end(world: World) {
    let (dying, store) = (world.dying().await, world.store("a").await);
    let names = ["a", "b", "c", "d"];
    submit_all(&*store, names.map(|name| of(name, "o/r"))).await;
    submit_all(&*store, [of("paused", "p/r")]).await;
    assert_eq!(dying.claim(9).await.unwrap().len(), 5);
    for name in &names[..3] {
        assert_eq!(store.cancel(&id(name)).await.unwrap(), Cancellation::Asked);
    }
    store.pause(&Whom::owner("p")).await.unwrap();
    submit_all(&*store, [of("new", "o/r")]).await;
    // Of three nobody is to be told, one is its paused owner's: none of them is given, and none of the
    // new ones before the last of the old.
    assert_eq!(ids(&store.claim(1).await.unwrap()), ["d"]);
    for name in &names[..3] {
        assert_eq!(look(&*store, name).await.state, State::Ended, "{name}");
    }
    assert_eq!(ids(&store.claim(1).await.unwrap()), ["new"]);
    assert!(store.claim(9).await.unwrap().is_empty());
}

async fn a_job_put_off_is_not_begun_before_its_time(world: World) {
    let store = world.store("a").await;
    let at = |name, at: Timestamp| wish(name, "o/r", json!({ "notBefore": at.to_string(), "priority": 9 }));
    let later = store.now().await.unwrap() + Duration::from_secs(3600);
    submit_all(&*store, [at("later", later), at("past", Timestamp::from_secs(1)), of("plain", "o/r")]).await;
    submit_all(&*store, [wish("nonsense", "o/r", json!({ "notBefore": "tomorrow" }))]).await;
    let found = look(&*store, "later").await;
    assert_eq!((found.state, found.at), (State::Queued, later));
    assert!(look(&*store, "past").await.at > Timestamp::from_secs(1), "the past is now");
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["past", "plain", "nonsense"]);
    assert!(store.claim(9).await.unwrap().is_empty());
    let soon = store.now().await.unwrap() + Duration::from_millis(80);
    submit_all(&*store, [at("soon", soon)]).await;
    let claim = claim_soon(&*store).await;
    assert_eq!(claim.job.id, id("soon"));
    assert!(store.now().await.unwrap() >= soon);
}

async fn a_job_is_put_off_for_a_year_at_most(world: World) {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let store = world.store("a").await;
    let never = wish("never", "o/r", json!({ "notBefore": "9999-12-01T00:00:00Z" }));
    let before = store.now().await.unwrap();
    submit_all(&*store, [never]).await;
    let at = look(&*store, "never").await.at;
    assert!(at >= before + YEAR && at <= store.now().await.unwrap() + YEAR, "{at}");
    assert!(store.claim(9).await.unwrap().is_empty());
}

async fn one_claim_gives_no_job_twice(world: World) {
    let dying = world.dying().await;
    submit_all(&*dying, (0..5).map(|n| of(&format!("job-{n}"), "o/r"))).await;
    // Leases that are over at once, in the very claim that gave them.
    assert_eq!(ids(&dying.claim(3).await.unwrap()), ["job-0", "job-1", "job-2"]);
    let again = dying.claim(99).await.unwrap();
    let mut names = ids(&again);
    names.sort_unstable();
    assert_eq!(names, ["job-0", "job-1", "job-2", "job-3", "job-4"]);
}
