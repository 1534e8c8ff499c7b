//! A town to test in: a simulated OpenAI and GitHub on loopback, a queue, and workers as processes.

pub mod checkout;
pub mod fleet;
pub mod in_process;
pub mod storm;
mod stormy;
mod stormy_ledger;
pub mod trace;
pub mod witness;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_sim::{Records, ServeHandle, World, WorldConfig, fixture};
use steadfast_store::testing::RedisServer;
use steadfast_store::{Inspection, Settings, State, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The key that the simulated OpenAI takes.
pub const API_KEY: &str = "sk-simulated-0123456789abcdef";
/// The personal token that the simulated GitHub takes.
pub const TOKEN: &str = "ghp_simulated0123456789abcdefghijklmnop";
/// The longest that a test waits for anything: far beyond what a loaded machine needs.
pub const BOUND: Duration = Duration::from_secs(60);

/// Which queue a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Sqlite,
    Redis,
}

/// The town. Dropped, everything in it ends.
pub struct Town {
    pub world: Arc<World>,
    pub server: ServeHandle,
    pub dir: TempDir,
    pub redis: Option<RedisServer>,
    pub store: Arc<dyn Store>,
    queue_url: String,
    extra: String,
    workers: u32,
}

/// A worker process. Dropped, it is killed.
pub struct Worker {
    child: Child,
    pub log: PathBuf,
}

impl Town {
    /// A town with a generous world.
    pub async fn new(queue: Queue) -> Town {
        Town::with(queue, |_| {}, "").await
    }

    /// A town with a world of its own kind, and further lines for the workers' configuration.
    pub async fn with(queue: Queue, change: impl FnOnce(&mut WorldConfig), extra: &str) -> Town {
        let mut config = WorldConfig::new(7, Timestamp::from_secs(1_760_000_000));
        config.llm.api_key = Some(API_KEY.to_owned());
        config.github.personal_token = Some(TOKEN.to_owned());
        change(&mut config);
        let world = tokio::task::spawn_blocking(|| World::new(config)).await.unwrap().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = world.serve(listener).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (redis, queue_url) = match queue {
            Queue::Sqlite => (None, format!("sqlite:{}", dir.path().join("queue.db").display())),
            Queue::Redis => {
                let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
                let url = redis.url();
                (Some(redis), url)
            }
        };
        let settings = Settings { lease: Duration::from_secs(3), ..Settings::for_tests(&queue_url) };
        let store = steadfast_store::open(&settings, "test").await.unwrap();
        Town { world, server, dir, redis, store, queue_url, extra: extra.to_owned(), workers: 0 }
    }

    /// The workers' configuration: the defaults with short waits, so that a test takes seconds.
    pub fn config(&self) -> String {
        let url = self.server.url();
        let workspaces = self.dir.path().join("workspaces");
        let base = format!(
            "queue.url = {queue:?}\nqueue.lease = \"3s\"\nqueue.poll_interval = \"20ms\"\nqueue.response_timeout = \"2s\"\n\
             llm.base_url = \"{url}/v1\"\nllm.model = \"gpt-sim\"\nllm.spacing = \"0s\"\n\
             llm.retry.initial = \"20ms\"\nllm.retry.max = \"2s\"\n\
             github.api_url = \"{url}/api/v3\"\ngithub.web_url = \"{url}\"\ngithub.write_spacing = \"0s\"\n\
             github.shown_after = \"0s\"\n\
             github.token_retry.initial = \"20ms\"\ngithub.token_retry.max = \"2s\"\n\
             github.retry.initial = \"20ms\"\ngithub.retry.max = \"2s\"\n\
             job.retry.initial = \"20ms\"\njob.retry.max = \"500ms\"\njob.park_after = \"2s\"\n\
             breaker.open = \"1s\"\nbreaker.open_max = \"2s\"\n\
             supervisor.drain_timeout = \"20s\"\nmetrics.log_interval = \"10s\"\n\
             agent.workspaces = {workspaces:?}\nlog.format = \"json\"\n",
            queue = self.queue_url,
        );
        // What a test says itself wins.
        let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
        let own: Vec<_> = self.extra.lines().filter_map(key).collect();
        let kept = base.lines().filter(|line| key(line).is_none_or(|key| !own.contains(&key)));
        let kept: Vec<_> = kept.collect();
        format!("{}\n{}\n", kept.join("\n"), self.extra)
    }

    /// Adds lines to the configuration of the workers that are started from here on.
    pub fn extend(&mut self, lines: &str) {
        self.extra.push('\n');
        self.extra.push_str(lines);
    }

    /// Starts a worker with the personal token and the key in its environment.
    pub fn worker(&mut self) -> Worker {
        self.workers += 1;
        let config = self.dir.path().join(format!("worker-{}.toml", self.workers));
        std::fs::write(&config, self.config()).unwrap();
        let log = self.dir.path().join(format!("worker-{}.log", self.workers));
        // What tells the tests how long to play is nothing that a worker knows.
        let ours = std::env::vars_os().map(|(name, _)| name);
        let ours = ours.filter(|name| name.to_string_lossy().starts_with("STEADFAST_"));
        let mut worker = Command::new(env!("CARGO_BIN_EXE_steadfast"));
        for name in ours {
            worker.env_remove(name);
        }
        let child = worker
            .arg("--config")
            .arg(&config)
            .current_dir(self.dir.path())
            .env("STEADFAST_LLM__API_KEY", API_KEY)
            .env("STEADFAST_GITHUB__TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Worker { child, log }
    }

    /// Puts a job for one of the fixture's issues into the queue.
    pub async fn submit(&self, id: &str, issue: u64) {
        self.store.submit(&job(id, issue)).await.unwrap();
    }

    /// Waits until the job is in `state`.
    pub async fn wait_for(&self, id: &str, state: State) -> Inspection {
        self.wait_for_within(BOUND, id, state).await
    }

    /// The same where servers may ask for waits of their own.
    pub async fn wait_for_within(&self, bound: Duration, id: &str, state: State) -> Inspection {
        let id = JobId::new(id).unwrap();
        let found = eventually_within(bound, &format!("{id} to be {state:?}"), async || {
            let found = self.store.inspect(&id).await.ok().flatten();
            found.filter(|found| found.state == state)
        })
        .await;
        match found {
            Some(found) => found,
            None => {
                let now = self.store.inspect(&id).await;
                panic!("{id} was never {state:?}, it is {now:?}\n{}", self.logs());
            }
        }
    }

    /// Waits for the job's end and takes the `result` apart.
    pub async fn end_of(&self, id: &str) -> (String, Value) {
        let ended = self.wait_for(id, State::Ended).await;
        let field =
            |name: &str| ended.status.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let result = field("result").map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
        (field("status").unwrap_or_default(), result)
    }

    /// Waits for the job's end, which must be a completed one.
    pub async fn completed(&self, id: &str) -> Value {
        let (status, result) = self.end_of(id).await;
        assert_eq!(status, "completed", "{result}\n{}", self.logs());
        result
    }

    /// What happened in the world.
    pub async fn records(&self) -> Records {
        let world = Arc::clone(&self.world);
        tokio::task::spawn_blocking(move || world.records()).await.unwrap()
    }

    /// All workers' logs.
    pub fn logs(&self) -> String {
        let logs = (1..=self.workers).map(|n| read(&self.dir.path().join(format!("worker-{n}.log"))));
        let story = |log: String| {
            log.lines().filter(|line| !line.contains("\"mailbox\"")).collect::<Vec<_>>().join("\n")
        };
        logs.map(story).collect::<Vec<_>>().join("\n--- next worker ---\n")
    }

    /// Each job has exactly one branch and one pull request, at most one progress comment, no effect
    /// twice, and nothing was paid twice.
    pub async fn assert_each_effect_once(&self, jobs: usize) {
        let records = self.records().await;
        assert_eq!(records.pulls.len(), jobs, "{:#?}", records.pulls);
        assert_eq!(records.branches.len(), jobs, "{:#?}", records.branches);
        let mut markers: Vec<_> = records.comments.iter().map(|c| c.body.rsplit("<!--").next()).collect();
        let all = markers.len();
        markers.sort_unstable();
        markers.dedup();
        assert_eq!(markers.len(), all, "a comment stands twice: {:#?}", records.comments);
        assert_eq!(records.paid_twice(), 0, "a model turn was paid twice");
    }
}

impl Worker {
    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let child = &mut self.child;
        let ended = eventually("the worker to end", async || child.try_wait().unwrap()).await;
        ended.unwrap_or_else(|| panic!("the worker does not end\n{}", read(&log)))
    }

    /// The log's lines with this message.
    pub fn said(&self, message: &str) -> Vec<Value> {
        let lines = read(&self.log);
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"].as_str().is_some_and(|said| said.starts_with(message))).collect()
    }

    /// Waits until it says so at least `times`.
    pub async fn says(&self, message: &str, times: usize) -> Vec<Value> {
        let said = eventually(message, async || {
            let said = self.said(message);
            (said.len() >= times).then_some(said)
        })
        .await;
        said.unwrap_or_else(|| panic!("it never said {message:?}\n{}", read(&self.log)))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks again and again until there is an answer; `None` when the bound is reached.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    eventually_within(BOUND, what, ask).await
}

/// The same with a bound of its own.
async fn eventually_within<T>(
    bound: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let asking = async {
        loop {
            pause.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(bound, asking).await {
        Ok(answer) => Some(answer),
        Err(_) => {
            eprintln!("waited in vain for {what}");
            None
        }
    }
}

/// A job for one of the fixture's issues, by personal token.
pub fn job(id: &str, issue: u64) -> Job {
    let known = fixture::issue(issue).unwrap();
    let json = serde_json::json!({
        "id": id, "installationId": 0, "repoOwner": "acme", "repoName": "shell-tools",
        "taskType": "bug_fix", "status": "pending", "createdAt": "2025-10-09T00:00:00.000Z",
        "taskParams": {"issueNumber": issue, "issueTitle": known.title, "issueBody": known.body},
    });
    Job::parse(&json.to_string(), 1 << 20).unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
