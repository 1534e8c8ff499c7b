//! What an operator does to jobs: call off, retry, pause, resume; and what a producer wishes of the
//! queue. A wish is heard within two seconds, and costs nothing that was paid for.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::{Cancellation, Inspection, Retried, RetryFrom, State, Whom};
use tokio::time::Instant;

use crate::support::in_process::{Village, field, paused};
use crate::support::{Queue, Town, eventually, job};

const HOUR: Duration = Duration::from_secs(3600);
/// A wish to call a job off is fulfilled by then.
const SOON: Duration = Duration::from_secs(2);

fn id(id: &str) -> JobId {
    JobId::new(id).unwrap()
}

fn with(job: Job, wish: &str, value: serde_json::Value) -> Job {
    let mut job = job;
    job.extra.insert(wish.to_owned(), value);
    job
}

fn chat(times: u64, fault: Fault) -> FaultRule {
    FaultRule::next(Target::Operation(Operation::Chat), times, fault)
}

async fn village(extra: &str) -> Village {
    Village::new(|_| {}, extra, |store| store).await
}

/// Calls a job off and waits for its end; how long that took, in simulated time.
async fn call_off(village: &Village, name: &str) -> (Inspection, Duration) {
    let asked = Instant::now();
    assert_eq!(village.store.cancel(&id(name)).await.unwrap(), Cancellation::Asked);
    let ended = village.wait_for(name, State::Ended, HOUR).await;
    (ended, asked.elapsed())
}

fn says_called_off(village: &Village) -> bool {
    village.world.records().comments.iter().any(|comment| comment.body.starts_with("This was called off."))
}

#[test]
fn a_job_that_hangs_in_a_call_is_called_off_within_two_seconds() {
    paused(async {
        let village = village("").await;
        village.world.fault(chat(1, Fault::Hang).after(2));
        village.store.submit(&job("hung", 1)).await.unwrap();
        let world = village.world.clone();
        while world.records().faults.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (ended, took) = call_off(&village, "hung").await;
        assert_eq!(
            (field(&ended, "status").as_str(), took <= SOON),
            ("cancelled", true),
            "{took:?} {ended:#?}"
        );
        assert!(says_called_off(&village), "{:#?}", village.world.records().comments);
    });
}

#[test]
fn a_parked_job_is_called_off_within_two_seconds_even_in_a_pause_and_the_issue_is_told() {
    paused(async {
        let village = village("").await;
        village.world.fault(chat(1, Fault::rate_limited_retry_after(1800)).after(1));
        village.store.submit(&job("parked", 1)).await.unwrap();
        village.wait_for("parked", State::Parked, HOUR).await;
        village.store.pause(&Whom::All).await.unwrap();
        let (ended, took) = call_off(&village, "parked").await;
        assert_eq!(
            (field(&ended, "status").as_str(), took <= SOON),
            ("cancelled", true),
            "{took:?} {ended:#?}"
        );
        assert_eq!(ended.counts.crashes, 0);
        assert!(says_called_off(&village), "{:#?}", village.world.records().comments);
    });
}

#[test]
fn a_job_that_ran_into_a_limit_of_its_own_goes_on_and_pays_nothing_twice() {
    paused(async {
        let village = village("agent.max_turns = 2\nagent.wrap_up_turns = 0").await;
        village.store.submit(&job("long", 1)).await.unwrap();
        let mut retries = 0;
        let ended = loop {
            let ended = village.wait_for("long", State::Ended, HOUR).await;
            if field(&ended, "status") == "completed" {
                break ended;
            }
            assert_eq!(field(&ended, "endReason"), "turn_limit", "{ended:#?}");
            assert!(!field(&ended, "next").is_empty() && !field(&ended, "endStep").is_empty());
            retries += 1;
            assert!(retries < 20, "it does not get on: {ended:#?}");
            assert_eq!(village.store.retry(&id("long"), RetryFrom::Journal).await.unwrap(), Retried::Queued);
        };
        assert!(retries > 0);
        assert_eq!(field(&ended, "retries"), retries.to_string());
        let records = village.world.records();
        assert_eq!((records.pulls.len(), records.branches.len(), records.paid_twice()), (1, 1, 0));
    });
}

#[test]
fn a_retry_from_the_start_does_the_work_again_and_no_effect_twice() {
    paused(async {
        let village = village("").await;
        village.store.submit(&job("again", 1)).await.unwrap();
        village.wait_for("again", State::Ended, HOUR).await;
        let before = village.world.records().chats.len();
        assert_eq!(village.store.retry(&id("again"), RetryFrom::Start).await.unwrap(), Retried::Queued);
        let ended = village.wait_for("again", State::Ended, HOUR).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:#?}");
        let records = village.world.records();
        assert!(records.chats.len() > before, "the work was done again");
        assert_eq!((records.pulls.len(), records.branches.len()), (1, 1));
        let progress = |body: &str| body.contains("effect=progress");
        assert_eq!(records.comments.iter().filter(|comment| progress(&comment.body)).count(), 1);
    });
}

#[test]
fn a_pause_begins_nothing_and_a_resume_everything() {
    paused(async {
        let village = village("").await;
        let acme = Whom::owner("ACME");
        for whom in [&Whom::All, &acme] {
            village.store.pause(whom).await.unwrap();
        }
        village.store.submit(&job("one", 1)).await.unwrap();
        for whom in [&Whom::All, &acme] {
            tokio::time::sleep(HOUR).await;
            let found = village.store.inspect(&id("one")).await.unwrap().unwrap();
            assert_eq!((found.state, found.counts.runs), (State::Queued, 0));
            village.store.resume(whom).await.unwrap();
        }
        let resumed = Instant::now();
        village.wait_for("one", State::Running, SOON).await;
        assert!(resumed.elapsed() <= SOON);
        village.wait_for("one", State::Ended, HOUR).await;
    });
}

#[test]
fn the_urgent_goes_first_the_delayed_waits_and_a_second_for_the_issue_is_joined() {
    paused(async {
        let village = village("job.concurrency = 1").await;
        village.store.pause(&Whom::All).await.unwrap();
        let start = village.store.now().await.unwrap();
        let later = start + 2 * HOUR;
        for job in [
            job("usual", 1),
            with(job("idle", 2), "priority", json!(-5)),
            with(job("urgent", 3), "priority", json!(5)),
            with(job("later", 4), "notBefore", json!(later)),
        ] {
            village.store.submit(&job).await.unwrap();
        }
        village.store.resume(&Whom::All).await.unwrap();
        let mut started: Vec<(Timestamp, &str)> = Vec::new();
        for name in ["usual", "idle", "urgent", "later"] {
            let ended = village.wait_for(name, State::Ended, 3 * HOUR).await;
            assert_eq!(field(&ended, "status"), "completed", "{ended:#?}");
            started.push((field(&ended, "startedAt").parse().unwrap(), name));
        }
        started.sort();
        let order: Vec<&str> = started.iter().map(|(_, name)| *name).collect();
        assert_eq!(order, ["urgent", "usual", "idle", "later"]);
        assert!(started[3].0 >= later, "{started:?}");

        let unique = |name| with(job(name, 1), "unique", json!(true));
        village.world.fault(chat(1, Fault::rate_limited_retry_after(1800)));
        village.store.submit(&unique("first")).await.unwrap();
        village.store.submit(&unique("second")).await.unwrap();
        let second = village.wait_for("second", State::Ended, Duration::ZERO).await;
        assert_eq!(
            (field(&second, "joinedTo").as_str(), field(&second, "endReason").as_str()),
            ("first", "joined")
        );
        village.wait_for("first", State::Ended, HOUR).await;
        village.store.submit(&unique("third")).await.unwrap();
        let third = village.wait_for("third", State::Ended, HOUR).await;
        assert_eq!(field(&third, "status"), "completed", "the first has ended: {third:#?}");
    });
}

#[test]
fn a_journal_of_a_newer_build_is_left_to_a_newer_runner_and_holds_up_nobody() {
    paused(async {
        let village = village("").await;
        village.store.submit(&job("newer", 1)).await.unwrap();
        let claim = village.store.claim(1).await.unwrap().remove(0);
        village.store.append(&claim.lease, 0, &[b"\x63{}".to_vec()], None).await.unwrap();
        village.store.release(&claim.lease).await.unwrap();
        village.store.submit(&job("usual", 2)).await.unwrap();
        let ended = village.wait_for("usual", State::Ended, HOUR).await;
        assert_eq!(field(&ended, "status"), "completed");
        tokio::time::sleep(HOUR).await;
        let left = village.wait_for("newer", State::Parked, HOUR).await;
        assert!(left.waiting_for.as_deref().unwrap().contains("newer runner"), "{left:#?}");
        assert_eq!((left.counts.attempts, left.counts.crashes, left.counts.steps), (0, 0, 1));
        assert!(
            village.world.records().comments.iter().all(|comment| comment.issue != 1),
            "nothing was told"
        );
    });
}

/// Whether some process of this machine has these words on its command line.
fn runs(words: &str) -> bool {
    let processes = std::fs::read_dir(Path::new("/proc")).unwrap();
    processes
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).replace('\0', " ").trim_end().ends_with(words))
}

async fn called_off_with_its_processes(queue: Queue) {
    // Nobody else sleeps for so long.
    let words = format!(
        "sleep {}",
        700_000 + std::process::id() % 100_000 + 100_000 * u32::from(queue == Queue::Redis)
    );
    let mut town =
        Town::with(queue, |_| {}, &format!("agent.checks = [{words:?}]\nqueue.lease = \"60s\"")).await;
    town.submit("unwanted", 1).await;
    let _worker = town.worker();
    assert!(
        eventually("the command to run", async || runs(&words).then_some(())).await.is_some(),
        "{}",
        town.logs()
    );
    town.store.cancel(&id("unwanted")).await.unwrap();
    let (status, result) = town.end_of("unwanted").await;
    assert_eq!((status.as_str(), &result["reason"]), ("cancelled", &json!("cancelled")), "{result}");
    assert!(!runs(&words), "its processes are gone before it has ended");
    let records = town.records().await;
    assert_eq!(records.pulls.len(), 0);
    assert!(records.comments[0].body.starts_with("This was called off."), "{}", records.comments[0].body);
}

#[tokio::test(flavor = "multi_thread")]
async fn called_off_with_its_processes_on_sqlite() {
    called_off_with_its_processes(Queue::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn called_off_with_its_processes_on_redis() {
    called_off_with_its_processes(Queue::Redis).await;
}
