//! One REST request with who asks it: what it may see, its fields, its pages; and GitHub's refusals.

use std::collections::HashMap;

use http::StatusCode;
use serde_json::{Value, json};
use steadfast_core::time::Timestamp;

use super::auth::Caller;
use super::{DOCS, RepoName};
use crate::config::{Level, Repository};
use crate::reply::Reply;
use crate::world::World;

/// A refusal in GitHub's form.
pub(super) fn refusal(status: StatusCode, message: impl Into<String>) -> Reply {
    let message = message.into();
    let body = json!({
        "message": message, "documentation_url": DOCS, "status": status.as_u16().to_string(),
    });
    Reply::json(status, &body).because(message)
}

pub(super) fn not_found() -> Reply {
    refusal(StatusCode::NOT_FOUND, "Not Found")
}

/// 422 with one error of a field, or a custom one.
pub(super) fn invalid(error: Value) -> Reply {
    let body = json!({
        "message": "Validation Failed", "errors": [error], "documentation_url": DOCS, "status": "422",
    });
    Reply::json(StatusCode::UNPROCESSABLE_ENTITY, &body).because(format!("Validation Failed: {error}"))
}

pub(super) fn invalid_field(resource: &str, field: &str, code: &str) -> Reply {
    invalid(json!({"resource": resource, "field": field, "code": code}))
}

/// A time as GitHub writes it: whole seconds.
pub(super) fn iso(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// One request with who asks it.
pub(super) struct Asked<'a> {
    pub(super) world: &'a World,
    pub(super) caller: Caller,
    pub(super) body: Value,
    pub(super) query: HashMap<String, String>,
    pub(super) base_url: String,
    pub(super) path: String,
}

impl Asked<'_> {
    /// The repository, if this caller may know of it.
    pub(super) fn repository(&self, name: &RepoName) -> Result<&Repository, Reply> {
        let found = self.world.config.repositories.iter().find(|repository| {
            repository.owner.eq_ignore_ascii_case(&name.owner)
                && repository.name.eq_ignore_ascii_case(&name.name)
        });
        let repository = found.ok_or_else(not_found)?;
        if self.caller.sees(&repository.name) { Ok(repository) } else { Err(not_found()) }
    }

    /// The repository, if this caller has one of the permissions at that level.
    pub(super) fn allowed(
        &self,
        name: &RepoName,
        any_of: &[&str],
        level: Level,
    ) -> Result<&Repository, Reply> {
        let repository = self.repository(name)?;
        if any_of.iter().any(|permission| self.caller.has(permission, level)) {
            return Ok(repository);
        }
        let word = if level == Level::Write { "write" } else { "read" };
        let wanted: Vec<String> = any_of.iter().map(|permission| format!("{permission}={word}")).collect();
        let reply = refusal(StatusCode::FORBIDDEN, "Resource not accessible by integration");
        Err(reply.with("x-accepted-github-permissions", &wanted.join("; ")))
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field).and_then(Value::as_str)
    }

    /// A page of a list by `per_page` and `page`, with its `link` header.
    pub(super) fn page(&self, list: Vec<Value>) -> Reply {
        let number = |name: &str, otherwise: usize| {
            self.query.get(name).and_then(|text| text.parse::<usize>().ok()).unwrap_or(otherwise)
        };
        let per_page = number("per_page", 30).clamp(1, 100);
        let page = number("page", 1).max(1);
        let last = list.len().div_ceil(per_page).max(1);
        let shown: Vec<Value> = list.into_iter().skip((page - 1) * per_page).take(per_page).collect();
        let reply = Reply::json(StatusCode::OK, &Value::Array(shown));
        let link = |to: usize, relation: &str| {
            let mut address = format!("{}{}?", self.base_url, self.path);
            let kept = self.query.iter().filter(|(name, _)| *name != "page" && *name != "per_page");
            for (name, value) in kept {
                let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                address.push_str(&format!("{name}={value}&"));
            }
            format!("<{address}per_page={per_page}&page={to}>; rel=\"{relation}\"")
        };
        let mut links = Vec::new();
        if page > 1 {
            links.extend([link(page - 1, "prev"), link(1, "first")]);
        }
        if page < last {
            links.extend([link(page + 1, "next"), link(last, "last")]);
        }
        if links.is_empty() { reply } else { reply.with("link", &links.join(", ")) }
    }

    /// Whether something that arose at `created` is seen by now.
    pub(super) fn is_seen(&self, created: Timestamp) -> bool {
        self.world.now().since(created) >= self.world.config.github.lag
    }

    /// Runs what blocks on the blocking pool.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::git::Repos) -> T + Send + 'static,
    ) -> Result<T, Reply> {
        let repos = self.world.repos.clone();
        if !repos.blocks() {
            return Ok(work(&repos));
        }
        tokio::task::spawn_blocking(move || work(&repos)).await.map_err(|error| broken(&error.to_string()))
    }
}

/// The simulation's own failure; not one of GitHub's.
pub(super) fn broken(why: &str) -> Reply {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("the simulation failed: {why}"))
}
