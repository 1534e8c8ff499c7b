//! GitHub's REST API and its git remote: who may, how often, and what is answered.

mod app;
mod asked;
mod auth;
mod comments;
mod pulls;
mod quota;
mod refs;
mod remote;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use sha2::{Digest, Sha256};
use steadfast_core::time::Timestamp;

use crate::config::WorldConfig;
use crate::faults::Operation;
use crate::records::{CommentRecord, PullRecord, Records};
use crate::reply::Reply;
use crate::world::World;
use asked::{Asked, broken, invalid, invalid_field, iso, not_found, refusal};
use auth::{Caller, TokenInfo};
use quota::Quota;
pub(crate) use quota::primary_refusal;
pub(crate) use refs::notice as notice_branches;
pub(crate) use remote::{git, git_rights};

const DOCS: &str = "https://docs.github.com/rest";
/// Most characters of a comment or of a pull request's text.
const MAX_BODY: usize = 65_536;

/// `owner/name` of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RepoName {
    pub(crate) owner: String,
    pub(crate) name: String,
}

impl std::fmt::Display for RepoName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// A request to the REST API.
#[derive(Clone, Debug)]
pub(crate) enum GithubCall {
    App,
    Installations,
    Installation(u64),
    TokenCreate(u64),
    RepoInstallation(RepoName),
    TokenRevoke,
    InstallationRepos,
    User(String),
    Me,
    RateLimit,
    Repo(RepoName),
    Issue(RepoName, u64),
    CommentList(RepoName, u64),
    CommentCreate(RepoName, u64),
    CommentGet(RepoName, u64),
    CommentEdit(RepoName, u64),
    CommentDelete(RepoName, u64),
    RefGet(RepoName, String),
    RefList(RepoName, String),
    RefCreate(RepoName),
    RefUpdate(RepoName, String),
    RefDelete(RepoName, String),
    BranchList(RepoName),
    BranchGet(RepoName, String),
    Commit(RepoName, String),
    GitCommit(RepoName, String),
    Compare(RepoName, String, String),
    PullList(RepoName),
    PullCreate(RepoName),
    PullGet(RepoName, u64),
    PullEdit(RepoName, u64),
    Unknown,
}

impl GithubCall {
    pub(crate) fn operation(&self) -> Operation {
        use GithubCall as Call;
        match self {
            Call::App | Call::Installations | Call::Installation(_) | Call::RepoInstallation(_) => {
                Operation::App
            }
            Call::TokenCreate(_) => Operation::TokenCreate,
            Call::TokenRevoke => Operation::TokenRevoke,
            Call::InstallationRepos | Call::Repo(_) => Operation::Repo,
            Call::User(_) | Call::Me => Operation::User,
            Call::RateLimit => Operation::RateLimit,
            Call::Issue(..) => Operation::Issue,
            Call::CommentList(..) => Operation::CommentList,
            Call::CommentCreate(..) => Operation::CommentCreate,
            Call::CommentGet(..) => Operation::CommentGet,
            Call::CommentEdit(..) => Operation::CommentEdit,
            Call::CommentDelete(..) => Operation::CommentDelete,
            Call::RefGet(..) | Call::RefList(..) | Call::BranchList(_) | Call::BranchGet(..) => {
                Operation::RefGet
            }
            Call::RefCreate(_) => Operation::RefCreate,
            Call::RefUpdate(..) => Operation::RefUpdate,
            Call::RefDelete(..) => Operation::RefDelete,
            Call::Commit(..) | Call::GitCommit(..) | Call::Compare(..) => Operation::Commit,
            Call::PullList(_) => Operation::PullList,
            Call::PullCreate(_) => Operation::PullCreate,
            Call::PullGet(..) => Operation::PullGet,
            Call::PullEdit(..) => Operation::PullEdit,
            Call::Unknown => Operation::Unknown,
        }
    }
}

/// A request to the git remote.
#[derive(Clone, Debug)]
pub(crate) struct GitCall {
    pub(crate) repo: RepoName,
    pub(crate) rest: String,
    pub(crate) query: String,
    pub(crate) push: bool,
    /// Whether it only asks which refs there are.
    pub(crate) advertises: bool,
}

/// What GitHub remembers.
pub(crate) struct GithubState {
    tokens: HashMap<String, TokenInfo>,
    /// The first thousands of tokens ever issued, revoked ones among them.
    issued: Vec<String>,
    comments: BTreeMap<u64, CommentRecord>,
    updated: HashMap<u64, Timestamp>,
    pulls: Vec<PullRecord>,
    next_number: HashMap<String, u64>,
    next_comment: u64,
    quota: Quota,
    /// When a branch at a commit was first noticed, for the lag.
    noticed: HashMap<(RepoName, String), Duration>,
    dice: StdRng,
}

impl GithubState {
    pub(crate) fn new(config: &WorldConfig) -> Self {
        let next_number =
            config.repositories.iter().map(|repo| (repo.full_name(), repo.issues + 1)).collect();
        GithubState {
            tokens: HashMap::new(),
            issued: Vec::new(),
            comments: BTreeMap::new(),
            updated: HashMap::new(),
            pulls: Vec::new(),
            next_number,
            next_comment: 2_000_000_001,
            quota: Quota::default(),
            noticed: HashMap::new(),
            dice: StdRng::seed_from_u64(config.seed ^ 0x61_7468),
        }
    }

    pub(crate) fn issued_tokens(&self) -> Vec<String> {
        self.issued.clone()
    }

    pub(crate) fn standing(&self, marker: &str) -> usize {
        let comments = self.comments.values().filter(|comment| comment.body.contains(marker));
        comments.count() + self.pulls.iter().filter(|pull| pull.body.contains(marker)).count()
    }

    /// Puts what stands now into the records.
    pub(crate) fn fill(&self, records: &mut Records) {
        records.comments = self.comments.values().cloned().collect();
        records.pulls = self.pulls.clone();
    }
}

/// Answers a REST request.
pub(crate) async fn answer(world: &World, parts: &Parts, call: GithubCall, body: &[u8]) -> Reply {
    let at = world.now();
    let operation = call.operation();
    let mut reply = match checked(world, parts, call, body).await {
        Ok(reply) | Err(reply) => reply,
    };
    let request_id =
        crate::model::mix(world.config.seed, &[parts.uri.path().as_bytes(), &at.millis().to_le_bytes()]);
    reply.set("x-github-request-id", &format!("{:04X}:{:08X}", request_id >> 48, request_id & 0xffff_ffff));
    reply.set("x-github-media-type", "github.v3; format=json");
    reply.set("x-github-api-version-selected", "2022-11-28");
    tracing::trace!(?operation, status = reply.status.as_u16(), "github answered");
    reply
}

async fn checked(world: &World, parts: &Parts, call: GithubCall, body: &[u8]) -> Result<Reply, Reply> {
    auth::check_headers(&parts.headers)?;
    let caller = auth::identify(world, &parts.headers)?;
    let body = parse_body(&parts.method, body)?;
    let operation = call.operation();
    let conditional = parts.headers.get(http::header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let in_work = quota::enter(world, &caller, operation)?;
    let latency = world.config.latency.github;
    world.pause(if operation.is_write() { latency * 2 } else { latency }).await;
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let asked = Asked {
        world,
        body,
        query: query.into_owned().collect(),
        base_url: base_url(parts),
        path: parts.uri.path().to_owned(),
        caller,
    };
    let mut reply = match dispatch(&asked, call).await {
        Ok(reply) | Err(reply) => reply,
    };
    if reply.status == StatusCode::OK && parts.method == http::Method::GET {
        let digest = Sha256::digest(reply.body());
        let etag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = format!("W/\"{etag}\"");
        if conditional.is_some_and(|known| known.split(',').any(|one| one.trim() == etag)) {
            reply = Reply::empty(StatusCode::NOT_MODIFIED);
        }
        reply.set("etag", &etag);
    }
    let free = reply.status == StatusCode::NOT_MODIFIED || operation == Operation::RateLimit;
    quota::account(world, &asked.caller, free, &mut reply);
    drop(in_work);
    Ok(reply)
}

fn base_url(parts: &Parts) -> String {
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let scheme = parts.uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{}", authority.or(host).unwrap_or("localhost"))
}

fn parse_body(method: &http::Method, body: &[u8]) -> Result<Value, Reply> {
    if body.is_empty() || method == http::Method::GET {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(refusal(StatusCode::BAD_REQUEST, "Body should be a JSON object")),
        Err(_) => Err(refusal(StatusCode::BAD_REQUEST, "Problems parsing JSON")),
    }
}

async fn dispatch(asked: &Asked<'_>, call: GithubCall) -> Result<Reply, Reply> {
    use GithubCall as Call;
    let wants_app = matches!(
        call,
        Call::App
            | Call::Installations
            | Call::Installation(_)
            | Call::TokenCreate(_)
            | Call::RepoInstallation(_)
    );
    let is_app = matches!(asked.caller, Caller::App);
    if wants_app != is_app && !matches!(call, Call::User(_) | Call::RateLimit | Call::Unknown) {
        let message = if wants_app { "A JSON web token could not be decoded" } else { "Bad credentials" };
        return Err(refusal(StatusCode::UNAUTHORIZED, message));
    }
    match call {
        Call::App => app::app(asked),
        Call::Installations => app::installations(asked),
        Call::Installation(id) => app::installation(asked, id),
        Call::RepoInstallation(repo) => app::repo_installation(asked, &repo),
        Call::TokenCreate(id) => app::create_token(asked, id),
        Call::TokenRevoke => app::revoke_token(asked),
        Call::InstallationRepos => app::installation_repositories(asked),
        Call::User(login) => app::user(asked, &login),
        Call::Me => app::me(asked),
        Call::RateLimit => quota::rate_limit(asked),
        Call::Repo(repo) => app::repository(asked, &repo),
        Call::Issue(repo, number) => comments::issue(asked, &repo, number),
        Call::CommentList(repo, number) => comments::list(asked, &repo, number),
        Call::CommentCreate(repo, number) => comments::create(asked, &repo, number),
        Call::CommentGet(repo, id) => comments::get(asked, &repo, id),
        Call::CommentEdit(repo, id) => comments::edit(asked, &repo, id),
        Call::CommentDelete(repo, id) => comments::delete(asked, &repo, id),
        Call::RefGet(repo, name) => refs::get(asked, &repo, &name).await,
        Call::RefList(repo, prefix) => refs::matching(asked, &repo, &prefix).await,
        Call::RefCreate(repo) => refs::create(asked, &repo).await,
        Call::RefUpdate(repo, name) => refs::update(asked, &repo, &name).await,
        Call::RefDelete(repo, name) => refs::delete(asked, &repo, &name).await,
        Call::BranchList(repo) => refs::branches(asked, &repo).await,
        Call::BranchGet(repo, name) => refs::branch(asked, &repo, &name).await,
        Call::Commit(repo, rev) => refs::commit(asked, &repo, &rev, false).await,
        Call::GitCommit(repo, sha) => refs::commit(asked, &repo, &sha, true).await,
        Call::Compare(repo, base, head) => refs::compare(asked, &repo, &base, &head).await,
        Call::PullList(repo) => pulls::list(asked, &repo).await,
        Call::PullCreate(repo) => pulls::create(asked, &repo).await,
        Call::PullGet(repo, number) => pulls::get(asked, &repo, number).await,
        Call::PullEdit(repo, number) => pulls::edit(asked, &repo, number).await,
        Call::Unknown => Err(not_found()),
    }
}
