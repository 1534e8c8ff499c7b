//! Random operations, and a model of what each must answer: which job each claim gives, in which order,
//! and what every job has been through.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_store::{Lease, Requeue, RetryFrom, State, Store, StoreError, Whom};

use crate::model_rules::{Close, Given, Model};
use crate::world::*;

#[derive(Clone, Debug)]
enum Op {
    Submit(Wish),
    Claim {
        most: usize,
        dying: bool,
    },
    Renew(usize),
    CalledOff(usize),
    Append {
        lease: usize,
        steps: u8,
    },
    AppendAgain(usize),
    Close(usize, Close),
    /// The last transition of a lease, once more.
    Repeat(usize),
    Cancel(u8),
    Retry(u8, RetryFrom),
    Pause(Whom),
    Resume(Whom),
    Purge,
}

/// A job to be submitted, if its name is not taken.
#[derive(Clone, Debug)]
struct Wish {
    name: u8,
    owner: u8,
    repo: u8,
    priority: i64,
    /// To be alone with this issue.
    unique: Option<u8>,
    far: bool,
}

const NAMES: u8 = 8;

fn name(name: u8) -> JobId {
    id(&format!("job-{name}"))
}

impl Wish {
    fn job(&self, now: Timestamp) -> Job {
        // Owners are one whatever the case that they are written in.
        let owner = [["a", "A"], ["b", "B"], ["c", "C"]][usize::from(self.owner)][usize::from(self.name % 2)];
        let mut fields = json!({ "priority": self.priority });
        if let Some(issue) = self.unique {
            (fields["unique"], fields["issue"]) = (true.into(), issue.into());
        }
        if self.far {
            fields["notBefore"] = (now + HOUR).to_string().into();
        }
        wish(name(self.name).as_str(), &format!("{owner}/r{}", self.repo), fields)
    }
}

fn op() -> impl Strategy<Value = Op> {
    let lease = 0..1000_usize;
    let submit = (0..NAMES, 0..3_u8, 0..2_u8, -1..2_i64, prop::option::weighted(0.3, 0..2_u8), any::<u8>());
    let submit = submit.prop_map(|(name, owner, repo, priority, unique, far)| {
        Op::Submit(Wish { name, owner, repo, priority, unique, far: far < 25 })
    });
    let whom = prop_oneof![
        1 => Just(Whom::All),
        3 => (0..3_usize).prop_map(|owner| Whom::owner(["a", "B", "c"][owner])),
    ];
    let close = prop_oneof![
        2 => any::<bool>().prop_map(|far| Close::Park { far }),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(far, crashed)| Close::Requeue { far, crashed }),
        2 => Just(Close::Release),
        3 => Just(Close::Settle),
    ];
    let from = prop_oneof![Just(RetryFrom::Journal), Just(RetryFrom::Start)];
    prop_oneof![
        9 => submit,
        8 => (1..4_usize, prop::bool::weighted(0.3)).prop_map(|(most, dying)| Op::Claim { most, dying }),
        2 => lease.clone().prop_map(Op::Renew),
        1 => lease.clone().prop_map(Op::CalledOff),
        4 => (lease.clone(), 0..3_u8).prop_map(|(lease, steps)| Op::Append { lease, steps }),
        1 => lease.clone().prop_map(Op::AppendAgain),
        8 => (lease.clone(), close).prop_map(|(lease, close)| Op::Close(lease, close)),
        2 => lease.prop_map(Op::Repeat),
        3 => (0..NAMES).prop_map(Op::Cancel),
        2 => (0..NAMES, from).prop_map(|(name, from)| Op::Retry(name, from)),
        1 => whom.clone().prop_map(Op::Pause),
        2 => whom.prop_map(Op::Resume),
        1 => Just(Op::Purge),
    ]
}

struct Check {
    store: Arc<dyn Store>,
    dying: Arc<dyn Store>,
    forgetful: Arc<dyn Store>,
    model: Model,
    leases: Vec<(Lease, Option<Close>)>,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Check {
    async fn new(world: &World, per_repo: u32) -> Self {
        let with = async |runner: &str, lease: Duration, keep: Duration| {
            let change = |settings: &mut steadfast_store::Settings| {
                (settings.lease, settings.keep_ended, settings.per_repo_concurrency) =
                    (lease, keep, per_repo);
            };
            world.with(runner, change).await
        };
        Check {
            store: with("a", HOUR, HOUR).await,
            dying: with("dying", Duration::ZERO, HOUR).await,
            forgetful: with("b", HOUR, Duration::ZERO).await,
            model: Model::limited(per_repo),
            leases: Vec::new(),
        }
    }

    async fn run(&mut self, ops: &[Op]) {
        for op in ops {
            self.step(op).await;
            let now = self.store.now().await.unwrap();
            let mut counts = [0; 4];
            for (id, model) in &mut self.model.jobs {
                let found = self.store.inspect(id).await.unwrap().unwrap();
                assert_eq!((found.state, found.counts), (model.state, model.counts), "{id} after {op:?}");
                let joined_to = model.joined_to.as_ref().map(JobId::as_str);
                assert_eq!(field(&found, "joinedTo"), joined_to, "{id} after {op:?}");
                // The model is told times, and only whether they are to come is checked.
                match model.state {
                    State::Queued | State::Parked => {
                        assert_eq!(found.at > now, model.far, "{id} is due {} after {op:?}", found.at);
                        model.due = found.at;
                    }
                    State::Running => {
                        assert_eq!(
                            found.at <= now,
                            model.lease.1,
                            "{id} is leased to {} after {op:?}",
                            found.at
                        );
                        model.lease.0 = found.at;
                    }
                    State::Ended => {}
                }
                counts[model.state as usize] += 1;
            }
            assert_eq!(self.store.count().await.unwrap(), counts, "after {op:?}");
        }
    }

    fn lease(&self, of: usize) -> Option<usize> {
        (!self.leases.is_empty()).then(|| of % self.leases.len())
    }

    async fn step(&mut self, op: &Op) {
        match op {
            Op::Submit(wish) => {
                let job = wish.job(self.store.now().await.unwrap());
                let wanted = self.model.submit(&job, wish.far);
                assert_eq!(self.store.submit(&job).await.unwrap(), wanted, "{job:?}");
            }
            Op::Claim { most, dying } => self.claim(*most, *dying).await,
            Op::Renew(of) => {
                let Some(at) = self.lease(*of) else { return };
                let lease = &self.leases[at].0;
                let renewals = self.store.renew(std::slice::from_ref(lease)).await.unwrap();
                assert_eq!(renewals, [self.model.renew(lease)]);
            }
            Op::CalledOff(of) => {
                let Some(at) = self.lease(*of) else { return };
                let lease = &self.leases[at].0;
                let called_off = self.store.called_off(std::slice::from_ref(lease)).await.unwrap();
                let wanted = self.model.change(&lease.job, |one| one.holds(lease) && one.told());
                assert_eq!(called_off, if wanted { vec![lease.clone()] } else { vec![] });
            }
            Op::Append { lease, steps } => self.append(*lease, *steps).await,
            Op::AppendAgain(of) => self.append_again(*of).await,
            Op::Close(of, close) => self.close(*of, *close).await,
            Op::Repeat(of) => {
                if let Some(close) = self.lease(*of).and_then(|at| self.leases[at].1) {
                    self.close(*of, close).await;
                }
            }
            Op::Cancel(of) => {
                let wanted = self.model.cancel(&name(*of));
                assert_eq!(self.store.cancel(&name(*of)).await.unwrap(), wanted, "{of}");
            }
            Op::Retry(of, from) => {
                let wanted = self.model.retry(&name(*of), *from);
                assert_eq!(self.store.retry(&name(*of), *from).await.unwrap(), wanted, "{of}");
                self.replay(&name(*of)).await;
            }
            Op::Pause(whom) => {
                self.store.pause(whom).await.unwrap();
                self.model.paused.insert(whom.clone());
                self.paused().await;
            }
            Op::Resume(whom) => {
                self.store.resume(whom).await.unwrap();
                self.model.paused.remove(whom);
                self.paused().await;
            }
            Op::Purge => {
                let ended = self.model.jobs.values().filter(|one| one.state == State::Ended).count();
                assert_eq!(self.forgetful.purge().await.unwrap(), ended as u64);
                self.model.jobs.retain(|_, one| one.state != State::Ended);
                // A job of the same name is another job: what was held of the first is forgotten.
                self.leases.retain(|(lease, _)| self.model.jobs.contains_key(&lease.job));
            }
        }
    }

    async fn paused(&self) {
        let wanted: Vec<_> = self.model.paused.iter().cloned().collect();
        assert_eq!(self.store.paused().await.unwrap(), wanted);
    }

    async fn claim(&mut self, most: usize, dying: bool) {
        let store = if dying { &self.dying } else { &self.store };
        let claims = store.claim(most).await.unwrap();
        let given = claims.iter().map(|claim| Given {
            id: claim.job.id.clone(),
            from: claim.from,
            counts: claim.counts,
            retries: claim.retries,
            cancel_requested: claim.cancel_requested,
        });
        assert_eq!(given.collect::<Vec<_>>(), self.model.claim(most, dying));
        for claim in claims {
            self.model.change(&claim.lease.job, |one| {
                assert!(claim.lease.token > one.token);
                assert_eq!(claim.job, one.job);
                one.token = claim.lease.token;
            });
            self.leases.push((claim.lease, None));
        }
    }

    async fn replay(&self, of: &JobId) {
        let steps = self.model.jobs.get(of).map_or(0, |one| one.counts.steps);
        let wanted: Vec<Vec<u8>> = (0..steps).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(self.store.replay(of).await.unwrap().steps, wanted);
    }

    async fn append(&mut self, lease: usize, steps: u8) {
        let Some(at) = self.lease(lease) else { return };
        let lease = self.leases[at].0.clone();
        let at = self.model.jobs[&lease.job].counts.steps;
        let bodies: Vec<Vec<u8>> = (0..u32::from(steps)).map(|n| (at + n).to_be_bytes().to_vec()).collect();
        let appended = self.store.append(&lease, at, &bodies, None).await;
        if self.model.jobs[&lease.job].holds(&lease) {
            appended.unwrap();
            self.model.change(&lease.job, |one| {
                one.counts.steps += u32::from(steps);
                if steps > 0 {
                    one.counts.attempts = 0;
                }
            });
        } else {
            assert!(matches!(appended, Err(StoreError::LeaseLost { .. })), "{appended:?}");
        }
        self.replay(&lease.job).await;
    }

    async fn append_again(&mut self, lease: usize) {
        let Some(at) = self.lease(lease) else { return };
        let lease = &self.leases[at].0;
        let one = &self.model.jobs[&lease.job];
        if let Some(last) = one.counts.steps.checked_sub(1).filter(|_| one.holds(lease)) {
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
                self.store.requeue(&lease, after(far), &failed("x")).await
            }
            Close::Requeue { far, crashed: true } => {
                let why = Requeue::Crashed { error: "x".into() };
                self.store.requeue(&lease, after(far), &why).await
            }
            Close::Release => self.store.release(&lease).await,
            Close::Settle | Close::Retry(_) => self.store.settle(&lease, &completed()).await,
        };
        if self.model.close(&lease, close) {
            done.unwrap();
            self.leases[at].1 = Some(close);
        } else {
            assert!(matches!(done, Err(StoreError::LeaseLost { .. })), "{close:?}: {done:?}");
        }
    }
}

fn check(world: fn() -> World, per_repo: u32, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = world();
        Check::new(&world, per_repo).await.run(ops).await;
    });
}

fn cases(cases: u32) -> ProptestConfig {
    let mut config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 200, ..Default::default() };
    // For a long search, as many as the environment asks for.
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

proptest! {
    #![proptest_config(cases(200))]
    #[test]
    fn the_store_in_memory_does_as_the_model_does(per_repo in 0..3_u32, ops in vec(op(), 1..120)) {
        check(World::memory, per_repo, &ops);
    }
}

proptest! {
    #![proptest_config(cases(12))]
    #[test]
    fn the_store_in_sqlite_does_as_the_model_does(per_repo in 0..3_u32, ops in vec(op(), 1..120)) {
        check(World::sqlite, per_repo, &ops);
    }

    #[test]
    fn the_store_in_redis_does_as_the_model_does(per_repo in 0..3_u32, ops in vec(op(), 1..120)) {
        check(World::redis, per_repo, &ops);
    }
}
