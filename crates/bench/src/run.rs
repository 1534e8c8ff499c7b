//! One run of a row under a policy, in paused time, and what is measured of it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use steadfast::config::{Config, load_from};
use steadfast_actors::callers::Callers;
use steadfast_actors::{Dice, alone};
use steadfast_core::job::Job;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_llm::{Endpoint, LlmClient};
use steadfast_store::memory::MemoryStore;
use steadfast_store::{Ledger, Store};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::counted::Counted;
use crate::naive::{Crowd, Naive};
use crate::process::{Book, Places, Process, drive};
use crate::remote::{Line, Remote};
use crate::rows::Row;
use crate::world::{self, Random};

/// No run goes on for longer, in simulated time.
const DEADLINE: Duration = Duration::from_secs(45_000);

/// Who sends the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The real actors.
    Ours,
    /// A client that retries.
    Naive(Naive),
    /// One that sees the server's state.
    Pacer,
}

impl Policy {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Ours => "steadfast",
            Policy::Naive(Naive::Seed) => "seed",
            Policy::Naive(Naive::Sdk) => "sdk",
            Policy::Pacer => "pacer",
        }
    }
}

/// The least time for a row, and what a clairvoyant pacer makes of it.
#[derive(Clone, Debug)]
pub struct Least {
    /// Seconds.
    pub bound: f64,
    /// Whether it is the pacer's time, since the arithmetic is loose there.
    pub by_pacer: bool,
    /// The pacer's mean completion.
    pub mean_completion: f64,
    pub pacer: world::Run,
}

impl Least {
    /// Of the row.
    pub fn of(row: &Row) -> Self {
        let arithmetic = world::bound(&row.scenario, row.seed);
        let pacer = world::run(&row.scenario, world::Policy::Pacer, row.seed);
        let by_pacer = pacer.makespan > arithmetic * 1.01;
        let bound = if by_pacer { pacer.makespan } else { arithmetic } + row.lost;
        Least { bound, by_pacer, mean_completion: pacer.mean_completion + row.lost, pacer }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub done: usize,
    pub failed: usize,
    pub makespan: f64,
    pub mean_completion: f64,
    pub sent: usize,
    pub rejected: usize,
    pub wasted: usize,
    pub in_trouble: usize,
    pub trace: Vec<(f64, bool)>,
    /// Round trips to the ledger.
    pub trips: Option<u64>,
}

impl Measured {
    fn of_pacer(run: &world::Run, lost: f64) -> Self {
        Measured {
            done: run.done,
            failed: run.failed,
            makespan: run.makespan + lost,
            mean_completion: run.mean_completion + lost,
            sent: run.sent,
            rejected: run.rejected,
            wasted: run.wasted,
            in_trouble: 0,
            trace: run.trace.clone(),
            trips: None,
        }
    }

    /// The share of requests that were refused for the rate, those in an outage apart.
    pub fn share_429(&self) -> f64 {
        self.rejected as f64 / self.sent.max(1) as f64
    }
}

/// Wall time that follows the paused clock.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_760_000_000) + self.0.elapsed()
    }
}

/// Runs `row` under `policy`.
pub fn measure(row: &Row, policy: Policy, least: &Least) -> anyhow::Result<Measured> {
    let naive = match policy {
        Policy::Pacer => return Ok(Measured::of_pacer(&least.pacer, row.lost)),
        Policy::Ours => None,
        Policy::Naive(naive) => Some(naive),
    };
    in_paused_time(async {
        match naive {
            None => ours(row).await,
            Some(naive) => others(row, naive).await,
        }
    })
}

/// Runs actors with a clock that stands still until all wait for it.
pub fn in_paused_time(run: impl Future<Output = anyhow::Result<Measured>>) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let runtime = std::cell::RefCell::new(Some(runtime));
    let system = actix::System::with_tokio_rt(|| {
        // Asked for once; a second time it would be a runtime of the usual kind.
        runtime.borrow_mut().take().unwrap_or_else(spare_runtime)
    });
    system.block_on(run)
}

#[expect(clippy::expect_used, reason = "a process that cannot have a runtime cannot go on")]
fn spare_runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().expect("a runtime")
}

/// The defaults, with the limits that the row's configuration tells. Calls are spaced by the limit
/// alone: what is measured is the pace, not the politeness.
fn config(row: &Row) -> anyhow::Result<Config> {
    let mut config = load_from(None, []).map_err(|problems| anyhow::anyhow!("{problems}"))?.config;
    config.actors.llm_limits = row.scenario.settings.clone();
    config.actors.llm_spacing = Duration::ZERO;
    Ok(config)
}

fn client(
    config: &Config,
    remote: &Arc<Remote>,
    cut: &CancellationToken,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<LlmClient> {
    let endpoint = Endpoint::new(&config.llm.base_url, "simulated".to_owned().into())?;
    let line = Line::transport(Arc::clone(remote), cut.clone());
    Ok(LlmClient::new(endpoint, config.llm.clone(), line, Arc::clone(clock)))
}

fn job(number: usize) -> anyhow::Result<Job> {
    let text = format!(
        r#"{{"id":"{number}","installationId":0,"repoOwner":"acme","repoName":"tools","taskType":"autonomous",
        "status":"pending","taskParams":{{}},"createdAt":"2026-01-01T00:00:00Z"}}"#
    );
    Job::parse(&text, 10_000).context("a job of the benchmark")
}

/// Others on the same key, two fifths and three fifths of it in turn.
fn strangers(row: &Row, remote: &Arc<Remote>, tasks: &mut JoinSet<()>) {
    let (every, rpm) = (row.scenario.strangers, row.scenario.rpm);
    if every <= 0.0 {
        return;
    }
    let (remote, mut random) = (Arc::clone(remote), Random(row.seed ^ 0x57a6));
    tasks.spawn_local(async move {
        loop {
            remote.seize();
            let more = (remote.now() / every) as u64 % 2 == 1;
            let gap = 60.0 / (rpm * if more { 0.6 } else { 0.4 });
            tokio::time::sleep(Duration::from_secs_f64(gap * (0.5 + random.unit()))).await;
        }
    });
}

async fn ours(row: &Row) -> anyhow::Result<Measured> {
    let config = config(row)?;
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
    let first = MemoryStore::new(&config.queue, clock.now(), "process-0");
    for number in 0..row.scenario.jobs {
        first.submit(&job(number)?).await?;
        // Each has its own place in the order.
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let trips = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let remote = Remote::new(&row.scenario, row.trouble, row.seed);
    let book = Rc::new(Book::default());
    let mut tasks = JoinSet::new();
    strangers(row, &remote, &mut tasks);
    let places = Places::new(row.scenario.at_once, row.fleet);
    for number in 0..row.fleet.processes() {
        let (cut, leave) = (CancellationToken::new(), CancellationToken::new());
        let mut settings = config.actors.clone();
        settings.job.concurrency = u32::try_from(row.scenario.at_once)?;
        let client = client(&config, &remote, &cut, &clock)?;
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let joins = at(row.fleet.joins(number));
        let (killed, leaves) = (row.fleet.killed(number).map(at), row.fleet.leaves(number).map(at));
        let store = first.for_runner(&config.queue, &format!("process-{number}"));
        let (remote, book, clock) = (Arc::clone(&remote), Rc::clone(&book), Arc::clone(&clock));
        let (calls, places) = (row.scenario.calls, places.clone());
        let ledger: Arc<dyn Ledger> = Arc::new(Counted { ledger: store.ledger(), trips: Arc::clone(&trips) });
        let dice = Dice::seeded(row.seed << 16 | number as u64);
        tasks.spawn_local(async move {
            sleep_until(joins).await;
            let me = format!("process-{number}#1");
            let process = alone::Process { me, ledger, clock, dice };
            let callers = Callers::start(&settings, client, process);
            let store: Arc<dyn Store> = Arc::new(store);
            let process =
                Process { places, callers, settings, store, remote, book, calls, leave: leave.clone() };
            tokio::select! {
                biased;
                () = reached(killed) => cut.cancel(),
                () = async {
                    reached(leaves).await;
                    leave.cancel();
                    std::future::pending().await
                } => {}
                () = drive(process) => {}
            }
        });
    }
    let measured = finish(row, &remote, &book, tasks).await;
    Ok(Measured { trips: Some(trips.load(Ordering::Relaxed)), ..measured })
}

/// Waits until then; for ever if there is no such time.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn others(row: &Row, naive: Naive) -> anyhow::Result<Measured> {
    let config = config(row)?;
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
    let remote = Remote::new(&row.scenario, row.trouble, row.seed);
    let book = Rc::new(Book::default());
    let client = client(&config, &remote, &CancellationToken::new(), &clock)?;
    let calls = row.scenario.calls;
    let crowd = Crowd { naive, client, clock, remote: Arc::clone(&remote), book: Rc::clone(&book), calls };
    let crowd = Rc::new(crowd);
    let mut tasks = JoinSet::new();
    strangers(row, &remote, &mut tasks);
    let (at_once, jobs) = (row.scenario.at_once, row.scenario.jobs);
    for first in 0..at_once {
        let crowd = Rc::clone(&crowd);
        tasks.spawn_local(async move { crowd.work(first, at_once, jobs).await });
    }
    Ok(finish(row, &remote, &book, tasks).await)
}

async fn finish(row: &Row, remote: &Remote, book: &Book, mut tasks: JoinSet<()>) -> Measured {
    let jobs = row.scenario.jobs;
    // A run that does not end has failed with what is open.
    let _in_time = tokio::time::timeout(DEADLINE, book.all(jobs)).await;
    tasks.abort_all();
    let (ends, tally) = (book.ends(), remote.tally());
    Measured {
        done: ends.done,
        failed: jobs - ends.done,
        makespan: if ends.done + ends.failed < jobs { DEADLINE.as_secs_f64() } else { ends.last },
        mean_completion: ends.sum / ends.done.max(1) as f64,
        sent: tally.sent,
        rejected: tally.rejected,
        wasted: tally.wasted,
        in_trouble: tally.in_trouble,
        trace: tally.trace,
        trips: None,
    }
}
