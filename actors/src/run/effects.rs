//! Effects: announced in the journal, looked for where they may stand already, done, confirmed.

use steadfast_agent::machine::{Effect, comment_output};
use steadfast_agent::workspace::Published;
use steadfast_core::effect::{EffectKey, EffectOutcome, marker};
use steadfast_core::failure::{FatalReason, Verdict};
use steadfast_core::journal::Event;

use super::{Outcome, Run};
use crate::calls::CallError;
use crate::github::{EnsureComment, EnsurePull, Look, WhoAmI};

/// Whether a comment's error speaks of this one issue only (it is not there, is locked, issues are
/// disabled), so that the model is told, or the comment left out. Whether the repository is there
/// was seen when it was cloned, and is seen again by the push.
pub(super) fn is_about_the_call(error: &CallError) -> bool {
    let CallError::Fatal(failure) = error else { return false };
    let of_this_issue = [FatalReason::Rejected, FatalReason::NotFound];
    of_this_issue.iter().any(|why| failure.verdict == Verdict::Fatal { why: *why })
}

impl Run {
    /// Announces an effect in the journal. Returns how to look whether it stands already: where it
    /// was announced before, or may have been in a journal that was dropped for a retry, it may have
    /// been done just now. And a store that lost its newest writes in a crash has forgotten the
    /// announcement, and the very run: a comment is looked for even so. (Of a pull request GitHub
    /// itself refuses the second.)
    pub(super) async fn announce(&mut self, key: &EffectKey) -> Result<Look, Outcome> {
        let known = self.agent.effect(key).is_some();
        if !known {
            self.journal(Event::EffectAnnounced { key: key.clone() }, None).await?;
        }
        Ok(match key {
            _ if known || self.claim.retries > 0 => Look::Patiently,
            EffectKey::Progress | EffectKey::Comment(_) => Look::AtOnce,
            EffectKey::Branch | EffectKey::PullRequest => Look::No,
        })
    }

    /// A comment that the model asked for.
    pub(super) async fn comment(
        &mut self,
        key: EffectKey,
        call_id: String,
        body: String,
    ) -> Result<(), Outcome> {
        let Some(issue) = self.job.task_params.issue_number else { return Ok(()) };
        if let Some(Effect::Confirmed(outcome)) = self.agent.effect(&key) {
            let output = comment_output(outcome);
            return self.journal(Event::ToolFinished { call_id, output, is_error: false }, None).await;
        }
        let look = self.announce(&key).await?;
        let marker = marker(&self.job.id, &key);
        let ensure = EnsureComment { target: self.target(), issue, marker, body, look };
        match self.deps.github.send(ensure).await.unwrap_or_else(|error| Err(error.into())) {
            Ok(comment) => {
                tracing::info!(url = comment.url, "commented on the issue");
                let outcome = EffectOutcome::Comment { id: comment.id, url: comment.url };
                // The loop comes back here for the tool's own result.
                self.journal(Event::EffectConfirmed { key, outcome }, None).await
            }
            Err(error) if is_about_the_call(&error) => {
                let output = format!("the comment was refused: {error}");
                self.journal(Event::ToolFinished { call_id, output, is_error: true }, None).await
            }
            Err(error) => self.no_result(error).await,
        }
    }

    /// Commits and pushes what the workspace holds.
    pub(super) async fn push(&mut self, branch: &str, message: &str) -> Result<(), Outcome> {
        if !self.open_workspace().await? || !self.know_identity().await? {
            return Ok(());
        }
        let key = EffectKey::Branch;
        self.announce(&key).await?;
        match self.publish(branch, message).await {
            Ok(Published::Pushed { branch, sha }) => {
                tracing::info!(branch, sha, "branch pushed");
                let outcome = EffectOutcome::Branch { name: branch, sha };
                self.journal(Event::EffectConfirmed { key, outcome }, None).await
            }
            Ok(Published::Nothing) => self.journal(Event::NothingToPublish, None).await,
            Ok(Published::Refused(why)) => {
                tracing::warn!(why, "the change must not be pushed");
                self.journal(Event::ChangeRefused { why }, None).await
            }
            Err(error) => self.no_result(error).await,
        }
    }

    /// Who the commits are by; asked for once a run. False where the job was given its end.
    async fn know_identity(&mut self) -> Result<bool, Outcome> {
        if self.identity.is_some() {
            return Ok(true);
        }
        let settings = &self.deps.agent;
        let (name, email) = (settings.identity_name.clone(), settings.identity_email.clone());
        let (name, email) = if name.is_empty() || email.is_empty() {
            let asked = WhoAmI { target: self.target() };
            match self.deps.github.send(asked).await.unwrap_or_else(|error| Err(error.into())) {
                Ok(bot) => {
                    let or = |own: String, bot: String| if own.is_empty() { bot } else { own };
                    (or(name, bot.name), or(email, bot.email))
                }
                Err(error) => return self.no_result(error).await.map(|()| false),
            }
        } else {
            (name, email)
        };
        self.identity = Some(steadfast_agent::git::Identity { name, email });
        Ok(true)
    }

    /// Opens the pull request, or adopts the one that stands.
    pub(super) async fn open_pull(
        &mut self,
        branch: String,
        base: String,
        title: String,
        body: String,
    ) -> Result<(), Outcome> {
        let key = EffectKey::PullRequest;
        let look = self.announce(&key).await?;
        let ensure = EnsurePull { target: self.target(), branch, base, title, body, look };
        match self.deps.github.send(ensure).await.unwrap_or_else(|error| Err(error.into())) {
            Ok(pull) => {
                tracing::info!(url = pull.url, "pull request opened");
                let outcome = EffectOutcome::PullRequest { number: pull.number, url: pull.url };
                self.journal(Event::EffectConfirmed { key, outcome }, None).await
            }
            Err(error) => self.no_result(error).await,
        }
    }
}
