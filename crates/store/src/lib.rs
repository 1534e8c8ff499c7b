//! Jobs, leases and journals, in Redis, SQLite or memory, behind one trait.
//!
//! One [`Store`] trait, three stores, one conformance suite that all pass. Every transition is
//! atomic and checks the fencing token; due times are the store's own clock, never a runner's.

mod caps;
pub mod ledger;
pub mod memory;
mod memory_ledger;
mod packing;
mod record;
pub mod redis_store;
pub mod settings;
pub mod sqlite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod types;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;

pub use ledger::{Heard, Keep, Kept, Ledger, Listener, Noted};
pub use settings::{Location, QueueUrl, Settings};
pub use types::*;

/// The result of a call to the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The queue, the leases and the journals.
///
/// Every method is safe to repeat with the same arguments after [`StoreError::Unavailable`]: a
/// transition that was done the first time answers as it would have then. Methods with a [`Lease`]
/// fail with [`StoreError::LeaseLost`] if its token is not the newest of a running job.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes a job in. The same id twice is one job. [`Job::priority`], [`Job::not_before`] (at most
    /// a year away) and [`Job::unique_key`] are heeded.
    async fn submit(&self, job: &Job) -> Result<Admission>;

    /// Waits until there may be something to claim, at most `longest`. Claims nothing and loses
    /// nothing when dropped. A due job, a new job, a release and an expired lease end the wait, and
    /// so does whatever lets a job be claimed that could not be: a resume, the end of a run whose
    /// repository was at its limit, a wish to call a job off or to retry it. What cannot be claimed
    /// for now ends no wait.
    async fn wait(&self, longest: Duration) -> Result<()>;

    /// As [`Store::wait`], but a change ends it unseen, so that it may be for nothing. For whoever claims
    /// next in any case: a new job is claimed one look earlier.
    async fn wait_for_change(&self, longest: Duration) -> Result<()> {
        self.wait(longest).await
    }

    /// Claims up to `most` jobs (256 at the very most). First those that only wait to be called off,
    /// then expired leases, then due jobs: the highest priority first, within it the owners in turn
    /// (who was served longest ago, or came in first since; who has nothing due is forgotten, and
    /// comes in anew when the next job is), within an owner in order of due time.
    /// Of one repository at most [`Settings::per_repo_concurrency`] run at once, of paused owners
    /// none is begun. Takes in what the queue's inbox holds on the way (Redis), unreadable entries
    /// to the dead letters.
    async fn claim(&self, most: usize) -> Result<Vec<Claim>>;

    /// Claims, of those jobs, only what [`Store::claim`] gives first: what waits to be called off. For
    /// a process that has no room for more work, or no budget.
    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>>;

    /// Renews leases for another `queue.lease`, in one call; answers in the same order.
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>>;

    /// Which of these leases' jobs somebody asked to be called off: cheap enough to ask each second.
    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>>;

    /// Appends steps to the journal at position `at` (the number of steps before them), with the
    /// workspace's newest patch if it changed. Repeating the same append changes nothing.
    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()>;

    /// Reads the journal and the newest patch. A step that was lost or damaged is one that says so
    /// when it is decoded ([`steadfast_core::journal::JournalError::Corrupt`]); the others are given.
    async fn replay(&self, job: &JobId) -> Result<Replay>;

    /// Puts the job away until `until`; not an attempt. `why` is shown by list and inspect.
    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()>;

    /// Puts the job back, to be claimed after `after`.
    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()>;

    /// Gives the job back untouched, to be claimed at once (a drain); its place is kept.
    async fn release(&self, lease: &Lease) -> Result<()>;

    /// Ends the job. Redis: this, and whatever else ends a run, goes with the next claim if one is asked
    /// for in the same turn of the runtime, so that both are one round trip.
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()>;

    /// Calls a job off.
    async fn cancel(&self, job: &JobId) -> Result<Cancellation>;

    /// Puts an ended job back into the queue, its attempts and crashes forgotten and its admission
    /// now. The same wish once more, before the next claim, is answered as the first time.
    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried>;

    /// Lets no job of theirs be claimed until [`Store::resume`].
    async fn pause(&self, whom: &Whom) -> Result<()>;

    /// Ends a pause. A pause of all and one of an owner are ended apart.
    async fn resume(&self, whom: &Whom) -> Result<()>;

    /// Whose jobs are not claimed, in order.
    async fn paused(&self) -> Result<Vec<Whom>>;

    /// One job, or `None`.
    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>>;

    /// Jobs of one state or of all, newest first, at most `most`.
    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>>;

    /// How many jobs are in each state, in the order of [`State`].
    async fn count(&self) -> Result<[u64; 4]>;

    /// Removes jobs that ended longer than `queue.keep_ended` ago, at most some hundreds a call;
    /// how many went.
    async fn purge(&self) -> Result<u64>;

    /// The store's own clock.
    async fn now(&self) -> Result<Timestamp>;

    /// The limit ledger that the store's processes share.
    fn ledger(&self) -> Arc<dyn Ledger>;

    /// Which store this is, for logs, without secrets: `sqlite:steadfast.db`.
    fn name(&self) -> String;
}

/// Opens the store that `queue.url` names, for the process called `runner`. Keep a process's name
/// over its restarts (host name or pod): Redis keeps a consumer for each.
///
/// For `rediss://` the caller has installed rustls' crypto provider before.
pub async fn open(settings: &Settings, runner: &str) -> Result<Arc<dyn Store>> {
    match settings.url.parse()? {
        Location::Memory => Ok(Arc::new(memory::MemoryStore::new(settings, sqlite::wall_time()?, runner))),
        Location::Sqlite(path) => Ok(Arc::new(sqlite::SqliteStore::open(&path, settings, runner).await?)),
        Location::Redis(url) => Ok(Arc::new(redis_store::RedisStore::open(&url, settings, runner).await?)),
    }
}
