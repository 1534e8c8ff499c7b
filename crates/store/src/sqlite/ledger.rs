//! The limit ledger in the SQLite file, for the processes of one machine: what is said is a row, and
//! who listens looks for new ones.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use steadfast_core::time::Timestamp;

use super::presence::{self, Here};
use super::schema::{failure, now};
use super::writer::{Readers, Writer};
use crate::ledger::{Entry, Heard, Keep, Kept, Ledger, Listener, Noted, check};
use crate::{Result, StoreError};

/// How often a listener looks.
const LOOK: Duration = Duration::from_millis(50);
/// Most messages that are kept for listeners.
const KEPT_WORDS: i64 = 2_000;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS ledger (
    budget TEXT PRIMARY KEY NOT NULL,
    keeper TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    until INTEGER NOT NULL,
    note BLOB NOT NULL,
    noted_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS ledger_words (
    at INTEGER PRIMARY KEY AUTOINCREMENT,
    budget TEXT NOT NULL,
    words BLOB NOT NULL
) STRICT;";

/// See the module.
pub(super) struct SqliteLedger {
    pub writer: Writer,
    pub readers: Readers,
    pub path: std::path::PathBuf,
}

impl SqliteLedger {
    async fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        let done = move |conn: &Connection| {
            let result = conn.execute_batch(TABLES).and_then(|()| op(conn));
            result.map_err(|error| failure(&path, &error))
        };
        self.writer.run(done).await
    }
}

fn say(conn: &Connection, budget: &str, words: &[u8]) -> rusqlite::Result<()> {
    conn.execute("INSERT INTO ledger_words (budget, words) VALUES (?1, ?2)", params![budget, words])?;
    let last = conn.last_insert_rowid();
    conn.execute("DELETE FROM ledger_words WHERE at <= ?1", [last - KEPT_WORDS]).map(|_| ())
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        keeper: row.get("keeper")?,
        epoch: u64::try_from(row.get::<_, i64>("epoch")?).unwrap_or(0),
        until: Timestamp::from_millis(row.get("until")?),
        note: row.get("note")?,
        noted_at: Timestamp::from_millis(row.get("noted_at")?),
    })
}

/// A file that no process shared a budget over has no tables for it yet.
fn has_tables(conn: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ledger_words'";
    conn.query_row(sql, [], |_| Ok(())).optional().map(|found| found.is_some())
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()> {
        check(budget, None, Some(words))?;
        let (budget, words) = (budget.to_owned(), words.to_vec());
        self.write(move |conn| say(conn, &budget, &words)).await
    }

    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept> {
        check(budget, Some(keep), None)?;
        let (budget, keep, path) = (budget.to_owned(), keep.clone(), self.path.clone());
        let op = move |conn: &Connection| {
            let now = now(conn)?;
            let found =
                conn.query_row("SELECT * FROM ledger WHERE budget = ?1", [&budget], entry).optional()?;
            let mut entry = found.unwrap_or_default();
            let mut kept = entry.keep(&keep, now, |member| presence::is_there(&path, member));
            if kept.yours {
                let epoch = i64::try_from(entry.epoch).unwrap_or(i64::MAX);
                let (until, noted_at) = (entry.until.millis(), entry.noted_at.millis());
                conn.execute(
                    "INSERT OR REPLACE INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![budget, entry.keeper, epoch, until, entry.note, noted_at],
                )?;
                if let Some(words) = &keep.words {
                    say(conn, &budget, words)?;
                }
            }
            // Who holds leases is there.
            let sql = "SELECT DISTINCT runner FROM jobs WHERE state = 'running' AND lease_end > ?1 AND runner IS NOT NULL";
            let mut runners = conn.prepare_cached(sql)?;
            let names = runners.query_map([now.millis()], |row| row.get(0))?;
            kept.present = names.collect::<rusqlite::Result<_>>()?;
            Ok(kept)
        };
        self.write(op).await
    }

    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>> {
        let (path, member) = (self.path.clone(), member.to_owned());
        let here = self.readers.run(move |_| presence::arrive(&path, &member)).await?;
        let (readers, path) = (self.readers.clone(), self.path.clone());
        let mut ears = Ears { readers, path, last: 0, heard: Vec::new(), _here: here };
        ears.last = ears
            .read(|conn| {
                conn.query_row("SELECT coalesce(max(at), 0) FROM ledger_words", [], |row| row.get(0))
            })
            .await?
            .unwrap_or(0);
        Ok(Box::new(ears))
    }

    async fn budgets(&self, most: usize) -> Result<Vec<Noted>> {
        let (path, most) = (self.path.clone(), i64::try_from(most).unwrap_or(i64::MAX));
        let read = move |conn: &Connection| {
            if !has_tables(conn)? {
                return Ok(Vec::new());
            }
            let mut all = conn.prepare_cached("SELECT * FROM ledger ORDER BY budget LIMIT ?1")?;
            let rows =
                all.query_map([most], |row| Ok(entry(row)?.noted(&row.get::<_, String>("budget")?)))?;
            rows.collect()
        };
        self.readers.run(move |conn| read(conn).map_err(|error| failure(&path, &error))).await
    }
}

struct Ears {
    readers: Readers,
    path: std::path::PathBuf,
    last: i64,
    /// Heard and not yet handed on, newest first.
    heard: Vec<Heard>,
    _here: Here,
}

impl Ears {
    /// Reads, if the tables are there.
    async fn read<T: Send + 'static>(
        &self,
        op: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let path = self.path.clone();
        let read = move |conn: &Connection| if has_tables(conn)? { op(conn).map(Some) } else { Ok(None) };
        self.readers.run(move |conn| read(conn).map_err(|error| failure(&path, &error))).await
    }
}

#[async_trait]
impl Listener for Ears {
    async fn next(&mut self) -> Result<Heard> {
        loop {
            if let Some(heard) = self.heard.pop() {
                return Ok(heard);
            }
            let last = self.last;
            let new = self.read(move |conn| {
                let sql = "SELECT at, budget, words FROM ledger_words WHERE at > ?1 ORDER BY at LIMIT 500";
                let mut words = conn.prepare_cached(sql)?;
                let rows = words.query_map([last], |row| {
                    Ok((row.get::<_, i64>(0)?, Heard { budget: row.get(1)?, words: row.get(2)? }))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            });
            let new = new.await?.unwrap_or_default();
            if let Some((first, _)) = new.first()
                && self.last > 0
                && *first > self.last + 1
            {
                self.last = new.last().map_or(self.last, |(at, _)| *at);
                return Err(StoreError::Unavailable("the ledger: too far behind what was said".into()));
            }
            self.last = new.last().map_or(self.last, |(at, _)| *at);
            self.heard = new.into_iter().rev().map(|(_, heard)| heard).collect();
            if self.heard.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
