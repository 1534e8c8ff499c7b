//! Where real processes work: a Redis server of their own, the simulated servers on loopback, and the
//! release binary as a child.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use steadfast::clock::SystemClock;
use steadfast::config::load_from;
use steadfast_core::job::Job;
use steadfast_core::time::Clock;
use steadfast_sim::{Repository, ServeHandle, World, WorldConfig, fixture};
use steadfast_store::Store;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// Both open nothing but the simulation.
const API_KEY: &str = "sk-simulated-0123456789abcdef";
const TOKEN: &str = "ghp_simulated0123456789abcdefghijklmnop";
const OWNER: &str = "acme";
const NAME: &str = "shell-tools";
/// Longest wait for a server or a worker to come up; a busy machine takes its time.
const START: Duration = Duration::from_secs(30);
/// Programs that the workers and their queue need, and the packages that have them.
const NEEDS: [(&str, &str); 3] = [("redis-server", "redis-server"), ("bwrap", "bubblewrap"), ("git", "git")];

/// The place. Dropped, everything in it ends.
pub struct Town {
    pub world: Arc<World>,
    pub store: Arc<dyn Store>,
    workers: Vec<Worker>,
    binary: PathBuf,
    config: PathBuf,
    folder: TempDir,
    _server: ServeHandle,
    _redis: Child,
}

/// A worker; killed when it is dropped.
struct Worker {
    child: Child,
    log: PathBuf,
}

/// Says what is missing on this machine, all of it.
pub fn check() -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing: Vec<_> = NEEDS.iter().filter(|(program, _)| !is_there(program)).collect();
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    anyhow::ensure!(
        missing.is_empty(),
        "the real mode needs {}: apt-get install {} (make setup does), or leave it out by --mode simulated",
        programs.join(" and "),
        packages.join(" "),
    );
    binary().map(drop)
}

fn binary() -> anyhow::Result<PathBuf> {
    let ours = std::env::current_exe().context("cannot find out where this program is")?;
    let binary = ours.with_file_name("steadfast");
    anyhow::ensure!(
        binary.is_file(),
        "{} is not there: build it with `cargo build --release --bin steadfast` (make bench-limits does)",
        binary.display()
    );
    Ok(binary)
}

impl Town {
    /// Builds it: `change` makes the servers what they are, `lines` go into the workers' configuration.
    pub async fn build(
        jobs: usize,
        change: impl FnOnce(&mut WorldConfig),
        lines: &[String],
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("steadfast-bench-").context("cannot make a folder")?;
        // Where the jail is level 2 and the worker root, commands are a user who must pass here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open)?;
        let mut world = WorldConfig::new(1, SystemClock.now());
        world.llm.api_key = Some(API_KEY.to_owned());
        world.github.personal_token = Some(TOKEN.to_owned());
        world.repositories = vec![Repository { issues: jobs as u64, ..Repository::new(OWNER, NAME) }];
        change(&mut world);
        let world = World::new(world).context("cannot make the simulated world")?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let server = world.serve(listener).context("cannot serve the simulation")?;
        let (redis, queue) = redis(folder.path()).await?;
        let (url, workspaces) = (server.url(), folder.path().join("workspaces"));
        let mut text = format!(
            "queue.url = {queue:?}\nqueue.lease = \"5s\"\n\
             llm.base_url = \"{url}/v1\"\nllm.model = \"simulated\"\nllm.spacing = \"0s\"\n\
             github.api_url = \"{url}/api/v3\"\ngithub.web_url = \"{url}\"\n\
             agent.workspaces = {workspaces:?}\nlog.format = \"json\"\n"
        );
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        let config = folder.path().join("config.toml");
        std::fs::write(&config, &text)?;
        let loaded =
            load_from(Some((&config, &text)), []).map_err(|problems| anyhow::anyhow!("{problems}"))?.config;
        let store = steadfast_store::open(&loaded.queue, "bench").await?;
        let (workers, binary) = (Vec::new(), binary()?);
        Ok(Town { world, store, workers, binary, config, folder, _server: server, _redis: redis })
    }

    /// Starts a worker.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = self.folder.path().join(format!("worker-{}.log", self.workers.len()));
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).arg("run").current_dir(self.folder.path());
        // The user's own settings and keys are none of the benchmark's business.
        for (name, _) in std::env::vars_os() {
            let theirs = name.to_str().is_some_and(|name| {
                name.starts_with("STEADFAST_") || name.to_ascii_lowercase().ends_with("_proxy")
            });
            if theirs {
                command.env_remove(name);
            }
        }
        command.env("STEADFAST_LLM__API_KEY", API_KEY).env("STEADFAST_GITHUB__TOKEN", TOKEN);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).kill_on_drop(true);
        let child = command.spawn().context("cannot start steadfast run")?;
        self.workers.push(Worker { child, log });
        Ok(())
    }

    /// Waits until every worker is at work.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let all = async {
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            for worker in &self.workers {
                while !std::fs::read_to_string(&worker.log).unwrap_or_default().contains("steadfast runs") {
                    pause.tick().await;
                }
            }
        };
        tokio::time::timeout(START, all)
            .await
            .with_context(|| format!("the workers do not come up within {START:?}: {}", self.last_words()))
    }

    /// kill -9.
    pub async fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let worker = self.workers.get_mut(number).context("there is no such worker")?;
        worker.child.kill().await.context("cannot kill a worker")
    }

    /// The end of each worker's log.
    pub fn last_words(&self) -> String {
        let words = |worker: &Worker| {
            let log = std::fs::read_to_string(&worker.log).unwrap_or_default();
            log.lines().next_back().unwrap_or("nothing said").chars().take(500).collect::<String>()
        };
        self.workers.iter().map(words).collect::<Vec<_>>().join("\n")
    }
}

/// A job about an issue of the fixture.
pub fn job(number: usize) -> anyhow::Result<Job> {
    let issue = number as u64 + 1;
    let known = fixture::issue(issue).context("the fixture has no issues")?;
    let job = json!({
        "id": format!("bench-{number:05}"), "installationId": 0, "repoOwner": OWNER, "repoName": NAME,
        "taskType": "autonomous", "status": "pending", "createdAt": SystemClock.now(),
        "taskParams": { "issueNumber": issue, "issueTitle": known.title, "issueBody": known.body },
    });
    Job::parse(&job.to_string(), 1 << 20).context("a job of the benchmark")
}

/// A Redis server in `folder`, every write on disk at once, and its URL.
async fn redis(folder: &Path) -> anyhow::Result<(Child, String)> {
    let socket = folder.join("redis.sock");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    command.arg("--unixsocket").arg(&socket).arg("--dir").arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut server = command.spawn().context("redis-server cannot be run")?;
    let mut lines = BufReader::new(server.stdout.take().context("redis-server has no output")?).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("eady to accept connections") {
                return Ok(());
            }
        }
        anyhow::bail!("redis-server ended at once")
    };
    tokio::time::timeout(START, ready).await.context("redis-server does not come up")??;
    // Read on, or the server would stall on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((server, format!("redis+unix://{}", socket.display())))
}
