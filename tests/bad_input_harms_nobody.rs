//! Journals that are none and clocks that are years off: the one job says why it ends, nothing is lost,
//! and the rest of the queue goes on.

use std::time::Duration;

use steadfast_core::job::JobId;
use steadfast_core::journal::{Event, PACKED, Step};
use steadfast_core::time::Timestamp;
use steadfast_sim::{Fault, FaultRule, Latency, Operation, Target};
use steadfast_store::{Inspection, State, Store};

use crate::support::fleet::Fleet;
use crate::support::in_process::{field, paused};
use crate::support::job;
use crate::support::storm::Rates;

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: i64 = 365 * 24 * 3_600_000;

async fn all_end(fleet: &Fleet, ids: &[String], within: Duration) -> Vec<Inspection> {
    let ending = async {
        while fleet.store.count().await.unwrap()[State::Ended as usize] < ids.len() as u64 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::time::timeout(within, ending).await;
    let mut found = Vec::new();
    for id in ids {
        found.push(fleet.store.inspect(&JobId::new(id.as_str()).unwrap()).await.unwrap().unwrap());
    }
    assert!(ended.is_ok(), "not all of them end within {within:?}: {found:#?}");
    found
}

fn written(event: Event) -> Vec<u8> {
    Step { at: Timestamp::EPOCH, event }.encode()
}

#[test]
fn a_journal_that_is_none_ends_its_job_and_no_other() {
    paused(async {
        let started = written(Event::Started {
            base_commit: "c".repeat(40),
            base_branch: "main".into(),
            system_prompt: "s".into(),
            task_prompt: "t".into(),
        });
        let finished =
            written(Event::ToolFinished { call_id: "c".into(), output: "o".into(), is_error: false });
        let half = started[..started.len() / 2].to_vec();
        let journals: [(&str, Vec<Vec<u8>>); 7] = [
            ("garbage", vec![[&[1][..], b"garbage"].concat()]),
            ("packed garbage", vec![[&[PACKED][..], &[0xfd; 300]].concat()]),
            ("nothing", vec![Vec::new()]),
            ("cut off", vec![half]),
            ("of another kind", vec![b"\x01{\"event\":\"nonsense\"}".to_vec()]),
            // What another job may have written there.
            ("no beginning", vec![finished.clone()]),
            ("begun twice", vec![started.clone(), started.clone()]),
        ];
        let mut fleet = Fleet::new(1, |_| {}, "").await;
        let ids: Vec<String> = (0..=journals.len()).map(|number| format!("job-{number}")).collect();
        for (id, issue) in ids.iter().zip(1..) {
            fleet.store.submit(&job(id, issue)).await.unwrap();
        }
        let claims = fleet.store.claim(99).await.unwrap();
        for (claim, (_, steps)) in claims.iter().zip(&journals) {
            fleet.store.append(&claim.lease, 0, steps, None).await.unwrap();
        }
        for claim in &claims {
            fleet.store.release(&claim.lease).await.unwrap();
        }
        fleet.start(Rates::default(), 0);
        let ended = all_end(&fleet, &ids, HOUR).await;
        for (found, (what, steps)) in ended.iter().zip(&journals) {
            let (status, reason) = (field(found, "status"), field(found, "endReason"));
            assert_eq!((status.as_str(), reason.as_str()), ("failed", "journal"), "{what}: {found:#?}");
            let result = field(found, "result");
            assert!(result.contains("journal"), "{what}: {result}");
            let kept = fleet.store.replay(&found.job.id).await.unwrap().steps;
            assert_eq!(kept[..steps.len()], steps[..], "{what} is kept as it was");
        }
        let good = ended.last().unwrap();
        assert_eq!(field(good, "status"), "completed", "{good:#?}");
        let records = fleet.world.records();
        assert_eq!((records.pulls.len(), records.paid_twice()), (1, 0));
    });
}

/// Whose clock is wrong knows how long to wait all the same; when that is over the store says.
#[test]
fn a_runner_whose_clock_is_years_off_parks_as_long_as_it_must_and_ends_no_job_early() {
    for years in [-20, 20] {
        paused(async move {
            let latency = Latency::lifelike();
            let mut fleet = Fleet::new(1, |config| config.latency = latency, "").await;
            fleet.start(Rates::default(), 0);
            fleet.runners[0].line.jump(years * YEAR);
            let limit = Fault::rate_limited_retry_after(600);
            let aimed = |operation, fault| FaultRule::next(Target::Operation(operation), 1, fault);
            fleet.world.fault(aimed(Operation::Chat, limit));
            fleet.world.fault(aimed(Operation::CommentEdit, Fault::primary_limit(HOUR / 4)));
            let ids: Vec<String> = (1..=3).map(|issue| format!("job-{issue}")).collect();
            for (id, issue) in ids.iter().zip(1..) {
                fleet.submit(&job(id, issue)).await;
            }
            let ended = all_end(&fleet, &ids, 2 * HOUR).await;
            for found in &ended {
                assert_eq!(field(found, "status"), "completed", "{years} years: {found:#?}");
                assert_eq!((found.counts.attempts, found.counts.crashes), (0, 0), "{found:#?}");
            }
            let (waits, runs): (u32, u32) = ended
                .iter()
                .fold((0, 0), |(waits, runs), found| (waits + found.counts.waits, runs + found.counts.runs));
            assert!(waits > 0, "nobody had to wait: {ended:#?}");
            assert!(runs < 20, "none goes round and round: {ended:#?}");
            assert!(fleet.world.records().rejections.len() < 20, "nobody is pestered");
        });
    }
}
