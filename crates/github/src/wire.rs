//! What GitHub's REST interface takes and gives, as far as it is needed here.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use steadfast_core::time::Timestamp;

#[derive(Serialize)]
pub(crate) struct TokenRequest<'a> {
    pub repositories: [&'a str; 1],
    pub permissions: Permissions,
}

#[derive(Serialize)]
pub(crate) struct Permissions {
    pub contents: &'static str,
    pub issues: &'static str,
    pub pull_requests: &'static str,
}

#[derive(Deserialize)]
pub(crate) struct Token {
    pub token: SecretString,
    pub expires_at: Timestamp,
}

#[derive(Deserialize)]
pub(crate) struct App {
    pub slug: String,
}

#[derive(Deserialize)]
pub(crate) struct User {
    pub login: String,
    pub id: u64,
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Repository {
    pub full_name: String,
    pub default_branch: String,
    #[serde(default)]
    pub private: bool,
    #[serde(default)]
    pub archived: bool,
    #[serde(default = "yes")]
    pub has_issues: bool,
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
pub(crate) struct CommentText<'a> {
    pub body: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Comment {
    pub id: u64,
    pub html_url: String,
    #[serde(default)]
    pub body: Option<String>,
    /// Absent where the account is gone.
    #[serde(default)]
    pub user: Option<Author>,
}

#[derive(Deserialize)]
pub(crate) struct Author {
    pub login: String,
}

#[derive(Deserialize)]
pub(crate) struct GitRef {
    #[serde(rename = "ref")]
    pub name: String,
    pub object: GitObject,
}

#[derive(Deserialize)]
pub(crate) struct GitObject {
    pub sha: String,
}

#[derive(Serialize)]
pub(crate) struct PullRequest<'a> {
    pub title: &'a str,
    pub body: &'a str,
    pub head: &'a str,
    pub base: &'a str,
    pub draft: bool,
}

#[derive(Deserialize)]
pub(crate) struct Pull {
    pub number: u64,
    pub html_url: String,
    pub state: String,
    #[serde(default)]
    pub merged_at: Option<String>,
    #[serde(default)]
    pub body: Option<String>,
    pub head: PullHead,
}

#[derive(Deserialize)]
pub(crate) struct PullHead {
    #[serde(rename = "ref")]
    pub branch: String,
    pub sha: String,
    /// Absent where the fork is gone.
    #[serde(default)]
    pub repo: Option<HeadRepository>,
}

#[derive(Deserialize)]
pub(crate) struct HeadRepository {
    pub full_name: String,
}
