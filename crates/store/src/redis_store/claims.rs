//! Claiming: look what there is, take what is still there, and tell it again if nobody heard.

use redis::cmd;
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;

use super::Core;
use super::inbox::millis;
use crate::caps::{Caps, MOST_CLAIMED};
use crate::record::{lease_of, unreadable};
use crate::{Claim, ClaimedFrom, Counts, Lease, Result, StoreError};

/// Most tries against other claimers who were quicker each time.
const TRIES: usize = 16;

/// The claims of this process, one at a time.
pub(super) struct Claiming {
    /// Names this process among all that bear its name.
    process: String,
    /// The number of the claim to come.
    number: u64,
    /// The last claim's answer may have been lost: what it claimed is told again.
    pub uncertain: bool,
}

impl Claiming {
    pub fn new(runner: &str) -> Self {
        let process = format!("{runner}:{:016x}", rand::random::<u64>());
        Claiming { process, number: 1, uncertain: false }
    }
}

/// A job as the script tells it: id, token, whence, JSON, admission in ms, and the counts.
type Row = (String, u64, String, Vec<u8>, i64, u32, u32, u32, u32, u32);

impl Core {
    /// Claims up to `most` jobs.
    pub async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        let most = most.min(MOST_CLAIMED);
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut claiming = self.claiming.lock().await;
        self.take_in().await?;
        let mut rows = Vec::new();
        for _ in 0..TRIES {
            let earlier = match claiming.uncertain {
                true => self.told_before(&claiming, most).await?,
                false => Vec::new(),
            };
            let call = self.call().arg(most - earlier.len());
            let fresh: Vec<String> = self.link.script(&self.scripts.candidates, &call).await?;
            let fresh = fresh.into_iter().map(|id| (id, String::new()));
            let candidates: Vec<_> = earlier.into_iter().chain(fresh).collect();
            if candidates.is_empty() {
                break;
            }
            claiming.uncertain = true;
            rows = self.take(&claiming, most, &candidates).await?;
            if !rows.is_empty() {
                break;
            }
        }
        let mut claims = Vec::with_capacity(rows.len());
        for row in rows {
            match read(row) {
                Ok(claim) => claims.push(claim),
                Err((lease, why)) => self.set_aside(&lease, &why).await?,
            }
        }
        // Only now is it certain that these claims reach somebody.
        claiming.uncertain = false;
        claiming.number += 1;
        Ok(claims)
    }

    async fn take(
        &self,
        claiming: &Claiming,
        most: usize,
        candidates: &[(String, String)],
    ) -> Result<Vec<Row>> {
        let keys = candidates.iter().flat_map(|(id, _)| self.keys.of_job(id));
        let call = self.call().keys([self.keys.claimed(&claiming.process)]).keys(keys);
        let call = call.arg(millis(self.lease)).arg(most).arg(&self.runner).arg(claiming.number);
        let mut call = call.arg(unreadable("its status hash or its data are damaged").result);
        for (id, token) in candidates {
            call = call.arg(id).arg(token);
        }
        self.link.script(&self.scripts.claim, &call).await
    }

    /// The jobs and tokens of the last claim, if it was done.
    async fn told_before(&self, claiming: &Claiming, most: usize) -> Result<Vec<(String, String)>> {
        let mut get = cmd("GET");
        get.arg(self.keys.claimed(&claiming.process));
        let told: Option<String> = self.link.command(&get).await?;
        let told = told.unwrap_or_default();
        let mut lines = told.lines();
        if lines.next() != Some(claiming.number.to_string().as_str()) {
            return Ok(Vec::new());
        }
        let pair = |line: &str| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        Ok(lines.filter_map(pair).take(most).collect())
    }

    /// Ends a job whose JSON cannot be read any more; others are not kept waiting by it.
    async fn set_aside(&self, lease: &Lease, why: &str) -> Result<()> {
        tracing::error!(job = %lease.job, why, "unreadable job set aside as failed");
        match self.settle(lease, &unreadable(why)).await {
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
    let (id, token, from, data, admitted, runs, attempts, crashes, waits, steps) = row;
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
        retries: 0,
        cancel_requested: false,
        lease: lease_of(&job.id, token),
        job,
        counts: Counts { runs, attempts, crashes, waits, steps },
        admitted_at: Timestamp::from_millis(admitted),
        from,
    })
}
