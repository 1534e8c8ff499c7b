//! What tests may do to a store in SQLite that nobody else may: fill its disk, and count its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use super::SqliteStore;
use crate::{Result, StoreError};

impl SqliteStore {
    /// Limits the file to so many pages: a full disk.
    pub async fn limit_pages(&self, pages: i64) -> Result<()> {
        self.set_pragma("max_page_count", pages).await
    }

    /// Sets a pragma of the connection that writes.
    pub async fn set_pragma(&self, name: &'static str, value: i64) -> Result<()> {
        let set = move |conn: &Connection| {
            // Some answer with what now holds, which nobody needs.
            let mut set = conn.prepare(&format!("PRAGMA {name} = {value}"))?;
            set.query([])?.next().map(|_| ())
        };
        let failed = |error: rusqlite::Error| StoreError::Unusable(error.to_string());
        self.writer.run(move |conn| set(conn).map_err(failed)).await
    }

    /// A pragma of the connection that writes.
    pub async fn pragma(&self, name: &'static str) -> Result<i64> {
        let failed = |error: rusqlite::Error| StoreError::Unusable(error.to_string());
        self.writer
            .run(move |conn| conn.pragma_query_value(None, name, |row| row.get(0)).map_err(failed))
            .await
    }

    /// Counts, from now on, the steps of SQLite's machine: those of the connection that writes, and of
    /// one that reads.
    pub async fn count_work(&self) -> Result<Arc<AtomicU64>> {
        let steps = Arc::new(AtomicU64::new(0));
        let count = |steps: &Arc<AtomicU64>| {
            let steps = Arc::clone(steps);
            move |conn: &Connection| {
                let step = move || {
                    steps.fetch_add(1, Ordering::Relaxed);
                    false
                };
                conn.progress_handler(1, Some(step));
                Ok(())
            }
        };
        self.writer.run(count(&steps)).await?;
        // Who reads next, one at a time, is given the connection that was used last.
        self.readers.run(count(&steps)).await?;
        Ok(steps)
    }
}
