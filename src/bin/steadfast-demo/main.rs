//! `make demo`: the real worker against simulated APIs with real rate limits, told as it happens.
//!
//! Starts the simulated OpenAI and GitHub on loopback, submits jobs with `steadfast submit`, runs
//! `steadfast run` as a child, retells its log, and checks the outcome on both sides.

mod stage;
mod story;
mod worker;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use stage::Stage;
use story::{Story, short};
use worker::{Program, Worker};

/// Longest wait for the worker after SIGTERM: its drain's bound, and a little.
const STOP: Duration = Duration::from_secs(40);

const AFTER_HELP: &str = "\
Examples:
  make demo
  make demo ARGS='--jobs 20 --rpm 120'
  make demo ARGS='--jobs 50 --concurrency 16 --rpm 600 --faults 0.05 --seed 7'
  make demo ARGS='--redis redis://127.0.0.1:6379'

Ends with a table, the line `demo: N of N jobs completed`, and exit code 0 only if that is so.";

/// Steadfast at work: real worker, real git, real HTTP; OpenAI and GitHub are simulated on loopback.
#[derive(Debug, Parser)]
#[command(name = "steadfast-demo", version, about, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Args {
    /// Jobs to be done.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    jobs: u64,
    /// Model requests a minute that the simulated OpenAI allows; 0 = any number.
    #[arg(long, default_value_t = 120)]
    rpm: u64,
    /// Tokens a minute that it allows; 0 = any number.
    #[arg(long, default_value_t = 0)]
    tpm: u64,
    /// Jobs that run at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,
    /// Share of requests that fail by chance: 429, 5xx, resets, hangs; 0 to 1.
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    faults: f64,
    /// The simulated OpenAI does not tell its limits in headers: they must be felt for.
    #[arg(long)]
    hide_limits: bool,
    /// Decides all that is left to chance: the model's ways and the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the queue in this Redis, under a prefix of its own, and not in a SQLite file.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Give up when no job has moved on for so long.
    #[arg(long, default_value = "3m", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print the worker's log as it is, and not the story.
    #[arg(long)]
    raw: bool,
    /// Keep the folder with configuration, queue and workspaces.
    #[arg(long)]
    keep: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not between 0 and 1".to_owned()) }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every job completed.
async fn demo(args: &Args) -> anyhow::Result<bool> {
    let stage = Stage::build(args).await?;
    let program = Program::beside_us(stage.folder(), stage.config())?;
    let jobs = stage.jobs(args.jobs);
    let input: String = jobs.iter().map(|job| format!("{job}\n")).collect();
    let ids: Vec<String> = jobs.iter().filter_map(|job| job["id"].as_str().map(str::to_owned)).collect();

    println!("{}", stage.words(args));
    program.output(&["submit", "-"], &input).await?;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut story = Story::new(ids, color);
    let started = Instant::now();
    let mut worker = program.run()?;
    let outcome = watch(args, &mut story, &mut worker, started).await;
    let took = started.elapsed();
    let drained = match outcome {
        Ok(Watched::AllEnded) => {
            let status = worker.stop(STOP).await?;
            if !status.success() {
                println!("the worker ended with {status} after SIGTERM");
            }
            status.success()
        }
        Ok(Watched::Gone) => {
            let status = worker.ended().await?;
            println!(
                "the worker is gone: {status}; its last warning: {}",
                story.last_warning().unwrap_or("none")
            );
            return Ok(false);
        }
        Ok(Watched::Interrupted) => {
            println!("interrupted: stopping the worker");
            worker.stop(STOP).await?;
            return Ok(false);
        }
        Ok(Watched::Stuck) => {
            println!("no job moved on for {}: giving up", short(args.patience));
            println!("last warning: {}", story.last_warning().unwrap_or("none"));
            worker.stop(STOP).await?;
            return Ok(false);
        }
        Err(error) => {
            worker.stop(STOP).await?;
            return Err(error);
        }
    };
    Ok(conclude(&program, &stage, &story, took).await? && drained)
}

/// How the watching ended.
enum Watched {
    AllEnded,
    Gone,
    Interrupted,
    Stuck,
}

async fn watch(
    args: &Args,
    story: &mut Story,
    worker: &mut Worker,
    started: Instant,
) -> anyhow::Result<Watched> {
    let terminal = std::io::stdout().is_terminal();
    let bar = if terminal { ProgressBar::new(args.jobs) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len} jobs ended, {elapsed}, {msg}")?);
    let mut stop = std::pin::pin!(asked_to_stop()?);
    let mut moved = Instant::now();
    let watched = loop {
        let line = tokio::select! {
            line = worker.line() => line?,
            () = &mut stop => break Watched::Interrupted,
            () = tokio::time::sleep_until(moved + args.patience) => break Watched::Stuck,
        };
        let Some(line) = line else { break Watched::Gone };
        let before = story.progress;
        let told = story.line(started.elapsed(), &line);
        let shown = if args.raw { Some(line) } else { told };
        if let Some(shown) = shown {
            if terminal { bar.println(shown) } else { println!("{shown}") }
        }
        if story.progress > before {
            moved = Instant::now();
        }
        bar.set_position(story.ended() as u64);
        bar.set_message(format!("{} rate limited", story.limited));
        if story.ended() as u64 == args.jobs {
            break Watched::AllEnded;
        }
    };
    bar.finish_and_clear();
    Ok(watched)
}

/// Ends when somebody asks for it: the worker must not outlive the demo.
fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The table, and what both sides say: the queue by `steadfast jobs list`, the servers by their own
/// records.
async fn conclude(program: &Program, stage: &Stage, story: &Story, took: Duration) -> anyhow::Result<bool> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["JOB", "END", "TURNS", "PARKED", "429s", "WAITED", "TOKENS", "PULL REQUEST"]);
    for (_, job) in story.jobs() {
        let (end, reason) = job.end.clone().unwrap_or_default();
        let none_needed = if reason == "no_changes" { "none needed" } else { "" };
        let end = if end == "completed" { end } else { format!("{end}: {reason}") };
        table.add_row([
            job.number.to_string(),
            end,
            job.turns.to_string(),
            job.parks.to_string(),
            job.limited.to_string(),
            short(job.waited),
            job.tokens.to_string(),
            job.url.clone().unwrap_or_else(|| none_needed.to_owned()),
        ]);
    }
    println!("\n{table}");

    let listed =
        program.output(&["jobs", "list", "--json", "--state", "ended", "--most", "1000"], "").await?;
    let mut completed = 0;
    for line in listed.lines() {
        let job: serde_json::Value = serde_json::from_str(line).context("jobs list --json")?;
        let ours = story.jobs().iter().any(|(id, _)| job["id"] == *id);
        completed += usize::from(ours && job["status"]["status"] == "completed");
    }
    println!("{}", stage.verdict());
    let all = story.jobs().len();
    println!("took {}", short(took));
    println!("demo: {completed} of {all} jobs completed");
    Ok(completed == all && stage.held()?)
}
