//! Whose clock counts: the server's alone. What a runner sends says how long, never when.

use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{RetryFrom, Settings, Whom, open};

use super::gate::Gate;
use crate::world::*;

/// The span of a number that is an instant near `now`, in seconds, milliseconds and microseconds.
fn is_an_instant(number: u64, now: u64) -> bool {
    const DAY: u64 = 24 * 3_600_000;
    [(1_000_000, 1), (1000, 1), (1, 1), (1, 1000)].into_iter().any(|(per, times)| {
        // In milliseconds, whatever its unit.
        let millis = number.saturating_mul(per) / (1000 * times);
        millis.abs_diff(now) < DAY
    })
}

/// A run's whole life: taken in, claimed, renewed, put back, let go, left to its lease's end, retried.
#[tokio::test]
async fn no_runner_tells_the_server_what_time_it_is() {
    let server = RedisServer::start();
    let gate = Gate::before(&server);
    let settings = Settings { lease: Duration::from_millis(300), ..Settings::for_tests(gate.url()) };
    let store = open(&settings, "a").await.unwrap();
    submit_all(&*store, ["x", "y", "z"].map(job)).await;
    let claims = store.claim(9).await.unwrap();
    let leases: Vec<_> = claims.iter().map(|claim| claim.lease.clone()).collect();
    store.renew(&leases).await.unwrap();
    store.append(&leases[0], 0, &[b"s".to_vec()], None).await.unwrap();
    store.requeue(&leases[0], Duration::from_millis(1), &failed("x")).await.unwrap();
    store.release(&leases[1]).await.unwrap();
    // The third's lease ends by itself: it is claimed once more, as the others are.
    let mut again = Vec::new();
    while again.len() < 3 {
        again.push(claim_soon(&*store).await);
    }
    store.settle(&again[0].lease, &completed()).await.unwrap();
    store.retry(&again[0].job.id, RetryFrom::Start).await.unwrap();
    store.cancel(&again[0].job.id).await.unwrap();
    store.pause(&Whom::All).await.unwrap();
    store.claim(9).await.unwrap();
    store.resume(&Whom::All).await.unwrap();
    store.claim_called_off(9).await.unwrap();
    store.purge().await.unwrap();
    let now = u64::try_from(store.now().await.unwrap().millis()).unwrap();
    // A token is the server's own time, at which it was given.
    let tokens: Vec<u64> = claims.iter().chain(&again).map(|claim| claim.lease.token.0).collect();
    let told = gate.numbers();
    let instants: Vec<_> =
        told.iter().filter(|number| is_an_instant(**number, now) && !tokens.contains(number)).collect();
    assert!(instants.is_empty(), "it was told {instants:?}");
    // What is put away until a time is the exception, and it is seen.
    let until = store.now().await.unwrap() + Duration::from_secs(60);
    let held = running(&*store, "held").await.lease;
    store.park(&held, until, "x").await.unwrap();
    let until = u64::try_from(Timestamp::millis(until)).unwrap();
    assert!(gate.numbers().contains(&until) && is_an_instant(until, now));
}
