//! `steadfast jobs`: list, show, export, cancel, retry, pause, resume.

mod read;
mod story;

use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use steadfast_agent::settings::AgentSettings;
use steadfast_core::job::JobId;
use steadfast_store::{Cancellation, Inspection, Replay, Retried, RetryFrom, State, Store, StoreError, Whom};

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
    /// Put ended jobs back into the queue. Each goes on from where its journal stands, with its limits
    /// counted anew: nothing that was paid for is paid again.
    Retry {
        /// The jobs.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Forget the journal and begin anew. What stands on GitHub is found again, not made twice.
        #[arg(long)]
        from_start: bool,
        /// Print one JSON object a job.
        #[arg(long)]
        json: bool,
    },
    /// Claim no more jobs, of all owners or of one, until resumed. Those that run go on.
    Pause(WhomArgs),
    /// End a pause. That of all and that of one owner are ended apart.
    Resume(WhomArgs),
    /// Call jobs off. One that runs ends within two seconds; what it published stays.
    Cancel {
        /// The jobs.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Print one JSON object a job.
        #[arg(long)]
        json: bool,
    },
}

/// Whose jobs.
#[derive(Debug, clap::Args)]
pub(super) struct WhomArgs {
    /// Only those of this owner of repositories.
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,
    /// Print what is paused then, as one JSON object.
    #[arg(long)]
    json: bool,
}

impl WhomArgs {
    fn whom(&self) -> Whom {
        self.owner.as_deref().map_or(Whom::All, Whom::owner)
    }
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
        JobsCommand::Retry { ids, from_start, json } => retry(&*store, ids, *from_start, *json).await,
        JobsCommand::Pause(args) => {
            store.pause(&args.whom()).await?;
            tell_pauses(&*store, args.json).await
        }
        JobsCommand::Resume(args) => {
            store.resume(&args.whom()).await?;
            tell_pauses(&*store, args.json).await
        }
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
    let mut counts = format!("{queued} queued, {running} running, {parked} parked, {ended} ended");
    if let Some(pauses) = pauses(&store.paused().await?) {
        counts.push_str(&format!("; {pauses}"));
    }
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
            Cancellation::Asked => ("asked", "asked to stop: its runner ends it and tells the issue"),
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

async fn retry(store: &dyn Store, ids: &[String], from_start: bool, json: bool) -> anyhow::Result<Exit> {
    let from = if from_start { RetryFrom::Start } else { RetryFrom::Journal };
    let mut exit = Exit::Done;
    for id in ids {
        let id = JobId::new(id)?;
        let completed = match store.inspect(&id).await? {
            Some(job) => !from_start && field(&job, "status").as_deref() == Some("completed"),
            None => false,
        };
        let (word, sentence) = if completed {
            ("completed", "was completed: nothing is left to do; --from-start does it all again".to_owned())
        } else {
            match store.retry(&id, from).await? {
                Retried::Queued => ("queued", "queued".to_owned()),
                Retried::Alive => ("alive", "has not ended".to_owned()),
                Retried::Joined { to } => ("joined", format!("not queued: job {to} is at the same issue")),
                Retried::Unknown => ("unknown", "no such job".to_owned()),
            }
        };
        if word != "queued" {
            exit = Exit::Failed;
        }
        let line =
            if json { json!({ "id": id, "retry": word }).to_string() } else { format!("{id} {sentence}") };
        print::all(&format!("{line}\n"));
    }
    Ok(exit)
}

/// Whose jobs are paused, in words or as JSON.
async fn tell_pauses(store: &dyn Store, json: bool) -> anyhow::Result<Exit> {
    let paused = store.paused().await?;
    let owners: Vec<&str> = paused.iter().filter_map(owner_of).collect();
    let all = paused.contains(&Whom::All);
    let line = match json {
        true => json!({ "all": all, "owners": owners }).to_string(),
        false => pauses(&paused).unwrap_or_else(|| "nothing is paused".to_owned()),
    };
    Ok(print::all(&format!("{line}\n")))
}

fn owner_of(whom: &Whom) -> Option<&str> {
    match whom {
        Whom::All => None,
        Whom::Owner(owner) => Some(owner),
    }
}

/// Whose jobs are paused, if anybody's.
fn pauses(paused: &[Whom]) -> Option<String> {
    let names: Vec<String> = paused
        .iter()
        .map(|whom| owner_of(whom).map_or("all jobs".to_owned(), |owner| print::line(owner, 100)))
        .collect();
    (!names.is_empty()).then(|| format!("paused: {}", names.join(", ")))
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
