//! The App, its installation and tokens, users and repositories.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use rand::RngCore;
use serde_json::{Value, json};

use super::auth::{Caller, TokenInfo};
use super::{Asked, RepoName, iso, not_found, refusal};
use crate::config::{Level, Permissions, Repository};
use crate::reply::Reply;
use crate::world::World;

/// Most tokens that are remembered for [`World::ever_issued_tokens`].
const MAX_ISSUED: usize = 5_000;

fn ok(value: &Value) -> Result<Reply, Reply> {
    Ok(Reply::json(StatusCode::OK, value))
}

/// A stable id for a name.
fn id_of(name: &str) -> u64 {
    crate::model::mix(0, &[name.as_bytes()]) % 900_000_000 + 1_000_000
}

/// A user or bot as other objects show it.
pub(super) fn user_json(world: &World, login: &str) -> Value {
    let bot = format!("{}[bot]", world.config.github.app_slug);
    let kind = if login == bot { "Bot" } else { "User" };
    json!({
        "login": login, "id": id_of(login), "node_id": format!("U_{}", id_of(login)), "type": kind,
        "site_admin": false, "html_url": format!("https://github.com/{login}"),
    })
}

pub(super) fn app(asked: &Asked<'_>) -> Result<Reply, Reply> {
    let config = &asked.world.config.github;
    ok(&json!({
        "id": config.app_id, "slug": config.app_slug, "client_id": config.client_id,
        "node_id": format!("A_{}", config.app_id), "name": config.app_slug,
        "owner": user_json(asked.world, "acme"), "permissions": config.permissions,
        "events": ["issue_comment", "issues"], "installations_count": 1,
        "html_url": format!("https://github.com/apps/{}", config.app_slug),
        "created_at": "2025-01-01T00:00:00Z", "updated_at": "2025-01-01T00:00:00Z",
    }))
}

fn installation_json(asked: &Asked<'_>) -> Value {
    let config = &asked.world.config.github;
    let owner = asked.world.config.repositories.first().map_or("acme", |repository| &repository.owner);
    json!({
        "id": config.installation_id, "app_id": config.app_id, "app_slug": config.app_slug,
        "account": user_json(asked.world, owner), "target_type": "Organization",
        "repository_selection": "all", "permissions": config.permissions, "events": [],
        "access_tokens_url": format!("{}/app/installations/{}/access_tokens", asked.base_url, config.installation_id),
        "suspended_at": null, "created_at": "2025-01-01T00:00:00Z", "updated_at": "2025-01-01T00:00:00Z",
    })
}

pub(super) fn installations(asked: &Asked<'_>) -> Result<Reply, Reply> {
    Ok(asked.page(vec![installation_json(asked)]))
}

pub(super) fn installation(asked: &Asked<'_>, id: u64) -> Result<Reply, Reply> {
    if id != asked.world.config.github.installation_id {
        return Err(not_found());
    }
    ok(&installation_json(asked))
}

pub(super) fn repo_installation(asked: &Asked<'_>, repo: &RepoName) -> Result<Reply, Reply> {
    let repositories = &asked.world.config.repositories;
    let known = repositories.iter().any(|one| one.owner == repo.owner && one.name == repo.name);
    if known { ok(&installation_json(asked)) } else { Err(not_found()) }
}

/// The permissions that were asked for, each within what the installation has.
fn narrowed(asked: &Asked<'_>) -> Result<Permissions, Reply> {
    let granted = &asked.world.config.github.permissions;
    let Some(wanted) = asked.body.get("permissions").filter(|wanted| !wanted.is_null()) else {
        return Ok(granted.clone());
    };
    let unusable = |message: &str| refusal(StatusCode::UNPROCESSABLE_ENTITY, message);
    let mut wanted: Permissions = serde_json::from_value(wanted.clone())
        .map_err(|_| unusable("The permissions requested are not valid."))?;
    let exceeds = |(name, level): (&String, &Level)| granted.get(name).is_none_or(|have| have < level);
    if wanted.iter().any(exceeds) {
        return Err(unusable("The permissions requested are not granted to this installation."));
    }
    wanted.insert("metadata".to_owned(), Level::Read);
    Ok(wanted)
}

/// The repositories that were asked for, by name or id; none for all.
fn chosen<'a>(asked: &'a Asked<'_>) -> Result<Vec<&'a Repository>, Reply> {
    let all = &asked.world.config.repositories;
    let missing = || {
        let message = "There is at least one repository that does not exist or is not accessible to the \
                       parent installation.";
        refusal(StatusCode::UNPROCESSABLE_ENTITY, message)
    };
    let list = |field: &str| match asked.body.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(_) => Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("`{field}` is not an array."))),
    };
    let mut found = Vec::new();
    for name in list("repositories")? {
        let named = all.iter().find(|one| Some(one.name.as_str()) == name.as_str());
        found.push(named.ok_or_else(missing)?);
    }
    for id in list("repository_ids")? {
        let numbered = all.iter().find(|one| Some(id_of(&one.full_name())) == id.as_u64());
        found.push(numbered.ok_or_else(missing)?);
    }
    Ok(found)
}

pub(super) fn create_token(asked: &Asked<'_>, installation: u64) -> Result<Reply, Reply> {
    let config = &asked.world.config.github;
    if installation != config.installation_id {
        return Err(not_found());
    }
    let permissions = narrowed(asked)?;
    let chosen = chosen(asked)?;
    let names: Vec<String> = chosen.iter().map(|one| one.name.clone()).collect();
    let now = asked.world.now();
    let expires = now + config.token_lifetime;
    let mut state = asked.world.state();
    // Since 2026 these are about 520 characters: the App's id and a signed token with dots.
    let mut random = [0; 372];
    state.github.dice.fill_bytes(&mut random);
    let part = |from: usize, to: usize| URL_SAFE_NO_PAD.encode(&random[from..to]);
    let token = format!("ghs_{}_{}.{}.{}", config.app_id, part(0, 27), part(27, 180), part(180, 372));
    let record = state.records.token(now, names.clone());
    let info = TokenInfo { expires, repositories: names.clone(), permissions: permissions.clone(), record };
    // Expired ones are kept for a while, so that a refusal can say why.
    state.github.tokens.retain(|_, info| now.since(info.expires).as_secs() < 3600);
    state.github.tokens.insert(token.clone(), info);
    if state.github.issued.len() < MAX_ISSUED {
        state.github.issued.push(token.clone());
    }
    drop(state);
    let mut body = json!({
        "token": token, "expires_at": iso(expires), "permissions": permissions,
        "repository_selection": if names.is_empty() { "all" } else { "selected" },
    });
    if !names.is_empty() {
        body["repositories"] = chosen.iter().map(|one| repository_json(asked, one)).collect();
    }
    Ok(Reply::json(StatusCode::CREATED, &body))
}

pub(super) fn revoke_token(asked: &Asked<'_>) -> Result<Reply, Reply> {
    let Caller::Installation { token, info } = &asked.caller else {
        return Err(refusal(StatusCode::FORBIDDEN, "Resource not accessible by personal access token"));
    };
    let mut state = asked.world.state();
    state.github.tokens.remove(token);
    if let Some(record) = info.record.and_then(|index| state.records.tokens.get_mut(index)) {
        record.revoked = true;
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) fn repository_json(asked: &Asked<'_>, repository: &Repository) -> Value {
    let full_name = repository.full_name();
    json!({
        "id": id_of(&full_name), "node_id": format!("R_{}", id_of(&full_name)), "name": repository.name,
        "full_name": full_name, "private": true, "fork": false, "archived": false, "disabled": false,
        "owner": user_json(asked.world, &repository.owner), "default_branch": repository.default_branch,
        "has_issues": true, "open_issues_count": repository.issues,
        "url": format!("{}/repos/{full_name}", asked.base_url),
        "html_url": format!("https://github.com/{full_name}"),
        "clone_url": format!("{}/{full_name}.git", asked.base_url),
        "permissions": {
            "pull": asked.caller.has("contents", Level::Read),
            "push": asked.caller.has("contents", Level::Write),
            "admin": false,
        },
    })
}

pub(super) fn installation_repositories(asked: &Asked<'_>) -> Result<Reply, Reply> {
    let Caller::Installation { info, .. } = &asked.caller else {
        return Err(refusal(StatusCode::FORBIDDEN, "Resource not accessible by personal access token"));
    };
    let all = asked.world.config.repositories.iter();
    let seen: Vec<Value> =
        all.filter(|one| asked.caller.sees(&one.name)).map(|one| repository_json(asked, one)).collect();
    let selection = if info.repositories.is_empty() { "all" } else { "selected" };
    ok(&json!({"total_count": seen.len(), "repository_selection": selection, "repositories": seen}))
}

pub(super) fn user(asked: &Asked<'_>, login: &str) -> Result<Reply, Reply> {
    let config = &asked.world.config;
    let known = login == format!("{}[bot]", config.github.app_slug)
        || login == config.github.personal_login
        || config.repositories.iter().any(|one| one.owner == login);
    if known { ok(&user_json(asked.world, login)) } else { Err(not_found()) }
}

pub(super) fn me(asked: &Asked<'_>) -> Result<Reply, Reply> {
    match &asked.caller {
        Caller::Person => ok(&user_json(asked.world, &asked.world.config.github.personal_login)),
        Caller::Installation { .. } | Caller::App => {
            Err(refusal(StatusCode::FORBIDDEN, "Resource not accessible by integration"))
        }
    }
}

pub(super) fn repository(asked: &Asked<'_>, repo: &RepoName) -> Result<Reply, Reply> {
    let repository = asked.repository(repo)?;
    ok(&repository_json(asked, repository))
}
