//! What the SQLite store does inside a transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;

use super::rows::{self, Stored};
use super::schema::{self, failure};
use super::turns::{self, Held, Place};
use crate::caps::Caps;
use crate::memory::misplaced;
use crate::packing::missing_step;
use crate::record::{Line, Record, Taken, closing, lost, state_of, state_word, unreadable};
use crate::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Result, Retried, RetryFrom, State,
    StoreError, Whom,
};

/// Most jobs that one purge removes.
const PURGE_BATCH: usize = 100;

/// Most expired leases that one claim looks at.
const EXPIRED: usize = 1000;

/// Who claims, and how.
pub(super) struct Claimer {
    pub runner: Arc<str>,
    pub lease: Duration,
    pub per_repo: u32,
    pub only_called_off: bool,
}

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

    /// A job as it is kept, if its row can be read.
    fn kept(&self, id: &JobId) -> Result<Option<(Record, Place)>> {
        let Some(stored) = self.load(id)? else { return Ok(None) };
        let record = stored.record.map_err(|why| corrupt(id, &why))?;
        Ok(Some((record, stored.place)))
    }

    fn leased(&self, lease: &Lease) -> Result<(Record, Place)> {
        self.kept(&lease.job)?.ok_or_else(|| lost(lease))
    }

    fn save(&self, from: &Place, record: &Record) -> Result<()> {
        self.sql(rows::save(self.conn, from, record, self.now))
    }

    pub fn submit(&self, job: &Job, data: &str, unique_issues: bool) -> Result<Admission> {
        let mut duplicate =
            self.sql(self.conn.prepare_cached("UPDATE jobs SET duplicates = duplicates + 1 WHERE id = ?"))?;
        if self.sql(duplicate.execute([job.id.as_str()]))? > 0 {
            return Ok(Admission::Duplicate);
        }
        let mut record = Record::admitted(0, closing::submit(""), self.now).with_wishes(job, unique_issues);
        let alive = self.sql(rows::alive(self.conn, record.unique.as_ref()))?;
        if let Some(to) = &alive {
            record.joined(to, self.now);
        }
        self.sql(rows::insert(self.conn, job, data, &record, self.now))?;
        Ok(alive.map_or(Admission::Queued, |to| Admission::Joined { to }))
    }

    /// The next instant at which a claim does something.
    pub fn next(&self, per_repo: u32) -> Result<Option<Timestamp>> {
        let held = self.sql(Held::now(self.conn, per_repo))?;
        self.sql(held.next(self.conn, self.now))
    }

    /// Claims, first of all what was claimed before and nobody heard of.
    pub fn claim(&self, by: &Claimer, most: usize, earlier: &[Lease]) -> Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for held in earlier {
            claims.extend(self.deliver(held, by.lease)?);
        }
        while claims.len() < most
            && let Some(seq) = self.sql(turns::first_urgent(self.conn))?
        {
            claims.extend(self.take(seq, by)?);
        }
        if by.only_called_off {
            return Ok(claims);
        }
        let held = self.sql(Held::now(self.conn, by.per_repo))?;
        if held.all || claims.len() >= most {
            return Ok(claims);
        }
        self.take_over(&held, by, most, &mut claims)?;
        self.sql(turns::promote(self.conn, self.now))?;
        while claims.len() < most
            && let Some((seq, priority, owner)) = self.sql(held.first_ready(self.conn))?
        {
            self.sql(turns::served(self.conn, priority, &owner))?;
            claims.extend(self.take(seq, by)?);
        }
        Ok(claims)
    }

    /// Claims those whose leases are over; of owners who are paused, puts them back.
    fn take_over(&self, held: &Held, by: &Claimer, most: usize, claims: &mut Vec<Claim>) -> Result<()> {
        for (seq, id, owner) in self.sql(turns::expired(self.conn, self.now, EXPIRED + claims.len()))? {
            if claims.len() >= most {
                break;
            }
            if claims.iter().any(|claim| claim.lease.job.as_str() == id) {
                continue;
            }
            if held.is_paused(&owner) && !self.put_back(seq)? {
                continue;
            }
            claims.extend(self.take(seq, by)?);
        }
        Ok(())
    }

    /// Puts a job back whose runner is gone and whose owner is paused; whether it is to be claimed all
    /// the same, since it is only to be called off.
    fn put_back(&self, seq: u64) -> Result<bool> {
        match self.sql(rows::load_row(self.conn, seq))? {
            Some(Stored { record: Ok(mut record), place, .. }) => {
                record.expire(self.now);
                self.save(&place, &record)?;
                Ok(record.is_urgent())
            }
            // Set aside when it is taken.
            Some(Stored { record: Err(_), .. }) => Ok(true),
            None => Ok(false),
        }
    }

    /// A claim whose answer was lost on its way.
    fn deliver(&self, held: &Lease, lease: Duration) -> Result<Option<Claim>> {
        if self.renew(held, lease)? == Renewal::Lost {
            return Ok(None);
        }
        let Some(Ok((record, job))) = self.load(&held.job)?.map(Stored::read) else { return Ok(None) };
        let from = record.claimed_from();
        Ok(Some(record.claimed(job, from)))
    }

    fn take(&self, seq: u64, by: &Claimer) -> Result<Option<Claim>> {
        let Some(stored) = self.sql(rows::load_row(self.conn, seq))? else { return Ok(None) };
        let place = stored.place.clone();
        match stored.read() {
            Ok((mut record, job)) => {
                if matches!(place.line, Some(Line::Ready | Line::Urgent)) {
                    // Its time had come, and has, though the clock was set back since.
                    record.due = record.due.min(self.now);
                }
                let taken = record.claim(self.now, by.lease, &by.runner);
                self.save(&place, &record)?;
                match taken {
                    Taken::Claimed(from) => Ok(Some(record.claimed(job, from))),
                    Taken::CalledOff | Taken::No => Ok(None),
                }
            }
            Err(why) => {
                tracing::error!(store = %self.path.display(), seq, why, "unreadable job set aside as failed");
                let mut record = Record::admitted(seq, closing::submit(""), self.now);
                record.ended(unreadable(&why), self.now);
                self.save(&place, &record)?;
                Ok(None)
            }
        }
    }

    pub fn renew(&self, lease: &Lease, by: Duration) -> Result<Renewal> {
        let Some(stored) = self.load(&lease.job)? else { return Ok(Renewal::Lost) };
        let Ok(mut record) = stored.record else { return Ok(Renewal::Lost) };
        let renewal = record.renew(lease, self.now, by);
        if renewal != Renewal::Lost {
            self.save(&stored.place, &record)?;
        }
        Ok(renewal)
    }

    /// Whether each lease's job is to be called off, and whether its run was told.
    pub fn called_off(&self, leases: &[Lease]) -> Result<Vec<(bool, bool)>> {
        leases.iter().map(|lease| self.sql(rows::called_off(self.conn, lease))).collect()
    }

    /// The same; from then on their runs are told.
    pub fn tell(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        let mut called_off = Vec::new();
        for lease in leases {
            if let Some((mut record, place)) = self.kept(&lease.job)?
                && record.holds(lease)
                && record.told()
            {
                self.save(&place, &record)?;
                called_off.push(lease.clone());
            }
        }
        Ok(called_off)
    }

    pub fn append(
        &self,
        lease: &Lease,
        at: usize,
        steps: &[Vec<u8>],
        patch: Option<&[u8]>,
        caps: &Caps,
    ) -> Result<()> {
        let (mut record, place) = self.leased(lease)?;
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
        self.save(&place, &record)
    }

    fn steps(&self, seq: u64, from: usize, most: usize) -> Result<Vec<Vec<u8>>> {
        let sql = "SELECT body FROM steps WHERE job = ? AND at >= ? ORDER BY at LIMIT ?";
        let mut select = self.sql(self.conn.prepare_cached(sql))?;
        let bodies = self.sql(select.query_map(params![seq, from, most], |row| row.get(0)))?;
        self.sql(bodies.collect())
    }

    /// The journal as far as it is there: each step that was lost is one that says so.
    pub fn replay(&self, id: &JobId, caps: &Caps) -> Result<Replay> {
        let Some((record, _)) = self.kept(id)? else { return Ok(Replay::default()) };
        let sql = "SELECT at, body FROM steps WHERE job = ? AND at < ? ORDER BY at";
        let mut select = self.sql(self.conn.prepare_cached(sql))?;
        let written = record.counts.steps as usize;
        let rows = self.sql(select.query_map(params![record.seq, written], |row| {
            Ok((row.get::<_, usize>(0)?, row.get::<_, Vec<u8>>(1)?))
        }))?;
        let mut steps = Vec::new();
        for row in rows {
            let (at, body) = self.sql(row)?;
            fill(&mut steps, at, caps);
            steps.push(body);
        }
        fill(&mut steps, written, caps);
        let mut select = self.sql(self.conn.prepare_cached("SELECT body FROM patches WHERE job = ?"))?;
        let patch = self.sql(select.query_row([record.seq], |row| row.get(0)).optional())?;
        Ok(Replay { steps, patch: patch.unwrap_or_default() })
    }

    /// Changes the job that a lease is for.
    pub fn change(&self, lease: &Lease, to: impl FnOnce(&mut Record) -> Result<()>) -> Result<()> {
        let (mut record, place) = self.leased(lease)?;
        to(&mut record)?;
        self.save(&place, &record)
    }

    pub fn cancel(&self, id: &JobId) -> Result<Cancellation> {
        let Some((mut record, place)) = self.kept(id)? else { return Ok(Cancellation::Unknown) };
        let cancelled = record.cancel(self.now);
        self.save(&place, &record)?;
        Ok(cancelled)
    }

    pub fn retry(&self, id: &JobId, from: RetryFrom) -> Result<Retried> {
        let Some((mut record, place)) = self.kept(id)? else { return Ok(Retried::Unknown) };
        if record.state == State::Ended
            && let Some(to) = self.sql(rows::alive(self.conn, record.unique.as_ref()))?
        {
            return Ok(Retried::Joined { to });
        }
        if !record.retry(from, self.now) {
            return Ok(Retried::Alive);
        }
        if from == RetryFrom::Start {
            self.forget_journal(record.seq)?;
        }
        self.save(&place, &record)?;
        Ok(Retried::Queued)
    }

    fn forget_journal(&self, seq: u64) -> Result<()> {
        for sql in ["DELETE FROM steps WHERE job = ?", "DELETE FROM patches WHERE job = ?"] {
            self.sql(self.sql(self.conn.prepare_cached(sql))?.execute([seq]))?;
        }
        Ok(())
    }

    pub fn pause(&self, whom: &Whom) -> Result<()> {
        self.sql(turns::pause(self.conn, whom))
    }

    pub fn resume(&self, whom: &Whom) -> Result<()> {
        self.sql(turns::resume(self.conn, whom))
    }

    pub fn paused(&self) -> Result<Vec<Whom>> {
        self.sql(turns::paused(self.conn))
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
        let mut delete = self.sql(self.conn.prepare_cached("DELETE FROM jobs WHERE seq = ?"))?;
        for seq in &old {
            self.forget_journal(*seq)?;
            self.sql(delete.execute([seq]))?;
        }
        Ok(old.len() as u64)
    }
}

/// Puts a step that says so in the place of each that is missing before `at`. A count that no journal
/// can have is somebody's edit, and is not believed.
fn fill(steps: &mut Vec<Vec<u8>>, at: usize, caps: &Caps) {
    while steps.len() < at.min(caps.steps.max(steps.len())) {
        steps.push(missing_step());
    }
}

fn corrupt(id: &JobId, why: &str) -> StoreError {
    StoreError::Corrupt(format!("job {id}: {why}"))
}
