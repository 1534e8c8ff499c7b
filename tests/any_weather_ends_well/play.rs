//! Plays one seed: the fleet, what is done to it and when, and the wait until all is over.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use steadfast_core::job::{Job, JobId};
use steadfast_store::{Inspection, Retried, RetryFrom, State, Store, Whom};
use tokio::time::Instant;

use super::plan::{Happening, Plan};
use super::sweep::{Desk, TICK};
use crate::support::fleet::{Fleet, Runner};
use crate::support::in_process::field;
use crate::support::job;

/// Everything has ended this long after the weather did. The longest waits are a quota's and a
/// primary limit's, several of them in a row.
const QUIET_BOUND: Duration = Duration::from_secs(6 * 3600);
/// By then no gate is closed any more for what the weather did.
const GATES_OPEN: Duration = Duration::from_secs(75 * 60);
/// The longest that a job that could run then waits for a free runner: a small limit is used up by
/// others for some minutes.
const CLAIMED_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Longer than anything that is still on its way.
const AFTERMATH: Duration = Duration::from_secs(300);

/// What came of a seed.
pub struct Story {
    pub fleet: Fleet,
    pub jobs: Vec<Job>,
    pub ended: Vec<Inspection>,
    /// What may have cost a job a crash, or an answer on its way into the journal.
    pub incidents: u32,
    pub cancelled: Vec<String>,
    pub retried: BTreeSet<String>,
    pauses: Vec<(Instant, Whom)>,
}

fn the_job(id: &str, issue: u64, installation: u64) -> Job {
    let mut job = job(id, issue);
    job.installation_id = installation;
    job
}

impl Story {
    /// The living runner that a number means.
    fn runner(&self, which: usize) -> Option<&Runner> {
        let count = self.fleet.living().count().max(1);
        self.fleet.living().nth(which % count)
    }

    fn note(&self, what: impl Into<String>) {
        self.fleet.trace.note("test", None, what);
    }

    /// Longer than that, and leases may be lost.
    fn counts(&self, wait: Duration) -> u32 {
        u32::from(wait > self.fleet.config.queue.lease / 3)
    }

    async fn happens(&mut self, happening: Happening, installation: u64) {
        match happening {
            Happening::Submit { id, issue } => {
                let job = the_job(&id, issue, installation);
                self.fleet.submit(&job).await;
                self.jobs.push(job);
            }
            Happening::SubmitAgain { id } => {
                let known = self.jobs.iter().find(|job| job.id.as_str() == id).cloned();
                if let Some(job) = known {
                    self.fleet.submit(&job).await;
                }
            }
            Happening::Cancel { id } => {
                let job = JobId::new(&*id).unwrap();
                let cancelled = self.fleet.store.cancel(&job).await.unwrap();
                self.fleet.trace.note("test", Some(&id), format!("cancel -> {cancelled:?}"));
                if self.jobs.iter().any(|known| known.id == job) {
                    self.fleet.witness.cancelled(&job).await;
                }
                self.cancelled.push(id);
            }
            Happening::Pause { all, wait } => {
                let whom = if all { Whom::All } else { Whom::owner("acme") };
                self.fleet.store.pause(&whom).await.unwrap();
                self.note(format!("{whom:?} paused for {wait:?}"));
                self.pauses.push((Instant::now() + wait, whom));
            }
            Happening::Retry { id, from_start } => {
                let job = JobId::new(&*id).unwrap();
                let from = if from_start { RetryFrom::Start } else { RetryFrom::Journal };
                let retried = self.fleet.store.retry(&job, from).await.unwrap();
                self.fleet.trace.note("test", Some(&id), format!("retry {from:?} -> {retried:?}"));
                if retried == Retried::Queued {
                    self.fleet.witness.retried(&job, from).await;
                    self.cancelled.retain(|cancelled| *cancelled != id);
                    self.retried.insert(id);
                }
            }
            Happening::LoseStore { runner, wait } => {
                self.incidents += self.counts(wait);
                let Some(runner) = self.runner(runner) else { return };
                self.note(format!("{} loses the store for {wait:?}", runner.line.name));
                runner.line.lose_store(wait);
            }
            Happening::StoreDown { wait } => {
                self.incidents += self.counts(wait);
                self.note(format!("the store is down for {wait:?}"));
                self.fleet.living().for_each(|runner| runner.line.lose_store(wait));
            }
            Happening::Freeze { runner, wait } => {
                self.incidents += self.counts(wait);
                let Some(runner) = self.runner(runner) else { return };
                self.note(format!("{} stands still for {wait:?}", runner.line.name));
                runner.line.freeze(wait);
            }
            Happening::Jump { runner, millis } => {
                let Some(runner) = self.runner(runner) else { return };
                self.note(format!("the clock of {} jumps by {millis} ms", runner.line.name));
                runner.line.jump(millis);
            }
            Happening::Die { runner, death } => {
                let Some(runner) = self.runner(runner) else { return };
                self.note(format!("{} is to die: {death:?}", runner.line.name));
                runner.line.doom(death);
            }
            Happening::Drain { runner } => self.drain(runner).await,
        }
    }

    async fn drain(&mut self, which: usize) {
        let count = self.fleet.living().count().max(1);
        let Some(runner) = self.fleet.runners.iter_mut().filter(|one| !one.line.is_dead()).nth(which % count)
        else {
            return;
        };
        runner.draining = true;
        let name = runner.line.name.clone();
        self.fleet.trace.note("test", None, format!("{name} drains"));
        let began = Instant::now();
        runner.running.drain().await;
        // What a drain does not wait for is cut off, as by a crash.
        let patience = self.fleet.config.actors.supervisor.drain_timeout;
        let took = began.elapsed();
        assert!(took <= 3 * patience + 3 * TICK, "a drain took {took:?}");
        self.incidents += u32::from(took >= patience);
        runner.line.cut();
        self.fleet.trace.note("test", None, format!("{name} is drained after {took:?}"));
    }

    /// Ends the pauses that are over by `now`.
    async fn resume(&mut self, now: Instant) {
        for (until, whom) in std::mem::take(&mut self.pauses) {
            if until > now {
                self.pauses.push((until, whom));
                continue;
            }
            self.note(format!("{whom:?} resumed"));
            self.fleet.store.resume(&whom).await.unwrap();
        }
    }

    /// Whatever the witness saw ends the story.
    fn go_on(&self) {
        if let Some(wrong) = self.fleet.witness.wrong() {
            panic!("{}", wrong.what);
        }
    }
}

/// Plays one seed to its end, or panics with what is wrong.
pub async fn play(plan: Plan, desk: &Desk) -> Story {
    let world = plan.world.clone();
    let fleet = Fleet::new(plan.seed, |config| world.apply(config), &plan.config).await;
    desk.put(&fleet.trace, &fleet.witness);
    for line in format!("{plan:#?}").lines() {
        fleet.trace.note("plan", None, line);
    }
    for rule in &plan.faults {
        fleet.world.fault(rule.clone());
    }
    fleet.world.set_weather(plan.weather);
    let mut story = Story {
        fleet,
        jobs: Vec::new(),
        ended: Vec::new(),
        incidents: 0,
        cancelled: Vec::new(),
        retried: BTreeSet::new(),
        pauses: Vec::new(),
    };
    let begin = Instant::now();
    let mut happenings = plan.happenings.clone();
    happenings.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut panics = plan.panics;
    for _ in 0..plan.runners {
        story.fleet.start(plan.rates, std::mem::take(&mut panics));
    }
    let mut replacement: Option<Instant> = None;
    while begin.elapsed() < plan.quiet_at {
        while happenings.last().is_some_and(|(at, _)| *at <= begin.elapsed()) {
            let Some((_, happening)) = happenings.pop() else { break };
            story.happens(happening, plan.installation).await;
        }
        // For each that is gone another comes, some time later.
        if story.fleet.living().count() < plan.runners {
            let due = *replacement.get_or_insert(Instant::now() + plan.replaced_after);
            if due <= Instant::now() {
                replacement = None;
                story.fleet.start(plan.rates, 0);
            }
        }
        story.resume(Instant::now()).await;
        tokio::time::sleep(TICK).await;
        story.go_on();
    }
    story.note("quiet");
    story.resume(Instant::now() + QUIET_BOUND).await;
    story.fleet.world.clear_faults();
    story.fleet.runners.iter().for_each(|runner| runner.line.clear());
    if story.fleet.living().next().is_none() {
        story.fleet.start(Default::default(), 0);
    }
    all_end(&mut story).await;
    // What wakes up late finds its lease gone, and changes nothing.
    tokio::time::sleep(AFTERMATH).await;
    story.go_on();
    for job in &story.jobs {
        story.fleet.witness.compare_journal(&job.id).await;
    }
    story.go_on();
    {
        let ledger = story.fleet.ledger.lock().unwrap();
        story.incidents += ledger.deaths + ledger.panics;
    }
    story
}

async fn all_end(story: &mut Story) {
    let quiet = Instant::now();
    for job in story.jobs.clone() {
        loop {
            let found = story.fleet.store.inspect(&job.id).await.unwrap().unwrap();
            if found.state == State::Ended {
                story.ended.push(found);
                break;
            }
            if quiet.elapsed() > GATES_OPEN {
                let fit = story.fleet.living().filter(|runner| !runner.draining && runner.line.is_fit());
                let fit: Vec<&str> = fit.map(|runner| runner.line.name.as_str()).collect();
                story.fleet.witness.ticks(&fit, CLAIMED_WITHIN).await;
            }
            if quiet.elapsed() >= QUIET_BOUND {
                story.fleet.witness.accuse(Some(&job.id), format!("it does not end: {found:?}"));
            }
            story.go_on();
            tokio::time::sleep(TICK).await;
        }
    }
}

/// One line for who plays seeds by hand.
pub fn tell(story: &Story) -> String {
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for found in &story.ended {
        *ends.entry(format!("{} {}", field(found, "status"), field(found, "endReason"))).or_default() += 1;
    }
    let runs: u32 = story.ended.iter().map(|found| found.counts.runs).sum();
    let crashes: u32 = story.ended.iter().map(|found| found.counts.crashes).sum();
    let records = story.fleet.world.records();
    let (faults, again) = (records.faults.len(), records.paid_twice());
    let (seed, incidents) = (story.fleet.world.config().seed, story.incidents);
    let trace = story.fleet.trace.whole();
    let (steps, digest) = (trace.lines().count(), digest(&trace));
    format!(
        "seed {seed}: {ends:?}, {runs} runs, {crashes} crashes, {incidents} incidents, {faults} faults, {again} \
         asked again, {steps} lines, trace {digest:016x}"
    )
}

/// Two stories of one seed are told apart by it.
fn digest(trace: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    trace.hash(&mut hasher);
    hasher.finish()
}
