//! The user that docs/redis.md describes has the rights that the queue needs, and none besides.

use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{Keep, Requeue, Result, Settings, StoreError, open};

use super::fleet::Talk;
use crate::world::*;

const DOCS: &str = include_str!("../../../../docs/redis.md");

/// Rights that only make things better or concern a cluster: no call fails without them.
const SPARED: [&str; 6] = ["+info", "+cluster|slots", "+asking", "+xread", "+xrevrange", "+xinfo|consumers"];

/// The words of the documented command.
fn documented() -> Vec<String> {
    let begin = DOCS.find("ACL SETUSER steadfast").expect("docs/redis.md has the user's rights");
    let block = DOCS[begin..].split("```").next().unwrap();
    block.split([' ', '\n', '\\']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// All that a store is asked for in its life.
async fn life(settings: &Settings, producer: &mut Talk) -> Result<()> {
    let store = open(settings, "a").await?;
    let _: i64 = producer.run(&["XGROUP", "CREATECONSUMER", "job-queue", "processors", "gone"]).await;
    let ledger = store.ledger();
    let _listener = ledger.listen("me#1").await?;
    let keep = Keep {
        member: "me#1".into(),
        epoch: 0,
        lease: Duration::from_secs(1),
        note: Some(b"n".to_vec()),
        words: Some(b"w".to_vec()),
    };
    let kept = ledger.keep("llm", &keep).await?;
    assert_eq!(kept.present, ["me#1"]);
    ledger.say("llm", b"w").await?;
    assert_eq!(ledger.budgets(9).await?.len(), 1);
    // What was delivered before is seen to once; a look at the inbox comes after.
    store.count().await?;
    for data in [json("x").as_str(), "unreadable"] {
        let _: String = producer.run(&["XADD", "job-queue", "*", "jobData", data]).await;
    }
    store.wait(Duration::from_millis(10)).await?;
    let Some(claim) = store.claim(9).await?.pop() else { return Ok(()) };
    store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await?;
    for _ in 0..2 {
        store.append(&claim.lease, 1, &[b"t".to_vec()], None).await?;
    }
    store.replay(&claim.job.id).await?;
    store.renew(std::slice::from_ref(&claim.lease)).await?;
    store.requeue(&claim.lease, Duration::ZERO, &Requeue::Failed { error: "x".into() }).await?;
    let Some(claim) = store.claim(9).await?.pop() else { return Ok(()) };
    store.release(&claim.lease).await?;
    let Some(claim) = store.claim(9).await?.pop() else { return Ok(()) };
    store.park(&claim.lease, Timestamp::MAX, "x").await?;
    store.submit(&job("y")).await?;
    store.inspect(&id("y")).await?;
    store.list(None, 9).await?;
    store.count().await?;
    if let Some(claim) = store.claim(9).await?.pop() {
        store.settle(&claim.lease, &completed()).await?;
    }
    store.retry(&id("y"), steadfast_store::RetryFrom::Start).await?;
    store.cancel(&id("x")).await?;
    let whom = steadfast_store::Whom::owner("o");
    store.pause(&whom).await?;
    store.paused().await?;
    store.resume(&whom).await?;
    store.purge().await?;
    store.purge().await?;
    store.now().await?;
    Ok(())
}

#[tokio::test]
async fn the_documented_user_has_what_the_queue_needs_and_no_more() {
    let server = RedisServer::start();
    let mut operator = Talk::to(&server.url()).await;
    let grant = documented();
    let grant: Vec<&str> = grant.iter().map(String::as_str).collect();
    let url = format!("{}?user=steadfast&pass=PASSWORD", server.url());
    let settings =
        Settings { keep_ended: Duration::ZERO, per_repo_concurrency: 9, ..Settings::for_tests(url) };
    let rights: Vec<&str> = grant.iter().copied().filter(|word| word.starts_with('+')).collect();
    assert!(rights.len() > 30 && !grant.contains(&"+@all"), "{grant:?}");
    let keys: Vec<&str> = grant.iter().copied().filter(|word| word.starts_with(['~', '&'])).collect();
    let taken: Vec<String> = rights.iter().map(|right| right.replacen('+', "-", 1)).collect();
    for (n, missing) in taken.iter().map(String::as_str).map(Some).chain([None]).enumerate() {
        let _: String = operator.run(&["FLUSHALL"]).await;
        let _: String = operator.run(&["ACL", "SETUSER", "steadfast", "reset"]).await;
        let _: String = operator.run(&grant).await;
        if let Some(missing) = missing {
            let _: String = operator.run(&["ACL", "SETUSER", "steadfast", missing]).await;
        }
        let lived = life(&settings, &mut operator).await;
        match missing {
            Some(missing) if !SPARED.contains(&rights[n]) => match lived {
                Err(StoreError::Unusable(why) | StoreError::Unavailable(why)) => {
                    assert!(
                        why.contains("lacks a right") && why.contains("docs/redis.md"),
                        "{missing}: {why}"
                    );
                    assert!(!why.contains("PASSWORD"), "{why}");
                }
                other => panic!("{missing} is not missed: {other:?}"),
            },
            _ => lived.unwrap(),
        }
    }
    // Others' keys and channels are not its business.
    for key in keys {
        let _: String = operator.run(&["ACL", "SETUSER", "steadfast", "resetkeys", "resetchannels"]).await;
        let others = grant.iter().copied().filter(|word| word.starts_with(['~', '&']) && *word != key);
        let others: Vec<&str> = ["ACL", "SETUSER", "steadfast"].into_iter().chain(others).collect();
        let _: String = operator.run(&others).await;
        let _: String = operator.run(&["FLUSHALL"]).await;
        let error = life(&settings, &mut operator).await.err();
        assert!(
            matches!(&error, Some(StoreError::Unusable(why) | StoreError::Unavailable(why)) if why.contains("lacks a right")),
            "{key}: {error:?}"
        );
    }
}

#[tokio::test]
async fn who_may_not_listen_is_told_and_works_all_the_same() {
    let server = RedisServer::start();
    let mut operator = Talk::to(&server.url()).await;
    let grant = documented();
    let _: String = operator.run(&grant.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let _: String = operator.run(&["ACL", "SETUSER", "steadfast", "-xread"]).await;
    let warned = super::failures::Warned::default();
    let _guard = tracing::subscriber::set_default(warned.clone());
    let url = format!("{}?user=steadfast&pass=PASSWORD", server.url());
    let store = open(&Settings::for_tests(url), "a").await.unwrap();
    let waiting = tokio::spawn(super::cluster::next_claims(store));
    super::fleet::until("a warning", async || warned.0.lock().unwrap().contains("not heard of at once"))
        .await;
    let _: String = operator.run(&["XADD", "job-queue", "*", "jobData", &json("x")]).await;
    let _: String = operator.run(&["ACL", "SETUSER", "steadfast", "+xread"]).await;
    assert_eq!(ids(&soon("a claim", waiting).await.unwrap()), ["x"]);
}
