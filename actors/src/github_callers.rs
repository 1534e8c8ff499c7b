//! GitHub's callers alone, Github and RateAccountant wired as in the whole system, for programs that
//! bring their own runs, such as a benchmark. Nobody restarts them.

use std::sync::Arc;

use actix::Actor;
use secrecy::SecretString;
use steadfast_core::time::Timestamp;
use steadfast_github::{Comment, GithubClient, Pull, Repo, Repository};
use tokio::time::Instant;

use crate::Settings;
use crate::address::{Address, Binding, address};
use crate::alone::{Alone, Process};
use crate::calls::{CallError, Order};
use crate::github::{Describe, EditComment, EnsureComment, EnsurePull, GetToken, Github, Look, Target};
use crate::meter::Meter;

/// A process's Github and RateAccountant.
pub struct GithubCallers {
    github: Address<Github>,
    alone: Alone,
    _binding: Binding<Github>,
}

impl GithubCallers {
    /// Starts both on the current arbiter. Nothing is sent before [`GithubCallers::leased_until`].
    pub fn start(settings: &Settings, client: GithubClient, process: Process) -> Self {
        let (github, binding) = address::<Github>(Meter::new("github"), settings.actors.mailbox);
        let (alone, caller) = Alone::start(settings, process);
        let actor = Github::new(Arc::new(client), caller, settings, Arc::new(|_| {}), alone.lifeline());
        binding.bind(actor.start());
        GithubCallers { github, alone, _binding: binding }
    }

    /// Where a job's calls go, and its place among those that wait.
    pub fn target(&self, repo: Repo, installation: u64, admitted_at: Timestamp) -> Target {
        let order = Order { priority: 0, admitted: admitted_at };
        Target { repo, installation, order, patience: self.alone.patience() }
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
        self.alone.leased_until(until);
    }
}
