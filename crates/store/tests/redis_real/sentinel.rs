//! The queue behind Sentinel: the master dies, another takes its place, and everything goes on.

use steadfast_store::{Admission, Renewal, Settings, StoreError, open};

use super::cluster::{in_the_end, next_claims};
use super::fleet::Watched;
use crate::world::*;

#[tokio::test]
async fn a_dead_master_is_followed_by_the_one_that_sentinel_makes() {
    let mut watched = Watched::start().await;
    let settings = Settings::for_tests(watched.url());
    let store = open(&settings, "a").await.unwrap();
    assert!(store.name().starts_with("redis+sentinel://127.0.0.1:"), "{}", store.name());
    let claim = running(&*store, "held").await;
    store.append(&claim.lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    let mut listener = store.ledger().listen("me#1").await.unwrap();
    let waiting = tokio::spawn(next_claims(open(&settings, "b").await.unwrap()));
    let replicas: i64 = watched.servers[0].talk().await.run(&["WAIT", "1", "5000"]).await;
    assert_eq!(replicas, 1);
    // One sentinel less is none too few.
    watched.lose_a_sentinel();
    watched.servers[0].server.stop();
    let lease = std::slice::from_ref(&claim.lease);
    let error = store.renew(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");

    assert_eq!(in_the_end("a failover", async || store.renew(lease).await).await, [Renewal::Held]);
    store.append(&claim.lease, 1, &[b"t".to_vec()], None).await.unwrap();
    assert_eq!(store.replay(&id("held")).await.unwrap().steps.len(), 2);
    assert!(soon("the end of listening", listener.next()).await.is_err());
    let _again = in_the_end("listening", async || store.ledger().listen("me#1").await).await;
    assert_eq!(store.submit(&job("new")).await.unwrap(), Admission::Queued);
    assert_eq!(ids(&soon("the claim", waiting).await.unwrap()), ["new"]);
    store.settle(&claim.lease, &completed()).await.unwrap();

    // The master that was comes back, is made a replica, and nobody writes to it.
    watched.servers[0].server.restart();
    watched.servers[0].becomes_a_replica().await;
    let late = open(&settings, "late").await.unwrap();
    assert_eq!(late.count().await.unwrap(), [0, 1, 0, 1]);
    assert_eq!(late.submit(&job("new")).await.unwrap(), Admission::Duplicate);

    // What cannot be: a name that nobody watches, a sentinel taken for Redis, Redis for a sentinel.
    let refused = async |url: String| match open(&Settings::for_tests(url), "a").await.err() {
        Some(StoreError::Unusable(why)) => why,
        other => panic!("{other:?}"),
    };
    let unknown = refused(watched.url().replace("/queue", "/nobody")).await;
    assert!(unknown.contains("nobody"), "{unknown}");
    let is_sentinel = refused(format!("redis://{}", watched.live_sentinel())).await;
    assert!(is_sentinel.contains("redis+sentinel://"), "{is_sentinel}");
    let no_sentinel = refused(format!("redis+sentinel://127.0.0.1:{}/queue", watched.servers[1].port)).await;
    assert!(no_sentinel.contains("sentinel"), "{no_sentinel}");
    let nobody =
        open(&Settings::for_tests("redis+sentinel://127.0.0.1:1,127.0.0.1:2/queue"), "a").await.err();
    assert!(matches!(nobody, Some(StoreError::Unavailable(_))), "{nobody:?}");
}
