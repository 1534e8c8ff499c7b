//! `steadfast jobs`: list, show, export, cancel.

mod read;
mod story;

use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use steadfast_agent::settings::AgentSettings;
use steadfast_core::job::JobId;
use steadfast_store::{Cancellation, Inspection, Replay, State, Store, StoreError};

use super::print;
use crate::exit::Exit;

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, newest first.
    List {
        /// Only those in this state.
        #[arg(long, value_enum)]
        state: Option<StateArg>,
        /// Most jobs that are listed.
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
        most: u16,
        /// Print one JSON object a job.
        #[arg(long)]
        json: bool,
    },
    /// Show one job: where it is, what it has been through, and its story step by step.
    Show {
        /// The job.
        id: String,
        /// Print one JSON object, with the steps whole.
        #[arg(long)]
        json: bool,
    },
    /// Write a job's whole journal as JSON lines, one a step. What can be read is written even if
    /// some steps cannot: then the exit code is 1 and the message says which.
    Export {
        /// The job.
        id: String,
    },
    /// Call jobs off. One that runs ends at its next step; what it published stays.
    Cancel {
        /// The jobs.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Print one JSON object a job.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StateArg {
    Queued,
    Running,
    Parked,
    Ended,
}

impl From<StateArg> for State {
    fn from(arg: StateArg) -> State {
        match arg {
            StateArg::Queued => State::Queued,
            StateArg::Running => State::Running,
            StateArg::Parked => State::Parked,
            StateArg::Ended => State::Ended,
        }
    }
}

pub(super) async fn run(
    command: &JobsCommand,
    store: Arc<dyn Store>,
    agent: &AgentSettings,
) -> anyhow::Result<Exit> {
    match command {
        JobsCommand::List { state, most, json } => {
            list(&*store, state.map(State::from), usize::from(*most), *json).await
        }
        JobsCommand::Show { id, json } => show(&*store, &JobId::new(id)?, *json, agent).await,
        JobsCommand::Export { id } => export(&*store, &JobId::new(id)?).await,
        JobsCommand::Cancel { ids, json } => cancel(&*store, ids, *json).await,
    }
}

async fn list(store: &dyn Store, state: Option<State>, most: usize, json: bool) -> anyhow::Result<Exit> {
    let jobs = store.list(state, most).await?;
    if json {
        let lines: String = jobs.iter().map(|job| format!("{}\n", as_json(job))).collect();
        return Ok(print::all(&lines));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "JOB",
        "STATE",
        "REPOSITORY",
        "ISSUE",
        "STEPS",
        "AT",
        "WHAT",
    ]);
    for job in &jobs {
        let params = &job.job.task_params;
        let what = job.waiting_for.clone().or_else(|| field(job, "endReason")).or(params.issue_title.clone());
        table.add_row([
            job.job.id.to_string(),
            word(job),
            job.job.repository(),
            params.issue_number.map(|number| format!("#{number}")).unwrap_or_default(),
            job.counts.steps.to_string(),
            job.at.to_string(),
            print::line(&what.unwrap_or_default(), 60),
        ]);
    }
    let [queued, running, parked, ended] = store.count().await?;
    let counts = format!("{queued} queued, {running} running, {parked} parked, {ended} ended");
    Ok(print::all(&if jobs.is_empty() {
        format!("no jobs ({counts})\n")
    } else {
        format!("{table}\n\n{counts}\n")
    }))
}

async fn show(store: &dyn Store, id: &JobId, json: bool, agent: &AgentSettings) -> anyhow::Result<Exit> {
    let Some((job, replay, lost)) = found(store, id).await? else { return Ok(Exit::Failed) };
    let steps = read::all(&replay.steps);
    let totals = story::Totals::of(&steps, agent);
    let complaint = lost.or_else(|| read::complaint(&steps, job.counts.steps));
    if json {
        let mut whole = as_json(&job);
        whole["job"] = serde_json::to_value(&job.job)?;
        whole["patchBytes"] = json!(replay.patch.len());
        whole["totals"] = totals.as_json();
        whole["steps"] = steps.iter().map(read::Read::whole).collect::<Result<_, _>>()?;
        whole["journalProblem"] = json!(complaint);
        return Ok(print::all(&format!("{whole}\n")));
    }
    let mut out = String::new();
    let mut row =
        |name: &str, value: &str| out.push_str(&format!("{name:<16} {}\n", print::line(value, 2_000)));
    let params = &job.job.task_params;
    row("job", id.as_str());
    row("state", &word(&job));
    row("repository", &job.job.repository());
    if let Some(number) = params.issue_number {
        row("issue", &format!("#{number}"));
    }
    row("title", params.issue_title.as_deref().unwrap_or(""));
    row("admitted", &job.admitted_at.to_string());
    row(at_word(job.state), &job.at.to_string());
    if let Some(why) = &job.waiting_for {
        row("waits for", why);
    }
    let counts = job.counts;
    row(
        "been through",
        &format!(
            "{} runs, {} attempts without progress, {} crashes, {} waits, {} steps",
            counts.runs, counts.attempts, counts.crashes, counts.waits, counts.steps
        ),
    );
    // What stands above in a person's words.
    let told = ["state", "admittedAt", "runs", "attempts", "crashes", "waits", "steps", "waitingFor"];
    for (name, value) in job.status.iter().filter(|(name, _)| !told.contains(&name.as_str())) {
        row(name, value);
    }
    if !steps.is_empty() {
        row("in its steps", &totals.sentence());
        out.push('\n');
        out.push_str(&story::told(&steps, agent));
    }
    if let Some(complaint) = complaint {
        out.push_str(&format!("\nits journal: {}\n", print::line(&complaint, 500)));
    }
    Ok(print::all(&out))
}

async fn export(store: &dyn Store, id: &JobId) -> anyhow::Result<Exit> {
    let Some((job, replay, lost)) = found(store, id).await? else { return Ok(Exit::Failed) };
    let steps = read::all(&replay.steps);
    for step in &steps {
        print::all(&format!("{}\n", step.as_json()?));
    }
    let Some(complaint) = lost.or_else(|| read::complaint(&steps, job.counts.steps)) else {
        return Ok(Exit::Done);
    };
    eprintln!("steadfast: job {id}: {}", print::line(&complaint, 500));
    Ok(Exit::Failed)
}

/// A job and its journal; where the store finds the journal damaged, why, and no steps.
async fn found(
    store: &dyn Store,
    id: &JobId,
) -> anyhow::Result<Option<(Inspection, Replay, Option<String>)>> {
    let Some(job) = store.inspect(id).await? else {
        eprintln!(
            "steadfast: no job {id}: it was never submitted to this queue, or ended longer than queue.keep_ended ago"
        );
        return Ok(None);
    };
    match store.replay(id).await {
        Ok(replay) => Ok(Some((job, replay, None))),
        Err(StoreError::Corrupt(why)) => Ok(Some((job, Replay::default(), Some(why)))),
        Err(
            error @ (StoreError::LeaseLost { .. }
            | StoreError::Unavailable(_)
            | StoreError::Unusable(_)
            | StoreError::TooLarge { .. }),
        ) => Err(error.into()),
    }
}

async fn cancel(store: &dyn Store, ids: &[String], json: bool) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for id in ids {
        let id = JobId::new(id)?;
        let cancellation = store.cancel(&id).await?;
        let (word, sentence) = match cancellation {
            Cancellation::Ended => ("cancelled", "cancelled"),
            Cancellation::Asked => ("asked", "begun: its run, or the next one, was asked to end it"),
            Cancellation::AlreadyEnded => ("ended", "had ended before"),
            Cancellation::Unknown => ("unknown", "no such job"),
        };
        if cancellation == Cancellation::Unknown {
            exit = Exit::Failed;
        }
        let line = if json {
            json!({ "id": id, "cancellation": word }).to_string()
        } else {
            format!("{id} {sentence}")
        };
        print::all(&format!("{line}\n"));
    }
    Ok(exit)
}

/// The state, and of an ended job how.
fn word(job: &Inspection) -> String {
    let state = match job.state {
        State::Queued => "queued",
        State::Running => "running",
        State::Parked => "parked",
        State::Ended => return field(job, "status").unwrap_or_else(|| "ended".into()),
    };
    state.to_owned()
}

fn at_word(state: State) -> &'static str {
    match state {
        State::Queued => "due",
        State::Running => "lease ends",
        State::Parked => "parked until",
        State::Ended => "ended",
    }
}

fn field(job: &Inspection, name: &str) -> Option<String> {
    job.status.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
}

fn as_json(job: &Inspection) -> Value {
    let status: serde_json::Map<String, Value> = job
        .status
        .iter()
        .map(|(name, value)| {
            // `result` is JSON in the hash: shown as what it is.
            let inner = (name == "result").then(|| serde_json::from_str(value).ok()).flatten();
            (name.clone(), inner.unwrap_or_else(|| json!(value)))
        })
        .collect();
    json!({
        "id": job.job.id,
        "state": job.state,
        "repository": job.job.repository(),
        "issue": job.job.task_params.issue_number,
        "title": job.job.task_params.issue_title,
        "admittedAt": job.admitted_at,
        "at": job.at,
        "waitingFor": job.waiting_for,
        "counts": {
            "runs": job.counts.runs,
            "attempts": job.counts.attempts,
            "crashes": job.counts.crashes,
            "waits": job.counts.waits,
            "steps": job.counts.steps,
        },
        "status": status,
    })
}
