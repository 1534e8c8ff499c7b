//! GitHub refuses what GitHub refuses: credentials, rights, duplicates, what is not there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{github, github_request, installation_token, jwt, push_branch, try_send, world};

const REPO: &str = "/repos/acme/shell-tools";

#[tokio::test(start_paused = true)]
async fn an_apps_token_is_checked_as_github_checks_it() {
    let world = world(|_| {});
    let id = world.config().github.app_id.to_string();
    let foreign_key = {
        let claims = json!({"iss": id, "iat": world.now().secs(), "exp": world.now().secs() + 60});
        let key = jsonwebtoken::EncodingKey::from_secret(b"secret");
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let mut forged = jwt(&world, &id, -60, 300);
    forged.replace_range(forged.len() - 4.., "AAAA");
    for (what, token, status, needle) in [
        ("sound", jwt(&world, &id, -60, 540), 200, "steadfast-sim"),
        ("by client id", jwt(&world, "Iv23simulation", -60, 540), 200, "steadfast-sim"),
        ("expired", jwt(&world, &id, -600, -1), 401, "'exp'"),
        ("too long", jwt(&world, &id, 0, 601), 401, "too far in the future"),
        ("from the future", jwt(&world, &id, 5, 300), 401, "'iat'"),
        ("foreign app", jwt(&world, "999", -60, 300), 404, "Integration not found"),
        ("wrong algorithm", foreign_key, 401, "could not be decoded"),
        ("forged", forged, 401, "could not be decoded"),
        ("an unknown token", "ghs_unknown".to_owned(), 401, "Bad credentials"),
    ] {
        let answer = github(&world, "GET", "/app", &token, Value::Null).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert!(answer.text().contains(needle), "{what}: {}", answer.text());
    }
}

#[tokio::test(start_paused = true)]
async fn an_installation_token_lives_an_hour_and_does_no_more_than_it_may() {
    let world = world(|config| config.repositories.push(steadfast_sim::Repository::new("acme", "other")));
    let narrow =
        json!({"repositories": ["shell-tools"], "permissions": {"contents": "read", "issues": "write"}});
    let token = installation_token(&world, narrow).await;
    assert!(token.starts_with("ghs_") && (500..540).contains(&token.len()), "{}", token.len());
    let get = |path: &'static str| github(&world, "GET", path, &token, Value::Null);
    assert_eq!(get(REPO).await.status, 200);
    assert_eq!(get("/api/v3/repos/acme/shell-tools").await.status, 200);
    assert_eq!(get("/repos/acme/other").await.status, 404);
    assert_eq!(get("/repos/acme/none").await.status, 404);
    assert_eq!(get("/user").await.status, 403);
    let pull = json!({"title": "t", "head": "x", "base": "main"});
    let answer = github(&world, "POST", &format!("{REPO}/pulls"), &token, pull).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["message"], "Resource not accessible by integration");
    assert_eq!(answer.header("x-accepted-github-permissions"), Some("pull_requests=write"));

    tokio::time::advance(Duration::from_secs(3599)).await;
    assert_eq!(get(REPO).await.status, 200);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(get(REPO).await.status, 401);

    let token = installation_token(&world, Value::Null).await;
    assert_eq!(github(&world, "DELETE", "/installation/token", &token, Value::Null).await.status, 204);
    assert_eq!(github(&world, "GET", REPO, &token, Value::Null).await.status, 401);
    assert!(world.records().tokens[1].revoked);
}

#[tokio::test(start_paused = true)]
async fn a_token_cannot_be_wider_than_the_installation() {
    let world = world(|_| {});
    let config = &world.config().github;
    let jwt = jwt(&world, &config.app_id.to_string(), -60, 540);
    let path = format!("/app/installations/{}/access_tokens", config.installation_id);
    for body in [
        json!({"permissions": {"administration": "write"}}),
        json!({"permissions": {"metadata": "write"}}),
        json!({"repositories": ["none"]}),
    ] {
        assert_eq!(github(&world, "POST", &path, &jwt, body.clone()).await.status, 422, "{body}");
    }
    assert_eq!(
        github(&world, "POST", "/app/installations/1/access_tokens", &jwt, Value::Null).await.status,
        404
    );
}

#[tokio::test(start_paused = true)]
async fn headers_that_github_insists_on() {
    let world = world(|config| config.github.personal_token = Some("ghp_me".to_owned()));
    for (name, value, status) in [
        ("user-agent", "", 403),
        ("x-github-api-version", "1999-01-01", 400),
        ("accept", "text/html", 415),
        ("x-github-api-version", "2022-11-28", 200),
    ] {
        let mut request = github_request("GET", "/user", "ghp_me", &Value::Null);
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(try_send(&world, request).await.unwrap().status, status, "{name}: {value}");
    }
    let mut request = github_request("GET", "/user", "ghp_me", &Value::Null);
    request.headers_mut().remove("authorization");
    assert_eq!(try_send(&world, request).await.unwrap().status, 401);
}

#[tokio::test(start_paused = true)]
async fn comments_are_made_listed_by_page_and_edited_by_their_author() {
    let world = world(|config| config.github.personal_token = Some("ghp_me".to_owned()));
    let token = installation_token(&world, Value::Null).await;
    let path = format!("{REPO}/issues/2/comments");
    for number in 0..5 {
        let body = json!({"body": format!("comment {number}")});
        assert_eq!(github(&world, "POST", &path, &token, body).await.status, 201);
    }
    let first = github(&world, "GET", &format!("{path}?per_page=2"), &token, Value::Null).await;
    assert_eq!(first.json().as_array().unwrap().len(), 2);
    let link = first.header("link").unwrap();
    assert!(link.contains("page=2>; rel=\"next\"") && link.contains("page=3>; rel=\"last\""), "{link}");
    let last = github(&world, "GET", &format!("{path}?per_page=2&page=3"), &token, Value::Null).await;
    assert_eq!(last.json()[0]["body"], "comment 4");
    let id = last.json()[0]["id"].as_u64().unwrap();
    let edit = format!("{REPO}/issues/comments/{id}");
    let edited = github(&world, "PATCH", &edit, &token, json!({"body": "new"})).await;
    assert_eq!((edited.status.as_u16(), edited.json()["body"].as_str()), (200, Some("new")));
    assert_eq!(github(&world, "PATCH", &edit, "ghp_me", json!({"body": "no"})).await.status, 403);
    for (body, status) in [
        (json!({}), 422),
        (json!({"body": " "}), 422),
        (json!({"body": "x".repeat(65_537)}), 422),
        (json!({"body": "x".repeat(65_536)}), 201),
    ] {
        assert_eq!(github(&world, "POST", &path, &token, body).await.status, status);
    }
    let nowhere = format!("{REPO}/issues/99/comments");
    let missing = github(&world, "POST", &nowhere, &token, json!({"body": "x"})).await;
    assert_eq!(missing.status, 404);
    let record = world.records().comments.into_iter().find(|comment| comment.id == id).unwrap();
    assert_eq!((record.body.as_str(), record.edits), ("new", vec!["comment 4".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_pull_request_needs_commits_and_is_one_for_its_head() {
    let world = world(|_| {});
    let token = installation_token(&world, Value::Null).await;
    let path = format!("{REPO}/pulls");
    let create = |head: &str| {
        let body = json!({"title": "t", "head": head, "base": "main", "body": "b"});
        let (world, token, path) = (world.clone(), token.clone(), path.clone());
        async move { github(&world, "POST", &path, &token, body).await }
    };
    let answer = create("absent").await;
    assert_eq!(answer.status, 422);
    assert_eq!(
        answer.json()["errors"][0],
        json!({"resource": "PullRequest", "field": "head", "code": "invalid"})
    );
    let sha = github(&world, "GET", &format!("{REPO}/git/ref/heads/main"), &token, Value::Null).await.json();
    let new_ref = json!({"ref": "refs/heads/empty", "sha": sha["object"]["sha"]});
    let refs = format!("{REPO}/git/refs");
    assert_eq!(github(&world, "POST", &refs, &token, new_ref.clone()).await.status, 201);
    assert_eq!(github(&world, "POST", &refs, &token, new_ref).await.status, 422);
    assert!(create("empty").await.text().contains("No commits between main and empty"));

    push_branch(&world, "steadfast/issue-1-abc");
    let made = create("steadfast/issue-1-abc").await;
    assert_eq!(made.status, 201, "{}", made.text());
    let again = create("acme:steadfast/issue-1-abc").await;
    assert_eq!(again.status, 422);
    assert!(again.text().contains("A pull request already exists for acme:steadfast/issue-1-abc."));
    let query = "head=acme:steadfast/issue-1-abc&state=all";
    let found = github(&world, "GET", &format!("{path}?{query}"), &token, Value::Null).await.json();
    assert_eq!(found[0]["number"], made.json()["number"]);
    let none = github(&world, "GET", &format!("{path}?head=acme:other&state=all"), &token, Value::Null).await;
    assert_eq!(none.json(), json!([]));

    let head = format!("{REPO}/commits/steadfast/issue-1-abc");
    let commit = github(&world, "GET", &head, &token, Value::Null).await.json();
    assert!(commit["commit"]["message"].as_str().unwrap().contains("Steadfast-Job: test"));
    let compare = format!("{REPO}/compare/main...steadfast/issue-1-abc");
    assert_eq!(github(&world, "GET", &compare, &token, Value::Null).await.json()["ahead_by"], 1);
    let records = world.records();
    assert_eq!((records.pulls.len(), records.branches.len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_new_is_unseen_for_the_lag() {
    let world = world(|config| config.github.lag = Duration::from_secs(3));
    let token = installation_token(&world, Value::Null).await;
    push_branch(&world, "work");
    let comments = format!("{REPO}/issues/1/comments");
    github(&world, "POST", &comments, &token, json!({"body": "x"})).await;
    let branch = format!("{REPO}/git/ref/heads/work");
    let pull = json!({"title": "t", "head": "work", "base": "main"});
    let pulls = format!("{REPO}/pulls");
    assert_eq!(github(&world, "GET", &branch, &token, Value::Null).await.status, 404);
    assert_eq!(github(&world, "GET", &comments, &token, Value::Null).await.json(), json!([]));
    assert_eq!(github(&world, "POST", &pulls, &token, pull.clone()).await.status, 422);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(github(&world, "GET", &branch, &token, Value::Null).await.status, 200);
    assert_eq!(github(&world, "GET", &comments, &token, Value::Null).await.json()[0]["body"], "x");
    assert_eq!(github(&world, "POST", &pulls, &token, pull).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn users_and_the_bot_have_ids() {
    let world = world(|_| {});
    let token = installation_token(&world, Value::Null).await;
    let bot = github(&world, "GET", "/users/steadfast-sim%5Bbot%5D", &token, Value::Null).await;
    assert_eq!((bot.status.as_u16(), bot.json()["type"].as_str()), (200, Some("Bot")));
    assert_eq!(github(&world, "GET", "/users/nobody", &token, Value::Null).await.status, 404);
}
