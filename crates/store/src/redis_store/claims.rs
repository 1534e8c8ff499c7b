//! Claiming: one script looks, lets go what has come due, and claims; and tells it again if nobody heard.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;
use tokio::time::Instant;

use super::inbox::millis;
use super::{Core, leaving, settle_words};
use crate::caps::Caps;
use crate::record::{closing, lease_of, unreadable};
use crate::{Claim, ClaimedFrom, Counts, Lease, Result, StoreError};

/// Most jobs of one claim: twice as many would keep the server from others for nearly 5 ms.
const MOST_A_SCRIPT: usize = 128;

/// Most scripts of one claim, each of which does a bounded part of what is to be done first.
const TRIES: usize = 16;

/// The claims of this process, one at a time.
pub(super) struct Claiming {
    /// Names this process among all that bear its name.
    process: String,
    /// The number of the claim to come.
    number: u64,
    /// The last claim's answer may have been lost: what it claimed is told again.
    pub uncertain: bool,
    /// Told again, and more than was asked for then: for the next who asks.
    surplus: Vec<(Instant, Claim)>,
}

impl Claiming {
    pub fn new(runner: &str) -> Self {
        let process = format!("{runner}:{:016x}", rand::random::<u64>());
        Claiming { process, number: 1, uncertain: false, surplus: Vec::new() }
    }

    /// Whether something is ours already that nobody was given.
    pub fn has_untold(&self) -> bool {
        self.uncertain || !self.surplus.is_empty()
    }

    /// Up to `most` that are still ours, as far as this process can know.
    fn left_over(&mut self, most: usize, lease: Duration) -> Vec<Claim> {
        self.surplus.retain(|(told, _)| told.elapsed() < lease);
        let count = self.surplus.len().min(most);
        self.surplus.drain(..count).map(|(_, claim)| claim).collect()
    }
}

/// A job as the script tells it: id, token, whence, JSON, admission in ms, the counts, retries, and
/// whether it is to be called off.
type Row = (String, u64, String, Vec<u8>, i64, u32, u32, u32, u32, u32, u32, bool);

impl Core {
    /// Claims up to `most` jobs.
    pub async fn claim(self: &Arc<Self>, most: usize) -> Result<Vec<Claim>> {
        let most = most.min(MOST_A_SCRIPT);
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut claiming = self.claiming.lock().await;
        let left_over = claiming.left_over(most, self.lease);
        if !left_over.is_empty() {
            return Ok(left_over);
        }
        let mut taken_in = self.inbox.hinted.swap(false, Ordering::Relaxed);
        if taken_in {
            self.take_in().await?;
        }
        let mut claims = Vec::new();
        for _ in 0..TRIES {
            let of = if taken_in { "queue" } else { "inbox" };
            let found = self.take(&mut claiming, most, of, &mut claims).await?;
            if found == "inbox" {
                self.take_in().await?;
                taken_in = true;
            } else if !claims.is_empty() || found != "more" {
                break;
            }
        }
        Ok(claims)
    }

    /// Claims up to `most` of what is only to be called off.
    pub async fn claim_called_off(self: &Arc<Self>, most: usize) -> Result<Vec<Claim>> {
        let (most, mut claims) = (most.min(MOST_A_SCRIPT), Vec::new());
        if most > 0 {
            let mut claiming = self.calling_off.lock().await;
            claims = claiming.left_over(most, self.lease);
            if !claims.is_empty() {
                return Ok(claims);
            }
            self.take(&mut claiming, most, "urgent", &mut claims).await?;
        }
        Ok(claims)
    }

    /// Claims once, of the `queue`, of the `inbox` first, or only what is `urgent`; what there is yet.
    /// The same number again tells the same jobs again.
    async fn take(
        self: &Arc<Self>,
        claiming: &mut Claiming,
        most: usize,
        of: &str,
        claims: &mut Vec<Claim>,
    ) -> Result<String> {
        let was = std::mem::replace(&mut claiming.uncertain, true);
        let leaves = if of == "urgent" { Vec::new() } else { self.leaving.take_along() };
        // No call is to take longer than the longest of either kind.
        let most = if leaves.is_empty() { most } else { most.min(leaving::MOST) };
        let call = self.call().arg(self.per_repo).arg(millis(self.lease)).arg(most).arg(&self.runner);
        let call = call.arg(&claiming.process).arg(claiming.number).arg(&self.unreadable).arg(of);
        let call = leaving::told(call, &leaves);
        let answered: Result<(String, Vec<Row>, Vec<String>)> =
            self.link.script(&self.scripts.claim, &call).await;
        let (found, rows) = match answered {
            Ok((found, rows, answers)) => {
                leaving::answer(leaves, Ok(answers));
                (found, rows)
            }
            Err(error) => {
                // What ends a run is not to be refused for a claim's sake.
                self.put_leaves(leaves, true);
                return Err(error);
            }
        };
        if found == "inbox" {
            // Nothing was claimed.
            claiming.uncertain = was;
            return Ok(found);
        }
        for row in rows {
            match read(row) {
                Ok(claim) => claims.push(claim),
                Err((lease, why)) => self.set_aside(&lease, &why).await?,
            }
        }
        let told = Instant::now();
        claiming.surplus.extend(claims.drain(most.min(claims.len())..).map(|claim| (told, claim)));
        // Only now is it certain that these claims reach somebody.
        claiming.uncertain = false;
        claiming.number += 1;
        Ok(found)
    }

    /// Ends a job whose JSON cannot be read any more; others are not kept waiting by it.
    async fn set_aside(&self, lease: &Lease, why: &str) -> Result<()> {
        tracing::error!(job = %lease.job, why, "unreadable job set aside as failed");
        let settlement = unreadable(why);
        let result = settlement.result.to_string();
        let further = settle_words(&settlement, &result);
        match self.leave_alone(lease, "settle", &closing::settle(&settlement), &further).await {
            Ok(()) | Err(StoreError::LeaseLost { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Reads a stored job. The cap of today's configuration does not concern one taken in before.
pub(super) fn read_job(id: &str, data: &[u8]) -> std::result::Result<Job, String> {
    let uncapped = Caps { job: usize::MAX, steps: 0, step: 0, patch: 0, journal: 0 };
    let json = std::str::from_utf8(data).map_err(|_| "the job is not UTF-8".to_owned())?;
    let job = uncapped.read_job(json).map_err(|error| error.to_string())?;
    if job.id.as_str() == id { Ok(job) } else { Err(format!("the job says that it is {}", job.id)) }
}

fn read(row: Row) -> std::result::Result<Claim, (Lease, String)> {
    let (id, token, from, data, admitted, runs, attempts, crashes, waits, steps, retries, cancel_requested) =
        row;
    let job = match read_job(&id, &data) {
        Ok(job) => job,
        Err(why) => match steadfast_core::job::JobId::new(id) {
            Ok(id) => return Err((lease_of(&id, token), why)),
            // Admission let no such id in.
            Err(_) => unreachable!("the id of a claimed job was checked when it was taken in"),
        },
    };
    let from = if from == "expired" { ClaimedFrom::ExpiredLease } else { ClaimedFrom::Queue };
    Ok(Claim {
        retries,
        cancel_requested,
        lease: lease_of(&job.id, token),
        job,
        counts: Counts { runs, attempts, crashes, waits, steps },
        admitted_at: Timestamp::from_millis(admitted),
        from,
    })
}
