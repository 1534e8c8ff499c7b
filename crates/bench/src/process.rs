//! One simulated process: claims jobs from the queue and runs each by the real Llm actor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use steadfast_actors::Settings;
use steadfast_actors::callers::Callers;
use steadfast_actors::calls::CallError;
use steadfast_core::chat::{Message, ModelRequest};
use steadfast_core::end::EndStatus;
use steadfast_core::job::JobId;
use steadfast_store::{Claim, Lease, Renewal, Requeue, Settlement, Store, StoreError};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::remote::{Remote, name_of};
use crate::rows::Fleet;

/// How often a process looks again that has room and finds nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How often a process looks again while others have all the places.
const LOOK_FOR_PLACE: Duration = Duration::from_millis(250);

/// Of a lease, the share within which it is surely the process's own.
const SURE: f64 = 0.9;

/// How the jobs ended, over all processes.
#[derive(Default)]
pub struct Book {
    ends: RefCell<Ends>,
    changed: Notify,
}

/// See [`Book`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// Jobs that got all their calls.
    pub done: usize,
    /// Jobs that were given up.
    pub failed: usize,
    /// When the last job ended, in seconds.
    pub last: f64,
    /// The sum of the times at which jobs were done.
    pub sum: f64,
}

impl Book {
    /// Enters the end of a job.
    pub fn enter(&self, now: f64, done: bool) {
        {
            let mut ends = self.ends.borrow_mut();
            ends.done += usize::from(done);
            ends.failed += usize::from(!done);
            ends.sum += if done { now } else { 0.0 };
            ends.last = now;
        }
        self.changed.notify_one();
    }

    /// What is in it.
    pub fn ends(&self) -> Ends {
        *self.ends.borrow()
    }

    /// Waits until this many jobs have ended.
    pub async fn all(&self, jobs: usize) {
        loop {
            let ends = self.ends();
            if ends.done + ends.failed >= jobs {
                return;
            }
            self.changed.notified().await;
        }
    }
}

/// The places for jobs that all processes have together: as from a shared queue, those that are there
/// take what there is.
#[derive(Clone)]
pub struct Places {
    free: Rc<Cell<isize>>,
    at_once: usize,
    fleet: Fleet,
}

impl Places {
    /// So many at once.
    pub fn new(at_once: usize, fleet: Fleet) -> Self {
        Places { free: Rc::new(Cell::new(isize::try_from(at_once).unwrap_or(isize::MAX))), at_once, fleet }
    }

    /// How many more a process may take that has `held`.
    fn room(&self, held: usize, now: f64) -> usize {
        let free = usize::try_from(self.free.get()).unwrap_or(0);
        self.fleet.room(self.at_once, now).saturating_sub(held).min(free)
    }

    fn take(&self) -> Place {
        self.free.set(self.free.get() - 1);
        Place(Rc::clone(&self.free))
    }
}

/// One of them; free again when it is dropped, by its job's end or its process's death.
struct Place(Rc<Cell<isize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// What a process works with.
pub struct Process {
    pub places: Places,
    pub callers: Callers,
    pub settings: Settings,
    pub store: Arc<dyn Store>,
    pub remote: Arc<Remote>,
    pub book: Rc<Book>,
    /// Calls of a job.
    pub calls: usize,
    /// Cancelled when the process is to leave: it takes no more jobs and gives back what it has.
    pub leave: CancellationToken,
}

impl Process {
    /// Whether nobody joins or leaves: then only the end of an own job makes room.
    fn is_steady(&self) -> bool {
        matches!(self.places.fleet, Fleet::Steady(_))
    }
}

/// Why a process takes no job just now.
enum Idle {
    /// It has as many as it may have, or it leaves.
    Full,
    /// There is none.
    Empty,
    /// The model's door is shut for so much longer than a run waits.
    Shut(Duration),
    /// Others have all the places.
    Crowded,
    /// It took some and may take more.
    No,
}

/// Claims and runs jobs until it is told to leave. Dropped, it dies without a word.
pub async fn drive(process: Process) {
    let process = Rc::new(process);
    let mut runs: JoinSet<JobId> = JoinSet::new();
    let mut leases: BTreeMap<JobId, Lease> = BTreeMap::new();
    let mut renewal = tokio::time::interval(process.settings.lease / 3);
    let mut leaving = false;
    loop {
        let idle = if leaving { Idle::Full } else { claim(&process, &mut runs, &mut leases).await };
        let pause = match idle {
            Idle::No => continue,
            Idle::Full => None,
            Idle::Empty => Some(LOOK_AGAIN),
            Idle::Crowded => Some(LOOK_FOR_PLACE),
            Idle::Shut(pause) => Some(pause.min(LOOK_AGAIN)),
        };
        let look_again = async {
            match (&idle, pause) {
                (Idle::Empty, Some(pause)) => {
                    // A store in memory is never away.
                    let _never_fails = process.store.wait(pause).await;
                }
                (_, Some(pause)) => tokio::time::sleep(pause).await,
                (_, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(ended) = runs.join_next() => {
                if let Ok(job) = ended {
                    leases.remove(&job);
                }
            }
            _ = renewal.tick() => renew(&process, &leases).await,
            () = process.leave.cancelled(), if !leaving => {
                leaving = true;
                process.callers.stop_softly();
            }
            () = look_again => {}
        }
        if leaving && leases.is_empty() {
            process.callers.depart().await;
            return;
        }
    }
}

async fn claim(
    process: &Rc<Process>,
    runs: &mut JoinSet<JobId>,
    leases: &mut BTreeMap<JobId, Lease>,
) -> Idle {
    let room = process.places.room(leases.len(), process.remote.now());
    if room == 0 {
        return if process.is_steady() { Idle::Full } else { Idle::Crowded };
    }
    let (shut, patience) = (process.callers.outlook().await, process.settings.job.park_after);
    if shut > patience {
        return Idle::Shut(shut - patience);
    }
    let asked = Instant::now();
    let claims = match process.store.claim(room).await {
        Ok(claims) => claims,
        Err(error) => {
            eprintln!("nothing claimed: {error}");
            return Idle::Empty;
        }
    };
    if claims.is_empty() {
        return Idle::Empty;
    }
    if leases.is_empty() {
        process.callers.leased_until(asked + process.settings.lease.mul_f64(SURE));
    }
    for claim in claims {
        leases.insert(claim.lease.job.clone(), claim.lease.clone());
        runs.spawn_local(run(Rc::clone(process), claim, process.places.take()));
    }
    Idle::No
}

async fn renew(process: &Process, leases: &BTreeMap<JobId, Lease>) {
    if leases.is_empty() {
        return;
    }
    let asked = Instant::now();
    let ours: Vec<Lease> = leases.values().cloned().collect();
    if let Ok(renewals) = process.store.renew(&ours).await
        && renewals.iter().all(|renewal| *renewal == Renewal::Held)
    {
        process.callers.leased_until(asked + process.settings.lease.mul_f64(SURE));
    }
}

/// One run, from claim to what the queue is told of it. A lost lease is another process's business.
async fn run(process: Rc<Process>, claim: Claim, _place: Place) -> JobId {
    let job = claim.lease.job.clone();
    let told = one_run(&process, &claim).await;
    if let Err(error) = told
        && !matches!(error, StoreError::LeaseLost { .. })
    {
        eprintln!("job {job}: {error}");
    }
    job
}

async fn one_run(process: &Process, claim: &Claim) -> Result<(), StoreError> {
    let (store, lease) = (&process.store, &claim.lease);
    let number = lease.job.as_str().parse().unwrap_or(usize::MAX);
    let had = store.replay(&lease.job).await?.steps.len();
    for index in had..process.calls {
        let Some(request) = request(&process.remote, number, index) else { break };
        match process.callers.complete(&lease.job, claim.admitted_at, request).await {
            Ok(_) => {
                let step = vec![b"answered".to_vec()];
                store.append(lease, u32::try_from(index).unwrap_or(u32::MAX), &step, None).await?;
            }
            Err(CallError::Park { until, why, .. }) => return store.park(lease, until, &why).await,
            Err(CallError::Stopped) => return store.release(lease).await,
            Err(CallError::ActorDied(error)) => {
                let why = Requeue::Crashed { error: error.to_string() };
                return store.requeue(lease, Duration::ZERO, &why).await;
            }
            Err(CallError::Exhausted { attempts: _, failure }) => {
                let attempts = if index > had { 1 } else { claim.counts.attempts + 1 };
                if attempts >= process.settings.job.max_attempts {
                    return settle(process, lease, false).await;
                }
                let after = process.settings.job.retry.delay(attempts, 0.5);
                return store.requeue(lease, after, &Requeue::Failed { error: failure.to_string() }).await;
            }
            Err(CallError::Fatal(failure)) => {
                eprintln!("job {}: {failure}", lease.job);
                return settle(process, lease, false).await;
            }
        }
    }
    settle(process, lease, true).await
}

async fn settle(process: &Process, lease: &Lease, done: bool) -> Result<(), StoreError> {
    let status = if done { EndStatus::Completed } else { EndStatus::Failed };
    let settlement = Settlement { status, result: json!({}), fields: Vec::new() };
    process.store.settle(lease, &settlement).await?;
    process.book.enter(process.remote.now(), done);
    Ok(())
}

/// The question of a call, with as many tokens asked for as its estimate says.
pub fn request(remote: &Remote, job: usize, index: usize) -> Option<ModelRequest> {
    let call = remote.call(job, index)?;
    let content = name_of(job, index);
    let asked = call.estimate.saturating_sub(content.len() as u64 / 4).max(1);
    Some(ModelRequest {
        messages: vec![Message::User { content }],
        tools: Vec::new().into(),
        max_answer_tokens: u32::try_from(asked).unwrap_or(u32::MAX),
    })
}
