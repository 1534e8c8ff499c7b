//! Many seeds on all processors: each on a thread with an actor system of its own, each failure told
//! with the line that repeats it and a trace fit to read.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use super::plan::Plan;
use super::play::{play, tell};
use super::verdict;
use crate::support::in_process::paused;
use crate::support::trace::Trace;
use crate::support::witness::Witness;

/// Lines of the trace that are shown where a seed fails.
const SHOWN: usize = 60;

/// What is left of a seed that was played.
pub struct Played {
    pub trace: String,
    /// One line of how it went.
    pub told: String,
    /// What went wrong, and with which job.
    pub wrong: Option<(String, Option<String>)>,
    last: String,
}

/// Where a story leaves what outlives it.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Papers>>);

#[derive(Default)]
struct Papers {
    trace: Option<Arc<Trace>>,
    witness: Option<Arc<Witness>>,
    told: String,
}

impl Desk {
    pub fn put(&self, trace: &Arc<Trace>, witness: &Arc<Witness>) {
        let mut papers = self.0.lock().unwrap();
        (papers.trace, papers.witness) = (Some(Arc::clone(trace)), Some(Arc::clone(witness)));
    }
}

/// Panics that are made on purpose are no news.
fn be_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let on_a_thread_of_ours = std::thread::current().name() == Some("story");
            if !on_a_thread_of_ours {
                before(info);
            }
        }));
    });
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// Plays one seed, on a thread of its own.
pub fn play_one(seed: u64) -> Played {
    be_quiet();
    let story = std::thread::Builder::new().name("story".to_owned());
    story.spawn(move || play_here(seed)).unwrap().join().unwrap()
}

fn play_here(seed: u64) -> Played {
    let desk = Desk::default();
    let at_desk = desk.clone();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        paused(async move {
            let story = play(Plan::from_seed(seed), &at_desk).await;
            verdict::judge(&story).await;
            at_desk.0.lock().unwrap().told = tell(&story);
        });
    }));
    let papers = desk.0.lock().unwrap();
    let accused = papers.witness.as_ref().and_then(|witness| witness.wrong());
    let wrong = match (accused, ended) {
        (Some(wrong), _) => Some((wrong.what, wrong.job)),
        (None, Err(panic)) => Some((words(&*panic), None)),
        (None, Ok(())) => None,
    };
    let job = wrong.as_ref().and_then(|(_, job)| job.clone());
    let trace = papers.trace.as_ref();
    Played {
        trace: trace.map(|trace| trace.whole()).unwrap_or_default(),
        told: papers.told.clone(),
        last: trace.map(|trace| trace.last(SHOWN, job.as_deref())).unwrap_or_default(),
        wrong,
    }
}

/// Tells of a failure: what, how to repeat it, the end of the trace; the whole of it in a file.
fn report(seed: u64, played: &Played, what: &str, job: Option<&str>) {
    let path = std::env::temp_dir().join(format!("steadfast-seed-{seed}.trace"));
    let whole = match std::fs::write(&path, &played.trace) {
        Ok(()) => format!("the whole trace is in {}", path.display()),
        Err(error) => format!("the whole trace could not be kept: {error}"),
    };
    let of = job.map(|job| format!(", of {job}")).unwrap_or_default();
    eprintln!(
        "seed {seed} failed{of}: {what}\n{}... {whole}\nto repeat: STEADFAST_SEED={seed} cargo test --test promises \
         any_weather_ends_well::fixed\n",
        played.last
    );
}

/// Plays all of them, and panics if one failed.
pub fn play_all(seeds: impl Iterator<Item = u64>) {
    be_quiet();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tells = std::env::var_os("STEADFAST_SEED").is_some();
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (next, failed, seeds) = (&next, &failed, &seeds);
            let story = std::thread::Builder::new().name("story".to_owned());
            let playing = story.spawn_scoped(scope, move || {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    let played = play_here(seed);
                    match &played.wrong {
                        Some((what, job)) => {
                            report(seed, &played, what, job.as_deref());
                            failed.lock().unwrap().push(seed);
                        }
                        None if tells => eprintln!("{}", played.told),
                        None => {}
                    }
                }
            });
            playing.unwrap();
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

/// Between two looks at a story.
pub const TICK: Duration = Duration::from_secs(1);
