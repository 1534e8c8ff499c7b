//! How fast jobs get through rate limits: the real actors against a server with true limits, in
//! simulated time, beside retrying clients and a pacer that sees everything.

mod counted;
mod github;
mod naive;
mod plot;
mod process;
mod real;
mod remote;
mod report;
mod rows;
mod run;
#[path = "../../core/tests/pacing/scenario.rs"]
mod scenario;
#[path = "../../core/tests/pacing/server.rs"]
mod server;
#[cfg(test)]
mod tests;
#[path = "../../core/tests/pacing/world.rs"]
#[expect(dead_code, reason = "also runs the budget without actors, which is not asked for here")]
mod world;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, ValueEnum};

use github::GithubRow;
use naive::Naive;
use real::RealRow;
use report::{Line, heading};
use rows::{Fleet, Row, SEED};
use run::{Least, Policy, measure};

/// How rows are played.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// In simulated time, the actors in this process.
    Simulated,
    /// In its own time: the release binary as processes, Redis, HTTP and git.
    Real,
}

/// Measures jobs at rate limits, in simulated time and with real processes.
#[derive(Parser)]
struct Args {
    /// Only rows that are played so.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// One JSON object a line in place of the table.
    #[arg(long)]
    json: bool,
    /// A part of the rows that takes some minutes.
    #[arg(long)]
    quick: bool,
    /// Only the scenario of this name.
    #[arg(long)]
    only: Option<String>,
    /// Only this many requests a minute.
    #[arg(long)]
    rpm: Option<u32>,
    /// Only this many processes.
    #[arg(long)]
    processes: Option<usize>,
    /// Only our own policy.
    #[arg(long)]
    ours: bool,
    /// Where to write the plots; none are written without.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// What is asked for of all rows.
struct Wanted {
    rows: Vec<Row>,
    github: Vec<GithubRow>,
    real: Vec<RealRow>,
}

impl Wanted {
    fn by(args: &Args) -> Self {
        let (simulated, real) = (args.mode != Some(Mode::Real), args.mode != Some(Mode::Simulated));
        let fits = |name: &str, rpm: f64, processes: usize| {
            args.only.as_deref().is_none_or(|only| only == name)
                && args.rpm.is_none_or(|only| f64::from(only) == rpm)
                && args.processes.is_none_or(|only| only == processes)
        };
        let mut wanted = Wanted {
            rows: rows::all(args.quick),
            github: github::all(args.quick, SEED),
            real: real::all(args.quick),
        };
        wanted.rows.retain(|row| simulated && fits(row.name, row.scenario.rpm, row.fleet.processes()));
        wanted.github.retain(|row| simulated && fits(row.name, row.rpm(), row.processes));
        wanted.real.retain(|row| real && fits(row.name(), row.rpm(), row.processes));
        wanted
    }

    fn len(&self) -> usize {
        self.rows.len() + self.github.len() + self.real.len()
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = Wanted::by(&args);
    let all = wanted.len();
    anyhow::ensure!(all > 0, "no row is like that; the names are in docs/pacing.md");
    if !wanted.real.is_empty() {
        // Before an hour of other rows.
        real::check()?;
    }
    if !args.json {
        println!("{}", heading());
    }
    let show = |line: &Line| println!("{}", if args.json { line.json().to_string() } else { line.text() });
    let mut number = 0;
    let mut next = |what: String| {
        number += 1;
        eprintln!("{number}/{all} {what}");
    };
    for row in &wanted.rows {
        next(format!("{} {} at once, {} processes", row.name, row.scenario.at_once, row.fleet.processes()));
        let least = Least::of(row);
        for policy in policies(row, args.ours) {
            show(&Line::of(row, policy, &least, measure(row, policy, &least)?));
        }
    }
    for row in &wanted.github {
        next(format!("{} {} jobs, {} at once, {} processes", row.name, row.jobs, row.at_once, row.processes));
        let plan = row.plan();
        let (bound, pacer) =
            (github::bound::least(&plan, &row.rules), github::bound::pacer(&plan, &row.rules));
        show(&Line::of_github(row, Some(github::run::measure(row)?), bound, pacer));
        if row.processes == 1 && !args.ours {
            show(&Line::of_github(row, None, bound, pacer));
        }
    }
    for row in &wanted.real {
        next(format!("{} with {} real processes", row.name(), row.processes));
        show(&real::measure(row)?);
    }
    match &args.plots {
        Some(folder) => plots(folder),
        None => Ok(()),
    }
}

/// The others are measured once a scenario, beside the row of one process.
fn policies(row: &Row, only_ours: bool) -> Vec<Policy> {
    let others = [Policy::Naive(Naive::Seed), Policy::Naive(Naive::Sdk), Policy::Pacer];
    let alone = row.fleet == Fleet::Steady(1) && !only_ours;
    std::iter::once(Policy::Ours).chain(others.into_iter().filter(|_| alone)).collect()
}

/// Requests against the limit under three policies.
fn plots(folder: &Path) -> anyhow::Result<()> {
    for name in ["known-fixed", "blind-bucket"] {
        let rows = rows::all(true);
        let row = rows
            .iter()
            .find(|row| row.name == name && row.scenario.rpm == 600.0 && row.fleet == Fleet::Steady(1));
        let row = row.with_context(|| format!("no row is called {name}"))?;
        let least = Least::of(row);
        let mut runs = Vec::new();
        for policy in [Policy::Ours, Policy::Naive(Naive::Seed), Policy::Pacer] {
            runs.push((policy, measure(row, policy, &least)?));
        }
        let panels: Vec<_> = runs
            .iter()
            .map(|(policy, measured)| plot::Panel {
                title: format!(
                    "{}: {} of {} jobs done, {:.1} % refused",
                    policy.name(),
                    measured.done,
                    row.scenario.jobs,
                    measured.share_429() * 100.0
                ),
                trace: &measured.trace,
            })
            .collect();
        let title =
            format!("{name}: {} requests a minute, {} jobs at once", row.scenario.rpm, row.scenario.at_once);
        let span = runs.iter().map(|(_, measured)| measured.makespan).fold(60.0, f64::max);
        let picture = plot::svg(&title, &panels, row.scenario.rpm / 60.0, span.min(3.0 * least.bound));
        let path = folder.join(format!("{name}.svg"));
        std::fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
