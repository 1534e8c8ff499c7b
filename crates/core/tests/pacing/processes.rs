//! The processes of a simulated fleet: who sends when, and the ledger between them.

use std::time::Duration;

use steadfast_core::fleet::{self, Act};

use super::{DEADLINE, Event, MICROS, Policy, World, micros};

impl World<'_> {
    /// Sends for the oldest jobs what may be sent now.
    pub fn serve(&mut self, now: u64) {
        match self.policy {
            Policy::Steadfast => {
                for process in 0..self.processes.len() {
                    if self.processes[process].alive {
                        self.serve_process(process, now);
                    }
                }
            }
            Policy::Pacer => self.serve_pacer(now),
            Policy::Seed | Policy::Sdk => {}
        }
    }

    fn serve_pacer(&mut self, now: u64) {
        while let Some(job) = self.waiting.first().copied() {
            let estimate = self.call(job).estimate;
            let wait = self.server.wait(now as f64 / MICROS, estimate as f64);
            if wait > 0.0 {
                let wake = now + micros(wait);
                if self.wake.is_none_or(|at| wake < at || at <= now) && wake < micros(DEADLINE * 2.0) {
                    self.wake = Some(wake);
                    self.at(wake, Event::Wake { process: usize::MAX });
                }
                return;
            }
            self.waiting.remove(&job);
            self.send(job, now);
        }
    }

    fn serve_process(&mut self, index: usize, now: u64) {
        let at = Duration::from_micros(now);
        let process = &mut self.processes[index];
        let jobs = process.jobs.len() as u32;
        let admitted = process.jobs.iter().sum::<usize>() as f64 / f64::from(jobs.max(1));
        let waiting = process.waiting.len() as u32;
        process.fleet.need(at, jobs, waiting, admitted);
        let calls = &self.calls;
        let states = &self.jobs;
        process.fleet.sizes(process.waiting.iter().map(|job| calls[*job][states[*job].call].estimate));
        let mut next = Duration::MAX;
        while let Some(first) = self.processes[index].waiting.first().copied() {
            let (estimate, wait) = (self.call(first).estimate, &mut self.processes[index].fleet);
            let wait = wait.wait(at, estimate);
            let mut chosen = wait.is_zero().then_some(first);
            if chosen.is_none() && self.server.tokens.is_some() {
                // Where tokens alone hold up the first, one that fits may go.
                let behind: Vec<usize> =
                    self.processes[index].waiting.iter().copied().skip(1).take(8).collect();
                chosen = behind.into_iter().find(|job| {
                    let estimate = self.call(*job).estimate;
                    self.processes[index].fleet.wait(at, estimate).is_zero()
                });
            }
            let Some(job) = chosen else {
                next = wait;
                break;
            };
            let estimate = self.call(job).estimate;
            let process = &mut self.processes[index];
            process.waiting.remove(&job);
            self.jobs[job].permit = process.fleet.take(at, estimate);
            self.send(job, now);
        }
        let acts = self.processes[index].fleet.step(at);
        for act in acts {
            self.act(index, act, now);
        }
        let process = &mut self.processes[index];
        let wait = next.min(process.fleet.next(at).unwrap_or(Duration::MAX));
        let wait = wait.max(Duration::from_micros(100)).min(Duration::from_secs(100_000));
        let wait = wait.as_nanos().div_ceil(1000) as u64;
        let wake = now.saturating_add(wait);
        if process.wake.is_none_or(|at| wake < at || at <= now) && wake < micros(DEADLINE * 2.0) {
            process.wake = Some(wake);
            self.at(wake, Event::Wake { process: index });
        }
    }

    /// The ledger, some milliseconds away.
    fn act(&mut self, index: usize, act: Act, now: u64) {
        self.run.ledger += 1;
        let away = self.ledger.away;
        let say = |world: &mut Self, words: Vec<u8>| {
            world.said.push(words);
            for process in 0..world.processes.len() {
                let delay = micros(0.0005 + 0.0015 * world.ledger_random.unit());
                world.at(now + delay, Event::Hear { process, said: world.said.len() - 1 });
            }
        };
        match act {
            Act::Say(words) => {
                if !away {
                    say(self, words);
                }
            }
            Act::Keep { epoch, lease, note, words } => {
                let lease = micros(lease.as_secs_f64());
                let free = self.ledger.keeper.is_none_or(|(_, _, until)| until <= now);
                let ours =
                    self.ledger.keeper.is_some_and(|(who, of, _)| (who, of) == (index, epoch) && epoch > 0);
                let answer = if away {
                    None
                } else if free || ours {
                    let taken = if ours { None } else { self.ledger.note.clone() };
                    self.ledger.epoch += u64::from(!ours);
                    self.ledger.keeper = (lease > 0).then_some((index, self.ledger.epoch, now + lease));
                    if let Some(note) = note {
                        self.ledger.note = Some(*note);
                    }
                    if let Some(words) = words {
                        say(self, words);
                    }
                    Some(fleet::Answer {
                        yours: true,
                        epoch: self.ledger.epoch,
                        note: taken,
                        ..self.present(now)
                    })
                } else {
                    Some(fleet::Answer { yours: false, epoch: self.ledger.epoch, ..self.present(now) })
                };
                self.kept.push(answer);
                let delay = micros(0.001 + 0.002 * self.ledger_random.unit());
                self.at(now + delay, Event::Kept { process: index, answer: self.kept.len() - 1 });
            }
        }
    }

    /// Who holds leases: a process that was killed holds them until they end.
    fn present(&self, now: u64) -> fleet::Answer {
        let dead = |index: usize| self.processes[index].jobs.is_empty();
        let names =
            (0..self.processes.len()).filter(|index| !dead(*index)).map(|index| format!("runner-{index}"));
        let until = self.ledger.keeper.map_or(now, |(.., until)| until);
        fleet::Answer {
            present: names.collect(),
            until: Duration::from_micros(until),
            ..fleet::Answer::default()
        }
    }
}
