//! What bounds a job holds to the letter: its attempts and crashes, its deadline and its waits, its
//! lease, the room of its process, the versions of its journal that a build reads.

use std::time::Duration;

use steadfast_core::end::EndStatus;
use steadfast_core::job::JobId;
use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::testing::RedisServer;
use steadfast_store::{Inspection, Settings, Settlement, State, Store, StoreError};

use crate::support::fleet::Fleet;
use crate::support::in_process::{Village, field, paused};
use crate::support::storm::{Death, Deathbed, Rates};
use crate::support::{eventually, job};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Each failure ends its run, and no breaker has a say.
const EACH_ENDS_ITS_RUN: &str = "llm.retry.max_attempts = 1\nbreaker.min_calls = 100\njob.max_attempts = 3";

fn outage(skip: u64, times: u64) -> FaultRule {
    FaultRule::next(Target::Operation(Operation::Chat), times, Fault::html_502()).after(skip)
}

#[test]
fn a_job_without_progress_has_as_many_runs_as_it_may() {
    paused(async {
        let village = Village::new(|_| {}, EACH_ENDS_ITS_RUN, |store| store).await;
        // The comment of the first run is progress: its failure is the first of three.
        village.world.fault(outage(0, 1000));
        village.store.submit(&job("one", 1)).await.unwrap();
        let ended = village.wait_for("one", State::Ended, DAY).await;
        assert_eq!(field(&ended, "endReason"), "attempts_exhausted", "{ended:?}");
        assert_eq!(ended.counts.runs, 3, "{ended:?}");
        assert_eq!(village.world.records().faults.len(), 3, "each run asked once");
    });
}

#[test]
fn progress_begins_the_count_anew() {
    paused(async {
        let village = Village::new(|_| {}, EACH_ENDS_ITS_RUN, |store| store).await;
        // Two runs fail before each turn of the model, one less than is borne.
        for _ in 0..4 {
            village.world.fault(outage(0, 2));
            village
                .world
                .fault(FaultRule { fault: Fault::SlowStream { pause_ms: 0, piece: 1000 }, ..outage(0, 1) });
        }
        village.store.submit(&job("one", 1)).await.unwrap();
        let ended = village.wait_for("one", State::Ended, DAY).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        assert!(ended.counts.runs >= 7, "more runs failed than may without progress: {ended:?}");
    });
}

#[test]
fn a_job_that_is_past_its_deadline_ends() {
    paused(async {
        let village = Village::new(|_| {}, "job.deadline = \"2h\"", |store| store).await;
        let limit = Fault::rate_limited_retry_after(3000);
        village.world.fault(FaultRule::next(Target::Operation(Operation::Chat), 1000, limit));
        village.store.submit(&job("one", 1)).await.unwrap();
        let ended = village.wait_for("one", State::Ended, DAY).await;
        assert_eq!(field(&ended, "endReason"), "deadline", "{ended:?}");
        let took = ended.at.since(ended.admitted_at);
        assert!((7200..=10_800).contains(&took.as_secs()), "{took:?}");
    });
}

#[test]
fn no_more_jobs_run_than_there_is_room_for() {
    paused(async {
        let latency = steadfast_sim::Latency::lifelike();
        let village =
            Village::new(|config| config.latency = latency, "job.concurrency = 2", |store| store).await;
        for issue in 1..=5 {
            village.store.submit(&job(&format!("job-{issue}"), issue)).await.unwrap();
        }
        let mut most = 0;
        let all_ended = async {
            loop {
                let count = village.store.count().await.unwrap();
                most = most.max(count[State::Running as usize]);
                if count[State::Ended as usize] == 5 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(DAY, all_ended).await.expect("all of them end");
        assert_eq!(most, 2, "as many as there is room for, and never more");
    });
}

/// Waits until the fleet's one job is in `state`.
async fn until(fleet: &Fleet, state: State) -> Inspection {
    let id = JobId::new("one").unwrap();
    let asking = async {
        loop {
            let found = fleet.store.inspect(&id).await.unwrap().unwrap();
            if found.state == state {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(DAY, asking).await.expect("it comes to that")
}

#[test]
fn a_job_that_crashes_its_runner_is_set_aside_at_the_third_time() {
    paused(async {
        let mut fleet = Fleet::new(1, |_| {}, "job.max_crashes = 3").await;
        fleet.store.submit(&job("one", 1)).await.unwrap();
        for crashes in 1..=3 {
            fleet.start(Rates::default(), 0);
            let line = std::sync::Arc::clone(&fleet.runners.last().unwrap().line);
            line.doom(Death { at: Deathbed::Request, skip: 2, done: false });
            while !line.is_dead() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(fleet.living().count(), 0, "runner {crashes} is gone");
        }
        fleet.start(Rates::default(), 0);
        let ended = until(&fleet, State::Ended).await;
        assert_eq!(field(&ended, "endReason"), "poison", "{ended:?}");
        assert_eq!((ended.counts.crashes, ended.counts.runs), (3, 4), "{ended:?}");
    });
}

#[test]
fn a_parked_job_is_due_when_its_wait_is_over_and_not_before() {
    paused(async {
        let village = Village::new(|_| {}, "", |store| store).await;
        let limit = Fault::rate_limited_retry_after(600);
        village.world.fault(FaultRule::next(Target::Operation(Operation::Chat), 1, limit));
        village.store.submit(&job("one", 1)).await.unwrap();
        let parked = village.wait_for("one", State::Parked, DAY).await;
        let wait = parked.at.since(village.store.now().await.unwrap());
        assert!((590..=700).contains(&wait.as_secs()), "{wait:?}");
        let ended = village.wait_for("one", State::Ended, DAY).await;
        assert!(ended.at >= parked.at, "{ended:?}");
        assert_eq!((ended.counts.waits, ended.counts.attempts), (1, 0), "{ended:?}");
    });
}

#[test]
fn a_run_that_waits_for_longer_than_a_lease_keeps_its_job() {
    paused(async {
        let mut fleet = Fleet::new(1, |_| {}, "llm.timeout = \"100s\"").await;
        fleet.world.fault(FaultRule::next(Target::Operation(Operation::Chat), 1, Fault::Hang));
        fleet.start(Rates::default(), 0);
        fleet.start(Rates::default(), 0);
        fleet.store.submit(&job("one", 1)).await.unwrap();
        let ended = until(&fleet, State::Ended).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        assert_eq!((ended.counts.runs, ended.counts.crashes), (1, 0), "nobody took it over: {ended:?}");
    });
}

#[test]
fn a_journal_of_a_newer_build_is_left_to_it() {
    paused(async {
        let mut fleet = Fleet::new(1, |_| {}, "").await;
        fleet.store.submit(&job("one", 1)).await.unwrap();
        let claims = fleet.store.claim(1).await.unwrap();
        let newer = [vec![200, b'{', b'}']];
        fleet.store.append(&claims[0].lease, 0, &newer, None).await.unwrap();
        fleet.store.release(&claims[0].lease).await.unwrap();
        fleet.start(Rates::default(), 0);
        let parked = until(&fleet, State::Parked).await;
        assert!(parked.waiting_for.as_ref().is_some_and(|why| why.contains("version 200")), "{parked:?}");
        tokio::time::sleep(Duration::from_secs(600)).await;
        let found = fleet.store.inspect(&parked.job.id).await.unwrap().unwrap();
        assert_ne!(found.state, State::Ended, "{found:?}");
        assert_eq!((found.counts.attempts, found.counts.crashes, found.counts.steps), (0, 0, 1), "{found:?}");
        assert!(fleet.world.records().comments.is_empty(), "nothing is said of it");
    });
}

/// A job of which nothing is known but that it runs: the shortest way to an end is checked, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_taken_over_ends_no_job_in_redis() {
    let server = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let settings = Settings { lease: Duration::from_millis(200), ..Settings::for_tests(server.url()) };
    let one = steadfast_store::open(&settings, "one").await.unwrap();
    let other = steadfast_store::open(&settings, "other").await.unwrap();
    one.submit(&job("one", 1)).await.unwrap();
    let old = eventually("a claim", async || one.claim(1).await.unwrap().pop()).await.unwrap().lease;
    let new = eventually("a takeover", async || other.claim(1).await.unwrap().pop()).await.unwrap().lease;
    assert_ne!(old.token, new.token);
    let end = Settlement {
        status: EndStatus::Completed,
        result: serde_json::json!({"success": true}),
        fields: Vec::new(),
    };
    let refused = one.settle(&old, &end).await;
    assert!(matches!(refused, Err(StoreError::LeaseLost { .. })), "{refused:?}");
    assert_eq!(one.inspect(&old.job).await.unwrap().unwrap().state, State::Running);
}
