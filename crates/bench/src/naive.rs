//! What others do in place of pacing: a loop of retries around each call, and the job again around it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::failure::{Failure, Verdict};
use steadfast_core::time::Clock;
use steadfast_llm::LlmClient;

use crate::process::{Book, request};
use crate::remote::Remote;
use crate::world::Random;

/// Longest wait that an SDK takes from a server.
const MOST_NAMED: Duration = Duration::from_secs(120);

/// Runs of a job beyond the first.
const MORE_RUNS: u32 = 3;

/// Which of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naive {
    /// Five tries with 1, 2, 4, 8 s between, whatever the server says.
    Seed,
    /// Two retries, 0.5 s doubling or the server's wait.
    Sdk,
}

/// All jobs share these.
pub struct Crowd {
    pub naive: Naive,
    pub client: LlmClient,
    pub clock: Arc<dyn Clock>,
    pub remote: Arc<Remote>,
    pub book: Rc<Book>,
    pub calls: usize,
}

impl Crowd {
    /// Runs the jobs `first`, `first + step`, ... below `jobs`, one after the other.
    pub async fn work(&self, first: usize, step: usize, jobs: usize) {
        let mut random = Random(first as u64 ^ 0xc0ffee);
        for job in (first..jobs).step_by(step) {
            let mut done = self.once(job, &mut random).await;
            for again in 0..MORE_RUNS {
                if done {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1 << again)).await;
                done = self.once(job, &mut random).await;
            }
            self.book.enter(self.remote.now(), done);
        }
    }

    /// The job from its first call on; what it had paid for before is lost.
    async fn once(&self, job: usize, random: &mut Random) -> bool {
        for index in 0..self.calls {
            let tries = match self.naive {
                Naive::Seed => 5,
                Naive::Sdk => 3,
            };
            let mut answered = false;
            for number in 0..tries {
                let Some(request) = request(&self.remote, job, index) else { return false };
                match self.client.chat(&request).await.result {
                    Ok(_) => {
                        answered = true;
                        break;
                    }
                    Err(failure) if number + 1 < tries => {
                        tokio::time::sleep(self.wait(number, &failure, random.unit())).await;
                    }
                    Err(_) => {}
                }
            }
            if !answered {
                return false;
            }
        }
        true
    }

    fn wait(&self, number: i32, failure: &Failure, random: f64) -> Duration {
        let doubled = 2f64.powi(number);
        match self.naive {
            Naive::Seed => Duration::from_secs_f64(doubled * (1.0 + 0.1 * random)),
            Naive::Sdk => {
                let own = Duration::from_secs_f64((0.5 * doubled).min(8.0) * (1.0 - 0.25 * random));
                let named = match failure.verdict {
                    Verdict::WaitUntil { at, .. } => Some(at.since(self.clock.now())),
                    Verdict::Retry { after } => after,
                    Verdict::Refresh | Verdict::Verify | Verdict::Shrink | Verdict::Fatal { .. } => None,
                };
                named.filter(|named| *named <= MOST_NAMED).unwrap_or(own)
            }
        }
    }
}
