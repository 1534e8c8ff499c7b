//! The git remote over HTTP: Basic credentials, then rights, then git itself.

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;

use super::{GitCall, RepoName, auth, quota, refs};
use crate::config::Level;
use crate::git::backend::{self, GitRequest};
use crate::reply::Reply;
use crate::world::World;

/// Answers a git request.
pub(crate) async fn git(world: &World, parts: &Parts, call: GitCall, body: Bytes) -> Reply {
    match git_checked(world, parts, call, body).await {
        Ok(reply) | Err(reply) => reply,
    }
}

fn git_refusal(status: StatusCode, message: &str) -> Reply {
    Reply::bytes(status, "text/plain; charset=utf-8", format!("{message}\n")).because(message)
}

/// Whether the token's owner may fetch or push, in git's own words where not.
pub(crate) fn git_rights(
    world: &World,
    repo: &RepoName,
    token: &str,
    level: Level,
) -> Result<(), &'static str> {
    let caller = auth::by_token(world, token).map_err(|_| "fatal: Authentication failed")?;
    if !caller.sees(&repo.name) || !caller.has("contents", Level::Read) {
        return Err("remote: Repository not found.");
    }
    if caller.has("contents", level) { Ok(()) } else { Err("remote: Permission denied to the app") }
}

async fn git_checked(world: &World, parts: &Parts, call: GitCall, body: Bytes) -> Result<Reply, Reply> {
    let unauthorized = |message: &str| {
        git_refusal(StatusCode::UNAUTHORIZED, message).with("www-authenticate", "Basic realm=\"GitHub\"")
    };
    let Some(token) = auth::basic_password(&parts.headers) else {
        // Git asks without credentials first, and sends them when it is told that they are needed.
        let mut challenge = unauthorized("No anonymous access.");
        challenge.routine = true;
        return Err(challenge);
    };
    let caller = auth::by_token(world, &token).map_err(|_| unauthorized("Invalid username or token."))?;
    let known = world.config.repositories.iter().find(|repository| {
        repository.owner.eq_ignore_ascii_case(&call.repo.owner)
            && repository.name.eq_ignore_ascii_case(&call.repo.name)
    });
    let repository = known
        .filter(|repository| caller.sees(&repository.name) && caller.has("contents", Level::Read))
        .ok_or_else(|| git_refusal(StatusCode::NOT_FOUND, "Repository not found."))?;
    let full_name = repository.full_name();
    if call.push && !caller.has("contents", Level::Write) {
        let who = caller.login(world);
        let message = format!("Permission to {full_name}.git denied to {who}.");
        return Err(git_refusal(StatusCode::FORBIDDEN, &message));
    }
    let writes = call.push && !call.advertises;
    let _in_work = writes.then(|| quota::begin_write(world));
    world.pause(world.config.latency.git).await;
    let header = |name: http::HeaderName| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let request = GitRequest {
        method: parts.method.to_string(),
        path: format!("/{full_name}.git/{}", call.rest),
        query: call.query,
        content_type: header(http::header::CONTENT_TYPE),
        content_encoding: header(http::header::CONTENT_ENCODING),
        protocol: header(http::HeaderName::from_static("git-protocol")),
        user: caller.login(world),
        body,
    };
    let reply = backend::run(world.repos.clone(), request).await;
    if writes {
        refs::notice(world, &call.repo).await;
    }
    Ok(reply)
}
