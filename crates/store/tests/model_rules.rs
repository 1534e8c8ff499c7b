//! The model: what becomes of jobs, and which one is next, in the plainest words that there are. Times
//! are what the store says that they are; all else is worked out here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_store::{
    Admission, Cancellation, ClaimedFrom, Counts, Lease, Renewal, Retried, RetryFrom, State, Token, Whom,
};

/// Whether somebody asked for a job to be called off, and whether its run knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cancel {
    No,
    Asked,
    Told,
}

/// How the newest run ended, or what came after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Close {
    Park { far: bool },
    Requeue { far: bool, crashed: bool },
    Release,
    Settle,
    Retry(RetryFrom),
}

#[derive(Clone, Debug)]
pub struct One {
    pub job: Job,
    pub seq: u64,
    pub state: State,
    pub token: Token,
    pub counts: Counts,
    pub cancel: Cancel,
    pub retries: u32,
    pub joined_to: Option<JobId>,
    /// When it is due, or was when it was claimed.
    pub due: Timestamp,
    /// It is due in an hour or never.
    pub far: bool,
    /// When its lease ends, and whether that is past.
    pub lease: (Timestamp, bool),
    pub closed: Option<Close>,
}

impl One {
    pub fn holds(&self, lease: &Lease) -> bool {
        self.state == State::Running && self.token == lease.token
    }

    fn waits_now(&self) -> bool {
        matches!(self.state, State::Queued | State::Parked)
    }

    fn is_urgent(&self) -> bool {
        self.state == State::Queued && self.cancel == Cancel::Asked
    }

    fn is_ready(&self) -> bool {
        self.waits_now() && !self.is_urgent() && !self.far
    }

    fn lane(&self) -> Lane {
        (Reverse(self.job.priority()), self.job.owner_key())
    }

    /// Lets it wait, unless it was called off and nobody is to be told.
    fn waits(&mut self, state: State, far: bool) {
        if self.cancel != Cancel::No && self.counts.steps == 0 {
            self.state = State::Ended;
        } else if self.cancel == Cancel::Asked {
            (self.state, self.far) = (State::Queued, false);
        } else {
            (self.state, self.far) = (state, far);
        }
    }

    /// Whether a transition out of running is to be done, was done before, or is refused.
    fn leaves(&mut self, lease: &Lease, close: Close) -> Option<bool> {
        if self.holds(lease) {
            self.closed = Some(close);
            return Some(true);
        }
        (self.token == lease.token && self.closed == Some(close)).then_some(false)
    }

    /// What a transition out of running must answer, and what it makes of the job.
    fn close(&mut self, lease: &Lease, close: Close) -> bool {
        match self.leaves(lease, close) {
            None => return false,
            Some(false) => return true,
            Some(true) => {}
        }
        match close {
            Close::Park { far } => {
                self.counts.waits += 1;
                self.waits(State::Parked, far);
            }
            Close::Requeue { far, crashed } => {
                let counter = if crashed { &mut self.counts.crashes } else { &mut self.counts.attempts };
                *counter += 1;
                self.waits(State::Queued, far);
            }
            Close::Release => self.waits(State::Queued, false),
            Close::Settle | Close::Retry(_) => self.state = State::Ended,
        }
        true
    }

    /// From then on its run knows.
    pub fn told(&mut self) -> bool {
        if self.cancel == Cancel::Asked {
            self.cancel = Cancel::Told;
        }
        self.cancel != Cancel::No
    }
}

type Lane = (Reverse<i8>, String);

/// A claim that must be given.
#[derive(Debug, PartialEq)]
pub struct Given {
    pub id: JobId,
    pub from: ClaimedFrom,
    pub counts: Counts,
    pub retries: u32,
    pub cancel_requested: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    pub jobs: BTreeMap<JobId, One>,
    pub paused: BTreeSet<Whom>,
    per_repo: u32,
    turns: BTreeMap<Lane, u64>,
    last_turn: u64,
    admitted: u64,
}

impl Model {
    /// Of a queue that runs so many jobs of a repository at once, or any number.
    pub fn limited(per_repo: u32) -> Self {
        Model { per_repo, ..Model::default() }
    }

    /// Changes a job; its owner comes in with the first that is ready, and is forgotten with the last.
    pub fn change<T>(&mut self, id: &JobId, to: impl FnOnce(&mut One) -> T) -> T {
        let one = self.jobs.get_mut(id).unwrap();
        let (lane, was_ready) = (one.lane(), one.is_ready());
        let result = to(one);
        let is_ready = one.is_ready();
        if is_ready && !was_ready && !self.turns.contains_key(&lane) {
            self.last_turn += 1;
            self.turns.insert(lane, self.last_turn);
        } else if was_ready && !self.jobs.values().any(|one| one.is_ready() && one.lane() == lane) {
            self.turns.remove(&lane);
        }
        result
    }

    fn alive(&self, key: Option<&String>) -> Option<JobId> {
        let same = |one: &&One| one.state != State::Ended && one.job.unique_key(false).as_ref() == key;
        key.and_then(|_| self.jobs.values().find(same)).map(|one| one.job.id.clone())
    }

    pub fn submit(&mut self, job: &Job, far: bool) -> Admission {
        if self.jobs.contains_key(&job.id) {
            return Admission::Duplicate;
        }
        let joined_to = self.alive(job.unique_key(false).as_ref());
        self.admitted += 1;
        let one = One {
            job: job.clone(),
            seq: self.admitted,
            state: State::Ended,
            token: Token(0),
            counts: Counts::default(),
            cancel: Cancel::No,
            retries: 0,
            joined_to: joined_to.clone(),
            due: Timestamp::EPOCH,
            far,
            lease: (Timestamp::EPOCH, false),
            closed: None,
        };
        self.jobs.insert(job.id.clone(), one);
        if let Some(to) = joined_to {
            return Admission::Joined { to };
        }
        self.change(&job.id, |one| one.state = State::Queued);
        Admission::Queued
    }

    pub fn close(&mut self, lease: &Lease, close: Close) -> bool {
        self.change(&lease.job, |one| one.close(lease, close))
    }

    pub fn renew(&mut self, lease: &Lease) -> Renewal {
        self.change(&lease.job, |one| {
            if !one.holds(lease) {
                return Renewal::Lost;
            }
            one.lease.1 = false;
            if one.told() { Renewal::CancelRequested } else { Renewal::Held }
        })
    }

    pub fn cancel(&mut self, id: &JobId) -> Cancellation {
        if !self.jobs.contains_key(id) {
            return Cancellation::Unknown;
        }
        self.change(id, |one| {
            if one.state == State::Ended {
                return Cancellation::AlreadyEnded;
            }
            if one.cancel == Cancel::No {
                one.cancel = Cancel::Asked;
                if one.waits_now() {
                    one.waits(State::Queued, false);
                }
            }
            if one.state == State::Ended { Cancellation::Ended } else { Cancellation::Asked }
        })
    }

    pub fn retry(&mut self, id: &JobId, from: RetryFrom) -> Retried {
        let Some(one) = self.jobs.get(id) else { return Retried::Unknown };
        if one.state != State::Ended {
            let again = one.waits_now() && one.closed == Some(Close::Retry(from));
            return if again { Retried::Queued } else { Retried::Alive };
        }
        if let Some(to) = self.alive(one.job.unique_key(false).as_ref()) {
            return Retried::Joined { to };
        }
        self.change(id, |one| {
            (one.counts.attempts, one.counts.crashes, one.cancel) = (0, 0, Cancel::No);
            (one.joined_to, one.closed) = (None, Some(Close::Retry(from)));
            one.retries += 1;
            if from == RetryFrom::Start {
                one.counts.steps = 0;
            }
            one.waits(State::Queued, false);
        });
        Retried::Queued
    }

    fn is_paused(&self, one: &One) -> bool {
        self.paused.contains(&Whom::owner(&one.job.repo_owner))
    }

    fn has_room(&self, one: &One) -> bool {
        let repo = one.job.repository_key();
        let runs = |one: &&One| one.state == State::Running && one.job.repository_key() == repo;
        self.per_repo == 0 || self.jobs.values().filter(runs).count() < self.per_repo as usize
    }

    /// What a claim must give, in order; `dying`: to one whose leases end at once.
    pub fn claim(&mut self, most: usize, dying: bool) -> Vec<Given> {
        let mut given: Vec<Given> = Vec::new();
        while given.len() < most {
            let Some(id) = self.next(&given) else { break };
            let claimed = self.change(&id, |one| {
                let expired = one.state == State::Running;
                one.closed = None;
                one.counts.crashes += u32::from(expired);
                if one.cancel != Cancel::No && one.counts.steps == 0 {
                    one.state = State::Ended;
                    return None;
                }
                let cancel_requested = one.told();
                one.counts.runs += 1;
                (one.state, one.lease.1) = (State::Running, dying);
                let from = if expired { ClaimedFrom::ExpiredLease } else { ClaimedFrom::Queue };
                let (id, counts) = (one.job.id.clone(), one.counts);
                Some(Given { id, from, counts, retries: one.retries, cancel_requested })
            });
            given.extend(claimed);
        }
        given
    }

    fn next(&mut self, given: &[Given]) -> Option<JobId> {
        let place = |one: &&One| (one.due, one.seq);
        if let Some(one) = self.jobs.values().filter(|one| one.is_urgent()).min_by_key(place) {
            return Some(one.job.id.clone());
        }
        if self.paused.contains(&Whom::All) {
            return None;
        }
        let is_new = |one: &&One| given.iter().all(|given| given.id != one.job.id);
        let expired = |one: &&One| one.state == State::Running && one.lease.1;
        let expired = self.jobs.values().filter(expired).filter(is_new);
        if let Some(one) = expired.min_by_key(|one| (one.lease.0, one.job.id.clone())) {
            let (id, paused) = (one.job.id.clone(), self.is_paused(one));
            if paused {
                self.change(&id, |one| {
                    one.counts.crashes += 1;
                    one.closed = None;
                    one.waits(State::Queued, false);
                });
                return self.next(given);
            }
            return Some(id);
        }
        let turn = |one: &One| (one.lane().0, self.turns[&one.lane()], one.due, one.seq);
        let ready =
            self.jobs.values().filter(|one| one.is_ready() && !self.is_paused(one) && self.has_room(one));
        let one = ready.min_by_key(|one| turn(one))?;
        let (id, lane) = (one.job.id.clone(), one.lane());
        self.last_turn += 1;
        self.turns.insert(lane, self.last_turn);
        Some(id)
    }
}
