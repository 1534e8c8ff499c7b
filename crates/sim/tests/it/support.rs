//! A small client of a world, in the process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use steadfast_core::time::Timestamp;
use steadfast_http::{Timeouts, Transport, TransportError};
use steadfast_sim::{SIMULATION_ONLY_PRIVATE_KEY, World, WorldConfig};

/// When every test's world begins: 2026-01-05T10:00:00Z.
pub fn start() -> Timestamp {
    Timestamp::from_secs(1_767_607_200)
}

pub fn world(change: impl FnOnce(&mut WorldConfig)) -> Arc<World> {
    let mut config = WorldConfig::new(7, start());
    change(&mut config);
    World::new(config).unwrap()
}

pub const TIMEOUTS: Timeouts =
    Timeouts { first_byte: Duration::from_secs(30), idle: Duration::from_secs(10) };

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub async fn try_send(world: &Arc<World>, request: Request<Bytes>) -> Result<Answer, TransportError> {
    try_send_by(&*world.transport(), request, TIMEOUTS).await
}

pub async fn try_send_by(
    transport: &dyn Transport,
    request: Request<Bytes>,
    timeouts: Timeouts,
) -> Result<Answer, TransportError> {
    let response = transport.send(request, timeouts).await?;
    let (parts, mut pieces) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece?);
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

pub fn chat_request(body: &Value) -> Request<Bytes> {
    Request::post("http://sim.test/v1/chat/completions")
        .header("authorization", "Bearer sk-test")
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .unwrap()
}

pub async fn chat(world: &Arc<World>, body: &Value) -> Answer {
    try_send(world, chat_request(body)).await.unwrap()
}

pub fn hello() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
}

pub fn github_request(method: &str, path: &str, token: &str, body: &Value) -> Request<Bytes> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    Request::builder()
        .method(method)
        .uri(format!("http://sim.test{path}"))
        .header("authorization", format!("Bearer {token}"))
        .header("user-agent", "test")
        .header("accept", "application/vnd.github+json")
        .body(body)
        .unwrap()
}

pub async fn github(world: &Arc<World>, method: &str, path: &str, token: &str, body: Value) -> Answer {
    try_send(world, github_request(method, path, token, &body)).await.unwrap()
}

/// An App's token with claims relative to the world's now, in seconds.
pub fn jwt(world: &World, issuer: &str, issued: i64, expires: i64) -> String {
    let now = world.now().secs();
    let claims = json!({"iss": issuer, "iat": now + issued, "exp": now + expires});
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(SIMULATION_ONLY_PRIVATE_KEY.as_bytes()).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256), &claims, &key).unwrap()
}

pub async fn installation_token(world: &Arc<World>, body: Value) -> String {
    let config = &world.config().github;
    let jwt = jwt(world, &config.app_id.to_string(), -60, 540);
    let path = format!("/app/installations/{}/access_tokens", config.installation_id);
    let answer = github(world, "POST", &path, &jwt, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// Pushes one commit on a new branch into the world's repository, without HTTP.
pub fn push_branch(world: &World, branch: &str) {
    let url = world.git_url("acme", "shell-tools");
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["clone", "-q", &url, "."]);
    commit(dir.path(), branch);
    git(dir.path(), &["push", "-q", "origin", &format!("HEAD:refs/heads/{branch}")]);
}

pub fn commit(dir: &std::path::Path, content: &str) {
    std::fs::write(dir.join("new.txt"), content).unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", "A change\n\nSteadfast-Job: test"]);
}

/// Runs git, which must succeed, and returns what it said.
pub fn git(dir: &std::path::Path, arguments: &[&str]) -> String {
    let (success, said) = try_git(dir, arguments);
    assert!(success, "git {arguments:?}: {said}");
    said
}

pub fn try_git(dir: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.invalid"])
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "/bin/false")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
