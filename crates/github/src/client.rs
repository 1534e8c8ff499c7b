//! The client: what it is made of, what its calls give back, and where tokens come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use http::Method;
use secrecy::ExposeSecret;
use steadfast_core::classify::clean::clean;
use steadfast_core::classify::github::{Credential, Operation};
use steadfast_core::failure::{Failure, FatalReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_http::Transport;

use crate::app::App;
use crate::calls::KnownIdentities;
use crate::secondary::SecondaryStreak;
use crate::send::NO_BODY;
use crate::settings::{Credentials, Settings, UnusableSettings};
use crate::token::{AccessToken, TokenCache};
use crate::wire;
use crate::writes::WriteLane;

/// A repository by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repo {
    /// Its owner: a person or an organisation.
    pub owner: String,
    /// Its name, without the owner.
    pub name: String,
}

impl std::fmt::Display for Repo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// What a call brought, and what its last answer told about limits, be it happy or not.
#[derive(Clone, Debug)]
pub struct Exchange<T> {
    /// The result.
    pub result: Result<T, Failure>,
    /// The limits; empty where no answer came.
    pub observed: Observed,
}

impl<T> Exchange<T> {
    /// One that sent nothing.
    pub(crate) fn unsent(result: Result<T, Failure>) -> Self {
        Exchange { result, observed: Observed::default() }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Exchange<U> {
        Exchange { result: self.result.map(change), observed: self.observed }
    }
}

/// GitHub's REST interface. Shared by all; calls may run at once, writes queue up.
pub struct GithubClient {
    pub(crate) settings: Settings,
    pub(crate) app: Option<App>,
    personal: Option<AccessToken>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    tokens: TokenCache,
    pub(crate) writes: WriteLane,
    pub(crate) secondary: SecondaryStreak,
    /// Milliseconds that the clock here is ahead of GitHub's; learned when a JWT is refused.
    pub(crate) skew: AtomicI64,
    pub(crate) identities: KnownIdentities,
}

impl GithubClient {
    /// A client; says what is wrong with the settings or the key.
    pub fn new(
        settings: Settings,
        credentials: Credentials,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, UnusableSettings> {
        settings.check()?;
        let app = match (settings.app_id.as_str(), &credentials.private_key) {
            ("", None) => None,
            ("", Some(_)) | (_, None) => return Err(UnusableSettings::HalfAnApp),
            (id, Some(key)) => Some(App::new(id, key)?),
        };
        let personal = credentials
            .personal_token
            .filter(|token| !token.expose_secret().trim().is_empty())
            .map(|token| AccessToken { secret: token.expose_secret().trim().into(), expires_at: None });
        Ok(GithubClient {
            writes: WriteLane::new(settings.write_spacing),
            settings,
            app,
            personal,
            transport,
            clock,
            tokens: TokenCache::default(),
            secondary: SecondaryStreak::default(),
            skew: AtomicI64::new(0),
            identities: KnownIdentities::default(),
        })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A token for `repo`: the installation's, narrowed to that repository and to what effects
    /// need; the personal one where `installation` is 0. `force_refresh` after a call was refused
    /// for its token. Requests for the same token at the same time are one.
    pub async fn token(
        &self,
        installation: u64,
        repo: &Repo,
        force_refresh: bool,
    ) -> Result<AccessToken, Failure> {
        let app = match self.source(installation)? {
            Source::Personal(token) => return Ok(token.clone()),
            Source::App(app) => app,
        };
        let slot = self.tokens.slot(installation, repo);
        let margin = self.settings.token_margin;
        slot.get(force_refresh, margin, || self.server_now(), || self.fetch_token(app, installation, repo))
            .await
    }

    /// What [`GithubClient::token`] would say without asking GitHub; `None` where it would ask.
    pub fn token_at_hand(&self, installation: u64, repo: &Repo) -> Option<Result<AccessToken, Failure>> {
        match self.source(installation) {
            Ok(Source::Personal(token)) => Some(Ok(token.clone())),
            Ok(Source::App(_)) => self.tokens.slot(installation, repo).held(self.server_now()).map(Ok),
            Err(failure) => Some(Err(failure)),
        }
    }

    /// Where the token for an installation comes from.
    fn source(&self, installation: u64) -> Result<Source<'_>, Failure> {
        let missing =
            |text: &str| unsent_failure(Operation::CreateToken, FatalReason::Credentials, text.to_owned());
        if installation == 0 {
            return self.personal.as_ref().map(Source::Personal).ok_or_else(|| {
                missing(
                    "the job names no installation (installationId 0) and no personal token is configured: \
                     set github.token or github.token_file, or name the App's installation in the job",
                )
            });
        }
        self.app.as_ref().map(Source::App).ok_or_else(|| {
            missing(
                "the job names an installation and no GitHub App is configured: set github.app_id \
                 and github.private_key_file",
            )
        })
    }

    async fn fetch_token(&self, app: &App, installation: u64, repo: &Repo) -> Result<AccessToken, Failure> {
        let request = wire::TokenRequest {
            repositories: [&repo.name],
            permissions: wire::Permissions { contents: "write", issues: "write", pull_requests: "write" },
        };
        let id = installation.to_string();
        let path = ["app", "installations", &id, "access_tokens"];
        let outgoing = self.outgoing(Operation::CreateToken, Method::POST, &path, &[], Some(&request))?;
        let answer = self.send_as_app(app, &outgoing).await.result?;
        let token: wire::Token = answer.json()?;
        tracing::debug!(installation, repository = %repo, expires_at = %token.expires_at, "installation token made");
        Ok(AccessToken { secret: token.token, expires_at: Some(token.expires_at) })
    }

    /// Whoever asks from now on gets another token: this one is about to be revoked.
    pub fn let_go(&self, token: &AccessToken) {
        self.tokens.forget(token);
    }

    /// Ends an installation token before its time. Other jobs on the same repository may share it:
    /// they get a new one when GitHub refuses it. A personal token is left as it is.
    pub async fn revoke(&self, token: &AccessToken) -> Exchange<()> {
        match token.credential() {
            Credential::Personal => return Exchange::unsent(Ok(())),
            Credential::Installation | Credential::AppJwt => {}
        }
        self.tokens.forget(token);
        let path = ["installation", "token"];
        let outgoing = match self.outgoing(Operation::RevokeToken, Method::DELETE, &path, &[], NO_BODY) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Exchange::unsent(Err(failure)),
        };
        let exchange = self.send(&outgoing, token).await;
        let result = match exchange.result {
            Ok(_) => Ok(()),
            // Refused or unknown: it is dead already.
            Err(failure) if matches!(failure.status, Some(401 | 404)) => Ok(()),
            Err(failure) => Err(failure),
        };
        Exchange { result, observed: exchange.observed }
    }

    /// GitHub's time, as far as we know it.
    pub(crate) fn server_now(&self) -> Timestamp {
        let skew = self.skew.load(Ordering::Relaxed);
        Timestamp::from_millis(self.clock.now().millis().saturating_sub(skew))
    }
}

/// Where a token comes from.
enum Source<'a> {
    /// The configuration.
    Personal(&'a AccessToken),
    /// GitHub, asked by the App.
    App(&'a App),
}

/// A failure of a call that was not sent.
pub(crate) fn unsent_failure(operation: Operation, why: FatalReason, text: String) -> Failure {
    Failure {
        verdict: Verdict::Fatal { why },
        provider: Provider::Github,
        operation: operation.name(),
        status: None,
        message: clean(&text),
        request_id: None,
        maybe_charged: false,
        unhealthy: false,
    }
}
