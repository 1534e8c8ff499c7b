//! Branches and commits, read from the bare repositories, with the lag of a large site.

use http::StatusCode;
use serde_json::{Value, json};
use steadfast_core::job::is_git_ref;
use steadfast_core::time::Timestamp;

use super::{Asked, RepoName, broken, iso, not_found, refusal};
use crate::config::{Level, Repository};
use crate::git::Commit;
use crate::reply::Reply;
use crate::world::World;

/// Takes note of a repository's branches, so that their lag begins now.
pub(crate) async fn notice(world: &World, repo: &RepoName) {
    let (repos, owner, name) = (world.repos.clone(), repo.owner.clone(), repo.name.clone());
    let found = match repos.blocks() {
        true => tokio::task::spawn_blocking(move || repos.branches(&owner, &name)).await.ok(),
        false => Some(repos.branches(&owner, &name)),
    };
    if let Some(Ok(branches)) = found {
        let now = world.since_start();
        let mut state = world.state();
        for (branch, _) in branches {
            state.github.noticed.entry((repo.clone(), branch)).or_insert(now);
        }
    }
}

fn canonical(repository: &Repository) -> RepoName {
    RepoName { owner: repository.owner.clone(), name: repository.name.clone() }
}

/// The branches that are seen by now, with their commits. One that arose without a push over HTTP is
/// noticed when it is first asked for.
pub(super) async fn seen(asked: &Asked<'_>, repository: &Repository) -> Result<Vec<(String, String)>, Reply> {
    let repo = canonical(repository);
    let (owner, name) = (repo.owner.clone(), repo.name.clone());
    let branches = asked
        .blocking(move |repos| repos.branches(&owner, &name))
        .await?
        .map_err(|error| broken(&error.to_string()))?;
    let now = asked.world.since_start();
    let lag = asked.world.config.github.lag;
    let mut state = asked.world.state();
    let is_seen = |(branch, _): &(String, String)| {
        let key = (repo.clone(), branch.clone());
        let noticed = *state.github.noticed.entry(key).or_insert(now);
        *branch == repository.default_branch || now.saturating_sub(noticed) >= lag
    };
    Ok(branches.into_iter().filter(is_seen).collect())
}

fn ref_json(asked: &Asked<'_>, repository: &Repository, branch: &str, sha: &str) -> Value {
    let url = format!("{}/repos/{}/git", asked.base_url, repository.full_name());
    json!({
        "ref": format!("refs/heads/{branch}"), "node_id": format!("REF_{sha}"),
        "url": format!("{url}/refs/heads/{branch}"),
        "object": {"type": "commit", "sha": sha, "url": format!("{url}/commits/{sha}")},
    })
}

pub(super) async fn get(asked: &Asked<'_>, repo: &RepoName, branch: &str) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Read)?;
    let branches = seen(asked, repository).await?;
    let (name, sha) = branches.iter().find(|(name, _)| name == branch).ok_or_else(not_found)?;
    Ok(Reply::json(StatusCode::OK, &ref_json(asked, repository, name, sha)))
}

pub(super) async fn matching(asked: &Asked<'_>, repo: &RepoName, prefix: &str) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Read)?;
    let branches = seen(asked, repository).await?;
    let matching = branches.iter().filter(|(name, _)| name.starts_with(prefix));
    Ok(asked.page(matching.map(|(name, sha)| ref_json(asked, repository, name, sha)).collect()))
}

fn branch_json(asked: &Asked<'_>, repository: &Repository, branch: &str, sha: &str) -> Value {
    let url = format!("{}/repos/{}/commits/{sha}", asked.base_url, repository.full_name());
    json!({"name": branch, "commit": {"sha": sha, "url": url}, "protected": false})
}

pub(super) async fn branches(asked: &Asked<'_>, repo: &RepoName) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Read)?;
    let branches = seen(asked, repository).await?;
    Ok(asked.page(branches.iter().map(|(name, sha)| branch_json(asked, repository, name, sha)).collect()))
}

pub(super) async fn branch(asked: &Asked<'_>, repo: &RepoName, branch: &str) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Read)?;
    let branches = seen(asked, repository).await?;
    let found = branches.iter().find(|(name, _)| name == branch);
    let (name, sha) = found.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "Branch not found"))?;
    Ok(Reply::json(StatusCode::OK, &branch_json(asked, repository, name, sha)))
}

/// A commit id that exists in the repository.
async fn resolve(asked: &Asked<'_>, repository: &Repository, rev: &str) -> Result<Option<String>, Reply> {
    if !is_git_ref(rev) {
        return Ok(None);
    }
    let (owner, name, rev) = (repository.owner.clone(), repository.name.clone(), rev.to_owned());
    asked.blocking(move |repos| repos.resolve(&owner, &name, &rev)).await
}

fn unprocessable(message: &str) -> Reply {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, message)
}

async fn set(
    asked: &Asked<'_>,
    repository: &Repository,
    branch: &str,
    sha: Option<String>,
) -> Result<(), Reply> {
    let repo = canonical(repository);
    let (owner, name, branch) = (repo.owner.clone(), repo.name.clone(), branch.to_owned());
    asked
        .blocking(move |repos| repos.set_branch(&owner, &name, &branch, sha.as_deref()))
        .await?
        .map_err(|error| broken(&error.to_string()))?;
    notice(asked.world, &repo).await;
    Ok(())
}

pub(super) async fn create(asked: &Asked<'_>, repo: &RepoName) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Write)?;
    let (Some(reference), Some(sha)) = (asked.text("ref"), asked.text("sha")) else {
        return Err(unprocessable("Invalid request.\n\n\"ref\" and \"sha\" weren't supplied."));
    };
    let branch = reference.strip_prefix("refs/heads/").filter(|name| is_git_ref(name));
    let branch = branch.ok_or_else(|| unprocessable("Reference name is not valid"))?;
    let found = resolve(asked, repository, sha).await?;
    let sha = found.filter(|full| full == sha).ok_or_else(|| unprocessable("Object does not exist"))?;
    let (owner, name) = (repository.owner.clone(), repository.name.clone());
    // Creating knows of every branch, lists or no lists.
    let all = asked.blocking(move |repos| repos.branches(&owner, &name)).await?.unwrap_or_default();
    if all.iter().any(|(name, _)| name == branch) {
        return Err(unprocessable("Reference already exists"));
    }
    set(asked, repository, branch, Some(sha.clone())).await?;
    Ok(Reply::json(StatusCode::CREATED, &ref_json(asked, repository, branch, &sha)))
}

pub(super) async fn update(asked: &Asked<'_>, repo: &RepoName, branch: &str) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Write)?;
    let sha =
        asked.text("sha").ok_or_else(|| unprocessable("Invalid request.\n\n\"sha\" wasn't supplied."))?;
    let branches = seen(asked, repository).await?;
    let (_, old) = branches
        .iter()
        .find(|(name, _)| name == branch)
        .ok_or_else(|| unprocessable("Reference does not exist"))?;
    let new = resolve(asked, repository, sha).await?.ok_or_else(|| unprocessable("Object does not exist"))?;
    let forced = asked.body.get("force").and_then(Value::as_bool).unwrap_or(false);
    if !forced && ahead(asked, repository, &new, old).await? > 0 {
        return Err(unprocessable("Update is not a fast forward"));
    }
    set(asked, repository, branch, Some(new.clone())).await?;
    Ok(Reply::json(StatusCode::OK, &ref_json(asked, repository, branch, &new)))
}

pub(super) async fn delete(asked: &Asked<'_>, repo: &RepoName, branch: &str) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Write)?;
    let branches = seen(asked, repository).await?;
    if branch == repository.default_branch || !branches.iter().any(|(name, _)| name == branch) {
        return Err(unprocessable("Reference does not exist"));
    }
    set(asked, repository, branch, None).await?;
    asked.world.state().github.noticed.remove(&(canonical(repository), branch.to_owned()));
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// A commit; `bare` is the form of the git database, without GitHub's own fields.
pub(super) async fn commit(
    asked: &Asked<'_>,
    repo: &RepoName,
    rev: &str,
    bare: bool,
) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Read)?;
    let missing = || match bare {
        true => not_found(),
        false => unprocessable(&format!("No commit found for SHA: {rev}")),
    };
    let sha = resolve(asked, repository, rev).await?.ok_or_else(missing)?;
    let (owner, name, wanted) = (repository.owner.clone(), repository.name.clone(), sha.clone());
    let found = asked.blocking(move |repos| repos.commit(&owner, &name, &wanted)).await?;
    let Commit { tree, parents, author, email, at, message } =
        found.map_err(|error| broken(&error.to_string()))?;
    let who = json!({"name": author, "email": email, "date": iso(Timestamp::from_secs(at))});
    let parents: Vec<Value> = parents.iter().map(|sha| json!({"sha": sha})).collect();
    let mut body = json!({
        "sha": sha, "author": who, "committer": who, "message": message, "tree": {"sha": tree},
        "parents": parents,
    });
    if !bare {
        body = json!({
            "sha": sha, "parents": parents,
            "commit": {"author": who, "committer": who, "message": message, "tree": {"sha": tree}},
        });
    }
    Ok(Reply::json(StatusCode::OK, &body))
}

/// Commits in `head` that are not in `base`.
pub(super) async fn ahead(
    asked: &Asked<'_>,
    repository: &Repository,
    base: &str,
    head: &str,
) -> Result<u64, Reply> {
    let (owner, name) = (repository.owner.clone(), repository.name.clone());
    let (base, head) = (base.to_owned(), head.to_owned());
    let count = asked.blocking(move |repos| repos.ahead(&owner, &name, &base, &head)).await?;
    count.map_err(|error| broken(&error.to_string()))
}

pub(super) async fn compare(
    asked: &Asked<'_>,
    repo: &RepoName,
    base: &str,
    head: &str,
) -> Result<Reply, Reply> {
    let repository = asked.allowed(repo, &["contents"], Level::Read)?;
    let base = resolve(asked, repository, base).await?.ok_or_else(not_found)?;
    let head = resolve(asked, repository, head).await?.ok_or_else(not_found)?;
    let ahead_by = ahead(asked, repository, &base, &head).await?;
    let behind_by = ahead(asked, repository, &head, &base).await?;
    let status = match (ahead_by, behind_by) {
        (0, 0) => "identical",
        (_, 0) => "ahead",
        (0, _) => "behind",
        _ => "diverged",
    };
    Ok(Reply::json(
        StatusCode::OK,
        &json!({"status": status, "ahead_by": ahead_by, "behind_by": behind_by, "total_commits": ahead_by,
            "base_commit": {"sha": base}}),
    ))
}
