//! What seeds found, boiled down to the least that shows it.

use std::time::Duration;

use steadfast_core::job::JobId;
use steadfast_sim::{Fault, FaultRule, Latency, LimitKind, Operation, RetryAfter, Target};
use steadfast_store::{State, Store};

use crate::support::fleet::Fleet;
use crate::support::in_process::{Village, field, paused};
use crate::support::job;
use crate::support::storm::Rates;

const HOUR: Duration = Duration::from_secs(3600);

fn aimed(operation: Operation, times: u64, fault: Fault) -> FaultRule {
    FaultRule::next(Target::Operation(operation), times, fault)
}

/// GitHub's lists are behind its writes: who looks at once finds nothing, and writes again.
#[test]
fn what_is_not_shown_yet_is_not_made_twice() {
    paused(async {
        let lag = Duration::from_secs(4);
        let village = Village::new(|config| config.github.lag = lag, "", |store| store).await;
        village.world.fault(aimed(Operation::CommentCreate, 1, Fault::DoneButLost));
        village.world.fault(aimed(Operation::PullCreate, 1, Fault::DoneButLost));
        village.store.submit(&job("one", 1)).await.unwrap();
        let ended = village.wait_for("one", State::Ended, HOUR).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        let records = village.world.records();
        let progress = records.comments.iter().filter(|one| one.body.contains("effect=progress")).count();
        assert_eq!((progress, records.pulls.len()), (1, 1), "{:#?}", records.comments);
    });
}

/// All tries of one run fail, and the comment would say for ever that the work goes on.
#[test]
fn an_end_that_github_did_not_hear_is_told_by_another_run() {
    paused(async {
        let village = Village::new(|_| {}, "", |store| store).await;
        village.world.fault(aimed(Operation::CommentEdit, 7, Fault::html_502()));
        village.store.submit(&job("one", 1)).await.unwrap();
        let ended = village.wait_for("one", State::Ended, HOUR).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        assert_eq!(ended.counts.runs, 3, "two runs could not tell of it");
        let records = village.world.records();
        let told = records.comments.iter().find(|one| one.body.contains("effect=progress")).unwrap();
        assert!(told.body.starts_with("Done"), "{}", told.body);
        assert_eq!((records.pulls.len(), records.paid_twice()), (1, 0));
    });
}

/// Writes go one at a time. One that waits for its turn behind others that hang must not be sent when
/// the lease is over meanwhile, and another runner does the same.
#[test]
fn a_write_that_waits_for_its_turn_is_not_sent_after_the_lease() {
    paused(async {
        let jobs: Vec<_> = (1..=6).map(|issue| job(&format!("job-{issue}"), issue)).collect();
        let mut fleet = Fleet::new(1, |_| {}, "job.concurrency = 6").await;
        fleet.world.fault(aimed(Operation::CommentCreate, 5, Fault::Hang));
        for job in &jobs {
            fleet.submit(job).await;
        }
        fleet.start(Rates::default(), 0);
        // Each has announced its comment: the workspace is open, and the effect is in the journal.
        for job in &jobs {
            while fleet.store.inspect(&job.id).await.unwrap().unwrap().counts.steps < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        fleet.runners[0].line.lose_store(Duration::from_secs(200));
        fleet.start(Rates::default(), 0);
        let all_ended = async {
            while fleet.store.count().await.unwrap()[State::Ended as usize] < jobs.len() as u64 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(HOUR, all_ended).await.expect("all of them end");
        let comments = fleet.world.records().comments;
        let progress = comments.iter().filter(|one| one.body.contains("effect=progress")).count();
        assert_eq!(progress, jobs.len(), "{comments:#?}");
    });
}

/// A server that counts what it refuses, and two processes that each come back just when they are
/// told to: together they used up all that it gave, on refusals.
#[test]
fn two_runners_do_not_keep_each_other_out() {
    paused(async {
        let character = |config: &mut steadfast_sim::WorldConfig| {
            config.llm.requests_per_minute = Some(19);
            config.llm.limit_kind = LimitKind::Bucket { holds: Duration::from_millis(3857) };
            config.llm.retry_after = RetryAfter::True;
            config.llm.tell_limits = false;
            config.llm.count_rejected = true;
            config.latency = Latency { jitter: 0.0, ..Latency::lifelike() };
        };
        let mut fleet = Fleet::new(15, character, "job.concurrency = 2").await;
        fleet.start(Rates::default(), 0);
        fleet.start(Rates::default(), 0);
        let ids: Vec<_> = (1..=4).map(|issue| format!("job-{issue}")).collect();
        for (id, issue) in ids.iter().zip(1..) {
            fleet.submit(&job(id, issue)).await;
        }
        let all_ended = async {
            while fleet.store.count().await.unwrap()[State::Ended as usize] < 4 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(2 * HOUR, all_ended).await.expect("all of them end");
        for id in ids {
            let found = fleet.store.inspect(&JobId::new(&*id).unwrap()).await.unwrap().unwrap();
            assert_eq!(field(&found, "status"), "completed", "{found:?}");
        }
    });
}
