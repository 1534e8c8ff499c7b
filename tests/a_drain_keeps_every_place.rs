//! SIGTERM: no more claims, the step in flight ends, jobs go back with their place kept and go on
//! elsewhere at once. A second signal ends the process at once.

use std::time::Duration;

use rustix::process::Signal;
use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;

use crate::support::{Queue, Town};

async fn drained_and_continued(queue: Queue) {
    let slow =
        |config: &mut steadfast_sim::WorldConfig| config.latency.llm_first = Duration::from_millis(300);
    let mut town = Town::with(queue, slow, "").await;
    town.submit("one", 1).await;
    town.submit("two", 2).await;
    let mut first = town.worker();
    first.says("model answered", 2).await;
    first.signal(Signal::TERM);
    assert_eq!(first.ended().await.code(), Some(0), "{}", town.logs());
    assert_eq!(first.said("job released").len(), 2);
    for id in ["one", "two"] {
        let waiting = town.wait_for(id, State::Queued).await;
        assert_eq!((waiting.counts.crashes, waiting.counts.attempts), (0, 0), "a drain is nobody's fault");
    }
    let _second = town.worker();
    for id in ["one", "two"] {
        town.completed(id).await;
    }
    town.assert_each_effect_once(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    drained_and_continued(Queue::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis() {
    drained_and_continued(Queue::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_goes_at_once() {
    let mut town = Town::new(Queue::Sqlite).await;
    town.world.fault(FaultRule::next(Target::Operation(Operation::Chat), 1, Fault::Hang));
    town.submit("hung", 1).await;
    let mut worker = town.worker();
    worker.says("job claimed", 1).await;
    let world = std::sync::Arc::clone(&town.world);
    let hung = crate::support::eventually("the call to hang", async || {
        (!world.records().faults.is_empty()).then_some(())
    });
    assert!(hung.await.is_some());
    worker.signal(Signal::INT);
    worker.says("draining", 1).await;
    worker.signal(Signal::INT);
    assert_eq!(worker.ended().await.code(), Some(1), "a call in flight is not waited for");
    let _second = town.worker();
    town.completed("hung").await;
    town.assert_each_effect_once(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_within_its_lease_and_says_so() {
    let mut town = Town::new(Queue::Sqlite).await;
    town.world.fault(FaultRule::next(Target::Operation(Operation::Chat), 1, Fault::Hang).after(1));
    town.submit("unwanted", 1).await;
    let worker = town.worker();
    worker.says("model answered", 1).await;
    let id = steadfast_core::job::JobId::new("unwanted").unwrap();
    town.store.cancel(&id).await.unwrap();
    let (status, result) = town.end_of("unwanted").await;
    assert_eq!((status.as_str(), result["reason"].as_str()), ("cancelled", Some("cancelled")));
    let records = town.records().await;
    assert_eq!(records.pulls.len(), 0);
    assert!(records.comments[0].body.contains("called off"), "{}", records.comments[0].body);
}
