//! The two scenarios of the system that this one takes over from, on both stores.

use std::time::Duration;

use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;

use crate::support::{Queue, Town};

/// 429s at the model, then at the comment, then success: nothing but the time changes.
async fn limits_at_several_levels(queue: Queue) {
    let mut town = Town::new(queue).await;
    let chat = Target::Operation(Operation::Chat);
    let comment = Target::Operation(Operation::CommentCreate);
    town.world.fault(FaultRule::next(chat, 2, Fault::rate_limited_bare()));
    town.world.fault(FaultRule::next(comment, 1, Fault::secondary_limit(Some(1))));
    town.submit("levels", 1).await;
    let worker = town.worker();
    let result = town.completed("levels").await;
    assert!(result["prUrl"].as_str().is_some_and(|url| url.contains("/pull/")), "{result}");
    assert_eq!(result["success"], true);
    assert!(result["iterations"].as_u64().is_some_and(|turns| turns >= 3), "{result}");
    town.assert_each_effect_once(1).await;
    assert!(worker.said("rate limited").len() >= 2, "the log tells of the limits");
}

/// 429 for longer than any layer sits: the job is put away, and succeeds after recovery.
async fn persistent_limits(queue: Queue) {
    let mut town = Town::new(queue).await;
    let chat = Target::Operation(Operation::Chat);
    let wait = Duration::from_secs(6);
    town.world.fault(FaultRule::between(chat, Duration::ZERO, wait, Fault::rate_limited_retry_after(4)));
    town.submit("persistent", 2).await;
    let worker = town.worker();
    let parked = town.wait_for("persistent", State::Parked).await;
    assert!(parked.waiting_for.is_some_and(|why| why.contains("rate limit")));
    let status = parked.status.iter().find(|(key, _)| key == "status").map(|(_, value)| value.as_str());
    assert_eq!(status, Some("queued"), "other readers know no state of ours");
    let result = town.completed("persistent").await;
    assert!(result["waits"].as_u64().is_some_and(|waits| waits >= 1), "{result}");
    town.assert_each_effect_once(1).await;
    worker.says("job parked", 1).await;
    let refused = town.records().await.faults.len();
    assert!((1..10).contains(&refused), "a closed door is not hammered: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_at_several_levels_on_sqlite() {
    limits_at_several_levels(Queue::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_at_several_levels_on_redis() {
    limits_at_several_levels(Queue::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_limits_on_sqlite() {
    persistent_limits(Queue::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_limits_on_redis() {
    persistent_limits(Queue::Redis).await;
}

/// An outage longer than all tries of all runs together: the breaker opens, the job waits parked,
/// and it is the provider's answer that closes the breaker, nothing else.
async fn an_outage(operation: Operation, tries: u64) {
    let mut town = Town::new(Queue::Sqlite).await;
    town.extend(
        "job.max_attempts = 2\njob.park_after = \"500ms\"\nbreaker.min_calls = 3\nbreaker.open_max = \"1s\"\n",
    );
    town.world.fault(FaultRule::next(Target::Operation(operation), tries, Fault::html_502()));
    town.submit("outage", 1).await;
    let worker = town.worker();
    let result = town.completed("outage").await;
    assert!(result["waits"].as_u64().is_some_and(|waits| waits >= 2), "{result}");
    town.assert_each_effect_once(1).await;
    assert_eq!(worker.said("breaker closed").len(), 1, "{}", town.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_github_costs_time_and_no_job() {
    an_outage(Operation::Repo, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_git_remote_costs_time_and_no_job() {
    an_outage(Operation::GitFetch, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_model_costs_time_and_no_job() {
    an_outage(Operation::Chat, 8).await;
}
