//! The limit ledger, as all three stores have it.

use std::time::Duration;

use steadfast_store::ledger::{MOST_NAME, MOST_WORDS};
use steadfast_store::{Keep, StoreError};

use crate::on_every_store;
use crate::world::{BOUND, World, running};

on_every_store!(
    one_keeps_a_budget_until_it_leaves,
    a_keeper_that_is_gone_is_followed_with_its_note,
    a_keeper_that_died_is_followed_before_its_lease_ends,
    who_never_heard_that_it_keeps_a_budget_may_ask_again,
    who_listens_hears_what_is_said_in_order,
    what_is_refused_is_neither_noted_nor_said,
    what_is_too_large_is_refused,
    who_holds_leases_or_listens_is_present,
);

const LEASE: Duration = Duration::from_secs(60);

fn keep(member: &str, epoch: u64, lease: Duration, note: Option<&str>, words: Option<&str>) -> Keep {
    let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
    Keep { member: member.into(), epoch, lease, note: bytes(note), words: bytes(words) }
}

async fn one_keeps_a_budget_until_it_leaves(world: World) {
    let ledger = world.store("a").await.ledger();
    let first = ledger.keep("llm", &keep("a#1", 0, LEASE, Some("note"), None)).await.unwrap();
    assert!(first.yours && first.note.is_none() && first.until > first.now, "{first:?}");
    let other = world.store("b").await.ledger();
    let refused = other.keep("llm", &keep("b#1", 0, LEASE, None, None)).await.unwrap();
    assert_eq!((refused.yours, refused.keeper.as_str(), refused.epoch), (false, "a#1", first.epoch));
    assert!(other.keep("other budget", &keep("b#1", 0, LEASE, None, None)).await.unwrap().yours);
    let again = ledger.keep("llm", &keep("a#1", first.epoch, LEASE, None, None)).await.unwrap();
    assert_eq!((again.yours, again.epoch, again.note), (true, first.epoch, None));
    assert!(ledger.keep("llm", &keep("a#1", first.epoch, Duration::ZERO, None, None)).await.unwrap().yours);
    let next = other.keep("llm", &keep("b#1", 0, LEASE, None, None)).await.unwrap();
    assert_eq!((next.yours, next.epoch), (true, first.epoch + 1));
    assert_eq!(next.note.unwrap().0, b"note");
    // The one before may do nothing by its old epoch.
    assert!(!ledger.keep("llm", &keep("a#1", first.epoch, LEASE, None, None)).await.unwrap().yours);
}

async fn a_keeper_that_is_gone_is_followed_with_its_note(world: World) {
    let ledger = world.store("a").await.ledger();
    let gone = keep("a#1", 0, Duration::ZERO, Some("what it knew"), None);
    let first = ledger.keep("llm", &gone).await.unwrap();
    let next = ledger.keep("llm", &keep("b#1", 0, LEASE, None, None)).await.unwrap();
    assert_eq!((next.yours, next.epoch), (true, first.epoch + 1));
    let (note, noted_at) = next.note.unwrap();
    assert_eq!(note, b"what it knew");
    assert!(noted_at <= next.now);
    let budgets = ledger.budgets(10).await.unwrap();
    assert_eq!(budgets.len(), 1);
    assert_eq!((budgets[0].budget.as_str(), budgets[0].keeper.as_str()), ("llm", "b#1"));
    assert_eq!(budgets[0].note, b"what it knew");
}

async fn a_keeper_that_died_is_followed_before_its_lease_ends(world: World) {
    let ledger = world.store("a").await.ledger();
    let listener = ledger.listen("a#1").await.unwrap();
    let first = ledger.keep("llm", &keep("a#1", 0, LEASE, Some("what it knew"), None)).await.unwrap();
    // However long it says nothing, as long as it listens.
    let quiet = Duration::from_millis(2_500);
    crate::redis_real::fleet::until("a while", async || {
        let refused = ledger.keep("llm", &keep("b#1", 0, LEASE, None, None)).await.unwrap();
        assert_eq!((refused.yours, refused.until), (false, first.until));
        refused.now >= first.now + quiet
    })
    .await;
    drop(listener);
    let mut next = None;
    crate::redis_real::fleet::until("the keepership", async || {
        let kept = ledger.keep("llm", &keep("b#1", 0, LEASE, None, None)).await.unwrap();
        next = Some(kept.clone()).filter(|kept| kept.yours);
        next.is_some()
    })
    .await;
    let next = next.unwrap();
    assert!(next.now < first.until, "{next:?}");
    assert_eq!((next.epoch, next.note.unwrap().0), (first.epoch + 1, b"what it knew".to_vec()));
    assert!(!ledger.keep("llm", &keep("a#1", first.epoch, LEASE, None, None)).await.unwrap().yours);
    // Nobody is seen to listen, but the keeper was heard of just now: it may be about to.
    let soon = ledger.keep("llm", &keep("c#1", 0, LEASE, None, None)).await.unwrap();
    assert!(!soon.yours && soon.until <= soon.now + quiet, "{soon:?}");
}

async fn who_never_heard_that_it_keeps_a_budget_may_ask_again(world: World) {
    let ledger = world.store("a").await.ledger();
    let ask = keep("a#1", 0, LEASE, Some("note"), None);
    let unheard = ledger.keep("llm", &ask).await.unwrap();
    let again = ledger.keep("llm", &ask).await.unwrap();
    assert_eq!((again.yours, again.epoch), (true, unheard.epoch + 1));
    assert!(!ledger.keep("llm", &keep("b#1", 0, LEASE, None, None)).await.unwrap().yours);
}

async fn who_listens_hears_what_is_said_in_order(world: World) {
    let (here, there) = (world.store("a").await, world.store("b").await);
    // The tables of a file are made by the first who writes.
    here.ledger().say("llm", b"before anybody listened").await.unwrap();
    let mut listener = there.ledger().listen("b#1").await.unwrap();
    let words = |n: usize| format!("word {n}\nand its \0 bytes").into_bytes();
    for n in 0..10 {
        here.ledger().say("llm", &words(n)).await.unwrap();
    }
    here.ledger().keep("github:7", &keep("a#1", 0, LEASE, None, Some("a plan"))).await.unwrap();
    for n in 0..10 {
        let heard = tokio::time::timeout(BOUND, listener.next()).await.unwrap().unwrap();
        assert_eq!((heard.budget.as_str(), heard.words), ("llm", words(n)));
    }
    let plan = tokio::time::timeout(BOUND, listener.next()).await.unwrap().unwrap();
    assert_eq!((plan.budget.as_str(), plan.words.as_slice()), ("github:7", b"a plan".as_slice()));
}

async fn what_is_refused_is_neither_noted_nor_said(world: World) {
    let ledger = world.store("a").await.ledger();
    ledger.keep("llm", &keep("a#1", 0, LEASE, Some("mine"), None)).await.unwrap();
    let mut listener = ledger.listen("a#1").await.unwrap();
    ledger.keep("llm", &keep("b#1", 0, LEASE, Some("theirs"), Some("theirs"))).await.unwrap();
    ledger.say("llm", b"last").await.unwrap();
    let heard = tokio::time::timeout(BOUND, listener.next()).await.unwrap().unwrap();
    assert_eq!(heard.words, b"last");
    assert_eq!(ledger.budgets(10).await.unwrap()[0].note, b"mine");
}

async fn what_is_too_large_is_refused(world: World) {
    let ledger = world.store("a").await.ledger();
    let large = "x".repeat(MOST_WORDS + 1);
    let refused = [
        ledger.say("llm", large.as_bytes()).await.unwrap_err(),
        ledger.say(&"b".repeat(MOST_NAME + 1), b"").await.unwrap_err(),
        ledger.keep("llm", &keep("a#1", 0, LEASE, Some(&large), None)).await.unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    }
    assert!(ledger.budgets(10).await.unwrap().is_empty());
}

async fn who_holds_leases_or_listens_is_present(world: World) {
    let store = world.store("runner-1").await;
    let (ledger, _listener) = (store.ledger(), store.ledger().listen("runner-1#ab").await.unwrap());
    running(&*store, "a").await;
    let kept = ledger.keep("llm", &keep("other#1", 0, LEASE, None, None)).await.unwrap();
    let is_there = |name: &String| name == "runner-1" || name == "runner-1#ab";
    assert!(kept.present.iter().any(is_there), "{kept:?}");
}
