//! What only the store in SQLite has to hold: a file that several processes share, that is damaged,
//! full, locked or somebody else's.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use steadfast_core::journal::Step;
use steadfast_store::sqlite::SqliteStore;
use steadfast_store::{Admission, Renewal, Settings, Store, StoreError, open};

use crate::world::*;

fn file(world: &World) -> std::path::PathBuf {
    Path::new(world.url().strip_prefix("sqlite:").unwrap()).to_owned()
}

async fn refused(path: &Path) -> StoreError {
    match open(&Settings::for_tests(format!("sqlite:{}", path.display())), "a").await {
        Err(error) => error,
        Ok(_) => panic!("{} was taken for a store", path.display()),
    }
}

#[tokio::test]
async fn many_open_a_new_file_at_once() {
    let world = World::sqlite();
    let stores = (0..6).map(|n| {
        let settings = Settings::for_tests(world.url());
        tokio::spawn(async move { open(&settings, &format!("runner-{n}")).await })
    });
    for (n, store) in stores.collect::<Vec<_>>().into_iter().enumerate() {
        let store = store.await.unwrap().unwrap();
        assert_eq!(store.submit(&job(&format!("job-{n}"))).await.unwrap(), Admission::Queued);
    }
    assert_eq!(world.store("last").await.count().await.unwrap(), [6, 0, 0, 0]);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_an_unclean_end() {
    let world = World::sqlite();
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    store.append(&lease, 0, &[b"s".to_vec()], Some(b"p")).await.unwrap();
    // The file and its -wal as a crash would leave them: copied while the store is open.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(file(&world), &copy).unwrap();
    std::fs::copy(format!("{}-wal", file(&world).display()), folder.path().join("copy.db-wal")).unwrap();
    let again = open(&Settings::for_tests(format!("sqlite:{}", copy.display())), "b").await.unwrap();
    let replay = again.replay(&id("x")).await.unwrap();
    assert_eq!((replay.steps, replay.patch), (vec![b"s".to_vec()], b"p".to_vec()));
    again.settle(&lease, &completed()).await.unwrap();
}

#[tokio::test]
async fn a_locked_file_is_unavailable_for_as_long_as_it_is_locked() {
    let world = World::sqlite();
    let store = world.with("a", |settings| settings.response_timeout = Duration::from_millis(50)).await;
    let other = Connection::open(file(&world)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.submit(&job("x")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("response_timeout")), "{error:?}");
    // Readers need not wait for a writer.
    assert_eq!(store.count().await.unwrap(), [0; 4]);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.submit(&job("x")).await.unwrap(), Admission::Queued);
}

#[tokio::test]
async fn a_full_disk_fails_the_transition_and_not_the_process() {
    let world = World::sqlite();
    let store = world.store("a").await;
    let lease = running(&*store, "x").await.lease;
    let pages: i64 = Connection::open(file(&world))
        .unwrap()
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    // A file of a few pages more is what there is room for: a limit that SQLite keeps for us.
    let (path, settings) = (file(&world), Settings::for_tests(world.url()));
    let limited = SqliteStore::open(&path, &settings, "b").await.unwrap();
    limited.limit_pages(pages + 4).await.unwrap();
    // What nothing can pack.
    let large: Vec<u8> = (0..500_000).map(|_| rand::random()).collect();
    let error = limited.append(&lease, 0, &[b"small".to_vec(), large], None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("full")), "{error:?}");
    limited.append(&lease, 0, &[b"small".to_vec()], None).await.unwrap();
    assert_eq!(store.replay(&id("x")).await.unwrap().steps, [b"small".to_vec()]);
}

#[tokio::test]
async fn what_is_no_store_of_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database, but long enough to be taken for one".repeat(50)).unwrap();
    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").unwrap();
    let newer = folder.path().join("newer.db");
    drop(open(&Settings::for_tests(format!("sqlite:{}", newer.display())), "a").await.unwrap());
    Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let nowhere = folder.path().join("no/such/folder/queue.db");
    for (path, cure) in
        [(&text, "another file"), (&foreign, "another file"), (&newer, "newer build"), (&nowhere, "folder")]
    {
        let error = refused(path).await;
        assert!(matches!(error, StoreError::Unusable(_)), "{error:?}");
        assert!(error.to_string().contains(cure), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&text).unwrap().len(), 51 * 50);
}

#[tokio::test]
async fn a_clock_that_was_years_ahead_holds_no_job_up() {
    const YEARS: i64 = 20 * 365 * 24 * 3_600_000;
    let world = World::sqlite();
    let store = world.store("a").await;
    let lease = running(&*store, "held").await.lease;
    store.append(&lease, 0, &[b"s".to_vec()], None).await.unwrap();
    let asked = running(&*store, "asked").await.lease;
    store.append(&asked, 0, &[b"s".to_vec()], None).await.unwrap();
    store.release(&asked).await.unwrap();
    store.cancel(&id("asked")).await.unwrap();
    submit_all(&*store, ["x", "y"].map(job)).await;
    // All that happened by the clock's wrong time.
    let conn = Connection::open(file(&world)).unwrap();
    for sql in [
        "UPDATE jobs SET lease_end = lease_end + ? WHERE state = 'running'",
        "UPDATE jobs SET due = due + ? WHERE line = 'urgent'",
        "UPDATE jobs SET due = due + ? WHERE line = 'ready'",
        "UPDATE heads SET due = due + ?",
    ] {
        assert_eq!(conn.execute(sql, [YEARS]).unwrap(), if sql.contains("'ready'") { 2 } else { 1 }, "{sql}");
    }
    soon("the end of a wait", store.wait(Duration::from_secs(3600))).await.unwrap();
    let mut claims = soon("a claim", store.claim(9)).await.unwrap();
    assert_eq!(ids(&claims), ["asked", "held", "x", "y"]);
    let asked = claims.remove(0);
    assert!(asked.cancel_requested);
    store.settle(&asked.lease, &completed()).await.unwrap();
    assert_eq!(claims[0].counts.crashes, 1);
    assert!(store.claim(9).await.unwrap().is_empty());
    // A run that lives on is told so by its next call; and no lease is too long for its own renewal.
    assert!(store.settle(&lease, &completed()).await.is_err());
    assert_eq!(store.renew(&[claims[0].lease.clone()]).await.unwrap(), [Renewal::Held]);
    assert!(look(&*store, "held").await.at < store.now().await.unwrap() + Duration::from_secs(3600));
    for claim in claims {
        store.release(&claim.lease).await.unwrap();
    }
    assert_eq!(store.claim(9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn damaged_jobs_are_set_aside_and_others_run() {
    let world = World::sqlite();
    let store = world.store("a").await;
    for name in ["data", "name", "good"] {
        store.submit(&job(name)).await.unwrap();
    }
    let other = Connection::open(file(&world)).unwrap();
    other.execute("UPDATE jobs SET data = '{}' WHERE id = 'data'", []).unwrap();
    let moved = json("name").replace(r#""repoOwner":"test""#, r#""repoOwner":".."#);
    other.execute("UPDATE jobs SET data = ? WHERE id = 'name'", [moved]).unwrap();
    assert_eq!(ids(&store.claim(9).await.unwrap()), ["good"]);
    assert_eq!(store.count().await.unwrap(), [0, 1, 0, 2]);
    assert!(matches!(store.inspect(&id("data")).await, Err(StoreError::Corrupt(_))));
    assert_eq!(store.list(None, 9).await.unwrap().len(), 1);
    let result: String =
        other.query_row("SELECT result FROM jobs WHERE id = 'data'", [], |row| row.get(0)).unwrap();
    assert!(result.contains("cannot read"), "{result}");
    // A step is there that nobody wrote: what was written beside it before that was found is undone.
    let lease = running(&*store, "extra").await.lease;
    other.execute("INSERT INTO steps SELECT seq, 1, x'00' FROM jobs WHERE id = 'extra'", []).unwrap();
    let appended = store.append(&lease, 0, &[b"a".to_vec(), b"b".to_vec()], None).await;
    assert!(matches!(appended, Err(StoreError::Corrupt(_))), "{appended:?}");
    let steps: i64 = other.query_row("SELECT count(*) FROM steps", [], |row| row.get(0)).unwrap();
    assert_eq!(steps, 1);
    // Steps are missing: what is there is told, and what is not.
    let lease = running(&*store, "journal").await.lease;
    let steps: Vec<Vec<u8>> = (0..5).map(|n| vec![n + 50]).collect();
    store.append(&lease, 0, &steps, Some(b"p")).await.unwrap();
    let of_it = "job = (SELECT seq FROM jobs WHERE id = 'journal')";
    other.execute(&format!("DELETE FROM steps WHERE at IN (0, 2, 4) AND {of_it}"), []).unwrap();
    let replay = store.replay(&id("journal")).await.unwrap();
    assert_eq!((replay.steps.len(), replay.patch), (5, b"p".to_vec()));
    for (at, step) in replay.steps.iter().enumerate() {
        match at % 2 {
            0 => assert!(Step::decode(step).unwrap_err().to_string().contains("journaled"), "{at}"),
            _ => assert_eq!(*step, steps[at]),
        }
    }
    // A count that no journal can have is not believed.
    other.execute("UPDATE jobs SET steps = 4000000000 WHERE id = 'journal'", []).unwrap();
    assert_eq!(store.replay(&id("journal")).await.unwrap().steps.len(), 2000);
}
