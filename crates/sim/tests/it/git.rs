//! The git program against the remote over HTTP: rights on every request, pushes that arrive.

use std::path::Path;

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{commit, git, installation_token, try_git, world};

/// Runs git on the blocking pool, since the server lives on this runtime.
async fn run(dir: &Path, arguments: Vec<String>) -> (bool, String) {
    let dir = dir.to_owned();
    let work = move || try_git(&dir, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn clones_and_pushes_with_the_right_token_only() {
    let world = world(|_| {});
    let served = world.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    let writer = installation_token(&world, json!({"permissions": {"contents": "write"}})).await;
    let reader = installation_token(&world, json!({"permissions": {"contents": "read"}})).await;
    let stranger = installation_token(&world, json!({"permissions": {"issues": "write"}})).await;
    let url = |token: &str| format!("http://x-access-token:{token}@{}/acme/shell-tools.git", served.addr());
    let dir = tempfile::tempdir().unwrap();

    let anonymous = format!("ls-remote http://{}/acme/shell-tools.git", served.addr());
    assert!(!run(dir.path(), words(&anonymous)).await.0);
    let (success, said) = run(dir.path(), words(&format!("ls-remote {}", url("ghs_wrong")))).await;
    assert!(!success && said.contains("Authentication failed"), "{said}");
    let (success, said) = run(dir.path(), words(&format!("ls-remote {}", url(&stranger)))).await;
    assert!(!success && said.to_lowercase().contains("not found"), "{said}");

    let (success, said) =
        run(dir.path(), words(&format!("clone -q --depth 1 --filter=blob:none {} tree", url(&reader)))).await;
    assert!(success, "{said}");
    let tree = dir.path().join("tree");
    assert!(tree.join("lib/roman.sh").exists());
    commit(&tree, "by git over http");
    let push = |token: &str| words(&format!("push -q {} HEAD:refs/heads/work", url(token)));
    let (success, said) = run(&tree, push(&reader)).await;
    assert!(!success && said.contains("403"), "{said}");
    let records = world.records();
    assert!(records.branches.is_empty());
    assert!(records.rejections.iter().all(|one| !one.why.contains("anonymous")), "{:?}", records.rejections);
    let (success, said) = run(&tree, push(&writer)).await;
    assert!(success, "{said}");
    let records = world.records();
    assert_eq!(records.branches[0].name, "work");
    assert_eq!(records.branches[0].sha, git(&tree, &["rev-parse", "HEAD"]).trim());
    assert_eq!(records.max_concurrent_writes, 1);
    assert_eq!(world.file_at("acme", "shell-tools", "work", "new.txt").unwrap(), "by git over http");
    served.shutdown().await;
}

#[test]
fn the_same_commits_arise_every_time() {
    let heads: Vec<String> = (0..2)
        .map(|_| {
            let world = world(|_| {});
            git(&world.git_root().join("acme/shell-tools.git"), &["rev-parse", "main"])
        })
        .collect();
    assert_eq!(heads[0], heads[1]);
}
