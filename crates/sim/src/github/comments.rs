//! Issues and the comments on them.

use http::StatusCode;
use serde_json::{Value, json};
use steadfast_core::time::Timestamp;

use super::app::user_json;
use super::{Asked, MAX_BODY, RepoName, invalid, invalid_field, iso, not_found, refusal};
use crate::config::{Level, Repository};
use crate::fixture;
use crate::records::CommentRecord;
use crate::reply::Reply;

/// A comment belongs to an issue or a pull request; rights to either will do.
const COMMENT_RIGHTS: [&str; 2] = ["issues", "pull_requests"];

/// Whether the number is an issue or a pull request of the repository.
fn exists(asked: &Asked<'_>, repository: &Repository, number: u64) -> bool {
    let full_name = repository.full_name();
    let is_pull = |state: &super::GithubState| {
        state.pulls.iter().any(|pull| pull.repository == full_name && pull.number == number)
    };
    (1..=repository.issues).contains(&number) || is_pull(&asked.world.state().github)
}

pub(super) fn issue(asked: &Asked<'_>, repo: &RepoName, number: u64) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["issues"], Level::Read)?;
    let full_name = repository.full_name();
    if number == 0 || number > repository.issues {
        return Err(not_found());
    }
    let issue = fixture::issue(number).ok_or_else(not_found)?;
    // Beyond the fixture's own, the same issues come again; their titles tell them apart.
    let title =
        if number == issue.number { issue.title.to_owned() } else { format!("{} ({number})", issue.title) };
    let comments = {
        let state = asked.world.state();
        let all = state.github.comments.values();
        all.filter(|one| one.repository == full_name && one.issue == number).count()
    };
    Ok(Reply::json(
        StatusCode::OK,
        &json!({
            "id": 3_000_000_000_u64 + number, "number": number, "title": title, "body": issue.body,
            "state": "open", "locked": false, "comments": comments, "labels": [],
            "user": user_json(asked.world, &asked.world.config.github.personal_login),
            "author_association": "MEMBER",
            "url": format!("{}/repos/{full_name}/issues/{number}", asked.base_url),
            "html_url": format!("https://github.com/{full_name}/issues/{number}"),
            "created_at": "2025-01-12T00:00:00Z", "updated_at": "2025-01-12T00:00:00Z", "closed_at": null,
        }),
    ))
}

fn comment_json(asked: &Asked<'_>, comment: &CommentRecord, updated: Timestamp) -> Value {
    let (id, repository, issue) = (comment.id, &comment.repository, comment.issue);
    json!({
        "id": id, "node_id": format!("IC_{id}"),
        "url": format!("{}/repos/{repository}/issues/comments/{id}", asked.base_url),
        "html_url": format!("https://github.com/{repository}/issues/{issue}#issuecomment-{id}"),
        "issue_url": format!("{}/repos/{repository}/issues/{issue}", asked.base_url),
        "user": user_json(asked.world, &comment.author), "body": comment.body,
        "created_at": iso(comment.created), "updated_at": iso(updated), "author_association": "NONE",
    })
}

pub(super) fn list(asked: &Asked<'_>, repo: &RepoName, number: u64) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &COMMENT_RIGHTS, Level::Read)?;
    if !exists(asked, repository, number) {
        return Err(not_found());
    }
    let since = match asked.query.get("since") {
        None => Timestamp::EPOCH,
        Some(text) => text.parse().map_err(|_| invalid_field("IssueComment", "since", "invalid"))?,
    };
    let full_name = repository.full_name();
    let state = asked.world.state();
    let mut shown = Vec::new();
    for comment in state.github.comments.values() {
        let updated = state.github.updated.get(&comment.id).copied().unwrap_or(comment.created);
        let belongs = comment.repository == full_name && comment.issue == number;
        if belongs && updated >= since && asked.is_seen(comment.created) {
            shown.push(comment_json(asked, comment, updated));
        }
    }
    drop(state);
    Ok(asked.page(shown))
}

fn checked_body(asked: &Asked<'_>) -> Result<String, Reply> {
    match asked.body.get("body") {
        None | Some(Value::Null) => Err(invalid_field("IssueComment", "body", "missing_field")),
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(invalid(json!({"resource": "IssueComment", "code": "unprocessable", "field": "data",
                "message": "Body cannot be blank"})))
        }
        Some(Value::String(text)) if text.chars().count() > MAX_BODY => {
            Err(invalid(json!({"resource": "IssueComment", "code": "unprocessable", "field": "data",
                "message": format!("Body is too long (maximum is {MAX_BODY} characters)")})))
        }
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "For 'properties/body', the value is not a string.",
        )),
    }
}

pub(super) fn create(asked: &Asked<'_>, repo: &RepoName, number: u64) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &COMMENT_RIGHTS, Level::Write)?;
    if !exists(asked, repository, number) {
        return Err(not_found());
    }
    let body = checked_body(asked)?;
    let now = asked.world.now();
    let mut state = asked.world.state();
    let id = state.github.next_comment;
    state.github.next_comment += 1;
    let comment = CommentRecord {
        id,
        repository: repository.full_name(),
        issue: number,
        author: asked.caller.login(asked.world),
        body,
        edits: Vec::new(),
        created: now,
    };
    let reply = Reply::json(StatusCode::CREATED, &comment_json(asked, &comment, now));
    state.github.comments.insert(id, comment);
    let location = format!("{}/repos/{}/issues/comments/{id}", asked.base_url, repository.full_name());
    Ok(reply.with("location", &location))
}

/// The comment, if it belongs to the repository.
fn find(asked: &Asked<'_>, repository: &Repository, id: u64) -> Result<CommentRecord, Reply> {
    let full_name = repository.full_name();
    let state = asked.world.state();
    let found = state.github.comments.get(&id).filter(|comment| comment.repository == full_name);
    found.cloned().ok_or_else(not_found)
}

pub(super) fn get(asked: &Asked<'_>, repo: &RepoName, id: u64) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &COMMENT_RIGHTS, Level::Read)?;
    let comment = find(asked, repository, id)?;
    let updated = asked.world.state().github.updated.get(&id).copied().unwrap_or(comment.created);
    Ok(Reply::json(StatusCode::OK, &comment_json(asked, &comment, updated)))
}

/// The comment, if this caller wrote it.
fn own(asked: &Asked<'_>, repo: &RepoName, id: u64) -> Result<CommentRecord, Reply> {
    let repository = asked.allowed(repo, &COMMENT_RIGHTS, Level::Write)?;
    let comment = find(asked, repository, id)?;
    if comment.author == asked.caller.login(asked.world) {
        return Ok(comment);
    }
    Err(refusal(StatusCode::FORBIDDEN, "Must have admin rights to Repository."))
}

pub(super) fn edit(asked: &Asked<'_>, repo: &RepoName, id: u64) -> Result<Reply, Reply> {
    let mut comment = own(asked, repo, id)?;
    let earlier = std::mem::replace(&mut comment.body, checked_body(asked)?);
    comment.edits.push(earlier);
    let now = asked.world.now();
    let reply = Reply::json(StatusCode::OK, &comment_json(asked, &comment, now));
    let mut state = asked.world.state();
    state.github.updated.insert(id, now);
    state.github.comments.insert(id, comment);
    Ok(reply)
}

pub(super) fn delete(asked: &Asked<'_>, repo: &RepoName, id: u64) -> Result<Reply, Reply> {
    own(asked, repo, id)?;
    asked.world.state().github.comments.remove(&id);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
