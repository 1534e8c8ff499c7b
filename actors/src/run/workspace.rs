//! The run's workspace: opened when first needed, from the base commit and the journal's patch.

use secrecy::SecretString;
use steadfast_agent::workspace::{Checkout, OpenSpec, Published};
use steadfast_core::failure::{Failure, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::journal::Event;

use super::{Outcome, Run};
use crate::accountant::{BudgetKey, Need};
use crate::calls::{CallError, Try};
use crate::github::{Describe, GetToken, lease_over};
use crate::stop::lapsed;

impl Run {
    /// The first opening: the repository is looked up and cloned, and the prompts rendered.
    pub(super) async fn prepare(&mut self) -> Result<(), Outcome> {
        let base_branch = match &self.job.ref_name {
            Some(name) => name.strip_prefix("refs/heads/").unwrap_or(name).to_owned(),
            None => {
                let describe = Describe { target: self.target() };
                match self.deps.github.send(describe).await.unwrap_or_else(|error| Err(error.into())) {
                    Ok(repository) => repository.default_branch,
                    Err(error) => return self.no_result(error).await,
                }
            }
        };
        let opened = self.open(base_branch.clone(), self.job.commit_sha.clone(), Vec::new()).await;
        let workspace = match opened {
            Ok(workspace) => workspace,
            Err(error) => return self.no_result(error).await,
        };
        let base_commit = workspace.base_commit().to_owned();
        let conventions = workspace.conventions().await;
        let rendered =
            self.deps.prompts.render(&self.deps.agent, &self.job, &base_branch, conventions.as_deref());
        self.workspace = Some(workspace);
        match rendered {
            Ok(prompts) => {
                tracing::info!(base_branch, base_commit, "workspace opened");
                let (system_prompt, task_prompt) = (prompts.system, prompts.task);
                let started = Event::Started { base_commit, base_branch, system_prompt, task_prompt };
                self.journal(started, None).await
            }
            Err(error) => Err(self.requeue(&error.to_string())),
        }
    }

    /// Makes sure that the workspace is open and as the journal has it. False where the job was
    /// given its end, or the run was told to stop.
    pub(super) async fn open_workspace(&mut self) -> Result<bool, Outcome> {
        if self.workspace.is_some() {
            return Ok(true);
        }
        let Some((commit, branch)) = self.agent.started() else { return Ok(false) };
        let (commit, branch) = (commit.to_owned(), branch.to_owned());
        match self.open(branch, Some(commit), self.patch.clone()).await {
            Ok(workspace) => {
                tracing::info!(patch_bytes = self.patch.len(), "workspace restored");
                workspace.recall(self.agent.finished_calls()).await;
                self.workspace = Some(workspace);
                Ok(true)
            }
            Err(error) => self.no_result(error).await.map(|()| false),
        }
    }

    async fn open(
        &self,
        base: String,
        commit: Option<String>,
        patch: Vec<u8>,
    ) -> Result<Box<dyn Checkout>, CallError> {
        let remote = self.remote();
        self.with_token("fetch", |token| {
            let spec = OpenSpec {
                job: self.job.id.clone(),
                remote: remote.clone(),
                base_branch: base.clone(),
                commit: commit.clone(),
                patch: patch.clone(),
            };
            self.deps.workspaces.open(spec, token)
        })
        .await
    }

    /// Commits and pushes.
    pub(super) async fn publish(&self, branch: &str, message: &str) -> Result<Published, CallError> {
        let (Some(workspace), Some(identity)) = (&self.workspace, &self.identity) else {
            return Err(CallError::Stopped);
        };
        self.with_token("push", |token| workspace.publish(branch, message, identity, token)).await
    }

    /// Layer 2 around a git operation, each try with a token that is fresh and a permit: while the
    /// remote fails, the job parks and no run is spent on it.
    async fn with_token<T, F>(
        &self,
        operation: &'static str,
        git: impl Fn(Option<SecretString>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let patience = self.stop.patience();
        let policy = &self.deps.settings.github_retry;
        let attempt = async |Try { refresh, is_retry, .. }| {
            let token = self.deps.github.send(GetToken { target: self.target(), refresh }).await??;
            let need = Need { operation, tokens: 0, order: self.order(), is_retry };
            let permit = self.deps.caller.permit(&BudgetKey::Git, need, &patience).await?;
            // Several exchanges with the remote: the next of them is not to begin after the lease.
            let run = async {
                let result = tokio::select! {
                    biased;
                    () = lapsed(&patience.leased) => Err(Failure { operation, ..lease_over() }),
                    result = git(Some(token)) => result,
                };
                (result, Observed::default())
            };
            self.deps.caller.exchange(permit, &patience, run, |_| None).await
        };
        self.deps.caller.retrying(policy, &patience, attempt).await
    }

    /// The newest patch of the workspace.
    pub(super) async fn read_patch(&self) -> Result<Vec<u8>, Outcome> {
        let Some(workspace) = &self.workspace else { return Ok(Vec::new()) };
        workspace.patch().await.map_err(|failure| match failure.verdict {
            // This machine has no room: that costs no attempt.
            Verdict::Retry { after: Some(wait) } => {
                Outcome::Parked { until: self.now() + wait, why: failure.to_string() }
            }
            Verdict::Retry { after: None }
            | Verdict::WaitUntil { .. }
            | Verdict::Refresh
            | Verdict::Verify
            | Verdict::Shrink
            | Verdict::Fatal { .. } => self.requeue(&failure.to_string()),
        })
    }

    /// Where the repository is cloned from: `{github.web_url}/{owner}/{name}.git`.
    fn remote(&self) -> url::Url {
        let mut remote = self.deps.git_url.clone();
        let path = format!(
            "{}/{}/{}.git",
            remote.path().trim_end_matches('/'),
            self.job.repo_owner,
            self.job.repo_name
        );
        remote.set_path(&path);
        remote
    }
}
