//! The simulation on its own: any client can be pointed at it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use steadfast_core::time::Timestamp;
use steadfast_sim::{
    Latency, LimitKind, Repository, RetryAfter, SIMULATION_ONLY_PRIVATE_KEY, Weather, World, WorldConfig,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Simulated OpenAI and GitHub, as strict as the real ones, with a git remote.
///
/// Prints one line of JSON when it is ready: the addresses, and what a client needs to know. Serves
/// until it is interrupted. GET /_sim/records tells what happened; POST /_sim/faults makes things
/// go wrong, e.g. {"target":{"operation":"chat"},"times":3,"fault":"hang"}.
#[derive(Parser)]
#[command(name = "steadfast-sim", version)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Decides everything that is left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests a minute of the model server; no limit if absent.
    #[arg(long)]
    rpm: Option<u64>,
    /// Tokens a minute of the model server; no limit if absent.
    #[arg(long)]
    tpm: Option<u64>,
    /// How these limits are enforced.
    #[arg(long, value_enum, default_value_t = Kind::Bucket)]
    limit_kind: Kind,
    /// How much time's worth a bucket holds.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    burst: Duration,
    /// Leave out x-ratelimit-* of the model server.
    #[arg(long)]
    hide_headers: bool,
    /// Leave out retry-after of the model server's refusals.
    #[arg(long, conflicts_with = "retry_after_always")]
    hide_retry_after: bool,
    /// Name this wait in every refusal of the model server, whatever is left of the window.
    #[arg(long, value_parser = humantime::parse_duration)]
    retry_after_always: Option<Duration>,
    /// Refuse max_tokens and any temperature but 1, as newer OpenAI models do.
    #[arg(long)]
    refuse_max_tokens: bool,
    /// Tokens of the model's context.
    #[arg(long, default_value_t = 128_000)]
    context_window: u64,
    /// The model server's key; any is accepted if absent.
    #[arg(long)]
    api_key: Option<String>,
    /// A personal GitHub token to be accepted.
    #[arg(long)]
    token: Option<String>,
    /// Write the App's private key to this new file; it opens nothing but a simulation.
    #[arg(long)]
    app_key_out: Option<PathBuf>,
    /// GitHub requests an hour.
    #[arg(long, default_value_t = 5000)]
    github_per_hour: u64,
    /// GitHub's content-creating requests a minute.
    #[arg(long, default_value_t = 80)]
    github_content_per_minute: u64,
    /// How long a new comment, branch or pull request stays unseen in lists.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    lag: Duration,
    /// Share of all requests that go wrong by chance, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    faults_rate: f64,
    /// A repository to host, as OWNER/NAME; may be given several times.
    #[arg(long = "repository", value_name = "OWNER/NAME", default_value = "acme/shell-tools")]
    repositories: Vec<String>,
    /// Its default branch.
    #[arg(long, default_value = "main")]
    default_branch: String,
    /// Issues of each repository; beyond the fixture's own they repeat.
    #[arg(long)]
    issues: Option<u64>,
    /// Answer as slowly as the real servers do.
    #[arg(long)]
    lifelike: bool,
    /// Time to the model's first token; overrides the one of --lifelike.
    #[arg(long, value_parser = humantime::parse_duration)]
    llm_latency: Option<Duration>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// A token bucket that refills continuously.
    Bucket,
    /// A window of a minute that begins anew.
    Fixed,
    /// No limit.
    None,
}

fn config(args: &Args, start: Timestamp) -> anyhow::Result<WorldConfig> {
    let mut config = WorldConfig::new(args.seed, start);
    config.llm.api_key = args.api_key.clone();
    config.llm.context_window = args.context_window;
    config.llm.requests_per_minute = args.rpm;
    config.llm.tokens_per_minute = args.tpm;
    config.llm.limit_kind = match args.limit_kind {
        Kind::Bucket => LimitKind::Bucket { holds: args.burst },
        Kind::Fixed => LimitKind::Fixed,
        Kind::None => LimitKind::None,
    };
    config.llm.tell_limits = !args.hide_headers;
    config.llm.refuse_max_tokens = args.refuse_max_tokens;
    config.llm.retry_after = match (args.hide_retry_after, args.retry_after_always) {
        (true, _) => RetryAfter::Hidden,
        (false, Some(always)) => RetryAfter::Always(always),
        (false, None) => RetryAfter::True,
    };
    config.github.personal_token = args.token.clone();
    config.github.primary_per_hour = args.github_per_hour;
    config.github.content_per_minute = args.github_content_per_minute;
    config.github.lag = args.lag;
    if !(0.0..=1.0).contains(&args.faults_rate) {
        bail!("--faults-rate is a share from 0 to 1, not {}", args.faults_rate);
    }
    config.weather = Weather { llm: args.faults_rate, github: args.faults_rate, git: args.faults_rate };
    config.latency = if args.lifelike { Latency::lifelike() } else { Latency::none() };
    config.latency.llm_first = args.llm_latency.unwrap_or(config.latency.llm_first);
    config.repositories.clear();
    for full_name in &args.repositories {
        let Some((owner, name)) = full_name.split_once('/') else {
            bail!("--repository {full_name}: expected OWNER/NAME");
        };
        let is_name = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !text.is_empty() && !text.starts_with('.') && text.chars().all(allowed)
        };
        if !is_name(owner) || !is_name(name) {
            bail!("--repository {full_name}: letters, digits, '-', '_' and '.' only");
        }
        let mut repository = Repository::new(owner, name);
        repository.default_branch.clone_from(&args.default_branch);
        repository.issues = args.issues.unwrap_or(repository.issues);
        config.repositories.push(repository);
    }
    Ok(config)
}

/// Wall time at the start. Clients check it against their own, so it must be the machine's.
#[expect(clippy::disallowed_methods, reason = "the one place of this program that reads wall time")]
fn wall_time() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since_epoch.map_or(0, |since| since.as_millis());
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// Writes the key where nothing is yet, readable by its owner only.
fn write_key(path: &std::path::Path) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(SIMULATION_ONLY_PRIVATE_KEY.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let config = config(&args, wall_time())?;
    if let Some(path) = &args.app_key_out {
        write_key(path)?;
    }
    let world = World::new(config)?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let served = world.serve(listener)?;
    let url = served.url();
    let github = &world.config().github;
    let ready = json!({
        "listening": served.addr(),
        "llm_base_url": format!("{url}/v1"),
        "github_api_url": format!("{url}/api/v3"),
        "git_url": url,
        "records_url": format!("{url}/_sim/records"),
        "app_id": github.app_id,
        "installation_id": github.installation_id,
        "app_key_file": args.app_key_out,
        "repositories": args.repositories,
        "seed": args.seed,
    });
    // Before anybody hears that it is ready, and may want it to end.
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for a signal")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for a signal")?;
    println!("{ready}");
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    // In order, so that the world's folder of repositories is removed.
    served.shutdown().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args))
}
