//! The same actors within the test, under a paused clock: the world is reached without sockets, the
//! queue is in memory, and hours pass in no time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use steadfast::config::{Config, load_from};
use steadfast_actors::alerts::Webhook;
use steadfast_actors::{Deps, Dice, Running};
use steadfast_agent::jail::Jail;
use steadfast_agent::prompts::Prompts;
use steadfast_agent::workspace::{Workshop, Workspaces};
use steadfast_core::job::JobId;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_github::{Credentials, GithubClient};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use steadfast_llm::{Endpoint, LlmClient};
use steadfast_sim::{SIMULATION_ONLY_PRIVATE_KEY, World, WorldConfig};
use steadfast_store::memory::MemoryStore;
use steadfast_store::{Inspection, State, Store};
use tempfile::TempDir;

use super::{API_KEY, TOKEN};

/// A world and a worker in it, in this very thread.
pub struct Village {
    pub world: Arc<World>,
    pub store: Arc<dyn Store>,
    pub running: Running,
    _dir: TempDir,
}

/// Somebody who is told of alerts, or is away.
#[derive(Default)]
pub struct Hook {
    told: Mutex<Vec<Value>>,
    away: bool,
}

impl Hook {
    /// One that never answers, if it is away.
    pub fn new(away: bool) -> Arc<Hook> {
        Arc::new(Hook { told: Mutex::default(), away })
    }

    /// As the workers are handed it.
    pub fn webhook(self: &Arc<Self>) -> Webhook {
        let address = "https://hooks.example/services/secret".to_owned();
        let hook: Arc<dyn Transport> = self.clone();
        Webhook::new(&address.into(), hook).unwrap()
    }

    /// What it was sent, each try.
    pub fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}

#[async_trait]
impl Transport for Hook {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Body>, TransportError> {
        self.told.lock().unwrap().push(serde_json::from_slice(request.body()).unwrap());
        if self.away {
            tokio::time::sleep(timeouts.first_byte).await;
            return Err(TransportError::Timeout { what: "answer", after: timeouts.first_byte });
        }
        Ok(Response::new(Box::pin(futures_util::stream::empty())))
    }
}

/// Runs `test` on an actix system whose clock is paused: it moves by itself when nothing runs.
pub fn paused<F: Future<Output = ()> + 'static>(test: F) {
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    });
    system.block_on(test);
}

impl Village {
    /// With the default configuration but for `extra`, and the store wrapped as the test wishes.
    pub async fn new(
        change: impl FnOnce(&mut WorldConfig),
        extra: &str,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Village {
        Village::with(change, extra, wrap, |world| world.transport(), None).await
    }

    /// The same, with the way to the world as the test wishes, and somebody who is told of alerts.
    pub async fn with(
        change: impl FnOnce(&mut WorldConfig),
        extra: &str,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
        wire: impl FnOnce(&Arc<World>) -> Arc<dyn Transport>,
        webhook: Option<Webhook>,
    ) -> Village {
        let start = Timestamp::from_secs(1_760_000_000);
        let mut config = WorldConfig::new(7, start);
        config.llm.api_key = Some(API_KEY.to_owned());
        config.github.personal_token = Some(TOKEN.to_owned());
        change(&mut config);
        let world = World::new(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = format!("agent.workspaces = {:?}\nqueue.url = \"memory:\"\n{extra}\n", dir.path());
        let loaded = load_from(Some(("test.toml".as_ref(), &text)), []).unwrap_or_else(|e| panic!("{e}"));
        let config = loaded.config;
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&config.queue, start, "test"));
        let store = wrap(store);
        let jail = Jail::probe(config.agent.jail.clone(), config.agent.command.clone()).await;
        let (workspaces, git) = (config.agent.workspaces.clone(), config.agent.git.clone());
        let surroundings = Surroundings {
            store: Arc::clone(&store),
            transport: wire(&world),
            workshop: Arc::new(Workspaces::new(workspaces, git, Arc::new(jail))),
            clock: world.clock(),
            dice: Dice::seeded(7),
            webhook,
            process: "in-process".to_owned(),
        };
        let running = start_runner(config, &world, surroundings);
        Village { world, store, running, _dir: dir }
    }

    /// Waits, in simulated time, until the job is in `state`.
    pub async fn wait_for(&self, id: &str, state: State, within: Duration) -> Inspection {
        let id = JobId::new(id).unwrap();
        let asking = async {
            loop {
                if let Some(found) = self.store.inspect(&id).await.unwrap()
                    && found.state == state
                {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        match tokio::time::timeout(within, asking).await {
            Ok(found) => found,
            Err(_) => panic!("{id} is not {state:?}: {:?}", self.store.inspect(&id).await),
        }
    }
}

/// What a runner works with, beside its configuration.
pub struct Surroundings {
    pub store: Arc<dyn Store>,
    pub transport: Arc<dyn Transport>,
    pub workshop: Arc<dyn Workshop>,
    pub clock: Arc<dyn Clock>,
    pub dice: Dice,
    /// Somebody who is told of alerts.
    pub webhook: Option<Webhook>,
    pub process: String,
}

/// A worker's actors, with the simulation's own credentials, a personal token and the App's key.
pub fn start_runner(config: Config, world: &World, surroundings: Surroundings) -> Running {
    let Surroundings { store, transport, workshop, clock, dice, webhook, process } = surroundings;
    let client = |settings: steadfast_llm::Settings| {
        let endpoint = Endpoint::new(&settings.base_url, API_KEY.to_owned().into()).unwrap();
        LlmClient::new(endpoint, settings, Arc::clone(&transport), Arc::clone(&clock))
    };
    let llm = match &config.llm_endpoints[..] {
        [] => vec![client(config.llm.clone())],
        several => several.iter().map(|endpoint| client(config.llm.at(endpoint))).collect(),
    };
    let private_key = Some(SIMULATION_ONLY_PRIVATE_KEY.to_owned().into());
    let private_key = private_key.filter(|_| !config.github.app_id.is_empty());
    let credentials = Credentials { private_key, personal_token: Some(TOKEN.to_owned().into()) };
    let github = GithubClient::new(config.github, credentials, transport, Arc::clone(&clock)).unwrap();
    steadfast_actors::start(Deps {
        settings: config.actors,
        prompts: Prompts::load(&config.agent).unwrap(),
        workspaces: workshop,
        dice,
        agent: config.agent,
        store,
        llm,
        github,
        git_url: format!("file://{}", world.git_root().display()).parse().unwrap(),
        clock,
        secrets: Arc::new(|_| {}),
        webhook,
        process,
    })
}

/// A field of the status hash.
pub fn field(found: &Inspection, name: &str) -> String {
    found.status.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
}
