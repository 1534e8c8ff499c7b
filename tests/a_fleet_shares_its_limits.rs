//! Workers on one queue share a rate limit: together they stay below it, and `steadfast limits` says so.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use steadfast_sim::{LimitKind, WorldConfig};

use crate::support::{Queue, Town, eventually};

async fn two_workers_share_one_limit(queue: Queue) {
    let change = |world: &mut WorldConfig| {
        world.llm.requests_per_minute = Some(240);
        world.llm.limit_kind = LimitKind::Bucket { holds: Duration::from_secs(2) };
    };
    let mut town = Town::with(queue, change, "").await;
    let limits =
        "llm.limits.requests_per_minute = 240\nllm.limits.window = \"bucket\"\nllm.limits.burst = 4\n";
    town.extend(limits);
    let ids: Vec<String> = (1..=4).map(|n| format!("job-{n}")).collect();
    for (issue, id) in (1..).zip(&ids) {
        town.submit(id, issue).await;
    }
    let workers = [town.worker(), town.worker()];
    for id in &ids {
        town.completed(id).await;
    }
    let refused = town.records().await.chats_with(429);
    assert!(refused <= 2, "{refused} refused: each worker by itself would have been refused half the time");
    for worker in &workers {
        assert!(worker.said("the ledger is away: going on with this process's part").is_empty());
    }
    let dir = town.dir.path().to_owned();
    let shown = eventually("the ledger knows the budget", async || {
        let output = Command::new(env!("CARGO_BIN_EXE_steadfast"))
            .args(["--config", "worker-1.toml", "limits", "--json"])
            .current_dir(&dir)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.into_iter().find(|line| line["budget"] == "llm" && line["status"].is_object())
    });
    let shown = shown.await.unwrap();
    assert_eq!(shown["status"]["limit"]["per_minute"], 240.0, "{shown}");
    assert_eq!(shown["status"]["limit"]["source"], "config", "{shown}");
}

#[tokio::test]
async fn over_redis() {
    two_workers_share_one_limit(Queue::Redis).await;
}

#[tokio::test]
async fn over_sqlite() {
    two_workers_share_one_limit(Queue::Sqlite).await;
}
