//! Every crash is survived: at each journal write, each transition of the store and each side of each
//! request and push, a worker is killed, and another finishes. The points are found by watching
//! undisturbed jobs and held against the list of all that the code can pass: a point that no play
//! visits fails the suite.
//!
//! The effects besides: lost answers, lists that are behind, and two runners that both believe that
//! they hold the job (`believers.rs`).
//!
//! `STEADFAST_CRASH='does all: append started / before' cargo test --test promises every_crash` plays
//! those whose name holds the text; `STEADFAST_LOG` (as in `log.level`) tells their story.
//! `STEADFAST_CRASH_ALL=1` plays on SQLite and Redis all that is played in memory, which takes half an hour:
//! without it each of them gets a part of the last times, and none of what takes minutes.

mod believers;
mod line;
mod points;
mod scenarios;
mod stage;
mod verdict;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_store::testing::RedisServer;

use crate::support::in_process::paused;
use line::{Blow, What};
use scenarios::Scenario;
use stage::{Place, Stage};
use verdict::{Undisturbed, judge};

/// Plays at the same time. Where time is real most of it is waiting for a lease's end.
const AT_ONCE: usize = 3;
const AT_ONCE_REAL: usize = 6;

/// Where time is real, one of so many points is also played at its last time, on each store others.
const SAMPLE: usize = 4;

/// Whether all is to be played wherever it can be.
fn plays_all() -> bool {
    std::env::var_os("STEADFAST_CRASH_ALL").is_some()
}

/// Whether the last time of the point with this number, of those that are passed more than once, is played.
fn has_its_last_time(number: usize, place: &Place) -> bool {
    let turn = match place {
        Place::Memory => return true,
        Place::Sqlite => 0,
        Place::Redis(_) => 1,
    };
    plays_all() || number % SAMPLE == turn
}

/// Runs a play, where its clock is as the place asks.
fn stage<F: Future<Output = ()> + 'static>(place: &Place, play: F) {
    if !place.is_real() {
        return paused(play);
    }
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    });
    system.block_on(play);
}

fn why(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Does `work` for each of `items`, some at once; what failed, by name.
fn for_each<T: Sync>(
    items: &[T],
    at_once: usize,
    name: impl Fn(&T) -> String + Sync,
    work: impl Fn(&T) + Sync,
) -> Vec<String> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(item))) {
                failed.lock().unwrap().push(format!("{}: {}", name(item), why(&*panic)));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(worker);
        }
    });
    failed.into_inner().unwrap()
}

/// A scenario undisturbed, and how often its first runner passed each point.
struct Recorded {
    scenario: &'static Scenario,
    undisturbed: Undisturbed,
    passed: BTreeMap<String, u32>,
}

fn record(scenario: &'static Scenario, place: &Place) -> Recorded {
    let recorded = Arc::new(Mutex::new(None));
    let (result, at) = (Arc::clone(&recorded), place.clone());
    stage(place, async move {
        let story = Stage::new(&at, scenario.config, |_| {}).await.play(scenario, None).await;
        judge(&story, scenario.ends, None);
        let passed = story.passed.clone();
        *result.lock().unwrap() = Some(Recorded { scenario, undisturbed: Undisturbed::of(&story), passed });
    });
    recorded.lock().unwrap().take().unwrap()
}

struct Play<'a> {
    recorded: &'a Recorded,
    blow: Blow,
    /// How long GitHub's lists are behind.
    lag: Duration,
    config: &'static str,
}

impl Play<'_> {
    fn name(&self) -> String {
        let Play { recorded, blow: Blow { point, nth, what }, lag, .. } = self;
        format!("{}: {what:?} at {point} #{nth}, lag {lag:?}", recorded.scenario.name)
    }

    /// Plays it and judges it.
    fn out(&self, place: &Place) {
        let (scenario, at, lag) = (self.recorded.scenario, place.clone(), self.lag);
        let config = format!("{}\n{}", scenario.config, self.config);
        // What is judged against outlives the play, which its runtime cannot know.
        let story = Arc::new(Mutex::new(None));
        let (result, blow) = (Arc::clone(&story), self.blow.clone());
        stage(place, async move {
            let stage = Stage::new(&at, &config, |world| world.github.lag = lag).await;
            *result.lock().unwrap() = Some(stage.play(scenario, Some(&blow)).await);
        });
        let story = story.lock().unwrap().take().unwrap();
        judge(&story, scenario.ends, Some((&self.recorded.undisturbed, &self.blow)));
    }
}

/// Plays them all, or those that are asked for; a panic names those that fail.
fn play_out(plays: &mut Vec<Play<'_>>, place: &Place) {
    if let Ok(asked) = std::env::var("STEADFAST_CRASH") {
        plays.retain(|play| play.name().contains(&asked));
    }
    let begin = tokio::time::Instant::now();
    let at_once = if place.is_real() { AT_ONCE_REAL } else { AT_ONCE };
    let failed = for_each(plays, at_once, Play::name, |play| play.out(place));
    eprintln!("{} plays on {place:?} in {:.1?}", plays.len(), begin.elapsed());
    assert!(failed.is_empty(), "{} of {} fail:\n{}", failed.len(), plays.len(), failed.join("\n\n"));
}

/// Each point that a scenario passes first, at its first and, where [`has_its_last_time`], its last time;
/// of what is done again and again while time goes by, only the first, where it surely comes.
fn matrix<'a>(recorded: &'a [Recorded], place: &Place) -> Vec<Play<'a>> {
    let (mut plays, mut known, mut repeated) = (Vec::new(), BTreeSet::new(), 0);
    for recorded in recorded {
        for (point, times) in &recorded.passed {
            // Only where it surely comes, however quick the machine.
            let only_in = match point.split(" /").next() {
                Some("renew") => Some(scenarios::WAITS),
                // What was paid for is judged where no call is refused.
                Some("POST chat") => Some(scenarios::ALL[0].name),
                Some("claim_called_off") => Some(scenarios::CALLED_OFF_AWAY),
                _ => None,
            };
            // Nobody waits for a token's end: in real time the job's may be told before it.
            let too_late = place.is_real() && point.starts_with("DELETE revoke_token");
            let elsewhere = only_in.is_some_and(|name| name != recorded.scenario.name);
            if too_late || elsewhere || !known.insert(point.clone()) {
                continue;
            }
            let goes_on = ["claim", "renew /", "purge /"].iter().any(|what| point.starts_with(what));
            let repeats = *times > 1 && !goes_on;
            let last = (repeats && has_its_last_time(repeated, place)).then_some(*times);
            repeated += usize::from(repeats);
            plays.extend(std::iter::once(1).chain(last).map(|nth| {
                let blow = Blow { point: point.clone(), nth, what: What::Kill };
                Play { recorded, blow, lag: Duration::ZERO, config: "" }
            }));
        }
    }
    plays
}

/// Plays the matrix on a store; what was visited.
fn play_all(place: &Place) -> BTreeSet<String> {
    tell_the_story();
    let asked = std::env::var("STEADFAST_CRASH").ok();
    let asked = asked.as_ref().and_then(|asked| asked.split_once(": ")).map(|(scenario, _)| scenario);
    let wanted = |scenario: &&Scenario| {
        (!scenario.is_long || !place.is_real() || plays_all())
            && asked.is_none_or(|name| scenario.name.ends_with(name))
    };
    let scenarios: Vec<_> = scenarios::ALL.iter().filter(wanted).collect();
    let recorded = record_all(&scenarios, place);
    let mut plays = matrix(&recorded, place);
    play_out(&mut plays, place);
    plays.into_iter().map(|play| play.blow.point).collect()
}

fn tell_the_story() {
    let _only_the_first_counts = tracing_subscriber::fmt()
        .with_env_filter(std::env::var("STEADFAST_LOG").unwrap_or_else(|_| "off".to_owned()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

/// In the order of the scenarios.
fn record_all(scenarios: &[&'static Scenario], place: &Place) -> Vec<Recorded> {
    let recorded = Mutex::new(Vec::new());
    let name = |scenario: &&Scenario| format!("{}, undisturbed", scenario.name);
    let at_once = if place.is_real() { AT_ONCE_REAL } else { AT_ONCE };
    let failed = for_each(scenarios, at_once, name, |scenario| {
        let found = record(scenario, place);
        recorded.lock().unwrap().push(found);
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    let mut recorded = recorded.into_inner().unwrap();
    let rank = |of: &Recorded| scenarios.iter().position(|scenario| scenario.name == of.scenario.name);
    recorded.sort_by_key(rank);
    recorded
}

#[test]
fn in_memory_and_no_point_is_left_out() {
    let visited = play_all(&Place::Memory);
    if std::env::var("STEADFAST_CRASH").is_ok() {
        return;
    }
    let unvisited: Vec<_> = points::all().difference(&visited).cloned().collect();
    assert!(unvisited.is_empty(), "no play kills a worker at: {unvisited:#?}");
    let unknown: Vec<_> = visited.difference(&points::all()).cloned().collect();
    assert!(unknown.is_empty(), "passed, though said never to be: {unknown:#?}");
}

#[test]
fn on_sqlite() {
    play_all(&Place::Sqlite);
}

#[test]
fn on_redis() {
    let server = RedisServer::start();
    play_all(&Place::Redis(server.url()));
}
