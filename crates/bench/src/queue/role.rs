//! Our own worker and producer, each a process as the other systems' are: the store as the actors use
//! it, with every guarantee, and a job that is nothing but its steps.

use std::collections::BTreeMap;
use std::future::pending;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use steadfast::config::{Config, load_from};
use steadfast_core::end::EndStatus;
use steadfast_core::job::{Job, JobId};
use steadfast_core::journal::{Event, Step};
use steadfast_core::time::Timestamp;
use steadfast_store::{Claim, Lease, QueueUrl, Renewal, Settlement, Store};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use super::child::{now_us, say};

/// Longest wait for work before looking again, as the poller's.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Between two words on how far it is.
const TELL_EVERY: Duration = Duration::from_millis(10);

/// Submissions on their way at once while a queue is filled.
const SUBMITTED_AT_ONCE: usize = 256;

/// The worker's defaults, with another queue.
pub fn settings(url: &str) -> anyhow::Result<Config> {
    let mut config = load_from(None, [])?.config;
    config.queue.url = QueueUrl::new(url);
    Ok(config)
}

/// The job of this number, the same as the other systems are given.
pub fn job(number: u64) -> anyhow::Result<Job> {
    let json = json!({
        "id": format!("job-{number}"),
        "installationId": 0,
        "repoOwner": format!("owner-{}", number % 10),
        "repoName": format!("repository-{}", number % 1000),
        "taskType": "autonomous",
        "status": "pending",
        "taskParams": { "issueTitle": "Nothing", "issueBody": "To be counted, not to be done." },
        "createdAt": "2025-10-09T00:00:00.000Z",
    });
    Ok(Job::parse(&json.to_string(), 1 << 20)?)
}

/// Puts so many jobs in, then one for each line `add`.
pub async fn producer(url: &str, jobs: u64) -> anyhow::Result<()> {
    let store = steadfast_store::open(&settings(url)?.queue, "producer").await?;
    let submit = |number| {
        let store = Arc::clone(&store);
        async move { anyhow::Ok(store.submit(&job(number)?).await?) }
    };
    let submissions = stream::iter(0..jobs).map(submit).buffer_unordered(SUBMITTED_AT_ONCE);
    submissions.try_for_each(|_| async { Ok(()) }).await?;
    say("filled");
    let mut number = jobs;
    let mut lines = input();
    while let Some(line) = lines.next_line().await? {
        if line != "add" {
            continue;
        }
        let job = job(number)?;
        number += 1;
        let handed = now_us();
        store.submit(&job).await?;
        say(&format!("added {handed}"));
    }
    Ok(())
}

/// What this process is told.
pub fn input() -> Lines<BufReader<Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

/// What the worker has done, and what it holds.
#[derive(Default)]
struct Tally {
    /// Runs whose work is not over; what is left of the others is to settle.
    working: usize,
    done: u64,
    last: u64,
    pickup: bool,
    leases: BTreeMap<JobId, Lease>,
}

struct Working {
    store: Arc<dyn Store>,
    tally: Mutex<Tally>,
    /// A run's work is over.
    over: Notify,
    concurrency: usize,
    steps: Vec<Vec<u8>>,
}

impl Working {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works on so many jobs at once, each of so many steps, from the line `go` until its input ends.
pub async fn worker(url: &str, concurrency: usize, steps: u32) -> anyhow::Result<()> {
    let config = settings(url)?;
    let name = format!("worker-{}", std::process::id());
    let store = steadfast_store::open(&config.queue, &name).await?;
    let steps = (0..steps).map(step).collect();
    let working =
        Rc::new(Working { store, tally: Mutex::default(), over: Notify::new(), concurrency, steps });
    LocalSet::new().run_until(serve(working, config.queue.lease / 3)).await
}

async fn serve(working: Rc<Working>, renew_every: Duration) -> anyhow::Result<()> {
    say("ready");
    let mut lines = input();
    let mut tell = tokio::time::interval(TELL_EVERY);
    let mut renewal = tokio::time::interval(renew_every);
    let (mut told, mut work) = (0, None);
    loop {
        let ended = async {
            match &mut work {
                Some(work) => work.await,
                None => pending::<Result<anyhow::Result<()>, _>>().await,
            }
        };
        let line = tokio::select! {
            line = lines.next_line() => line?,
            ended = ended => return ended?,
            _ = tell.tick() => {
                let tally = working.tally();
                if tally.done > told {
                    told = tally.done;
                    say(&format!("done {told} {}", tally.last));
                }
                continue;
            }
            _ = renewal.tick() => {
                tokio::task::spawn_local(renew(Rc::clone(&working)));
                continue;
            }
        };
        match line.as_deref() {
            Some("go") if work.is_none() => work = Some(tokio::task::spawn_local(go(Rc::clone(&working)))),
            Some("pickup") => working.tally().pickup = true,
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

/// Claims as many as there is room for, again and again, and waits where there are none. As with the
/// actors: there is room when a run's work is over and its settling begins, but no more settle at once
/// than may work.
async fn go(working: Rc<Working>) -> anyhow::Result<()> {
    let mut runs = JoinSet::new();
    loop {
        while let Some(ended) = runs.try_join_next() {
            let _settled: () = ended??;
        }
        let (most, at_work) = (working.concurrency, working.tally().working);
        let room = (most - at_work).min(2 * most - runs.len());
        if room == 0 {
            tokio::select! {
                () = working.over.notified() => {}
                Some(ended) = runs.join_next() => ended??,
            }
            continue;
        }
        let claims = working.store.claim(room).await?;
        if claims.is_empty() {
            tokio::select! {
                waited = working.store.wait_for_change(LOOK_AGAIN) => waited?,
                Some(ended) = runs.join_next() => ended??,
            }
        }
        for claim in claims {
            let mut tally = working.tally();
            tally.leases.insert(claim.lease.job.clone(), claim.lease.clone());
            tally.working += 1;
            drop(tally);
            runs.spawn_local(run(Rc::clone(&working), claim));
        }
    }
}

async fn run(working: Rc<Working>, claim: Claim) -> anyhow::Result<()> {
    if working.tally().pickup {
        let began = now_us();
        say(&format!("start {began}"));
    }
    for (at, step) in (0..).zip(&working.steps) {
        working.store.append(&claim.lease, at, std::slice::from_ref(step), None).await?;
    }
    let result = json!({ "success": true });
    let settlement = Settlement { status: EndStatus::Completed, result, fields: Vec::new() };
    working.tally().working -= 1;
    working.over.notify_one();
    working.store.settle(&claim.lease, &settlement).await?;
    let mut tally = working.tally();
    tally.leases.remove(&claim.lease.job);
    tally.done += 1;
    tally.last = now_us();
    Ok(())
}

/// All leases in one call, as the JobSupervisor does.
async fn renew(working: Rc<Working>) {
    let leases: Vec<Lease> = working.tally().leases.values().cloned().collect();
    if leases.is_empty() {
        return;
    }
    match working.store.renew(&leases).await {
        // One that was settled meanwhile is lost, as it should be.
        Ok(renewals) => drop::<Vec<Renewal>>(renewals),
        Err(error) => eprintln!("leases were not renewed: {error}"),
    }
}

/// A step as jobs have them, some 1,500 bytes: what a tool says of a file.
pub fn step(number: u32) -> Vec<u8> {
    let line = |line: u32| {
        format!("{:>5}  let value_{} = compute({}, &settings)?;\n", line, line * 7 % 31, line * 31 + number)
    };
    let event = Event::ToolFinished {
        call_id: format!("call_{number:08x}"),
        output: (1..=32).map(line).collect(),
        is_error: false,
    };
    Step { at: Timestamp::from_secs(1_760_000_000 + i64::from(number)), event }.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_one_that_the_queue_takes() {
        let job = job(123).unwrap();
        assert_eq!((job.id.as_str(), job.repo_owner.as_str()), ("job-123", "owner-3"));
        assert_eq!(job.repo_name, "repository-123");
    }

    #[test]
    fn a_step_is_of_the_size_that_it_is_said_to_be() {
        let step = step(7);
        assert!((1_200..2_000).contains(&step.len()), "{}", step.len());
        assert!(Step::decode(&step).is_ok());
    }

    #[tokio::test]
    async fn a_worker_settles_all_and_holds_nothing() {
        let config = settings("memory:").unwrap();
        let store = steadfast_store::open(&config.queue, "test").await.unwrap();
        for number in 0..20 {
            store.submit(&job(number).unwrap()).await.unwrap();
        }
        let steps = vec![step(0), step(1)];
        let working = Working {
            store: Arc::clone(&store),
            tally: Mutex::default(),
            over: Notify::new(),
            concurrency: 3,
            steps,
        };
        let working = Rc::new(working);
        let local = LocalSet::new();
        let work = local.run_until(async {
            let work = tokio::task::spawn_local(go(Rc::clone(&working)));
            while working.tally().done < 20 {
                assert!(!work.is_finished(), "it goes on until it is stopped");
                tokio::task::yield_now().await;
            }
            work.abort();
        });
        tokio::time::timeout(Duration::from_secs(60), work).await.unwrap();
        assert!(working.tally().leases.is_empty());
        assert_eq!(store.count().await.unwrap(), [0, 0, 0, 20]);
        let replay = store.replay(&job(3).unwrap().id).await.unwrap();
        assert_eq!(replay.steps, working.steps);
    }
}
