//! The store in memory, for simulations and tests: tokio's clock, so that paused time works, and no
//! order that a hash would decide.

mod jobs;

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
use crate::record::{Record, Taken, closing, lost};
use crate::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Retried, RetryFrom,
    Settings, Settlement, State, Store, StoreError, Whom,
};
use jobs::{Entry, Jobs};

/// Most jobs that one purge removes.
const PURGE_BATCH: usize = 500;

/// One process's view of a store in memory; [`MemoryStore::for_runner`] gives others theirs.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    caps: Caps,
    lease: Duration,
    keep_ended: Duration,
    unique_issues: bool,
    per_repo: u32,
    runner: Arc<str>,
    /// What was claimed by calls whose answer nobody heard.
    undelivered: Arc<Mutex<Vec<Lease>>>,
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
            unique_issues: settings.unique_issues,
            per_repo: settings.per_repo_concurrency,
            runner: runner.into(),
            undelivered: Arc::default(),
        }
    }

    /// The same store as another process sees it: its name, and its settings.
    pub fn for_runner(&self, settings: &Settings, runner: &str) -> Self {
        MemoryStore {
            shared: Arc::clone(&self.shared),
            caps: Caps::new(settings),
            lease: settings.lease,
            keep_ended: settings.keep_ended,
            unique_issues: settings.unique_issues,
            per_repo: settings.per_repo_concurrency,
            runner: runner.into(),
            undelivered: Arc::default(),
        }
    }

    /// A claim's answer was lost between this store and who asked: as with the other stores, whose
    /// answers get lost on wires of their own, the next claim delivers it again.
    pub fn unheard(&self, claims: &[Claim]) {
        self.undelivered().extend(claims.iter().map(|claim| claim.lease.clone()));
    }

    fn undelivered(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> Timestamp {
        self.shared.base + self.shared.begun.elapsed()
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // A panic elsewhere leaves the map as it was: nothing below panics between two changes.
        self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was claimed by calls whose answer nobody heard, as far as it is still ours.
    fn deliver_again(&self, most: usize) -> Vec<Claim> {
        let now = self.time();
        let mut jobs = self.jobs();
        let mut undelivered = self.undelivered();
        let earlier = undelivered.len().min(most.min(MOST_CLAIMED));
        let again = |lease: Lease| {
            jobs.change(&lease.job, now, |entry| {
                let Entry { job, record, .. } = entry;
                let held = record.renew(&lease, now, self.lease) != Renewal::Lost;
                held.then(|| record.claimed(job.clone(), record.claimed_from()))
            })
        };
        undelivered.drain(..earlier).filter_map(again).flatten().collect()
    }

    /// Claims what `next` names, one after the other, after those that it has.
    fn take(
        &self,
        mut claims: Vec<Claim>,
        most: usize,
        next: impl Fn(&mut Jobs, Timestamp, &[Claim]) -> Option<JobId>,
    ) -> Vec<Claim> {
        let most = most.min(MOST_CLAIMED);
        let now = self.time();
        let mut jobs = self.jobs();
        while claims.len() < most {
            let Some(id) = next(&mut jobs, now, &claims) else { break };
            let claim = jobs.change(&id, now, |entry| {
                let Entry { job, record, .. } = entry;
                match record.claim(now, self.lease, &self.runner) {
                    Taken::No | Taken::CalledOff => None,
                    Taken::Claimed(from) => Some(record.claimed(job.clone(), from)),
                }
            });
            claims.extend(claim.flatten());
        }
        claims
    }

    /// Changes the job that a lease is for.
    fn change(&self, lease: &Lease, to: impl FnOnce(&mut Record, Timestamp) -> Result<()>) -> Result<()> {
        let now = self.time();
        self.jobs()
            .change(&lease.job, now, |entry| to(&mut entry.record, now))
            .ok_or_else(|| lost(lease))??;
        self.shared.changed.notify_waiters();
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn submit(&self, job: &Job) -> Result<Admission> {
        self.caps.encode_job(job)?;
        let now = self.time();
        let mut jobs = self.jobs();
        if let Some(entry) = jobs.entries.get_mut(&job.id) {
            entry.record.duplicates += 1;
            return Ok(Admission::Duplicate);
        }
        jobs.admitted += 1;
        let record = Record::admitted(jobs.admitted, closing::submit(""), now);
        let mut record = record.with_wishes(job, self.unique_issues);
        let alive = jobs.alive(record.unique.as_ref());
        if let Some(to) = &alive {
            record.joined(to, now);
        }
        jobs.insert(&job.id, Entry { job: job.clone(), record, steps: Vec::new(), patch: Vec::new() }, now);
        drop(jobs);
        self.shared.changed.notify_waiters();
        Ok(alive.map_or(Admission::Queued, |to| Admission::Joined { to }))
    }

    async fn wait(&self, longest: Duration) -> Result<()> {
        let end = Instant::now() + longest;
        loop {
            // Listening begins before looking, so that nothing is missed in between.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.time();
            let next = self.jobs().next(now, self.per_repo);
            let wake = next.map_or(end, |next| end.min(Instant::now() + next.since(now)));
            let there = next.is_some_and(|next| next <= now) || !self.undelivered().is_empty();
            if there || Instant::now() >= end {
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
        let claims = self.deliver_again(most);
        Ok(self.take(claims, most, |jobs, now, taken| jobs.first(now, self.per_repo, taken)))
    }

    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        Ok(self.take(Vec::new(), most, |jobs, _, _| jobs.first_called_off()))
    }

    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        let now = self.time();
        let mut jobs = self.jobs();
        let renew =
            |lease: &Lease| jobs.change(&lease.job, now, |entry| entry.record.renew(lease, now, self.lease));
        Ok(leases.iter().map(renew).map(|renewal| renewal.unwrap_or(Renewal::Lost)).collect())
    }

    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        let mut jobs = self.jobs();
        let told = |lease: &&Lease| {
            let entry = jobs.entries.get_mut(&lease.job);
            entry.is_some_and(|entry| entry.record.holds(lease) && entry.record.told())
        };
        Ok(leases.iter().filter(told).cloned().collect())
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
        let cancelled = self.jobs().change(job, now, |entry| entry.record.cancel(now));
        self.shared.changed.notify_waiters();
        Ok(cancelled.unwrap_or(Cancellation::Unknown))
    }

    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        let now = self.time();
        let mut jobs = self.jobs();
        let Some(entry) = jobs.entries.get(job) else { return Ok(Retried::Unknown) };
        if entry.record.state == State::Ended
            && let Some(to) = jobs.alive(entry.record.unique.as_ref())
        {
            return Ok(Retried::Joined { to });
        }
        let retried = jobs.change(job, now, |entry| {
            let retried = entry.record.retry(from, now);
            if retried && from == RetryFrom::Start {
                entry.steps.clear();
                entry.patch.clear();
            }
            retried
        });
        drop(jobs);
        self.shared.changed.notify_waiters();
        Ok(if retried == Some(true) { Retried::Queued } else { Retried::Alive })
    }

    async fn pause(&self, whom: &Whom) -> Result<()> {
        self.jobs().paused.insert(whom.clone());
        Ok(())
    }

    async fn resume(&self, whom: &Whom) -> Result<()> {
        self.jobs().paused.remove(whom);
        self.shared.changed.notify_waiters();
        Ok(())
    }

    async fn paused(&self) -> Result<Vec<Whom>> {
        Ok(self.jobs().paused.iter().cloned().collect())
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
            jobs.remove(id);
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
