//! The store in memory, for simulations and tests: tokio's clock, so that paused time works, and no
//! order that a hash would decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::caps::{Caps, MOST_CLAIMED};
use crate::memory_ledger::MemoryLedger;
use crate::packing::{pack, unpack};
use crate::record::{Record, Taken, closing, lease_of, lost};
use crate::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Settings,
    Settlement, State, Store, StoreError,
};

/// Most jobs that one purge removes.
const PURGE_BATCH: usize = 500;

/// One process's view of a store in memory; [`MemoryStore::for_runner`] gives others theirs.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    caps: Caps,
    lease: Duration,
    keep_ended: Duration,
    runner: Arc<str>,
}

struct Shared {
    jobs: Mutex<Jobs>,
    /// Told of every change that may give somebody something to claim.
    changed: Notify,
    /// The wall time at `begun`.
    base: Timestamp,
    begun: Instant,
    ledger: Arc<MemoryLedger>,
}

#[derive(Default)]
struct Jobs {
    entries: BTreeMap<JobId, Entry>,
    /// Queued and parked, in the order in which they are claimed.
    due: BTreeSet<(Timestamp, u64, JobId)>,
    /// Running, in the order in which their leases end.
    leases: BTreeSet<(Timestamp, JobId)>,
    /// Ended, oldest first.
    ended: BTreeSet<(Timestamp, JobId)>,
    admitted: u64,
}

struct Entry {
    job: Job,
    record: Record,
    steps: Vec<Vec<u8>>,
    patch: Vec<u8>,
}

impl MemoryStore {
    /// An empty store whose wall time is `base` now and goes on with tokio's clock.
    pub fn new(settings: &Settings, base: Timestamp, runner: &str) -> Self {
        let begun = Instant::now();
        let ledger = Arc::new(MemoryLedger::new(base, begun));
        let shared = Shared { jobs: Mutex::default(), changed: Notify::new(), base, begun, ledger };
        MemoryStore {
            shared: Arc::new(shared),
            caps: Caps::new(settings),
            lease: settings.lease,
            keep_ended: settings.keep_ended,
            runner: runner.into(),
        }
    }

    /// The same store as another process sees it: its name, and its settings.
    pub fn for_runner(&self, settings: &Settings, runner: &str) -> Self {
        MemoryStore {
            shared: Arc::clone(&self.shared),
            caps: Caps::new(settings),
            lease: settings.lease,
            keep_ended: settings.keep_ended,
            runner: runner.into(),
        }
    }

    fn time(&self) -> Timestamp {
        self.shared.base + self.shared.begun.elapsed()
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // A panic elsewhere leaves the map as it was: nothing below panics between two changes.
        self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the job that a lease is for.
    fn change(&self, lease: &Lease, to: impl FnOnce(&mut Record, Timestamp) -> Result<()>) -> Result<()> {
        let now = self.time();
        self.jobs().change(&lease.job, |entry| to(&mut entry.record, now)).ok_or_else(|| lost(lease))??;
        self.shared.changed.notify_waiters();
        Ok(())
    }
}

impl Jobs {
    /// Changes one job and keeps the indices in step; `None` if there is no such job.
    fn change<T>(&mut self, id: &JobId, to: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.unindex(id);
        let result = self.entries.get_mut(id).map(to);
        self.index(id);
        result
    }

    fn unindex(&mut self, id: &JobId) {
        let Some(Entry { record, .. }) = self.entries.get(id) else { return };
        match record.state {
            State::Queued | State::Parked => self.due.remove(&(record.due, record.seq, id.clone())),
            State::Running => self.leases.remove(&(record.lease_end, id.clone())),
            State::Ended => self.ended.remove(&(record.at(), id.clone())),
        };
    }

    fn index(&mut self, id: &JobId) {
        let Some(Entry { record, .. }) = self.entries.get(id) else { return };
        match record.state {
            State::Queued | State::Parked => self.due.insert((record.due, record.seq, id.clone())),
            State::Running => self.leases.insert((record.lease_end, id.clone())),
            State::Ended => self.ended.insert((record.at(), id.clone())),
        };
    }

    /// The next instant at which something can be claimed.
    fn next(&self) -> Option<Timestamp> {
        let due = self.due.first().map(|(due, ..)| *due);
        let lease = self.leases.first().map(|(end, _)| *end);
        due.into_iter().chain(lease).min()
    }

    /// What may be claimed: expired leases first, then due jobs in order, up to `most` of each.
    fn claimable(&self, now: Timestamp, most: usize) -> Vec<JobId> {
        let expired = self.leases.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| id);
        let due = self.due.iter().take_while(|(due, ..)| *due <= now).map(|(.., id)| id);
        expired.take(most).chain(due.take(most)).cloned().collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn submit(&self, job: &Job) -> Result<Admission> {
        self.caps.encode_job(job)?;
        let now = self.time();
        let mut jobs = self.jobs();
        if jobs.change(&job.id, |entry| entry.record.duplicates += 1).is_some() {
            return Ok(Admission::Duplicate);
        }
        jobs.admitted += 1;
        let record = Record::admitted(jobs.admitted, closing::submit(""), now);
        let entry = Entry { job: job.clone(), record, steps: Vec::new(), patch: Vec::new() };
        jobs.entries.insert(job.id.clone(), entry);
        jobs.index(&job.id);
        drop(jobs);
        self.shared.changed.notify_waiters();
        Ok(Admission::Queued)
    }

    async fn wait(&self, longest: Duration) -> Result<()> {
        let end = Instant::now() + longest;
        loop {
            // Listening begins before looking, so that nothing is missed in between.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.time();
            let next = self.jobs().next();
            let wake = next.map_or(end, |next| end.min(Instant::now() + next.since(now)));
            if next.is_some_and(|next| next <= now) || Instant::now() >= end {
                return Ok(());
            }
            // In an order that is always the same, for simulations.
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        let most = most.min(MOST_CLAIMED);
        let now = self.time();
        let mut jobs = self.jobs();
        let mut claims = Vec::new();
        for id in jobs.claimable(now, most) {
            if claims.len() >= most {
                break;
            }
            let claim = jobs.change(&id, |entry| {
                let Entry { job, record, .. } = entry;
                match record.claim(now, self.lease, &self.runner) {
                    Taken::No | Taken::CalledOff => None,
                    Taken::Claimed(from) => Some(Claim {
                        lease: lease_of(&id, record.token),
                        job: job.clone(),
                        counts: record.counts,
                        admitted_at: record.admitted_at,
                        from,
                    }),
                }
            });
            claims.extend(claim.flatten());
        }
        Ok(claims)
    }

    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        let now = self.time();
        let mut jobs = self.jobs();
        let renew =
            |lease: &Lease| jobs.change(&lease.job, |entry| entry.record.renew(lease, now, self.lease));
        Ok(leases.iter().map(renew).map(|renewal| renewal.unwrap_or(Renewal::Lost)).collect())
    }

    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        self.caps.check_append(steps, patch)?;
        let steps = &pack(steps)?;
        let mut jobs = self.jobs();
        let entry = jobs.entries.get_mut(&lease.job).ok_or_else(|| lost(lease))?;
        entry.record.check(lease)?;
        let (at, have) = (at as usize, entry.steps.len());
        if at != have {
            return match entry.steps.get(at..at + steps.len()) {
                Some(there) if there == steps.as_slice() => Ok(()),
                Some(_) | None => Err(misplaced(&lease.job, at, have)),
            };
        }
        let bytes: usize = steps.iter().map(Vec::len).sum();
        let journal = usize::try_from(entry.record.journal_bytes).unwrap_or(usize::MAX);
        self.caps.check_journal(have + steps.len(), journal.saturating_add(bytes))?;
        entry.record.appended(steps.len(), bytes);
        entry.steps.extend_from_slice(steps);
        if let Some(patch) = patch {
            entry.patch = patch.to_vec();
        }
        Ok(())
    }

    async fn replay(&self, job: &JobId) -> Result<Replay> {
        let jobs = self.jobs();
        let replay = |entry: &Entry| Replay { steps: entry.steps.clone(), patch: entry.patch.clone() };
        let replay = jobs.entries.get(job).map(replay).unwrap_or_default();
        drop(jobs);
        unpack(replay, self.caps.step)
    }

    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        self.change(lease, |record, now| record.park(lease, until, why, now))
    }

    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        self.change(lease, |record, now| record.requeue(lease, after, why, now))
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.change(lease, |record, now| record.release(lease, now))
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        self.change(lease, |record, now| record.settle(lease, settlement, now))
    }

    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        let now = self.time();
        let cancelled = self.jobs().change(job, |entry| entry.record.cancel(now));
        Ok(cancelled.unwrap_or(Cancellation::Unknown))
    }

    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        let jobs = self.jobs();
        Ok(jobs.entries.get(job).map(|entry| entry.record.inspection(entry.job.clone())))
    }

    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        let jobs = self.jobs();
        let wanted = |entry: &&Entry| state.is_none_or(|state| state == entry.record.state);
        let mut entries: Vec<&Entry> = jobs.entries.values().filter(wanted).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.record.seq));
        entries.truncate(most);
        Ok(entries.into_iter().map(|entry| entry.record.inspection(entry.job.clone())).collect())
    }

    async fn count(&self) -> Result<[u64; 4]> {
        let mut counts = [0; 4];
        for entry in self.jobs().entries.values() {
            counts[entry.record.state as usize] += 1;
        }
        Ok(counts)
    }

    async fn purge(&self) -> Result<u64> {
        let before = self.time() - self.keep_ended;
        let mut jobs = self.jobs();
        let old = jobs.ended.iter().take_while(|(ended, _)| *ended <= before).take(PURGE_BATCH);
        let old: Vec<_> = old.cloned().collect();
        for (_, id) in &old {
            jobs.unindex(id);
            jobs.entries.remove(id);
        }
        Ok(old.len() as u64)
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(self.time())
    }

    fn ledger(&self) -> Arc<dyn crate::Ledger> {
        Arc::clone(&self.shared.ledger) as _
    }

    fn name(&self) -> String {
        "memory:".to_owned()
    }
}

/// The error of an append that does not follow on what is there.
pub(crate) fn misplaced(job: &JobId, at: usize, have: usize) -> StoreError {
    StoreError::Corrupt(format!(
        "job {job}: steps for position {at} do not fit a journal of {have} steps: another run wrote it, or \
         steps are missing"
    ))
}
