//! The SQLite file: how it is opened, what is in it, and what its errors mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use steadfast_core::time::Timestamp;

use crate::{Result, StoreError};

/// Says whose file it is: "Stfd".
const APPLICATION_ID: i64 = 0x5374_6664;

/// The schema that this build reads and writes.
const VERSION: i64 = 2;

/// Sets the jobs of schema 1 aside, whose table had fewer columns.
const LEAVE_1: &str = "
DROP INDEX IF EXISTS jobs_waiting;
DROP INDEX IF EXISTS jobs_running;
DROP INDEX IF EXISTS jobs_ended;
DROP INDEX IF EXISTS jobs_state;
ALTER TABLE jobs RENAME TO old_jobs;";

/// Takes them over into the tables of today.
const FROM_1: &str = include_str!("from_1.sql");

/// After an unclean end, a file of at most so many bytes is checked before it is used; a larger one
/// would keep everybody waiting.
const CHECKED_BYTES: u64 = 256 << 20;

/// The tables and their indices.
const SCHEMA: &str = include_str!("schema.sql");

/// Opens a connection to a file that may not be there yet, and makes the schema if it is not there.
pub(super) fn open_writer(path: &Path, busy: Duration) -> Result<Connection> {
    let unclean = wal_of(path).is_some_and(|bytes| bytes > 0);
    let conn = connect(path, busy)?;
    let failed = |error| failure(path, &error);
    let mode = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
    if mode.map_err(failed)? != "wal" {
        let file = path.display();
        let why = format!("{file} is on a file system that cannot share memory: keep it on a local disk");
        return Err(StoreError::Unusable(why));
    }
    conn.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20).map_err(failed)?;
    conn.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let made = make(path, &conn);
    conn.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).map_err(failed)?;
    made?;
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    if unclean && bytes <= CHECKED_BYTES {
        let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if found != "ok" {
            return Err(damaged(path, &found));
        }
    }
    Ok(conn)
}

/// Opens a connection for reading. It may write the shared memory file, and never the tables.
pub(super) fn open_reader(path: &Path, busy: Duration) -> Result<Connection> {
    let conn = connect(path, busy)?;
    conn.pragma_update(None, "query_only", true).map_err(|error| failure(path, &error))?;
    Ok(conn)
}

fn connect(path: &Path, busy: Duration) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|error| failure(path, &error))?;
    conn.busy_timeout(busy).map_err(|error| failure(path, &error))?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

fn make(path: &Path, conn: &Connection) -> Result<()> {
    let failed = |error| failure(path, &error);
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(failed)?;
    let version = pragma("user_version").map_err(failed)?;
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match (application, version, tables) {
        (APPLICATION_ID, VERSION, _) => Ok(()),
        (APPLICATION_ID, 1, _) => {
            tracing::info!(store = %path.display(), from = 1, to = VERSION, "bringing the file up to date");
            [LEAVE_1, SCHEMA, FROM_1].iter().try_for_each(|sql| conn.execute_batch(sql)).map_err(failed)?;
            conn.pragma_update(None, "user_version", VERSION).map_err(failed)
        }
        (APPLICATION_ID, version, _) => Err(StoreError::Unusable(format!(
            "{} has schema {version}, this build knows {VERSION}: run a newer build, or name another file in \
             queue.url",
            path.display()
        ))),
        (0, 0, 0) => {
            conn.execute_batch(SCHEMA).map_err(failed)?;
            conn.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
            conn.pragma_update(None, "user_version", VERSION).map_err(failed)
        }
        _ => Err(StoreError::Unusable(format!(
            "{} is another program's database: name another file in queue.url",
            path.display()
        ))),
    }
}

fn wal_of(path: &Path) -> Option<u64> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).ok().map(|file| file.len())
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{} is damaged ({what}): restore a backup (the file with its -wal), or try sqlite3's .recover",
        path.display()
    ))
}

/// SQLite's clock, which is the machine's: the store's own.
pub(crate) fn now(conn: &Connection) -> rusqlite::Result<Timestamp> {
    let mut clock = conn.prepare_cached("SELECT CAST(round(unixepoch('subsec') * 1000) AS INTEGER)")?;
    clock.query_row([], |row| row.get(0)).map(Timestamp::from_millis)
}

/// What an error of SQLite means to the caller.
pub(super) fn failure(path: &Path, error: &rusqlite::Error) -> StoreError {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Unavailable(format!(
            "{file} is locked by another process for longer than queue.response_timeout"
        )),
        Some(ErrorCode::DiskFull) => {
            StoreError::Unavailable(format!("the disk of {file} is full: free some space"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            StoreError::Unusable(format!(
                "{file} cannot be opened for writing ({error}): make its folder, and check who may write there"
            ))
        }
        Some(ErrorCode::NotADatabase) => {
            StoreError::Unusable(format!("{file} is not a SQLite database: name another file in queue.url"))
        }
        // Rows that we did not write, or not as they are.
        Some(ErrorCode::ConstraintViolation) => StoreError::Corrupt(format!("{file}: {error}")),
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, &error.to_string()),
        Some(_) => StoreError::Unavailable(format!("{file}: {error}")),
        // Not SQLite's but the wrapper's: a value that is not what we wrote.
        None => StoreError::Corrupt(format!("{file}: {error}")),
    }
}
