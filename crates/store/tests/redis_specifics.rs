//! What only the store in Redis has to hold: the seed system's contract, and a server that forgets or
//! dies.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Value;
use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{
    Admission, Cancellation, Counts, Renewal, Requeue, Settings, State, Store, StoreError, open,
};

use crate::world::*;

/// A client beside the store: a producer, a monitor, an operator.
pub struct Other {
    connection: redis::aio::MultiplexedConnection,
}

impl Other {
    pub async fn of(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        Other { connection: client.get_multiplexed_async_connection().await.unwrap() }
    }

    pub async fn run<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut self.connection).await.unwrap()
    }

    pub async fn add(&mut self, data: &str) -> String {
        self.run(&["XADD", "job-queue", "*", "jobData", data]).await
    }

    pub async fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        self.run(&["HGETALL", key]).await
    }

    /// The dead letters' fields.
    pub async fn dead(&mut self) -> Vec<Vec<String>> {
        let letters: Vec<(String, Vec<String>)> = self.run(&["XRANGE", "job-queue:dead", "-", "+"]).await;
        letters.into_iter().map(|(_, fields)| fields).collect()
    }
}

pub async fn opened(server: &RedisServer, runner: &str) -> std::sync::Arc<dyn Store> {
    open(&Settings::for_tests(server.url()), runner).await.unwrap()
}

#[tokio::test]
async fn the_seed_systems_entry_runs_and_its_monitors_see_it() {
    let server = RedisServer::start();
    let mut other = Other::of(&server).await;
    // Queued before any worker was there.
    let first = other.add(&json("before")).await;
    let store = opened(&server, "a").await;
    let groups: Vec<BTreeMap<String, Value>> = other.run(&["XINFO", "GROUPS", "job-queue"]).await;
    assert_eq!(groups[0]["name"], Value::BulkString(b"processors".to_vec()));
    assert!(!first.is_empty());
    let claim = claim_one(&*store).await;
    assert_eq!(claim.job, job("before"));
    assert_eq!(other.run::<i64>(&["XLEN", "job-queue"]).await, 0, "the stream is trimmed");
    let pending: Value = other.run(&["XPENDING", "job-queue", "processors"]).await;
    assert!(matches!(&pending, Value::Array(parts) if parts[0] == Value::Int(0)), "{pending:?}");

    let hash = other.hash("job:before").await;
    assert_eq!(hash["status"], "in_progress");
    assert!(hash["startedAt"].parse::<Timestamp>().is_ok());
    store
        .requeue(&claim.lease, Duration::from_secs(3600), &Requeue::Failed { error: "HTTP 429".into() })
        .await
        .unwrap();
    assert_eq!(other.hash("job:before").await["status"], "queued");
    let retry = other.hash("job:retry:before").await;
    assert_eq!((retry["count"].as_str(), retry["lastError"].as_str()), ("1", "HTTP 429"));
    let retry_after: Timestamp = retry["retryAfter"].parse().unwrap();
    assert_eq!(retry_after, look(&*store, "before").await.at);

    other.add(&json("test-123")).await;
    let claim = claim_soon(&*store).await;
    assert_eq!(claim.job.id, id("test-123"));
    store.settle(&claim.lease, &completed()).await.unwrap();
    let hash = other.hash("job:test-123").await;
    assert_eq!((hash["status"].as_str(), hash["endReason"].as_str()), ("completed", "pull_request"));
    assert_eq!(hash["completedAt"].len(), "2025-10-09T00:00:00.000Z".len());
    let result: serde_json::Value = serde_json::from_str(&hash["result"]).unwrap();
    assert_eq!(result["summary"], "done");
    let expires: i64 = other.run(&["PTTL", "job:test-123"]).await;
    let day = 24 * 3600 * 1000;
    assert!(expires > 7 * day && expires <= 8 * day, "{expires}");
}

#[tokio::test]
async fn both_protocols_will_do() {
    let server = RedisServer::start();
    let settings = Settings::for_tests(format!("{}?protocol=resp3", server.url()));
    let (store, mut other) = (open(&settings, "a").await.unwrap(), Other::of(&server).await);
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { claim_soon(&*store).await })
    };
    other.add(&json("x")).await;
    let claim = soon("a claim", waiting).await.unwrap();
    store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    assert_eq!(store.replay(&id("x")).await.unwrap().steps, [b"s".to_vec()]);
    assert_eq!(store.list(None, 9).await.unwrap()[0].counts, look(&*store, "x").await.counts);
    other.add("unreadable").await;
    assert_eq!(store.count().await.unwrap(), [0, 1, 0, 0]);
    assert_eq!(other.dead().await.len(), 1);
    store.settle(&claim.lease, &completed()).await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 0);
}

#[tokio::test]
async fn dates_are_written_as_core_writes_them() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let mut claim = running(&*store, "x").await;
    // Leap days, ends of months and of centuries.
    for text in [
        "1970-01-01T00:00:00.000Z",
        "1999-12-31T23:59:59.999Z",
        "2000-02-29T12:34:56.789Z",
        "2024-02-29T00:00:00.001Z",
        "2024-03-01T00:00:00.000Z",
        "2025-10-09T08:53:20.123Z",
        "2100-02-28T23:59:59.999Z",
        "2100-03-01T00:00:00.000Z",
    ] {
        let until: Timestamp = text.parse().unwrap();
        store.park(&claim.lease, until, "x").await.unwrap();
        assert_eq!(other.hash("job:x").await["waitingUntil"], text);
        assert_eq!(look(&*store, "x").await.at, until);
        let due = look(&*store, "x").await.at <= store.now().await.unwrap();
        if !due {
            // As if its time had come.
            let _: i64 = other.run(&["ZADD", "job-queue:due", "1", "x"]).await;
        }
        claim = claim_one(&*store).await;
    }
}

#[tokio::test]
async fn fifty_bad_entries_among_fifty_good_ones_stop_nobody() {
    let server = RedisServer::start();
    let mut other = Other::of(&server).await;
    let large = json("large").replace("List files", &"x".repeat(1_000_001));
    let long_id = json(&"i".repeat(129));
    let bad_name = json("x").replace(r#""repoName":"test""#, r#""repoName":"../x""#);
    let missing = json("x").replace(r#""repoOwner":"test","#, "");
    let bad = [
        ("", "not a job"),
        ("{\"id\":", "not a job"),
        ("\u{1f980}", "not a job"),
        ("[]", "not a job"),
        ("null", "not a job"),
        (missing.as_str(), "repoOwner"),
        (long_id.as_str(), "128"),
        (bad_name.as_str(), "repoName"),
        (large.as_str(), "max_job_bytes"),
    ];
    let store = opened(&server, "a").await;
    for n in 0..50 {
        match n % 12 {
            9 => {
                drop(other.run::<String>(&["XADD", "job-queue", "*", "other", "field", "and", "more"]).await)
            }
            10 => drop(other.add(&json("retry:x")).await),
            11 => {
                let mut add = redis::cmd("XADD");
                add.arg("job-queue").arg("*").arg("jobData").arg(&b"\xff\xfe"[..]).arg("extra").arg("kept");
                let _: String = add.query_async(&mut other.connection).await.unwrap();
            }
            kind => drop(other.add(bad[kind].0).await),
        }
        other.add(&json(&format!("good-{n}"))).await;
    }
    let claims = store.claim(100).await.unwrap();
    let wanted: Vec<String> = (0..50).map(|n| format!("good-{n}")).collect();
    assert_eq!(ids(&claims), wanted);
    assert_eq!(other.run::<i64>(&["XLEN", "job-queue"]).await, 0);
    assert_eq!(other.run::<i64>(&["XLEN", "job-queue:dead"]).await, 50);
    let _: i64 = other.run(&["DEL", "job-queue:dead"]).await;

    for (data, reason) in bad {
        other.add(data).await;
        store.claim(1).await.unwrap();
        let letters = other.dead().await;
        let letter = letters.last().unwrap();
        assert_eq!(
            (letter[0].as_str(), letter[2].as_str(), letter[4].as_str()),
            ("reason", "entry", "jobData")
        );
        assert!(letter[1].contains(reason), "{data}: {}", letter[1]);
        assert_eq!(letter[5], data, "the entry as it was");
    }
    let _: String = other.run(&["XADD", "job-queue", "*", "a", "1", "b", "2"]).await;
    store.claim(1).await.unwrap();
    assert_eq!(other.dead().await.last().unwrap()[4..], ["a", "1", "b", "2"]);
}

#[tokio::test]
async fn one_id_twice_in_the_stream_is_one_job() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    for _ in 0..3 {
        other.add(&json("x")).await;
    }
    assert_eq!(store.submit(&job("x")).await.unwrap(), Admission::Queued);
    assert_eq!(store.claim(9).await.unwrap().len(), 1);
    assert_eq!(other.hash("job:x").await["duplicates"], "3");
    // Another system's own hashes: what it ended is over, what it began or announced is not.
    for (name, status) in [("over", "completed"), ("announced", "queued"), ("begun", "in_progress")] {
        let key = format!("job:{name}");
        let _: i64 = other.run(&["HSET", &key, "status", status, "startedAt", "x", "note", "kept"]).await;
        let _: i64 = other.run(&["PEXPIRE", &key, "100000"]).await;
        other.add(&json(name)).await;
    }
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["announced", "begun"]);
    assert_eq!(other.hash("job:over").await["status"], "completed");
    assert_eq!(other.run::<i64>(&["PTTL", "job:begun"]).await, -1, "a running job does not expire");
    let begun = look(&*store, "begun").await;
    assert_eq!(field(&begun, "note"), Some("kept"));
    assert!(field(&begun, "startedAt").unwrap().parse::<Timestamp>().is_ok());
}

#[tokio::test]
async fn entries_of_a_consumer_that_died_are_picked_up() {
    let server = RedisServer::start();
    let mut other = Other::of(&server).await;
    let settings = Settings { lease: Duration::from_millis(50), ..Settings::for_tests(server.url()) };
    let store = open(&settings, "a").await.unwrap();
    for name in ["x", "gone", "y"] {
        other.add(&json(name)).await;
    }
    let read = ["XREADGROUP", "GROUP", "processors", "dead", "COUNT", "9", "STREAMS", "job-queue", ">"];
    let delivered: Value = other.run(&read).await;
    let Value::Array(streams) = delivered else { panic!("{delivered:?}") };
    assert_eq!(streams.len(), 1);
    // Entries deleted under it are pending all the same.
    let entries: Vec<(String, Vec<String>)> = other.run(&["XRANGE", "job-queue", "-", "+"]).await;
    let _: i64 = other.run(&["XDEL", "job-queue", &entries[1].0]).await;
    for name in ["x", "y"] {
        let claim = claim_soon(&*store).await;
        assert_eq!(claim.job.id, id(name));
        store.settle(&claim.lease, &completed()).await.unwrap();
    }

    // A process of the same name, begun again, has its own at once.
    other.add(&json("z")).await;
    let read = ["XREADGROUP", "GROUP", "processors", "b", "COUNT", "9", "STREAMS", "job-queue", ">"];
    let _: Value = other.run(&read).await;
    let again = opened(&server, "b").await;
    soon("the wait", again.wait(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(ids(&again.claim(9).await.unwrap()), ["z"]);
    let pending: Value = other.run(&["XPENDING", "job-queue", "processors"]).await;
    assert!(matches!(&pending, Value::Array(parts) if parts[0] == Value::Int(0)), "{pending:?}");
}

#[tokio::test]
async fn what_another_process_takes_in_ends_a_wait() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    other.add(&json("x")).await;
    let read = ["XREADGROUP", "GROUP", "processors", "b", "COUNT", "9", "STREAMS", "job-queue", ">"];
    let _: Value = other.run(&read).await;
    // Delivered to another and not admitted yet: nothing to be had, until it is.
    let (waited, _) = tokio::join!(soon("the end of the wait", store.wait(Duration::from_secs(25))), async {
        for _ in 0..20 {
            let _: i64 = other.run(&["XLEN", "job-queue"]).await;
        }
        opened(&server, "b").await.count().await
    });
    waited.unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["x"]);
}

#[tokio::test]
async fn a_new_entry_ends_a_wait_within_moments() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let mut took = Vec::new();
    for n in 0..50 {
        let added = async {
            tokio::task::yield_now().await;
            other.add(&json(&format!("job-{n}"))).await;
            tokio::time::Instant::now()
        };
        let (waited, added) = tokio::join!(store.wait(BOUND), added);
        waited.unwrap();
        assert_eq!(store.claim(9).await.unwrap().len(), 1);
        took.push(added.elapsed());
    }
    took.sort();
    // It is well under a millisecond; the bound leaves room for a machine that is busy elsewhere.
    assert!(took[25] < Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn what_lies_in_the_inbox_can_be_seen_and_cancelled() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    for name in ["x", "y", "z"] {
        other.add(&json(name)).await;
        match name {
            "x" => assert_eq!(store.cancel(&id("x")).await.unwrap(), Cancellation::Ended),
            "y" => assert_eq!(look(&*store, "y").await.state, State::Queued),
            _ => assert_eq!(store.count().await.unwrap(), [2, 0, 0, 1]),
        }
    }
    other.add(&json("last")).await;
    assert_eq!(store.list(None, 1).await.unwrap()[0].job.id, id("last"));
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let lease = running(&*store, "x").await.lease;
    let _: String = other.run(&["SCRIPT", "FLUSH"]).await;
    store.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap();
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    store.settle(&lease, &completed()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_forgot_everything_is_begun_with_anew() {
    let server = RedisServer::start();
    let (store, mut other) = (opened(&server, "a").await, Other::of(&server).await);
    let lease = running(&*store, "x").await.lease;
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.wait(BOUND).await })
    };
    let _: String = other.run(&["FLUSHALL"]).await;
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Lost]);
    assert!(matches!(store.settle(&lease, &completed()).await, Err(StoreError::LeaseLost { .. })));
    assert_eq!(store.count().await.unwrap(), [0; 4]);
    other.add(&json("y")).await;
    soon("the end of the wait", waiting).await.unwrap().unwrap();
    assert_eq!(claim_soon(&*store).await.job.id, id("y"));
    // The group is gone alone.
    let _: i64 = other.run(&["XGROUP", "DESTROY", "job-queue", "processors"]).await;
    other.add(&json("z")).await;
    assert_eq!(claim_soon(&*store).await.job.id, id("z"));
    // An old token is refused though the job is a new one of the same name.
    store.submit(&job("x")).await.unwrap();
    let new = claim_one(&*store).await.lease;
    assert!(new.token > lease.token);
    assert!(store.release(&lease).await.is_err());
}

#[tokio::test]
async fn a_killed_and_restarted_server_has_lost_nothing() {
    let mut server = RedisServer::start();
    let store = opened(&server, "a").await;
    let lease = running(&*store, "x").await.lease;
    store.append(&lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    store.submit(&job("y")).await.unwrap();
    server.stop();
    let error = store.renew(std::slice::from_ref(&lease)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(matches!(store.claim(1).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.wait(BOUND).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.append(&lease, 1, &[b"t".to_vec()], None).await, Err(StoreError::Unavailable(_))));
    server.restart();
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    store.append(&lease, 1, &[b"t".to_vec()], None).await.unwrap();
    let replay = store.replay(&id("x")).await.unwrap();
    assert_eq!((replay.steps.len(), replay.patch.as_slice()), (2, &b"p"[..]));
    assert_eq!(claim_soon(&*store).await.job.id, id("y"));
    // Who waits while it is restarted hears of what comes after.
    let (waited, ()) = tokio::join!(soon("the end of the wait", store.wait(BOUND)), async {
        tokio::task::yield_now().await;
        server.restart();
        Other::of(&server).await.add(&json("z")).await;
    });
    assert!(matches!(waited, Ok(()) | Err(StoreError::Unavailable(_))), "{waited:?}");
    assert_eq!(claim_soon(&*store).await.job.id, id("z"));
}

#[tokio::test]
async fn nothing_is_left_of_a_purged_job_but_the_queue_itself() {
    let server = RedisServer::start();
    let settings = Settings { keep_ended: Duration::ZERO, ..Settings::for_tests(server.url()) };
    let (store, mut other) = (open(&settings, "a").await.unwrap(), Other::of(&server).await);
    for n in 0..300 {
        other.add(&json(&format!("job-{n}"))).await;
    }
    let mut ended = 0;
    while ended < 300 {
        for claim in store.claim(50).await.unwrap() {
            store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
            store.settle(&claim.lease, &completed()).await.unwrap();
            ended += 1;
        }
    }
    assert_eq!(store.purge().await.unwrap() + store.purge().await.unwrap(), 300);
    assert_eq!(store.purge().await.unwrap(), 0);
    let keys: Vec<String> = other.run(&["KEYS", "*"]).await;
    let stays = |key: &&String| {
        let bounded = ["job-queue", "job-queue:wake", "job-queue:meta"].contains(&key.as_str());
        !bounded && !key.starts_with("job-queue:claimed:")
    };
    assert_eq!(keys.iter().filter(stays).collect::<Vec<_>>(), [""; 0]);
    assert!(other.run::<i64>(&["XLEN", "job-queue:wake"]).await <= 1);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_told_again() {
    let server = RedisServer::start();
    let settings =
        Settings { response_timeout: Duration::from_millis(100), ..Settings::for_tests(server.url()) };
    let (store, mut other) = (open(&settings, "a").await.unwrap(), Other::of(&server).await);
    running(&*store, "warm-up").await;
    store.submit(&job("x")).await.unwrap();
    store.submit(&job("y")).await.unwrap();
    let _: Value = other.run(&["XLEN", "job-queue"]).await;
    // The server goes on with what it was sent, but answers after the client gave up.
    let slow = "local begun = redis.call('TIME') repeat local now = redis.call('TIME') \
                until (now[1] - begun[1]) * 1000 + (now[2] - begun[2]) / 1000 > 300 return 1";
    let mut busy = Other::of(&server).await;
    let busy = tokio::spawn(async move {
        let mut eval = redis::cmd("EVAL");
        let answer: Result<i64, _> = eval.arg(slow).arg(0).query_async(&mut busy.connection).await;
        answer.is_ok()
    });
    let (mut claims, mut most) = (Vec::new(), 9);
    soon("the claim", async {
        while claims.len() < 2 {
            match store.claim(most).await {
                Ok(found) => claims.extend(found),
                // Who wants less then is given the rest when it is wanted.
                Err(StoreError::Unavailable(_)) => most = 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await;
    busy.await.unwrap();
    assert_eq!(ids(&claims), ["x", "y"]);
    for claim in &claims {
        assert_eq!(claim.counts, Counts { runs: 1, ..Counts::default() });
    }
    store.settle(&claims[0].lease, &completed()).await.unwrap();
}
