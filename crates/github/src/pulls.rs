//! Pull requests: found by the branch that they come from, opened.

use http::Method;
use steadfast_core::classify::github::Operation;

use crate::client::{Exchange, GithubClient, Repo};
use crate::effects::{cap_text, cap_title};
use crate::token::AccessToken;
use crate::wire;

/// A pull request to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPull {
    /// Its title; cut to GitHub's cap.
    pub title: String,
    /// Its text; cut to GitHub's cap, with a marker at its end kept.
    pub body: String,
    /// The branch that it comes from, in the same repository.
    pub head: String,
    /// The branch that it asks to be merged into.
    pub base: String,
    /// Whether it is marked as not ready.
    pub draft: bool,
}

/// A pull request that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Its number.
    pub number: u64,
    /// Its page.
    pub url: String,
    /// Whether it is open.
    pub state: PullState,
    /// Its text.
    pub body: String,
    /// The commit at the head of its branch.
    pub head_sha: String,
}

/// What became of a pull request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullState {
    /// It waits.
    Open,
    /// It was taken.
    Merged,
    /// It was turned down.
    Closed,
}

impl From<wire::Pull> for Pull {
    fn from(pull: wire::Pull) -> Self {
        let state = match (pull.state.as_str(), pull.merged_at) {
            (_, Some(_)) => PullState::Merged,
            ("open", None) => PullState::Open,
            (_, None) => PullState::Closed,
        };
        Pull {
            number: pull.number,
            url: pull.html_url,
            state,
            body: pull.body.unwrap_or_default(),
            head_sha: pull.head.sha,
        }
    }
}

impl GithubClient {
    /// The pull request from `branch` of this very repository, in whatever state: the newest.
    /// `repo` must be the repository's name of today, as
    /// [`GithubClient::repository`] gives it: GitHub filters by it.
    pub async fn find_pull(&self, token: &AccessToken, repo: &Repo, branch: &str) -> Exchange<Option<Pull>> {
        let path = ["repos", repo.owner.as_str(), &repo.name, "pulls"];
        let head = format!("{}:{branch}", repo.owner);
        let full_name = repo.to_string();
        // GitHub ignores a head that it cannot read, and a fork of ours may have the same branch.
        let is_ours = |pull: &wire::Pull| {
            let here = pull.head.repo.as_ref().is_none_or(|r| r.full_name.eq_ignore_ascii_case(&full_name));
            pull.head.branch == branch && here
        };
        let all = [("head", head.as_str()), ("state", "all"), ("sort", "created"), ("direction", "desc")];
        let exchange = self.find(Operation::FindPull, &path, &all, token, is_ours).await;
        exchange.map(|pull| pull.map(Pull::from))
    }

    /// Opens a pull request. That one exists already, or that the branch was pushed but is not
    /// seen yet, comes back as [`Verdict::Verify`](steadfast_core::failure::Verdict::Verify):
    /// after a moment [`GithubClient::find_pull`] tells which.
    pub async fn create_pull(&self, token: &AccessToken, repo: &Repo, pull: &NewPull) -> Exchange<Pull> {
        let path = ["repos", repo.owner.as_str(), &repo.name, "pulls"];
        let (title, body) = (cap_title(&pull.title), cap_text(&pull.body));
        let request = wire::PullRequest {
            title: &title,
            body: &body,
            head: &pull.head,
            base: &pull.base,
            draft: pull.draft,
        };
        let exchange =
            self.write::<_, wire::Pull>(Operation::CreatePull, Method::POST, &path, &request, token).await;
        exchange.map(Pull::from)
    }
}
