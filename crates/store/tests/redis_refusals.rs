//! A Redis that is something else, is full or read only, wants a password, or holds what nobody here
//! wrote: clear errors, nothing lost, and the rest goes on.

use redis::Value;
use steadfast_store::testing::RedisServer;
use steadfast_store::{Admission, Counts, Renewal, Settings, StoreError, open};

use crate::redis_specifics::{Other, opened};
use crate::world::*;

async fn refused(url: &str) -> StoreError {
    match open(&Settings::for_tests(url), "a").await {
        Err(error) => error,
        Ok(_) => panic!("{url} was taken for a store"),
    }
}

#[tokio::test]
async fn what_cannot_be_used_says_why_and_what_to_do() {
    let server = RedisServer::with(&["--requirepass", "hunter2"]);
    let (plain, wrong) = (server.url(), format!("{}?pass=wr0ng", server.url()));
    for (url, cure) in [(plain.as_str(), "PASSWORD"), (wrong.as_str(), "password in queue.url")] {
        let error = refused(url).await;
        assert!(matches!(error, StoreError::Unusable(_)), "{error:?}");
        assert!(error.to_string().contains(cure), "{error}");
        assert!(!error.to_string().contains("wr0ng"), "{error}");
    }
    let right = open(&Settings::for_tests(format!("{plain}?pass=hunter2")), "a").await.unwrap();
    assert!(!right.name().contains("hunter2"), "{}", right.name());
    let nobody = refused("redis+unix:///nowhere/redis.sock").await;
    assert!(matches!(nobody, StoreError::Unavailable(_)), "{nobody:?}");
    let no_tls = refused("rediss://:hunter2@127.0.0.1:1").await;
    assert!(!no_tls.to_string().contains("hunter2"), "{no_tls}");
    let no_url = refused("redis://:hunter2@:x").await;
    assert!(matches!(&no_url, StoreError::Unusable(why) if !why.contains("hunter2")), "{no_url:?}");
}

#[tokio::test]
async fn a_server_that_is_not_redis_is_told_from_one_that_is_away() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 1000]).await;
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = refused(&url).await;
    assert!(matches!(&error, StoreError::Unusable(why) if why.contains("not redis")), "{error:?}");
}

#[tokio::test]
async fn a_full_or_read_only_server_says_so_and_is_tried_again() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let lease = running(&*store, "early").await.lease;
    let _: String = other.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = store.submit(&job("x")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("maxmemory")), "{error:?}");
    let error = store.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    // What keeps a run or ends it needs no memory.
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    store.settle(&lease, &completed()).await.unwrap();
    // An entry that cannot be admitted now stays where it is.
    let _: String = other.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    other.add(&json("y")).await;
    let _: String = other.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(matches!(store.claim(1).await, Err(StoreError::Unavailable(_))));
    let _: String = other.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(claim_soon(&*store).await.counts, Counts { runs: 1, ..Counts::default() });
    let _: String = other.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = store.submit(&job("x")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("replica")), "{error:?}");
    let _: String = other.run(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(store.submit(&job("x")).await.unwrap(), Admission::Queued);
}

#[tokio::test]
async fn keys_of_another_kind_spoil_one_job_or_say_what_they_are() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let _: String = other.run(&["SET", "job:spoilt", "a string"]).await;
    other.add(&json("spoilt")).await;
    other.add(&json("good")).await;
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["good"]);
    let letters = other.dead().await;
    assert!(letters[0][1].contains("another kind"), "{letters:?}");
    assert!(matches!(store.submit(&job("spoilt")).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(store.inspect(&id("spoilt")).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(store.cancel(&id("spoilt")).await, Err(StoreError::Corrupt(_))));

    // One that all jobs need stops the queue, and loses nothing.
    for key in ["job-queue:due", "job-queue:dead"] {
        let _: i64 = other.run(&["DEL", key]).await;
        let _: String = other.run(&["SET", key, "a string"]).await;
        other.add(&json(&key.replace(':', "-"))).await;
        other.add(&format!("unreadable beside {key}")).await;
        let error = store.claim(1).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unusable(why) if why.contains("queue.prefix")), "{error:?}");
        let _: i64 = other.run(&["DEL", key]).await;
        assert_eq!(ids(&store.claim(9).await.unwrap()), [key.replace(':', "-")]);
        assert_eq!(other.dead().await.last().unwrap()[5], format!("unreadable beside {key}"));
    }

    let _: i64 = other.run(&["DEL", "job-queue"]).await;
    let _: String = other.run(&["SET", "job-queue", "a string"]).await;
    let error = store.claim(1).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unusable(why) if why.contains("queue.prefix")), "{error:?}");
    assert!(matches!(refused(&server.url()).await, StoreError::Unusable(_)));
    // A prefix of its own is the cure, and keeps clear of all that.
    let settings = Settings { prefix: "{fast}:".into(), ..Settings::for_tests(server.url()) };
    let apart = open(&settings, "a").await.unwrap();
    apart.submit(&job("good")).await.unwrap();
    assert_eq!(claim_one(&*apart).await.job.id, id("good"));
    let keys: Vec<String> = other.run(&["KEYS", "{fast}:*"]).await;
    assert!(keys.contains(&"{fast}:job:good".to_owned()), "{keys:?}");
}

#[tokio::test]
async fn damaged_jobs_are_set_aside_and_others_run() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let damages: [(&str, &[&str]); 7] = [
        ("counter", &["HSET", "job:counter", "runs", "many"]),
        ("token", &["HDEL", "job:token", "token"]),
        ("state", &["HSET", "job:state", "state", "odd"]),
        ("data", &["SET", "job-queue:data:data", "{}"]),
        ("nothing", &["DEL", "job-queue:data:nothing"]),
        ("hash", &["DEL", "job:hash"]),
        ("kind", &["SET", "job:kind", "a string"]),
    ];
    for (name, _) in damages {
        store.submit(&job(name)).await.unwrap();
    }
    // Of one that was never claimed, all counts are known to be zero.
    for claim in store.claim(99).await.unwrap() {
        store.release(&claim.lease).await.unwrap();
    }
    for (_, damage) in damages {
        let _: Value = other.run(damage).await;
    }
    store.submit(&job("good")).await.unwrap();
    assert_eq!(ids(&store.claim(99).await.unwrap()), ["good"]);
    assert!(store.claim(99).await.unwrap().is_empty());
    assert_eq!(store.count().await.unwrap()[..3], [0, 1, 0]);
    for (name, _) in damages.iter().filter(|(name, _)| *name != "kind") {
        let hash = other.hash(&format!("job:{name}")).await;
        assert_eq!((hash["status"].as_str(), hash["endReason"].as_str()), ("failed", "journal"), "{name}");
        assert!(hash["result"].contains("cannot read"), "{name}: {}", hash["result"]);
    }
    assert_eq!(store.list(None, 99).await.unwrap().len(), 5, "those whose job is still there");
    // The journal lost a step under a run.
    let claim = running(&*store, "journal").await;
    store.append(&claim.lease, 0, &[b"a".to_vec(), b"b".to_vec()], None).await.unwrap();
    let _: Value = other.run(&["RPOP", "job-queue:journal:journal"]).await;
    let replay = store.replay(&id("journal")).await.unwrap();
    assert_eq!((replay.steps.len(), replay.steps[0].as_slice()), (2, &b"a"[..]));
    assert!(steadfast_core::journal::Step::decode(&replay.steps[1]).is_err());
    let appended = store.append(&claim.lease, 2, &[b"c".to_vec()], None).await;
    assert!(matches!(appended, Err(StoreError::Corrupt(_))), "{appended:?}");
}
