//! `steadfast submit`: makes a job from flags, or reads jobs as JSON.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use serde_json::value::RawValue;
use steadfast_core::job::{Job, JobId, TaskParams};
use steadfast_core::time::Clock;
use steadfast_store::{Admission, Store};

use super::print;
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::exit::Exit;

/// Most bytes that are read from a file or standard input.
const MAX_INPUT: u64 = 64 * 1024 * 1024;

const AFTER_HELP: &str = "\
Examples:
  steadfast submit --repo acme/shop --issue 42 --title 'Total is off by one' --body-file issue.md
  gh issue view 42 --json body -q .body | steadfast submit --repo acme/shop --issue 42 \\
      --title 'Total is off by one' --body-file -
  steadfast submit - < jobs.jsonl

Prints each job's id and `queued`, or `duplicate` where the queue knows the id already, or `joined`
with --unique where another job for the issue is alive. If any of several jobs cannot be read, none
is submitted.";

/// One job by flags, or any number as JSON.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct SubmitArgs {
    /// A file of jobs as JSON, one or many, in the queue's own form; - is standard input, which is
    /// also read when nothing is given and it is not a terminal.
    #[arg(value_name = "FILE", conflicts_with_all = ["id", "repo", "issue", "title", "body", "body_file", "task_type", "installation", "ref_name", "commit", "priority", "delay", "unique"])]
    file: Option<PathBuf>,
    /// The repository, as owner/name.
    #[arg(long, value_name = "OWNER/NAME", requires = "title")]
    repo: Option<String>,
    /// The issue's number; without one nothing is commented.
    #[arg(long, value_name = "N", requires = "repo")]
    issue: Option<u64>,
    /// What is to be done, in a line: the issue's title.
    #[arg(long, requires = "repo")]
    title: Option<String>,
    /// What is to be done, at length: the issue's text.
    #[arg(long, requires = "repo")]
    body: Option<String>,
    /// Read the text from a file; - is standard input.
    #[arg(long, value_name = "FILE", requires = "repo", conflicts_with = "body")]
    body_file: Option<PathBuf>,
    /// The job's id; the same id twice is one job [default: a new UUID].
    #[arg(long, requires = "repo")]
    id: Option<String>,
    /// Kind of work: bug_fix, refactor, documentation, autonomous, ... [default: autonomous].
    #[arg(long, value_name = "TYPE", requires = "repo")]
    task_type: Option<String>,
    /// GitHub App installation; 0 = none, the personal token is used [default: 0].
    #[arg(long, value_name = "ID", requires = "repo")]
    installation: Option<u64>,
    /// The base branch [default: the repository's default branch].
    #[arg(long = "ref", value_name = "BRANCH", requires = "repo")]
    ref_name: Option<String>,
    /// The commit to start from [default: the base branch's head].
    #[arg(long, value_name = "SHA", requires = "repo")]
    commit: Option<String>,
    /// How urgent: from -9 (can wait) to 9 (before all others) [default: 0].
    #[arg(long, value_name = "N", requires = "repo", allow_hyphen_values = true, value_parser = clap::value_parser!(i8).range(-9..=9))]
    priority: Option<i8>,
    /// Begin no sooner than this from now: 90s, 2h, 1d.
    #[arg(long, value_name = "TIME", requires = "repo", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Join it to a job for the same issue, if one is alive, instead of doing the work twice.
    #[arg(long, requires = "issue")]
    unique: bool,
    /// Print one JSON object a job.
    #[arg(long)]
    json: bool,
}

impl SubmitArgs {
    /// The jobs that were asked for, each checked.
    pub(super) fn jobs(&self, loaded: &Loaded) -> anyhow::Result<Vec<Job>> {
        let most = usize::try_from(loaded.config.queue.max_job_bytes.as_u64()).unwrap_or(usize::MAX);
        match &self.repo {
            Some(repo) => {
                let job = self.job_of_flags(repo)?;
                // Through the same door as everybody's: what is submitted here can be read there.
                Ok(vec![Job::parse(&serde_json::to_string(&job)?, most)?])
            }
            None => {
                let file = self.file.as_deref().unwrap_or(Path::new("-"));
                if self.file.is_none() && std::io::stdin().is_terminal() {
                    bail!(
                        "no job: give --repo and --title, or jobs as JSON on standard input (see steadfast submit --help)"
                    );
                }
                parse_all(&read(file)?, most)
            }
        }
    }

    fn job_of_flags(&self, repo: &str) -> anyhow::Result<Job> {
        let (owner, name) = repo
            .split_once('/')
            .filter(|(owner, name)| !owner.is_empty() && !name.is_empty())
            .with_context(|| format!("--repo {repo:?} is not of the form owner/name"))?;
        let id = self.id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let issue_body = match &self.body_file {
            Some(file) => Some(read(file)?),
            None => self.body.clone(),
        };
        Ok(Job {
            id: JobId::new(id).context("--id")?,
            installation_id: self.installation.unwrap_or(0),
            repo_owner: owner.to_owned(),
            repo_name: name.to_owned(),
            commit_sha: self.commit.clone(),
            ref_name: self.ref_name.clone(),
            trigger_type: Some("cli".to_owned()),
            trigger_payload: None,
            task_type: self.task_type.clone().unwrap_or_else(|| "autonomous".to_owned()),
            task_params: TaskParams {
                issue_number: self.issue,
                issue_title: self.title.clone(),
                issue_body,
                ..TaskParams::default()
            },
            status: "pending".to_owned(),
            created_at: SystemClock.now().to_string(),
            extra: self.wishes(),
        })
    }
}

impl SubmitArgs {
    /// What is asked of the queue, in the words of its entries.
    fn wishes(&self) -> serde_json::Map<String, Value> {
        let mut wishes = serde_json::Map::new();
        if let Some(priority) = self.priority {
            wishes.insert("priority".into(), priority.into());
        }
        if let Some(delay) = self.delay {
            wishes.insert("notBefore".into(), (SystemClock.now() + delay).to_string().into());
        }
        if self.unique {
            wishes.insert("unique".into(), true.into());
        }
        wishes
    }
}

/// Submits the jobs, one after the other, and tells of each.
pub(super) async fn run(args: &SubmitArgs, jobs: &[Job], store: Arc<dyn Store>) -> anyhow::Result<Exit> {
    for job in jobs {
        let admission =
            store.submit(job).await.with_context(|| format!("job {} was not submitted", job.id))?;
        let (word, to) = match &admission {
            Admission::Queued => ("queued", None),
            Admission::Joined { to } => ("joined", Some(to)),
            Admission::Duplicate => ("duplicate", None),
        };
        let line = if args.json {
            let mut line = serde_json::json!({ "id": job.id, "admission": word });
            if let Some(to) = to {
                line["joinedTo"] = serde_json::json!(to);
            }
            line.to_string()
        } else {
            format!("{} {word}{}", job.id, to.map(|to| format!(" to {to}")).unwrap_or_default())
        };
        print::all(&format!("{line}\n"));
    }
    Ok(Exit::Done)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let mut bytes = Vec::new();
    from.take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", file.display()))?;
    if bytes.len() as u64 > MAX_INPUT {
        bail!("{} is larger than {MAX_INPUT} bytes: submit it in parts", file.display());
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", file.display()))
}

/// Reads JSON jobs that follow each other, on a line each or not. All that is wrong is one error.
fn parse_all(text: &str, most: usize) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut problems = Vec::new();
    for (position, entry) in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>().enumerate() {
        let job = match entry {
            Ok(raw) => Job::parse(raw.get(), most).map_err(|error| error.to_string()),
            Err(error) => Err(format!("not JSON: {error}")),
        };
        match job {
            Ok(job) => jobs.push(job),
            Err(error) => problems.push(format!("job {}: {error}", position + 1)),
        }
    }
    if !problems.is_empty() {
        bail!("nothing was submitted:\n  {}", problems.join("\n  "));
    }
    if jobs.is_empty() {
        bail!("no job on the input");
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str) -> String {
        format!(
            r#"{{"id":"{id}","installationId":0,"repoOwner":"o","repoName":"r","taskType":"autonomous",
            "status":"pending","taskParams":{{"issueTitle":"t"}},"createdAt":"2025-10-09T00:00:00.000Z"}}"#
        )
    }

    #[test]
    fn reads_one_job_or_many_on_lines_or_not() {
        assert_eq!(parse_all(&entry("a"), 4096).unwrap().len(), 1);
        let many = format!("{}\n{} {}", entry("a"), entry("b"), entry("c"));
        let ids: Vec<_> = parse_all(&many, 4096).unwrap().iter().map(|job| job.id.to_string()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }

    #[test]
    fn one_bad_job_stops_all_and_each_bad_one_is_named() {
        let many = format!("{}\n{}\n{}\n[", entry("a"), entry(""), entry("c").replace("repoName", "name"));
        let error = parse_all(&many, 4096).unwrap_err().to_string();
        for part in ["nothing was submitted", "job 2: ", "job 3: ", "repoName", "job 4: not JSON"] {
            assert!(error.contains(part), "{part} not in {error}");
        }
        assert!(parse_all(" \n", 4096).unwrap_err().to_string().contains("no job"));
        assert!(parse_all(&entry("a"), 20).unwrap_err().to_string().contains("queue.max_job_bytes"));
    }
}
