//! A reply that never came does not mean that the command was not done: the connection is cut after
//! the server did what it was asked, at each reply in turn.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{
    Admission, Counts, Renewal, Requeue, Result, Settings, State, Store, StoreError, open,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::world::*;

/// Stands between a store and its server, and cuts the connection in place of one reply.
struct Proxy {
    folder: tempfile::TempDir,
    replies: Arc<AtomicUsize>,
}

impl Proxy {
    fn before(server: &RedisServer, cut: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("proxy.sock")).unwrap();
        let replies = Arc::new(AtomicUsize::new(0));
        let (seen, socket) = (Arc::clone(&replies), server.socket());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(between(client, socket.clone(), Arc::clone(&seen), cut));
            }
        });
        Proxy { folder, replies }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("proxy.sock").display())
    }
}

async fn between(client: UnixStream, server: PathBuf, replies: Arc<AtomicUsize>, cut: usize) {
    let Ok(server) = UnixStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut reply = vec![0; 1 << 16];
    while let Ok(bytes) = from_server.read(&mut reply).await {
        if bytes == 0 || replies.fetch_add(1, Ordering::Relaxed) == cut {
            break;
        }
        if to_client.write_all(&reply[..bytes]).await.is_err() {
            break;
        }
    }
    asking.abort();
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

/// A job's life with one reply lost; how many replies there were.
async fn live(cut: usize) -> usize {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server, cut);
    let settings = Settings::for_tests(proxy.url());
    let store = stubborn(async || open(&settings, "a").await).await;

    let client = redis::Client::open(server.url()).unwrap();
    let mut producer = client.get_multiplexed_async_connection().await.unwrap();
    let mut add = redis::cmd("XADD");
    add.arg("job-queue").arg("*").arg("jobData").arg(json("x"));
    let _: String = add.query_async(&mut producer).await.unwrap();

    let claim = async || stubborn(async || store.claim(9).await).await;
    let claims = claim().await;
    assert_eq!(ids(&claims), ["x"], "cut {cut}");
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
    assert_eq!((parked.state, field(&parked, "duplicates")), (State::Parked, Some("0")), "cut {cut}");
    let wanted = Counts { runs: 2, attempts: 1, crashes: 0, waits: 1, steps: 2 };
    assert_eq!(parked.counts, wanted, "cut {cut}");

    let admission = stubborn(async || store.submit(&job("y")).await).await;
    let lease = claim().await.remove(0).lease;
    stubborn(async || store.release(&lease).await).await;
    let claims = claim().await;
    assert_eq!((claims[0].counts.runs, claims[0].counts.crashes), (2, 0), "cut {cut}");
    stubborn(async || store.settle(&claims[0].lease, &completed()).await).await;
    let ended = stubborn(async || store.inspect(&id("y")).await).await.unwrap();
    assert_eq!(ended.state, State::Ended);
    let duplicates = field(&ended, "duplicates").map(str::to_owned);
    assert_eq!((admission, duplicates.as_deref()), (Admission::Queued, Some("0")), "cut {cut}");

    // Of two jobs that are there, each is claimed for somebody.
    for name in ["p", "q"] {
        let mut add = redis::cmd("XADD");
        add.arg("job-queue").arg("*").arg("jobData").arg(json(name));
        let _: String = add.query_async(&mut producer).await.unwrap();
    }
    let _: String =
        redis::cmd("XADD").arg(&["job-queue", "*", "jobData", "?"]).query_async(&mut producer).await.unwrap();
    for name in ["p", "q"] {
        let claims = stubborn(async || store.claim(1).await).await;
        assert_eq!((ids(&claims), claims[0].counts.runs), (vec![name], 1), "cut {cut}");
    }
    assert!(claim().await.is_empty());
    let dead: i64 = redis::cmd("XLEN").arg("job-queue:dead").query_async(&mut producer).await.unwrap();
    assert_eq!(dead, 1, "cut {cut}");
    proxy.replies.load(Ordering::Relaxed)
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

#[tokio::test]
async fn each_reply_may_be_lost_and_nothing_is_done_twice() {
    let replies = live(usize::MAX).await;
    assert!(replies > 20, "{replies}");
    for cut in 0..replies {
        live(cut).await;
    }
}
