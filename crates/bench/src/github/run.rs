//! One run of a GitHub row: each process's actors, the jobs that call them, and what GitHub counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use steadfast::config::{Config, load_from};
use steadfast_actors::calls::CallError;
use steadfast_actors::github::Look;
use steadfast_actors::github_callers::GithubCallers;
use steadfast_actors::{Dice, alone};
use steadfast_core::time::{Clock, Timestamp};
use steadfast_github::{Credentials, GithubClient, Repo};
use steadfast_sim::{GitForm, Operation, Push, Records, Repository, World, WorldConfig};
use steadfast_store::memory::MemoryStore;
use steadfast_store::{Ledger, Store};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::GithubRow;
use super::bound::{Plan, Rules};
use crate::run::{Measured, in_paused_time};

/// No run goes on for longer, in simulated time.
const DEADLINE: Duration = Duration::from_secs(45_000);
const OWNER: &str = "acme";
const NAME: &str = "shell-tools";
/// Opens nothing but the simulation.
const TOKEN: &str = "ghp_simulated0123456789abcdefghijklmnop";
/// Runs without progress before a job is given up.
const ATTEMPTS: u32 = 5;
/// Writes that GitHub takes for a burst: more within as many seconds, where it asks for one a second.
const BURST: u64 = 10;

/// Runs `row` with the real actors.
pub fn measure(row: &GithubRow) -> anyhow::Result<Measured> {
    in_paused_time(run(row))
}

fn world(row: &GithubRow) -> anyhow::Result<Arc<World>> {
    let Rules { read, write: _, gap, content: _, points: _, hourly: _ } = row.rules;
    let mut config = WorldConfig::new(row.seed, Timestamp::from_secs(1_760_000_000));
    config.git = GitForm::Memory;
    config.github.personal_token = Some(TOKEN.to_owned());
    // The server's own limits are those of the rules: what GitHub documents.
    config.github.write_burst = Some((BURST, Duration::from_secs_f64(BURST as f64 * gap)));
    config.github.secondary_lasts = Duration::from_secs(60);
    config.latency.github = Duration::from_secs_f64(read);
    config.repositories = vec![Repository { issues: row.jobs as u64, ..Repository::new(OWNER, NAME) }];
    World::new(config).context("cannot make the simulated world")
}

/// How the jobs ended.
#[derive(Default)]
struct Ends {
    done: usize,
    last: f64,
    sum: f64,
}

/// What the jobs of all processes have in common.
struct Stage {
    world: Arc<World>,
    clock: Arc<dyn Clock>,
    plan: Plan,
    begin: Instant,
    ends: RefCell<Ends>,
}

/// One job's way, kept while it is parked.
#[derive(Default)]
struct Progress {
    described: bool,
    comment: Option<u64>,
    pushed: bool,
    pull: bool,
}

async fn run(row: &GithubRow) -> anyhow::Result<Measured> {
    let world = world(row)?;
    let mut config = load_from(None, []).map_err(|problems| anyhow::anyhow!("{problems}"))?.config;
    config.github.write_spacing = Duration::from_secs_f64(row.rules.gap * row.spacing);
    let clock = world.clock();
    let store = MemoryStore::new(&config.queue, clock.now(), "process-0");
    let stage = Rc::new(Stage {
        clock: Arc::clone(&clock),
        plan: row.plan(),
        begin: Instant::now(),
        ends: RefCell::default(),
        world,
    });
    let mut callers = Vec::new();
    let mut jobs = JoinSet::new();
    for process in 0..row.processes {
        let ledger = store.for_runner(&config.queue, &format!("process-{process}")).ledger();
        let ours = Rc::new(process_of(&config, &stage, ledger, process, row.seed)?);
        // The places are shared out; each process takes its jobs in their order.
        let places = row.at_once / row.processes + usize::from(process < row.at_once % row.processes);
        let places = Rc::new(Semaphore::new(places));
        for number in (process..row.jobs).step_by(row.processes) {
            let (stage, ours, places) = (Rc::clone(&stage), Rc::clone(&ours), Rc::clone(&places));
            jobs.spawn_local(async move { job(&stage, &ours, &places, number).await });
        }
        callers.push(ours);
    }
    let all = async { while jobs.join_next().await.is_some() {} };
    // A run that does not end has failed with what is open.
    let in_time = tokio::time::timeout(DEADLINE, all).await.is_ok();
    jobs.abort_all();
    let ends = stage.ends.borrow();
    let mut measured = of_records(&stage.world.records());
    measured.done = ends.done;
    measured.failed = row.jobs - ends.done;
    measured.makespan = if in_time { ends.last } else { DEADLINE.as_secs_f64() };
    measured.mean_completion = ends.sum / ends.done.max(1) as f64;
    Ok(measured)
}

fn process_of(
    config: &Config,
    stage: &Stage,
    ledger: Arc<dyn Ledger>,
    process: usize,
    seed: u64,
) -> anyhow::Result<GithubCallers> {
    let secret = SecretString::from(TOKEN);
    let credentials = Credentials { private_key: None, personal_token: Some(secret) };
    let (transport, clock) = (stage.world.transport(), Arc::clone(&stage.clock));
    let client = GithubClient::new(config.github.clone(), credentials, transport, Arc::clone(&clock))?;
    let me = format!("process-{process}#1");
    let dice = Dice::seeded(seed << 16 | process as u64);
    let callers = GithubCallers::start(&config.actors, client, alone::Process { me, ledger, clock, dice });
    callers.leased_until(Instant::now() + DEADLINE * 2);
    Ok(callers)
}

/// A job to its end, through parks and runs that fail.
async fn job(stage: &Stage, callers: &GithubCallers, places: &Semaphore, number: usize) {
    let admitted = stage.world.config().start + Duration::from_millis(number as u64);
    let mut progress = Progress::default();
    let mut attempts = 0;
    while attempts < ATTEMPTS {
        let Ok(place) = places.acquire().await else { return };
        let ended = steps(stage, callers, number, admitted, &mut progress).await;
        drop(place);
        match ended {
            Ok(()) => {
                let now = stage.begin.elapsed().as_secs_f64();
                let mut ends = stage.ends.borrow_mut();
                ends.done += 1;
                ends.sum += now;
                ends.last = ends.last.max(now);
                return;
            }
            Err(CallError::Park { until, .. }) => tokio::time::sleep(until.since(stage.clock.now())).await,
            Err(error @ (CallError::Exhausted { .. } | CallError::ActorDied(_))) => {
                eprintln!("job {number}: {error}");
                attempts += 1;
                tokio::time::sleep(Duration::from_secs(1 << attempts)).await;
            }
            Err(error @ (CallError::Fatal(_) | CallError::Stopped)) => {
                eprintln!("job {number}: {error}");
                return;
            }
        }
    }
}

/// What a run asks of GitHub, from where the one before came to.
async fn steps(
    stage: &Stage,
    callers: &GithubCallers,
    number: usize,
    admitted: Timestamp,
    progress: &mut Progress,
) -> Result<(), CallError> {
    let target = || {
        let repo = Repo { owner: OWNER.to_owned(), name: NAME.to_owned() };
        callers.target(repo, 0, admitted)
    };
    if !progress.described {
        callers.describe(target()).await?;
        progress.described = true;
    }
    let marker = format!("<!-- job {number} -->");
    let id = match progress.comment {
        Some(id) => id,
        None => {
            let body = format!("Working on it. {marker}");
            let comment = callers.comment(target(), number as u64 + 1, marker.clone(), body).await?;
            progress.comment = Some(comment.id);
            let work = stage.plan.work.get(number).copied().unwrap_or(0.0);
            tokio::time::sleep(Duration::from_secs_f64(work)).await;
            comment.id
        }
    };
    let branch = format!("job-{number}");
    if !progress.pushed {
        push(stage, &branch).await;
        progress.pushed = true;
    }
    if !progress.pull {
        let words = (format!("Job {number}"), format!("Done. <!-- pull {number} -->"));
        callers.pull(target(), (branch, "main".to_owned()), words, Look::No).await?;
        progress.pull = true;
    }
    callers.edit(target(), id, format!("Done. {marker}")).await
}

/// Git is another door: it is not measured here.
async fn push(stage: &Stage, branch: &str) {
    let token = SecretString::from(TOKEN);
    let token = token.expose_secret();
    let main = stage.world.git_fetch(OWNER, NAME, "refs/heads/main", token).await;
    let Ok(main) = main else { return };
    let files = BTreeMap::from([("README.md".to_owned(), branch.to_owned())]);
    let author = ("bench", "bench@example.invalid");
    let push = Push { branch, expected: None, parent: &main.sha, files, author, message: branch };
    if let Err(error) = stage.world.git_push(OWNER, NAME, push, token).await {
        eprintln!("{branch}: {error}");
    }
}

fn is_rest(operation: Operation) -> bool {
    !matches!(operation, Operation::Chat | Operation::Models | Operation::GitFetch | Operation::GitPush)
}

fn sum(counts: &BTreeMap<Operation, u64>, which: impl Fn(Operation) -> bool) -> usize {
    let ours = counts.iter().filter(|(operation, _)| which(**operation));
    ours.map(|(_, count)| usize::try_from(*count).unwrap_or(usize::MAX)).sum()
}

/// Writes that GitHub took, pushes apart.
pub fn writes(records: &Records) -> usize {
    let is_write = |operation: Operation| is_rest(operation) && operation.is_write();
    sum(&records.requests, is_write) - sum(&records.limited, is_write)
}

/// What GitHub counted: requests, refusals by any limit, effects that stand more than once by their marks.
pub fn of_records(records: &Records) -> Measured {
    let texts = records.comments.iter().map(|comment| &comment.body);
    let texts = texts.chain(records.pulls.iter().map(|pull| &pull.body));
    let marks = |text: &'_ String| text.rsplit_once("<!--").map(|(_, mark)| mark.to_owned());
    let mut comments: Vec<String> = texts.filter_map(marks).collect();
    let all = comments.len();
    comments.sort_unstable();
    comments.dedup();
    Measured {
        sent: sum(&records.requests, is_rest),
        rejected: sum(&records.limited, is_rest),
        wasted: all - comments.len(),
        ..Measured::default()
    }
}
