//! A stage for one job: a world, a store, and runners that take over from each other until the job
//! has its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steadfast::config::{Config, load_from};
use steadfast_actors::{Dice, Running};
use steadfast_agent::jail::Jail;
use steadfast_agent::workspace::Workspaces;
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;
use steadfast_sim::{SIMULATION_ONLY_PRIVATE_KEY, World, WorldConfig};
use steadfast_store::memory::MemoryStore;
use steadfast_store::{Inspection, Replay, RetryFrom, State, Store, Whom};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::line::{Blow, Line, Watched, WatchedWire, What};
use super::scenarios::{Act, Ends, Scenario, When};
use crate::support::in_process::{Surroundings, start_runner};
use crate::support::{API_KEY, TOKEN, job};

/// The longest that a job may take: in simulated time, and in real time.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
const REAL_PATIENCE: Duration = Duration::from_secs(120);
/// In real time, where a scenario takes minutes.
const LONG_PATIENCE: Duration = Duration::from_secs(3000);

/// Which store a play is on. Beside the one in memory they are real, and so is the time.
#[derive(Clone, Debug)]
pub enum Place {
    Memory,
    Sqlite,
    /// The server's URL.
    Redis(String),
}

impl Place {
    pub fn is_real(&self) -> bool {
        !matches!(self, Place::Memory)
    }
}

/// What came of a play, as it is seen from outside.
pub struct Story {
    pub world: Arc<World>,
    pub config: Config,
    pub job: Job,
    /// `None` once it is swept away.
    pub ended: Option<Inspection>,
    pub replay: Replay,
    pub count: [u64; 4],
    /// How often each point was passed by the first runner and by clients.
    pub passed: BTreeMap<String, u32>,
    /// Whether what was to strike one of them did.
    pub struck: bool,
}

pub struct Stage {
    pub world: Arc<World>,
    pub config: Config,
    pub runners: Vec<(Arc<Line>, Running)>,
    pub outside: Arc<dyn Store>,
    /// The shell's commands that are run right before each runner's first push.
    pub meddle: Option<String>,
    place: Place,
    memory: Option<MemoryStore>,
    clients: Vec<Arc<Line>>,
    jail: Arc<Jail>,
    dir: TempDir,
}

/// Short waits, so that what takes real time takes little.
const QUICK: &str = "queue.poll_interval = \"20ms\"\nqueue.lease = \"3s\"\nqueue.response_timeout = \"2s\"\n\
    llm.spacing = \"0s\"\nllm.retry.initial = \"20ms\"\n\
    github.write_spacing = \"0s\"\ngithub.shown_after = \"0s\"\n\
    github.token_retry.initial = \"20ms\"\ngithub.retry.initial = \"20ms\"\n\
    job.retry.initial = \"20ms\"\njob.retry.max = \"100ms\"\njob.park_after = \"10s\"\n\
    supervisor.drain_timeout = \"5s\"\n";

async fn jail(config: &Config) -> Arc<Jail> {
    static JAIL: OnceCell<Arc<Jail>> = OnceCell::const_new();
    let probe =
        async { Arc::new(Jail::probe(config.agent.jail.clone(), config.agent.command.clone()).await) };
    Arc::clone(JAIL.get_or_init(|| probe).await)
}

impl Stage {
    pub async fn new(place: &Place, extra: &str, change: impl FnOnce(&mut WorldConfig)) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("app.pem");
        std::fs::write(&key, SIMULATION_ONLY_PRIVATE_KEY).unwrap();
        let queue = match place {
            Place::Memory => "queue.url = \"memory:\"".to_owned(),
            Place::Sqlite => format!("queue.url = \"sqlite:{}\"", dir.path().join("queue.db").display()),
            Place::Redis(url) => {
                let folder = dir.path().file_name().unwrap().to_string_lossy().into_owned();
                format!("queue.url = {url:?}\nqueue.prefix = \"{folder}:\"")
            }
        };
        let text = format!(
            "agent.workspaces = {:?}\ngithub.app_id = \"4242\"\ngithub.private_key_file = {key:?}\n{queue}\n{}{extra}\n",
            dir.path(),
            if place.is_real() { QUICK } else { "" },
        );
        let loaded = load_from(Some(("test.toml".as_ref(), &text)), []).unwrap_or_else(|e| panic!("{e}"));
        let config = loaded.config;
        let early = Timestamp::from_secs(1_760_000_000);
        let memory = MemoryStore::new(&config.queue, early, "outside");
        let (outside, start): (Arc<dyn Store>, _) = match place {
            Place::Memory => (Arc::new(memory.for_runner(&config.queue, "outside")), early),
            Place::Sqlite | Place::Redis(_) => {
                let store = steadfast_store::open(&config.queue, "outside").await.unwrap();
                let now = store.now().await.unwrap();
                (store, now)
            }
        };
        let mut world = WorldConfig::new(7, start);
        world.llm.api_key = Some(API_KEY.to_owned());
        world.github.personal_token = Some(TOKEN.to_owned());
        change(&mut world);
        let world = World::new(world).unwrap();
        let jail = jail(&config).await;
        let memory = (!place.is_real()).then_some(memory);
        let (runners, clients, place) = (Vec::new(), Vec::new(), place.clone());
        Stage { world, config, runners, outside, meddle: None, place, memory, clients, jail, dir }
    }

    async fn store(&self, name: &str) -> Arc<dyn Store> {
        match &self.memory {
            Some(memory) => Arc::new(memory.for_runner(&self.config.queue, name)),
            None => steadfast_store::open(&self.config.queue, name).await.unwrap(),
        }
    }

    /// One more runner, on a machine of its own.
    pub async fn start(&mut self, blow: Option<Blow>, panic: Option<&str>) -> Arc<Line> {
        let name = format!("runner-{}", self.runners.len() + 1);
        let line = Line::new(&self.dir.path().join(format!("{name}-line")), blow, panic);
        if let Some(commands) = &self.meddle {
            line.meddle_before_the_push(commands);
        }
        let mut config = self.config.clone();
        config.agent.workspaces = self.dir.path().join(&name);
        config.agent.git.program = line.git();
        let store = Arc::new(Watched { inner: self.store(&name).await, line: Arc::clone(&line) });
        let wire = Arc::new(WatchedWire { inner: self.world.transport(), line: Arc::clone(&line) });
        let (folder, git) = (config.agent.workspaces.clone(), config.agent.git.clone());
        let surroundings = Surroundings {
            store,
            transport: wire,
            workshop: Arc::new(Workspaces::new(folder, git, Arc::clone(&self.jail))),
            clock: self.world.clock(),
            dice: Dice::seeded(7),
            webhook: None,
            process: name,
        };
        let running = start_runner(config, &self.world, surroundings);
        self.runners.push((Arc::clone(&line), running));
        line
    }

    /// Somebody outside does something to the store; killed on the way, somebody else does it again.
    async fn client<T>(&mut self, blow: Option<&Blow>, ask: impl AsyncFn(&dyn Store) -> T) -> T {
        let mut blow = blow.cloned();
        loop {
            let dir = self.dir.path().join(format!("client-{}", self.clients.len()));
            let line = Line::new(&dir, blow.take(), None);
            self.clients.push(Arc::clone(&line));
            let store = Watched { inner: Arc::clone(&self.outside), line: Arc::clone(&line) };
            let dead = async {
                while !line.is_dead() {
                    tokio::time::sleep(self.tick()).await;
                }
            };
            tokio::select! {
                answer = ask(&store) => return answer,
                () = dead => {}
            }
        }
    }

    pub fn tick(&self) -> Duration {
        Duration::from_millis(if self.place.is_real() { 20 } else { 100 })
    }

    /// Does something to the job, or to the process that runs it.
    async fn act(&mut self, act: Act, job: &Job, blow: Option<&Blow>) {
        let id = &job.id;
        match act {
            Act::Cancel => {
                self.client(blow, async |store| store.cancel(id).await.unwrap()).await;
            }
            Act::Retry => {
                self.client(blow, async |store| store.retry(id, RetryFrom::Journal).await.unwrap()).await;
            }
            Act::Pause => self.client(blow, async |store| store.pause(&Whom::All).await.unwrap()).await,
            Act::Resume => self.client(blow, async |store| store.resume(&Whom::All).await.unwrap()).await,
            Act::Drain => {
                if let Some((_, running)) = self.runners.last() {
                    running.drain().await;
                }
            }
        }
    }

    /// Plays a scenario to its end, with one of its runners, or clients, struck on the way.
    pub async fn play(mut self, scenario: &Scenario, blow: Option<&Blow>) -> Story {
        (scenario.prepare)(&self.world);
        let mut job = job("one", 1);
        job.installation_id = self.world.config().github.installation_id;
        let mut acts = scenario.acts.to_vec();
        acts.reverse();
        while let Some((_, act)) = acts.pop_if(|(when, _)| *when == When::First) {
            self.act(act, &job, blow).await;
        }
        self.client(blow, async |store| store.submit(&job).await.unwrap()).await;
        let patience = match (self.place.is_real(), scenario.is_long) {
            (true, true) => LONG_PATIENCE,
            (true, false) => REAL_PATIENCE,
            (false, _) => PATIENCE,
        };
        let begin = Instant::now();
        let mut line = self.start(blow.cloned(), scenario.panic).await;
        let mut away = blow.is_some_and(|blow| matches!(blow.what, What::Freeze | What::Partition));
        let ended = loop {
            if line.is_dead() {
                line.cut();
                line = self.start(None, None).await;
            } else if away && line.was_struck() {
                // Another comes beside it, and both believe that they hold the job.
                away = false;
                line = self.start(None, None).await;
            }
            let found = self.outside.inspect(&job.id).await.unwrap();
            let count = self.outside.count().await.unwrap();
            let Some(found) = found else {
                assert_eq!(scenario.ends, Ends::Swept, "the job is in no state");
                break None;
            };
            assert_eq!(count.iter().sum::<u64>(), 1, "the job is in exactly one state: {count:?}");
            let now = |when: When| match when {
                When::First => true,
                When::Steps(steps) => found.counts.steps >= steps,
                When::In(state) => found.state == state,
                When::Parked(steps) => found.state == State::Parked && found.counts.steps >= steps,
            };
            if let Some((_, act)) = acts.pop_if(|(when, _)| now(*when)) {
                self.act(act, &job, blow).await;
                if act == Act::Drain {
                    line.cut();
                }
            } else if found.state == State::Ended && scenario.ends != Ends::Swept {
                break Some(found);
            }
            assert!(begin.elapsed() < patience, "it does not end: {found:#?}");
            tokio::time::sleep(self.tick()).await;
        };
        if !self.place.is_real() {
            // What wakes up late finds its lease gone, and changes nothing.
            tokio::time::sleep(Duration::from_secs(900)).await;
        }
        // Those that may be struck: the first runner, and who submits or calls off.
        let first = self.runners.first().map(|(line, _)| line);
        let mut passed = BTreeMap::new();
        for (point, times) in first.into_iter().chain(&self.clients).flat_map(|line| line.passed()) {
            let most = passed.entry(point).or_insert(times);
            *most = times.max(*most);
        }
        let struck = first.into_iter().chain(&self.clients).any(|line| line.was_struck());
        let replay = match ended {
            Some(_) => self.outside.replay(&job.id).await.unwrap(),
            None => Replay::default(),
        };
        let count = self.outside.count().await.unwrap();
        let (world, config) = (Arc::clone(&self.world), self.config.clone());
        Story { world, config, job, ended, replay, count, passed, struck }
    }
}
