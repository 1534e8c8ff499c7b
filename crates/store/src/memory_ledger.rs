//! The limit ledger in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use steadfast_core::time::Timestamp;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::ledger::{Entry, Heard, Keep, Kept, Ledger, Listener, MOST_LAG, Noted, check};
use crate::{Result, StoreError};

/// See the module.
pub(crate) struct MemoryLedger {
    base: Timestamp,
    begun: Instant,
    entries: Mutex<BTreeMap<String, Entry>>,
    listening: Arc<Mutex<Listening>>,
    said: broadcast::Sender<Heard>,
}

/// Members that listen, and with how many ears.
type Listening = BTreeMap<String, usize>;

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the map as it was: nothing here panics between two changes.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryLedger {
    pub fn new(base: Timestamp, begun: Instant) -> Self {
        let said = broadcast::Sender::new(MOST_LAG);
        MemoryLedger { base, begun, entries: Mutex::default(), listening: Arc::default(), said }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()> {
        check(budget, None, Some(words))?;
        // Without anybody who listens there is nobody to hear.
        let _nobody = self.said.send(Heard { budget: budget.to_owned(), words: words.to_vec() });
        Ok(())
    }

    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept> {
        check(budget, Some(keep), None)?;
        let now = self.base + self.begun.elapsed();
        let present = lock(&self.listening).clone();
        let listens = |member: &str| present.contains_key(member);
        let mut kept = lock(&self.entries).entry(budget.to_owned()).or_default().keep(keep, now, listens);
        kept.present = present.into_keys().collect();
        if let (true, Some(words)) = (kept.yours, &keep.words) {
            self.say(budget, words).await?;
        }
        Ok(kept)
    }

    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>> {
        *lock(&self.listening).entry(member.to_owned()).or_default() += 1;
        let listening = Arc::clone(&self.listening);
        Ok(Box::new(Ears { member: member.to_owned(), listening, heard: self.said.subscribe() }))
    }

    async fn budgets(&self, most: usize) -> Result<Vec<Noted>> {
        Ok(lock(&self.entries).iter().take(most).map(|(budget, entry)| entry.noted(budget)).collect())
    }
}

struct Ears {
    member: String,
    listening: Arc<Mutex<Listening>>,
    heard: broadcast::Receiver<Heard>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        let mut listening = lock(&self.listening);
        let ears = listening.get(&self.member).map_or(0, |ears| ears.saturating_sub(1));
        if ears == 0 {
            listening.remove(&self.member);
        } else {
            listening.insert(self.member.clone(), ears);
        }
    }
}

#[async_trait]
impl Listener for Ears {
    async fn next(&mut self) -> Result<Heard> {
        self.heard.recv().await.map_err(|error| StoreError::Unavailable(format!("the ledger: {error}")))
    }
}
