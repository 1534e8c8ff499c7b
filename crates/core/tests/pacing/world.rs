//! Jobs, calls, a network and a server, in simulated time: one run of a scenario under a policy.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use steadfast_core::budget::least::{Limit, Work, makespan};
use steadfast_core::budget::{Budget, Outcome};

use crate::scenario::Scenario;
use crate::server::{Answer, Server};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Steadfast,
    /// Sees the server's state, and its requests arrive at once.
    Pacer,
    /// Three layers: five tries with 1, 2, 4, 8 s between, then the job again, three times.
    Seed,
    /// Two retries, 0.5 s doubling or the server's wait up to two minutes, then the job again.
    Sdk,
}

#[derive(Clone, Debug, Default)]
pub struct Run {
    pub done: usize,
    pub failed: usize,
    pub makespan: f64,
    pub mean_completion: f64,
    pub sent: usize,
    pub rejected: usize,
    pub wasted: usize,
    /// Seconds at which requests were sent, and whether they were let in.
    pub trace: Vec<(f64, bool)>,
    pub limit: Option<String>,
}

impl Run {
    pub fn share_429(&self) -> f64 {
        self.rejected as f64 / self.sent.max(1) as f64
    }
}

/// A small generator of numbers that look random: SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One call as it will be, whoever sends it: the same under every policy.
#[derive(Clone, Copy)]
pub struct Call {
    pub latency: f64,
    pub actual: u64,
    pub estimate: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive { job: usize, sent: u64 },
    Answer { job: usize, sent: u64, index: usize },
    Wake,
    Retry { job: usize },
    Stranger,
}

#[derive(Clone, Default)]
struct Job {
    call: usize,
    tries: u32,
    runs: u32,
}

struct World<'a> {
    scenario: &'a Scenario,
    server: Server,
    calls: Vec<Vec<Call>>,
    jobs: Vec<Job>,
    next_job: usize,
    waiting: BTreeSet<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    answers: Vec<Option<(Answer, u64)>>,
    budget: Budget,
    policy: Policy,
    random: Random,
    number: u64,
    wake: Option<u64>,
    run: Run,
}

const MICROS: f64 = 1e6;
/// No run goes on for longer, in simulated seconds.
const DEADLINE: f64 = 40_000.0;

fn micros(seconds: f64) -> u64 {
    (seconds * MICROS).ceil() as u64
}

/// The calls of all jobs by a seed: 2 s each, half more or less; sizes from 100 to 10,000 tokens.
pub fn calls(scenario: &Scenario, seed: u64) -> Vec<Vec<Call>> {
    let mut random = Random(seed ^ 0x5eed);
    let mut call = || {
        let actual = 100.0 * 100f64.powf(random.unit());
        let off = 1.0 + scenario.estimate_error * (2.0 * random.unit() - 1.0);
        Call { latency: 1.0 + 2.0 * random.unit(), actual: actual as u64, estimate: (actual * off) as u64 }
    };
    (0..scenario.jobs).map(|_| (0..scenario.calls).map(|_| call()).collect()).collect()
}

/// The least makespan by arithmetic; without the changes and strangers that a scenario may have.
pub fn bound(scenario: &Scenario, seed: u64) -> f64 {
    let calls = calls(scenario, seed);
    let all = || calls.iter().flatten();
    let duration = Duration::from_secs_f64;
    let limit = |meter: &crate::server::Meter| {
        let most = meter.most.iter().map(|(_, most)| *most).fold(0.0, f64::max);
        Limit {
            kind: meter.kind,
            most,
            window: duration(meter.window),
            burst: most * meter.burst_share,
            passed: duration(meter.passed),
        }
    };
    let mut limits = vec![(limit(&scenario.server.requests), all().count() as f64)];
    if let Some(meter) = &scenario.server.tokens {
        limits.push((limit(meter), all().map(|call| call.actual as f64).sum()));
    }
    let sum = |job: &Vec<Call>| job.iter().map(|call| call.latency).sum::<f64>();
    let work = Work {
        total: duration(all().map(|call| call.latency).sum()),
        longest_job: duration(calls.iter().map(sum).fold(0.0, f64::max)),
        shortest_call: duration(all().map(|call| call.latency).fold(f64::MAX, f64::min)),
        at_once: scenario.at_once as u32,
    };
    makespan(&limits, &work).as_secs_f64()
}

/// Runs `scenario` under `policy`.
pub fn run(scenario: &Scenario, policy: Policy, seed: u64) -> Run {
    let mut world = World {
        scenario,
        server: scenario.server.clone(),
        calls: calls(scenario, seed),
        jobs: vec![Job::default(); scenario.jobs],
        next_job: 0,
        waiting: BTreeSet::new(),
        events: BinaryHeap::new(),
        answers: Vec::new(),
        budget: Budget::new(&scenario.settings, Duration::ZERO),
        policy,
        random: Random(seed),
        number: 0,
        wake: None,
        run: Run::default(),
    };
    for _ in 0..scenario.at_once.min(scenario.jobs) {
        world.admit(0);
    }
    if scenario.strangers > 0.0 {
        world.at(0, Event::Stranger);
    }
    world.go();
    world.run.limit = world.budget.request_limit().map(|(limit, source)| {
        let (kind, kind_source) = world.budget.request_kind();
        format!("{limit:.0}/min {source:?}, {kind:?} {kind_source:?}")
    });
    world.run
}

impl World<'_> {
    fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((time, self.number, event)));
    }

    fn admit(&mut self, now: u64) {
        if self.next_job < self.jobs.len() {
            self.next_job += 1;
            self.ready(self.next_job - 1, now);
        }
    }

    fn call(&self, job: usize) -> Call {
        self.calls[job][self.jobs[job].call]
    }

    /// A job has a call to send.
    fn ready(&mut self, job: usize, now: u64) {
        match self.policy {
            Policy::Steadfast | Policy::Pacer => {
                self.waiting.insert(job);
            }
            Policy::Seed | Policy::Sdk => self.send(job, now),
        }
    }

    fn send(&mut self, job: usize, now: u64) {
        self.run.sent += 1;
        if self.policy == Policy::Pacer {
            self.arrive(job, now, now);
            return;
        }
        let delay = micros(0.02 + 0.04 * self.random.unit());
        self.at(now + delay, Event::Arrive { job, sent: now });
    }

    fn arrive(&mut self, job: usize, sent: u64, now: u64) {
        let call = self.call(job);
        let answer = self.server.arrive(now as f64 / MICROS, call.estimate as f64);
        self.run.trace.push((sent as f64 / MICROS, answer.accepted));
        let back = 0.02 + 0.04 * self.random.unit();
        let took = if answer.accepted { call.latency } else { 0.01 };
        let index = self.answers.len();
        self.answers.push(Some((answer, now)));
        let there = if self.policy == Policy::Pacer { 0.02 + 0.04 * self.random.unit() } else { 0.0 };
        let back = back + there;
        self.at(now + micros(took + back), Event::Answer { job, sent, index });
    }

    fn go(&mut self) {
        self.serve(0);
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            if self.run.done + self.run.failed == self.jobs.len() || now as f64 / MICROS > DEADLINE {
                break;
            }
            match event {
                Event::Arrive { job, sent } => self.arrive(job, sent, now),
                Event::Answer { job, sent, index } => self.answered(job, sent, index, now),
                Event::Wake => {
                    if self.wake == Some(now) {
                        self.wake = None;
                    }
                }
                Event::Retry { job } => self.ready(job, now),
                Event::Stranger => self.stranger(now),
            }
            self.serve(now);
        }
        let unfinished = self.jobs.len() - self.run.done - self.run.failed;
        self.run.failed += unfinished;
        self.run.mean_completion /= self.run.done.max(1) as f64;
    }

    /// Two fifths and three fifths of the key, in turn, whatever we do.
    fn stranger(&mut self, now: u64) {
        let seconds = now as f64 / MICROS;
        let more = (seconds / self.scenario.strangers) as u64 % 2 == 1;
        let share = if more { 0.6 } else { 0.4 };
        self.server.requests.seize(seconds);
        let gap = 60.0 / (self.scenario.rpm * share);
        let random = 0.5 + self.random.unit();
        self.at(now + micros(gap * random), Event::Stranger);
    }

    fn answered(&mut self, job: usize, sent: u64, index: usize, now: u64) {
        let Some((answer, met)) = self.answers[index].take() else { return };
        let call = self.call(job);
        if answer.accepted
            && let Some(meter) = &mut self.server.tokens
        {
            let by = call.actual as f64 - call.estimate as f64;
            meter.correct(now as f64 / MICROS, met as f64 / MICROS, by);
        }
        if self.policy == Policy::Steadfast {
            let (at, sent) = (Duration::from_micros(now), Duration::from_micros(sent));
            let outcome =
                if answer.accepted { Outcome::Accepted } else { Outcome::Rejected(answer.retry_after) };
            self.budget.done(at, sent, call.estimate, answer.accepted.then_some(call.actual), outcome);
            self.budget.learn(at, sent, &answer.observed);
        }
        if !answer.accepted {
            self.run.rejected += 1;
            self.again(job, answer.retry_after, now);
            return;
        }
        self.jobs[job].tries = 0;
        self.jobs[job].call += 1;
        if self.jobs[job].call < self.scenario.calls {
            self.ready(job, now);
            return;
        }
        self.run.done += 1;
        self.run.makespan = now as f64 / MICROS;
        self.run.mean_completion += now as f64 / MICROS;
        self.admit(now);
    }

    /// A rejected call, under each policy.
    fn again(&mut self, job: usize, named: Option<Duration>, now: u64) {
        let random = self.random.unit();
        let tries = self.jobs[job].tries;
        self.jobs[job].tries += 1;
        let (most, wait) = match self.policy {
            Policy::Steadfast | Policy::Pacer => {
                self.waiting.insert(job);
                return;
            }
            Policy::Seed => (4, 2f64.powi(tries as i32) * (1.0 + 0.1 * random)),
            Policy::Sdk => {
                let backoff = (0.5 * 2f64.powi(tries as i32)).min(8.0) * (1.0 - 0.25 * random);
                (2, named.map_or(backoff, |named| named.as_secs_f64()))
            }
        };
        if tries < most {
            self.at(now + micros(wait), Event::Retry { job });
            return;
        }
        // The job begins again: what it had paid for is lost.
        let state = &mut self.jobs[job];
        self.run.wasted += state.call;
        let runs = state.runs + 1;
        *state = Job { call: 0, tries: 0, runs };
        if runs > 3 {
            self.run.failed += 1;
            self.run.makespan = now as f64 / MICROS;
            self.admit(now);
        } else {
            self.at(now + micros(2f64.powi(runs as i32 - 1)), Event::Retry { job });
        }
    }

    /// Sends for the oldest jobs what may be sent now.
    fn serve(&mut self, now: u64) {
        while let Some(job) = self.waiting.first().copied() {
            let estimate = self.call(job).estimate;
            let wait = match self.policy {
                Policy::Pacer => {
                    let wait = self.server.wait(now as f64 / MICROS, estimate as f64);
                    if wait > 0.0 { micros(wait) } else { 0 }
                }
                Policy::Steadfast | Policy::Seed | Policy::Sdk => {
                    let wait = self.budget.wait(Duration::from_micros(now), estimate);
                    wait.as_nanos().div_ceil(1000) as u64
                }
            };
            if wait > 0 {
                let wake = now.saturating_add(wait);
                if self.wake.is_none_or(|at| wake < at || at <= now) && wake < micros(DEADLINE * 2.0) {
                    self.wake = Some(wake);
                    self.at(wake, Event::Wake);
                }
                return;
            }
            self.waiting.remove(&job);
            if self.policy == Policy::Steadfast {
                self.budget.take(Duration::from_micros(now), estimate);
            }
            self.send(job, now);
        }
    }
}
