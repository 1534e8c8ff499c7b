//! One run: drives the agent's state machine from where the journal stands to an outcome.
//!
//! The loop asks the agent what is next, does it, journals what came of it, and tells the agent.
//! Nothing is done on the strength of an event that is not in the journal. Each helper answers
//! `Err(Outcome)` where the run is over, so that `?` is the way out.

mod conclude;
mod effects;
mod outcome;
mod time;
mod workspace;

use std::sync::Arc;

use steadfast_agent::git::Identity;
use steadfast_agent::machine::{Action, Agent, interrupted_output};
use steadfast_agent::prompts::Prompts;
use steadfast_agent::settings::AgentSettings;
use steadfast_agent::texts::ProgressState;
use steadfast_agent::workspace::{Checkout, Workshop};
use steadfast_core::chat::{ModelRequest, ToolCall};
use steadfast_core::end::{End, EndReason, EndStatus};
use steadfast_core::failure::{FatalReason, Verdict};
use steadfast_core::job::Job;
use steadfast_core::journal::{Event, JournalError, Step};
use steadfast_core::time::Clock;
use steadfast_github::Repo;
use steadfast_store::{Claim, StoreError};
use url::Url;

use crate::accountant::millis;
use crate::address::Address;
use crate::alerts::Alarm;
use crate::calls::{CallError, Caller, Order};
use crate::github::{Enter, Github, Leave, Target};
use crate::llm::{Answered, Complete, Llm};
use crate::meter::Meter;
use crate::persist::Persist;
use crate::stop::{Reason, Stop};

pub(crate) use outcome::Outcome;

/// What every run needs; shared by all.
pub(crate) struct RunDeps {
    pub(crate) settings: Arc<crate::Settings>,
    pub(crate) agent: Arc<AgentSettings>,
    pub(crate) prompts: Arc<Prompts>,
    pub(crate) persist: Persist,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) llm: Address<Llm>,
    pub(crate) github: Address<Github>,
    pub(crate) workspaces: Arc<dyn Workshop>,
    /// `github.web_url`: where repositories are cloned from.
    pub(crate) git_url: Url,
    /// For the retries of git itself (layer 2).
    pub(crate) caller: Caller,
    pub(crate) alerts: Alarm,
    pub(crate) job_meter: Arc<Meter>,
}

/// A run, from its claim on.
pub(crate) struct Run {
    deps: Arc<RunDeps>,
    claim: Claim,
    job: Arc<Job>,
    stop: Stop,
    agent: Agent,
    /// Steps in the journal.
    position: u32,
    /// Whether this run added a step.
    progressed: bool,
    /// The newest patch, until the workspace is open.
    patch: Vec<u8>,
    workspace: Option<Box<dyn Checkout>>,
    /// GitHub will have no progress comment (issues are disabled, say).
    no_comment: bool,
    /// The endpoint that gave the newest answer: its cache holds the conversation.
    endpoint: Option<String>,
    /// Who the commits are by, once asked for.
    identity: Option<Identity>,
    time: Option<time::StoreTime>,
}

impl Run {
    pub(crate) fn new(deps: Arc<RunDeps>, claim: Claim, stop: Stop) -> Self {
        let job = Arc::new(claim.job.clone());
        let agent = Agent::new(Arc::clone(&deps.agent), Arc::clone(&job));
        Run {
            deps,
            claim,
            job,
            stop,
            agent,
            position: 0,
            progressed: false,
            patch: Vec::new(),
            workspace: None,
            no_comment: false,
            endpoint: None,
            identity: None,
            time: None,
        }
    }

    /// Runs to an outcome. Whatever it is, the workspace is gone after it: the journal holds it.
    pub(crate) async fn drive(mut self) -> Outcome {
        let target = self.target();
        let entered = self.deps.github.send(Enter { target }).await;
        let outcome = match self.run().await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        let ended = matches!(outcome, Outcome::Ended(_));
        // Nobody stops this run any more, and its lease may be over: a token is no effect.
        let target = Target { patience: self.stop.renewed().patience(), ..self.target() };
        // Not waited for: the job's end is not to wait for a token's.
        let left = self.deps.github.try_send(Leave { target, ended });
        if let Some(error) = entered.err().or(left.err()) {
            tracing::debug!(%error, "a token is left to its end");
        }
        if let Some(workspace) = self.workspace.take() {
            workspace.remove().await;
        }
        outcome
    }

    async fn run(&mut self) -> Result<Outcome, Outcome> {
        let counts = self.claim.counts;
        if counts.crashes > self.deps.settings.job.max_crashes {
            // Even telling of it crashed the runner.
            return Ok(self.settlement(&self.poison()));
        }
        self.set_the_time().await?;
        self.restore().await?;
        if self.claim.cancel_requested {
            self.called_off().await?;
        }
        if counts.crashes == self.deps.settings.job.max_crashes {
            self.end(self.poison()).await?;
        }
        loop {
            self.check_stop().await?;
            match self.agent.next() {
                Action::Done(end) => return self.conclude(&end).await,
                Action::End(end) => self.end(end).await?,
                action if self.past_deadline() => {
                    drop(action);
                    let within = self.deps.settings.job.deadline;
                    let why =
                        format!("not done within {} (job.deadline)", humantime::format_duration(within));
                    self.end(self.agent.failed(EndReason::Deadline, &why)).await?;
                }
                Action::Prepare => self.prepare().await?,
                Action::CallModel(request) => {
                    if self.progress_comment().await? {
                        self.call_model(request).await?;
                    }
                }
                Action::RunTool { call, announce } => self.run_tool(&call, announce).await?,
                Action::Refuse { call_id, output } => {
                    self.journal(Event::ToolFinished { call_id, output, is_error: true }, None).await?;
                }
                Action::Comment { key, call_id, body } => self.comment(key, call_id, body).await?,
                Action::Push { branch, message } => self.push(&branch, &message).await?,
                Action::OpenPull { branch, base, title, body } => {
                    self.open_pull(branch, base, title, body).await?;
                }
            }
        }
    }

    /// Brings the agent to where the journal stands.
    async fn restore(&mut self) -> Result<(), Outcome> {
        let persist = &self.deps.persist;
        let stop = self.stop.patience().hard;
        let replay = persist.through("replay", &stop, || persist.store().replay(&self.job.id)).await;
        let replay = replay.map_err(|error| self.store_failed(error))?;
        let mut reopened = 0;
        for bytes in &replay.steps {
            let step = match Step::decode(bytes) {
                Ok(step) => step,
                Err(error @ JournalError::Newer { .. }) => {
                    let until = self.now() + self.deps.settings.job.retry.max;
                    return Err(Outcome::Parked { until, why: error.to_string() });
                }
                Err(error @ JournalError::Corrupt(_)) => return self.unreadable(&error.to_string()).await,
            };
            if let Err(error) = self.agent.apply(&step.event) {
                return self.unreadable(&error.to_string()).await;
            }
            reopened += u32::from(step.event == Event::Reopened);
            if let Event::ModelAnswered { endpoint, .. } = step.event {
                self.endpoint = endpoint;
            }
        }
        self.position = u32::try_from(replay.steps.len()).unwrap_or(u32::MAX);
        self.patch = replay.patch;
        while reopened < self.claim.retries {
            reopened += 1;
            self.journal(Event::Reopened, None).await?;
        }
        let interrupted = self.agent.interrupted_call().map(|call| call.id.clone());
        if let Some(call_id) = interrupted {
            let finished = Event::ToolFinished { call_id, output: interrupted_output(), is_error: true };
            self.journal(finished, None).await?;
        }
        Ok(())
    }

    /// The journal is of no use: the job ends, and says so.
    async fn unreadable(&mut self, why: &str) -> Result<(), Outcome> {
        let end = End::failed(EndReason::Journal, why);
        // Told with a fresh agent: this one stands nowhere.
        self.agent = Agent::new(Arc::clone(&self.deps.agent), Arc::clone(&self.job));
        match self.conclude(&end).await {
            Ok(outcome) | Err(outcome) => Err(outcome),
        }
    }

    fn past_deadline(&self) -> bool {
        // A job that was put off by its producer begins then.
        let begin = self.job.not_before().unwrap_or_default().max(self.claim.admitted_at);
        self.now().since(begin) > self.deps.settings.job.deadline
    }

    fn poison(&self) -> End {
        let crashes = self.claim.counts.crashes;
        let why = format!(
            "set aside: its runner crashed {crashes} times with it (job.max_crashes), after step {}",
            self.claim.counts.steps
        );
        self.agent.failed(EndReason::Poison, &why)
    }

    /// Ends the run if it was told to stop; a cancelled job gets its end.
    async fn check_stop(&mut self) -> Result<(), Outcome> {
        match self.stop.reason() {
            None => Ok(()),
            Some(Reason::Drain) => Err(Outcome::Released),
            Some(Reason::LeaseLost) => Err(Outcome::LeaseLost),
            Some(Reason::Cancelled) => {
                // What is left is to tell of the end: a second wish to call it off changes nothing.
                self.stop = self.stop.renewed();
                self.called_off().await
            }
        }
    }

    async fn called_off(&mut self) -> Result<(), Outcome> {
        let failed = self.agent.failed(EndReason::Cancelled, "called off");
        self.end(End { status: EndStatus::Cancelled, ..failed }).await
    }

    /// Journals an event, with the newest patch if the workspace changed, and tells the agent.
    async fn journal(&mut self, event: Event, patch: Option<&[u8]>) -> Result<(), Outcome> {
        let step = Step { at: self.deps.clock.now(), event };
        let steps = [step.encode()];
        let persist = &self.deps.persist;
        let stop = self.stop.patience().hard;
        let appended = persist
            .through("append", &stop, || {
                persist.store().append(&self.claim.lease, self.position, &steps, patch)
            })
            .await;
        match appended {
            Ok(()) => {}
            Err(error @ StoreError::TooLarge { .. }) => {
                let end = self.agent.failed(EndReason::Journal, &error.to_string());
                if let Err(error) = self.tell(ProgressState::Ended(&end, self.tally())).await {
                    tracing::warn!(%error, "the issue could not be told of the end");
                }
                return Err(self.settlement(&end));
            }
            Err(error) => return Err(self.store_failed(error)),
        }
        self.position += 1;
        self.progressed = true;
        self.agent.apply(&step.event).map_err(|error| {
            // A defect of ours: the journal holds what the agent does not take.
            tracing::error!(%error, "the agent refused its own event");
            self.settlement(&self.agent.failed(EndReason::Journal, &error.to_string()))
        })
    }

    /// Journals the job's end, unless it has one.
    async fn end(&mut self, end: End) -> Result<(), Outcome> {
        if matches!(self.agent.next(), Action::Done(_)) {
            return Ok(());
        }
        self.journal(Event::Ended { end }, None).await
    }

    fn store_failed(&self, error: StoreError) -> Outcome {
        match error {
            StoreError::LeaseLost { .. } => Outcome::LeaseLost,
            StoreError::Unavailable(_) => match self.stop.reason() {
                Some(Reason::LeaseLost) => Outcome::LeaseLost,
                Some(Reason::Drain | Reason::Cancelled) | None => Outcome::Released,
            },
            StoreError::Corrupt(_) | StoreError::Unusable(_) | StoreError::TooLarge { .. } => {
                self.requeue(&error.to_string())
            }
        }
    }

    /// Another run may have more luck, unless there were enough of them without progress.
    fn requeue(&self, error: &str) -> Outcome {
        let attempts = if self.progressed { 1 } else { self.claim.counts.attempts + 1 };
        let job = &self.deps.settings.job;
        if attempts >= job.max_attempts {
            let why = format!(
                "gave up after {attempts} runs without progress (job.max_attempts); the last: {error}"
            );
            return self.settlement(&self.agent.failed(EndReason::AttemptsExhausted, &why));
        }
        let after = job.retry.delay(attempts, self.deps.caller.dice.share());
        let error: String = error.chars().take(500).collect();
        Outcome::Requeue { after, error }
    }

    /// What a call that gave no result means for the run: `Ok` where the job was given its end.
    async fn no_result(&mut self, error: CallError) -> Result<(), Outcome> {
        match error {
            CallError::Park { until, provider, reason, why } => {
                Err(self.park(until, provider, reason, why).await)
            }
            CallError::Exhausted { failure, .. } => {
                let outcome = self.requeue(&failure.to_string());
                match outcome {
                    // The end is journaled and told like any other.
                    Outcome::Ended(_) => {
                        let why = format!(
                            "gave up after job.max_attempts runs without progress; the last: {failure}"
                        );
                        self.end(self.agent.failed(EndReason::AttemptsExhausted, &why)).await
                    }
                    other => Err(other),
                }
            }
            CallError::Fatal(failure) => {
                let reason = match failure.verdict {
                    Verdict::Fatal { why } => reason_of(why),
                    Verdict::Shrink => EndReason::ContextTooLong,
                    Verdict::Retry { .. }
                    | Verdict::WaitUntil { .. }
                    | Verdict::Refresh
                    | Verdict::Verify => EndReason::Rejected,
                };
                self.end(self.agent.failed(reason, &failure.to_string())).await
            }
            // The loop looks at the reason.
            CallError::Stopped => Ok(()),
            CallError::ActorDied(error) => Err(self.requeue(&error.to_string())),
        }
    }

    async fn call_model(&mut self, request: ModelRequest) -> Result<(), Outcome> {
        let turn = self.agent.spend().turns + 1;
        let complete = Complete {
            job: self.job.id.clone(),
            order: self.order(),
            patience: self.stop.patience(),
            prefers: self.endpoint.clone(),
            request,
        };
        let asked = tokio::time::Instant::now();
        match self.deps.llm.send(complete).await.unwrap_or_else(|error| Err(error.into())) {
            Ok(Answered { answer, endpoint }) => {
                // A server that does not count is not said to have counted nothing.
                let usage = answer.usage.as_ref();
                let tools: Vec<&str> = answer.tool_calls.iter().map(|call| call.name.as_str()).collect();
                tracing::info!(
                    turn,
                    endpoint,
                    model = answer.model,
                    tools = tools.join(" "),
                    prompt_tokens = usage.map(|usage| usage.prompt_tokens),
                    completion_tokens = usage.map(|usage| usage.completion_tokens),
                    took_ms = millis(asked.elapsed()),
                    request_id = answer.request_id,
                    "model answered"
                );
                self.endpoint.clone_from(&endpoint);
                self.journal(Event::ModelAnswered { answer, endpoint }, None).await
            }
            Err(CallError::Fatal(failure)) if failure.verdict == Verdict::Shrink => {
                tracing::info!(turn, "the conversation is too long for the model: compacting it");
                self.journal(Event::ContextTooLong, None).await
            }
            Err(error) => self.no_result(error).await,
        }
    }

    async fn run_tool(&mut self, call: &ToolCall, announce: bool) -> Result<(), Outcome> {
        if !self.open_workspace().await? {
            return Ok(());
        }
        if announce {
            self.journal(Event::ToolStarted { call_id: call.id.clone() }, None).await?;
        }
        let Some(workspace) = &mut self.workspace else { return Ok(()) };
        let began = tokio::time::Instant::now();
        let outcome = workspace.run(call, self.stop.patience().hard).await;
        if self.stop.at_once() {
            // Killed on the way: its output says nothing, and the loop looks at the reason.
            return Ok(());
        }
        let patch = if outcome.changed_files { Some(self.read_patch().await?) } else { None };
        tracing::info!(
            tool = call.name,
            ok = !outcome.is_error,
            changed = outcome.changed_files,
            took_ms = millis(began.elapsed()),
            "tool finished"
        );
        let finished = Event::ToolFinished {
            call_id: call.id.clone(),
            output: outcome.output,
            is_error: outcome.is_error,
        };
        self.journal(finished, patch.as_deref()).await
    }

    /// The job's place among those that wait for permits.
    fn order(&self) -> Order {
        Order { priority: i32::from(self.job.priority()), admitted: self.claim.admitted_at }
    }

    /// The repository, as its actor's messages name it.
    fn target(&self) -> Target {
        Target {
            repo: Repo { owner: self.job.repo_owner.clone(), name: self.job.repo_name.clone() },
            installation: self.job.installation_id,
            order: self.order(),
            patience: self.stop.patience(),
        }
    }
}

/// The end that a fatal failure makes.
fn reason_of(why: FatalReason) -> EndReason {
    match why {
        FatalReason::Credentials => EndReason::Credentials,
        FatalReason::Permission => EndReason::Permission,
        FatalReason::NotFound => EndReason::NotFound,
        FatalReason::Rejected | FatalReason::Unusable => EndReason::Rejected,
    }
}
