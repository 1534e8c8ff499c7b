//! The one thread that writes: what waits is committed together, since the disk's sync is the cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, Error, ffi};
use tokio::sync::{Notify, mpsc, oneshot};

use super::schema::failure;
use crate::{Result, StoreError};

/// Most transitions that wait for the thread; who comes later waits to be let in.
const WAITING: usize = 256;

/// Most transitions of one commit.
const BATCH: usize = 128;

/// The way to the writing thread, which ends with the last of these.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Work>>,
}

/// One transition, its type forgotten.
trait Work: Send {
    /// Does it; whether it is to be kept.
    fn run(&mut self, conn: &Connection) -> bool;
    /// Answers, once it is on disk or certainly not.
    fn finish(self: Box<Self>, lost: Option<StoreError>);
}

struct Op<F, D, T> {
    run: Option<F>,
    done: D,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, D, T> Work for Op<F, D, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    D: FnOnce(&T, bool) + Send,
    T: Send,
{
    fn run(&mut self, conn: &Connection) -> bool {
        self.result = self.run.take().map(|run| run(conn));
        matches!(self.result, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, lost: Option<StoreError>) {
        let Op { done, result, reply, .. } = *self;
        let result = match (lost, result) {
            // What was refused was refused, whatever became of the others.
            (_, Some(Err(error))) => Err(error),
            (lost, Some(Ok(value))) => {
                done(&value, lost.is_none());
                lost.map_or(Ok(value), Err)
            }
            (lost, None) => {
                Err(lost.unwrap_or_else(|| StoreError::Unavailable("the transition was not tried".into())))
            }
        };
        // Nobody may be listening any more: `done` has told whoever must know.
        let _ = reply.send(result);
    }
}

impl Writer {
    /// Starts the thread. `changed` is told of every commit.
    pub fn start(conn: Connection, path: &Path, changed: Arc<Notify>) -> Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || write(&conn, &path, waiting, &changed))
            .map_err(|error| StoreError::Unavailable(format!("no thread for the SQLite store: {error}")))?;
        Ok(Writer { queue })
    }

    /// Runs a transition in an immediate transaction and answers when it is on disk.
    pub async fn run<T: Send + 'static>(
        &self,
        op: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_then(op, |_, _| ()).await
    }

    /// The same; `done` hears on the writing thread whether it was kept, even if the caller waits no
    /// more.
    pub async fn run_then<T: Send + 'static>(
        &self,
        op: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        done: impl FnOnce(&T, bool) + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the SQLite store's writer has ended: restart".into());
        let work = Op { run: Some(op), done, result: None, reply };
        self.queue.send(Box::new(work)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn write(conn: &Connection, path: &Path, mut waiting: mpsc::Receiver<Box<dyn Work>>, changed: &Notify) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match waiting.try_recv() {
                Ok(work) => batch.push(work),
                Err(_) => break,
            }
        }
        let lost = commit(conn, &mut batch).err();
        if let Some(error) = &lost {
            tracing::warn!(store = %path.display(), %error, transitions = batch.len(), "commit failed");
            if !conn.is_autocommit() {
                // Without a transaction to end this is an error that says so; nothing is lost by it.
                let _ = conn.execute_batch("ROLLBACK");
            }
        }
        for work in batch {
            work.finish(lost.as_ref().map(|error| failure(path, error)));
        }
        changed.notify_waiters();
    }
}

/// One transaction; each transition in a savepoint of its own, so that what one wrote before it was
/// refused is undone alone.
fn commit(conn: &Connection, batch: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
    let run = |sql: &str| conn.prepare_cached(sql)?.execute([]).map(|_| ());
    run("BEGIN IMMEDIATE")?;
    for work in batch {
        run("SAVEPOINT transition")?;
        if !work.run(conn) {
            if conn.is_autocommit() {
                // A full disk, say, may end the whole transaction: nothing is kept.
                let error = ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK);
                return Err(Error::SqliteFailure(error, Some("undone with another transition".into())));
            }
            run("ROLLBACK TO transition")?;
        }
        run("RELEASE transition")?;
    }
    run("COMMIT")
}

/// Connections for reading, made as they are needed and kept for the next reader.
#[derive(Clone)]
pub(super) struct Readers {
    path: PathBuf,
    busy: std::time::Duration,
    idle: Arc<std::sync::Mutex<Vec<Connection>>>,
}

/// Most idle connections that are kept.
const IDLE: usize = 4;

impl Readers {
    /// For a file whose schema is there.
    pub fn new(path: &Path, busy: std::time::Duration) -> Self {
        Readers { path: path.to_owned(), busy, idle: Arc::default() }
    }

    /// Reads on the blocking pool, in one transaction: what is read is of one moment.
    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let readers = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let idle = readers.lock().pop();
            let conn = match idle {
                Some(conn) => conn,
                None => super::schema::open_reader(&readers.path, readers.busy)?,
            };
            let failed = |error| failure(&readers.path, &error);
            conn.execute_batch("BEGIN").map_err(failed)?;
            let result = read(&conn);
            conn.execute_batch("COMMIT").map_err(failed)?;
            let mut idle = readers.lock();
            if idle.len() < IDLE {
                idle.push(conn);
            }
            result
        });
        read.await.map_err(|error| StoreError::Unavailable(format!("a read was cut off: {error}")))?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
