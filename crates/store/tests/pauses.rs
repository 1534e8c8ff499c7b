//! Pauses of everybody and of one owner, and what goes on all the same. On all stores.

use std::time::Duration;

use steadfast_store::{ClaimedFrom, Counts, Renewal, State, Whom};

use crate::on_every_store;
use crate::world::*;

on_every_store![
    while_all_is_paused_nothing_is_begun,
    while_an_owner_is_paused_others_are_served,
    pauses_are_ended_apart_and_listed_in_order,
    a_pause_is_the_whole_fleets,
    what_runs_goes_on_while_paused,
    an_expired_lease_of_a_paused_owner_is_put_back,
    an_expired_lease_waits_while_all_is_paused,
    what_is_called_off_is_told_even_while_paused,
    a_paused_owner_waits_in_its_place,
    without_room_for_work_only_what_is_called_off_is_claimed,
];

async fn while_all_is_paused_nothing_is_begun(world: World) {
    let store = world.store("a").await;
    store.pause(&Whom::All).await.unwrap();
    submit_all(&*store, [of("x", "o/r"), of("y", "p/r")]).await;
    assert!(store.claim(9).await.unwrap().is_empty());
    assert_eq!(look(&*store, "x").await.state, State::Queued);
    store.resume(&Whom::All).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x", "y"]);
}

async fn while_an_owner_is_paused_others_are_served(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [of("x", "Acme/r"), of("y", "other/r"), of("z", "acme/s")]).await;
    store.pause(&Whom::owner("ACME")).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
    submit_all(&*store, [of("late", "aCme/r")]).await;
    assert!(store.claim(9).await.unwrap().is_empty());
    store.resume(&Whom::owner("acmE")).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x", "z", "late"]);
}

async fn pauses_are_ended_apart_and_listed_in_order(world: World) {
    let store = world.store("a").await;
    assert_eq!(store.paused().await.unwrap(), []);
    submit_all(&*store, [of("x", "a/r"), of("y", "b/r")]).await;
    for whom in [Whom::owner("b"), Whom::All, Whom::owner("a"), Whom::owner("B"), Whom::All] {
        store.pause(&whom).await.unwrap();
    }
    assert_eq!(store.paused().await.unwrap(), [Whom::All, Whom::owner("a"), Whom::owner("b")]);
    store.resume(&Whom::All).await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty(), "each of them is still paused");
    store.resume(&Whom::owner("a")).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x"]);
    store.resume(&Whom::owner("nobody")).await.unwrap();
    assert_eq!(store.paused().await.unwrap(), [Whom::owner("b")]);
    store.pause(&Whom::All).await.unwrap();
    store.resume(&Whom::owner("b")).await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty(), "all are still paused");
    store.resume(&Whom::All).await.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["y"]);
}

async fn a_pause_is_the_whole_fleets(world: World) {
    let (a, b) = (world.store("a").await, world.store("b").await);
    submit_all(&*a, [of("x", "o/r")]).await;
    a.pause(&Whom::owner("o")).await.unwrap();
    assert!(b.claim(9).await.unwrap().is_empty());
    // And of who joins it later.
    let late = world.store("late").await;
    assert!(late.claim(9).await.unwrap().is_empty());
    assert_eq!(late.paused().await.unwrap(), [Whom::owner("o")]);
    b.resume(&Whom::owner("o")).await.unwrap();
    assert_eq!(ids(&a.claim(9).await.unwrap()), ["x"]);
}

async fn what_runs_goes_on_while_paused(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    store.pause(&Whom::All).await.unwrap();
    store.pause(&Whom::owner("test")).await.unwrap();
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    store.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap();
    store.settle(&lease, &completed()).await.unwrap();
    assert_eq!(look(&*store, "x").await.state, State::Ended);
}

async fn an_expired_lease_of_a_paused_owner_is_put_back(world: World) {
    let (dying, store) = (world.dying().await, world.store("a").await);
    let lease = running(&*dying, "x").await.lease;
    store.pause(&Whom::owner("test")).await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty());
    let found = look(&*store, "x").await;
    assert_eq!((found.state, found.counts.crashes), (State::Queued, 1));
    assert!(store.claim(9).await.unwrap().is_empty());
    assert_eq!(look(&*store, "x").await.counts.crashes, 1, "a crash is counted once");
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Lost]);
    assert!(store.release(&lease).await.is_err());
    store.resume(&Whom::owner("test")).await.unwrap();
    let claim = claim_one(&*store).await;
    assert_eq!(claim.from, ClaimedFrom::Queue);
    assert_eq!(claim.counts, Counts { runs: 2, crashes: 1, ..Counts::default() });
}

async fn an_expired_lease_waits_while_all_is_paused(world: World) {
    let (dying, store) = (world.dying().await, world.store("a").await);
    running(&*dying, "x").await;
    store.pause(&Whom::All).await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty());
    store.resume(&Whom::All).await.unwrap();
    let claim = claim_one(&*store).await;
    assert_eq!((claim.from, claim.counts.crashes), (ClaimedFrom::ExpiredLease, 1));
}

async fn what_is_called_off_is_told_even_while_paused(world: World) {
    let store = world.store("a").await;
    for name in ["first", "second"] {
        let lease = running(&*store, name).await.lease;
        store.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap();
        store.requeue(&lease, Duration::from_secs(3600), &failed("x")).await.unwrap();
    }
    submit_all(&*store, [of("other", "o/r")]).await;
    store.pause(&Whom::All).await.unwrap();
    store.pause(&Whom::owner("test")).await.unwrap();
    for name in ["second", "first"] {
        store.cancel(&id(name)).await.unwrap();
    }
    let claims = store.claim(9).await.unwrap();
    let mut names = ids(&claims);
    names.sort_unstable();
    assert_eq!(names, ["first", "second"]);
    assert!(claims.iter().all(|claim| claim.cancel_requested));
    assert!(store.claim(9).await.unwrap().is_empty());
}

async fn a_paused_owner_waits_in_its_place(world: World) {
    let store = world.store("a").await;
    submit_all(&*store, [of("a-0", "a/r"), of("b-0", "b/r"), of("a-1", "a/r"), of("b-1", "b/r")]).await;
    store.pause(&Whom::owner("a")).await.unwrap();
    assert_eq!(ids(&store.claim(1).await.unwrap()), ["b-0"]);
    store.resume(&Whom::owner("a")).await.unwrap();
    assert_eq!(claim_singly(&*store).await, ["a-0", "b-1", "a-1"]);
}

async fn without_room_for_work_only_what_is_called_off_is_claimed(world: World) {
    let (store, dying) = (world.store("a").await, world.dying().await);
    running(&*dying, "expired").await;
    let parked = running(&*store, "expired-too").await;
    store.append(&parked.lease, 0, &[b"s".to_vec()], None).await.unwrap();
    store.park(&parked.lease, steadfast_core::time::Timestamp::MAX, "x").await.unwrap();
    submit_all(&*store, [of("ready", "o/r")]).await;
    assert!(store.claim_called_off(9).await.unwrap().is_empty());
    let id = parked.lease.job;
    store.cancel(&id).await.unwrap();
    let claims = store.claim_called_off(9).await.unwrap();
    assert_eq!((claims.len(), &claims[0].lease.job, claims[0].cancel_requested), (1, &id, true));
    assert!(store.claim_called_off(9).await.unwrap().is_empty());
    // Told, it is put back with a wait of its own: it comes as any other.
    store
        .requeue(&claims[0].lease, Duration::ZERO, &steadfast_store::Requeue::Failed { error: "x".into() })
        .await
        .unwrap();
    assert!(store.claim_called_off(9).await.unwrap().is_empty());
    assert!(
        store.claim(9).await.unwrap().iter().any(|claim| claim.lease.job == id && claim.cancel_requested)
    );
}
