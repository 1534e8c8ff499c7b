//! Records as rows.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;
use steadfast_core::end::EndStatus;
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;

use crate::caps::Caps;
use crate::record::{Record, further_fields, state_of, state_word};
use crate::{Counts, Settlement};

/// A job as a row holds it. The text may be anything, if somebody edited the file.
pub(super) struct Stored {
    /// The job's JSON.
    pub data: String,
    /// All the rest, or why it cannot be read.
    pub record: Result<Record, String>,
    /// The row.
    pub seq: u64,
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

/// Reads a row of `jobs`.
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { data: row.get("data")?, seq: row.get("seq")?, record: record(row)? })
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
        cancel: if row.get("cancel")? { crate::record::Cancel::Asked } else { crate::record::Cancel::No },
        priority: 0,
        unique: None,
        joined_to: None,
        retries: 0,
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

/// Adds a job; its row's number becomes its place.
pub(super) fn insert(conn: &Connection, id: &str, data: &str, record: &Record) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO jobs (id, data, state, token, due, lease_end, runs, attempts, crashes, waits, steps, \
         duplicates, journal_bytes, cancel, closed, admitted_at) \
         VALUES (?1, ?2, ?3, 0, ?4, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?5, ?4)",
    )?;
    insert.execute((id, data, state_word(record.state), record.due.millis(), &record.closed))?;
    Ok(())
}

/// Keeps a record that was changed.
pub(super) fn save(conn: &Connection, record: &Record) -> rusqlite::Result<()> {
    let end = record.end.as_ref();
    let fields: Option<Vec<_>> = end.map(|end| further_fields(end).collect());
    let mut update = conn.prepare_cached(
        "UPDATE jobs SET state = :state, token = :token, due = :due, lease_end = :lease_end, runs = :runs, \
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
        ":cancel": record.cancel != crate::record::Cancel::No,
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
    Ok(())
}
