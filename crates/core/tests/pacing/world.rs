//! Jobs, calls, a network and a server, in simulated time: one run of a scenario under a policy.

#[path = "processes.rs"]
mod processes;
#[path = "work.rs"]
mod work;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use steadfast_core::budget::Outcome;
use steadfast_core::fleet::{self, Fleet, Learned};

pub use self::work::{Call, Random, bound, calls};
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
    /// Round trips to the ledger.
    pub ledger: usize,
    /// Answers that came to a process that was killed.
    pub lost: usize,
}

impl Run {
    pub fn share_429(&self) -> f64 {
        self.rejected as f64 / self.sent.max(1) as f64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive { job: usize, sent: u64 },
    Answer { job: usize, index: usize },
    Wake { process: usize },
    Retry { job: usize },
    Stranger,
    Hear { process: usize, said: usize },
    Kept { process: usize, answer: usize },
    Kill { process: usize },
    Reclaim { process: usize },
    Join,
    Leave { process: usize },
    Ledger { away: bool },
}

#[derive(Clone, Default)]
struct Job {
    call: usize,
    tries: u32,
    runs: u32,
    process: usize,
    permit: Duration,
}

/// One process of the fleet: its part in the budget, and its jobs that wait for a permit.
struct Process {
    fleet: Fleet,
    waiting: BTreeSet<usize>,
    jobs: BTreeSet<usize>,
    alive: bool,
    drains: bool,
    wake: Option<u64>,
}

/// The ledger, as simple as it can be.
#[derive(Default)]
struct Ledger {
    keeper: Option<(usize, u64, u64)>,
    epoch: u64,
    note: Option<Learned>,
    away: bool,
}

struct World<'a> {
    scenario: &'a Scenario,
    server: Server,
    calls: Vec<Vec<Call>>,
    jobs: Vec<Job>,
    next_job: usize,
    /// Waiting under a policy that knows no processes.
    waiting: BTreeSet<usize>,
    processes: Vec<Process>,
    ledger: Ledger,
    said: Vec<Vec<u8>>,
    kept: Vec<Option<fleet::Answer>>,
    /// Jobs whose process died, to be begun again elsewhere.
    orphans: BTreeSet<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    answers: Vec<Option<(Answer, u64)>>,
    policy: Policy,
    random: Random,
    /// Its own, so that what the fleet says changes nothing else.
    ledger_random: Random,
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

/// Runs `scenario` under `policy`.
pub fn run(scenario: &Scenario, policy: Policy, seed: u64) -> Run {
    let mut world = World {
        scenario,
        server: scenario.server.clone(),
        calls: calls(scenario, seed),
        jobs: vec![Job::default(); scenario.jobs],
        next_job: 0,
        waiting: BTreeSet::new(),
        processes: Vec::new(),
        ledger: Ledger::default(),
        said: Vec::new(),
        kept: Vec::new(),
        orphans: BTreeSet::new(),
        events: BinaryHeap::new(),
        answers: Vec::new(),
        policy,
        random: Random(seed),
        ledger_random: Random(seed ^ 0x1ed6e5),
        number: 0,
        wake: None,
        run: Run::default(),
    };
    let begin = if scenario.fleet.join { 1 } else { scenario.fleet.processes };
    for _ in 0..begin {
        world.join();
    }
    world.fill(0);
    world.plan_fleet();
    if scenario.strangers > 0.0 {
        world.at(0, Event::Stranger);
    }
    world.go();
    world.run.limit = world.processes.first().and_then(|process| {
        let (limit, source) = process.fleet.request_limit()?;
        let (kind, kind_source) = process.fleet.request_kind();
        Some(format!("{limit:.0}/min {source:?}, {kind:?} {kind_source:?}"))
    });
    world.run
}

impl World<'_> {
    fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((time, self.number, event)));
    }

    /// How many jobs one process has at once.
    fn room(&self) -> usize {
        self.scenario.at_once.div_ceil(self.scenario.fleet.processes)
    }

    /// Gives jobs to who has room, in turn; under another policy than ours there is one process.
    fn fill(&mut self, now: u64) {
        loop {
            let running: usize = self.processes.iter().map(|process| process.jobs.len()).sum();
            let room = self.room();
            let has_room = |process: &&Process| process.alive && !process.drains && process.jobs.len() < room;
            let (left, next) = (self.jobs.len() - self.next_job, self.orphans.first().copied());
            if running >= self.scenario.at_once || (left == 0 && next.is_none()) {
                return;
            }
            let least = self.processes.iter().enumerate().filter(|(_, process)| has_room(process));
            let Some((chosen, _)) = least.min_by_key(|(_, process)| process.jobs.len()) else { return };
            let job = match self.orphans.pop_first() {
                Some(job) => job,
                None => {
                    self.next_job += 1;
                    self.next_job - 1
                }
            };
            self.jobs[job].process = chosen;
            self.processes[chosen].jobs.insert(job);
            self.ready(job, now);
        }
    }

    fn join(&mut self) {
        let name = format!("runner-{}#1", self.processes.len());
        self.processes.push(Process {
            fleet: Fleet::new(&self.scenario.settings, &name),
            waiting: BTreeSet::new(),
            jobs: BTreeSet::new(),
            alive: true,
            drains: false,
            wake: None,
        });
    }

    /// What happens to the processes of this scenario.
    fn plan_fleet(&mut self) {
        if self.policy != Policy::Steadfast {
            return;
        }
        let fleet = &self.scenario.fleet;
        let (kill, join, away, processes) = (fleet.kill_at, fleet.join, fleet.away, fleet.processes);
        if let Some(at) = kill {
            for process in 0..processes / 2 {
                self.at(micros(at), Event::Kill { process });
            }
        }
        if join {
            for process in 1..processes {
                self.at(micros(4.0 * process as f64), Event::Join);
                self.at(
                    micros(self.scenario.fleet.leave_at + 2.0 * process as f64),
                    Event::Leave { process },
                );
            }
        }
        if let Some((from, to)) = away {
            self.at(micros(from), Event::Ledger { away: true });
            self.at(micros(to), Event::Ledger { away: false });
        }
    }

    fn call(&self, job: usize) -> Call {
        self.calls[job][self.jobs[job].call]
    }

    /// A job has a call to send.
    fn ready(&mut self, job: usize, now: u64) {
        match self.policy {
            Policy::Steadfast => {
                let process = self.jobs[job].process;
                self.processes[process].waiting.insert(job);
            }
            Policy::Pacer => {
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
        self.at(now + micros(took + back), Event::Answer { job, index });
    }

    fn go(&mut self) {
        self.serve(0);
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            if self.run.done + self.run.failed == self.jobs.len() || now as f64 / MICROS > DEADLINE {
                break;
            }
            match event {
                Event::Arrive { job, sent } => self.arrive(job, sent, now),
                Event::Answer { job, index } => self.answered(job, index, now),
                Event::Wake { process } => {
                    if self.wake == Some(now) {
                        self.wake = None;
                    }
                    if let Some(process) = self.processes.get_mut(process)
                        && process.wake == Some(now)
                    {
                        process.wake = None;
                    }
                }
                Event::Hear { process, said } => {
                    let words = std::mem::take(&mut self.said[said]);
                    let process = &mut self.processes[process];
                    if process.alive {
                        process.fleet.hear(Duration::from_micros(now), &words);
                    }
                    self.said[said] = words;
                }
                Event::Kept { process, answer } => {
                    let answer = self.kept[answer].take();
                    let process = &mut self.processes[process];
                    let at = Duration::from_micros(now);
                    match answer.filter(|_| process.alive) {
                        Some(answer) => process.fleet.kept(at, answer),
                        None => process.fleet.away(at),
                    }
                }
                Event::Kill { process } => {
                    self.processes[process].alive = false;
                    self.at(now + micros(30.0), Event::Reclaim { process });
                }
                Event::Reclaim { process } => {
                    let jobs = std::mem::take(&mut self.processes[process].jobs);
                    self.orphans.extend(jobs);
                    self.fill(now);
                }
                Event::Join => {
                    self.join();
                    self.fill(now);
                }
                Event::Leave { process } => self.processes[process].drains = true,
                Event::Ledger { away } => self.ledger.away = away,
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

    fn answered(&mut self, job: usize, index: usize, now: u64) {
        let Some((answer, met)) = self.answers[index].take() else { return };
        let call = self.call(job);
        let process = self.jobs[job].process;
        if !self.processes[process].alive {
            // The answer is lost with its process: the call is made again elsewhere.
            self.run.lost += usize::from(answer.accepted);
            return;
        }
        if answer.accepted
            && let Some(meter) = &mut self.server.tokens
        {
            let by = call.actual as f64 - call.estimate as f64;
            meter.correct(now as f64 / MICROS, met as f64 / MICROS, by);
        }
        if self.policy == Policy::Steadfast {
            let permit = self.jobs[job].permit;
            let fleet = &mut self.processes[process].fleet;
            let at = Duration::from_micros(now);
            let outcome =
                if answer.accepted { Outcome::Accepted } else { Outcome::Rejected(answer.retry_after) };
            let sent = Duration::from_micros(met);
            fleet.done(at, permit, sent, call.estimate, answer.accepted.then_some(call.actual), outcome);
            fleet.learn(at, permit, &answer.observed);
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
        self.processes[process].jobs.remove(&job);
        self.fill(now);
    }

    /// A rejected call, under each policy.
    fn again(&mut self, job: usize, named: Option<Duration>, now: u64) {
        let random = self.random.unit();
        let tries = self.jobs[job].tries;
        self.jobs[job].tries += 1;
        let (most, wait) = match self.policy {
            Policy::Steadfast | Policy::Pacer => {
                self.ready(job, now);
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
        *state = Job { call: 0, tries: 0, runs, ..state.clone() };
        if runs > 3 {
            self.run.failed += 1;
            self.run.makespan = now as f64 / MICROS;
            let process = self.jobs[job].process;
            self.processes[process].jobs.remove(&job);
            self.fill(now);
        } else {
            self.at(now + micros(2f64.powi(runs as i32 - 1)), Event::Retry { job });
        }
    }
}
