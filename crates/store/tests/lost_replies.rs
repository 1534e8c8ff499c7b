//! A reply that never came does not mean that the command was not done, nor that it was: the
//! connection is cut before and after each request in turn, the scripts are flushed before each, and
//! the server is killed and restarted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{
    Admission, Cancellation, Counts, Renewal, Requeue, Result, Retried, RetryFrom, Settings, State, Store,
    StoreError, Whom, open,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::world::*;

/// What happens at one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    /// It is not done: the connection is cut on its way.
    RequestLost,
    /// It is done, and the connection is cut on the reply's way.
    ReplyLost,
    /// The server has just been told to forget its scripts.
    ScriptsFlushed,
    /// The server is killed before it, and is back at once.
    ServerKilled,
}

/// Stands between a store and its server, and lets one mishap happen.
struct Proxy {
    folder: tempfile::TempDir,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Plan {
    server: Arc<Mutex<RedisServer>>,
    requests: Arc<AtomicUsize>,
    cut: usize,
    mishap: Mishap,
}

impl Proxy {
    fn before(server: &Arc<Mutex<RedisServer>>, cut: usize, mishap: Mishap) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("proxy.sock")).unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let plan = Plan { server: Arc::clone(server), requests: Arc::clone(&requests), cut, mishap };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(between(client, plan.clone()));
            }
        });
        Proxy { folder, requests }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("proxy.sock").display())
    }
}

async fn between(client: UnixStream, plan: Plan) {
    let socket = plan.server.lock().unwrap().socket();
    let Ok(server) = UnixStream::connect(&socket).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let asking = async move {
        let mut request = vec![0; 1 << 16];
        while let Ok(bytes) = from_client.read(&mut request).await {
            if bytes == 0 {
                break;
            }
            if plan.requests.fetch_add(1, Ordering::Relaxed) == plan.cut {
                match plan.mishap {
                    Mishap::RequestLost => break,
                    Mishap::ReplyLost => drop(cut.send_replace(true)),
                    Mishap::ScriptsFlushed => flush_scripts(&socket).await,
                    Mishap::ServerKilled => plan.server.lock().unwrap().restart(),
                }
            }
            if to_server.write_all(&request[..bytes]).await.is_err() {
                break;
            }
        }
    };
    let answering = async move {
        let mut reply = vec![0; 1 << 16];
        while let Ok(bytes) = from_server.read(&mut reply).await {
            if bytes == 0 || *is_cut.borrow() || to_client.write_all(&reply[..bytes]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

async fn flush_scripts(socket: &PathBuf) {
    let mut server = UnixStream::connect(socket).await.unwrap();
    server.write_all(b"SCRIPT FLUSH\r\n").await.unwrap();
    let mut answer = [0; 5];
    server.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n");
}

/// Repeats what the store says it may not have done.
async fn stubborn<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A job's life with one mishap; how many requests there were.
async fn live(server: &Arc<Mutex<RedisServer>>, cut: usize, mishap: Mishap) -> usize {
    let url = server.lock().unwrap().url();
    let connect =
        async || redis::Client::open(&*url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL").query_async(&mut connect().await).await.unwrap();
    let cut_at = format!("{mishap:?} at {cut}");
    let proxy = Proxy::before(server, cut, mishap);
    let settings = Settings::for_tests(proxy.url());
    let store = stubborn(async || open(&settings, "a").await).await;

    let mut producer = connect().await;
    let mut add = redis::cmd("XADD");
    add.arg("job-queue").arg("*").arg("jobData").arg(json("x"));
    let _: String = add.query_async(&mut producer).await.unwrap();

    let claim = async || stubborn(async || store.claim(9).await).await;
    let claims = claim().await;
    assert_eq!(ids(&claims), ["x"], "{cut_at}");
    let lease = claims[0].lease.clone();
    stubborn(async || store.append(&lease, 0, &[b"a".to_vec(), b"b".to_vec()], Some(b"p")).await).await;
    let renewals = stubborn(async || store.renew(std::slice::from_ref(&lease)).await).await;
    assert_eq!(renewals, [Renewal::Held]);
    let failed = Requeue::Failed { error: "x".into() };
    stubborn(async || store.requeue(&lease, Duration::ZERO, &failed).await).await;
    let lease = claim().await.remove(0).lease;
    stubborn(async || store.park(&lease, Timestamp::MAX, "x").await).await;
    assert!(claim().await.is_empty());
    let parked = stubborn(async || store.inspect(&id("x")).await).await.unwrap();
    assert_eq!((parked.state, field(&parked, "duplicates")), (State::Parked, Some("0")), "{cut_at}");
    let wanted = Counts { runs: 2, attempts: 1, crashes: 0, waits: 1, steps: 2 };
    assert_eq!(parked.counts, wanted, "{cut_at}");

    let admission = stubborn(async || store.submit(&job("y")).await).await;
    let lease = claim().await.remove(0).lease;
    stubborn(async || store.release(&lease).await).await;
    let claims = claim().await;
    assert_eq!((claims[0].counts.runs, claims[0].counts.crashes), (2, 0), "{cut_at}");
    stubborn(async || store.settle(&claims[0].lease, &completed()).await).await;
    let ended = stubborn(async || store.inspect(&id("y")).await).await.unwrap();
    assert_eq!(ended.state, State::Ended);
    let duplicates = field(&ended, "duplicates").map(str::to_owned);
    assert_eq!((admission, duplicates.as_deref()), (Admission::Queued, Some("0")), "{cut_at}");

    // Of two jobs that are there, each is claimed for somebody.
    let mut producer = connect().await;
    for name in ["p", "q"] {
        let mut add = redis::cmd("XADD");
        add.arg("job-queue").arg("*").arg("jobData").arg(json(name));
        let _: String = add.query_async(&mut producer).await.unwrap();
    }
    let _: String =
        redis::cmd("XADD").arg(&["job-queue", "*", "jobData", "?"]).query_async(&mut producer).await.unwrap();
    let mut leases = Vec::new();
    for name in ["p", "q"] {
        let claims = stubborn(async || store.claim(1).await).await;
        assert_eq!((ids(&claims), claims[0].counts.runs), (vec![name], 1), "{cut_at}");
        leases.push(claims[0].lease.clone());
    }
    assert!(claim().await.is_empty());

    // Two that end and one that is claimed go in one call.
    stubborn(async || store.submit(&job("r")).await).await;
    let (_, _, claims) = tokio::join!(
        stubborn(async || store.settle(&leases[0], &completed()).await),
        stubborn(async || store.requeue(&leases[1], Duration::from_secs(3600), &failed).await),
        stubborn(async || store.claim(1).await),
    );
    assert_eq!((ids(&claims), claims[0].counts.runs), (vec!["r"], 1), "{cut_at}");
    let settled = stubborn(async || store.inspect(&id("p")).await).await.unwrap();
    let back = stubborn(async || store.inspect(&id("q")).await).await.unwrap();
    assert_eq!(
        (settled.state, back.state, back.counts.attempts),
        (State::Ended, State::Queued, 1),
        "{cut_at}"
    );
    assert!(claim().await.is_empty());
    let dead: i64 = redis::cmd("XLEN").arg("job-queue:dead").query_async(&mut connect().await).await.unwrap();
    assert_eq!(dead, 1, "{cut_at}");
    proxy.requests.load(Ordering::Relaxed)
}

/// The same life with a mishap at every `each`th request.
async fn survives(mishap: Mishap, each: usize) {
    let server = Arc::new(Mutex::new(RedisServer::start()));
    let requests = live(&server, usize::MAX, mishap).await;
    assert!(requests > 20, "{requests}");
    for cut in (0..requests).step_by(each) {
        live(&server, cut, mishap).await;
    }
}

#[tokio::test]
async fn a_claim_in_memory_whose_reply_was_lost_is_delivered_again() {
    let World::Memory(base) = World::memory() else { panic!("a store in memory") };
    let settings = Settings::for_tests("memory:");
    let (store, other) = (base.for_runner(&settings, "a"), base.for_runner(&settings, "b"));
    for name in ["x", "y", "z"] {
        store.submit(&job(name)).await.unwrap();
    }
    let lost = store.claim(2).await.unwrap();
    store.unheard(&lost);
    // Nobody else is given what is leased to this one.
    assert_eq!(ids(&other.claim(9).await.unwrap()), ["z"]);
    tokio::time::timeout(Duration::from_secs(10), store.wait(Duration::from_secs(3600)))
        .await
        .unwrap()
        .unwrap();
    let again = store.claim(1).await.unwrap();
    assert_eq!((ids(&again), &again[0].lease), (vec!["x"], &lost[0].lease));
    assert_eq!(again[0].counts, Counts { runs: 1, ..Counts::default() });
    // One that was ended in between is not.
    store.settle(&lost[1].lease, &completed()).await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty());
}

/// What is asked of jobs from outside, with one reply lost; how many replies there were.
async fn ask(cut: usize) -> usize {
    let server = Arc::new(Mutex::new(RedisServer::start()));
    let proxy = Proxy::before(&server, cut, Mishap::ReplyLost);
    let settings = Settings::for_tests(proxy.url());
    let store = stubborn(async || open(&settings, "a").await).await;
    let alone = |name: &str| wish(name, "o/r", serde_json::json!({ "unique": true, "issue": 7 }));
    let admission = async |name: &str| stubborn(async || store.submit(&alone(name)).await).await;
    assert_eq!(admission("x").await, Admission::Queued, "cut {cut}");
    assert_eq!(admission("y").await, Admission::Joined { to: id("x") }, "cut {cut}");
    let whom = Whom::owner("o");
    stubborn(async || store.pause(&whom).await).await;
    assert!(stubborn(async || store.claim(9).await).await.is_empty(), "cut {cut}");
    assert_eq!(stubborn(async || store.paused().await).await, std::slice::from_ref(&whom));
    stubborn(async || store.resume(&whom).await).await;
    let claim = async || stubborn(async || store.claim(9).await).await;
    let mut claims = claim().await;
    assert_eq!(ids(&claims), ["x"], "cut {cut}");
    let lease = claims.remove(0).lease;
    stubborn(async || store.append(&lease, 0, &[b"a".to_vec()], Some(b"p")).await).await;
    stubborn(async || store.park(&lease, Timestamp::MAX, "x").await).await;
    assert_eq!(stubborn(async || store.cancel(&id("x")).await).await, Cancellation::Asked, "cut {cut}");
    let mut claims = claim().await;
    assert_eq!((ids(&claims), claims[0].cancel_requested), (vec!["x"], true), "cut {cut}");
    let lease = claims.remove(0).lease;
    let called_off = stubborn(async || store.called_off(std::slice::from_ref(&lease)).await).await;
    assert_eq!(called_off, std::slice::from_ref(&lease), "cut {cut}");
    stubborn(async || store.settle(&lease, &completed()).await).await;
    for (from, steps, retries) in [(RetryFrom::Journal, 1, 1), (RetryFrom::Start, 0, 2)] {
        let retried = stubborn(async || store.retry(&id("x"), from).await).await;
        assert_eq!(retried, Retried::Queued, "cut {cut}");
        let other = stubborn(async || store.retry(&id("y"), from).await).await;
        assert_eq!(other, Retried::Joined { to: id("x") }, "cut {cut}");
        let claims = claim().await;
        assert_eq!((ids(&claims), claims[0].counts.steps), (vec!["x"], steps), "cut {cut}");
        assert_eq!((claims[0].retries, claims[0].cancel_requested), (retries, false), "cut {cut}");
        let lease = claims[0].lease.clone();
        stubborn(async || store.settle(&lease, &completed()).await).await;
    }
    let found = stubborn(async || store.inspect(&id("x")).await).await.unwrap();
    let wanted = Counts { runs: 4, waits: 1, ..Counts::default() };
    assert_eq!((found.state, found.counts), (State::Ended, wanted), "cut {cut}");
    assert_eq!((field(&found, "duplicates"), field(&found, "retries")), (Some("0"), Some("2")), "cut {cut}");
    proxy.requests.load(Ordering::Relaxed)
}

#[tokio::test]
async fn each_reply_to_who_asks_from_outside_may_be_lost() {
    let replies = ask(usize::MAX).await;
    assert!(replies > 15, "{replies}");
    for cut in 0..replies {
        ask(cut).await;
    }
}

#[tokio::test]
async fn each_reply_may_be_lost_and_nothing_is_done_twice() {
    survives(Mishap::ReplyLost, 1).await;
}

#[tokio::test]
async fn each_request_may_be_lost_and_nothing_is_left_out() {
    survives(Mishap::RequestLost, 1).await;
}

#[tokio::test]
async fn scripts_may_be_flushed_before_each_request() {
    survives(Mishap::ScriptsFlushed, 1).await;
}

#[tokio::test]
async fn a_server_may_be_killed_before_a_request_and_forgets_nothing() {
    survives(Mishap::ServerKilled, 3).await;
}
