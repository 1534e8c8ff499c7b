//! One event into the state: [`Agent::apply`].

use steadfast_core::chat::{FinishReason, ModelAnswer};
use steadfast_core::effect::{EffectKey, EffectOutcome};
use steadfast_core::end::{End, EndReason, EndStatus};
use steadfast_core::journal::Event;

use super::conversation::Conversation;
use super::repeats::{Repeats, Repetition};
use super::{Agent, Effect, Pending, ReplayError, Start, Todo, Trouble, short, words};
use crate::prompts::sanitise::{cap, one_line};
use crate::tools::{Checked, check_call};

/// Most bytes of the model's last words that an end repeats.
const MAX_LAST_WORDS: usize = 1_000;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    NotStarted,
    ModelDue,
    CallDue,
    OutcomeKnown,
    Ended,
}

impl Agent {
    /// Folds one journaled event into the state. Replay is this, for all events in order. After an
    /// error the state is as it was before.
    pub fn apply(&mut self, event: &Event) -> Result<(), ReplayError> {
        self.check_time(event)?;
        match event {
            Event::Started { base_commit, base_branch, system_prompt, task_prompt } => {
                self.start =
                    Some(Start { base_commit: base_commit.clone(), base_branch: base_branch.clone() });
                self.conversation = Conversation::begin(system_prompt, task_prompt, &self.tools);
            }
            Event::ModelAnswered { answer, endpoint } => self.model_answered(answer, endpoint.as_deref()),
            Event::ContextTooLong => {
                self.trouble.too_long = !self.window.too_long(&self.settings, &mut self.conversation);
                self.repeats.forgive();
            }
            Event::ToolStarted { call_id } => {
                self.check_call_is_due(event, call_id)?;
                self.running = true;
            }
            Event::ToolFinished { call_id, output, is_error } => {
                let is_due = self.pending.front().is_some_and(|pending| pending.call.id == *call_id);
                if !is_due && self.checks.record(call_id, output, *is_error) {
                    return Ok(());
                }
                self.check_call_is_due(event, call_id)?;
                self.call_answered(output, *is_error);
            }
            Event::EffectAnnounced { key } => {
                self.effects.entry(key.clone()).or_insert(Effect::Announced);
            }
            Event::EffectConfirmed { key, outcome } => self.effect_confirmed(key, outcome)?,
            Event::NothingToPublish => {
                self.outcome = Some(End {
                    status: EndStatus::Completed,
                    reason: EndReason::NoChanges,
                    summary: short(self.summary()),
                    branch: None,
                    pr_url: None,
                });
            }
            Event::ChangeRefused { why } => {
                self.trouble.refused += 1;
                self.trouble.refusal.clone_from(why);
                self.call_answered(&words::change_refused(why), true);
            }
            Event::Ended { end } => self.ended = Some(end.clone()),
            Event::Reopened => {
                self.ended = None;
                self.trouble = Trouble::default();
                self.repeats = Repeats::default();
                self.window.held();
                self.purse.begin_anew();
            }
        }
        Ok(())
    }

    fn stage(&self) -> Stage {
        if self.ended.is_some() {
            Stage::Ended
        } else if self.outcome.is_some() {
            Stage::OutcomeKnown
        } else if self.start.is_none() {
            Stage::NotStarted
        } else if self.pending.is_empty() {
            Stage::ModelDue
        } else {
            Stage::CallDue
        }
    }

    /// Whether the event can come now at all. The progress comment can be written at any time.
    fn check_time(&self, event: &Event) -> Result<(), ReplayError> {
        let stage = self.stage();
        let fits = match event {
            Event::EffectAnnounced { key: EffectKey::Progress }
            | Event::EffectConfirmed { key: EffectKey::Progress, .. }
            | Event::Reopened => true,
            Event::Started { .. } => stage == Stage::NotStarted,
            Event::ModelAnswered { .. } | Event::ContextTooLong => stage == Stage::ModelDue,
            Event::ToolStarted { .. }
            | Event::ToolFinished { .. }
            | Event::EffectAnnounced { .. }
            | Event::EffectConfirmed { .. }
            | Event::NothingToPublish
            | Event::ChangeRefused { .. } => stage == Stage::CallDue,
            Event::Ended { .. } => stage != Stage::Ended,
        };
        if fits {
            return Ok(());
        }
        let state = match stage {
            Stage::NotStarted => "before the start",
            Stage::ModelDue => "while the model is due",
            Stage::CallDue => "while a call is due",
            Stage::OutcomeKnown => "once the outcome is known",
            Stage::Ended => "after the end",
        };
        Err(ReplayError::Unexpected { event: event.kind(), state })
    }

    fn check_call_is_due(&self, event: &Event, call_id: &str) -> Result<(), ReplayError> {
        match self.pending.front() {
            Some(pending) if pending.call.id == call_id => Ok(()),
            other => {
                let due = other.map(|pending| pending.call.id.clone()).unwrap_or_default();
                Err(ReplayError::OtherCall { event: event.kind(), found: call_id.to_owned(), due })
            }
        }
    }

    fn model_answered(&mut self, answer: &ModelAnswer, endpoint: Option<&str>) {
        self.purse.pay(&self.settings, answer, endpoint, self.conversation.tokens());
        self.window.held();
        self.trouble.too_long = false;
        self.conversation.counted(answer.usage);
        self.conversation.model_said(answer.content.as_deref(), &answer.tool_calls);
        if answer.tool_calls.is_empty() {
            self.no_call(answer);
            self.before_next_turn();
        } else {
            self.take_calls(answer);
        }
    }

    /// An answer without a tool call is never a success.
    fn no_call(&mut self, answer: &ModelAnswer) {
        let said = answer.content.as_deref().map(str::trim).unwrap_or("");
        let patience = self.settings.max_format_errors;
        let trouble = &mut self.trouble;
        let reply = match &answer.finish {
            FinishReason::ContentFilter => {
                trouble.empty += 1;
                words::filtered()
            }
            FinishReason::Length if said.is_empty() => {
                trouble.empty += 1;
                words::go_on()
            }
            FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Other(_) if said.is_empty() => {
                trouble.empty += 1;
                words::empty()
            }
            FinishReason::Length if trouble.cut < patience => {
                trouble.empty = 0;
                trouble.cut += 1;
                words::go_on()
            }
            FinishReason::Length | FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Other(_) => {
                trouble.empty = 0;
                trouble.wordy += 1;
                trouble.last_words = cap(said, MAX_LAST_WORDS);
                words::no_tool_call(patience.saturating_sub(trouble.wordy))
            }
        };
        self.conversation.runner_said(&reply);
    }

    fn take_calls(&mut self, answer: &ModelAnswer) {
        (self.trouble.wordy, self.trouble.cut, self.trouble.empty) = (0, 0, 0);
        let most = self.settings.max_calls_per_turn;
        let cut = (answer.finish == FinishReason::Length).then(words::cut_call).unwrap_or_default();
        let mut finished = false;
        for (index, call) in (0u32..).zip(&answer.tool_calls) {
            let is_last = index as usize + 1 == answer.tool_calls.len();
            let todo = match check_call(call) {
                _ if finished => Todo::Refuse(words::after_finish()),
                _ if index >= most => Todo::Refuse(words::too_many_calls(most)),
                Err(why) => Todo::Refuse(if is_last { format!("{why}{cut}") } else { why }),
                Ok(Checked::CommentOnIssue { message }) => Todo::Comment { message },
                Ok(Checked::Finish { summary }) => {
                    finished = true;
                    Todo::Finish { summary }
                }
                Ok(
                    checked @ (Checked::ListDirectory { .. }
                    | Checked::ReadFile { .. }
                    | Checked::SearchCode { .. }
                    | Checked::EditFile { .. }
                    | Checked::WriteFile { .. }
                    | Checked::MoveFile { .. }
                    | Checked::DeleteFile { .. }
                    | Checked::RunCommand { .. }),
                ) => Todo::Run { read_only: checked.read_only() },
            };
            self.pending.push_back(Pending { call: call.clone(), position: self.calls, todo });
            self.calls += 1;
        }
    }

    /// The first pending call has its result.
    fn call_answered(&mut self, output: &str, is_error: bool) {
        let Some(Pending { call, todo, .. }) = self.pending.pop_front() else { return };
        self.running = false;
        self.conversation.answered(&call, output);
        let may_change = matches!(todo, Todo::Run { read_only: false });
        self.changed |= may_change;
        if matches!(todo, Todo::Finish { .. }) {
            if self.checks.new_failures(&self.settings).is_some() {
                self.checks.told();
            }
            self.checks.forget_after();
        } else {
            let changes = may_change && !is_error;
            match self.repeats.see(&call, output, changes, self.settings.max_repeats) {
                Repetition::None => {}
                Repetition::Tell(times) => self.conversation.note(&words::repeated(times)),
                Repetition::Stuck => self.trouble.stuck_on = Some(one_line(&call.name, 60)),
            }
        }
        if matches!(todo, Todo::Run { .. }) && !is_error {
            self.finished.push(call);
        }
        if self.pending.is_empty() {
            self.before_next_turn();
        }
    }

    fn effect_confirmed(&mut self, key: &EffectKey, outcome: &EffectOutcome) -> Result<(), ReplayError> {
        let wrong = |why| Err(ReplayError::Effect { effect: key.name(), why });
        if !self.effects.contains_key(key) {
            return wrong("without being announced");
        }
        let fits = match key {
            EffectKey::Progress | EffectKey::Comment(_) => matches!(outcome, EffectOutcome::Comment { .. }),
            EffectKey::Branch => matches!(outcome, EffectOutcome::Branch { .. }),
            EffectKey::PullRequest => matches!(outcome, EffectOutcome::PullRequest { .. }),
        };
        if !fits {
            return wrong("as something else");
        }
        if let EffectOutcome::PullRequest { url, .. } = outcome {
            self.outcome = Some(End {
                status: EndStatus::Completed,
                reason: EndReason::PullRequest,
                summary: short(self.summary()),
                branch: self.branch().map(str::to_owned),
                pr_url: Some(url.clone()),
            });
        }
        self.effects.insert(key.clone(), Effect::Confirmed(outcome.clone()));
        Ok(())
    }

    /// The summary of the `finish` that is due.
    fn summary(&self) -> &str {
        match self.pending.front().map(|pending| &pending.todo) {
            Some(Todo::Finish { summary }) => summary,
            Some(Todo::Run { .. } | Todo::Refuse(_) | Todo::Comment { .. }) | None => "",
        }
    }

    /// Everything is answered: what the model is told before its next turn, and room for it.
    fn before_next_turn(&mut self) {
        if let Some(warning) = self.purse.warning(&self.settings) {
            self.conversation.note(&warning);
        }
        if self.window.keep_within(&self.settings, &mut self.conversation) {
            self.repeats.forgive();
        }
    }
}
