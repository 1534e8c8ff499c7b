//! Records as rows.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde_json::Value;
use steadfast_core::end::EndStatus;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;

use super::turns::{Place, line_of, line_word, moved};
use crate::caps::Caps;
use crate::record::{Cancel, Record, further_fields, state_of, state_word};
use crate::{Counts, Lease, Settlement};

/// A job as a row holds it. The text may be anything, if somebody edited the file.
pub(super) struct Stored {
    /// The job's JSON.
    pub data: String,
    /// All the rest, or why it cannot be read.
    pub record: Result<Record, String>,
    /// The row, and where the job stands.
    pub place: Place,
}

impl Stored {
    /// The record and the job, or why one of them cannot be read.
    pub fn read(self) -> Result<(Record, Job), String> {
        // The cap of today's configuration does not concern a job that was taken in before.
        let uncapped = Caps { job: usize::MAX, steps: 0, step: 0, patch: 0, journal: 0 };
        let job = uncapped.read_job(&self.data).map_err(|error| error.to_string())?;
        Ok((self.record?, job))
    }
}

/// Loads one job.
pub(super) fn load(conn: &Connection, id: &str) -> rusqlite::Result<Option<Stored>> {
    conn.prepare_cached("SELECT * FROM jobs WHERE id = ?")?.query_row([id], stored).optional()
}

/// Loads the job of a row.
pub(super) fn load_row(conn: &Connection, seq: u64) -> rusqlite::Result<Option<Stored>> {
    conn.prepare_cached("SELECT * FROM jobs WHERE seq = ?")?.query_row([seq], stored).optional()
}

/// Reads a row of `jobs`.
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { data: row.get("data")?, record: record(row)?, place: place(row)? })
}

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    let line: Option<String> = row.get("line")?;
    Ok(Place {
        line: line.as_deref().and_then(line_of),
        priority: row.get("priority")?,
        owner: row.get("owner")?,
        repo: row.get("repo")?,
        due: row.get("due").map(Timestamp::from_millis)?,
        seq: row.get("seq")?,
    })
}

fn record(row: &Row<'_>) -> rusqlite::Result<Result<Record, String>> {
    let time = |name: &str| row.get(name).map(Timestamp::from_millis);
    let maybe = |name: &str| row.get::<_, Option<i64>>(name).map(|at| at.map(Timestamp::from_millis));
    let word: String = row.get("state")?;
    let Some(state) = state_of(&word) else { return Ok(Err(format!("no such state: {word:?}"))) };
    let end = match end(row)? {
        Ok(end) => end,
        Err(why) => return Ok(Err(why)),
    };
    Ok(Ok(Record {
        seq: row.get("seq")?,
        state,
        token: row.get("token")?,
        due: time("due")?,
        lease_end: time("lease_end")?,
        counts: Counts {
            runs: row.get("runs")?,
            attempts: row.get("attempts")?,
            crashes: row.get("crashes")?,
            waits: row.get("waits")?,
            steps: row.get("steps")?,
        },
        duplicates: row.get("duplicates")?,
        journal_bytes: row.get("journal_bytes")?,
        cancel: match row.get::<_, i64>("cancel")? {
            0 => Cancel::No,
            TOLD => Cancel::Told,
            _ => Cancel::Asked,
        },
        priority: row.get("priority")?,
        unique: row.get("uniq")?,
        // Only shown: what is no id names nobody.
        joined_to: row.get::<_, Option<String>>("joined_to")?.and_then(|id| JobId::new(id).ok()),
        retries: row.get("retries")?,
        closed: row.get("closed")?,
        admitted_at: time("admitted_at")?,
        started_at: maybe("started_at")?,
        ended_at: maybe("ended_at")?,
        waiting_for: row.get("waiting_for")?,
        runner: row.get("runner")?,
        last_error: row.get("last_error")?,
        end,
    }))
}

fn end(row: &Row<'_>) -> rusqlite::Result<Result<Option<Settlement>, String>> {
    let Some(word) = row.get::<_, Option<String>>("end_status")? else { return Ok(Ok(None)) };
    let result: Option<String> = row.get("result")?;
    let fields: Option<String> = row.get("fields")?;
    let read = || {
        let status: EndStatus = serde_json::from_value(Value::String(word))?;
        let result = serde_json::from_str(result.as_deref().unwrap_or("null"))?;
        let fields = serde_json::from_str(fields.as_deref().unwrap_or("[]"))?;
        Ok(Some(Settlement { status, result, fields }))
    };
    Ok(read().map_err(|error: serde_json::Error| format!("its end: {error}")))
}

const ASKED: i64 = 1;
const TOLD: i64 = 2;

fn cancel_number(cancel: Cancel) -> i64 {
    match cancel {
        Cancel::No => 0,
        Cancel::Asked => ASKED,
        Cancel::Told => TOLD,
    }
}

/// Adds a job whose record is new; its row's number becomes the order of its admission.
pub(super) fn insert(
    conn: &Connection,
    job: &Job,
    data: &str,
    record: &Record,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO jobs (id, data, state, line, priority, owner, repo, uniq, retries, token, due, lease_end, \
         runs, attempts, crashes, waits, steps, duplicates, journal_bytes, cancel, closed, admitted_at) \
         VALUES (?, ?, 'ended', NULL, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', ?)",
    )?;
    let place = Place::of(job);
    let Place { priority, owner, repo, .. } = &place;
    let id = job.id.as_str();
    insert.execute((id, data, priority, owner, repo, &record.unique, record.admitted_at.millis()))?;
    let seq = u64::try_from(conn.last_insert_rowid()).unwrap_or(0);
    save(conn, &Place { seq, ..place }, &Record { seq, ..record.clone() }, now)
}

/// Keeps a record that was changed, and gives the job its place.
pub(super) fn save(conn: &Connection, from: &Place, record: &Record, now: Timestamp) -> rusqlite::Result<()> {
    let to = Place { line: record.line(now), due: record.due, ..from.clone() };
    let end = record.end.as_ref();
    let fields: Option<Vec<_>> = end.map(|end| further_fields(end).collect());
    let mut update = conn.prepare_cached(
        "UPDATE jobs SET state = :state, line = :line, joined_to = :joined_to, retries = :retries, \
         admitted_at = :admitted_at, token = :token, due = :due, lease_end = :lease_end, runs = :runs, \
         attempts = :attempts, crashes = :crashes, waits = :waits, steps = :steps, \
         duplicates = :duplicates, journal_bytes = :journal_bytes, cancel = :cancel, closed = :closed, \
         started_at = :started_at, ended_at = :ended_at, waiting_for = :waiting_for, runner = :runner, \
         last_error = :last_error, end_status = :end_status, result = :result, fields = :fields \
         WHERE seq = :seq",
    )?;
    update.execute(named_params! {
        ":seq": record.seq,
        ":state": state_word(record.state),
        ":token": record.token,
        ":due": record.due.millis(),
        ":lease_end": record.lease_end.millis(),
        ":runs": record.counts.runs,
        ":attempts": record.counts.attempts,
        ":crashes": record.counts.crashes,
        ":waits": record.counts.waits,
        ":steps": record.counts.steps,
        ":duplicates": record.duplicates,
        ":journal_bytes": record.journal_bytes,
        ":line": to.line.map(line_word),
        ":joined_to": record.joined_to.as_ref().map(JobId::as_str),
        ":retries": record.retries,
        ":admitted_at": record.admitted_at.millis(),
        ":cancel": cancel_number(record.cancel),
        ":closed": record.closed,
        ":started_at": record.started_at.map(Timestamp::millis),
        ":ended_at": record.ended_at.map(Timestamp::millis),
        ":waiting_for": record.waiting_for,
        ":runner": record.runner,
        ":last_error": record.last_error,
        ":end_status": end.map(|end| end.status.as_str()),
        ":result": end.map(|end| end.result.to_string()),
        ":fields": fields.map(|fields| serde_json::to_string(&fields).unwrap_or_else(|_| "[]".into())),
    })?;
    moved(conn, from, &to)
}

/// The living job that a key belongs to.
pub(super) fn alive(conn: &Connection, unique: Option<&String>) -> rusqlite::Result<Option<JobId>> {
    let Some(key) = unique else { return Ok(None) };
    let mut alive = conn.prepare_cached(
        "SELECT id FROM jobs INDEXED BY jobs_unique WHERE uniq = ? AND uniq IS NOT NULL AND state <> 'ended'",
    )?;
    let id: Option<String> = alive.query_row([key], |row| row.get(0)).optional()?;
    Ok(id.and_then(|id| JobId::new(id).ok()))
}

/// Whether a lease's job is to be called off, and whether its run was told.
pub(super) fn called_off(conn: &Connection, lease: &Lease) -> rusqlite::Result<(bool, bool)> {
    let mut cancel =
        conn.prepare_cached("SELECT cancel FROM jobs WHERE id = ? AND token = ? AND state = 'running'")?;
    let found = cancel.query_row(params![lease.job.as_str(), lease.token.0], |row| row.get::<_, i64>(0));
    let cancel = found.optional()?.unwrap_or(0);
    Ok((cancel != 0, cancel == TOLD))
}
