//! The caps on what a job may bring along, checked the same way by every store.

use steadfast_core::job::{Job, JobError};

use crate::{Result, Settings, StoreError};

/// Most jobs of one claim.
pub(crate) const MOST_CLAIMED: usize = 256;

/// Most characters of an error or a reason that is kept.
const MAX_REASON: usize = 500;

/// An id may not begin so: `job:retry:{id}` would be the status hash of one job and the retry hash
/// of another.
const RESERVED_ID: &str = "retry:";

/// Caps in the units that the stores count in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Bytes of a job.
    pub job: usize,
    /// Steps of a journal.
    pub steps: usize,
    /// Bytes of a step.
    pub step: usize,
    /// Bytes of a patch.
    pub patch: usize,
    /// Bytes of all steps.
    pub journal: usize,
}

impl Caps {
    /// From the settings.
    pub fn new(settings: &Settings) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Caps {
            job: bytes(settings.max_job_bytes),
            steps: settings.max_steps as usize,
            step: bytes(settings.max_step_bytes),
            patch: bytes(settings.max_patch_bytes),
            journal: bytes(settings.max_journal_bytes),
        }
    }

    /// Serialises a job that was made in the program, refusing what could not have been read from a
    /// queue entry either.
    pub fn encode_job(&self, job: &Job) -> Result<String> {
        let refused = |why: String| StoreError::Unusable(format!("job {} is refused: {why}", job.id));
        let json = serde_json::to_string(job).map_err(|error| refused(error.to_string()))?;
        match self.read_job(&json) {
            Ok(_) => Ok(json),
            Err(Unreadable::Job(JobError::TooLarge { actual, limit })) => {
                Err(StoreError::TooLarge { what: "job", actual, limit })
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Reads a queue entry's `jobData`.
    pub fn read_job(&self, json: &str) -> std::result::Result<Job, Unreadable> {
        let job = Job::parse(json, self.job)?;
        if job.id.as_str().starts_with(RESERVED_ID) {
            return Err(Unreadable::ReservedId);
        }
        Ok(job)
    }

    /// Checks what an append brings; what it adds up to is checked against the journal.
    pub fn check_append(&self, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        let over = |what, actual: usize, limit: usize| match actual > limit {
            true => Err(StoreError::TooLarge { what, actual, limit }),
            false => Ok(()),
        };
        for step in steps {
            over("step", step.len(), self.step)?;
        }
        over("patch", patch.map_or(0, <[u8]>::len), self.patch)
    }

    /// Checks what the journal would come to.
    pub fn check_journal(&self, steps: usize, bytes: usize) -> Result<()> {
        if steps > self.steps {
            return Err(StoreError::TooLarge { what: "steps", actual: steps, limit: self.steps });
        }
        if bytes > self.journal {
            return Err(StoreError::TooLarge { what: "journal", actual: bytes, limit: self.journal });
        }
        Ok(())
    }
}

/// Why a queue entry is not a job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// As core tells it.
    #[error(transparent)]
    Job(#[from] JobError),
    /// See [`RESERVED_ID`].
    #[error("id begins with {RESERVED_ID:?}, which is kept for the queue's own keys")]
    ReservedId,
}

/// At most [`MAX_REASON`] characters of a text that is kept.
pub(crate) fn reason(text: &str) -> String {
    text.chars().take(MAX_REASON).collect()
}
