//! The inbox of the system that this one takes over from: entries typed by hand run, and what cannot
//! be read is set aside with its reason.

use serde_json::json;
use steadfast_sim::{ScriptFor, ScriptedAnswer, fixture};
use steadfast_store::State;

use crate::support::{Queue, Town, eventually};

/// What `redis-cli` would say to this command.
fn redis_cli(town: &Town, command: &[&str]) -> String {
    let socket = town.redis.as_ref().unwrap().socket();
    let output = std::process::Command::new("redis-cli").arg("-s").arg(socket).args(command).output();
    let output = output.unwrap_or_else(|error| panic!("redis-cli: {error}; apt-get install redis-tools"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_unreadable_entries_among_fifty_good_ones() {
    let issues = |config: &mut steadfast_sim::WorldConfig| config.repositories[0].issues = 50;
    let mut town = Town::with(Queue::Redis, issues, "job.concurrency = 8").await;
    // What is proven here is the inbox: the model finishes at once.
    let finish = ("finish".to_owned(), r#"{"summary":"Nothing is to be changed."}"#.to_owned());
    let at_once = vec![ScriptedAnswer::Calls(vec![finish])];
    town.world.script_model(ScriptFor::Containing("shell-tools".to_owned()), at_once);
    let known = fixture::issues().len() as u64;
    for number in 1..=50u64 {
        let issue = fixture::issue((number - 1) % known + 1).unwrap();
        let good = json!({
            "id": format!("good-{number}"), "installationId": 0, "repoOwner": "acme", "repoName": "shell-tools",
            "taskType": "bug_fix", "status": "pending", "createdAt": "2025-10-09T00:00:00.000Z",
            "taskParams": {"issueNumber": number, "issueTitle": issue.title, "issueBody": issue.body},
        });
        let mut bad = good.clone();
        bad["id"] = json!(format!("bad-{number}"));
        let bad = match number % 5 {
            0 => "{not json".to_owned(),
            1 => {
                bad.as_object_mut().unwrap().remove("repoName");
                bad.to_string()
            }
            2 => {
                bad["id"] = json!("x".repeat(200));
                bad.to_string()
            }
            3 => {
                bad["repoOwner"] = json!("../../etc");
                bad.to_string()
            }
            _ => "\u{0}\u{1}\u{ffff}".to_owned(),
        };
        let field = if number % 10 == 4 { "somethingElse" } else { "jobData" };
        redis_cli(&town, &["XADD", "job-queue", "*", field, bad.trim_matches('\0')]);
        redis_cli(&town, &["XADD", "job-queue", "*", "jobData", &good.to_string()]);
    }
    let mut worker = town.worker();
    for number in 1..=50 {
        let (status, result) = town.end_of(&format!("good-{number}")).await;
        assert_eq!(status, "completed", "{result}\n{}", town.logs());
    }
    assert_eq!(redis_cli(&town, &["XLEN", "job-queue:dead"]), "50");
    let dead = redis_cli(&town, &["XRANGE", "job-queue:dead", "-", "+"]);
    assert_eq!(dead.matches("reason").count(), 50, "each has its reason: {dead}");
    assert_eq!(redis_cli(&town, &["XLEN", "job-queue"]), "0", "the stream is trimmed");
    assert_eq!(town.store.count().await.unwrap()[State::Ended as usize], 50);
    assert!(worker.said("actor died").is_empty());
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entry_typed_by_hand_runs_and_reads_as_monitors_expect() {
    let own = |config: &mut steadfast_sim::WorldConfig| {
        config.repositories = vec![steadfast_sim::Repository::new("test", "test")];
    };
    let mut town = Town::with(Queue::Redis, own, "").await;
    let entry = r#"{"id":"test-123","installationId":0,"repoOwner":"test",
        "repoName":"test","taskType":"autonomous","status":"pending",
        "taskParams":{"issueTitle":"Test","issueBody":"List files"},
        "createdAt":"2025-10-09T00:00:00.000Z"}"#;
    redis_cli(&town, &["XADD", "job-queue", "*", "jobData", entry]);
    redis_cli(&town, &["XADD", "job-queue", "*", "jobData", entry]);
    let _worker = town.worker();
    let get = |town: &Town, field: &str| redis_cli(town, &["HGET", "job:test-123", field]);
    let ended =
        eventually("the job to end", async || (get(&town, "status") == "completed").then_some(())).await;
    assert!(ended.is_some(), "{}\n{}", redis_cli(&town, &["HGETALL", "job:test-123"]), town.logs());
    for field in ["startedAt", "completedAt"] {
        let at = get(&town, field);
        assert!(at.len() == 24 && at.ends_with('Z') && at.contains('.'), "{field} is {at:?}");
    }
    let result: serde_json::Value = serde_json::from_str(&get(&town, "result")).unwrap();
    for field in ["success", "summary", "iterations"] {
        assert!(!result[field].is_null(), "{field} of {result}");
    }
    assert!(redis_cli(&town, &["XINFO", "GROUPS", "job-queue"]).contains("processors"));
    assert_eq!(town.store.count().await.unwrap()[State::Ended as usize], 1, "the same id twice is one job");
}
