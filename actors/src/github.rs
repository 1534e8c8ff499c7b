//! Github: tokens, reads and effects, each request with a permit, under layers 1b and 2.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use secrecy::SecretString;
use steadfast_core::classify::github::Operation;
use steadfast_core::failure::{Failure, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::retry::RetryPolicy;
use steadfast_github::{
    AccessToken, Comment, Exchange, GithubClient, Identity, NewPull, Pull, Repo, Repository,
};

use crate::accountant::{BudgetKey, Need};
use crate::address::Metered;
use crate::calls::{CallError, Caller, Order, Patience, Try};
use crate::stop::lapsed;
use crate::supervisor::Lifeline;

/// Hears of every token that is made, so that it can be masked wherever text leaves the process.
pub type SecretSink = Arc<dyn Fn(&SecretString) + Send + Sync>;

/// For which repository, by which credential, for whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// The repository.
    pub repo: Repo,
    /// The App's installation; 0 is the personal token.
    pub installation: u64,
    /// The job's place among those that wait.
    pub order: Order,
    /// How the run is told to stop.
    pub patience: Patience,
}

/// Asks for the repository.
pub struct Describe {
    /// Where.
    pub target: Target,
}

/// Asks for a token for git.
pub struct GetToken {
    /// Where.
    pub target: Target,
    /// The one before was refused.
    pub refresh: bool,
}

/// A run begins to use the repository's token.
pub struct Enter {
    /// Where.
    pub target: Target,
}

/// A run is over. The token is revoked once no run of this process uses it and the job has its end.
pub struct Leave {
    /// Where.
    pub target: Target,
    /// Whether the job has its end, so that nobody goes on with it soon.
    pub ended: bool,
}

/// Asks who the commits are by.
pub struct WhoAmI {
    /// Where.
    pub target: Target,
}

/// Whether to look for an effect that may stand already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It cannot stand.
    No,
    /// If it stands, it has for a while.
    AtOnce,
    /// It may have been done just now: look once GitHub would show it (`github.shown_after`).
    Patiently,
}

/// Makes sure that one comment with the marker stands.
pub struct EnsureComment {
    /// Where.
    pub target: Target,
    /// On which issue.
    pub issue: u64,
    /// What identifies it.
    pub marker: String,
    /// The text, marker included.
    pub body: String,
    /// Whether to look for it before the first try; before every other it is looked for anyway.
    pub look: Look,
}

/// Makes a comment of ours say something else.
pub struct EditComment {
    /// Where.
    pub target: Target,
    /// Which.
    pub id: u64,
    /// The text, marker included.
    pub body: String,
}

/// Makes sure that one pull request for the branch stands.
pub struct EnsurePull {
    /// Where.
    pub target: Target,
    /// The branch that was pushed.
    pub branch: String,
    /// The branch that it is to be merged into.
    pub base: String,
    /// One line.
    pub title: String,
    /// The text, marker included.
    pub body: String,
    /// Whether to look for it before the first try; before every other it is looked for anyway.
    pub look: Look,
}

impl Message for Describe {
    type Result = Result<Repository, CallError>;
}
impl Message for GetToken {
    type Result = Result<SecretString, CallError>;
}
impl Message for Enter {
    type Result = ();
}
impl Message for Leave {
    type Result = ();
}
impl Message for WhoAmI {
    type Result = Result<Identity, CallError>;
}
impl Message for EnsureComment {
    type Result = Result<Comment, CallError>;
}
impl Message for EditComment {
    type Result = Result<(), CallError>;
}
impl Message for EnsurePull {
    type Result = Result<Pull, CallError>;
}

/// See the module.
pub struct Github {
    calls: Arc<Calls>,
    _lifeline: Lifeline,
}

/// What outlives the handling of one message.
struct Calls {
    client: Arc<GithubClient>,
    caller: Caller,
    token_policy: RetryPolicy,
    policy: RetryPolicy,
    shown_after: Duration,
    secrets: SecretSink,
    users: Mutex<BTreeMap<(u64, String), Users>>,
}

/// The runs that use one repository's installation token, and the newest token that they got.
#[derive(Default)]
struct Users {
    runs: usize,
    token: Option<AccessToken>,
}

impl Github {
    pub(crate) fn new(
        client: Arc<GithubClient>,
        caller: Caller,
        settings: &crate::Settings,
        secrets: SecretSink,
        lifeline: Lifeline,
    ) -> Self {
        let calls = Calls {
            client,
            caller,
            token_policy: settings.token_retry.clone(),
            policy: settings.github_retry.clone(),
            shown_after: settings.github_shown_after,
            secrets,
            users: Mutex::default(),
        };
        Github { calls: Arc::new(calls), _lifeline: lifeline }
    }
}

/// What a request asks, and whether it asks again.
#[derive(Clone, Copy)]
struct Ask {
    operation: Operation,
    is_retry: bool,
}

impl Ask {
    fn of(operation: Operation, attempt: Try) -> Self {
        Ask { operation, is_retry: attempt.is_retry }
    }
}

impl Calls {
    /// A token that is good now (layer 1b). One that is at hand needs no permit: nothing is sent,
    /// and the breaker must not take it for an answer of GitHub's.
    async fn token(&self, target: &Target, refresh: bool) -> Result<AccessToken, CallError> {
        let attempt = async |attempt: Try| {
            let force = refresh || attempt.refresh;
            let at_hand = self.client.token_at_hand(target.installation, &target.repo);
            if let Some(token) = at_hand.filter(|token| !force || token.is_err()) {
                return Ok(token);
            }
            let asked = async {
                let token = self.client.token(target.installation, &target.repo, force).await;
                (token, Observed::default())
            };
            self.with_permit(target, Ask::of(Operation::CreateToken, attempt), asked).await
        };
        let token = self.caller.retrying(&self.token_policy, &target.patience, attempt).await?;
        (self.secrets)(&token.secret);
        if let Some(users) = self.users().get_mut(&place(target)) {
            users.token = Some(token.clone());
        }
        Ok(token)
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<(u64, String), Users>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, target: &Target) {
        self.users().entry(place(target)).or_default().runs += 1;
    }

    /// Should a count have been lost with an actor, a token is revoked under a run, which finds it
    /// refused and gets another.
    async fn leave(&self, target: &Target, ended: bool) {
        let unused = {
            let mut users = self.users();
            let Some(left) = users.get_mut(&place(target)) else { return };
            left.runs = left.runs.saturating_sub(1);
            if left.runs > 0 {
                return;
            }
            users.remove(&place(target)).and_then(|users| users.token)
        };
        let Some(token) = unused.filter(|_| ended && target.installation != 0) else { return };
        // Before the wait for a permit: a run that begins meanwhile is not to be handed a dying token.
        self.client.let_go(&token);
        let ask = Ask { operation: Operation::RevokeToken, is_retry: false };
        let revoked = self.request(target, &token, ask, async |token| self.client.revoke(&token).await).await;
        match revoked {
            Ok(Ok(())) => tracing::debug!(repository = %target.repo, "installation token revoked"),
            Ok(Err(error)) => tracing::debug!(%error, "a token was not revoked: it ends within the hour"),
            Err(error) => tracing::debug!(%error, "a token was not revoked: it ends within the hour"),
        }
    }

    async fn with_permit<T>(
        &self,
        target: &Target,
        ask: Ask,
        request: impl Future<Output = (Result<T, Failure>, Observed)>,
    ) -> Result<Result<T, Failure>, CallError> {
        let key = BudgetKey::Github(target.installation);
        let Ask { operation, is_retry } = ask;
        let need = Need { operation: operation.name(), tokens: 0, order: target.order, is_retry };
        let permit = self.caller.permit(&key, need, &target.patience).await?;
        self.caller.exchange(permit, &target.patience, request, |_| None).await
    }

    /// One request of a tool, with a fresh token.
    async fn request<T, F>(
        &self,
        target: &Target,
        token: &AccessToken,
        ask: Ask,
        call: impl FnOnce(AccessToken) -> F,
    ) -> Result<Result<T, Failure>, CallError>
    where
        F: Future<Output = Exchange<T>>,
    {
        let exchange = call(token.clone());
        self.with_permit(target, ask, async {
            let exchange = exchange.await;
            (exchange.result, exchange.observed)
        })
        .await
    }

    /// A request that others see. It may wait for its turn among the writes for longer than the
    /// lease is surely ours, and then another runner may be doing the same: it is given up on, as
    /// one whose answer was lost.
    async fn write<T, F>(
        &self,
        target: &Target,
        token: &AccessToken,
        ask: Ask,
        call: impl FnOnce(AccessToken) -> F,
    ) -> Result<Result<T, Failure>, CallError>
    where
        F: Future<Output = Exchange<T>>,
    {
        self.request(target, token, ask, async |token| {
            tokio::select! {
                biased;
                () = lapsed(&target.patience.leased) => {
                    Exchange { result: Err(lease_over()), observed: Observed::default() }
                }
                exchange = call(token) => exchange,
            }
        })
        .await
    }

    async fn describe(&self, target: &Target) -> Result<Repository, CallError> {
        let attempt = async |attempt: Try| {
            let token = self.token(target, attempt.refresh).await?;
            let ask = Ask::of(Operation::Repository, attempt);
            self.request(target, &token, ask, async |token| {
                self.client.repository(&token, &target.repo).await
            })
            .await
        };
        self.caller.retrying(&self.policy, &target.patience, attempt).await
    }

    async fn identity(&self, target: &Target) -> Result<Identity, CallError> {
        let attempt = async |attempt: Try| {
            let token = self.token(target, attempt.refresh).await?;
            if let Some(identity) = self.client.identity_at_hand(&token) {
                return Ok(Ok(identity));
            }
            let ask = Ask::of(Operation::User, attempt);
            self.request(target, &token, ask, async |token| self.client.identity(&token).await).await
        };
        self.caller.retrying(&self.policy, &target.patience, attempt).await
    }

    /// Whoever tried the effect before may have done so just now: an actor that died with the
    /// request on its way, a try whose answer was lost. GitHub's lists are behind its writes.
    async fn let_it_show(&self, look: Look, target: &Target) -> Result<(), CallError> {
        if look != Look::Patiently {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = target.patience.soft.cancelled() => Err(CallError::Stopped),
            () = tokio::time::sleep(self.shown_after) => Ok(()),
        }
    }

    /// Looks where it may stand already, then creates. A stranger's comment with our marker in it
    /// is not ours: the author is compared too, where GitHub tells who we are.
    async fn ensure_comment(&self, ensure: &EnsureComment) -> Result<Comment, CallError> {
        let EnsureComment { target, issue, marker, body, look } = ensure;
        let attempt = async |attempt: Try| {
            let token = self.token(target, attempt.refresh).await?;
            let look = if attempt.verify { Look::Patiently } else { *look };
            if look != Look::No {
                self.let_it_show(look, target).await?;
                let author = self.identity(target).await?.login;
                let find = Ask::of(Operation::FindComment, attempt);
                let found = self
                    .request(target, &token, find, async |token| {
                        self.client
                            .find_comment(&token, &target.repo, *issue, marker, author.as_deref())
                            .await
                    })
                    .await?;
                match found {
                    Ok(Some(comment)) => return Ok(Ok(comment)),
                    Ok(None) => {}
                    Err(failure) => return Ok(Err(failure)),
                }
            }
            let ask = Ask::of(Operation::CreateComment, attempt);
            self.write(target, &token, ask, async |token| {
                self.client.create_comment(&token, &target.repo, *issue, body).await
            })
            .await
        };
        self.caller.retrying(&self.policy, &target.patience, attempt).await
    }

    /// An edit says the same however often it is made: an unknown outcome is just repeated.
    async fn edit_comment(&self, edit: &EditComment) -> Result<(), CallError> {
        let EditComment { target, id, body } = edit;
        let attempt = async |attempt: Try| {
            let token = self.token(target, attempt.refresh).await?;
            let ask = Ask::of(Operation::UpdateComment, attempt);
            self.write(target, &token, ask, async |token| {
                self.client.update_comment(&token, &target.repo, *id, body).await
            })
            .await
        };
        self.caller.retrying(&self.policy, &target.patience, attempt).await.map(|_| ())
    }

    async fn ensure_pull(&self, ensure: &EnsurePull) -> Result<Pull, CallError> {
        let EnsurePull { target, branch, base, title, body, look } = ensure;
        let new = NewPull {
            title: title.clone(),
            body: body.clone(),
            head: branch.clone(),
            base: base.clone(),
            draft: false,
        };
        let attempt = async |attempt: Try| {
            let token = self.token(target, attempt.refresh).await?;
            let look = if attempt.verify { Look::Patiently } else { *look };
            if look != Look::No {
                self.let_it_show(look, target).await?;
                let find = Ask::of(Operation::FindPull, attempt);
                let found = self
                    .request(target, &token, find, async |token| {
                        self.client.find_pull(&token, &target.repo, branch).await
                    })
                    .await?;
                match found {
                    Ok(Some(pull)) => return Ok(Ok(pull)),
                    Ok(None) => {}
                    Err(failure) => return Ok(Err(failure)),
                }
            }
            let ask = Ask::of(Operation::CreatePull, attempt);
            self.write(target, &token, ask, async |token| {
                self.client.create_pull(&token, &target.repo, &new).await
            })
            .await
        };
        self.caller.retrying(&self.policy, &target.patience, attempt).await
    }
}

/// Nobody knows whether the request was sent before its time was over.
pub(crate) fn lease_over() -> Failure {
    Failure {
        verdict: Verdict::Verify,
        provider: Provider::Github,
        operation: "write",
        status: None,
        message: "the lease may have ended before the answer came".to_owned(),
        request_id: None,
        maybe_charged: false,
        unhealthy: false,
    }
}

/// Whose token it is.
fn place(target: &Target) -> (u64, String) {
    (target.installation, target.repo.to_string())
}

impl Actor for Github {
    type Context = Context<Self>;
}

/// Each message runs as a future beside the mailbox, timed until it has ended.
macro_rules! handles {
    ($($message:ident => |$calls:ident, $asked:ident| $work:expr;)*) => {$(
        impl Handler<Metered<$message>> for Github {
            type Result = ResponseFuture<<$message as Message>::Result>;

            fn handle(&mut self, message: Metered<$message>, _: &mut Self::Context) -> Self::Result {
                let ($asked, handling) = message.open();
                let $calls = Arc::clone(&self.calls);
                Box::pin(async move {
                    let answer = $work;
                    drop(handling);
                    answer
                })
            }
        }
    )*};
}

handles! {
    Describe => |calls, asked| calls.describe(&asked.target).await;
    GetToken => |calls, asked| calls.token(&asked.target, asked.refresh).await.map(|token| token.secret);
    WhoAmI => |calls, asked| calls.identity(&asked.target).await;
    EnsureComment => |calls, asked| calls.ensure_comment(&asked).await;
    EditComment => |calls, asked| calls.edit_comment(&asked).await;
    EnsurePull => |calls, asked| calls.ensure_pull(&asked).await;
    Enter => |calls, asked| calls.enter(&asked.target);
    Leave => |calls, asked| calls.leave(&asked.target, asked.ended).await;
}
