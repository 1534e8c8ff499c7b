//! The embedded store: one SQLite file, for one machine, shared by several processes if need be.

mod ledger;
mod presence;
mod rows;
mod schema;
#[cfg(any(test, feature = "testing"))]
mod testing;
mod transitions;
mod turns;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::caps::{Caps, MOST_CLAIMED};
use crate::packing::{pack, unpack};
use crate::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Retried, RetryFrom,
    Settings, Settlement, State, Store, StoreError, Whom,
};
use transitions::{Claimer, Tx};
use writer::{Readers, Writer};

/// How long to wait before the file is tried again that another process is just making.
const REOPEN: Duration = Duration::from_millis(10);

/// A store in a SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    changed: Arc<Notify>,
    caps: Caps,
    lease: Duration,
    keep_ended: Duration,
    unique_issues: bool,
    per_repo: u32,
    poll_interval: Duration,
    runner: Arc<str>,
    /// One claim at a time: the next may have to deliver what the last one could not.
    claiming: tokio::sync::Mutex<()>,
    /// What was claimed by calls whose answer nobody heard.
    undelivered: Arc<Mutex<Vec<Lease>>>,
}

impl SqliteStore {
    /// Opens the file, or makes it.
    pub async fn open(path: &Path, settings: &Settings, runner: &str) -> Result<Self> {
        let busy = settings.response_timeout;
        let end = Instant::now() + busy;
        let conn = loop {
            let path = path.to_owned();
            let opened = tokio::task::spawn_blocking(move || schema::open_writer(&path, busy)).await;
            match opened.map_err(|error| StoreError::Unavailable(format!("opening was cut off: {error}")))? {
                // SQLite doesn't wait for another process that is just turning the WAL on.
                Err(StoreError::Unavailable(_)) if Instant::now() < end => tokio::time::sleep(REOPEN).await,
                opened => break opened?,
            }
        };
        let changed = Arc::new(Notify::new());
        Ok(SqliteStore {
            path: path.to_owned(),
            writer: Writer::start(conn, path, Arc::clone(&changed))?,
            readers: Readers::new(path, busy),
            changed,
            caps: Caps::new(settings),
            lease: settings.lease,
            keep_ended: settings.keep_ended,
            unique_issues: settings.unique_issues,
            per_repo: settings.per_repo_concurrency,
            poll_interval: settings.poll_interval.max(Duration::from_millis(1)),
            runner: runner.into(),
            claiming: tokio::sync::Mutex::new(()),
            undelivered: Arc::default(),
        })
    }

    /// Claims, all or only what waits to be called off.
    async fn claim_of(&self, most: usize, only_called_off: bool) -> Result<Vec<Claim>> {
        let most = most.min(MOST_CLAIMED);
        let _one_at_a_time = self.claiming.lock().await;
        let path = self.path.clone();
        let by = Claimer {
            runner: Arc::clone(&self.runner),
            lease: self.lease,
            per_repo: self.per_repo,
            only_called_off,
        };
        let (list, list_of_op) = (Arc::clone(&self.undelivered), Arc::clone(&self.undelivered));
        // What is claimed goes onto the list on the writing thread, where one claim follows another
        // even if this call was dropped; and off the list once this call has heard of it.
        let op = move |conn: &Connection| {
            let again = if only_called_off { 0 } else { most };
            let earlier: Vec<Lease> = leases(&list_of_op).iter().take(again).cloned().collect();
            let claims = Tx::new(conn, &path)?.claim(&by, most, &earlier)?;
            let fresh = claims.iter().map(|claim| claim.lease.clone());
            let fresh: Vec<Lease> = fresh.filter(|lease| !earlier.contains(lease)).collect();
            let mut list = leases(&list_of_op);
            list.retain(|lease| !earlier.contains(lease) || claims.iter().any(|claim| claim.lease == *lease));
            list.extend(fresh.iter().cloned());
            drop(list);
            Ok((claims, fresh))
        };
        let done = move |(_, fresh): &(Vec<Claim>, Vec<Lease>), kept: bool| {
            if !kept {
                leases(&list).retain(|lease| !fresh.contains(lease));
            }
        };
        let (claims, _) = self.writer.run_then(op, done).await?;
        leases(&self.undelivered).retain(|lease| claims.iter().all(|claim| claim.lease != *lease));
        Ok(claims)
    }

    /// Writes in a transaction.
    async fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.writer.run(move |conn| op(&Tx::new(conn, &path)?)).await
    }

    /// Reads in a transaction.
    async fn read<T: Send + 'static>(
        &self,
        op: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.readers.run(move |conn: &Connection| op(&Tx::new(conn, &path)?)).await
    }
}

fn leases(of: &Mutex<Vec<Lease>>) -> std::sync::MutexGuard<'_, Vec<Lease>> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for SqliteStore {
    async fn submit(&self, job: &Job) -> Result<Admission> {
        let data = self.caps.encode_job(job)?;
        let (job, unique_issues) = (job.clone(), self.unique_issues);
        self.write(move |tx| tx.submit(&job, &data, unique_issues)).await
    }

    async fn wait(&self, longest: Duration) -> Result<()> {
        let (end, per_repo) = (Instant::now() + longest, self.per_repo);
        loop {
            // Listening begins before looking, so that nothing is missed in between.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (now, next) = self.read(move |tx| Ok((tx.now, tx.next(per_repo)?))).await?;
            let until_next = next.map_or(Duration::MAX, |next| next.since(now));
            let left = end.saturating_duration_since(Instant::now());
            if until_next.is_zero() || left.is_zero() || !leases(&self.undelivered).is_empty() {
                return Ok(());
            }
            // Other processes can't call us: look again every now and then.
            let nap = left.min(until_next).min(self.poll_interval);
            tokio::select! {
                () = &mut changed => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        self.claim_of(most, false).await
    }

    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        self.claim_of(most, true).await
    }

    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        let (leases, by) = (leases.to_vec(), self.lease);
        self.write(move |tx| leases.iter().map(|lease| tx.renew(lease, by)).collect()).await
    }

    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        let all = leases.to_vec();
        let found = self.read(move |tx| tx.called_off(&all)).await?;
        if found.iter().any(|(asked, told)| *asked && !*told) {
            let all = leases.to_vec();
            return self.write(move |tx| tx.tell(&all)).await;
        }
        let asked = leases.iter().zip(found).filter(|(_, (asked, _))| *asked);
        Ok(asked.map(|(lease, _)| lease.clone()).collect())
    }

    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        self.caps.check_append(steps, patch)?;
        let (lease, steps, patch, caps) = (lease.clone(), pack(steps)?, patch.map(<[u8]>::to_vec), self.caps);
        self.write(move |tx| tx.append(&lease, at as usize, &steps, patch.as_deref(), &caps)).await
    }

    async fn replay(&self, job: &JobId) -> Result<Replay> {
        let job = job.clone();
        let caps = self.caps;
        unpack(self.read(move |tx| tx.replay(&job, &caps)).await?, caps.step)
    }

    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        let (lease, why) = (lease.clone(), why.to_owned());
        self.write(move |tx| tx.change(&lease, |record| record.park(&lease, until, &why, tx.now))).await
    }

    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        let (lease, why) = (lease.clone(), why.clone());
        self.write(move |tx| tx.change(&lease, |record| record.requeue(&lease, after, &why, tx.now))).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.write(move |tx| tx.change(&lease, |record| record.release(&lease, tx.now))).await
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        let (lease, settlement) = (lease.clone(), settlement.clone());
        self.write(move |tx| tx.change(&lease, |record| record.settle(&lease, &settlement, tx.now))).await
    }

    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        let job = job.clone();
        self.write(move |tx| tx.cancel(&job)).await
    }

    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        let job = job.clone();
        self.write(move |tx| tx.retry(&job, from)).await
    }

    async fn pause(&self, whom: &Whom) -> Result<()> {
        let whom = whom.clone();
        self.write(move |tx| tx.pause(&whom)).await
    }

    async fn resume(&self, whom: &Whom) -> Result<()> {
        let whom = whom.clone();
        self.write(move |tx| tx.resume(&whom)).await
    }

    async fn paused(&self) -> Result<Vec<Whom>> {
        self.read(|tx| tx.paused()).await
    }

    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        let job = job.clone();
        self.read(move |tx| tx.inspect(&job)).await
    }

    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        self.read(move |tx| tx.list(state, most)).await
    }

    async fn count(&self) -> Result<[u64; 4]> {
        self.read(|tx| tx.count()).await
    }

    async fn purge(&self) -> Result<u64> {
        let keep = self.keep_ended;
        self.write(move |tx| tx.purge(tx.now - keep)).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.read(|tx| Ok(tx.now)).await
    }

    fn ledger(&self) -> Arc<dyn crate::Ledger> {
        let (writer, readers, path) = (self.writer.clone(), self.readers.clone(), self.path.clone());
        Arc::new(ledger::SqliteLedger { writer, readers, path })
    }

    fn name(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }
}

/// The machine's wall time, by SQLite's clock: what a store in memory begins with.
pub(crate) fn wall_time() -> Result<Timestamp> {
    let now = Connection::open_in_memory().and_then(|conn| schema::now(&conn));
    now.map_err(|error| StoreError::Unavailable(format!("no clock for the store in memory: {error}")))
}
