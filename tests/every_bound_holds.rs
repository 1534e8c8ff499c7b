//! What bounds a job holds to the letter: its attempts, its deadline, the room of its process.

use std::time::Duration;

use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;

use crate::support::in_process::{Village, field, paused};
use crate::support::job;

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
