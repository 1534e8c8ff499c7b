//! Whatever the weather: a seed decides how the providers limit and fail, when the store is away,
//! which runner stands still, dies or drains, and which job is called off. Once it is quiet again,
//! every job ends, once, with each effect once and no turn of the model paid twice without cause.
//!
//! `STEADFAST_SEED=n cargo test --test promises any_weather` plays one seed, `n..m` a range; the log
//! of `STEADFAST_LOG` (as in `log.level`) tells its story.

mod plan;
mod verdict;

use std::time::Duration;

use steadfast_core::job::{Job, JobId};
use steadfast_store::{Inspection, State, Store};
use tokio::time::Instant;

use crate::support::fleet::Fleet;
use crate::support::in_process::paused;
use crate::support::job;
use plan::{Happening, Plan};

/// Seeds that every run of the tests plays.
const SEEDS: std::ops::Range<u64> = 0..12;
/// Everything has ended this long after the weather did. The longest waits are a quota's and a
/// primary limit's, several of them in a row.
const QUIET_BOUND: Duration = Duration::from_secs(6 * 3600);
const TICK: Duration = Duration::from_secs(1);

/// What came of a seed.
struct Story {
    fleet: Fleet,
    jobs: Vec<Job>,
    ended: Vec<Inspection>,
    /// What may have cost a job a crash, or an answer on its way into the journal.
    incidents: u32,
    cancelled: Vec<String>,
}

fn the_job(id: &str, issue: u64, installation: u64) -> Job {
    let mut job = job(id, issue);
    job.installation_id = installation;
    job
}

/// Plays one seed to its end, or panics with what is wrong.
async fn play(plan: Plan) -> Story {
    let Plan { world, .. } = plan.clone();
    let mut fleet = Fleet::new(plan.seed, |config| world.apply(config), &plan.config).await;
    for rule in &plan.faults {
        fleet.world.fault(rule.clone());
    }
    fleet.world.set_weather(plan.weather);
    let begin = Instant::now();
    let (mut incidents, mut cancelled, mut jobs) = (0, Vec::new(), Vec::new());
    let mut happenings = plan.happenings.clone();
    happenings.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut panics = plan.panics;
    for _ in 0..plan.runners {
        fleet.start(plan.rates, std::mem::take(&mut panics));
    }
    let mut replacement: Option<Instant> = None;
    while begin.elapsed() < plan.quiet_at {
        while happenings.last().is_some_and(|(at, _)| *at <= begin.elapsed()) {
            let Some((_, happening)) = happenings.pop() else { break };
            tracing::info!(?happening, "the test");
            let count = fleet.living().count().max(1);
            let line = |which: usize| fleet.living().nth(which % count).map(|runner| runner.line.clone());
            match happening {
                Happening::Submit { id, issue } => {
                    let job = the_job(&id, issue, plan.installation);
                    fleet.store.submit(&job).await.unwrap();
                    jobs.push(job);
                }
                Happening::Cancel { id } => {
                    fleet.store.cancel(&JobId::new(&*id).unwrap()).await.unwrap();
                    cancelled.push(id);
                }
                Happening::LoseStore { runner, wait } => {
                    incidents += u32::from(wait > fleet.config.queue.lease / 3);
                    line(runner).iter().for_each(|line| line.lose_store(wait));
                }
                Happening::Freeze { runner, wait } => {
                    incidents += u32::from(wait > fleet.config.queue.lease / 3);
                    line(runner).iter().for_each(|line| line.freeze(wait));
                }
                Happening::Die { runner, death } => line(runner).iter().for_each(|line| line.doom(death)),
                Happening::Drain { runner } => {
                    let count = fleet.living().count().max(1);
                    if let Some(runner) = fleet.living().nth(runner % count) {
                        let began = Instant::now();
                        runner.running.drain().await;
                        // What a drain does not wait for is cut off, as by a crash.
                        let patience = fleet.config.actors.supervisor.drain_timeout;
                        let took = began.elapsed();
                        assert!(took <= 2 * patience + 3 * TICK, "a drain took {took:?}");
                        incidents += u32::from(took >= patience);
                        runner.line.cut();
                    }
                }
            }
        }
        // For each that is gone another comes, some time later.
        if fleet.living().count() < plan.runners {
            let due = *replacement.get_or_insert(Instant::now() + plan.replaced_after);
            if due <= Instant::now() {
                replacement = None;
                fleet.start(plan.rates, 0);
            }
        }
        tokio::time::sleep(TICK).await;
    }
    tracing::info!("the test: quiet");
    fleet.world.clear_faults();
    fleet.runners.iter().for_each(|runner| runner.line.clear());
    if fleet.living().next().is_none() {
        fleet.start(Default::default(), 0);
    }
    let quiet = Instant::now();
    let mut ended = Vec::new();
    for job in &jobs {
        loop {
            let found = fleet.store.inspect(&job.id).await.unwrap().unwrap();
            if found.state == State::Ended {
                ended.push(found);
                break;
            }
            assert!(quiet.elapsed() < QUIET_BOUND, "{} does not end: {found:#?}", job.id);
            tokio::time::sleep(TICK).await;
        }
    }
    // What wakes up late finds its lease gone, and changes nothing.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    {
        let ledger = fleet.ledger.lock().unwrap();
        incidents += ledger.deaths + ledger.panics;
    }
    Story { fleet, jobs, ended, incidents, cancelled }
}

/// Plays a seed and judges it; on a failure says how to repeat it.
fn seed(seed: u64) {
    let plan = Plan::from_seed(seed);
    let shown = plan.clone();
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        paused(async move {
            let story = play(plan).await;
            verdict::judge(&story).await;
        });
    }));
    if let Err(why) = played {
        eprintln!("{shown:#?}");
        eprintln!("to repeat: STEADFAST_SEED={seed} cargo test --test promises any_weather_ends_well");
        std::panic::resume_unwind(why);
    }
}

#[test]
fn fixed_seeds_end_well() {
    let Ok(asked) = std::env::var("STEADFAST_SEED") else { return SEEDS.for_each(seed) };
    let _only_the_first_counts = tracing_subscriber::fmt()
        .with_env_filter(std::env::var("STEADFAST_LOG").unwrap_or_else(|_| "off".to_owned()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    let (from, to) = asked.split_once("..").unwrap_or((&asked, ""));
    let from: u64 = from.parse().unwrap();
    let to = if to.is_empty() { from + 1 } else { to.parse().unwrap() };
    let failed: Vec<u64> = (from..to).filter(|n| std::panic::catch_unwind(|| seed(*n)).is_err()).collect();
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
