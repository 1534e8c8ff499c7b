//! The store in Redis: every transition one script, the seed system's stream as the way in, and its
//! status hashes for whoever watches.

mod claims;
mod failure;
mod inbox;
mod keys;
mod ledger;
mod link;
mod reads;
mod scripts;
mod waker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use redis::ServerErrorKind;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use tokio::time::Instant;

use crate::caps::{Caps, reason};
use crate::memory::misplaced;
use crate::packing::{pack, unpack};
use crate::record::{called_off, closing, further_fields, lost};
use crate::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Settings,
    Settlement, State, Store, StoreError,
};
use claims::Claiming;
use inbox::{Inbox, millis};
use keys::{GROUP, Keys};
use link::{Call, Link};
use scripts::Scripts;
use waker::Waker;

/// Longest backoff of a requeue that the server is given; a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Most leases that one script renews.
const RENEWED: usize = 256;

/// Most jobs that one purge removes.
const PURGE_BATCH: usize = 250;

/// A store in Redis.
pub struct RedisStore {
    core: Core,
    waker: Waker,
}

/// All but the task that listens.
struct Core {
    link: Arc<Link>,
    keys: Keys,
    scripts: Scripts,
    inbox: Inbox,
    claiming: tokio::sync::Mutex<Claiming>,
    caps: Caps,
    lease: Duration,
    keep_ended: Duration,
    runner: Arc<str>,
}

impl RedisStore {
    /// Connects, and makes the consumer group if it is not there.
    pub async fn open(url: &str, settings: &Settings, runner: &str) -> Result<Self> {
        let link = Arc::new(Link::new(url, settings)?);
        let keys = Keys::new(&settings.prefix);
        let core = Core {
            link: Arc::clone(&link),
            keys: keys.clone(),
            scripts: Scripts::new(),
            inbox: Inbox::new(),
            claiming: tokio::sync::Mutex::new(Claiming::new(runner)),
            caps: Caps::new(settings),
            lease: settings.lease,
            keep_ended: settings.keep_ended,
            runner: runner.into(),
        };
        core.make_group().await?;
        core.check_server().await?;
        Ok(RedisStore { core, waker: Waker::new(link, keys, settings.response_timeout) })
    }
}

impl Core {
    /// What every script is given.
    fn call(&self) -> Call {
        let called_off = called_off().result.to_string();
        Call::new(self.keys.global(), [millis(self.keep_ended).to_string(), called_off])
    }

    /// Runs a script that changes nothing: an older server refuses it, and is told from one that is away.
    async fn check_server(&self) -> Result<()> {
        let shown = &self.link.shown;
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(self.scripts.sample()).to_owned();
        match self.link.raw(&load).await {
            Ok(_) => {
                self.link.is_redis();
                Ok(())
            }
            Err(error) if error.kind() == ServerErrorKind::ResponseError.into() => Err(StoreError::Unusable(
                format!("{shown}: redis refuses the queue's scripts ({error}): it needs redis 7 or newer"),
            )),
            Err(error) => Err(self.link.failure(&error)),
        }
    }

    /// A call about one job.
    fn call_for(&self, job: &JobId) -> Call {
        self.call().keys(self.keys.of_job(job.as_str()))
    }

    /// A call of the transition by which a lease ends.
    fn leaving(&self, lease: &Lease, closing: &str) -> Call {
        self.call_for(&lease.job).arg(&lease.job).arg(lease.token.0).arg(closing)
    }

    async fn leave(&self, script: &redis::Script, lease: &Lease, call: Call) -> Result<()> {
        let answer: String = self.link.script(script, &call).await?;
        match answer.as_str() {
            "done" => Ok(()),
            _ => Err(lost(lease)),
        }
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        let call = self.leaving(lease, &closing::settle(settlement));
        let call = call.arg(settlement.status.as_str()).arg(&settlement.result);
        let call = further_fields(settlement).fold(call, |call, (name, value)| call.arg(name).arg(value));
        self.leave(&self.scripts.settle, lease, call).await
    }

    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        let call = self.call_for(job).arg(job);
        let answer: String = self.link.script(&self.scripts.cancel, &call).await?;
        match answer.as_str() {
            "ended" => Ok(Cancellation::Ended),
            "asked" => Ok(Cancellation::Asked),
            "over" => Ok(Cancellation::AlreadyEnded),
            "corrupt" => Err(another_kind(job)),
            _ => Ok(Cancellation::Unknown),
        }
    }
}

fn another_kind(job: &JobId) -> StoreError {
    StoreError::Corrupt(format!("job {job}: its key holds another kind of value than a status hash"))
}

#[async_trait]
impl Store for RedisStore {
    async fn submit(&self, job: &Job) -> Result<Admission> {
        let core = &self.core;
        let (id, data) = (job.id.as_str(), core.caps.encode_job(job)?);
        // If the answer is lost and the script runs again, it knows its own work by this.
        let closing = closing::submit(&format!("{:032x}", rand::random::<u128>()));
        let keys = [core.keys.status(id), core.keys.data(id)];
        let call = core.call().keys(keys).arg(id).arg(data).arg(closing);
        let outcome: String = core.link.script(&core.scripts.submit, &call).await?;
        match outcome.as_str() {
            "queued" => Ok(Admission::Queued),
            "duplicate" => Ok(Admission::Duplicate),
            _ => Err(another_kind(&job.id)),
        }
    }

    async fn wait(&self, longest: Duration) -> Result<()> {
        let core = &self.core;
        let end = Instant::now() + longest;
        let mut heard = self.waker.listen();
        loop {
            // Marked as heard before looking: what changes in between ends the wait below.
            heard.borrow_and_update();
            if core.inbox.uncertain.load(Ordering::Relaxed) {
                core.take_in().await?;
            }
            let call = core.call().keys([core.keys.stream()]).arg(GROUP).arg(core.pending_limit());
            let next: i64 = core.link.script(&core.scripts.peek, &call).await?;
            let untold = core.claiming.try_lock().is_ok_and(|claiming| claiming.uncertain);
            let left = end.saturating_duration_since(Instant::now());
            if next == 0 || untold || left.is_zero() {
                return Ok(());
            }
            let next = u64::try_from(next).map_or(Duration::MAX, Duration::from_millis);
            // A job that is claimed after this look may lose its runner: look again by then.
            let nap = left.min(next).min(core.lease.max(Duration::from_millis(10)));
            tokio::select! {
                _ = heard.changed() => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        self.core.claim(most).await
    }

    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        let core = &self.core;
        let mut renewals = Vec::with_capacity(leases.len());
        for page in leases.chunks(RENEWED) {
            let keys = page.iter().map(|lease| core.keys.status(lease.job.as_str()));
            let mut call = core.call().keys(keys).arg(millis(core.lease));
            for lease in page {
                call = call.arg(&lease.job).arg(lease.token.0);
            }
            let answers: Vec<String> = core.link.script(&core.scripts.renew, &call).await?;
            renewals.extend(answers.iter().map(|answer| match answer.as_str() {
                "held" => Renewal::Held,
                "cancel" => Renewal::CancelRequested,
                _ => Renewal::Lost,
            }));
        }
        Ok(renewals)
    }

    async fn claim_called_off(&self, _most: usize) -> Result<Vec<Claim>> {
        Ok(Vec::new())
    }

    async fn called_off(&self, _leases: &[Lease]) -> Result<Vec<Lease>> {
        Ok(Vec::new())
    }

    async fn retry(&self, _job: &JobId, _from: crate::RetryFrom) -> Result<crate::Retried> {
        Err(StoreError::Unusable("not yet".into()))
    }

    async fn pause(&self, _whom: &crate::Whom) -> Result<()> {
        Err(StoreError::Unusable("not yet".into()))
    }

    async fn resume(&self, _whom: &crate::Whom) -> Result<()> {
        Err(StoreError::Unusable("not yet".into()))
    }

    async fn paused(&self) -> Result<Vec<crate::Whom>> {
        Ok(Vec::new())
    }

    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        let core = &self.core;
        core.caps.check_append(steps, patch)?;
        let steps = pack(steps)?;
        let call = core.call_for(&lease.job).arg(lease.token.0).arg(at);
        let call = call.arg(core.caps.steps).arg(core.caps.journal);
        let call = call.arg(u8::from(patch.is_some())).bytes(patch.unwrap_or_default());
        let call = steps.iter().fold(call, |call, step| call.bytes(step));
        let (answer, actual): (String, usize) = core.link.script(&core.scripts.append, &call).await?;
        match answer.as_str() {
            "ok" => Ok(()),
            "misplaced" => Err(misplaced(&lease.job, at as usize, actual)),
            "gone" => Err(StoreError::Corrupt(format!(
                "job {}: its journal holds {actual} steps, not as many as were written",
                lease.job
            ))),
            "steps" => Err(StoreError::TooLarge { what: "steps", actual, limit: core.caps.steps }),
            "journal" => Err(StoreError::TooLarge { what: "journal", actual, limit: core.caps.journal }),
            _ => Err(lost(lease)),
        }
    }

    async fn replay(&self, job: &JobId) -> Result<Replay> {
        unpack(self.core.replay(job).await?, self.core.caps.step)
    }

    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        let call = self.core.leaving(lease, &closing::park(until)).arg(until.millis()).arg(reason(why));
        self.core.leave(&self.core.scripts.park, lease, call).await
    }

    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        let (counter, error) = match why {
            Requeue::Failed { error } => ("attempts", error),
            Requeue::Crashed { error } => ("crashes", error),
        };
        let call = self.core.leaving(lease, &closing::requeue(after, why));
        let call = call.arg(millis(after.min(LONGEST))).arg(counter).arg(reason(error));
        self.core.leave(&self.core.scripts.requeue, lease, call).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        let call = self.core.leaving(lease, closing::RELEASE);
        self.core.leave(&self.core.scripts.release, lease, call).await
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        self.core.settle(lease, settlement).await
    }

    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        match self.core.cancel(job).await? {
            // It may still lie in the inbox.
            Cancellation::Unknown => {
                self.core.take_in().await?;
                self.core.cancel(job).await
            }
            known => Ok(known),
        }
    }

    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        match self.core.inspect(job.as_str()).await? {
            None => {
                self.core.take_in().await?;
                self.core.inspect(job.as_str()).await
            }
            known => Ok(known),
        }
    }

    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        self.core.take_in().await?;
        self.core.list(state, most).await
    }

    async fn count(&self) -> Result<[u64; 4]> {
        self.core.take_in().await?;
        self.core.count().await
    }

    async fn purge(&self) -> Result<u64> {
        let core = &self.core;
        let before = core.now().await? - core.keep_ended;
        let mut old = redis::cmd("ZRANGEBYSCORE");
        old.arg(core.keys.ended()).arg("-inf").arg(before.millis()).arg("LIMIT").arg(0).arg(PURGE_BATCH);
        let old: Vec<String> = core.link.command(&old).await?;
        let mut gone = 0;
        if !old.is_empty() {
            let keys = old.iter().flat_map(|id| core.keys.of_job(id));
            let call = old.iter().fold(core.call().keys(keys), |call, id| call.arg(id));
            gone = core.link.script(&core.scripts.purge, &call).await?;
        }
        let call = core.call().keys([core.keys.stream()]).arg(GROUP).arg(millis(core.keep_ended));
        let _consumers: u64 = core.link.script(&core.scripts.tidy, &call).await?;
        Ok(gone)
    }

    async fn now(&self) -> Result<Timestamp> {
        self.core.now().await
    }

    fn ledger(&self) -> Arc<dyn crate::Ledger> {
        let (link, keys) = (Arc::clone(&self.core.link), self.core.keys.clone());
        Arc::new(ledger::RedisLedger::new(link, keys))
    }

    fn name(&self) -> String {
        self.core.link.shown.clone()
    }
}
