//! The world: one state behind both transports, and the way of a request through it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use steadfast_core::time::{Clock, Timestamp};
use tokio::time::Instant;

use crate::SimError;
use crate::config::{Weather, WorldConfig};
use crate::faults::{Fault, FaultBook, FaultRule, Operation};
use crate::git::Repos;
use crate::github::{self, GithubState};
use crate::model::{ScriptFor, ScriptedAnswer};
use crate::openai::{self, LlmState};
use crate::records::{BranchRecord, ChatRecord, Records};
use crate::reply::{Ending, Outcome, Reply};
use crate::route::Route;

/// A simulated OpenAI, GitHub and git remote. Share it by its `Arc`.
pub struct World {
    pub(crate) config: WorldConfig,
    pub(crate) repos: Arc<Repos>,
    pub(crate) app_key: jsonwebtoken::DecodingKey,
    start: Instant,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) faults: FaultBook,
    pub(crate) records: Records,
    pub(crate) llm: LlmState,
    pub(crate) github: GithubState,
    pub(crate) scripts: Vec<(ScriptFor, Vec<ScriptedAnswer>)>,
    pub(crate) dice: StdRng,
}

/// The world's wall time: its start, plus what tokio's clock says has passed.
#[derive(Clone, Copy, Debug)]
pub struct WorldClock {
    base: Timestamp,
    start: Instant,
}

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.base + self.start.elapsed()
    }
}

impl World {
    /// Makes a world, its git repositories among it; blocks for some milliseconds while git makes
    /// them. They are removed with the world.
    pub fn new(config: WorldConfig) -> Result<Arc<World>, SimError> {
        let app_key = jsonwebtoken::DecodingKey::from_rsa_pem(config.github.app_public_key.as_bytes())
            .map_err(|error| SimError::AppKey(error.to_string()))?;
        let repos = Arc::new(Repos::create(config.git, &config.repositories)?);
        let state = State {
            faults: FaultBook::new(config.seed, config.weather),
            records: Records::default(),
            llm: LlmState::default(),
            github: GithubState::new(&config),
            scripts: Vec::new(),
            dice: StdRng::seed_from_u64(config.seed ^ 0xd1ce),
        };
        Ok(Arc::new(World { config, repos, app_key, start: Instant::now(), state: Mutex::new(state) }))
    }

    /// The world's wall time, for whoever lives in it.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(WorldClock { base: self.config.start, start: self.start })
    }

    /// The world's wall time now.
    pub fn now(&self) -> Timestamp {
        self.config.start + self.since_start()
    }

    /// What the world is like.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Plain data: what a panic in a test left behind is still readable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits `mean`, give or take the configured jitter.
    pub(crate) async fn pause(&self, mean: Duration) {
        if mean.is_zero() {
            return;
        }
        let jitter = self.config.latency.jitter.clamp(0.0, 1.0);
        let factor = 1.0 + jitter * (2.0 * self.state().dice.random::<f64>() - 1.0);
        tokio::time::sleep(mean.mul_f64(factor.max(0.0))).await;
    }

    /// Adds a fault to the script. Of the rules that match a request the oldest decides, until it is
    /// used up.
    pub fn fault(&self, rule: FaultRule) {
        self.state().faults.add(rule);
    }

    /// Sets the faults that come by chance.
    pub fn set_weather(&self, weather: Weather) {
        self.state().faults.set_weather(weather);
    }

    /// Ends all faults, scripted and by chance.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Gives the model a script for some conversations. The newest script that fits decides; where
    /// it has no answer left, the model goes its own way.
    pub fn script_model(&self, whose: ScriptFor, answers: Vec<ScriptedAnswer>) {
        self.state().scripts.push((whose, answers));
    }

    /// What happened so far. Asks git for the branches, so it blocks for some milliseconds.
    pub fn records(&self) -> Records {
        let mut branches = Vec::new();
        for repository in &self.config.repositories {
            let found = self.repos.branches(&repository.owner, &repository.name).unwrap_or_default();
            for (name, sha) in found.into_iter().filter(|(name, _)| *name != repository.default_branch) {
                branches.push(BranchRecord { repository: repository.full_name(), name, sha });
            }
        }
        let state = self.state();
        let mut records = state.records.clone();
        state.github.fill(&mut records);
        records.branches = branches;
        records
    }

    /// The model calls from the one with this index on, for whoever looks at each as it happens.
    pub fn chats_from(&self, index: usize) -> Vec<ChatRecord> {
        self.state().records.chats.get(index..).map(<[_]>::to_vec).unwrap_or_default()
    }

    /// Whether the answer of the model call with this index was sent whole.
    pub fn chat_was_delivered(&self, index: usize) -> bool {
        self.state().records.chats.get(index).is_some_and(|chat| chat.delivered)
    }

    /// How many comments and pull requests stand whose text holds `marker`.
    pub fn standing(&self, marker: &str) -> usize {
        self.state().github.standing(marker)
    }

    /// Installation tokens that were ever issued, the first thousands: for a search of what must not
    /// hold them.
    pub fn ever_issued_tokens(&self) -> Vec<String> {
        self.state().github.issued_tokens()
    }

    /// The folder that holds all repositories as `{owner}/{name}.git`.
    pub fn git_root(&self) -> PathBuf {
        self.repos.root().to_owned()
    }

    /// A repository's address for git without HTTP.
    pub fn git_url(&self, owner: &str, name: &str) -> String {
        format!("file://{}", self.repos.path(owner, name).display())
    }

    /// A file's content on a branch or at a commit, by `git cat-file`; blocks. For assertions.
    pub fn file_at(&self, owner: &str, name: &str, rev: &str, path: &str) -> Result<String, SimError> {
        self.repos.file(owner, name, rev, path)
    }

    /// The whole way of a request: faults before the work, the work, faults after it.
    pub(crate) async fn answer(self: &Arc<Self>, request: Request<Bytes>) -> Outcome {
        let (parts, body) = request.into_parts();
        let route = Route::parse(&parts.method, &parts.uri);
        if let Route::Admin(segments) = &route {
            return Outcome::Reply(crate::admin::answer(self, &parts.method, segments, &body).await);
        }
        let operation = route.operation();
        let fault = self.draw_fault(operation);
        match &fault {
            Some(Fault::Hang) => return Outcome::Hang,
            Some(Fault::Reset) => return Outcome::Reset,
            Some(Fault::Status { code, headers, body }) => {
                return Outcome::Reply(self.refused_by_fault(operation, *code, headers, body));
            }
            Some(Fault::PrimaryLimit { reset_in }) => {
                let reset = self.now() + Duration::from_secs(*reset_in);
                let reply = github::primary_refusal(self, reset.secs()).with("date", &self.http_date());
                self.note_refusal(operation, &reply);
                return Outcome::Reply(reply);
            }
            Some(
                Fault::DoneButLost
                | Fault::CutBody { .. }
                | Fault::SilentAfter { .. }
                | Fault::SlowStream { .. },
            )
            | None => {}
        }
        let mut reply = match route {
            Route::Chat => openai::chat(self, &parts.headers, &body).await,
            Route::Models(name) => openai::models(self, &parts.headers, name.as_deref()),
            Route::Github(call) => github::answer(self, &parts, call, &body).await,
            Route::Git(call) => github::git(self, &parts, call, body).await,
            Route::Admin(_) | Route::Nowhere => not_found(&parts.method, parts.uri.path()),
        };
        reply.set("date", &self.http_date());
        self.note_refusal(operation, &reply);
        match fault {
            Some(Fault::DoneButLost) => {
                self.undelivered(&reply);
                return Outcome::Reset;
            }
            Some(Fault::CutBody { after }) => {
                self.undelivered(&reply);
                reply.end_early(after, Ending::Cut);
            }
            Some(Fault::SilentAfter { after }) => {
                self.undelivered(&reply);
                reply.end_early(after, Ending::Silent);
            }
            Some(Fault::SlowStream { pause_ms, piece }) => {
                reply.slow_down(Duration::from_millis(pause_ms), piece);
            }
            Some(Fault::Hang | Fault::Reset | Fault::Status { .. } | Fault::PrimaryLimit { .. }) | None => {}
        }
        Outcome::Reply(reply)
    }

    pub(crate) fn draw_fault(&self, operation: Operation) -> Option<Fault> {
        let (now, since_start) = (self.now(), self.since_start());
        let mut state = self.state();
        *state.records.requests.entry(operation).or_insert(0) += 1;
        let fault = state.faults.draw(operation, since_start)?;
        tracing::debug!(?operation, fault = fault.name(), "fault injected");
        state.records.fault(now, operation, &fault);
        Some(fault)
    }

    fn refused_by_fault(
        &self,
        operation: Operation,
        code: u16,
        headers: &[(String, String)],
        body: &str,
    ) -> Reply {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = Reply::bytes(status, "application/json", body.to_owned()).because("fault by script");
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_str(value)) {
                reply.headers.insert(name, value);
            }
        }
        reply.set("date", &self.http_date());
        self.note_refusal(operation, &reply);
        reply
    }

    /// The world's time as answers carry it; it may be far from the machine's.
    fn http_date(&self) -> String {
        let since_epoch = Duration::from_millis(u64::try_from(self.now().millis()).unwrap_or(0));
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + since_epoch)
    }

    fn note_refusal(&self, operation: Operation, reply: &Reply) {
        if reply.routine || !reply.status.is_client_error() && !reply.status.is_server_error() {
            return;
        }
        let status = reply.status.as_u16();
        let why = reply.why.clone().unwrap_or_else(|| String::from_utf8_lossy(&reply.body()).into_owned());
        let why: String = why.chars().take(500).collect();
        tracing::debug!(?operation, status, why, "refused");
        let now = self.now();
        let mut state = self.state();
        let limited = status == 429 || (status == 403 && why.to_ascii_lowercase().contains("rate limit"));
        if limited {
            *state.records.limited.entry(operation).or_insert(0) += 1;
        }
        state.records.rejection(now, operation, status, why);
    }

    /// Takes back that a chat was delivered.
    fn undelivered(&self, reply: &Reply) {
        let mut state = self.state();
        if let Some(chat) = reply.chat.and_then(|index| state.records.chats.get_mut(index)) {
            chat.delivered = false;
        }
    }
}

fn not_found(method: &Method, path: &str) -> Reply {
    let message = format!("Invalid URL ({method} {path})");
    let body = serde_json::json!({
        "error": {"message": message, "type": "invalid_request_error", "param": null, "code": null},
    });
    Reply::json(StatusCode::NOT_FOUND, &body).because(message)
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.config.seed).finish_non_exhaustive()
    }
}
