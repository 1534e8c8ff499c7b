//! How fast the queue is: ours on Redis with all its guarantees beside BullMQ and apalis-redis, on the
//! same machine, the same kind of server, in turns; and what a job's life costs.

mod child;
mod figures;
mod measure;
mod memory;
mod report;
mod role;
mod server;
mod system;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use measure::{Measured, Row, What, medians};
use memory::{Held, Holding};
use report::{Line, heading};
use system::{Peers, System};

/// Measures the queue beside others.
#[derive(Parser)]
struct Args {
    /// One JSON object a line in place of the table.
    #[arg(long)]
    json: bool,
    /// A tenth of the jobs.
    #[arg(long)]
    quick: bool,
    /// Only measures whose names begin so: noop, life, waiting, idle, holds.
    #[arg(long)]
    only: Option<String>,
    /// Only this many jobs at once in a process.
    #[arg(long)]
    concurrency: Option<usize>,
    /// Only this many processes.
    #[arg(long)]
    processes: Option<usize>,
    /// Only our own queue.
    #[arg(long)]
    ours: bool,
    /// Runs of which the medians are told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Tells what our queue's Redis server did for a job, command by command.
    #[arg(long)]
    profile: bool,
    /// The folder of BullMQ's scripts.
    #[arg(long, default_value = "bench/queue/bullmq")]
    bullmq: PathBuf,
    /// apalis-redis's program.
    #[arg(long)]
    apalis: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does as one of the processes that it measures.
#[derive(Subcommand)]
enum Role {
    /// Settles jobs as they come.
    #[command(hide = true)]
    Worker { url: String, concurrency: usize, steps: u32 },
    /// Puts jobs in.
    #[command(hide = true)]
    Producer { url: String, jobs: u64 },
    /// Holds jobs.
    #[command(hide = true)]
    Holder { url: String, running: usize, parked: usize },
    /// Waits for jobs with the whole worker.
    #[command(hide = true)]
    Idle { url: String },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let on_runtime = async {
        match &args.role {
            Some(Role::Worker { url, concurrency, steps }) => role::worker(url, *concurrency, *steps).await,
            Some(Role::Producer { url, jobs }) => role::producer(url, *jobs).await,
            Some(Role::Holder { url, running, parked }) => memory::holder(url, *running, *parked).await,
            Some(Role::Idle { .. }) => unreachable!("it has a runtime of its own"),
            None => bench(&args).await,
        }
    };
    match &args.role {
        Some(Role::Idle { url }) => memory::idle(url),
        Some(Role::Worker { .. } | Role::Producer { .. } | Role::Holder { .. }) | None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(on_runtime);
            // A thread of it reads the input for as long as there is one.
            runtime.shutdown_background();
            ended
        }
    }
}

async fn bench(args: &Args) -> anyhow::Result<()> {
    let rows: Vec<Row> = rows(args.quick).into_iter().filter(|row| args.wants(row)).collect();
    let holdings: Vec<Holding> =
        holdings(args.quick).into_iter().filter(|holding| args.wants_memory(*holding)).collect();
    anyhow::ensure!(!rows.is_empty() || !holdings.is_empty(), "no row is like that");
    anyhow::ensure!(args.runs > 0, "no runs, no medians");
    let peers = Peers::found(&args.bullmq, args.apalis.as_deref()).await;
    if !args.json {
        println!("{}", heading());
    }
    for row in &rows {
        let compared = match row.what {
            What::Noop if !args.ours => peers.compared(),
            What::Noop | What::Life | What::Waiting(_) => vec![System::Steadfast],
        };
        row_of(args, &peers, row, &compared).await?;
        if let Some(row) = in_a_file(row) {
            row_of(args, &peers, &row, &[System::Sqlite]).await?;
        }
    }
    for holding in holdings {
        eprintln!("memory: {}", holding.name());
        let held = Held::measure(&peers, holding, args.runs).await?;
        println!("{}", if args.json { held.json().to_string() } else { held.text() });
    }
    Ok(())
}

/// The row for our queue in a file. It is one machine's, and so has one process; a tenth of the jobs is
/// enough, for each one waits for a disk, and each pickup for a look at the file.
fn in_a_file(row: &Row) -> Option<Row> {
    let (jobs, pickups) = (row.jobs / 10, row.pickups / 10);
    match row.what {
        What::Noop | What::Life if row.processes == 1 => Some(Row { jobs, pickups, ..*row }),
        What::Noop | What::Life | What::Waiting(_) => None,
    }
}

/// Measures a row's systems in turns, and prints their lines.
async fn row_of(args: &Args, peers: &Peers, row: &Row, systems: &[System]) -> anyhow::Result<()> {
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); systems.len()];
    for turn in 1..=args.runs {
        for (system, runs) in systems.iter().zip(&mut runs) {
            eprintln!(
                "{} of {}: {} {}, {} processes, {} jobs at once",
                turn,
                args.runs,
                row.what.name(),
                system.name(),
                row.processes,
                row.concurrency
            );
            let measured = match measure::run(peers, *system, row).await {
                Ok(measured) => measured,
                Err(error) if system.is_ours() => return Err(error),
                Err(error) => {
                    eprintln!("{} is left out here: {error:#}", system.name());
                    continue;
                }
            };
            if args.profile && *system == System::Steadfast && turn == args.runs {
                eprintln!("{}", measured.profile);
            }
            runs.push(measured);
        }
    }
    let middle: Vec<Option<Measured>> = runs.iter().map(|runs| medians(runs)).collect();
    let bullmq = systems.iter().position(|system| *system == System::Bullmq);
    let bullmq = bullmq.and_then(|at| middle.get(at)).and_then(Option::as_ref);
    for (system, measured) in systems.iter().zip(&middle) {
        let Some(measured) = measured else { continue };
        let line = Line { row, system: *system, measured, bullmq };
        println!("{}", if args.json { line.json().to_string() } else { line.text() });
    }
    Ok(())
}

impl Args {
    fn wants(&self, row: &Row) -> bool {
        self.only.as_deref().is_none_or(|name| row.what.name().starts_with(name))
            && self.concurrency.is_none_or(|concurrency| concurrency == row.concurrency)
            && self.processes.is_none_or(|processes| processes == row.processes)
    }

    fn wants_memory(&self, holding: Holding) -> bool {
        self.only.as_deref().is_none_or(|name| holding.name().starts_with(name))
            && self.concurrency.is_none()
            && self.processes.is_none_or(|processes| processes == 1)
    }
}

fn holdings(quick: bool) -> [Holding; 2] {
    let part = if quick { 10 } else { 1 };
    [Holding::Idle, Holding::Jobs { running: 2_000 / part, parked: 10_000 / part }]
}

/// All rows.
fn rows(quick: bool) -> Vec<Row> {
    let part = if quick { 10 } else { 1 };
    let mut rows = Vec::new();
    for processes in [1, 4] {
        for concurrency in [1, 50, 200] {
            let (jobs, pickups) = (20_000 / part, if quick { 100 } else { 300 });
            rows.push(Row { what: What::Noop, processes, concurrency, jobs, pickups });
        }
    }
    for concurrency in [1, 50] {
        rows.push(Row { what: What::Life, processes: 1, concurrency, jobs: 1000 / part, pickups: 0 });
    }
    for waiting in [1_000, 10_000, 100_000] {
        let what = What::Waiting(waiting / part);
        rows.push(Row { what, processes: 1, concurrency: 50, jobs: 5_000 / part, pickups: 0 });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_that_are_asked_for() {
        let count = |words: &[&str]| {
            let args = Args::parse_from([&["bench"], words].concat());
            let rows = rows(args.quick).into_iter().filter(|row| args.wants(row)).count();
            let holdings = holdings(args.quick).into_iter().filter(|holding| args.wants_memory(*holding));
            (rows, holdings.count())
        };
        assert_eq!(count(&[]), (11, 2));
        assert_eq!(count(&["--quick", "--json"]), (11, 2));
        assert_eq!(count(&["--only", "noop"]), (6, 0));
        assert_eq!(count(&["--only", "noop", "--processes", "4", "--concurrency", "50"]), (1, 0));
        assert_eq!(count(&["--only", "waiting-100000"]), (1, 0));
        assert_eq!(count(&["--only", "idle"]), (0, 1));
    }

    #[test]
    fn a_file_is_one_machines_and_slow() {
        let of =
            |what, processes| in_a_file(&Row { what, processes, concurrency: 1, jobs: 100, pickups: 50 });
        let row = of(What::Noop, 1).unwrap();
        assert_eq!((row.jobs, row.pickups), (10, 5));
        assert_eq!(of(What::Noop, 4), None);
        assert_eq!(of(What::Waiting(9), 1), None);
    }
}
