//! Runs that end: while one call is on its way, those that come meanwhile gather, and go together.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::Core;
use crate::record::lost;
use crate::{Lease, Result, StoreError};

/// Most runs that one script ends.
const MOST: usize = 64;

/// Most calls on their way at once: the server is not to wait for us between two.
const CALLS: usize = 2;

/// The runs whose end is not yet on its way.
pub(super) struct Leaving {
    waiting: Mutex<Vec<Waiting>>,
    calls: Semaphore,
}

/// What becomes of one run's job, as the script is told of it.
type Words = Arc<Vec<Vec<u8>>>;

struct Waiting {
    words: Words,
    tell: oneshot::Sender<Result<String>>,
}

impl Leaving {
    pub fn new() -> Self {
        Leaving { waiting: Mutex::default(), calls: Semaphore::new(CALLS) }
    }

    fn add(&self, words: &Words) -> oneshot::Receiver<Result<String>> {
        let (tell, told) = oneshot::channel();
        let waiting = Waiting { words: Arc::clone(words), tell };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
        told
    }

    /// The next call's. Whose caller has gone may not have meant it.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.tell.is_closed());
        let count = waiting.len().min(MOST);
        waiting.drain(..count).collect()
    }
}

impl Core {
    /// Ends the run that a lease is for: what becomes of its job, what makes a repetition known, and
    /// what the script wants to know beside.
    pub async fn leave(&self, lease: &Lease, kind: &str, closing: &str, further: &[&str]) -> Result<()> {
        let (token, count) = (lease.token.0.to_string(), further.len().to_string());
        let words = [kind, lease.job.as_str(), &token, closing, &count];
        let words = words.iter().chain(further).map(|word| word.as_bytes().to_vec());
        let words: Words = Arc::new(words.collect());
        loop {
            let mut told = self.leaving.add(&words);
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut told => break answer,
                    call = self.leaving.calls.acquire() => {
                        self.send_leaves().await;
                        drop(call);
                    }
                }
            };
            // Whoever had it with his own was dropped on the way: it can be done again.
            let Ok(answer) = answer else { continue };
            return match answer?.as_str() {
                "done" => Ok(()),
                _ => Err(lost(lease)),
            };
        }
    }

    async fn send_leaves(&self) {
        let leaves = self.leaving.next();
        if leaves.is_empty() {
            return;
        }
        let words = leaves.iter().flat_map(|leave| leave.words.iter());
        let call = words.fold(self.call(), |call, word| call.bytes(word));
        let answers: Result<Vec<String>> = self.link.script(&self.scripts.leave, &call).await;
        match answers {
            Ok(answers) => {
                for (leave, answer) in leaves.into_iter().zip(answers) {
                    // One who is gone wants no answer.
                    let _ = leave.tell.send(Ok(answer));
                }
            }
            Err(error) => {
                for leave in leaves {
                    let _ = leave.tell.send(Err(same(&error)));
                }
            }
        }
    }
}

/// The error again, for another one who waits.
fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::LeaseLost { job, token } => StoreError::LeaseLost { job: job.clone(), token: *token },
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::Corrupt(why) => StoreError::Corrupt(why.clone()),
        StoreError::Unusable(why) => StoreError::Unusable(why.clone()),
        StoreError::TooLarge { what, actual, limit } => {
            StoreError::TooLarge { what, actual: *actual, limit: *limit }
        }
    }
}
