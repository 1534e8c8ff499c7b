//! What the SQLite store does inside a transaction.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use steadfast_core::job::JobId;
use steadfast_core::time::Timestamp;

use super::rows::{self, Stored};
use super::schema::{self, failure};
use crate::caps::Caps;
use crate::memory::misplaced;
use crate::record::{Record, Taken, closing, lost, state_of, state_word, unreadable};
use crate::{
    Admission, Cancellation, Claim, ClaimedFrom, Inspection, Lease, Renewal, Replay, Result, State,
    StoreError,
};

/// Most jobs that one purge removes.
const PURGE_BATCH: usize = 100;

/// A transaction, and the time at which it happens.
pub(super) struct Tx<'a> {
    conn: &'a Connection,
    path: &'a Path,
    pub now: Timestamp,
}

impl<'a> Tx<'a> {
    pub fn new(conn: &'a Connection, path: &'a Path) -> Result<Self> {
        let now = schema::now(conn).map_err(|error| failure(path, &error))?;
        Ok(Tx { conn, path, now })
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|error| failure(self.path, &error))
    }

    fn load(&self, id: &JobId) -> Result<Option<Stored>> {
        self.sql(rows::load(self.conn, id.as_str()))
    }

    fn record(&self, id: &JobId) -> Result<Option<Record>> {
        let record = |stored: Stored| stored.record.map_err(|why| corrupt(id, &why));
        self.load(id)?.map(record).transpose()
    }

    fn leased(&self, lease: &Lease) -> Result<Record> {
        self.record(&lease.job)?.ok_or_else(|| lost(lease))
    }

    pub fn submit(&self, id: &JobId, data: &str) -> Result<Admission> {
        let mut duplicate =
            self.sql(self.conn.prepare_cached("UPDATE jobs SET duplicates = duplicates + 1 WHERE id = ?"))?;
        if self.sql(duplicate.execute([id.as_str()]))? > 0 {
            return Ok(Admission::Duplicate);
        }
        let record = Record::admitted(0, closing::submit(""), self.now);
        self.sql(rows::insert(self.conn, id.as_str(), data, &record))?;
        Ok(Admission::Queued)
    }

    /// The next instant at which something can be claimed.
    pub fn next(&self) -> Result<Option<Timestamp>> {
        let mut next = self.sql(self.conn.prepare_cached(
            "SELECT min(at) FROM ( \
             SELECT min(due) AS at FROM jobs INDEXED BY jobs_waiting \
             WHERE state IN ('queued', 'parked') UNION ALL \
             SELECT min(lease_end) FROM jobs INDEXED BY jobs_running WHERE state = 'running')",
        ))?;
        let at: Option<i64> = self.sql(next.query_row([], |row| row.get(0)))?;
        Ok(at.map(Timestamp::from_millis))
    }

    /// Claims, first of all what `earlier` claimed and nobody heard of.
    pub fn claim(&self, most: usize, earlier: &[Lease], lease: Duration, runner: &str) -> Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for held in earlier {
            claims.extend(self.deliver(held, lease)?);
        }
        let mut candidates = self.candidates(
            "SELECT id FROM jobs INDEXED BY jobs_running WHERE state = 'running' AND lease_end <= ? \
             ORDER BY lease_end LIMIT ?",
            most,
        )?;
        candidates.extend(self.candidates(
            "SELECT id FROM jobs INDEXED BY jobs_waiting WHERE state IN ('queued', 'parked') AND due <= ? \
             ORDER BY due, seq LIMIT ?",
            most,
        )?);
        for id in candidates {
            if claims.len() >= most {
                break;
            }
            claims.extend(self.take(&id, lease, runner)?);
        }
        Ok(claims)
    }

    fn candidates(&self, sql: &str, most: usize) -> Result<Vec<String>> {
        let mut select = self.sql(self.conn.prepare_cached(sql))?;
        let ids = self.sql(select.query_map(params![self.now.millis(), most], |row| row.get(0)))?;
        self.sql(ids.collect())
    }

    /// A claim whose answer was lost on its way.
    fn deliver(&self, held: &Lease, lease: Duration) -> Result<Option<Claim>> {
        if self.renew(held, lease)? == Renewal::Lost {
            return Ok(None);
        }
        let Some(Ok((record, job))) = self.load(&held.job)?.map(Stored::read) else { return Ok(None) };
        let from = match record.closed == closing::EXPIRED {
            true => ClaimedFrom::ExpiredLease,
            false => ClaimedFrom::Queue,
        };
        Ok(Some(record.claimed(job, from)))
    }

    fn take(&self, id: &str, lease: Duration, runner: &str) -> Result<Option<Claim>> {
        let Some(stored) = self.sql(rows::load(self.conn, id))? else { return Ok(None) };
        let seq = stored.seq;
        match stored.read() {
            Ok((mut record, job)) => {
                let taken = record.claim(self.now, lease, runner);
                self.sql(rows::save(self.conn, &record))?;
                match taken {
                    Taken::Claimed(from) => Ok(Some(record.claimed(job, from))),
                    Taken::CalledOff | Taken::No => Ok(None),
                }
            }
            Err(why) => {
                tracing::error!(job = id, why, "unreadable job set aside as failed");
                let mut record = Record::admitted(seq, closing::submit(""), self.now);
                record.ended(unreadable(&why), self.now);
                self.sql(rows::save(self.conn, &record))?;
                Ok(None)
            }
        }
    }

    pub fn renew(&self, lease: &Lease, by: Duration) -> Result<Renewal> {
        let Some(Ok(mut record)) = self.load(&lease.job)?.map(|stored| stored.record) else {
            return Ok(Renewal::Lost);
        };
        let renewal = record.renew(lease, self.now, by);
        if renewal != Renewal::Lost {
            self.sql(rows::save(self.conn, &record))?;
        }
        Ok(renewal)
    }

    pub fn append(
        &self,
        lease: &Lease,
        at: usize,
        steps: &[Vec<u8>],
        patch: Option<&[u8]>,
        caps: &Caps,
    ) -> Result<()> {
        let mut record = self.leased(lease)?;
        record.check(lease)?;
        let have = record.counts.steps as usize;
        if at != have {
            let there = self.steps(record.seq, at, steps.len())?;
            return if at < have && there == steps { Ok(()) } else { Err(misplaced(&lease.job, at, have)) };
        }
        let bytes: usize = steps.iter().map(Vec::len).sum();
        let journal = usize::try_from(record.journal_bytes).unwrap_or(usize::MAX);
        caps.check_journal(have + steps.len(), journal.saturating_add(bytes))?;
        let mut insert =
            self.sql(self.conn.prepare_cached("INSERT INTO steps (job, at, body) VALUES (?, ?, ?)"))?;
        for (at, step) in (at..).zip(steps) {
            self.sql(insert.execute(params![record.seq, at, step]))?;
        }
        if let Some(patch) = patch {
            let sql = "INSERT OR REPLACE INTO patches (job, body) VALUES (?, ?)";
            self.sql(self.sql(self.conn.prepare_cached(sql))?.execute(params![record.seq, patch]))?;
        }
        record.appended(steps.len(), bytes);
        self.sql(rows::save(self.conn, &record))
    }

    fn steps(&self, seq: u64, from: usize, most: usize) -> Result<Vec<Vec<u8>>> {
        let sql = "SELECT body FROM steps WHERE job = ? AND at >= ? ORDER BY at LIMIT ?";
        let mut select = self.sql(self.conn.prepare_cached(sql))?;
        let bodies = self.sql(select.query_map(params![seq, from, most], |row| row.get(0)))?;
        self.sql(bodies.collect())
    }

    pub fn replay(&self, id: &JobId) -> Result<Replay> {
        let Some(record) = self.record(id)? else { return Ok(Replay::default()) };
        let steps = self.steps(record.seq, 0, record.counts.steps as usize)?;
        if steps.len() != record.counts.steps as usize {
            let (found, wanted) = (steps.len(), record.counts.steps);
            return Err(corrupt(id, &format!("{found} steps where {wanted} were written")));
        }
        let mut select = self.sql(self.conn.prepare_cached("SELECT body FROM patches WHERE job = ?"))?;
        let patch = self.sql(select.query_row([record.seq], |row| row.get(0)).optional())?;
        Ok(Replay { steps, patch: patch.unwrap_or_default() })
    }

    /// Changes the job that a lease is for.
    pub fn change(&self, lease: &Lease, to: impl FnOnce(&mut Record) -> Result<()>) -> Result<()> {
        let mut record = self.leased(lease)?;
        to(&mut record)?;
        self.sql(rows::save(self.conn, &record))
    }

    pub fn cancel(&self, id: &JobId) -> Result<Cancellation> {
        let Some(mut record) = self.record(id)? else { return Ok(Cancellation::Unknown) };
        let cancelled = record.cancel(self.now);
        self.sql(rows::save(self.conn, &record))?;
        Ok(cancelled)
    }

    pub fn inspect(&self, id: &JobId) -> Result<Option<Inspection>> {
        let Some(stored) = self.load(id)? else { return Ok(None) };
        let (record, job) = stored.read().map_err(|why| corrupt(id, &why))?;
        Ok(Some(record.inspection(job)))
    }

    pub fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        let sql = match state {
            Some(_) => "SELECT * FROM jobs WHERE state = ?1 ORDER BY seq DESC LIMIT ?2",
            None => "SELECT * FROM jobs WHERE ?1 IS NULL ORDER BY seq DESC LIMIT ?2",
        };
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut select = self.sql(self.conn.prepare_cached(sql))?;
        let found = self.sql(select.query_map(params![state.map(state_word), most], rows::stored))?;
        let mut list = Vec::new();
        for stored in found {
            match self.sql(stored)?.read() {
                Ok((record, job)) => list.push(record.inspection(job)),
                Err(why) => tracing::warn!(store = %self.path.display(), why, "unreadable job left out"),
            }
        }
        Ok(list)
    }

    pub fn count(&self) -> Result<[u64; 4]> {
        let mut select =
            self.sql(self.conn.prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state"))?;
        let rows = self.sql(select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))))?;
        let mut counts = [0; 4];
        for row in rows {
            let (word, count): (String, u64) = self.sql(row)?;
            if let Some(state) = state_of(&word) {
                counts[state as usize] = count;
            }
        }
        Ok(counts)
    }

    pub fn purge(&self, before: Timestamp) -> Result<u64> {
        let mut select = self.sql(self.conn.prepare_cached(
            "SELECT seq FROM jobs INDEXED BY jobs_ended \
             WHERE state = 'ended' AND ended_at <= ? ORDER BY ended_at LIMIT ?",
        ))?;
        let old = self.sql(select.query_map(params![before.millis(), PURGE_BATCH], |row| row.get(0)))?;
        let old: Vec<u64> = self.sql(old.collect())?;
        for table in ["steps WHERE job", "patches WHERE job", "jobs WHERE seq"] {
            let mut delete = self.sql(self.conn.prepare_cached(&format!("DELETE FROM {table} = ?")))?;
            for seq in &old {
                self.sql(delete.execute([seq]))?;
            }
        }
        Ok(old.len() as u64)
    }
}

fn corrupt(id: &JobId, why: &str) -> StoreError {
    StoreError::Corrupt(format!("job {id}: {why}"))
}
