//! The same in earnest: real processes, killed, stopped and drained by a seed, on a real Redis that is
//! killed and comes back, with real git and HTTP. Judged from outside, at the end.
//!
//! `make chaos-real SECONDS=600 FIRST=7` plays long; every run of the tests some seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use steadfast_core::job::JobId;
use steadfast_sim::Weather;
use steadfast_store::{Settings, State};
use tokio::time::Instant;

use crate::support::in_process::field;
use crate::support::{BOUND, Queue, Town, Worker, eventually, job};

/// How long the storm lasts where nobody says it.
const SHORT: u64 = 6;
/// Processes at once.
const WORKERS: usize = 3;
/// What is done to the fleet is so far apart, at most.
const PAUSE: std::ops::Range<u64> = 100..1500;
/// Longer than a lease, so that some are lost.
const STOPPED: std::ops::Range<u64> = 200..5000;

struct Storm {
    town: Town,
    workers: Vec<Worker>,
    dice: StdRng,
    begun: Instant,
    submitted: Vec<JobId>,
    cancelled: BTreeSet<JobId>,
    /// What may have cost an answer on its way into the journal.
    incidents: usize,
}

impl Storm {
    fn say(&self, what: &str) {
        eprintln!("{:>8.3} {what}", self.begun.elapsed().as_secs_f64());
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.dice.random_range(range))
    }

    fn any(&mut self) -> usize {
        self.dice.random_range(0..self.workers.len())
    }

    /// A connection that works, once Redis is there.
    async fn connect(&mut self) {
        let url = self.town.redis.as_ref().unwrap().url();
        let settings = Settings { lease: Duration::from_secs(3), ..Settings::for_tests(&url) };
        self.town.store = steadfast_store::open(&settings, "test").await.unwrap();
    }

    async fn submit(&mut self) {
        let number = self.submitted.len() as u64;
        let id = format!("job-{number}");
        self.say(&format!("submits {id}"));
        let job = job(&id, 1 + number % 12);
        let store = self.town.store.clone();
        let taken = eventually("the queue to take a job", async || store.submit(&job).await.ok()).await;
        taken.expect("the queue takes jobs");
        self.submitted.push(job.id);
    }

    async fn cancel(&mut self) {
        if self.submitted.is_empty() {
            return;
        }
        let which = self.dice.random_range(0..self.submitted.len());
        let id = self.submitted[which].clone();
        self.say(&format!("calls {id} off"));
        self.town.store.cancel(&id).await.expect("redis is there");
        self.cancelled.insert(id);
    }

    async fn happens(&mut self) {
        match self.dice.random_range(0..12) {
            0..=4 => self.submit().await,
            5 | 6 => {
                let which = self.any();
                self.say(&format!("kill -9, worker {which}"));
                self.incidents += 1;
                self.workers[which].kill();
                self.workers[which] = self.town.worker();
            }
            7 | 8 => {
                let (which, wait) = (self.any(), self.millis(STOPPED));
                self.say(&format!("stops worker {which} for {wait:?}"));
                self.incidents += 1;
                self.workers[which].signal(Signal::STOP);
                tokio::time::sleep(wait).await;
                self.workers[which].signal(Signal::CONT);
            }
            9 => {
                let which = self.any();
                self.say(&format!("drains worker {which}"));
                self.incidents += 1;
                self.workers[which].signal(Signal::TERM);
                self.workers[which].ended().await;
                self.workers[which] = self.town.worker();
            }
            10 => {
                let wait = self.millis(STOPPED);
                self.say(&format!("kills redis, which is away for {wait:?}"));
                // A loss for each process, at worst.
                self.incidents += WORKERS;
                self.town.redis.as_mut().unwrap().stop();
                tokio::time::sleep(wait).await;
                self.town.redis.as_mut().unwrap().restart();
                self.connect().await;
            }
            _ => self.cancel().await,
        }
        // The storm's own pace; nothing is waited for.
        let pause = self.millis(PAUSE);
        tokio::time::sleep(pause).await;
    }

    /// Everything ends, as it may, and stands once.
    async fn judge(&self) {
        let mut ends: BTreeMap<String, u32> = BTreeMap::new();
        let mut pulls = 0;
        for id in &self.submitted {
            // The weather may have GitHub ask for a minute, which is kept.
            let found = self.town.wait_for_within(BOUND * 2, id.as_str(), State::Ended).await;
            let status = field(&found, "status");
            let fine = status == "completed" || (status == "cancelled" && self.cancelled.contains(id));
            assert!(fine, "{id} ended as {status}: {found:#?}\n{}", self.town.logs());
            let result: serde_json::Value = serde_json::from_str(&field(&found, "result")).unwrap();
            pulls += usize::from(status == "completed" && result["prUrl"].is_string());
            *ends.entry(status).or_default() += 1;
        }
        let counted = self.town.store.count().await.unwrap();
        assert_eq!(counted, [0, 0, 0, self.submitted.len() as u64], "each job is in exactly one state");
        let records = self.town.records().await;
        let mut markers = BTreeMap::new();
        let bodies = records.comments.iter().map(|comment| &comment.body);
        for body in bodies.chain(records.pulls.iter().map(|pull| &pull.body)) {
            for marker in body.split("<!-- steadfast ").skip(1).filter_map(|rest| rest.split(" -->").next()) {
                *markers.entry(marker.to_owned()).or_insert(0) += 1;
            }
        }
        let twice: Vec<_> = markers.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "effects that stand twice: {twice:?}");
        assert!(records.pulls.len() >= pulls, "{} of {pulls} pull requests stand", records.pulls.len());
        let (again, most) = (records.paid_twice(), self.incidents);
        assert!(again <= most, "{again} answered questions were asked again, {most} may be");
        self.say(&format!(
            "{} jobs ended: {ends:?}; {} pull requests, {most} incidents, {again} turns asked again",
            self.submitted.len(),
            records.pulls.len()
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_processes_end_well() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = asked("STEADFAST_CHAOS_SECONDS").unwrap_or(SHORT);
    let seed = asked("STEADFAST_CHAOS_SEED").unwrap_or(1);
    eprintln!("{seconds} seconds of seed {seed}");
    let lively = |config: &mut steadfast_sim::WorldConfig| {
        config.seed = seed;
        config.latency.llm_first = Duration::from_millis(100);
        config.latency.github = Duration::from_millis(30);
    };
    let config = "job.concurrency = 4\njob.max_crashes = 1000\njob.max_attempts = 1000";
    let mut town = Town::with(Queue::Redis, lively, config).await;
    town.world.set_weather(Weather { llm: 0.05, github: 0.05, git: 0.02 });
    let workers = (0..WORKERS).map(|_| town.worker()).collect();
    let dice = StdRng::seed_from_u64(seed);
    let (submitted, cancelled) = (Vec::new(), BTreeSet::new());
    let begun = Instant::now();
    let mut storm = Storm { town, workers, dice, begun, submitted, cancelled, incidents: 0 };
    storm.submit().await;
    while begun.elapsed() < Duration::from_secs(seconds) {
        storm.happens().await;
    }
    storm.say("quiet");
    storm.town.world.clear_faults();
    storm.judge().await;
}
