//! The end of a job and the words for it: progress comment, parking, settlement.

use serde_json::json;
use steadfast_agent::texts::{ProgressState, Tally, progress_text, what_next};
use steadfast_core::effect::{EffectKey, EffectOutcome, marker};
use steadfast_core::end::{End, EndStatus};
use steadfast_core::failure::{GateReason, Provider};
use steadfast_core::journal::Event;
use steadfast_core::time::Timestamp;
use steadfast_store::Settlement;

use super::{Outcome, Run};
use crate::calls::CallError;
use crate::github::{EditComment, EnsureComment, Look};

impl Run {
    /// Tells the issue of the end, then settles. Where GitHub lets nobody in for a while, the job
    /// parks with its end in the journal and tells later; where it fails, another run tells, as
    /// long as there are attempts left.
    pub(super) async fn conclude(&mut self, end: &End) -> Result<Outcome, Outcome> {
        while let Err(error) = self.tell(ProgressState::Ended(end, self.tally())).await {
            match error {
                // Such a door opens when a person acts: the status hash tells until then.
                CallError::Park { reason: GateReason::Credentials | GateReason::Quota, why, .. } => {
                    tracing::warn!(why, "the issue could not be told of the end");
                    break;
                }
                CallError::Park { until, why, .. } => return Ok(Outcome::Parked { until, why }),
                // Called off on the way: what has ended has, and is still to be told.
                CallError::Stopped => self.check_stop().await?,
                CallError::Exhausted { .. } | CallError::ActorDied(_) => {
                    tracing::warn!(%error, "the issue could not be told of the end");
                    match self.requeue(&error.to_string()) {
                        Outcome::Ended(_) => break,
                        another_run => return Ok(another_run),
                    }
                }
                CallError::Fatal(_) => {
                    tracing::warn!(%error, "the issue could not be told of the end");
                    break;
                }
            }
        }
        Ok(self.settlement(end))
    }

    /// Makes the progress comment say where the job stands; makes it first, where it is missing.
    pub(super) async fn tell(&mut self, state: ProgressState<'_>) -> Result<(), CallError> {
        let Some(issue) = self.job.task_params.issue_number.filter(|_| !self.no_comment) else {
            return Ok(());
        };
        let body = progress_text(&self.job, state);
        if let Some(id) = self.agent.progress_comment() {
            let edit = EditComment { target: self.target(), id, body };
            return self.deps.github.send(edit).await?;
        }
        // Not journaled: the marker finds it, and nothing comes after it.
        let marker = marker(&self.job.id, &EffectKey::Progress);
        let ensure = EnsureComment { target: self.target(), issue, marker, body, look: Look::Patiently };
        self.deps.github.send(ensure).await?.map(|_| ())
    }

    /// The progress comment, before the first model call of a job. False where the run has something
    /// else to do than to go on.
    pub(super) async fn progress_comment(&mut self) -> Result<bool, Outcome> {
        let Some(issue) = self.job.task_params.issue_number.filter(|_| !self.no_comment) else {
            return Ok(true);
        };
        if self.agent.progress_comment().is_some() {
            return Ok(true);
        }
        let key = EffectKey::Progress;
        let look = self.announce(&key).await?;
        let body = progress_text(&self.job, ProgressState::Started);
        let marker = marker(&self.job.id, &key);
        let ensure = EnsureComment { target: self.target(), issue, marker, body, look };
        match self.deps.github.send(ensure).await.unwrap_or_else(|error| Err(error.into())) {
            Ok(comment) => {
                let outcome = EffectOutcome::Comment { id: comment.id, url: comment.url };
                self.journal(Event::EffectConfirmed { key, outcome }, None).await?;
                Ok(true)
            }
            Err(error) if super::effects::is_about_the_call(&error) => {
                tracing::warn!(%error, "the issue takes no comment: going on without");
                self.no_comment = true;
                Ok(true)
            }
            Err(error) => {
                // What is refused for good is not tried again at the end: the status hash tells it.
                self.no_comment = matches!(error, CallError::Fatal(_));
                self.no_result(error).await.map(|()| false)
            }
        }
    }

    /// Puts the job away; a long wait is told on the issue, unless GitHub itself is what is waited for.
    pub(super) async fn park(
        &mut self,
        until: Timestamp,
        provider: Provider,
        reason: GateReason,
        why: String,
    ) -> Outcome {
        let wait = until.since(self.deps.clock.now());
        let until = self.by_the_store(until);
        if wait > self.deps.settings.job.report_wait_over
            && provider != Provider::Github
            && self.agent.progress_comment().is_some()
        {
            let state = ProgressState::Waiting { until, reason };
            if let Err(error) = self.tell(state).await {
                tracing::debug!(%error, "the issue could not be told of the wait");
            }
        }
        Outcome::Parked { until, why }
    }

    /// What the job has taken so far.
    pub(super) fn tally(&self) -> Tally {
        let (spend, counts) = (self.agent.spend(), self.claim.counts);
        Tally {
            steps: self.position,
            turns: spend.turns,
            tokens: spend.usage.total(),
            cost: spend.cost,
            waits: counts.waits,
            crashes: counts.crashes,
        }
    }

    /// The end as the status hash has it.
    pub(super) fn settlement(&self, end: &End) -> Outcome {
        let spend = self.agent.spend();
        let counts = self.claim.counts;
        let (prompt, completion) = (spend.usage.prompt_tokens, spend.usage.completion_tokens);
        let mut result = json!({
            "success": end.status == EndStatus::Completed,
            "summary": end.summary,
            "reason": end.reason,
            "iterations": spend.turns,
            "branchName": end.branch,
            "prUrl": end.pr_url,
            "tokens": prompt.saturating_add(completion),
            "promptTokens": prompt,
            "completionTokens": completion,
            "waits": counts.waits,
            "runs": counts.runs,
            "crashes": counts.crashes,
            "attempts": counts.attempts,
            "steps": self.position,
            "cost": spend.cost,
            "retries": self.claim.retries,
            "next": what_next(end.reason),
        });
        if end.status == EndStatus::Failed {
            result["error"] = json!(end.summary);
        }
        let reason = serde_json::to_value(end.reason).ok().and_then(|word| word.as_str().map(str::to_owned));
        let fields = vec![
            ("endReason".to_owned(), reason.unwrap_or_default()),
            ("turns".to_owned(), spend.turns.to_string()),
            ("promptTokens".to_owned(), prompt.to_string()),
            ("completionTokens".to_owned(), completion.to_string()),
            ("cost".to_owned(), format!("{:.6}", spend.cost)),
            ("endStep".to_owned(), self.position.to_string()),
            ("endSummary".to_owned(), end.summary.clone()),
            ("next".to_owned(), what_next(end.reason).unwrap_or("nothing: it is done").to_owned()),
        ];
        Outcome::Ended(Settlement { status: end.status, result, fields })
    }
}
