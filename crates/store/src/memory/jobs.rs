//! The jobs of a store in memory, and the order in which they are claimed: indices that are kept in
//! step with every change.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;

use crate::record::Record;
use crate::{Claim, State, Whom};

/// A job, its record and its journal.
pub(super) struct Entry {
    pub job: Job,
    pub record: Record,
    pub steps: Vec<Vec<u8>>,
    pub patch: Vec<u8>,
}

/// The order within an owner: due time, then admission.
type Place = (Timestamp, u64, JobId);

/// A priority, highest first, and an owner.
type Lane = (Reverse<i8>, String);

/// What waits for its turn, by repository within each lane.
type Ready = BTreeMap<Lane, BTreeMap<String, BTreeSet<Place>>>;

/// See the module.
#[derive(Default)]
pub(super) struct Jobs {
    pub entries: BTreeMap<JobId, Entry>,
    /// Queued and parked, their time not yet come.
    due: BTreeSet<Place>,
    /// Queued and parked, their time come, of each lane by repository.
    ready: Ready,
    /// The turn of each lane in `ready`: the lowest is next.
    turns: BTreeMap<Lane, u64>,
    last_turn: u64,
    /// Only to be called off, oldest wish first.
    urgent: BTreeSet<Place>,
    /// Running, in the order in which their leases end.
    leases: BTreeSet<(Timestamp, JobId)>,
    /// How many of each repository run.
    running: BTreeMap<String, u32>,
    /// Ended, oldest first.
    pub ended: BTreeSet<(Timestamp, JobId)>,
    /// Which living job each unique key belongs to.
    unique: BTreeMap<String, JobId>,
    pub paused: BTreeSet<Whom>,
    pub admitted: u64,
}

impl Jobs {
    /// Adds a job.
    pub fn insert(&mut self, id: &JobId, entry: Entry, now: Timestamp) {
        self.entries.insert(id.clone(), entry);
        self.index(id);
        self.promote(now);
    }

    /// Removes a job.
    pub fn remove(&mut self, id: &JobId) {
        let Some(record) = self.entries.get(id).map(|entry| entry.record.clone()) else { return };
        self.unindex(id, &record);
        self.entries.remove(id);
    }

    /// Changes one job and keeps the indices in step; `None` if there is no such job. One that is due
    /// takes its place at once: an owner's turn counts from when its first job was ready.
    pub fn change<T>(&mut self, id: &JobId, now: Timestamp, to: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let before = self.entries.get(id)?.record.clone();
        let result = self.entries.get_mut(id).map(to);
        if self.entries.get(id).is_some_and(|entry| is_elsewhere(&entry.record, &before)) {
            self.unindex(id, &before);
            self.index(id);
        }
        self.promote(now);
        result
    }

    /// The living job that a key belongs to.
    pub fn alive(&self, unique: Option<&String>) -> Option<JobId> {
        self.unique.get(unique?).cloned()
    }

    /// Takes a job out of the indices, where it is as `record` was.
    fn unindex(&mut self, id: &JobId, record: &Record) {
        let Some(Entry { job, .. }) = self.entries.get(id) else { return };
        let place = (record.due, record.seq, id.clone());
        match record.state {
            State::Queued | State::Parked => {
                if !self.urgent.remove(&place) && !self.due.remove(&place) {
                    let (lane, repo) = ((Reverse(record.priority), job.owner_key()), job.repository_key());
                    leave(&mut self.ready, &mut self.turns, &lane, &repo, &place);
                }
            }
            State::Running => {
                self.leases.remove(&(record.lease_end, id.clone()));
                let repo = job.repository_key();
                if let Some(count) = self.running.get_mut(&repo) {
                    *count -= 1;
                    if *count == 0 {
                        self.running.remove(&repo);
                    }
                }
            }
            State::Ended => {
                self.ended.remove(&(record.at(), id.clone()));
            }
        }
        if let Some(key) = record.unique.as_ref().filter(|_| record.state != State::Ended) {
            self.unique.remove(key);
        }
    }

    fn index(&mut self, id: &JobId) {
        let Some(Entry { record, job, .. }) = self.entries.get(id) else { return };
        match record.state {
            State::Queued | State::Parked => {
                let place = (record.due, record.seq, id.clone());
                let set = if record.is_urgent() { &mut self.urgent } else { &mut self.due };
                set.insert(place);
            }
            State::Running => {
                self.leases.insert((record.lease_end, id.clone()));
                *self.running.entry(job.repository_key()).or_default() += 1;
            }
            State::Ended => {
                self.ended.insert((record.at(), id.clone()));
            }
        }
        if let Some(key) = record.unique.as_ref().filter(|_| record.state != State::Ended) {
            self.unique.insert(key.clone(), id.clone());
        }
    }

    /// Lets those whose time has come wait for their turn, in order of due time and admission.
    fn promote(&mut self, now: Timestamp) {
        while let Some(place) = self.due.first().filter(|(due, ..)| *due <= now).cloned() {
            self.due.remove(&place);
            let Some(Entry { record, job, .. }) = self.entries.get(&place.2) else { continue };
            let (lane, repo) = ((Reverse(record.priority), job.owner_key()), job.repository_key());
            if !self.ready.contains_key(&lane) {
                self.last_turn += 1;
                self.turns.insert(lane.clone(), self.last_turn);
            }
            self.ready.entry(lane).or_default().entry(repo).or_default().insert(place);
        }
    }

    fn is_paused(&self, owner: &str) -> bool {
        self.paused.contains(&Whom::Owner(owner.to_owned()))
    }

    /// The next to be claimed of those that wait for their turn, if `per_repo` lets one.
    fn first_ready(&self, per_repo: u32) -> Option<(Lane, JobId)> {
        let free =
            |repo: &String| per_repo == 0 || self.running.get(repo).is_none_or(|count| *count < per_repo);
        let head = |lane: &Lane| {
            let repos = self.ready.get(lane).filter(|_| !self.is_paused(&lane.1))?;
            let heads = repos.iter().filter(|(repo, _)| free(repo)).filter_map(|(_, places)| places.first());
            heads.min().map(|(.., id)| id.clone())
        };
        let found = self.turns.iter().filter_map(|(lane, turn)| Some((lane.0, *turn, lane, head(lane)?)));
        found.min_by_key(|(priority, turn, ..)| (*priority, *turn)).map(|(_, _, lane, id)| (lane.clone(), id))
    }

    /// The next of those that only wait to be called off.
    pub fn first_called_off(&self) -> Option<JobId> {
        self.urgent.first().map(|(.., id)| id.clone())
    }

    /// The next job to be claimed, after those that this claim has `taken`.
    pub fn first(&mut self, now: Timestamp, per_repo: u32, taken: &[Claim]) -> Option<JobId> {
        if let Some(id) = self.first_called_off() {
            return Some(id);
        }
        if self.paused.contains(&Whom::All) {
            return None;
        }
        let expired = self.leases.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| id.clone());
        let expired = expired.filter(|id| taken.iter().all(|claim| claim.lease.job != *id));
        for id in expired.collect::<Vec<_>>() {
            let owner = self.entries.get(&id).map(|entry| entry.job.owner_key()).unwrap_or_default();
            if !self.is_paused(&owner) {
                return Some(id);
            }
            self.change(&id, now, |entry| entry.record.expire(now));
            if let Some((.., id)) = self.urgent.first() {
                return Some(id.clone());
            }
        }
        self.promote(now);
        let (lane, id) = self.first_ready(per_repo)?;
        self.last_turn += 1;
        self.turns.insert(lane, self.last_turn);
        Some(id)
    }

    /// The next instant at which something can be claimed, as far as it is known.
    pub fn next(&mut self, now: Timestamp, per_repo: u32) -> Option<Timestamp> {
        if !self.urgent.is_empty() {
            return Some(now);
        }
        if self.paused.contains(&Whom::All) {
            return None;
        }
        self.promote(now);
        if self.first_ready(per_repo).is_some() {
            return Some(now);
        }
        let due = self.due.first().map(|(due, ..)| *due);
        let lease = self.leases.first().map(|(end, _)| *end);
        due.into_iter().chain(lease).min()
    }
}

/// Whether the indices have a job elsewhere than they had it before.
fn is_elsewhere(record: &Record, before: &Record) -> bool {
    (record.state, record.at(), record.is_urgent()) != (before.state, before.at(), before.is_urgent())
}

/// Takes a job out of its lane, and the lane with its last one out of its turn.
fn leave(ready: &mut Ready, turns: &mut BTreeMap<Lane, u64>, lane: &Lane, repo: &str, place: &Place) {
    let Some(repos) = ready.get_mut(lane) else { return };
    if let Some(places) = repos.get_mut(repo) {
        places.remove(place);
        if places.is_empty() {
            repos.remove(repo);
        }
    }
    if repos.is_empty() {
        ready.remove(lane);
        turns.remove(lane);
    }
}
