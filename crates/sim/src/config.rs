//! What a simulated world is like: its limits, credentials, repositories, latency and weather.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_core::time::Timestamp;

/// The private key of the simulated GitHub App, PEM. It opens nothing but a simulation.
pub const SIMULATION_ONLY_PRIVATE_KEY: &str = include_str!("../keys/simulation-only.private.pem");

/// The public half of [`SIMULATION_ONLY_PRIVATE_KEY`], PEM.
pub const SIMULATION_ONLY_PUBLIC_KEY: &str = include_str!("../keys/simulation-only.public.pem");

/// A whole simulated world.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Decides everything that is left to chance: the model's ways, random faults, tokens.
    pub seed: u64,
    /// Wall time at the start. It advances with tokio's clock, so a test that pauses it pauses this.
    pub start: Timestamp,
    /// The model server.
    pub llm: LlmConfig,
    /// GitHub.
    pub github: GithubConfig,
    /// Who keeps what GitHub hosts.
    pub git: GitForm,
    /// What GitHub hosts.
    pub repositories: Vec<Repository>,
    /// How long answers take.
    pub latency: Latency,
    /// Faults by chance, beside the scripted ones.
    pub weather: Weather,
}

/// Who keeps the repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitForm {
    /// Git itself, on disk: served over HTTP, and reached by `file://`.
    Git,
    /// The world's own memory: no process and no disk, reached by [`World::git_fetch`] and
    /// [`World::git_push`] only.
    ///
    /// [`World::git_fetch`]: crate::World::git_fetch
    /// [`World::git_push`]: crate::World::git_push
    Memory,
}

/// How a limit is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Not at all.
    None,
    /// A token bucket that refills continuously.
    Bucket {
        /// How much time's worth it holds: a minute's limit of 60 and `10s` make a burst of 10.
        holds: Duration,
    },
    /// A window of one minute, aligned to the world's start, that begins anew at its end.
    Fixed,
}

/// What a refusal says of the time to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// `retry-after` in whole seconds, rounded up, and `retry-after-ms`.
    True,
    /// The same `retry-after` always, whatever is left of the window.
    Always(Duration),
    /// No such header.
    Hidden,
}

/// The model server's character.
#[derive(Clone, Debug)]
pub struct LlmConfig {
    /// The bearer key that is accepted; `None` takes any, as long as there is one.
    pub api_key: Option<String>,
    /// Models that exist; any other is a 404. Empty: every name exists.
    pub models: Vec<String>,
    /// Tokens of prompt and answer together.
    pub context_window: u64,
    /// Requests a minute; `None` is no limit.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute; `None` is no limit.
    pub tokens_per_minute: Option<u64>,
    /// How both are enforced.
    pub limit_kind: LimitKind,
    /// Whether answers carry `x-ratelimit-*`.
    pub tell_limits: bool,
    /// What a 429 says of the wait.
    pub retry_after: RetryAfter,
    /// Whether a refused request counts against the limit of requests, as OpenAI does it.
    pub count_rejected: bool,
    /// Whether `max_tokens` and any temperature but 1 are refused, as newer OpenAI models do it.
    pub refuse_max_tokens: bool,
    /// Whether `stream_options` is refused, as some compatible servers do it.
    pub refuse_stream_options: bool,
    /// Tokens that an answer is assumed to take where the request names no maximum.
    pub assumed_answer_tokens: u64,
}

/// What a token may do with one kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Look.
    Read,
    /// Look and change.
    Write,
}

/// Permissions by GitHub's names: `contents`, `issues`, `pull_requests`, `metadata`.
pub type Permissions = BTreeMap<String, Level>;

/// GitHub's character.
#[derive(Clone, Debug)]
pub struct GithubConfig {
    /// The App's id; `iss` of its JWTs.
    pub app_id: u64,
    /// The App's client id; accepted as `iss` too.
    pub client_id: String,
    /// The App's slug; its bot is `{slug}[bot]`.
    pub app_slug: String,
    /// The App's public key, PEM.
    pub app_public_key: String,
    /// The one installation of the App; it covers every repository.
    pub installation_id: u64,
    /// What the installation was granted.
    pub permissions: Permissions,
    /// A personal token that is accepted, with every permission; `None` for none.
    pub personal_token: Option<String>,
    /// Login of the personal token's owner.
    pub personal_login: String,
    /// Lifetime of an installation token.
    pub token_lifetime: Duration,
    /// Requests an hour for each token's owner.
    pub primary_per_hour: u64,
    /// Status of a refusal by the primary limit: 403 or 429.
    pub primary_status: u16,
    /// Points a minute: a read is 1, a write 5.
    pub points_per_minute: u64,
    /// Content-creating requests a minute.
    pub content_per_minute: u64,
    /// Content-creating requests an hour.
    pub content_per_hour: u64,
    /// Installation tokens an hour.
    pub tokens_per_hour: u64,
    /// Writes that begin within a span; `None` doesn't enforce it.
    pub write_burst: Option<(u64, Duration)>,
    /// How long, at the least, everything is refused after a refusal by a secondary limit; zero: what
    /// went too far is refused, and nothing else.
    pub secondary_lasts: Duration,
    /// Requests in work at the same time.
    pub concurrent: usize,
    /// Writes in work at the same time; `None` doesn't enforce it. Measured in any case.
    pub concurrent_writes: Option<usize>,
    /// Whether a refusal by a secondary limit carries `retry-after`.
    pub secondary_retry_after: bool,
    /// How long a new comment, branch or pull request stays unseen by other requests.
    pub lag: Duration,
}

/// One repository of the simulated GitHub, made from the fixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its owner.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// Its default branch.
    pub default_branch: String,
    /// Issues that it has, numbered from 1. Beyond the fixture's own they repeat, numbered on.
    pub issues: u64,
}

/// How long answers take, on tokio's clock.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The model's first token.
    pub llm_first: Duration,
    /// Each further token of the model.
    pub llm_per_token: Duration,
    /// A GitHub read; a write takes twice that.
    pub github: Duration,
    /// A git request.
    pub git: Duration,
    /// The random part of each, as a share of it on both sides; 0 to 1.
    pub jitter: f64,
}

/// Faults by chance: each request draws one with its rate, from the seed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weather {
    /// Share of model calls that go wrong, 0 to 1.
    pub llm: f64,
    /// Share of GitHub calls.
    pub github: f64,
    /// Share of git calls.
    pub git: f64,
}

impl WorldConfig {
    /// A generous world: real limits, no faults, one repository `acme/shell-tools`, short latency.
    pub fn new(seed: u64, start: Timestamp) -> Self {
        WorldConfig {
            seed,
            start,
            llm: LlmConfig::generous(),
            github: GithubConfig::real(),
            git: GitForm::Git,
            repositories: vec![Repository::new("acme", "shell-tools")],
            latency: Latency::none(),
            weather: Weather::default(),
        }
    }
}

impl LlmConfig {
    /// No limits, any key, any model, OpenAI's habits otherwise.
    pub fn generous() -> Self {
        LlmConfig {
            api_key: None,
            models: Vec::new(),
            context_window: 128_000,
            requests_per_minute: None,
            tokens_per_minute: None,
            limit_kind: LimitKind::Bucket { holds: Duration::from_secs(10) },
            tell_limits: true,
            retry_after: RetryAfter::True,
            count_rejected: true,
            refuse_max_tokens: false,
            refuse_stream_options: false,
            assumed_answer_tokens: 16,
        }
    }
}

impl GithubConfig {
    /// GitHub's documented limits and the simulation's own App.
    pub fn real() -> Self {
        let write = |name: &str| (name.to_owned(), Level::Write);
        GithubConfig {
            app_id: 4242,
            client_id: "Iv23simulation".to_owned(),
            app_slug: "steadfast-sim".to_owned(),
            app_public_key: SIMULATION_ONLY_PUBLIC_KEY.to_owned(),
            installation_id: 7001,
            permissions: Permissions::from([
                write("contents"),
                write("issues"),
                write("pull_requests"),
                ("metadata".to_owned(), Level::Read),
            ]),
            personal_token: None,
            personal_login: "operator".to_owned(),
            token_lifetime: Duration::from_secs(3600),
            primary_per_hour: 5000,
            primary_status: 403,
            points_per_minute: 900,
            content_per_minute: 80,
            content_per_hour: 500,
            tokens_per_hour: 2000,
            write_burst: None,
            secondary_lasts: Duration::ZERO,
            concurrent: 100,
            concurrent_writes: None,
            secondary_retry_after: true,
            lag: Duration::ZERO,
        }
    }
}

impl Repository {
    /// A repository with the fixture's issues and `main` as default branch.
    pub fn new(owner: impl Into<String>, name: impl Into<String>) -> Self {
        Repository {
            owner: owner.into(),
            name: name.into(),
            default_branch: "main".to_owned(),
            issues: crate::fixture::issues().len() as u64,
        }
    }

    /// `owner/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

impl Latency {
    /// Answers at once.
    pub fn none() -> Self {
        Latency {
            llm_first: Duration::ZERO,
            llm_per_token: Duration::ZERO,
            github: Duration::ZERO,
            git: Duration::ZERO,
            jitter: 0.0,
        }
    }

    /// What people measure: a second to the first token, 10 ms a token, 150 ms for GitHub.
    pub fn lifelike() -> Self {
        Latency {
            llm_first: Duration::from_secs(1),
            llm_per_token: Duration::from_millis(10),
            github: Duration::from_millis(150),
            git: Duration::from_millis(300),
            jitter: 0.3,
        }
    }
}
