//! What is read of a repository and of ourselves.

use std::sync::{Mutex, PoisonError};

use http::Method;
use steadfast_core::classify::clean::clean;
use steadfast_core::classify::github::{Credential, Operation};
use steadfast_core::failure::{Failure, FatalReason, Verdict};
use url::Url;

use crate::client::{Exchange, GithubClient, Repo, unsent_failure};
use crate::send::NO_BODY;
use crate::token::AccessToken;
use crate::wire;

/// What is to be known of a repository before work on it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its name today: another than was asked for where it was renamed or moved. Pull requests are
    /// found by this owner only.
    pub repo: Repo,
    /// The branch that it is worked from.
    pub default_branch: String,
    /// Whether only some may see it.
    pub private: bool,
    /// Whether it is read-only for ever.
    pub archived: bool,
    /// Whether it has issues, and so comments.
    pub has_issues: bool,
}

/// Who we are on GitHub: the author of commits and comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account, as it stands at comments: `steadfast[bot]`. `None` where GitHub does not tell.
    pub login: Option<String>,
    /// The name for commits.
    pub name: String,
    /// The address for commits: GitHub's own that leads to the account and to no mailbox.
    pub email: String,
}

/// Identities once asked for; they don't change while a process lives.
#[derive(Default)]
pub(crate) struct KnownIdentities {
    bot: Mutex<Option<Identity>>,
    person: Mutex<Option<Identity>>,
}

impl GithubClient {
    /// Where git finds `repo`.
    pub fn clone_url(&self, repo: &Repo) -> Result<Url, Failure> {
        let mut url = self.settings().web_url.clone();
        let git_name = format!("{}.git", repo.name);
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend([repo.owner.as_str(), &git_name]),
            Err(()) => {
                let text = "nothing can be appended to github.web_url".to_owned();
                return Err(unsent_failure(Operation::Repository, FatalReason::Unusable, text));
            }
        };
        Ok(url)
    }

    /// The repository itself.
    pub async fn repository(&self, token: &AccessToken, repo: &Repo) -> Exchange<Repository> {
        let path = ["repos", repo.owner.as_str(), &repo.name];
        let exchange = self.read::<wire::Repository>(Operation::Repository, &path, token).await;
        exchange.map(|found| Repository {
            repo: match found.full_name.split_once('/') {
                Some((owner, name)) => Repo { owner: owner.to_owned(), name: name.to_owned() },
                None => repo.clone(),
            },
            default_branch: found.default_branch,
            private: found.private,
            archived: found.archived,
            has_issues: found.has_issues,
        })
    }

    /// The commit at the head of `branch`; `None` where there is no such branch.
    pub async fn branch_head(
        &self,
        token: &AccessToken,
        repo: &Repo,
        branch: &str,
    ) -> Exchange<Option<String>> {
        let mut path = vec!["repos", repo.owner.as_str(), &repo.name, "git", "ref", "heads"];
        path.extend(branch.split('/'));
        let exchange = self.read::<wire::GitRef>(Operation::BranchHead, &path, token).await;
        let observed = exchange.observed;
        let result = match exchange.result {
            Ok(found) => Ok((found.name == format!("refs/heads/{branch}")).then_some(found.object.sha)),
            // 409: the repository has no commit at all yet.
            Err(failure) if matches!(failure.status, Some(404 | 409)) => Ok(None),
            Err(failure) => Err(failure),
        };
        Exchange { result, observed }
    }

    /// Who we are when we use `token`: the App's bot, or the person. A token may work on a
    /// repository and yet not be told whose it is: then as much as is known.
    pub async fn identity(&self, token: &AccessToken) -> Exchange<Identity> {
        let credential = token.credential();
        let known = match credential {
            Credential::Installation | Credential::AppJwt => &self.identities.bot,
            Credential::Personal => &self.identities.person,
        };
        if let Some(identity) = known.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Exchange::unsent(Ok(identity));
        }
        let exchange = match credential {
            Credential::Installation | Credential::AppJwt => self.bot(token).await,
            Credential::Personal => self.person(token).await,
        };
        if let Ok(identity) = &exchange.result {
            *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.clone());
        }
        exchange
    }

    /// Whose the personal token is.
    async fn person(&self, token: &AccessToken) -> Exchange<Identity> {
        let exchange = self.read::<wire::User>(Operation::User, &["user"], token).await;
        let known = exchange.map(|user| Identity {
            email: self.no_mailbox(&user),
            name: user
                .name
                .map(|name| clean(&name))
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| user.login.clone()),
            login: Some(user.login),
        });
        known.or_if_untold(nobody)
    }

    /// The App tells its slug, and the account of that name its id.
    async fn bot(&self, token: &AccessToken) -> Exchange<Identity> {
        let Some(app) = &self.app else {
            let text =
                "an installation token without a GitHub App: set github.app_id and github.private_key_file";
            let failure = unsent_failure(Operation::App, FatalReason::Credentials, text.to_owned());
            return Exchange::unsent(Err(failure));
        };
        let outgoing = match self.outgoing(Operation::App, Method::GET, &["app"], &[], NO_BODY) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Exchange::unsent(Err(failure)),
        };
        let about_app = self.send_as_app(app, &outgoing).await;
        let slug = match about_app.result.and_then(|answer| answer.json::<wire::App>()) {
            Ok(app) => app.slug,
            Err(failure) => {
                let untold = Exchange { result: Err(failure), observed: about_app.observed };
                return untold.or_if_untold(nobody);
            }
        };
        let login = format!("{slug}[bot]");
        let exchange = self.read::<wire::User>(Operation::User, &["users", &login], token).await;
        let known = exchange.map(|user| Identity {
            email: self.no_mailbox(&user),
            name: user.login.clone(),
            login: Some(user.login),
        });
        known.or_if_untold(|| Identity {
            email: format!("{login}@users.noreply.{}", self.web_host()),
            name: login.clone(),
            login: Some(login.clone()),
        })
    }

    fn no_mailbox(&self, user: &wire::User) -> String {
        format!("{}+{}@users.noreply.{}", user.id, user.login, self.web_host())
    }

    fn web_host(&self) -> &str {
        self.settings().web_url.host_str().unwrap_or("github.com")
    }

    /// One thing, read.
    pub(crate) async fn read<T: serde::de::DeserializeOwned>(
        &self,
        operation: Operation,
        path: &[&str],
        token: &AccessToken,
    ) -> Exchange<T> {
        let outgoing = match self.outgoing(operation, Method::GET, path, &[], NO_BODY) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Exchange::unsent(Err(failure)),
        };
        let exchange = self.send(&outgoing, token).await;
        Exchange { result: exchange.result.and_then(|answer| answer.json()), observed: exchange.observed }
    }

    /// One thing, written; what GitHub made of it comes back.
    pub(crate) async fn write<B: serde::Serialize, T: serde::de::DeserializeOwned>(
        &self,
        operation: Operation,
        method: Method,
        path: &[&str],
        body: &B,
        token: &AccessToken,
    ) -> Exchange<T> {
        let outgoing = match self.outgoing(operation, method, path, &[], Some(body)) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Exchange::unsent(Err(failure)),
        };
        let exchange = self.send(&outgoing, token).await;
        Exchange { result: exchange.result.and_then(|answer| answer.json()), observed: exchange.observed }
    }
}

/// Who commits are by where GitHub does not tell: an address of GitHub's would be a stranger's.
fn nobody() -> Identity {
    Identity { login: None, name: "steadfast".to_owned(), email: "steadfast@noreply.invalid".to_owned() }
}

impl Exchange<Identity> {
    /// A refusal to tell is no reason to refuse the work; a refused credential is.
    fn or_if_untold(self, known: impl FnOnce() -> Identity) -> Self {
        let result = self.result.or_else(|failure| match failure.verdict {
            Verdict::Fatal { why: FatalReason::Permission | FatalReason::NotFound } => {
                let known = known();
                tracing::warn!(
                    name = known.name,
                    email = known.email,
                    error = %failure,
                    "github does not tell who we are: to choose, set agent.identity_name and agent.identity_email"
                );
                Ok(known)
            }
            Verdict::Fatal { .. }
            | Verdict::Retry { .. }
            | Verdict::WaitUntil { .. }
            | Verdict::Refresh
            | Verdict::Verify
            | Verdict::Shrink => Err(failure),
        });
        Exchange { result, observed: self.observed }
    }
}
