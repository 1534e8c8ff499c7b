//! Runs that end: those that come in one turn, or while a claim is on its way, go together; with the
//! next claim if there is one, so that settling a job and getting the next is one round trip.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Core;
use super::link::Call;
use crate::record::lost;
use crate::{Lease, Result, StoreError};

/// Most runs that one script ends.
pub(super) const MOST: usize = 64;

/// The runs whose end is not yet on its way.
pub(super) struct Leaving {
    ends: Mutex<Ends>,
    /// How many calls have taken some along.
    taken: AtomicU64,
}

#[derive(Default)]
struct Ends {
    /// Those that the next claim takes along, or a call of their own takes.
    waiting: Vec<Waiting>,
    /// Those that went with a claim that failed: they go by themselves.
    alone: Vec<Waiting>,
    /// A task sees to it that they go.
    seen_to: bool,
}

/// What becomes of one run's job, as the script is told of it.
type Words = Arc<Vec<Vec<u8>>>;

pub(super) struct Waiting {
    words: Words,
    tell: oneshot::Sender<Result<String>>,
}

impl Leaving {
    pub fn new() -> Self {
        Leaving { ends: Mutex::default(), taken: AtomicU64::new(0) }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn has_alone(&self) -> bool {
        !self.ends().alone.is_empty()
    }

    /// Those that a claim takes along.
    pub fn take_along(&self) -> Vec<Waiting> {
        let mut ends = self.ends();
        let taken = first(&mut ends.waiting);
        if !taken.is_empty() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// The next call's; `None` if there is nothing to see to any more.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut ends = self.ends();
        let mut next = first(&mut ends.alone);
        if next.is_empty() {
            next = first(&mut ends.waiting);
        }
        ends.seen_to = !next.is_empty();
        ends.seen_to.then_some(next)
    }
}

/// The first call's. Whose caller has gone may not have meant it.
fn first(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    waiting.retain(|one| !one.tell.is_closed());
    let count = waiting.len().min(MOST);
    waiting.drain(..count).collect()
}

/// While it lives, ends are seen to. If it is dropped before its work is done, its runtime has ended:
/// those who wait see to it themselves.
struct Seeing<'a> {
    leaving: &'a Leaving,
    done: bool,
}

impl Drop for Seeing<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut ends = self.leaving.ends();
        ends.seen_to = false;
        ends.waiting.clear();
        ends.alone.clear();
    }
}

/// What a script that ends these is told of them.
pub(super) fn told(call: Call, leaves: &[Waiting]) -> Call {
    leaves.iter().flat_map(|leave| leave.words.iter()).fold(call, |call, word| call.bytes(word))
}

/// Gives each its answer; one who is gone wants none.
pub(super) fn answer(leaves: Vec<Waiting>, answers: Result<Vec<String>>) {
    match answers {
        Ok(answers) => {
            for (leave, answer) in leaves.into_iter().zip(answers) {
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

/// The words for one end.
fn words(lease: &Lease, kind: &str, closing: &str, further: &[&str]) -> Words {
    let (token, count) = (lease.token.0.to_string(), further.len().to_string());
    let words = [kind, lease.job.as_str(), &token, closing, &count];
    Arc::new(words.iter().chain(further).map(|word| word.as_bytes().to_vec()).collect())
}

fn read(lease: &Lease, answer: &str) -> Result<()> {
    if answer == "done" { Ok(()) } else { Err(lost(lease)) }
}

impl Core {
    /// Ends the run that a lease is for: what becomes of its job, what makes a repetition known, and
    /// what the script wants to know beside.
    pub async fn leave(
        self: &Arc<Self>,
        lease: &Lease,
        kind: &str,
        closing: &str,
        further: &[&str],
    ) -> Result<()> {
        let words = words(lease, kind, closing, further);
        loop {
            let (tell, told) = oneshot::channel();
            self.put_leaves(vec![Waiting { words: Arc::clone(&words), tell }], false);
            // Whoever had it with his own was dropped on the way: it can be done again.
            let Ok(answer) = told.await else { continue };
            return read(lease, &answer?);
        }
    }

    /// The same within a claim, which others wait for: by itself.
    pub async fn leave_alone(
        &self,
        lease: &Lease,
        kind: &str,
        closing: &str,
        further: &[&str],
    ) -> Result<()> {
        let words = words(lease, kind, closing, further);
        let call = words.iter().fold(self.call(), |call, word| call.bytes(word));
        let answers: Vec<String> = self.link.script(&self.scripts.leave, &call).await?;
        read(lease, answers.first().map_or("", String::as_str))
    }

    /// Has these go with a claim or by themselves, or by themselves alone.
    pub fn put_leaves(self: &Arc<Self>, leaves: Vec<Waiting>, alone: bool) {
        if leaves.is_empty() {
            return;
        }
        let mut ends = self.leaving.ends();
        if alone {
            ends.alone.extend(leaves)
        } else {
            ends.waiting.extend(leaves)
        }
        if !std::mem::replace(&mut ends.seen_to, true) {
            tokio::spawn(Arc::clone(self).see_to_leaves());
        }
    }

    async fn see_to_leaves(self: Arc<Self>) {
        let mut seeing = Seeing { leaving: &self.leaving, done: false };
        loop {
            self.let_claims_go_first().await;
            let Some(leaves) = self.leaving.next() else {
                // Others may be seen to by another task from here on.
                seeing.done = true;
                return;
            };
            let call = told(self.call(), &leaves);
            answer(leaves, self.link.script(&self.scripts.leave, &call).await);
        }
    }

    /// Lets whoever is told of an end in the same turn ask for a claim, and one that is on its way come
    /// home, for the next takes along what has gathered; as long as they do.
    async fn let_claims_go_first(&self) {
        let mut before = None;
        loop {
            tokio::task::yield_now().await;
            let taken = self.leaving.taken();
            let idle = self.claiming.try_lock().is_ok() || before.replace(taken) == Some(taken);
            // No claim takes along those that go alone.
            if idle || self.leaving.has_alone() {
                return;
            }
            drop(self.claiming.lock().await);
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
