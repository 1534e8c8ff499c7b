//! The runs that this process holds: shared, so that the Supervisor can put them back when the
//! JobSupervisor that started them is dead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steadfast_core::job::JobId;
use steadfast_store::{Lease, Token};
use tokio::time::Instant;

use crate::stop::{Leased, Stop};
use crate::watch;

/// The table of runs. Clones share it.
#[derive(Clone)]
pub(crate) struct Held {
    runs: Arc<Mutex<BTreeMap<JobId, Run>>>,
    /// See [`Leased`].
    until: Arc<watch::Sender<Instant>>,
}

struct Run {
    token: Token,
    stop: Stop,
    /// Its work is over; the store is being told.
    leaving: bool,
}

impl Held {
    pub(crate) fn new() -> Self {
        Held { runs: Arc::default(), until: Arc::new(watch::channel(Instant::now()).0) }
    }

    /// All leases are surely ours until then.
    pub(crate) fn leased_until(&self, until: Instant) {
        self.until.send_replace(until);
    }

    /// For runs.
    pub(crate) fn leased(&self) -> Leased {
        self.until.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins.
    pub(crate) fn insert(&self, lease: &Lease, stop: Stop) {
        self.lock().insert(lease.job.clone(), Run { token: lease.token, stop, leaving: false });
    }

    /// A run's work is over, and the store is being told what came of it.
    pub(crate) fn leaves(&self, lease: &Lease) {
        if let Some(run) = self.lock().get_mut(&lease.job).filter(|run| run.token == lease.token) {
            run.leaving = true;
        }
    }

    /// A run is over or lost; whether it was this one.
    pub(crate) fn take(&self, lease: &Lease) -> bool {
        let mut runs = self.lock();
        let ours = runs.get(&lease.job).is_some_and(|run| run.token == lease.token);
        if ours {
            runs.remove(&lease.job);
        }
        ours
    }

    /// Stops all runs and empties the table: who started them is dead.
    pub(crate) fn take_all(&self) -> Vec<Lease> {
        let runs = std::mem::take(&mut *self.lock());
        let lease = |(job, run): (JobId, Run)| {
            run.stop.now(crate::stop::Reason::LeaseLost);
            Lease { job, token: run.token }
        };
        runs.into_iter().map(lease).collect()
    }

    /// All leases, for renewal.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let lease = |(job, run): (&JobId, &Run)| Lease { job: job.clone(), token: run.token };
        self.lock().iter().map(lease).collect()
    }

    /// The means to stop a run.
    pub(crate) fn stop_of(&self, lease: &Lease) -> Option<Stop> {
        self.lock().get(&lease.job).filter(|run| run.token == lease.token).map(|run| run.stop.clone())
    }

    /// The means to stop every run.
    pub(crate) fn stops(&self) -> Vec<Stop> {
        self.lock().values().map(|run| run.stop.clone()).collect()
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Of how many the work is over.
    pub(crate) fn leaving(&self) -> usize {
        self.lock().values().filter(|run| run.leaving).count()
    }
}
