//! The limit ledger of one runner, as its line lets it through: away with the store, silent with the
//! dead.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_store::{Heard, Keep, Kept, Ledger, Listener, Noted, Result};

use super::storm::{Call, Line};

/// See the module.
pub struct StormyLedger {
    pub inner: Arc<dyn Ledger>,
    pub line: Arc<Line>,
}

struct StormyListener {
    /// Dropped with the runner: what is dead does not listen.
    inner: Option<Box<dyn Listener>>,
    line: Arc<Line>,
}

fn call(name: &'static str, detail: String) -> Call<'static> {
    Call { name, job: None, kind: None, told: false, panics: false, detail }
}

#[async_trait]
impl Ledger for StormyLedger {
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()> {
        self.line.store(call("say", format!(" {budget}")), self.inner.say(budget, words)).await
    }

    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept> {
        let keeping = async {
            let kept = self.inner.keep(budget, keep).await?;
            // A change of keepers is worth a line; that it goes on is not.
            if kept.yours && kept.epoch != keep.epoch && keep.lease > Duration::ZERO {
                self.line.note(None, format!("keeps {budget} from now on, epoch {}", kept.epoch));
            }
            Ok(kept)
        };
        self.line.store(call("keep", format!(" {budget}")), keeping).await
    }

    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>> {
        let inner = self.line.store(call("listen", String::new()), self.inner.listen(member)).await?;
        Ok(Box::new(StormyListener { inner: Some(inner), line: Arc::clone(&self.line) }))
    }

    async fn budgets(&self, most: usize) -> Result<Vec<Noted>> {
        self.line.store(call("budgets", String::new()), self.inner.budgets(most)).await
    }
}

#[async_trait]
impl Listener for StormyListener {
    async fn next(&mut self) -> Result<Heard> {
        let heard = match &mut self.inner {
            Some(inner) => tokio::select! {
                biased;
                () = self.line.gone() => None,
                heard = inner.next() => Some(heard),
            },
            None => None,
        };
        let Some(heard) = heard else {
            self.inner = None;
            return std::future::pending().await;
        };
        self.line.hears().await?;
        heard
    }
}
