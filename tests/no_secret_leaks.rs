//! Every secret of a run is searched for, by value, wherever the run leaves anything: logs, store,
//! workspaces, commands' environments, comments, pull requests.

use std::path::Path;
use std::process::Command;

use steadfast_core::job::JobId;
use steadfast_sim::{SIMULATION_ONLY_PRIVATE_KEY, ScriptFor, ScriptedAnswer};
use steadfast_store::State;

use crate::support::{API_KEY, Queue, TOKEN, Town, eventually, job};

/// Every file below a folder that holds one of the words.
fn holders_below(folder: &Path, words: &[String], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            holders_below(&path, words, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            for word in words {
                if bytes.windows(word.len()).any(|part| part == word.as_bytes()) {
                    found.push(format!("{} holds {}...", path.display(), &word[..8]));
                }
            }
        }
    }
}

async fn not_in_logs_store_workspaces_environments_or_comments(queue: Queue) {
    let mut town = Town::with(queue, |_| {}, "log.level = \"trace\"").await;
    let key_file = town.dir.path().with_extension("pem");
    std::fs::write(&key_file, SIMULATION_ONLY_PRIVATE_KEY).unwrap();
    town.extend(&format!("github.app_id = \"4242\"\ngithub.private_key_file = {key_file:?}"));
    // A model that tries: it looks for secrets everywhere a command can see, and tells the issue.
    let calls = |calls: &[(&str, &str)]| {
        ScriptedAnswer::Calls(
            calls.iter().map(|(name, args)| ((*name).to_owned(), (*args).to_owned())).collect(),
        )
    };
    let look = r#"{"command":"env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; ls -la / /root /home /tmp .git; cat .git/config .git/* 2>/dev/null; cat ~/.netrc ~/.git-credentials; find / -name '*.pem' -size -9k 2>/dev/null | head"}"#;
    town.world.script_model(
        ScriptFor::Issue(1),
        vec![
            calls(&[("run_command", look), ("list_directory", r#"{"path":".","recursive":true}"#)]),
            calls(&[("comment_on_issue", r#"{"message":"I looked around."}"#)]),
        ],
    );
    let mut by_app = job("by-app", 1);
    by_app.installation_id = 7001;
    town.store.submit(&by_app).await.unwrap();
    town.submit("by-token", 2).await;
    let mut worker = town.worker();
    for id in ["by-app", "by-token"] {
        town.wait_for(id, State::Ended).await;
    }
    let story = town.store.replay(&JobId::new("by-app").unwrap()).await.unwrap();
    let environment: Vec<String> =
        story.steps.iter().map(|step| String::from_utf8_lossy(step).into_owned()).collect();
    assert!(
        environment.iter().any(|step| step.contains("PATH=")),
        "the command did run and print: {environment:#?}"
    );

    let mut secrets = vec![API_KEY.to_owned(), TOKEN.to_owned()];
    secrets.extend(
        SIMULATION_ONLY_PRIVATE_KEY.lines().filter(|line| !line.starts_with("--")).take(3).map(str::to_owned),
    );
    let installation = town.world.ever_issued_tokens();
    assert!(!installation.is_empty(), "the App's way was gone");
    let revoked = eventually("the token to be revoked", async || {
        town.records().await.tokens.iter().all(|token| token.revoked).then_some(())
    });
    assert!(revoked.await.is_some(), "a token outlives its job: {:?}", town.records().await.tokens);
    secrets.extend(installation);

    // The store keeps journals packed: they are searched as what they say.
    for id in ["by-app", "by-token"] {
        let steps = town.store.replay(&JobId::new(id).unwrap()).await.unwrap().steps;
        std::fs::write(town.dir.path().join(format!("journal of {id}")), steps.concat()).unwrap();
    }
    let folders = [
        Some(town.dir.path().to_owned()),
        town.redis.as_ref().map(|redis| redis.socket().parent().unwrap().to_owned()),
    ];
    let search = |words: &[String]| {
        let mut found = Vec::new();
        folders.iter().flatten().for_each(|folder| holders_below(folder, words, &mut found));
        found
    };
    // The search sees what is there: the log, what the model said, and a job in the store's own files.
    let there = search(&["job claimed", "I looked around.", "\"id\":\"by-token\""].map(str::to_owned));
    for holder in ["worker-1.log holds job clai", "journal of by-app holds I looked", "holds \"id\":\"b"] {
        assert!(there.iter().any(|found| found.contains(holder)), "{holder} is not among {there:?}");
    }
    let mut found = search(&secrets);
    let world = serde_json::to_string(&town.records().await).unwrap();
    found.extend(
        secrets
            .iter()
            .filter(|secret| world.contains(secret.as_str()))
            .map(|s| format!("the world saw {}...", &s[..8])),
    );
    let shown = Command::new(env!("CARGO_BIN_EXE_steadfast"))
        .args(["--config", "worker-1.toml", "config", "show"])
        .current_dir(town.dir.path())
        .env("STEADFAST_LLM__API_KEY", API_KEY)
        .env("STEADFAST_GITHUB__TOKEN", TOKEN)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("[llm]"), "{shown}");
    found.extend(
        secrets
            .iter()
            .filter(|secret| shown.contains(secret.as_str()))
            .map(|s| format!("config show prints {}...", &s[..8])),
    );
    assert_eq!(found, Vec::<String>::new());
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    not_in_logs_store_workspaces_environments_or_comments(Queue::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis() {
    not_in_logs_store_workspaces_environments_or_comments(Queue::Redis).await;
}
