//! `steadfast run`: the worker. Wires configuration, store and clients to the actors, and answers
//! to signals.

use std::sync::Arc;

use anyhow::Context;
use secrecy::SecretString;
use steadfast_actors::alerts::Webhook;
use steadfast_actors::{Deps, Dice, Running};
use steadfast_agent::jail::Jail;
use steadfast_agent::prompts::Prompts;
use steadfast_agent::workspace::Workspaces;
use steadfast_github::{Credentials, GithubClient};
use steadfast_http::{ReqwestTransport, Transport};
use steadfast_llm::{Endpoint, LlmClient};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::SystemClock;
use crate::config::{Config, Loaded, Secrets};
use crate::exit::Exit;
use crate::logs::Redactor;

/// Runs until asked to stop (SIGTERM, SIGINT), drains, and says how it went. Blocks: starts the
/// actor system of its own and opens the store in it. Tokens that come up while running are told to
/// `redactor`.
pub fn run(loaded: Loaded, redactor: Redactor) -> anyhow::Result<Exit> {
    crate::cli::install_tls();
    let system = actix::System::new();
    system.block_on(work(loaded, redactor))
}

async fn work(loaded: Loaded, redactor: Redactor) -> anyhow::Result<Exit> {
    // Before anything that takes time, so that no signal is met by its default.
    let mut signals = Signals::listen()?;
    let running = steadfast_actors::start(deps(loaded, redactor).await?);
    let mut escalation = running.escalation.clone();
    let exit = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "draining: no more claims, steps in flight end; a second signal ends at once");
            Exit::Done
        }
        // The other end lives as long as the Supervisor, which ends the process if it dies.
        _ = escalation.wait_for(Option::is_some) => Exit::Escalated,
    };
    tokio::select! {
        () = running.drain() => tracing::info!("drained"),
        name = signals.next() => {
            tracing::warn!(signal = name, "ending at once: jobs in flight go on elsewhere when their leases end");
            // A command or a git that still runs would hold up an orderly end of the runtime.
            #[expect(clippy::disallowed_methods, reason = "the one place: the second signal")]
            std::process::exit(i32::from(Exit::Failed.code()));
        }
    }
    report(&running);
    Ok(exit)
}

/// The last word of the mailboxes' meters.
fn report(running: &Running) {
    for meter in &running.meters {
        let reading = meter.read();
        tracing::debug!(
            actor = reading.name,
            handled = reading.handled,
            restarts = reading.restarts,
            "mailbox at the end"
        );
    }
}

/// Builds what the actors work with; each failure names the key to look at.
async fn deps(loaded: Loaded, redactor: Redactor) -> anyhow::Result<Deps> {
    let private = loaded.private_paths();
    let Loaded { config, secrets, .. } = loaded;
    let clock: Arc<SystemClock> = Arc::new(SystemClock);
    let runner = format!("{}-{}", hostname(), std::process::id());
    let store = steadfast_store::open(&config.queue, &runner).await?;
    let transport: Arc<dyn Transport> = Arc::new(ReqwestTransport::new(&config.http)?);
    let webhook = secrets.webhook.as_ref().map(|address| Webhook::new(address, Arc::clone(&transport)));
    let webhook = webhook.transpose().context("alerts.webhook")?;
    let llm = llm_clients(&config, &secrets, &transport, &clock)?;
    let models: Vec<_> = llm.iter().map(|client| client.settings().model.as_str()).collect();
    let models = models.join(" ");
    let credentials =
        Credentials { private_key: secrets.github_private_key, personal_token: secrets.github_token };
    let git_url = config.github.web_url.clone();
    let github = GithubClient::new(config.github, credentials, transport, clock.clone())
        .context("the [github] section")?;
    let jail = Jail::probe(config.agent.jail.clone(), config.agent.command.clone()).await.hiding(private);
    let prompts = Prompts::load(&config.agent)?;
    let workspaces =
        Workspaces::new(config.agent.workspaces.clone(), config.agent.git.clone(), Arc::new(jail));
    workspaces.sweep().await;
    tracing::info!(
        runner,
        queue = store.name(),
        model = models,
        concurrency = config.actors.job.concurrency,
        version = env!("CARGO_PKG_VERSION"),
        "steadfast runs"
    );
    Ok(Deps {
        settings: config.actors,
        agent: config.agent,
        prompts,
        store,
        llm,
        github,
        git_url,
        workspaces: Arc::new(workspaces),
        dice: Dice::from_os(),
        clock,
        secrets: Arc::new(move |token| redactor.add(token)),
        webhook,
        process: runner,
    })
}

/// A client for each of `[[llm.endpoints]]`, or the one of `[llm]`.
fn llm_clients(
    config: &Config,
    secrets: &Secrets,
    transport: &Arc<dyn Transport>,
    clock: &Arc<SystemClock>,
) -> anyhow::Result<Vec<LlmClient>> {
    let client = |settings: steadfast_llm::Settings, key: Option<&SecretString>| {
        let endpoint = Endpoint::new(&settings.base_url, key.cloned().unwrap_or_default())?;
        anyhow::Ok(LlmClient::new(endpoint, settings, Arc::clone(transport), clock.clone()))
    };
    if config.llm_endpoints.is_empty() {
        let only = client(config.llm.clone(), secrets.llm_api_key.as_ref());
        return Ok(vec![only.context("llm.base_url or llm.api_key")?]);
    }
    let pairs = config.llm_endpoints.iter().zip(&secrets.endpoint_api_keys);
    pairs
        .map(|(endpoint, key)| {
            let client = client(config.llm.at(endpoint), key.as_ref());
            client.with_context(|| format!("llm.endpoints {}: base_url or api_key", endpoint.name))
        })
        .collect()
}

/// The machine's name, to tell runners apart in the queue.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The next signal's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
