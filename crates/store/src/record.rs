//! What is known of a job, and its transitions as plain functions: the memory and SQLite stores load
//! a record, change it here and keep it. Redis does the same in its scripts.

use std::time::Duration;

use serde_json::json;
use steadfast_core::end::{EndReason, EndStatus};
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;

use crate::caps::reason;
use crate::{
    Cancellation, Claim, ClaimedFrom, Counts, Inspection, Lease, Renewal, Requeue, Result, RetryFrom,
    Settlement, State, StoreError, Token,
};

/// Fields of the status hash that the stores keep themselves, in the order in which they are shown.
pub(crate) const VISIBLE: &[&str] = &[
    "status",
    "state",
    "admittedAt",
    "startedAt",
    "completedAt",
    "waitingFor",
    "waitingUntil",
    "runs",
    "attempts",
    "crashes",
    "waits",
    "steps",
    "duplicates",
    "priority",
    "retries",
    "joinedTo",
    "runner",
    "lastError",
    "result",
];

/// The Redis store's own, in the same hash, and not shown.
pub(crate) const INTERNAL: &[&str] = &["token", "seq", "due", "closed", "cancel", "journalBytes"];

/// The fields that a settlement may add: those that the store doesn't keep itself.
pub(crate) fn further_fields(settlement: &Settlement) -> impl Iterator<Item = (&str, &str)> {
    let kept = |name: &str| VISIBLE.contains(&name) || INTERNAL.contains(&name);
    let fields = settlement.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    fields.filter(move |(name, _)| !kept(name))
}

/// The settlement that an operator's cancel is, of a job that nobody runs.
pub(crate) fn called_off() -> Settlement {
    Settlement {
        status: EndStatus::Cancelled,
        result: json!({"success": false, "summary": "called off before it was done"}),
        fields: vec![("endReason".into(), reason_word(EndReason::Cancelled))],
    }
}

/// The settlement of a job that another one for the same issue does already.
pub(crate) fn joined(to: &JobId) -> Settlement {
    Settlement {
        status: EndStatus::Cancelled,
        result: json!({"success": false, "summary": format!("joined to job {to}, which is at the same issue")}),
        fields: vec![("endReason".into(), reason_word(EndReason::Joined))],
    }
}

/// The settlement of a job that the store cannot read any more.
pub(crate) fn unreadable(why: &str) -> Settlement {
    Settlement {
        status: EndStatus::Failed,
        result: json!({"success": false, "error": reason(&format!("the store cannot read this job: {why}"))}),
        fields: vec![("endReason".into(), reason_word(EndReason::Journal))],
    }
}

fn reason_word(reason: EndReason) -> String {
    serde_json::to_value(reason).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Everything but the job itself, its journal and its patch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Order of admission.
    pub seq: u64,
    pub state: State,
    pub token: u64,
    /// When it may be claimed; kept while it runs, for a release.
    pub due: Timestamp,
    /// When its lease ends; means something while it runs.
    pub lease_end: Timestamp,
    pub counts: Counts,
    pub duplicates: u32,
    pub journal_bytes: u64,
    /// Whether somebody asked for it to be called off.
    pub cancel: Cancel,
    pub priority: i8,
    /// What it must be alone with while it is alive.
    pub unique: Option<String>,
    /// The job that it was joined to.
    pub joined_to: Option<JobId>,
    /// How often it was retried after an end.
    pub retries: u32,
    /// The last transition into or out of running (or the submission), with its arguments: what
    /// makes its repetition harmless.
    pub closed: String,
    pub admitted_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub waiting_for: Option<String>,
    pub runner: Option<String>,
    pub last_error: Option<String>,
    pub end: Option<Settlement>,
}

/// Whether somebody asked for a job to be called off, and whether its run knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// Nobody did.
    No,
    /// Asked; if the run puts the job back, another is to begin at once.
    Asked,
    /// The run was told: if it puts the job back, for GitHub's door is shut say, its wait counts.
    Told,
}

/// In what a job stands that waits to be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Its time has not come.
    Due,
    /// Its turn has not come.
    Ready,
    /// It is only to be called off: before all others.
    Urgent,
}

/// What a claim made of a record.
pub(crate) enum Taken {
    /// Ours now.
    Claimed(ClaimedFrom),
    /// It was to be called off and its runner is gone: it has ended.
    CalledOff,
    /// Not to be had: somebody else was quicker.
    No,
}

/// Whether a transition is still to be done.
#[derive(PartialEq, Eq)]
enum Todo {
    Now,
    DoneBefore,
}

impl Record {
    /// A job just taken in.
    pub fn admitted(seq: u64, closed: String, now: Timestamp) -> Self {
        Record {
            seq,
            state: State::Queued,
            token: 0,
            due: now,
            lease_end: Timestamp::EPOCH,
            counts: Counts::default(),
            duplicates: 0,
            journal_bytes: 0,
            cancel: Cancel::No,
            priority: 0,
            unique: None,
            joined_to: None,
            retries: 0,
            closed,
            admitted_at: now,
            started_at: None,
            ended_at: None,
            waiting_for: None,
            runner: None,
            last_error: None,
            end: None,
        }
    }

    /// With what its producer wishes of the queue.
    pub fn with_wishes(self, job: &Job, unique_issues: bool) -> Self {
        let due = job.not_before().map_or(self.due, |due| due.clamp(self.due, self.due + PUT_OFF));
        Record { due, priority: job.priority(), unique: job.unique_key(unique_issues), ..self }
    }

    /// Leases it to a runner, if its time has come.
    pub fn claim(&mut self, now: Timestamp, lease: Duration, runner: &str) -> Taken {
        let from = match self.state {
            State::Queued | State::Parked if self.due <= now => ClaimedFrom::Queue,
            State::Running if self.is_over(now) => ClaimedFrom::ExpiredLease,
            State::Queued | State::Parked | State::Running | State::Ended => return Taken::No,
        };
        self.closed = closing::TAKEN.to_owned();
        if from == ClaimedFrom::ExpiredLease {
            self.closed = closing::EXPIRED.to_owned();
            self.counts.crashes += 1;
        }
        if self.is_untold() {
            self.ended(called_off(), now);
            return Taken::CalledOff;
        }
        if self.cancel == Cancel::Asked {
            self.cancel = Cancel::Told;
        }
        self.state = State::Running;
        self.token += 1;
        self.lease_end = now + lease;
        self.counts.runs += 1;
        self.started_at.get_or_insert(now);
        self.waiting_for = None;
        self.runner = Some(runner.to_owned());
        Taken::Claimed(from)
    }

    /// The claim that a runner is given.
    pub fn claimed(&self, job: Job, from: ClaimedFrom) -> Claim {
        Claim {
            lease: lease_of(&job.id, self.token),
            job,
            counts: self.counts,
            admitted_at: self.admitted_at,
            from,
            retries: self.retries,
            cancel_requested: self.cancel != Cancel::No,
        }
    }

    /// From what its last claim picked it up.
    pub fn claimed_from(&self) -> ClaimedFrom {
        if self.closed == closing::EXPIRED { ClaimedFrom::ExpiredLease } else { ClaimedFrom::Queue }
    }

    /// Ends it as joined to another.
    pub fn joined(&mut self, to: &JobId, now: Timestamp) {
        self.joined_to = Some(to.clone());
        self.ended(joined(to), now);
    }

    /// Prolongs a lease.
    pub fn renew(&mut self, lease: &Lease, now: Timestamp, by: Duration) -> Renewal {
        match self.holds(lease) {
            false => Renewal::Lost,
            true => {
                self.lease_end = now + by;
                if self.told() { Renewal::CancelRequested } else { Renewal::Held }
            }
        }
    }

    /// Whether it is to be called off; from then on its run knows.
    pub fn told(&mut self) -> bool {
        if self.cancel == Cancel::Asked {
            self.cancel = Cancel::Told;
        }
        self.cancel != Cancel::No
    }

    /// Whether it is to be called off and nothing of it was ever seen: nobody is to be told.
    fn is_untold(&self) -> bool {
        self.cancel != Cancel::No && self.counts.steps == 0
    }

    /// Whether its lease is over. One that ends later than any lease can was given while the clock was
    /// wrong, and nobody renewed it since.
    fn is_over(&self, now: Timestamp) -> bool {
        self.lease_end <= now || self.lease_end > now + LONGEST_LEASE
    }

    /// Which line it stands in, if it waits to be claimed.
    pub fn line(&self, now: Timestamp) -> Option<Line> {
        match self.state {
            State::Queued | State::Parked if self.is_urgent() => Some(Line::Urgent),
            State::Queued | State::Parked if self.due <= now => Some(Line::Ready),
            State::Queued | State::Parked => Some(Line::Due),
            State::Running | State::Ended => None,
        }
    }

    /// Whether it only waits to be called off.
    pub fn is_urgent(&self) -> bool {
        self.state == State::Queued && self.cancel == Cancel::Asked
    }

    /// Lets it wait whose runner is gone and whose owner is paused.
    pub fn expire(&mut self, now: Timestamp) {
        self.closed = closing::EXPIRED.to_owned();
        self.counts.crashes += 1;
        self.waits(State::Queued, self.due.min(now), None, now);
    }

    /// Whether the lease is the newest of a running job. One whose time is over but that nobody
    /// took yet still is.
    pub fn holds(&self, lease: &Lease) -> bool {
        self.state == State::Running && self.token == lease.token.0
    }

    /// Refuses a lease that is not the newest of a running job.
    pub fn check(&self, lease: &Lease) -> Result<()> {
        if self.holds(lease) { Ok(()) } else { Err(lost(lease)) }
    }

    /// Counts steps that were appended.
    pub fn appended(&mut self, steps: usize, bytes: usize) {
        if steps > 0 {
            self.counts.attempts = 0;
        }
        self.counts.steps = self.counts.steps.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
        self.journal_bytes = self.journal_bytes.saturating_add(bytes as u64);
    }

    /// Puts it away.
    pub fn park(&mut self, lease: &Lease, until: Timestamp, why: &str, now: Timestamp) -> Result<()> {
        if self.leave(lease, &closing::park(until))? == Todo::DoneBefore {
            return Ok(());
        }
        self.counts.waits += 1;
        self.waits(State::Parked, until, Some(reason(why)), now);
        Ok(())
    }

    /// Puts it back.
    pub fn requeue(&mut self, lease: &Lease, after: Duration, why: &Requeue, now: Timestamp) -> Result<()> {
        if self.leave(lease, &closing::requeue(after, why))? == Todo::DoneBefore {
            return Ok(());
        }
        let error = match why {
            Requeue::Failed { error } => {
                self.counts.attempts += 1;
                error
            }
            Requeue::Crashed { error } => {
                self.counts.crashes += 1;
                error
            }
        };
        self.last_error = Some(reason(error));
        self.waits(State::Queued, now + after, Some(reason(error)), now);
        Ok(())
    }

    /// Gives it back, its place kept.
    pub fn release(&mut self, lease: &Lease, now: Timestamp) -> Result<()> {
        if self.leave(lease, closing::RELEASE)? == Todo::Now {
            self.waits(State::Queued, self.due.min(now), None, now);
        }
        Ok(())
    }

    /// Ends it.
    pub fn settle(&mut self, lease: &Lease, settlement: &Settlement, now: Timestamp) -> Result<()> {
        if self.leave(lease, &closing::settle(settlement))? == Todo::Now {
            self.ended(settlement.clone(), now);
        }
        Ok(())
    }

    /// Calls it off, or asks its runner to.
    pub fn cancel(&mut self, now: Timestamp) -> Cancellation {
        match self.state {
            State::Queued | State::Parked => {
                if self.cancel == Cancel::No {
                    self.cancel = Cancel::Asked;
                    self.waits(State::Queued, now, None, now);
                }
                if self.state == State::Ended { Cancellation::Ended } else { Cancellation::Asked }
            }
            State::Running => {
                if self.cancel == Cancel::No {
                    self.cancel = Cancel::Asked;
                }
                Cancellation::Asked
            }
            State::Ended => Cancellation::AlreadyEnded,
        }
    }

    /// Puts it back after its end; whether it had one. Its journal is the store's to drop. The same
    /// wish once more, before anybody claimed it, changes nothing and is answered alike.
    pub fn retry(&mut self, from: RetryFrom, now: Timestamp) -> bool {
        let waits = matches!(self.state, State::Queued | State::Parked);
        if self.state != State::Ended {
            return waits && self.closed == closing::retried(from);
        }
        self.counts.attempts = 0;
        self.counts.crashes = 0;
        if from == RetryFrom::Start {
            self.counts.steps = 0;
            self.journal_bytes = 0;
        }
        self.retries += 1;
        self.cancel = Cancel::No;
        self.closed = closing::retried(from).to_owned();
        (self.ended_at, self.end, self.joined_to, self.last_error) = (None, None, None, None);
        self.admitted_at = now;
        self.waits(State::Queued, now, None, now);
        true
    }

    /// Ends it, whoever asks.
    pub fn ended(&mut self, settlement: Settlement, now: Timestamp) {
        self.state = State::Ended;
        self.ended_at = Some(now);
        self.waiting_for = None;
        self.end = Some(settlement);
    }

    /// Whether a transition out of running is still to be done; refuses a lease that was taken over.
    fn leave(&mut self, lease: &Lease, closing: &str) -> Result<Todo> {
        if self.holds(lease) {
            self.closed = closing.to_owned();
            return Ok(Todo::Now);
        }
        match self.token == lease.token.0 && self.closed == closing {
            true => Ok(Todo::DoneBefore),
            false => Err(lost(lease)),
        }
    }

    /// Lets it wait; one that is to be called off, only to be told of, at once if no run knows yet.
    fn waits(&mut self, state: State, due: Timestamp, waiting_for: Option<String>, now: Timestamp) {
        self.due = due;
        if self.is_untold() {
            return self.ended(called_off(), now);
        }
        self.state = state;
        self.waiting_for = waiting_for;
        if self.cancel == Cancel::Asked {
            self.state = State::Queued;
            self.due = self.due.min(now);
            self.waiting_for = Some(CALLED_OFF.to_owned());
        }
    }

    /// When it is due, its lease ends, or it ended.
    pub fn at(&self) -> Timestamp {
        match self.state {
            State::Queued | State::Parked => self.due,
            State::Running => self.lease_end,
            State::Ended => self.ended_at.unwrap_or(self.due),
        }
    }

    /// For list and inspect.
    pub fn inspection(&self, job: Job) -> Inspection {
        Inspection {
            job,
            state: self.state,
            counts: self.counts,
            admitted_at: self.admitted_at,
            at: self.at(),
            waiting_for: self.waiting_for.clone(),
            status: self.status(),
        }
    }

    /// The status hash, as the Redis store has it.
    fn status(&self) -> Vec<(String, String)> {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let waiting_until = self.waiting_for.as_ref().map(|_| self.due);
        let known = [
            ("status", Some(status_word(self.state, self.end.as_ref()).to_owned())),
            ("state", Some(state_word(self.state).to_owned())),
            ("admittedAt", time(Some(self.admitted_at))),
            ("startedAt", time(self.started_at)),
            ("completedAt", time(self.ended_at)),
            ("waitingFor", self.waiting_for.clone()),
            ("waitingUntil", time(waiting_until)),
            ("runs", Some(self.counts.runs.to_string())),
            ("attempts", Some(self.counts.attempts.to_string())),
            ("crashes", Some(self.counts.crashes.to_string())),
            ("waits", Some(self.counts.waits.to_string())),
            ("steps", Some(self.counts.steps.to_string())),
            ("duplicates", Some(self.duplicates.to_string())),
            ("priority", (self.priority != 0).then(|| self.priority.to_string())),
            ("retries", (self.retries != 0).then(|| self.retries.to_string())),
            ("joinedTo", self.joined_to.as_ref().map(JobId::to_string)),
            ("runner", self.runner.clone()),
            ("lastError", self.last_error.clone()),
            ("result", self.end.as_ref().map(|end| end.result.to_string())),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let further = self.end.iter().flat_map(further_fields);
        known.chain(further.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
    }
}

/// The word that the seed system's monitors know. What waits, for whatever, is `queued`.
pub(crate) fn status_word(state: State, end: Option<&Settlement>) -> &'static str {
    match state {
        State::Queued | State::Parked => "queued",
        State::Running => "in_progress",
        State::Ended => end.map_or("failed", |end| end.status.as_str()),
    }
}

/// The word of a state, in the status hash and in the SQLite store.
pub(crate) fn state_word(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Parked => "parked",
        State::Ended => "ended",
    }
}

/// The state of a word.
pub(crate) fn state_of(word: &str) -> Option<State> {
    let states = [State::Queued, State::Running, State::Parked, State::Ended];
    states.into_iter().find(|state| state_word(*state) == word)
}

/// What [`Record::closed`] holds after each transition.
pub(crate) mod closing {
    use super::*;

    pub const RELEASE: &str = "release";
    pub const TAKEN: &str = "taken";
    pub const EXPIRED: &str = "expired";

    pub fn submit(nonce: &str) -> String {
        format!("submit {nonce}")
    }

    pub fn park(until: Timestamp) -> String {
        format!("park {}", until.millis())
    }

    pub fn retried(from: RetryFrom) -> &'static str {
        match from {
            RetryFrom::Journal => "retried",
            RetryFrom::Start => "retried from the start",
        }
    }

    pub fn requeue(after: Duration, why: &Requeue) -> String {
        let kind = match why {
            Requeue::Failed { .. } => "failed",
            Requeue::Crashed { .. } => "crashed",
        };
        format!("requeue {kind} {}", after.as_millis())
    }

    pub fn settle(settlement: &Settlement) -> String {
        format!("settle {}", settlement.status.as_str())
    }
}

/// What a job waits for whose next run is only to tell that it was called off.
pub(crate) const CALLED_OFF: &str = "a run that tells of its being called off";

/// Longest that a producer may put a job off.
const PUT_OFF: Duration = Duration::from_secs(365 * 24 * 3600);

/// Far longer than `queue.lease` may be.
pub(crate) const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3600);

/// The error of a lease that was taken over.
pub(crate) fn lost(lease: &Lease) -> StoreError {
    StoreError::LeaseLost { job: lease.job.clone(), token: lease.token }
}

/// The lease of a job's token.
pub(crate) fn lease_of(job: &JobId, token: u64) -> Lease {
    Lease { job: job.clone(), token: Token(token) }
}
