//! What nobody should send and somebody will: garbage for steps, times years off, ids made to collide,
//! payloads at their caps and just over. On all stores.

use std::time::Duration;

use serde_json::json;
use steadfast_core::end::EndStatus;
use steadfast_core::journal::{Event, PACKED, Step};
use steadfast_core::time::Timestamp;
use steadfast_store::{Admission, Requeue, Settings, Settlement, State, StoreError};

use crate::on_every_store;
use crate::world::*;

on_every_store![
    whatever_a_step_is_made_of_is_given_back,
    journals_of_jobs_whose_names_begin_alike_are_apart,
    ids_that_look_like_something_else_are_ids,
    times_that_are_years_off_do_no_harm,
    payloads_may_be_as_large_as_their_caps_and_no_larger,
    words_of_any_length_and_kind_are_kept_within_bounds,
    what_a_settlement_brings_cannot_pose_as_the_stores_own,
    wishes_of_a_wrong_kind_are_no_wishes,
];

/// A step as a run writes it.
fn step() -> Vec<u8> {
    let event = Event::Started {
        base_commit: "c".repeat(40),
        base_branch: "main".into(),
        system_prompt: "s".into(),
        task_prompt: "t".into(),
    };
    Step { at: Timestamp::EPOCH, event }.encode()
}

async fn whatever_a_step_is_made_of_is_given_back(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    let whole = step();
    let newer = [&[99][..], &whole[1..]].concat();
    let packed = [&[PACKED, 0x28, 0xb5, 0x2f, 0xfd][..], &[0; 300]].concat();
    let mut steps = vec![whole.clone(), whole[..whole.len() / 2].to_vec(), newer, packed];
    steps.extend([vec![], vec![0], vec![PACKED], vec![PACKED; 1000], b"{\"event\":\"nonsense\"}".to_vec()]);
    steps.push((0..=255).cycle().take(70_000).collect());
    steps.push(b"\r\n$-1\r\n*3\r\n".to_vec());
    store.append(&lease, 0, &steps, Some(&[0, 255, 10, 13])).await.unwrap();
    store.append(&lease, 0, &steps, None).await.unwrap();
    let replay = store.replay(&id("x")).await.unwrap();
    assert_eq!(replay.patch, [0, 255, 10, 13]);
    assert_eq!(replay.steps, steps);
    assert!(Step::decode(&replay.steps[0]).is_ok());
    assert!(replay.steps[1..].iter().all(|step| Step::decode(step).is_err()));
}

async fn journals_of_jobs_whose_names_begin_alike_are_apart(world: World) {
    let store = world.store("a").await;
    let names = ["a", "a:1", "a1", "A", "a:", ":a", "journal:a", "data:a", "patch:a"];
    submit_all(&*store, names.map(job)).await;
    let claims = store.claim(99).await.unwrap();
    assert_eq!(claims.len(), names.len());
    for claim in &claims {
        let name = claim.job.id.as_str().as_bytes();
        store.append(&claim.lease, 0, &[name.to_vec()], Some(name)).await.unwrap();
    }
    for name in names {
        let replay = store.replay(&id(name)).await.unwrap();
        assert_eq!(
            (replay.steps, replay.patch.as_slice()),
            (vec![name.as_bytes().to_vec()], name.as_bytes())
        );
    }
    // Steps of another job fit nowhere but where they were written.
    let stolen = store.append(&claims[0].lease, 0, &[b"a:1".to_vec()], None).await;
    assert!(matches!(stolen, Err(StoreError::Corrupt(_))), "{stolen:?}");
}

async fn ids_that_look_like_something_else_are_ids(world: World) {
    let store = world.store("a").await;
    let long = "x".repeat(128);
    let names = [
        "x",
        "X",
        "{x}",
        "x}",
        "*",
        "?",
        "[a-z]",
        "%",
        "_",
        "'--",
        "\"",
        "\\",
        "../x",
        "0",
        "00",
        "-1",
        "null",
        "due",
        "leases",
        "state:queued",
        "dead",
        "job-queue",
        "jobData",
        "$1",
        ":x",
        "x%00",
        &long,
    ];
    for name in names {
        // In JSON some of these must be written otherwise.
        let mut one = job("plain");
        one.id = id(name);
        assert_eq!(store.submit(&one).await.unwrap(), Admission::Queued, "{name}");
        assert_eq!(store.submit(&one).await.unwrap(), Admission::Duplicate, "{name}");
    }
    let claims = store.claim(99).await.unwrap();
    assert_eq!(ids(&claims), names);
    for claim in claims {
        store.settle(&claim.lease, &completed()).await.unwrap();
        let found = store.inspect(&claim.lease.job).await.unwrap().unwrap();
        assert_eq!((found.state, found.job.id), (State::Ended, claim.lease.job));
    }
    assert_eq!(store.count().await.unwrap(), [0, 0, 0, names.len() as u64]);
}

async fn times_that_are_years_off_do_no_harm(world: World) {
    let store = world.store("a").await;
    let mut odd = job("created");
    odd.created_at = "the day before yesterday".into();
    submit_all(&*store, [odd]).await;
    submit_all(&*store, [wish("bc", "o/r", json!({ "notBefore": "0000-01-01T00:00:00Z" }))]).await;
    submit_all(&*store, [wish("leap", "o/r", json!({ "notBefore": "2024-02-30T25:61:61Z" }))]).await;
    let claims = store.claim(9).await.unwrap();
    assert_eq!(claims.len(), 3);
    // A runner whose clock is wrong parks into the past, or for ever.
    for (claim, until) in claims.iter().zip([Timestamp::from_millis(-1), Timestamp::EPOCH, Timestamp::MAX]) {
        store.park(&claim.lease, until, "x").await.unwrap();
    }
    let claims = store.claim(9).await.unwrap();
    assert_eq!(claims.len(), 2);
    assert_eq!(store.count().await.unwrap(), [0, 2, 1, 0]);
    for after in [Duration::MAX, Duration::from_secs(u64::MAX / 1000)] {
        let claim = running(&*store, &format!("after-{}", after.as_millis() % 1000)).await;
        store.requeue(&claim.lease, after, &failed("x")).await.unwrap();
        let found = store.inspect(&claim.lease.job).await.unwrap().unwrap();
        assert_eq!(found.state, State::Queued);
        assert!(found.at > store.now().await.unwrap() + Duration::from_secs(365 * 24 * 3600), "{}", found.at);
    }
    assert!(store.claim(9).await.unwrap().is_empty());
    // It can still be called off, and retried.
    store.cancel(&id("created")).await.unwrap();
    store.cancel(&id("bc")).await.unwrap();
    assert_eq!(store.count().await.unwrap().iter().sum::<u64>(), 5);
}

fn tight(settings: &mut Settings) {
    settings.max_steps = 4;
    settings.max_step_bytes = bytesize::ByteSize::b(50);
    settings.max_journal_bytes = bytesize::ByteSize::b(120);
    settings.max_patch_bytes = bytesize::ByteSize::b(30);
    settings.max_job_bytes = bytesize::ByteSize::b(1000);
}

async fn payloads_may_be_as_large_as_their_caps_and_no_larger(world: World) {
    let store = world.with("a", tight).await;
    let sized = |name: &str, bytes: usize| {
        let mut one = job(name);
        one.task_params.issue_body = Some(String::new());
        let bare = serde_json::to_string(&one).unwrap().len();
        one.task_params.issue_body = Some("x".repeat(bytes - bare));
        one
    };
    submit_all(&*store, [sized("full", 1000)]).await;
    match store.submit(&sized("over", 1001)).await {
        Err(StoreError::TooLarge { what: "job", actual: 1001, limit: 1000 }) => {}
        other => panic!("{other:?}"),
    }
    let lease = claim_one(&*store).await.lease;
    let over = |result: Result<(), StoreError>, wanted: (&str, usize, usize)| match result {
        Err(StoreError::TooLarge { what, actual, limit }) => assert_eq!((what, actual, limit), wanted),
        other => panic!("{wanted:?}: {other:?}"),
    };
    // What nothing packs, so that bytes are counted as they are.
    let body = |bytes: u8| (0..bytes).map(|n| n.wrapping_mul(97)).collect::<Vec<u8>>();
    over(store.append(&lease, 0, &[body(51)], None).await, ("step", 51, 50));
    store.append(&lease, 0, &[body(50), body(50)], Some(&[7; 30])).await.unwrap();
    over(store.append(&lease, 2, &[body(1)], Some(&[8; 31])).await, ("patch", 31, 30));
    over(store.append(&lease, 2, &[body(21)], None).await, ("journal", 121, 120));
    over(store.append(&lease, 2, &[body(1), body(1), body(1)], None).await, ("steps", 5, 4));
    store.append(&lease, 2, &[body(10), body(10)], None).await.unwrap();
    over(store.append(&lease, 4, &[vec![]], None).await, ("steps", 5, 4));
    // What was refused left nothing behind, and the run can still be ended.
    let replay = store.replay(&lease.job).await.unwrap();
    assert_eq!((replay.steps.len(), replay.patch), (4, vec![7; 30]));
    store.append(&lease, 4, &[], Some(&[9; 30])).await.unwrap();
    store.settle(&lease, &completed()).await.unwrap();
}

async fn words_of_any_length_and_kind_are_kept_within_bounds(world: World) {
    let store = world.store("a").await;
    let odd = "\0\u{1b}[31m\r\nstatus\r\n'\"\u{202e}\u{10ffff}";
    for (name, words) in [("odd", odd.to_owned()), ("long", "🦀".repeat(100_000)), ("none", String::new())]
    {
        let kept: String = words.chars().take(500).collect();
        let lease = running(&*store, name).await.lease;
        store.park(&lease, Timestamp::from_secs(1), &words).await.unwrap();
        assert_eq!(look(&*store, name).await.waiting_for.as_deref(), Some(kept.as_str()), "{name}");
        let lease = claim_one(&*store).await.lease;
        store.requeue(&lease, Duration::ZERO, &Requeue::Crashed { error: words }).await.unwrap();
        let found = look(&*store, name).await;
        assert_eq!(field(&found, "lastError"), Some(kept.as_str()), "{name}");
        let lease = claim_soon(&*store).await.lease;
        store.settle(&lease, &completed()).await.unwrap();
    }
}

async fn what_a_settlement_brings_cannot_pose_as_the_stores_own(world: World) {
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    let names =
        ["state", "runs", "token", "seq", "due", "closed", "cancel", "journalBytes", "retries", "joinedTo"];
    let mut fields: Vec<_> = names.iter().map(|name| ((*name).to_owned(), "7".to_owned())).collect();
    fields.push(("note".into(), "kept\0\n".into()));
    let settlement = Settlement { status: EndStatus::Failed, result: json!({ "a": [null] }), fields };
    store.settle(&lease, &settlement).await.unwrap();
    let found = look(&*store, "x").await;
    assert_eq!((found.state, found.counts.runs), (State::Ended, 1));
    assert_eq!(field(&found, "note"), Some("kept\0\n"));
    for name in &names[2..] {
        assert_eq!(field(&found, name), None, "{name}");
    }
    assert!(store.purge().await.is_ok());
    assert!(store.inspect(&id("x")).await.unwrap().is_some());
}

async fn wishes_of_a_wrong_kind_are_no_wishes(world: World) {
    let store = world.store("a").await;
    for (n, value) in
        [json!(null), json!("high"), json!([9]), json!({}), json!(1.5), json!(true)].iter().enumerate()
    {
        let wishes = json!({ "priority": value, "notBefore": value, "issue": 7,
            "unique": if value.is_boolean() { json!("yes") } else { value.clone() } });
        submit_all(&*store, [wish(&format!("job-{n}"), "o/r", wishes)]).await;
    }
    submit_all(&*store, [wish("huge", "o/r", json!({ "priority": u64::MAX }))]).await;
    assert_eq!(store.claim(99).await.unwrap().len(), 7);
}
