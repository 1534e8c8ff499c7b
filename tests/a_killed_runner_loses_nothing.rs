//! kill -9 in the middle of a job: another worker goes on at its next step, and nothing is twice.

use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;

use crate::support::{Queue, Town, eventually};

/// Kills the worker at `operation`, which hangs, and lets another finish.
async fn killed_at(queue: Queue, operation: Operation, skip: u64) {
    let mut town = Town::new(queue).await;
    town.world.fault(FaultRule::next(Target::Operation(operation), 1, Fault::Hang).after(skip));
    town.submit("killed", 3).await;
    let mut first = town.worker();
    let world = std::sync::Arc::clone(&town.world);
    let hung = eventually("the request to hang", async || {
        let faults = world.records().faults;
        (!faults.is_empty()).then_some(())
    });
    hung.await.unwrap_or_else(|| panic!("{}", town.logs()));
    let answered = town.records().await.chats_with(200);
    first.kill();
    let second = town.worker();
    town.completed("killed").await;
    town.assert_each_effect_once(1).await;
    let claimed = second.says("job claimed", 1).await;
    assert_eq!(claimed[0]["crashes"], 1, "the crash is counted");
    let ended = town.wait_for("killed", State::Ended).await;
    assert_eq!(ended.counts.crashes, 1);
    let turns = town.records().await.chats_with(200);
    let told = second.said("model answered").len();
    assert_eq!(turns, answered + told, "the second worker asked only for turns that had no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_model_call_on_sqlite() {
    killed_at(Queue::Sqlite, Operation::Chat, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_model_call_on_redis() {
    killed_at(Queue::Redis, Operation::Chat, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_push_on_sqlite() {
    killed_at(Queue::Sqlite, Operation::GitPush, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_pull_request_on_redis() {
    killed_at(Queue::Redis, Operation::PullCreate, 0).await;
}
