//! Pull requests: none without commits, none for a head that has one.

use std::collections::HashMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::app::{repository_json, user_json};
use super::{Asked, MAX_BODY, RepoName, broken, invalid, invalid_field, iso, not_found, refs};
use crate::config::{Level, Repository};
use crate::records::PullRecord;
use crate::reply::Reply;

/// Branches with the commits at their heads now.
type Heads = HashMap<String, String>;

async fn heads(asked: &Asked<'_>, repository: &Repository) -> Result<Heads, Reply> {
    let (owner, name) = (repository.owner.clone(), repository.name.clone());
    let branches = asked.blocking(move |repos| repos.branches(&owner, &name)).await?;
    Ok(branches.map_err(|error| broken(&error.to_string()))?.into_iter().collect())
}

fn pull_json(asked: &Asked<'_>, repository: &Repository, heads: &Heads, pull: &PullRecord) -> Value {
    let PullRecord { repository: full_name, number, .. } = pull;
    // A pull request follows its branch; when that is gone, it keeps what it had.
    let head_sha = heads.get(&pull.head).unwrap_or(&pull.head_sha);
    let side = |branch: &str, sha: Option<&str>| {
        json!({
            "label": format!("{}:{branch}", repository.owner), "ref": branch, "sha": sha,
            "repo": repository_json(asked, repository), "user": user_json(asked.world, &repository.owner),
        })
    };
    json!({
        "id": 4_000_000_000_u64 + number, "number": number, "title": pull.title, "body": pull.body,
        "state": if pull.open { "open" } else { "closed" }, "draft": pull.draft, "locked": false,
        "merged_at": null, "closed_at": null,
        "head": side(&pull.head, Some(head_sha)),
        "base": side(&pull.base, heads.get(&pull.base).map(String::as_str)),
        "user": user_json(asked.world, &asked.caller.login(asked.world)),
        "url": format!("{}/repos/{full_name}/pulls/{number}", asked.base_url),
        "html_url": format!("https://github.com/{full_name}/pull/{number}"),
        "issue_url": format!("{}/repos/{full_name}/issues/{number}", asked.base_url),
        "created_at": iso(pull.created), "updated_at": iso(pull.created),
    })
}

pub(super) async fn list(asked: &Asked<'_>, repo: &RepoName) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["pull_requests"], Level::Read)?;
    let full_name = repository.full_name();
    let heads = heads(asked, repository).await?;
    let wanted = |name: &str| asked.query.get(name).map(String::as_str);
    let state_wanted = wanted("state").unwrap_or("open");
    if !["open", "closed", "all"].contains(&state_wanted) {
        return Err(invalid_field("PullRequest", "state", "invalid"));
    }
    // Without an owner before the colon GitHub takes no notice of the head.
    let head = wanted("head").and_then(|head| head.split_once(':'));
    let state = asked.world.state();
    let fits = |pull: &&PullRecord| {
        pull.repository == full_name
            && (state_wanted == "all" || pull.open == (state_wanted == "open"))
            && head.is_none_or(|(owner, branch)| owner == repository.owner && branch == pull.head)
            && wanted("base").is_none_or(|base| base == pull.base)
            && asked.is_seen(pull.created)
    };
    let mut found: Vec<PullRecord> = state.github.pulls.iter().filter(fits).cloned().collect();
    drop(state);
    if wanted("direction") != Some("asc") {
        found.reverse();
    }
    Ok(asked.page(found.iter().map(|pull| pull_json(asked, repository, &heads, pull)).collect()))
}

fn text<'a>(asked: &'a Asked<'_>, field: &str) -> Result<&'a str, Reply> {
    asked
        .text(field)
        .filter(|text| !text.trim().is_empty())
        .ok_or_else(|| invalid_field("PullRequest", field, "missing_field"))
}

fn checked_text<'a>(asked: &'a Asked<'_>) -> Result<Option<&'a str>, Reply> {
    let body = asked.text("body");
    if body.is_some_and(|body| body.chars().count() > MAX_BODY) {
        return Err(invalid(json!({"resource": "Issue", "code": "custom", "field": "body",
            "message": format!("body is too long (maximum is {MAX_BODY} characters)")})));
    }
    Ok(body)
}

pub(super) async fn create(asked: &Asked<'_>, repo: &RepoName) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["pull_requests"], Level::Write)?;
    asked.allowed(repo, &["contents"], Level::Read)?;
    let (title, head, base) = (text(asked, "title")?, text(asked, "head")?, text(asked, "base")?);
    let body = checked_text(asked)?.unwrap_or_default();
    let head = match head.split_once(':') {
        Some((owner, branch)) if owner == repository.owner => branch,
        Some(_) => return Err(invalid_field("PullRequest", "head", "invalid")),
        None => head,
    };
    let branches = refs::seen(asked, repository).await?;
    let sha_of = |field: &str, branch: &str| {
        let found = branches.iter().find(|(name, _)| name == branch);
        found.map(|(_, sha)| sha.clone()).ok_or_else(|| invalid_field("PullRequest", field, "invalid"))
    };
    let base_sha = sha_of("base", base)?;
    let head_sha = sha_of("head", head)?;
    if refs::ahead(asked, repository, &base_sha, &head_sha).await? == 0 {
        return Err(invalid(json!({"resource": "PullRequest", "code": "custom",
            "message": format!("No commits between {base} and {head}")})));
    }
    let draft = asked.body.get("draft").and_then(Value::as_bool).unwrap_or(false);
    let full_name = repository.full_name();
    let heads = heads(asked, repository).await?;
    let now = asked.world.now();
    // From here to the insertion nothing waits: two requests at once cannot both find no other.
    let mut state = asked.world.state();
    let exists = |pull: &PullRecord| {
        pull.repository == full_name && pull.open && pull.head == head && pull.base == base
    };
    if state.github.pulls.iter().any(exists) {
        let message = format!("A pull request already exists for {}:{head}.", repository.owner);
        return Err(invalid(json!({"resource": "PullRequest", "code": "custom", "message": message})));
    }
    let next = state.github.next_number.entry(full_name.clone()).or_insert(repository.issues + 1);
    let number = *next;
    *next += 1;
    let pull = PullRecord {
        repository: full_name,
        number,
        title: title.to_owned(),
        body: body.to_owned(),
        head: head.to_owned(),
        head_sha,
        base: base.to_owned(),
        draft,
        open: true,
        created: now,
    };
    state.github.pulls.push(pull.clone());
    drop(state);
    let location = format!("{}/repos/{}/pulls/{number}", asked.base_url, pull.repository);
    Ok(Reply::json(StatusCode::CREATED, &pull_json(asked, repository, &heads, &pull))
        .with("location", &location))
}

pub(super) async fn get(asked: &Asked<'_>, repo: &RepoName, number: u64) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["pull_requests"], Level::Read)?;
    let full_name = repository.full_name();
    let heads = heads(asked, repository).await?;
    let found = {
        let state = asked.world.state();
        let mut pulls = state.github.pulls.iter();
        pulls.find(|pull| pull.repository == full_name && pull.number == number).cloned()
    };
    let pull = found.ok_or_else(not_found)?;
    Ok(Reply::json(StatusCode::OK, &pull_json(asked, repository, &heads, &pull)))
}

pub(super) async fn edit(asked: &Asked<'_>, repo: &RepoName, number: u64) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["pull_requests"], Level::Write)?;
    let full_name = repository.full_name();
    let heads = heads(asked, repository).await?;
    let body = checked_text(asked)?.map(str::to_owned);
    let open = match asked.text("state") {
        None => None,
        Some("open") => Some(true),
        Some("closed") => Some(false),
        Some(_) => return Err(invalid_field("PullRequest", "state", "invalid")),
    };
    let mut state = asked.world.state();
    let mut pulls = state.github.pulls.iter_mut();
    let pull =
        pulls.find(|pull| pull.repository == full_name && pull.number == number).ok_or_else(not_found)?;
    if let Some(title) = asked.text("title") {
        pull.title = title.to_owned();
    }
    if let Some(body) = body {
        pull.body = body;
    }
    pull.open = open.unwrap_or(pull.open);
    let pull = pull.clone();
    drop(state);
    Ok(Reply::json(StatusCode::OK, &pull_json(asked, repository, &heads, &pull)))
}
