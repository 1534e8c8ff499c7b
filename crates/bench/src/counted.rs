//! A ledger that counts the round trips to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use steadfast_store::{Keep, Kept, Ledger, Listener, Noted, Result};

/// See the module.
pub struct Counted {
    pub ledger: Arc<dyn Ledger>,
    pub trips: Arc<AtomicU64>,
}

#[async_trait]
impl Ledger for Counted {
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        self.ledger.say(budget, words).await
    }

    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        self.ledger.keep(budget, keep).await
    }

    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        self.ledger.listen(member).await
    }

    async fn budgets(&self, most: usize) -> Result<Vec<Noted>> {
        self.ledger.budgets(most).await
    }
}
