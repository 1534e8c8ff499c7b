//! Comments on an issue: found by their marker, written, replaced.

use http::Method;
use http::header::LINK;
use serde::de::DeserializeOwned;
use steadfast_core::classify::github::Operation;
use steadfast_core::failure::{Failure, FatalReason};
use steadfast_core::headers::Observed;

use crate::client::{Exchange, GithubClient, Repo, unsent_failure};
use crate::effects::cap_text;
use crate::send::{Answer, NO_BODY};
use crate::token::AccessToken;
use crate::wire;

/// Entries that a page is asked to hold, largest first. A page that is larger than
/// `github.max_body_bytes` is asked for again in smaller pieces; each divides the one before.
const PAGE_SIZES: [u64; 5] = [100, 50, 10, 5, 1];

/// A comment that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// GitHub's id of it.
    pub id: u64,
    /// Its page.
    pub url: String,
    /// Its text.
    pub body: String,
}

impl From<wire::Comment> for Comment {
    fn from(comment: wire::Comment) -> Self {
        Comment { id: comment.id, url: comment.html_url, body: comment.body.unwrap_or_default() }
    }
}

impl GithubClient {
    /// The oldest comment on `issue` that holds `marker`; written by `author`, where that is given
    /// (an [`Identity`](crate::Identity)'s login): a marker can be read and copied by strangers.
    pub async fn find_comment(
        &self,
        token: &AccessToken,
        repo: &Repo,
        issue: u64,
        marker: &str,
        author: Option<&str>,
    ) -> Exchange<Option<Comment>> {
        let issue = issue.to_string();
        let path = ["repos", repo.owner.as_str(), &repo.name, "issues", &issue, "comments"];
        let by_author = |comment: &wire::Comment| match (author, &comment.user) {
            (None, _) => true,
            (Some(wanted), Some(user)) => user.login.eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
        };
        let matches = |comment: &wire::Comment| {
            by_author(comment) && comment.body.as_deref().is_some_and(|body| body.contains(marker))
        };
        let found = self.find(Operation::FindComment, &path, &[], token, matches).await;
        found.map(|comment| comment.map(Comment::from))
    }

    /// Writes a comment; cut to GitHub's cap, with a marker at its end kept.
    pub async fn create_comment(
        &self,
        token: &AccessToken,
        repo: &Repo,
        issue: u64,
        body: &str,
    ) -> Exchange<Comment> {
        let issue = issue.to_string();
        let path = ["repos", repo.owner.as_str(), &repo.name, "issues", &issue, "comments"];
        let text = cap_text(body);
        let body = wire::CommentText { body: &text };
        let exchange =
            self.write::<_, wire::Comment>(Operation::CreateComment, Method::POST, &path, &body, token).await;
        exchange.map(Comment::from)
    }

    /// Replaces a comment's text; cut as in [`GithubClient::create_comment`]. Doing it twice does
    /// no harm, so an unknown outcome is a plain retry.
    pub async fn update_comment(
        &self,
        token: &AccessToken,
        repo: &Repo,
        comment: u64,
        body: &str,
    ) -> Exchange<Comment> {
        let comment = comment.to_string();
        let path = ["repos", repo.owner.as_str(), &repo.name, "issues", "comments", &comment];
        let text = cap_text(body);
        let body = wire::CommentText { body: &text };
        let exchange = self
            .write::<_, wire::Comment>(Operation::UpdateComment, Method::PATCH, &path, &body, token)
            .await;
        exchange.map(Comment::from)
    }

    /// The first entry of a list that `wanted` wants. A list that is longer than
    /// `github.max_pages` is a failure and not `None`: who takes it for absent makes a second one.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        operation: Operation,
        path: &[&str],
        filter: &[(&str, &str)],
        token: &AccessToken,
        wanted: impl Fn(&T) -> bool,
    ) -> Exchange<Option<T>> {
        let mut sizes = PAGE_SIZES.into_iter();
        let mut size = sizes.next().unwrap_or(1);
        let mut seen: u64 = 0;
        let mut observed = Observed::default();
        for _ in 0..self.settings().max_pages {
            let (page, per_page) = ((seen / size + 1).to_string(), size.to_string());
            let mut query = filter.to_vec();
            query.extend([("per_page", per_page.as_str()), ("page", page.as_str())]);
            let outgoing = match self.outgoing(operation, Method::GET, path, &query, NO_BODY) {
                Ok(outgoing) => outgoing,
                Err(failure) => return Exchange { result: Err(failure), observed },
            };
            let exchange = self.send(&outgoing, token).await;
            observed = exchange.observed;
            let answer = match exchange.result {
                Ok(answer) => answer,
                Err(failure) if is_too_large(&failure) => match sizes.next() {
                    Some(smaller) => {
                        size = smaller;
                        continue;
                    }
                    None => return Exchange { result: Err(failure), observed },
                },
                Err(failure) => return Exchange { result: Err(failure), observed },
            };
            let entries = match answer.json::<Vec<T>>() {
                Ok(entries) => entries,
                Err(failure) => return Exchange { result: Err(failure), observed },
            };
            let is_last = !has_next(&answer, entries.len() as u64 >= size);
            let found = entries.into_iter().find(&wanted);
            if found.is_some() || is_last {
                return Exchange { result: Ok(found), observed };
            }
            seen += size;
        }
        let text = format!("not found within github.max_pages ({}): raise it", self.settings().max_pages);
        Exchange { result: Err(unsent_failure(operation, FatalReason::Rejected, text)), observed }
    }
}

/// Whether the answer was refused by us for its size.
fn is_too_large(failure: &Failure) -> bool {
    failure.status.is_none()
        && failure.verdict == steadfast_core::failure::Verdict::Fatal { why: FatalReason::Unusable }
}

/// By the `Link` header where there is one, else by whether the page was full.
fn has_next(answer: &Answer, is_full: bool) -> bool {
    match answer.headers.get(LINK).and_then(|value| value.to_str().ok()) {
        Some(link) => link.contains("rel=\"next\""),
        None => is_full,
    }
}
