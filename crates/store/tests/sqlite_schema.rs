//! The tables of the store in SQLite: files of earlier builds are brought up to date, whole or not at
//! all, and a claim costs the same however many wait.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, params};
use steadfast_core::time::Timestamp;
use steadfast_store::sqlite::SqliteStore;
use steadfast_store::{
    Admission, Cancellation, ClaimedFrom, Counts, Lease, Renewal, Settings, State, Store, StoreError, Token,
    open,
};

use crate::world::*;

/// What the first builds made.
const SCHEMA_1: &str = "
PRAGMA application_id = 0x53746664;
PRAGMA user_version = 1;
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    data TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'parked', 'ended')),
    token INTEGER NOT NULL,
    due INTEGER NOT NULL,
    lease_end INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    journal_bytes INTEGER NOT NULL,
    cancel INTEGER NOT NULL,
    closed TEXT NOT NULL,
    admitted_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    waiting_for TEXT,
    runner TEXT,
    last_error TEXT,
    end_status TEXT,
    result TEXT,
    fields TEXT
) STRICT;
CREATE INDEX jobs_waiting ON jobs (due, seq) WHERE state IN ('queued', 'parked');
CREATE INDEX jobs_running ON jobs (lease_end) WHERE state = 'running';
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE state = 'ended';
CREATE INDEX jobs_state ON jobs (state, seq);
CREATE TABLE steps (
    job INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (job, at)
) STRICT;
CREATE TABLE patches (
    job INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
";

/// How the first builds took a job in.
const INSERT_1: &str = "INSERT INTO jobs (id, data, state, token, due, lease_end, runs, attempts, crashes, waits, \
    steps, duplicates, journal_bytes, cancel, closed, admitted_at, started_at, ended_at, waiting_for, runner, \
    last_error, end_status, result, fields) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?4, 0, 0, 0, ?7, 3, 0, ?8, ?9, 1000, 2000, ?10, ?11, 'old', ?11, ?12, ?13, ?14)";

const HOUR: i64 = 3_600_000;

/// A file as the first builds left it, with a job of each kind.
fn old_file(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("queue.db");
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    conn.execute_batch(SCHEMA_1).unwrap();
    let now: i64 = conn.query_row("SELECT unixepoch() * 1000", [], |row| row.get(0)).unwrap();
    let of = |name: &str, repository: &str| serde_json::to_string(&of(name, repository)).unwrap();
    let none: Option<i64> = None;
    let text = |text: &'static str| Some(text);
    let add = |name: &str,
               data: &str,
               state: &str,
               token: i64,
               due: i64,
               lease_end: i64,
               steps: i64,
               cancel: i64,
               closed: &str| {
        let row = params![
            name, data, state, token, due, lease_end, steps, cancel, closed, none, none, none, none, none
        ];
        conn.execute(INSERT_1, row).unwrap();
    };
    add("purged", &of("purged", "a/r"), "queued", 0, 1, 0, 0, 0, "submit ");
    conn.execute("DELETE FROM jobs", []).unwrap();
    add("a-0", &of("a-0", "A/r"), "queued", 0, 5000, 0, 0, 0, "submit ");
    add("a-1", &of("a-1", "a/r"), "queued", 0, 6000, 0, 0, 0, "submit ");
    add("b-0", &of("b-0", "b/r"), "parked", 1, 7000, 0, 0, 0, "park 7000");
    add("far", &of("far", "b/r"), "parked", 1, now + HOUR, 0, 2, 0, "park 1");
    add("held", &of("held", "c/r"), "running", 4, 1000, now + HOUR, 0, 0, "taken");
    add("expired", &of("expired", "c/r"), "running", 2, 1000, 9000, 1, 0, "taken");
    add("asked", &of("asked", "c/r"), "running", 1, 1000, now + HOUR, 1, 1, "taken");
    add("damaged", "{", "queued", 0, 1, 0, 0, 0, "submit ");
    let fields = text(r#"[["endReason","pull_request"]]"#);
    let row = params![
        "ended",
        of("ended", "d/r"),
        "ended",
        1,
        1000,
        0,
        0,
        0,
        "settle completed",
        now,
        text("x"),
        text("completed"),
        text(r#"{"success":true}"#),
        fields
    ];
    conn.execute(INSERT_1, row).unwrap();
    for (job, at) in [("far", 0), ("far", 1), ("expired", 0), ("asked", 0)] {
        let sql = "INSERT INTO steps SELECT seq, ?2, CAST(?1 || ?2 AS BLOB) FROM jobs WHERE id = ?1";
        conn.execute(sql, params![job, at]).unwrap();
    }
    conn.execute("INSERT INTO patches SELECT seq, x'70' FROM jobs WHERE id = 'far'", []).unwrap();
    path
}

fn settings(path: &std::path::Path) -> Settings {
    Settings::for_tests(format!("sqlite:{}", path.display()))
}

fn version(conn: &Connection) -> i64 {
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_file_of_an_earlier_build_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = old_file(&folder);
    let store = open(&settings(&path), "new").await.unwrap();
    assert_eq!(store.count().await.unwrap(), [3, 3, 2, 1]);
    // What ran runs on.
    let held = Lease { job: id("held"), token: Token(4) };
    let asked = Lease { job: id("asked"), token: Token(1) };
    let renewals = store.renew(&[held.clone(), asked]).await.unwrap();
    assert_eq!(renewals, [Renewal::Held, Renewal::CancelRequested]);
    store.settle(&held, &completed()).await.unwrap();
    // What waited is claimed, owners in turn.
    let claims = store.claim(1).await.unwrap();
    assert_eq!((ids(&claims), claims[0].from), (vec!["expired"], ClaimedFrom::ExpiredLease));
    assert_eq!(claims[0].counts, Counts { runs: 3, crashes: 1, steps: 1, ..Counts::default() });
    let claims = store.claim(9).await.unwrap();
    assert_eq!(ids(&claims), ["a-0", "b-0", "a-1"]);
    assert_eq!((claims[1].lease.token, claims[0].job.owner_key().as_str()), (Token(2), "a"));
    // What could not be read before cannot be read now, and holds nobody up.
    assert!(matches!(store.inspect(&id("damaged")).await, Err(StoreError::Corrupt(_))));
    // What was written is there, and what ended.
    let replay = store.replay(&id("far")).await.unwrap();
    assert_eq!((replay.steps, replay.patch), (vec![b"far0".to_vec(), b"far1".to_vec()], b"p".to_vec()));
    let ended = look(&*store, "ended").await;
    assert_eq!((ended.state, field(&ended, "status")), (State::Ended, Some("completed")));
    assert_eq!(field(&ended, "endReason"), Some("pull_request"));
    assert_eq!((field(&ended, "duplicates"), ended.admitted_at), (Some("3"), Timestamp::from_secs(1)));
    // A transition that the earlier build did last is known.
    store.park(&Lease { job: id("b-0"), token: Token(1) }, Timestamp::from_secs(7), "x").await.unwrap_err();
    assert_eq!(store.cancel(&id("far")).await.unwrap(), Cancellation::Asked);
    // No number is given twice, though the highest was purged.
    assert_eq!(store.submit(&job("later")).await.unwrap(), Admission::Queued);
    let conn = Connection::open(&path).unwrap();
    let seq: i64 = conn.query_row("SELECT seq FROM jobs WHERE id = 'later'", [], |row| row.get(0)).unwrap();
    assert_eq!((seq, version(&conn)), (11, 2));
    let old: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'old%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(old, 0);
    drop(store);
    // Once is enough.
    open(&settings(&path), "again").await.unwrap();
}

#[tokio::test]
async fn an_earlier_build_that_still_runs_can_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = old_file(&folder);
    let old = Connection::open(&path).unwrap();
    let store = open(&settings(&path), "new").await.unwrap();
    // It can neither take a job in nor put one back where today's build would not find it.
    let data = serde_json::to_string(&job("lost")).unwrap();
    let none: Option<i64> = None;
    let row = params!["lost", data, "queued", 0, 1, 0, 0, 0, "submit ", none, none, none, none, none];
    assert!(old.execute(INSERT_1, row).is_err());
    assert!(old.execute("UPDATE jobs SET state = 'queued' WHERE id = 'held'", []).is_err());
    assert!(old.prepare("SELECT id FROM jobs INDEXED BY jobs_waiting WHERE due <= 1").is_err());
    assert_eq!(store.count().await.unwrap(), [3, 3, 2, 1]);
    assert!(store.inspect(&id("lost")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_is_brought_up_to_date_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = old_file(&folder);
    let conn = Connection::open(&path).unwrap();
    // In the way of the last but one of the new tables.
    conn.execute_batch("CREATE TABLE paused (x)").unwrap();
    let before: Vec<String> = names(&conn);
    assert!(open(&settings(&path), "new").await.is_err());
    assert_eq!((version(&conn), names(&conn)), (1, before));
    let jobs: i64 = conn.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap();
    assert_eq!(jobs, 9);
    conn.execute_batch("DROP TABLE paused").unwrap();
    let store = open(&settings(&path), "new").await.unwrap();
    assert_eq!(store.count().await.unwrap(), [3, 3, 2, 1]);
}

fn names(conn: &Connection) -> Vec<String> {
    let mut names = conn.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
    names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn many_processes_bring_a_file_up_to_date_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = old_file(&folder);
    let stores = (0..4).map(|n| {
        let settings = settings(&path);
        tokio::spawn(async move { open(&settings, &format!("runner-{n}")).await })
    });
    for store in stores.collect::<Vec<_>>() {
        let store = soon("an opening", store).await.unwrap().unwrap();
        assert_eq!(store.count().await.unwrap(), [3, 3, 2, 1]);
    }
}

/// SQLite's steps for one claim and one wait while so many jobs wait, of each of several kinds.
async fn work(jobs: usize) -> Vec<(&'static str, u64)> {
    const OWNERS: usize = 40;
    let world = World::sqlite();
    let path = PathBuf::from(world.url().strip_prefix("sqlite:").unwrap());
    let mut settings = Settings::for_tests(world.url());
    settings.per_repo_concurrency = 2;
    let store = SqliteStore::open(&path, &settings, "a").await.unwrap();
    // The foremost of each repository, each of them then as many times as it takes, behind it.
    for n in 0..OWNERS {
        let priority = serde_json::json!({ "priority": n % 2 });
        submit_all(&store, [wish(&format!("head-{n}"), &format!("owner-{n}/r{}", n % 3), priority)]).await;
    }
    let conn = Connection::open(&path).unwrap();
    let columns = "data, state, line, priority, owner, repo, retries, token, due, lease_end, runs, attempts, crashes, \
                   waits, steps, duplicates, journal_bytes, cancel, closed, admitted_at";
    let fill = |id: &str, more: usize, set: &str, of: &str| {
        let sql = format!(
            "INSERT INTO jobs (id, {columns}) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n \
             WHERE n < {more}) SELECT '{id}-' || seq || '-' || n, replace(data, 'head', '{id}'), {set} FROM jobs, n \
             WHERE {of}"
        );
        conn.execute(&sql, []).unwrap();
    };
    fill("more", jobs / OWNERS, columns.trim_start_matches("data, "), "id LIKE 'head-%'");
    // As many that ended, and as many whose time has not come.
    let rest = columns.trim_start_matches("data, state, line, ");
    fill("ended", jobs / OWNERS, &format!("'ended', NULL, {rest}"), "id LIKE 'head-%'");
    let far = rest.replace(" due,", " due + 3600000,");
    fill("later", jobs / OWNERS, &format!("'parked', 'due', {far}"), "id LIKE 'head-%'");
    let steps = store.count_work().await.unwrap();
    let mut work = Vec::new();
    let mut note = |what| work.push((what, steps.swap(0, Ordering::Relaxed)));
    note("nothing");
    let claims = store.claim(4).await.unwrap();
    assert_eq!(claims.len(), 4);
    note("a claim");
    store.wait(Duration::ZERO).await.unwrap();
    note("a wait");
    store.pause(&steadfast_store::Whom::owner("owner-5")).await.unwrap();
    assert_eq!(store.claim(60).await.unwrap().len(), 60);
    note("a claim of many, repositories at their limit and a pause in its way");
    store.submit(&of("new", "new/r")).await.unwrap();
    note("a submission");
    store.renew(&[claims[0].lease.clone()]).await.unwrap();
    note("a renewal");
    store.requeue(&claims[0].lease, Duration::ZERO, &failed("x")).await.unwrap();
    store.park(&claims[1].lease, Timestamp::MAX, "x").await.unwrap();
    store.settle(&claims[2].lease, &completed()).await.unwrap();
    store.cancel(&id("head-39")).await.unwrap();
    note("transitions");
    store.claim(9).await.unwrap();
    note("another claim");
    store.pause(&steadfast_store::Whom::All).await.unwrap();
    store.wait(Duration::ZERO).await.unwrap();
    assert!(store.claim(9).await.unwrap().is_empty());
    note("a claim of nothing");
    work
}

#[tokio::test]
async fn what_a_claim_costs_does_not_depend_on_how_many_wait() {
    let (few, many) = (work(1_000).await, work(100_000).await);
    for ((what, few), (_, many)) in few.into_iter().zip(many) {
        assert!(few > 0 || what == "nothing", "{what}: not counted");
        assert!(many <= few + few / 10, "{what}: {few} steps with 1,000 waiting, {many} with 100,000");
    }
}
