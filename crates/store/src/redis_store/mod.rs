//! The store in Redis: every transition one script, the seed system's stream as the way in, and its
//! status hashes for whoever watches.

mod claims;
mod failure;
mod inbox;
mod keys;
mod leaving;
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
use crate::record::{
    CALLED_OFF, INTERNAL, VISIBLE, called_off, closing, further_fields, joined, lost, unreadable,
};
use crate::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Retried, RetryFrom,
    Settings, Settlement, State, Store, StoreError, Whom,
};
use claims::Claiming;
use inbox::{Inbox, millis};
use keys::{GROUP, Keys, OWN_FIELDS};
use leaving::Leaving;
use link::{Call, Link};
use scripts::Scripts;
use waker::Waker;

/// Longest backoff of a requeue that the server is given; a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Most leases that one script renews.
const RENEWED: usize = 256;

/// Most jobs that one purge removes.
const PURGE_BATCH: usize = 250;

/// Fields of the status hash that a retried job has no more, beside those that its settlement gave it.
const AFTER_END: [&str; 8] =
    ["completedAt", "result", "joinedTo", "lastError", "waitingFor", "waitingUntil", "cancel", "told"];

/// A store in Redis.
pub struct RedisStore {
    core: Arc<Core>,
    waker: Waker,
}

/// All but the task that listens.
struct Core {
    link: Arc<Link>,
    keys: Keys,
    scripts: Scripts,
    inbox: Inbox,
    claiming: tokio::sync::Mutex<Claiming>,
    /// Those of what is called off, which are told again to their like alone.
    calling_off: tokio::sync::Mutex<Claiming>,
    leaving: Leaving,
    caps: Caps,
    lease: Duration,
    keep_ended: Duration,
    per_repo: u32,
    unique_issues: bool,
    runner: Arc<str>,
    /// The results that the scripts give: of a job that was called off, of one that cannot be read,
    /// and of one that was joined, before and after the other's id.
    called_off: String,
    unreadable: String,
    joined: (String, String),
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
            calling_off: tokio::sync::Mutex::new(Claiming::new(runner)),
            leaving: Leaving::new(),
            caps: Caps::new(settings),
            lease: settings.lease,
            keep_ended: settings.keep_ended,
            per_repo: settings.per_repo_concurrency,
            unique_issues: settings.unique_issues,
            runner: runner.into(),
            called_off: called_off().result.to_string(),
            unreadable: unreadable("its status hash or its data are damaged").result.to_string(),
            joined: joined_result(),
        };
        core.make_group().await?;
        core.check_server().await?;
        Ok(RedisStore { core: Arc::new(core), waker: Waker::new(link, keys, settings.response_timeout) })
    }
}

impl RedisStore {
    /// Waits until there may be something to claim; if it is to be `sure`, it looks again after a change.
    async fn wait_until(&self, longest: Duration, sure: bool) -> Result<()> {
        let core = &self.core;
        let end = Instant::now() + longest;
        let mut heard = self.waker.listen();
        loop {
            // Marked as heard before looking: what changes in between ends the wait below.
            heard.borrow_and_update();
            if core.inbox.uncertain.load(Ordering::Relaxed) {
                core.take_in().await?;
            }
            let call = core.call().arg(core.per_repo).arg(GROUP).arg(core.pending_limit());
            let (next, inbox): (i64, bool) = core.link.script(&core.scripts.peek, &call).await?;
            core.inbox.hinted.fetch_or(inbox, Ordering::Relaxed);
            let untold = core.claiming.try_lock().is_ok_and(|claiming| claiming.has_untold());
            let left = end.saturating_duration_since(Instant::now());
            if next == 0 || untold || left.is_zero() {
                return Ok(());
            }
            let next = u64::try_from(next).map_or(Duration::MAX, Duration::from_millis);
            // A job that is claimed after this look may lose its runner: look again by then.
            let nap = left.min(next).min(core.lease.max(Duration::from_millis(10)));
            tokio::select! {
                _ = heard.changed() => {
                    if !sure {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(nap) => {}
            }
        }
    }
}

impl Core {
    /// What every script is given.
    fn call(&self) -> Call {
        let call =
            Call::new(self.keys.global(), [millis(self.keep_ended).to_string(), self.called_off.clone()]);
        call.arg(CALLED_OFF)
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

    async fn settle(self: &Arc<Self>, lease: &Lease, settlement: &Settlement) -> Result<()> {
        let result = settlement.result.to_string();
        let further = settle_words(settlement, &result);
        self.leave(lease, "settle", &closing::settle(settlement), &further).await
    }

    async fn pause(&self, whom: &Whom, begin: bool) -> Result<()> {
        let call = self.call().arg(u8::from(begin)).arg(word_of(whom));
        let _done: String = self.link.script(&self.scripts.pause, &call).await?;
        Ok(())
    }

    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        let call = self.call().arg(job).arg(closing::retried(from)).arg(u8::from(from == RetryFrom::Start));
        let fields =
            VISIBLE.iter().chain(INTERNAL).chain(OWN_FIELDS).filter(|field| !AFTER_END.contains(field));
        let call = fields.fold(call, Call::arg);
        let (outcome, other): (String, String) = self.link.script(&self.scripts.retry, &call).await?;
        match outcome.as_str() {
            "queued" => Ok(Retried::Queued),
            "alive" => Ok(Retried::Alive),
            "unknown" => Ok(Retried::Unknown),
            "joined" => Ok(Retried::Joined { to: other_job(job, other)? }),
            _ => Err(StoreError::Corrupt(format!("job {job}: its status hash or the job itself is damaged"))),
        }
    }

    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        let call = self.call().arg(job);
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

/// What the script wants to know of a settlement, its result written.
fn settle_words<'a>(settlement: &'a Settlement, result: &'a str) -> Vec<&'a str> {
    let fields = further_fields(settlement).filter(|(name, _)| !OWN_FIELDS.contains(name));
    let mut further = vec![settlement.status.as_str(), result];
    further.extend(fields.flat_map(|(name, value)| [name, value]));
    further
}

/// The result of a job that was joined to another, before and after the other's id.
fn joined_result() -> (String, String) {
    const OTHER: &str = "@";
    let result = JobId::new(OTHER).map(|id| joined(&id).result.to_string()).unwrap_or_default();
    let (before, after) = result.split_once(OTHER).unwrap_or_default();
    (before.to_owned(), after.to_owned())
}

/// The id of another job, as a script tells it.
fn other_job(job: &JobId, other: String) -> Result<JobId> {
    JobId::new(other)
        .map_err(|error| StoreError::Corrupt(format!("job {job}: the job it is joined to: {error}")))
}

/// How a pause is named in Redis.
fn word_of(whom: &Whom) -> String {
    match whom {
        Whom::All => "all".to_owned(),
        Whom::Owner(owner) => format!("owner:{owner}"),
    }
}

fn read_whom(word: &str) -> Option<Whom> {
    match word {
        "all" => Some(Whom::All),
        word => word.strip_prefix("owner:").map(Whom::owner),
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
        let call = core.call().arg(id).arg(data).arg(closing);
        let call = core.wishes(job).into_iter().fold(call, Call::arg);
        let (outcome, other): (String, String) = core.link.script(&core.scripts.submit, &call).await?;
        match outcome.as_str() {
            "queued" => Ok(Admission::Queued),
            "duplicate" => Ok(Admission::Duplicate),
            "joined" => Ok(Admission::Joined { to: other_job(&job.id, other)? }),
            _ => Err(another_kind(&job.id)),
        }
    }

    async fn wait(&self, longest: Duration) -> Result<()> {
        self.wait_until(longest, true).await
    }

    async fn wait_for_change(&self, longest: Duration) -> Result<()> {
        self.wait_until(longest, false).await
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        self.core.claim(most).await
    }

    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        let core = &self.core;
        let mut renewals = Vec::with_capacity(leases.len());
        for page in leases.chunks(RENEWED) {
            let mut call = core.call().arg(millis(core.lease));
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

    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        self.core.claim_called_off(most).await
    }

    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        let core = &self.core;
        let mut called_off = Vec::new();
        for page in leases.chunks(RENEWED) {
            let told = |call: Call, lease: &Lease| call.arg(&lease.job).arg(lease.token.0);
            let call = page.iter().fold(core.call(), told);
            let answers: Vec<bool> = core.link.script(&core.scripts.told, &call).await?;
            let told = page.iter().zip(answers).filter(|(_, told)| *told);
            called_off.extend(told.map(|(lease, _)| lease.clone()));
        }
        Ok(called_off)
    }

    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        match self.core.retry(job, from).await? {
            // It may still lie in the inbox.
            Retried::Unknown => {
                self.core.take_in().await?;
                self.core.retry(job, from).await
            }
            known => Ok(known),
        }
    }

    async fn pause(&self, whom: &Whom) -> Result<()> {
        self.core.pause(whom, true).await
    }

    async fn resume(&self, whom: &Whom) -> Result<()> {
        self.core.pause(whom, false).await
    }

    async fn paused(&self) -> Result<Vec<Whom>> {
        let mut read = redis::cmd("SMEMBERS");
        read.arg(self.core.keys.paused());
        let words: Vec<String> = self.core.link.command(&read).await?;
        let mut paused: Vec<Whom> = words.iter().filter_map(|word| read_whom(word)).collect();
        paused.sort();
        Ok(paused)
    }

    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        let core = &self.core;
        core.caps.check_append(steps, patch)?;
        let steps = pack(steps)?;
        let call = core.call().arg(&lease.job).arg(lease.token.0).arg(at);
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
        let (closing, until) = (closing::park(until), until.millis().to_string());
        self.core.leave(lease, "park", &closing, &[&until, &reason(why)]).await
    }

    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        let (counter, error) = match why {
            Requeue::Failed { error } => ("attempts", error),
            Requeue::Crashed { error } => ("crashes", error),
        };
        let (closing, after) = (closing::requeue(after, why), millis(after.min(LONGEST)).to_string());
        self.core.leave(lease, "requeue", &closing, &[&after, counter, &reason(error)]).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.core.leave(lease, "release", closing::RELEASE, &[]).await
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
        let gone = core.link.script(&core.scripts.purge, &core.call().arg(PURGE_BATCH)).await?;
        let call = core.call().arg(GROUP).arg(millis(core.keep_ended));
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
