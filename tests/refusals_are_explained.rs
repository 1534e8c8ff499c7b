//! What repeating cannot help is not repeated: the job ends at once, says why in the status hash,
//! and tells the issue once. What only looks like a refusal (403 for a limit) is waited for.

use std::time::Duration;

use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;

use crate::support::{Queue, Town};

/// What GitHub answers where an issue is locked for those who may not write.
fn locked() -> Fault {
    let body = r#"{"message":"Unable to create comment because issue is locked.","status":"403"}"#;
    Fault::Status { code: 403, headers: Vec::new(), body: body.to_owned() }
}

/// Lets one operation, that the work does not depend on, fail so for ever; the job must complete.
async fn does_without(operation: Operation, fault: Fault) -> Town {
    let mut town = Town::new(Queue::Sqlite).await;
    town.world.fault(FaultRule { times: None, ..FaultRule::next(Target::Operation(operation), 1, fault) });
    town.submit("without", 1).await;
    let worker = town.worker();
    town.completed("without").await;
    let records = town.records().await;
    let tries = records.faults.iter().filter(|hit| hit.operation == operation).count();
    // The model may ask for a comment of its own beside the progress comment.
    assert!((1..=2).contains(&tries), "{tries} tries of what cannot be helped");
    town.assert_each_effect_once(1).await;
    drop(worker);
    town
}

/// Lets one operation fail so for ever; the job must end with `reason` after one try of it.
async fn refused(operation: Operation, fault: Fault, reason: &str) {
    let mut town = Town::new(Queue::Sqlite).await;
    town.world.fault(FaultRule { times: None, ..FaultRule::next(Target::Operation(operation), 1, fault) });
    town.submit("refused", 1).await;
    let _worker = town.worker();
    let (status, result) = town.end_of("refused").await;
    assert_eq!(
        (status.as_str(), result["reason"].as_str()),
        ("failed", Some(reason)),
        "{result}\n{}",
        town.logs()
    );
    let error = result["error"].as_str().unwrap_or_default();
    assert!(error.len() > 20, "it says what failed: {error:?}");
    let records = town.records().await;
    let tries = records.faults.iter().filter(|hit| hit.operation == operation).count();
    assert_eq!(tries, 1, "what cannot be helped is not repeated");
    let told: Vec<_> =
        records.comments.iter().filter(|comment| comment.body.contains("effect=progress")).collect();
    assert!(told.len() <= 1, "{told:#?}");
    let may_comment = !matches!(operation, Operation::CommentCreate | Operation::Repo);
    if may_comment {
        assert!(told[0].body.contains("could not finish"), "{}", told[0].body);
        assert!(!told[0].body.contains("sk-"), "no key in a comment");
    }
    let ended = town.wait_for("refused", State::Ended).await;
    let field = |name: &str| ended.status.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    assert_eq!(field("endReason").as_deref(), Some(reason));
    assert!(field("completedAt").is_some_and(|at| at.ends_with('Z')));
    assert!(records.pulls.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_401() {
    refused(Operation::Chat, Fault::unauthorized(), "credentials").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_404() {
    refused(Operation::Chat, Fault::not_found(), "not_found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_without_a_limit() {
    refused(Operation::PullCreate, Fault::forbidden(), "permission").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_on_the_first_comment() {
    refused(Operation::CommentCreate, Fault::forbidden(), "permission").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_issue_takes_no_comment_and_gets_its_pull_request() {
    let town = does_without(Operation::CommentCreate, locked()).await;
    assert!(town.records().await.comments.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_that_is_not_there_takes_no_comment_either() {
    let town = does_without(Operation::CommentCreate, Fault::not_found()).await;
    assert!(town.records().await.comments.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_ask_whose_it_is() {
    let town = does_without(Operation::User, Fault::forbidden()).await;
    let comments = town.records().await.comments;
    assert!(comments.iter().any(|comment| comment.body.starts_with("Done")), "{comments:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_there() {
    refused(Operation::Repo, Fault::not_found(), "not_found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_with_a_limits_headers_is_waited_for() {
    let mut town = Town::new(Queue::Sqlite).await;
    let limit = Fault::primary_limit(Duration::from_secs(3));
    town.world.fault(FaultRule::next(Target::Operation(Operation::PullCreate), 1, limit));
    town.submit("limited", 2).await;
    let _worker = town.worker();
    let result = town.completed("limited").await;
    assert!(result["waits"].as_u64().is_some_and(|waits| waits >= 1), "it was parked meanwhile: {result}");
    town.assert_each_effect_once(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_at_all_is_said_so() {
    let mut town = Town::with(Queue::Sqlite, |_| {}, "").await;
    let mut job = crate::support::job("app", 1);
    job.installation_id = 7001;
    town.store.submit(&job).await.unwrap();
    let _worker = town.worker();
    let (status, result) = town.end_of("app").await;
    assert_eq!(status, "failed");
    assert!(result["error"].as_str().is_some_and(|why| why.contains("github.app_id")), "{result}");
}
