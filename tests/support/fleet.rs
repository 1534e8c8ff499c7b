//! Runners that share one store in memory and one simulated world, each on a line of its own that can
//! fail: they come, stand still, lose the store, die, and others take over. No process, no disk: the
//! same seed gives the same story.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast::config::{Config, load_from};
use steadfast_actors::{Dice, Running};
use steadfast_core::time::Timestamp;
use steadfast_sim::{GitForm, World, WorldConfig};
use steadfast_store::Store;
use steadfast_store::memory::MemoryStore;
use tempfile::TempDir;

use super::checkout::MemoryWorkshop;
use super::in_process::{Surroundings, start_runner};
use super::storm::{Ledger, Line, Rates, SkewedClock};
use super::stormy::{StormyStore, StormyWire};
use super::trace::Trace;
use super::witness::{Limits, Witness};
use super::{API_KEY, TOKEN};

/// The world, the store, and who works in them.
pub struct Fleet {
    pub world: Arc<World>,
    /// The store as it is, whatever a runner sees of it.
    pub store: MemoryStore,
    pub config: Config,
    pub runners: Vec<Runner>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub trace: Arc<Trace>,
    pub witness: Arc<Witness>,
    _dir: TempDir,
    seed: u64,
    started: u64,
}

/// One process, as it were. Dead ones stay in the list: they hang.
pub struct Runner {
    pub line: Arc<Line>,
    pub running: Running,
    /// It claims nothing any more.
    pub draining: bool,
}

impl Fleet {
    pub async fn new(seed: u64, change: impl FnOnce(&mut WorldConfig), extra: &str) -> Fleet {
        let start = Timestamp::from_secs(1_760_000_000);
        let mut config = WorldConfig::new(seed, start);
        config.git = GitForm::Memory;
        config.llm.api_key = Some(API_KEY.to_owned());
        config.github.personal_token = Some(TOKEN.to_owned());
        change(&mut config);
        let app_id = config.github.app_id;
        let world = World::new(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("app.pem");
        std::fs::write(&key, steadfast_sim::SIMULATION_ONLY_PRIVATE_KEY).unwrap();
        let text = format!(
            "queue.url = \"memory:\"\nmetrics.log_interval = \"1h\"\ngithub.app_id = \"{app_id}\"\n\
             github.private_key_file = {key:?}\n{extra}\n"
        );
        let loaded = load_from(Some(("test.toml".as_ref(), &text)), []).unwrap_or_else(|e| panic!("{e}"));
        let config = loaded.config;
        let store = MemoryStore::new(&config.queue, start, "outside");
        let trace = Arc::new(Trace::new());
        let limits = Limits {
            lease: config.queue.lease,
            slots: config.actors.job.concurrency as usize,
            flight: config.actors.llm_limits.concurrency,
            requests: config.actors.llm_limits.requests_per_minute,
        };
        let witness = Witness::new(store.clone(), Arc::clone(&world), Arc::clone(&trace), limits);
        let (runners, ledger, started) = (Vec::new(), Arc::default(), 0);
        Fleet { world, store, config, runners, ledger, trace, witness, _dir: dir, seed, started }
    }

    /// Puts a job into the queue, once or again.
    pub async fn submit(&self, job: &steadfast_core::job::Job) {
        let admission = self.store.submit(job).await.unwrap();
        if admission == steadfast_store::Admission::Queued {
            self.witness.admitted(job);
        }
        self.trace.note("test", Some(job.id.as_str()), format!("submit -> {admission:?}"));
    }

    /// One more runner, on a machine of its own.
    pub fn start(&mut self, rates: Rates, panics: u32) {
        self.started += 1;
        let name = format!("runner-{}", self.started);
        let seed = self.seed.wrapping_mul(1009).wrapping_add(self.started);
        let (trace, witness) = (Arc::clone(&self.trace), Arc::clone(&self.witness));
        let line = Line::new(&name, seed, (rates, panics), Arc::clone(&self.ledger), trace, witness);
        line.note(None, "starts");
        let config = self.config.clone();
        let inner: Arc<dyn Store> = Arc::new(self.store.for_runner(&config.queue, &name));
        let surroundings = Surroundings {
            store: Arc::new(StormyStore { inner, line: Arc::clone(&line) }),
            transport: Arc::new(StormyWire { inner: self.world.transport(), line: Arc::clone(&line) }),
            workshop: Arc::new(MemoryWorkshop { world: Arc::clone(&self.world), line: Arc::clone(&line) }),
            clock: Arc::new(SkewedClock { right: self.world.clock(), line: Arc::clone(&line) }),
            dice: Dice::seeded(seed),
            webhook: None,
            process: name,
        };
        let running = start_runner(config, &self.world, surroundings);
        self.runners.push(Runner { line, running, draining: false });
    }

    /// Those that live.
    pub fn living(&self) -> impl Iterator<Item = &Runner> {
        self.runners.iter().filter(|runner| !runner.line.is_dead())
    }

    /// Drains all that live, and says how long the longest took.
    pub async fn drain(&self) -> Duration {
        let begin = tokio::time::Instant::now();
        for runner in self.living() {
            runner.running.drain().await;
        }
        begin.elapsed()
    }
}
