//! apalis-redis in the queue benchmark: `worker PORT CONCURRENCY`, or `producer PORT JOBS`. What they say
//! and hear is what BullMQ's worker and producer beside this do.

use std::error::Error;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use apalis::layers::WorkerBuilderExt;
use apalis_core::backend::TaskSink;
use apalis_core::backend::factory::BackendFactory;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use apalis_redis::factory::RedisStorageFactory;
use apalis_redis::{Client, Config, RedisStorage};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

const QUEUE: &str = "steadfast-bench";
const BATCH: u64 = 1000;

/// Version 1.0.0 takes every task in as one that is scheduled for now, and its fetch moves all that are due
/// to the list of those that wait in one command: of more than some 8,000 it fails for good. So that it can
/// be measured, they are moved as they come.
const PROMOTE: &str = "local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
    for _, id in ipairs(ids) do redis.call('RPUSH', KEYS[2], id) end
    redis.call('DEL', KEYS[1])
    return #ids";

/// The same job as the other systems are given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    id: String,
    installation_id: u64,
    repo_owner: String,
    repo_name: String,
    task_type: String,
    status: String,
    task_params: Params,
    created_at: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params {
    issue_title: String,
    issue_body: String,
}

fn job(number: u64) -> Job {
    Job {
        id: format!("job-{number}"),
        installation_id: 0,
        repo_owner: format!("owner-{}", number % 10),
        repo_name: format!("repository-{}", number % 1000),
        task_type: "autonomous".to_owned(),
        status: "pending".to_owned(),
        task_params: Params {
            issue_title: "Nothing".to_owned(),
            issue_body: "To be counted, not to be done.".to_owned(),
        },
        created_at: "2025-10-09T00:00:00.000Z".to_owned(),
    }
}

#[derive(Serialize, Deserialize)]
struct Done {
    success: bool,
}

/// What the worker has done. It is counted as the handler returns: settling follows, and nobody tells of it.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    last: AtomicU64,
    pickup: AtomicBool,
}

/// Microseconds on the system's monotonic clock.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).unwrap_or_default()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to hear it when this fails; the input ends then too.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(begin());
    // A thread of it reads the input for as long as there is one.
    runtime.shutdown_background();
    ended
}

async fn begin() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing"));
    let (role, port, number) = (next("the role")?, next("the port")?, next("the number")?);
    let client = Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3"))?;
    match role.as_str() {
        "worker" => worker(client, number.parse()?).await,
        "producer" => producer(client, number.parse()?).await,
        _ => anyhow::bail!("{role} is neither worker nor producer"),
    }
}

async fn worker(client: Client, concurrency: usize) -> anyhow::Result<()> {
    let config = Config::default().queue(QUEUE).batch_size(concurrency);
    let mut factory = RedisStorageFactory::new(client).await?;
    let storage = BackendFactory::<Job>::create_with_config(&mut factory, config)?;
    let tally = Arc::new(Tally::default());
    let counting = Arc::clone(&tally);
    let name = format!("worker-{}", std::process::id());
    let work = move |_job: Job| {
        let tally = Arc::clone(&counting);
        async move {
            if tally.pickup.load(Ordering::Relaxed) {
                let began = now();
                say(&format!("start {began}"));
            }
            tally.last.fetch_max(now(), Ordering::Relaxed);
            tally.done.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Box<dyn Error + Send + Sync>>(Done { success: true })
        }
    };
    let worker = WorkerBuilder::new(name)
        .backend(storage)
        .concurrency(concurrency)
        .parallelize(tokio::spawn)
        .build(work);
    say("ready");
    let mut worker = Some(worker);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let (mut ticks, mut told) = (tokio::time::interval(Duration::from_millis(10)), 0);
    let mut running: Pin<Box<dyn Future<Output = anyhow::Result<()>>>> = Box::pin(std::future::pending());
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            ended = &mut running => return ended,
            _ = ticks.tick() => {
                let done = tally.done.load(Ordering::Relaxed);
                if done > told {
                    told = done;
                    say(&format!("done {done} {}", tally.last.load(Ordering::Relaxed)));
                }
                continue;
            }
        };
        match line.as_deref() {
            Some("go") => {
                if let Some(worker) = worker.take() {
                    running = Box::pin(async { worker.run().await.context("the worker ended") });
                }
            }
            Some("pickup") => tally.pickup.store(true, Ordering::Relaxed),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

async fn producer(client: Client, jobs: u64) -> anyhow::Result<()> {
    let mut connection = client.get_connection_manager().await?;
    let config = Config::default().queue(QUEUE);
    let mut storage: RedisStorage<Job> = RedisStorage::new(connection.clone()).with_config(config.clone());
    for from in (0..jobs).step_by(BATCH as usize) {
        let batch = (from..jobs.min(from + BATCH)).map(job).collect();
        storage.push_bulk(batch).await?;
        let mut promote = redis::cmd("EVAL");
        promote.arg(PROMOTE).arg(2).arg(config.scheduled_jobs_set()).arg(config.active_jobs_list());
        let _promoted: u64 = promote.query_async(&mut connection).await?;
    }
    say("filled");
    let mut number = jobs;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if line != "add" {
            continue;
        }
        let job = job(number);
        number += 1;
        let handed = now();
        storage.push(job).await?;
        say(&format!("added {handed}"));
    }
    Ok(())
}
