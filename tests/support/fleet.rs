//! Runners that share one store in memory and one simulated world, each on a line of its own that can
//! fail: they come, stand still, lose the store, die, and others take over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast::config::{Config, load_from};
use steadfast_actors::Running;
use steadfast_agent::jail::Jail;
use steadfast_core::time::Timestamp;
use steadfast_sim::{World, WorldConfig};
use steadfast_store::Store;
use steadfast_store::memory::MemoryStore;
use tempfile::TempDir;

use super::in_process::start_runner;
use super::storm::{Ledger, Line, Rates, StormyStore, StormyWire};
use super::{API_KEY, TOKEN};

/// The world, the store, and who works in them.
pub struct Fleet {
    pub world: Arc<World>,
    /// The store as it is, whatever a runner sees of it.
    pub store: MemoryStore,
    pub config: Config,
    pub runners: Vec<Runner>,
    pub ledger: Arc<Mutex<Ledger>>,
    jail: Arc<Jail>,
    dir: TempDir,
    seed: u64,
    started: u64,
}

/// One process, as it were. Dead ones stay in the list: they hang.
pub struct Runner {
    pub line: Arc<Line>,
    pub running: Running,
}

impl Fleet {
    pub async fn new(seed: u64, change: impl FnOnce(&mut WorldConfig), extra: &str) -> Fleet {
        let start = Timestamp::from_secs(1_760_000_000);
        let mut config = WorldConfig::new(seed, start);
        config.llm.api_key = Some(API_KEY.to_owned());
        config.github.personal_token = Some(TOKEN.to_owned());
        change(&mut config);
        let app_id = config.github.app_id;
        let world = World::new(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("app.pem");
        std::fs::write(&key, steadfast_sim::SIMULATION_ONLY_PRIVATE_KEY).unwrap();
        let text = format!(
            "agent.workspaces = {:?}\nqueue.url = \"memory:\"\ngithub.app_id = \"{app_id}\"\n\
             github.private_key_file = {key:?}\n{extra}\n",
            dir.path()
        );
        let loaded = load_from(Some(("test.toml".as_ref(), &text)), []).unwrap_or_else(|e| panic!("{e}"));
        let config = loaded.config;
        let jail = Jail::probe(config.agent.jail.clone(), config.agent.command.clone()).await;
        Fleet {
            store: MemoryStore::new(&config.queue, start, "outside"),
            world,
            config,
            runners: Vec::new(),
            ledger: Arc::default(),
            jail: Arc::new(jail),
            dir,
            seed,
            started: 0,
        }
    }

    /// One more runner, on a machine of its own.
    pub fn start(&mut self, rates: Rates, panics: u32) {
        self.started += 1;
        let name = format!("runner-{}", self.started);
        let seed = self.seed.wrapping_mul(1009).wrapping_add(self.started);
        let line = Line::new(&name, seed, rates, panics, Arc::clone(&self.ledger));
        let mut config = self.config.clone();
        config.agent.workspaces = self.dir.path().join(&name);
        let inner: Arc<dyn Store> = Arc::new(self.store.for_runner(&config.queue, &name));
        let store = Arc::new(StormyStore { inner, line: Arc::clone(&line) });
        let wire = Arc::new(StormyWire { inner: self.world.transport(), line: Arc::clone(&line) });
        let running = start_runner(config, &self.world, store, wire, Arc::clone(&self.jail));
        self.runners.push(Runner { line, running });
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
