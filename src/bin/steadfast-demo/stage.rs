//! The stage: the simulated servers on loopback, and a folder with the worker's configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use steadfast::clock::SystemClock;
use steadfast_core::time::Clock;
use steadfast_sim::{
    Fault, FaultRule, GithubConfig, Latency, LimitKind, LlmConfig, Operation, Repository,
    SIMULATION_ONLY_PRIVATE_KEY, ServeHandle, Target, Weather, World, WorldConfig, fixture,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::Args;

/// The key that the simulated OpenAI accepts.
const API_KEY: &str = "sk-demo-opens-nothing-but-the-simulation";
const OWNER: &str = "acme";
const REPOSITORY: &str = "shell-tools";

/// All that the worker is put in front of.
pub struct Stage {
    world: Arc<World>,
    // Serves for as long as the stage stands.
    server: ServeHandle,
    folder: Option<TempDir>,
    path: PathBuf,
    installation: u64,
}

impl Stage {
    /// Starts the servers and writes the worker's configuration.
    pub async fn build(args: &Args) -> anyhow::Result<Self> {
        let world = World::new(world_config(args)).context("cannot make the simulated world")?;
        if args.faults > 0.0 {
            certain_weather(&world);
        }
        let installation = world.config().github.installation_id;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let server = world.serve(listener).context("cannot serve the simulation")?;
        let folder = TempDir::with_prefix("steadfast-demo-").context("cannot make a folder")?;
        let path = folder.path().to_path_buf();
        std::fs::write(path.join("app-key.pem"), SIMULATION_ONLY_PRIVATE_KEY)?;
        std::fs::write(
            path.join("config.toml"),
            config(args, &server.url(), &path, world.config().github.app_id),
        )?;
        let folder = if args.keep {
            drop(folder.keep());
            None
        } else {
            Some(folder)
        };
        Ok(Stage { world, server, folder, path, installation })
    }

    /// Where the worker runs.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// The worker's configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The jobs, as a producer would write them: one issue each.
    pub fn jobs(&self, count: u64) -> Vec<Value> {
        let made = SystemClock.now();
        let job = |number: u64| {
            let issue = fixture::issue(number)?;
            Some(json!({
                "id": format!("demo-{number:03}"),
                "installationId": self.installation,
                "repoOwner": OWNER,
                "repoName": REPOSITORY,
                "taskType": "autonomous",
                "status": "pending",
                "taskParams": {
                    "issueNumber": number,
                    "issueTitle": issue.title,
                    "issueBody": issue.body,
                },
                "createdAt": made,
            }))
        };
        (1..=count).filter_map(job).collect()
    }

    /// What is going to be seen.
    pub fn words(&self, args: &Args) -> String {
        let limit = |most: u64, what: &str| match most {
            0 => format!("any number of {what}"),
            most => format!("{most} {what} a minute"),
        };
        let kept =
            if self.folder.is_none() { format!("\nfolder: {}", self.path.display()) } else { String::new() };
        format!(
            "{} jobs, {} at once. The simulated OpenAI at {} allows {} and {}; {} % of requests\n\
             go wrong by chance (seed {}), and some by script. Worker, queue, git and HTTP are the real ones.{kept}\n",
            args.jobs,
            args.concurrency,
            self.server.url(),
            limit(args.rpm, "requests"),
            limit(args.tpm, "tokens"),
            args.faults * 100.0,
            args.seed,
        )
    }

    /// What the servers saw.
    pub fn verdict(&self) -> String {
        let records = self.world.records();
        format!(
            "the servers saw: {} model calls answered, {} requests refused by a limit, {} turns paid twice; \
             {} pull requests, {} comments, {} faults",
            records.chats_with(200),
            records
                .rejections
                .iter()
                .filter(|refused| refused.status == 429 || by_limit(&refused.why))
                .count(),
            records.paid_twice(),
            records.pulls.len(),
            records.comments.len(),
            records.faults.len(),
        )
    }

    /// Whether the servers saw no effect twice: at most one pull request a branch.
    pub fn held(&self) -> anyhow::Result<bool> {
        let records = self.world.records();
        let mut heads: Vec<&str> = records.pulls.iter().map(|pull| pull.head.as_str()).collect();
        let all = heads.len();
        heads.sort_unstable();
        heads.dedup();
        if heads.len() < all {
            println!("{} pull requests for {} branches: an effect was repeated", all, heads.len());
        }
        Ok(heads.len() == all)
    }
}

fn world_config(args: &Args) -> WorldConfig {
    let limit = |most: u64| (most > 0).then_some(most);
    let mut world = WorldConfig::new(args.seed, SystemClock.now());
    world.llm = LlmConfig {
        api_key: Some(API_KEY.to_owned()),
        requests_per_minute: limit(args.rpm),
        tokens_per_minute: limit(args.tpm),
        // A burst of two seconds' worth: the worker must pace itself, as with the real one.
        limit_kind: LimitKind::Bucket { holds: Duration::from_secs(2) },
        tell_limits: !args.hide_limits,
        ..LlmConfig::generous()
    };
    world.github = GithubConfig::real();
    world.repositories = vec![Repository { issues: args.jobs, ..Repository::new(OWNER, REPOSITORY) }];
    world.latency = Latency {
        llm_first: Duration::from_millis(150),
        llm_per_token: Duration::from_millis(1),
        github: Duration::from_millis(20),
        git: Duration::from_millis(20),
        jitter: 0.3,
    };
    world.weather = Weather { llm: args.faults, github: args.faults, git: args.faults };
    world
}

/// Whether a refusal with 403 is a limit's.
fn by_limit(why: &str) -> bool {
    why.contains("limit")
}

/// What is met in every demo, whatever the dice say: a refusal with a short wait, one on GitHub's
/// side, and one long enough for jobs to be parked.
fn certain_weather(world: &World) {
    let chat = Target::Operation(Operation::Chat);
    let comment = Target::Operation(Operation::CommentCreate);
    for rule in [
        FaultRule::next(chat, 1, Fault::rate_limited_retry_after(2)).after(3),
        FaultRule::next(comment, 1, Fault::secondary_limit(Some(3))).after(1),
        FaultRule::next(chat, 1, Fault::rate_limited_retry_after(8)).after(20),
    ] {
        world.fault(rule);
    }
}

/// What a first real configuration looks like, with the simulation's addresses.
fn config(args: &Args, url: &str, folder: &Path, app_id: u64) -> String {
    let queue = match &args.redis {
        Some(redis) => format!("url = {redis:?}\nprefix = \"steadfast-demo-{}:\"", std::process::id()),
        None => "url = \"sqlite:queue.db\"".to_owned(),
    };
    let folder = folder.display();
    let concurrency = args.concurrency;
    format!(
        "[queue]\n{queue}\n\n\
         [llm]\nbase_url = \"{url}/v1\"\nmodel = \"simulated\"\napi_key = \"{API_KEY}\"\ntimeout = \"5s\"\n\n\
         [github]\napi_url = \"{url}/api/v3\"\nweb_url = \"{url}\"\napp_id = \"{app_id}\"\n\
         private_key_file = \"{folder}/app-key.pem\"\ntimeout = \"3s\"\n\
         # GitHub asks for a second; the simulation does not mind.\nwrite_spacing = \"100ms\"\n\n\
         [agent]\nworkspaces = \"{folder}/workspaces\"\n\n\
         [job]\nconcurrency = {concurrency}\n\
         # Short, so that parking is to be seen.\npark_after = \"5s\"\n\n\
         [log]\nformat = \"json\"\nlevel = \"info\"\n"
    )
}
