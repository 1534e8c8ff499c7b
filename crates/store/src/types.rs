//! The store's vocabulary: leases, claims, counts, states, and why a call gave no result.

use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;

/// A fencing token: grows with each claim of a job. Only the newest can change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The time-limited right to run a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Which job.
    pub job: JobId,
    /// The newest token, when it was claimed.
    pub token: Token,
}

/// A job that was claimed: leased to this process for `queue.lease`.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The right to run it.
    pub lease: Lease,
    /// The job.
    pub job: Job,
    /// Counts over all runs so far.
    pub counts: Counts,
    /// When the queue took it in, by the store's clock.
    pub admitted_at: Timestamp,
    /// From what the claim picked it up.
    pub from: ClaimedFrom,
    /// How often it was retried after an end: so many times its journal is to be opened again.
    pub retries: u32,
    /// It is to be called off: all that is left is to tell of it, and to settle.
    pub cancel_requested: bool,
}

/// What a claim found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimedFrom {
    /// A job that was queued, parked or released, its time having come.
    Queue,
    /// A job whose lease ended without a settle: its runner crashed, hung or was cut off. The crash
    /// is already in [`Counts::crashes`].
    ExpiredLease,
}

/// What a job has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Claims, this one among them.
    pub runs: u32,
    /// Requeues since the last new step.
    pub attempts: u32,
    /// Times that its lease expired or its runner died.
    pub crashes: u32,
    /// Times that it was parked.
    pub waits: u32,
    /// Steps in its journal.
    pub steps: u32,
}

/// What came of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It waits to be claimed.
    Queued,
    /// It is to be alone with its issue, and another job for it is alive: this one has ended
    /// (`cancelled`, `endReason` `joined`, `joinedTo` the other).
    Joined {
        /// The job that is alive.
        to: JobId,
    },
    /// The id is known: nothing was changed but a counter.
    Duplicate,
}

/// What a renewal says of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Ours for another `queue.lease`.
    Held,
    /// Ours, and somebody asked for the job to be called off.
    CancelRequested,
    /// Taken over, ended or unknown: stop the run before its next effect.
    Lost,
}

/// Why a run gives a job back for another run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Failed in a way that another run may mend. Counts an attempt; if the run journaled a new
    /// step since the last requeue, the count starts again at one.
    Failed {
        /// For `job:retry:{id}`'s `lastError`; no secrets, at most 500 characters.
        error: String,
    },
    /// The actor that ran it died. Counts a crash.
    Crashed {
        /// What is known of it.
        error: String,
    },
}

/// A run's end that is the job's end: `result` for the status hash, already JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// `completed`, `failed`, `cancelled`.
    pub status: steadfast_core::end::EndStatus,
    /// The `result` field.
    pub result: serde_json::Value,
    /// Further fields of the status hash, beside the fixed ones.
    pub fields: Vec<(String, String)>,
}

/// What came of asking for a job to be called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// It was queued or parked without a step in its journal, and has ended.
    Ended,
    /// A run is to end it: the one that it has, which hears of it by [`crate::Store::called_off`],
    /// or the next, which may begin at once. Only a run can tell the issue.
    Asked,
    /// It had ended before.
    AlreadyEnded,
    /// No such job.
    Unknown,
}

/// Where a retried job begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryFrom {
    /// Where its journal stands: what was paid for is kept.
    Journal,
    /// At the very beginning: its journal and patch are dropped.
    Start,
}

/// What came of asking for a job to be retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It had ended, and waits to be claimed.
    Queued,
    /// It has not ended.
    Alive,
    /// It is to be alone with its issue, and another job for it is alive: nothing was changed.
    Joined {
        /// The job that is alive.
        to: JobId,
    },
    /// No such job.
    Unknown,
}

/// Whose jobs are not to be claimed for now. Those that run go on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whom {
    /// Everybody's.
    All,
    /// One owner's ([`Job::owner_key`]: lower case).
    Owner(String),
}

impl Whom {
    /// An owner, as GitHub compares names.
    pub fn owner(name: &str) -> Self {
        Whom::Owner(name.to_ascii_lowercase())
    }
}

/// Where a job is; a job is in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits to be claimed: now, or after a requeue's backoff.
    Queued,
    /// Leased to a process.
    Running,
    /// Put away until a known time.
    Parked,
    /// Completed, failed or cancelled.
    Ended,
}

/// What the store knows of a job.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The job.
    pub job: Job,
    /// Where it is.
    pub state: State,
    /// What it has been through.
    pub counts: Counts,
    /// When the queue took it in.
    pub admitted_at: Timestamp,
    /// When it is due (queued, parked), or its lease ends (running), or it ended.
    pub at: Timestamp,
    /// What it waits for, if parked or requeued.
    pub waiting_for: Option<String>,
    /// The status hash as other readers see it: `status`, `startedAt`, `completedAt`, `result`, ours.
    pub status: Vec<(String, String)>,
}

/// A job's journal and workspace, for a run to begin with.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Encoded steps, oldest first ([`steadfast_core::journal::Step::decode`]).
    pub steps: Vec<Vec<u8>>,
    /// The workspace's newest patch against the base commit, as git's binary diff; empty if none.
    pub patch: Vec<u8>,
}

/// Why a call to the store gave no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The token is not the newest, or the job is not running: the run must stop.
    #[error("job {job}: lease {token:?} is no longer ours")]
    LeaseLost {
        /// Which job.
        job: JobId,
        /// The token that was refused.
        token: Token,
    },
    /// The store cannot be reached or cannot do it now; it may have been done. Every transition
    /// may be repeated with the same arguments.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// What the store holds cannot be understood.
    #[error("store holds what this build cannot read: {0}")]
    Corrupt(String),
    /// The store refuses for good: wrong kind of server, no rights, too old.
    #[error("store unusable: {0}")]
    Unusable(String),
    /// A cap was reached.
    #[error("{what} of {actual} is over its cap of {limit}")]
    TooLarge {
        /// `journal`, `steps`, `step`, `patch`, `job`.
        what: &'static str,
        /// Bytes or steps.
        actual: usize,
        /// The cap.
        limit: usize,
    },
}
