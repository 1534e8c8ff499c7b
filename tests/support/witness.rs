//! Sees each step of a simulated story as it is taken, and says what must not be: the invariants of the
//! job's life, kept in a second book beside the store's. What is sent is seen in `wire.rs`.

mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_sim::World;
use steadfast_store::memory::MemoryStore;
use steadfast_store::{
    Claim, ClaimedFrom, Inspection, Lease, Renewal, Result as StoreResult, RetryFrom, State, Store,
    StoreError,
};
use tokio::time::Instant;

use super::storm::locked;
use super::trace::Trace;

const MINUTE: Duration = Duration::from_secs(60);
/// Claims of one job within a minute above which it goes round and round.
const SPINNING: usize = 60;

/// Adds now, forgets what is older than a minute, and counts the rest.
fn in_the_last_minute(times: &mut VecDeque<Instant>) -> usize {
    let now = Instant::now();
    times.push_back(now);
    while times.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
        times.pop_front();
    }
    times.len()
}

/// How a run leaves a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    Park(Timestamp),
    Requeue { crashed: bool },
    Release,
    Settle,
}

impl Leaving {
    pub fn word(self) -> &'static str {
        match self {
            Leaving::Park(_) => "park",
            Leaving::Requeue { .. } => "requeue",
            Leaving::Release => "release",
            Leaving::Settle => "settle",
        }
    }
}

/// What must not be, and the job that it is about.
#[derive(Clone, Debug)]
pub struct Wrong {
    pub job: Option<String>,
    pub what: String,
}

/// One job, in the second book.
struct Known {
    job: Job,
    state: State,
    token: u64,
    holder: String,
    journal: Vec<Vec<u8>>,
    cancelled: bool,
    /// What happened since the beginning that may have cost an answer on its way into the journal.
    disturbed: u64,
    /// Since when it could run, and did not.
    ready: Option<Instant>,
    ended: Option<Vec<(String, String)>>,
}

#[derive(Default)]
struct Book {
    jobs: BTreeMap<JobId, Known>,
    /// Model calls that were looked at.
    chats: usize,
    /// Answered questions: which call of the record, and how disturbed the job was then.
    questions: BTreeMap<(JobId, String), Vec<(usize, u64)>>,
    /// How disturbed a job was when a question was sent: what happens while the server works counts.
    asked: BTreeMap<(JobId, Timestamp), u64>,
    in_flight: BTreeMap<String, u32>,
    /// When model calls were sent, in the last minute.
    sent: VecDeque<Instant>,
    /// When each job was claimed, in the last minute.
    claims: BTreeMap<JobId, VecDeque<Instant>>,
    /// The earliest time at which each may be claimed.
    dues: BTreeMap<JobId, Timestamp>,
    /// How each was left last, and by which token.
    left: BTreeMap<JobId, (u64, Leaving)>,
    wrong: Option<Wrong>,
}

impl Book {
    fn is_newest(&self, lease: &Lease) -> bool {
        let newest = |known: &Known| known.state == State::Running && known.token == lease.token.0;
        self.jobs.get(&lease.job).is_some_and(newest)
    }
}

/// See the module.
pub struct Witness {
    store: MemoryStore,
    world: Arc<World>,
    trace: Arc<Trace>,
    limits: Limits,
    book: Mutex<Book>,
}

/// What the configuration says of the fleet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub lease: Duration,
    /// Jobs at once in a process.
    pub slots: usize,
    /// Most model calls that one process may have in flight; 0: no limit.
    pub flight: u32,
    /// Model calls that the fleet may send in a minute; 0: not known.
    pub requests: u32,
}

impl Witness {
    pub fn new(store: MemoryStore, world: Arc<World>, trace: Arc<Trace>, limits: Limits) -> Arc<Witness> {
        Arc::new(Witness { store, world, trace, limits, book: Mutex::default() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// The first thing that must not be.
    pub fn wrong(&self) -> Option<Wrong> {
        self.book().wrong.clone()
    }

    /// Takes down what must not be; the story is stopped at its next step.
    pub fn accuse(&self, job: Option<&JobId>, what: impl Into<String>) {
        let (job, what) = (job.map(|job| job.as_str().to_owned()), what.into());
        self.trace.note("witness", job.as_deref(), format!("WRONG: {what}"));
        self.book().wrong.get_or_insert(Wrong { job, what });
    }

    async fn found(&self, job: &JobId) -> Option<Inspection> {
        self.store.inspect(job).await.ok().flatten()
    }

    /// The queue took a job in.
    pub fn admitted(&self, job: &Job) {
        let known = Known {
            job: job.clone(),
            state: State::Queued,
            token: 0,
            holder: String::new(),
            journal: Vec::new(),
            cancelled: false,
            disturbed: 0,
            ready: None,
            ended: None,
        };
        self.book().jobs.insert(job.id.clone(), known);
    }

    /// Somebody calls a job off.
    pub async fn cancelled(&self, job: &JobId) {
        if let Some(known) = self.book().jobs.get_mut(job) {
            known.cancelled = true;
            known.disturbed += 1;
        }
        self.adopt(job, &[State::Queued, State::Ended], "called off").await;
        self.compare(job).await;
    }

    /// Something happened to a process that may cost what is on its way.
    pub fn disturb(&self, process: &str) {
        for known in self.book().jobs.values_mut().filter(|known| known.holder == process) {
            known.disturbed += 1;
        }
    }

    /// Each job is in the state in which it must be, and in that one only.
    async fn compare(&self, job: &JobId) {
        let found = self.found(job).await;
        let counts = self.store.count().await.unwrap_or_default();
        let mut wrong = None;
        {
            let mut book = self.book();
            let all = book.jobs.len() as u64;
            if counts.iter().sum::<u64>() != all {
                wrong = Some(format!("{all} jobs were taken in, the store has {counts:?}"));
            }
            match (book.jobs.get_mut(job), found) {
                (Some(known), Some(found)) => {
                    if known.state != found.state {
                        wrong = Some(format!("it must be {:?} and is {:?}", known.state, found.state));
                    }
                    if known.journal.len() != found.counts.steps as usize {
                        let (must, is) = (known.journal.len(), found.counts.steps);
                        wrong = Some(format!("its journal must have {must} steps and has {is}"));
                    }
                    if found.state == State::Ended {
                        let first = known.ended.get_or_insert_with(|| found.status.clone());
                        let end = |status: &[(String, String)], name: &str| {
                            status.iter().find(|(key, _)| key == name).cloned()
                        };
                        for name in ["status", "result", "completedAt"] {
                            if end(first, name) != end(&found.status, name) {
                                wrong = Some(format!("its {name} changed after its end"));
                            }
                        }
                    }
                }
                (known, found) => {
                    wrong = Some(format!("known: {}, in the store: {}", known.is_some(), found.is_some()));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.accuse(Some(job), wrong);
        }
    }

    /// The journal in the store is the one that was written, byte for byte.
    pub async fn compare_journal(&self, job: &JobId) {
        let replay = self.store.replay(job).await;
        let same = match (&replay, self.book().jobs.get(job)) {
            (Ok(replay), Some(known)) => replay.steps == known.journal,
            _ => false,
        };
        if !same {
            self.accuse(Some(job), "its journal is not what was written");
        }
    }

    /// A runner claimed; `claims` is what the store gave.
    pub async fn claimed(&self, process: &str, claims: &[Claim]) {
        let Ok(now) = self.store.now().await else { return };
        for Claim { lease, from, .. } in claims {
            let (mut wrong, mut urgent) = (None, false);
            if let Some(known) = self.book().jobs.get_mut(&lease.job) {
                let from_queue = matches!(known.state, State::Queued | State::Parked);
                wrong = match from {
                    // Whose answer was lost is given again.
                    _ if lease.token.0 == known.token && known.holder == process => None,
                    ClaimedFrom::Queue if !from_queue => Some(format!("claimed while {:?}", known.state)),
                    ClaimedFrom::ExpiredLease if known.state != State::Running => {
                        Some(format!("claimed from an expired lease while {:?}", known.state))
                    }
                    _ if lease.token.0 <= known.token => Some(format!(
                        "claimed with token {}, though {} was given before",
                        lease.token.0, known.token
                    )),
                    _ => None,
                };
                known.disturbed += u64::from(*from == ClaimedFrom::ExpiredLease);
                // What is only to be called off waits for nothing.
                urgent = known.cancelled;
                known.state = State::Running;
                known.token = lease.token.0;
                known.holder = process.to_owned();
                known.ready = None;
            } else {
                self.accuse(Some(&lease.job), "claimed, though it was never taken in");
            }
            let claims = in_the_last_minute(self.book().claims.entry(lease.job.clone()).or_default());
            if claims > SPINNING {
                wrong = Some(format!("claimed {claims} times within a minute: it goes round and round"));
            }
            if let Some(wrong) = wrong {
                self.accuse(Some(&lease.job), wrong);
            }
            if !urgent {
                self.not_before_its_time(&lease.job, now);
            }
            self.book().dues.insert(lease.job.clone(), now + self.limits.lease);
            self.compare(&lease.job).await;
            self.compare_journal(&lease.job).await;
            if claims > SPINNING {
                // Who spins lets no time pass, and without time no story is stopped: held here, it does.
                std::future::pending::<()>().await;
            }
        }
        self.others(now).await;
    }

    /// A claim also ends what was called off before anything of it was seen, and lets wait whose
    /// lease is over and whose owner is paused. Nothing else moves.
    async fn others(&self, now: Timestamp) {
        let alive = |(id, known): (&JobId, &Known)| (known.state != State::Ended).then(|| id.clone());
        let alive: Vec<JobId> = self.book().jobs.iter().filter_map(alive).collect();
        for job in alive {
            let (cancelled, over) = {
                let book = self.book();
                let over = book.dues.get(&job).is_some_and(|due| *due <= now);
                (book.jobs.get(&job).is_some_and(|known| known.cancelled), over)
            };
            match (cancelled, over && self.is_paused().await) {
                (true, true) => self.adopt(&job, &[State::Ended, State::Queued], "another's claim").await,
                (true, false) => self.adopt(&job, &[State::Ended], "another's claim").await,
                (false, true) => self.adopt(&job, &[State::Queued], "another's claim").await,
                (false, false) => self.adopt(&job, &[], "another's claim").await,
            }
        }
    }

    async fn is_paused(&self) -> bool {
        self.store.paused().await.is_ok_and(|paused| !paused.is_empty())
    }

    /// Takes the state in which a job is now, if it is the one that is known or one of these.
    async fn adopt(&self, job: &JobId, may: &[State], by: &str) {
        let Some(found) = self.found(job).await else { return };
        let mut wrong = None;
        {
            let mut book = self.book();
            let Some(known) = book.jobs.get_mut(job) else { return };
            if known.state == found.state {
                return;
            }
            if !may.contains(&found.state) {
                wrong = Some(format!("{by} made it {:?}, it was {:?}", found.state, known.state));
            }
            known.disturbed += u64::from(known.state == State::Running);
            known.state = found.state;
            if found.state != State::Ended {
                book.dues.insert(job.clone(), found.at);
            }
        }
        if let Some(wrong) = wrong {
            self.accuse(Some(job), wrong);
        }
    }

    /// Somebody has an ended job done again.
    pub async fn retried(&self, job: &JobId, from: RetryFrom) {
        if let Some(known) = self.book().jobs.get_mut(job) {
            known.disturbed += 1;
            known.cancelled = false;
            known.ended = None;
            if from == RetryFrom::Start {
                known.journal.clear();
            }
        }
        self.adopt(job, &[State::Queued], "a retry").await;
        self.compare(job).await;
    }

    fn not_before_its_time(&self, job: &JobId, now: Timestamp) {
        let due = self.book().dues.remove(job);
        if let Some(due) = due.filter(|due| now < *due) {
            self.accuse(Some(job), format!("claimed at {}, before its time {}", now.millis(), due.millis()));
        }
    }

    /// Leases were renewed, or not.
    pub async fn renewed(&self, leases: &[Lease], renewals: &[Renewal]) {
        let Ok(now) = self.store.now().await else { return };
        for (lease, renewal) in leases.iter().zip(renewals) {
            let mut wrong = None;
            {
                let mut book = self.book();
                let newest = book.is_newest(lease);
                let held = *renewal != Renewal::Lost;
                if held != newest {
                    wrong = Some(format!(
                        "renewed: {renewal:?}, though token {} is newest: {newest}",
                        lease.token.0
                    ));
                }
                if held {
                    book.dues.insert(lease.job.clone(), now + self.limits.lease);
                }
            }
            if let Some(wrong) = wrong {
                self.accuse(Some(&lease.job), wrong);
            }
        }
    }

    /// Steps were appended, or not.
    pub async fn appended(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], appended: &StoreResult<()>) {
        let mut wrong = None;
        {
            let mut book = self.book();
            let newest = book.is_newest(lease);
            let Some(known) = book.jobs.get_mut(&lease.job) else { return };
            let (at, token) = (at as usize, lease.token.0);
            match appended {
                Ok(()) if !newest => {
                    wrong = Some(format!("token {token} wrote, though it is not the newest"))
                }
                Ok(()) if at == known.journal.len() => known.journal.extend_from_slice(steps),
                Ok(()) => {
                    if known.journal.get(at..at + steps.len()) != Some(steps) {
                        wrong = Some(format!("the journal changed at {at}"));
                    }
                }
                Err(StoreError::LeaseLost { .. }) if newest => {
                    wrong = Some(format!("token {token} is the newest and was refused"));
                }
                Err(StoreError::Corrupt(why)) => wrong = Some(format!("an append did not fit: {why}")),
                Err(
                    StoreError::LeaseLost { .. }
                    | StoreError::Unavailable(_)
                    | StoreError::Unusable(_)
                    | StoreError::TooLarge { .. },
                ) => {}
            }
        }
        if let Some(wrong) = wrong {
            self.accuse(Some(&lease.job), wrong);
        }
        self.compare(&lease.job).await;
    }

    /// A run left a job, or could not.
    pub async fn left(&self, lease: &Lease, leaving: Leaving, done: &StoreResult<()>) {
        let found = self.found(&lease.job).await;
        let mut wrong = None;
        {
            let mut book = self.book();
            let newest = book.is_newest(lease);
            let repeated = book.left.get(&lease.job) == Some(&(lease.token.0, leaving));
            let (word, token) = (leaving.word(), lease.token.0);
            match done {
                // The same again, since the answer was lost: nothing may come of it.
                Ok(()) if !newest && repeated => {}
                Ok(()) if !newest => {
                    wrong = Some(format!("{word} with token {token}, which is not the newest"))
                }
                Ok(()) => {
                    book.left.insert(lease.job.clone(), (token, leaving));
                    if let (Some(found), Some(known)) = (found, book.jobs.get_mut(&lease.job)) {
                        let may = match leaving {
                            Leaving::Park(_) => &[State::Parked][..],
                            Leaving::Requeue { .. } | Leaving::Release => &[State::Queued],
                            Leaving::Settle => &[State::Ended],
                        };
                        let called_off = known.cancelled && found.state == State::Ended;
                        if !may.contains(&found.state) && !called_off {
                            wrong = Some(format!("{word} made it {:?}", found.state));
                        }
                        known.state = found.state;
                        known.disturbed += u64::from(leaving == Leaving::Requeue { crashed: true });
                        if found.state == State::Ended {
                            book.dues.remove(&lease.job);
                        } else {
                            book.dues.insert(lease.job.clone(), found.at);
                        }
                    }
                }
                Err(StoreError::LeaseLost { .. }) if newest => {
                    wrong = Some(format!("{word}: token {token} is the newest and was refused"));
                }
                Err(_) => {}
            }
        }
        if let Some(wrong) = wrong {
            self.accuse(Some(&lease.job), wrong);
        }
        self.compare(&lease.job).await;
    }

    /// A while passed: what could run must not wait for longer than `most` while `fit` runners, by
    /// name, have slots free.
    pub async fn ticks(&self, fit: &[&str], most: Duration) {
        let Ok(now) = self.store.now().await else { return };
        let mut stuck = Vec::new();
        {
            let mut book = self.book();
            let held = |process: &&&str| {
                let runs = |known: &&Known| known.state == State::Running && known.holder == **process;
                book.jobs.values().filter(runs).count() < self.limits.slots
            };
            let free = fit.iter().any(|process| held(&process));
            let Book { jobs, dues, .. } = &mut *book;
            for (id, known) in jobs {
                let waits = matches!(known.state, State::Queued | State::Parked);
                let is_due = dues.get(id).is_none_or(|due| *due <= now);
                if !(waits && is_due && free) {
                    known.ready = None;
                    continue;
                }
                let since = *known.ready.get_or_insert_with(Instant::now);
                if since.elapsed() > most {
                    stuck.push(id.clone());
                }
            }
        }
        for job in stuck {
            self.accuse(
                Some(&job),
                format!("it could run, a slot is free, and nobody claims it for {most:?}"),
            );
        }
    }
}
