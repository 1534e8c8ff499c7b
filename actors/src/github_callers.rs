//! GitHub's callers alone, Github and RateAccountant wired as in the whole system, for programs that
//! bring their own runs, such as a benchmark. Nobody restarts them.

use std::sync::Arc;

use actix::Actor;
use secrecy::SecretString;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_github::{Comment, GithubClient, Pull, Repo, Repository};
use steadfast_store::Ledger;
use tokio::time::Instant;

use crate::Settings;
use crate::accountant::{Depart, Fleetwide, Halt, RateAccountant};
use crate::address::{Address, Binding, address};
use crate::calls::{CallError, Caller, Order};
use crate::dice::Dice;
use crate::github::{Describe, EditComment, EnsureComment, EnsurePull, GetToken, Github, Look, Target};
use crate::held::Held;
use crate::meter::Meter;
use crate::stop::Stop;
use crate::supervisor::{Lifeline, Supervisor};

/// A process's Github and RateAccountant.
pub struct GithubCallers {
    github: Address<Github>,
    accountant: Address<RateAccountant>,
    held: Held,
    stop: Stop,
    _bindings: (Binding<Github>, Binding<RateAccountant>),
}

impl GithubCallers {
    /// Starts both on the current arbiter. Nothing is sent before [`GithubCallers::leased_until`].
    /// The process is called `me` at `ledger`, over which it shares its budget.
    pub fn start(
        settings: Settings,
        client: GithubClient,
        clock: Arc<dyn Clock>,
        ledger: Arc<dyn Ledger>,
        me: String,
    ) -> Self {
        let (settings, client) = (Arc::new(settings), Arc::new(client));
        let capacity = settings.actors.mailbox;
        // Without a binding: the death of a child is told to nobody.
        let (nobody, _) = address::<Supervisor>(Meter::new("supervisor"), capacity);
        let (github, github_binding) = address::<Github>(Meter::new("github"), capacity);
        let (accountant, binding) = address::<RateAccountant>(Meter::new("rate_accountant"), capacity);
        let lifeline = |child| Lifeline::new(child, nobody.clone());
        let to_itself = accountant.clone();
        let actor = RateAccountant::new(&settings, Arc::clone(&clock), to_itself, lifeline(0));
        binding.bind(actor.sharing(Fleetwide { ledger, me }).start());
        let (park_after, dice) = (settings.job.park_after, Dice::from_os());
        let caller = Caller { accountant: accountant.clone(), clock, dice, park_after };
        let actor = Github::new(client, caller, &settings, Arc::new(|_| {}), lifeline(1));
        github_binding.bind(actor.start());
        let held = Held::new();
        let stop = Stop::new(held.leased());
        GithubCallers { github, accountant, held, stop, _bindings: (github_binding, binding) }
    }

    /// Where a job's calls go, and its place among those that wait.
    pub fn target(&self, repo: Repo, installation: u64, admitted_at: Timestamp) -> Target {
        let order = Order { priority: 0, admitted: admitted_at };
        Target { repo, installation, order, patience: self.stop.patience() }
    }

    /// Asks for the repository.
    pub async fn describe(&self, target: Target) -> Result<Repository, CallError> {
        self.github.send(Describe { target }).await?
    }

    /// Asks for a token for git.
    pub async fn token(&self, target: Target) -> Result<SecretString, CallError> {
        self.github.send(GetToken { target, refresh: false }).await?
    }

    /// Makes sure that one comment with the marker stands, looking for it first.
    pub async fn comment(
        &self,
        target: Target,
        issue: u64,
        marker: String,
        body: String,
    ) -> Result<Comment, CallError> {
        self.github.send(EnsureComment { target, issue, marker, body, look: Look::AtOnce }).await?
    }

    /// Makes a comment say something else.
    pub async fn edit(&self, target: Target, id: u64, body: String) -> Result<(), CallError> {
        self.github.send(EditComment { target, id, body }).await?
    }

    /// Makes sure that one pull request for a branch stands; looks for it first where it may.
    pub async fn pull(
        &self,
        target: Target,
        (branch, base): (String, String),
        (title, body): (String, String),
        look: Look,
    ) -> Result<Pull, CallError> {
        self.github.send(EnsurePull { target, branch, base, title, body, look }).await?
    }

    /// The process's leases are surely its own until then: calls are sent.
    pub fn leased_until(&self, until: Instant) {
        self.held.leased_until(until);
    }

    /// The process leaves: another may keep the budget.
    pub async fn depart(&self) {
        if let Err(error) = self.accountant.send(Depart).await {
            tracing::debug!(%error, "the accountant was gone before");
        }
    }
}

impl Drop for GithubCallers {
    /// The process is dead: what it kept is left to the end of its lease.
    fn drop(&mut self) {
        self.accountant.tell_from_drop(Halt);
    }
}
