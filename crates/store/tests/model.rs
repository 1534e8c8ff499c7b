//! Random operations, and a model of what each must answer: the states of a job and its fences, in a
//! page. Which of several due jobs is claimed is left to the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use steadfast_core::job::JobId;
use steadfast_core::time::Timestamp;
use steadfast_store::{
    Admission, Cancellation, ClaimedFrom, Counts, Lease, Renewal, Requeue, State, Store, StoreError, Token,
};

use crate::world::*;

#[derive(Clone, Debug)]
enum Op {
    Submit(u8),
    Claim {
        most: usize,
        dying: bool,
    },
    Renew(usize),
    Append {
        lease: usize,
        steps: u8,
    },
    AppendAgain(usize),
    Park {
        lease: usize,
        far: bool,
    },
    Requeue {
        lease: usize,
        far: bool,
        crashed: bool,
    },
    Release(usize),
    Settle(usize),
    /// The last transition of a lease, once more.
    Repeat(usize),
    Cancel(u8),
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let lease = 0..1000_usize;
    prop_oneof![
        4 => (0..6_u8).prop_map(Op::Submit),
        6 => (1..4_usize, prop::bool::weighted(0.3)).prop_map(|(most, dying)| Op::Claim { most, dying }),
        2 => lease.clone().prop_map(Op::Renew),
        3 => (lease.clone(), 0..3_u8).prop_map(|(lease, steps)| Op::Append { lease, steps }),
        1 => lease.clone().prop_map(Op::AppendAgain),
        2 => (lease.clone(), any::<bool>()).prop_map(|(lease, far)| Op::Park { lease, far }),
        3 => (lease.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(lease, far, crashed)| Op::Requeue { lease, far, crashed }),
        2 => lease.clone().prop_map(Op::Release),
        2 => lease.clone().prop_map(Op::Settle),
        2 => lease.prop_map(Op::Repeat),
        2 => (0..6_u8).prop_map(Op::Cancel),
        1 => Just(Op::Purge),
    ]
}

#[derive(Clone, Debug)]
struct Model {
    state: State,
    token: Token,
    counts: Counts,
    cancel: bool,
    /// Due, or its lease is over: it can be claimed.
    ready: bool,
    /// How the newest token's run ended, if it did.
    closed: Option<Close>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Close {
    Park { far: bool },
    Requeue { far: bool, crashed: bool },
    Release,
    Settle,
}

impl Model {
    fn holds(&self, lease: &Lease) -> bool {
        self.state == State::Running && self.token == lease.token
    }

    /// What a transition out of running must answer, and what it makes of the job.
    fn close(&mut self, lease: &Lease, close: Close) -> bool {
        if !self.holds(lease) {
            return self.token == lease.token && self.closed == Some(close);
        }
        self.closed = Some(close);
        let (state, ready) = match close {
            Close::Park { far } => {
                self.counts.waits += 1;
                (State::Parked, !far)
            }
            Close::Requeue { far, crashed } => {
                let counter = if crashed { &mut self.counts.crashes } else { &mut self.counts.attempts };
                *counter += 1;
                (State::Queued, !far)
            }
            Close::Release => (State::Queued, true),
            Close::Settle => (State::Ended, false),
        };
        self.state = if self.cancel { State::Ended } else { state };
        self.ready = ready && self.state != State::Ended;
        true
    }
}

struct Check {
    store: Arc<dyn Store>,
    dying: Arc<dyn Store>,
    forgetful: Arc<dyn Store>,
    jobs: BTreeMap<JobId, Model>,
    leases: Vec<(Lease, Option<Close>)>,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Check {
    async fn new(world: &World) -> Self {
        Check {
            store: world.store("a").await,
            dying: world.dying().await,
            forgetful: world.with("b", |settings| settings.keep_ended = Duration::ZERO).await,
            jobs: BTreeMap::new(),
            leases: Vec::new(),
        }
    }

    async fn run(&mut self, ops: &[Op]) {
        for op in ops {
            self.step(op).await;
            for (id, model) in &self.jobs {
                let found = self.store.inspect(id).await.unwrap().unwrap();
                assert_eq!((found.state, found.counts), (model.state, model.counts), "{id} after {op:?}");
            }
            let mut counts = [0; 4];
            for model in self.jobs.values() {
                counts[model.state as usize] += 1;
            }
            assert_eq!(self.store.count().await.unwrap(), counts, "after {op:?}");
        }
    }

    fn lease(&self, of: usize) -> Option<usize> {
        (!self.leases.is_empty()).then(|| of % self.leases.len())
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::Submit(name) => self.submit(&format!("job-{name}")).await,
            Op::Claim { most, dying } => self.claim(most, dying).await,
            Op::Renew(lease) => self.renew(lease).await,
            Op::Append { lease, steps } => self.append(lease, steps).await,
            Op::AppendAgain(lease) => self.append_again(lease).await,
            Op::Park { lease, far } => self.close(lease, Close::Park { far }).await,
            Op::Requeue { lease, far, crashed } => self.close(lease, Close::Requeue { far, crashed }).await,
            Op::Release(lease) => self.close(lease, Close::Release).await,
            Op::Settle(lease) => self.close(lease, Close::Settle).await,
            Op::Repeat(of) => {
                if let Some(close) = self.lease(of).and_then(|at| self.leases[at].1) {
                    self.close(of, close).await;
                }
            }
            Op::Cancel(name) => self.cancel(&format!("job-{name}")).await,
            Op::Purge => {
                let ended = self.jobs.values().filter(|job| job.state == State::Ended).count();
                assert_eq!(self.forgetful.purge().await.unwrap(), ended as u64);
                self.jobs.retain(|_, job| job.state != State::Ended);
                // A job of the same name is another job: what was held of the first is forgotten.
                self.leases.retain(|(lease, _)| self.jobs.contains_key(&lease.job));
            }
        }
    }

    async fn submit(&mut self, name: &str) {
        let known = self.jobs.contains_key(&id(name));
        let wanted = if known { Admission::Duplicate } else { Admission::Queued };
        assert_eq!(self.store.submit(&job(name)).await.unwrap(), wanted);
        self.jobs.entry(id(name)).or_insert(Model {
            state: State::Queued,
            token: Token(0),
            counts: Counts::default(),
            cancel: false,
            ready: true,
            closed: None,
        });
    }

    async fn claim(&mut self, most: usize, dying: bool) {
        let store = if dying { &self.dying } else { &self.store };
        let claims = store.claim(most).await.unwrap();
        // Those whose runner is gone and that are to be called off may take up room in a claim.
        let mut called_off = 0;
        for model in self.jobs.values_mut() {
            if model.state == State::Running && model.ready && model.cancel {
                called_off += 1;
            }
        }
        let there = self.jobs.values().filter(|job| job.ready).count() - called_off;
        assert!(claims.len() <= most);
        if called_off == 0 {
            assert_eq!(claims.len(), there.min(most));
        }
        for claim in claims {
            let model = self.jobs.get_mut(&claim.job.id).unwrap();
            assert!(model.ready, "{} was not to be had", claim.job.id);
            let expired = model.state == State::Running;
            assert!(!(expired && model.cancel), "{} was called off", claim.job.id);
            assert_eq!(claim.from == ClaimedFrom::ExpiredLease, expired);
            assert!(claim.lease.token > model.token);
            model.counts.crashes += u32::from(expired);
            model.counts.runs += 1;
            assert_eq!(claim.counts, model.counts);
            (model.state, model.token, model.ready, model.closed) =
                (State::Running, claim.lease.token, dying, None);
            self.leases.push((claim.lease, None));
        }
        for (id, model) in &mut self.jobs {
            let passed_over = model.state == State::Running && model.ready && model.cancel;
            if passed_over && self.store.inspect(id).await.unwrap().unwrap().state == State::Ended {
                model.counts.crashes += 1;
                (model.state, model.ready) = (State::Ended, false);
            }
        }
    }

    async fn renew(&mut self, lease: usize) {
        let Some(at) = self.lease(lease) else { return };
        let lease = self.leases[at].0.clone();
        let renewals = self.store.renew(std::slice::from_ref(&lease)).await.unwrap();
        let model = self.jobs.get_mut(&lease.job).unwrap();
        let wanted = match (model.holds(&lease), model.cancel) {
            (false, _) => Renewal::Lost,
            (true, false) => Renewal::Held,
            (true, true) => Renewal::CancelRequested,
        };
        assert_eq!(renewals, [wanted]);
        model.ready &= wanted == Renewal::Lost;
    }

    async fn append(&mut self, lease: usize, steps: u8) {
        let Some(at) = self.lease(lease) else { return };
        let lease = self.leases[at].0.clone();
        let model = self.jobs.get_mut(&lease.job).unwrap();
        let at = model.counts.steps;
        let bodies: Vec<Vec<u8>> = (0..u32::from(steps)).map(|n| (at + n).to_be_bytes().to_vec()).collect();
        let appended = self.store.append(&lease, at, &bodies, None).await;
        if model.holds(&lease) {
            appended.unwrap();
            model.counts.steps += u32::from(steps);
            if steps > 0 {
                model.counts.attempts = 0;
            }
        } else {
            assert!(matches!(appended, Err(StoreError::LeaseLost { .. })), "{appended:?}");
        }
        let replay = self.store.replay(&lease.job).await.unwrap();
        let wanted: Vec<Vec<u8>> = (0..model.counts.steps).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(replay.steps, wanted);
    }

    async fn append_again(&mut self, lease: usize) {
        let Some(at) = self.lease(lease) else { return };
        let lease = &self.leases[at].0;
        let model = &self.jobs[&lease.job];
        if let Some(last) = model.counts.steps.checked_sub(1).filter(|_| model.holds(lease)) {
            self.store.append(lease, last, &[last.to_be_bytes().to_vec()], None).await.unwrap();
            let other = self.store.append(lease, last, &[b"other".to_vec()], None).await;
            assert!(matches!(other, Err(StoreError::Corrupt(_))), "{other:?}");
        }
    }

    async fn close(&mut self, lease: usize, close: Close) {
        let Some(at) = self.lease(lease) else { return };
        let lease = self.leases[at].0.clone();
        let after = |far| if far { HOUR } else { Duration::ZERO };
        let done = match close {
            Close::Park { far } => {
                let until = if far { Timestamp::MAX } else { Timestamp::from_secs(1) };
                self.store.park(&lease, until, "a limit").await
            }
            Close::Requeue { far, crashed: false } => {
                let why = Requeue::Failed { error: "x".into() };
                self.store.requeue(&lease, after(far), &why).await
            }
            Close::Requeue { far, crashed: true } => {
                let why = Requeue::Crashed { error: "x".into() };
                self.store.requeue(&lease, after(far), &why).await
            }
            Close::Release => self.store.release(&lease).await,
            Close::Settle => self.store.settle(&lease, &completed()).await,
        };
        let model = self.jobs.get_mut(&lease.job).unwrap();
        if model.close(&lease, close) {
            done.unwrap();
            self.leases[at].1 = Some(close);
        } else {
            assert!(matches!(done, Err(StoreError::LeaseLost { .. })), "{close:?}: {done:?}");
        }
    }

    async fn cancel(&mut self, name: &str) {
        let answer = self.store.cancel(&id(name)).await.unwrap();
        let Some(model) = self.jobs.get_mut(&id(name)) else {
            return assert_eq!(answer, Cancellation::Unknown);
        };
        match model.state {
            State::Queued | State::Parked => {
                (model.state, model.ready) = (State::Ended, false);
                assert_eq!(answer, Cancellation::Ended);
            }
            State::Running => {
                model.cancel = true;
                assert_eq!(answer, Cancellation::Asked);
            }
            State::Ended => assert_eq!(answer, Cancellation::AlreadyEnded),
        }
    }
}

fn check(world: fn() -> World, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = world();
        Check::new(&world).await.run(ops).await;
    });
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(200))]
    #[test]
    fn the_store_in_memory_does_as_the_model_does(ops in vec(op(), 1..80)) {
        check(World::memory, &ops);
    }
}

proptest! {
    #![proptest_config(cases(12))]
    #[test]
    fn the_store_in_sqlite_does_as_the_model_does(ops in vec(op(), 1..80)) {
        check(World::sqlite, &ops);
    }

    #[test]
    fn the_store_in_redis_does_as_the_model_does(ops in vec(op(), 1..80)) {
        check(World::redis, &ops);
    }
}
