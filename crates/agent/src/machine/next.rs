//! From the state to the next action: [`Agent::next`].

use steadfast_core::chat::{ModelRequest, ToolCall};
use steadfast_core::effect::{EffectKey, EffectOutcome};
use steadfast_core::end::{End, EndReason};

use super::checks::When;
use super::{Action, Agent, Effect, Pending, Todo, words};
use crate::texts::{branch_name, comment_body, commit_message, pull_body, pull_title};

impl Agent {
    /// What is to be done now; a function of the state alone.
    pub fn next(&self) -> Action {
        if let Some(end) = &self.ended {
            return Action::Done(end.clone());
        }
        if let Some(end) = &self.outcome {
            return Action::End(end.clone());
        }
        if self.start.is_none() {
            return Action::Prepare;
        }
        let Some(pending) = self.pending.front() else {
            return self.limit().map_or_else(|| Action::CallModel(self.request()), Action::End);
        };
        if let Some(call) = self.due_check(pending) {
            return Action::RunTool { call, announce: false };
        }
        let refuse = |output| Action::Refuse { call_id: pending.call.id.clone(), output };
        match &pending.todo {
            Todo::Refuse(why) => refuse(why.clone()),
            Todo::Run { read_only } => {
                Action::RunTool { call: pending.call.clone(), announce: !read_only && !self.running }
            }
            Todo::Comment { message } => self.comment(pending, message),
            Todo::Finish { summary } => match self.checks.new_failures(&self.settings) {
                Some(failures) if self.branch().is_none() => refuse(words::checks_fail(&failures)),
                Some(_) | None => self.publish(summary),
            },
        }
    }

    fn request(&self) -> ModelRequest {
        ModelRequest {
            messages: self.conversation.messages(),
            tools: self.tools.clone(),
            max_answer_tokens: self.settings.max_answer_tokens,
        }
    }

    /// The check that has to run before this call does.
    fn due_check(&self, pending: &Pending) -> Option<ToolCall> {
        match &pending.todo {
            Todo::Run { read_only: false } if !self.changed && !self.running => {
                self.checks.due(&self.settings, When::Before)
            }
            // Once the branch stands it is too late.
            Todo::Finish { .. } if self.changed && self.branch().is_none() => {
                self.checks.due(&self.settings, When::After)
            }
            Todo::Run { .. } | Todo::Finish { .. } | Todo::Refuse(_) | Todo::Comment { .. } => None,
        }
    }

    fn comment(&self, pending: &Pending, message: &str) -> Action {
        let refuse = |output| Action::Refuse { call_id: pending.call.id.clone(), output };
        let key = EffectKey::Comment(pending.position);
        let is_other = |other: &&EffectKey| matches!(other, EffectKey::Comment(_)) && **other != key;
        let others = self.effects.keys().filter(is_other).count();
        if self.job.task_params.issue_number.is_none() {
            return refuse(words::no_issue());
        }
        if others >= self.settings.max_comments as usize {
            return refuse(words::too_many_comments(self.settings.max_comments));
        }
        let body = comment_body(&self.job, &key, message);
        Action::Comment { key, call_id: pending.call.id.clone(), body }
    }

    /// Push, then the pull request.
    fn publish(&self, summary: &str) -> Action {
        match (self.effects.get(&EffectKey::Branch), &self.start) {
            (Some(Effect::Confirmed(EffectOutcome::Branch { name, .. })), Some(start)) => Action::OpenPull {
                branch: name.clone(),
                base: start.base_branch.clone(),
                title: pull_title(&self.job, summary),
                body: pull_body(&self.job, summary, self.checks.report(&self.settings).as_deref()),
            },
            (Some(Effect::Confirmed(_) | Effect::Announced) | None, _) => Action::Push {
                branch: branch_name(&self.settings.branch_prefix, &self.job),
                message: commit_message(&self.job, summary),
            },
        }
    }

    /// The end, where there must be no further turn.
    fn limit(&self) -> Option<End> {
        let trouble = &self.trouble;
        if trouble.too_long {
            let why = "the conversation no longer fits the model's context window, though all that can be was \
                       left out; raise llm.context_window only if the model takes more";
            return Some(self.failed(EndReason::ContextTooLong, why));
        }
        if trouble.refused > self.settings.max_refused_changes {
            let why = format!("the change must not be pushed: {}", trouble.refusal);
            return Some(self.failed(EndReason::ChangeRefused, &why));
        }
        if let Some(tool) = &trouble.stuck_on {
            let why =
                format!("the model repeated the same {tool} call with the same result, though it was told");
            return Some(self.failed(EndReason::Stuck, &why));
        }
        if trouble.wordy > self.settings.max_format_errors {
            let why = format!(
                "{} answers in a row had no tool call (agent.max_format_errors); the last was: {}",
                trouble.wordy, trouble.last_words
            );
            return Some(self.failed(EndReason::FormatErrors, &why));
        }
        if trouble.empty > 0 && trouble.empty >= self.settings.max_empty_turns {
            let why = format!("{} empty answers in a row (agent.max_empty_turns)", trouble.empty);
            return Some(self.failed(EndReason::FormatErrors, &why));
        }
        let reached = self.purse.reached(&self.settings)?;
        Some(self.failed(reached.reason, &reached.why))
    }
}
