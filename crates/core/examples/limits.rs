//! The table of docs/pacing.md: makespan and rejections under four policies, in simulated time.
//!
//! `cargo run -p steadfast-core --release --example limits -- [--json] [--quick] [--only NAME]`

#[path = "../tests/pacing/scenario.rs"]
mod scenario;
#[path = "../tests/pacing/server.rs"]
mod server;
#[path = "../tests/pacing/world.rs"]
mod world;

use serde_json::json;

use scenario::{Processes, Scenario};
use world::{Policy, Run, bound, run};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let value = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1));
    let (json, quick, trace) = (has("--json"), has("--quick"), has("--trace"));
    let only = value("--only");
    let seeds: u64 = value("--seeds").and_then(|n| n.parse().ok()).unwrap_or(if quick { 3 } else { 20 });
    let processes: usize = value("--processes").and_then(|n| n.parse().ok()).unwrap_or(1);
    let first: u64 = value("--first").and_then(|n| n.parse().ok()).unwrap_or(0);
    let policies: &[(&str, Policy)] = if has("--ours") {
        &[("steadfast", Policy::Steadfast)]
    } else {
        &[
            ("steadfast", Policy::Steadfast),
            ("seed", Policy::Seed),
            ("sdk", Policy::Sdk),
            ("pacer", Policy::Pacer),
        ]
    };
    if !json {
        println!(
            "{:<16} {:<8} {:>4} {:>4} {:<10} {:>5} {:>9} {:>9} {:>7} {:>7} {:>6} {:>7} {:>7}  holds",
            "scenario",
            "window",
            "rpm",
            "conc",
            "policy",
            "done",
            "makespan",
            "bound",
            "x",
            "x worst",
            "429 %",
            "worst",
            "wasted"
        );
    }
    for rpm in [60.0, 600.0] {
        if value("--rpm").is_some_and(|only| only.parse() != Ok(rpm)) {
            continue;
        }
        for at_once in [10, 50, 200] {
            if value("--at-once").is_some_and(|only| only.parse() != Ok(at_once)) {
                continue;
            }
            let count = scenario::all(rpm, 200, 10, at_once, 0.0).len();
            for index in 0..count {
                let world = |seed: u64| {
                    let phase = world::Random(seed * 77 + 5).unit();
                    let mut world = scenario::all(rpm, 200, 10, at_once, phase).swap_remove(index);
                    world.fleet = fleet(processes, has("--kill"), has("--join"), world.rpm);
                    world
                };
                if only.is_some_and(|name| world(0).name != name) {
                    continue;
                }
                for (name, policy) in policies {
                    let rows: Vec<Row> =
                        (first..first + seeds).map(|seed| Row::new(world(seed), *policy, seed)).collect();
                    if trace {
                        rows.iter().for_each(Row::trace);
                    }
                    print(name, &rows, json);
                }
            }
        }
    }
}

struct Row {
    scenario: Scenario,
    run: Run,
    bound: f64,
    clairvoyant: bool,
    oracle_mean: f64,
}

impl Row {
    fn new(scenario: Scenario, policy: Policy, seed: u64) -> Self {
        let least = bound(&scenario, seed);
        let alone = Scenario { fleet: Processes::of(1), ..scenario.clone() };
        let oracle = run(&alone, Policy::Pacer, seed);
        // Where the arithmetic is loose, a pacer that sees everything takes its place.
        let clairvoyant = oracle.makespan > least * 1.01;
        let bound = if clairvoyant { oracle.makespan } else { least };
        let oracle_mean = oracle.mean_completion;
        Row { run: run(&scenario, policy, seed), scenario, bound, clairvoyant, oracle_mean }
    }

    fn trace(&self) {
        let mut seconds = std::collections::BTreeMap::<u64, (u32, u32)>::new();
        for (at, accepted) in &self.run.trace {
            let entry = seconds.entry(*at as u64).or_default();
            if *accepted { entry.0 += 1 } else { entry.1 += 1 }
        }
        println!("{seconds:?} {:?}", self.run.limit);
    }

    fn x(&self) -> f64 {
        if self.run.done == self.scenario.jobs { self.run.makespan / self.bound } else { f64::INFINITY }
    }
}

fn print(policy: &str, rows: &[Row], json: bool) {
    let sorted = |of: &dyn Fn(&Row) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (median, worst) = (rows.len() / 2, rows.len() - 1);
    let pick = |of: &dyn Fn(&Row) -> f64, at: usize| sorted(of)[at];
    let scenario = &rows[0].scenario;
    let x = |at| pick(&Row::x, at);
    let pct = |at| pick(&|row| row.run.share_429() * 100.0, at);
    let holds = x(worst) <= scenario.most_x && pct(worst) <= scenario.most_429 * 100.0;
    let done = pick(&|row| row.run.done as f64, median);
    let makespan = pick(&|row| row.run.makespan, median);
    let bound = pick(&|row| row.bound, median);
    let wasted = pick(&|row| row.run.wasted as f64, median);
    let kind = format!("{:?}", scenario.kind).to_lowercase();
    let by = if rows.iter().any(|row| row.clairvoyant) { "clairvoyant" } else { "arithmetic" };
    if json {
        let finite = |value: f64| if value.is_finite() { json!(value) } else { json!(null) };
        let line = json!({
            "mode": "simulated", "scenario": scenario.name, "window": kind, "policy": policy,
            "rpm": scenario.rpm, "concurrency": scenario.at_once, "processes": 1, "jobs": scenario.jobs,
            "seeds": rows.len(), "done": done, "failed": scenario.jobs as f64 - done,
            "makespan_s": makespan, "bound_s": bound, "bound_by": by, "x_bound": finite(x(median)),
            "x_bound_worst": finite(x(worst)), "pct_429": pct(median), "pct_429_worst": pct(worst),
            "wasted_calls": wasted,
            "mean_completion_s": pick(&|row| row.run.mean_completion, median),
            "x_mean_oracle": pick(&|row| row.run.mean_completion / row.oracle_mean, median),
            "most_x_bound": scenario.most_x, "most_pct_429": scenario.most_429 * 100.0, "holds": holds,
        });
        println!("{line}");
        return;
    }
    println!(
        "{:<16} {:<8} {:>4} {:>4} {:<10} {:>5} {:>9.0} {:>8.0}{} {:>7.3} {:>7.3} {:>6.2} {:>7.2} {:>7}  {}",
        scenario.name,
        kind,
        scenario.rpm,
        scenario.at_once,
        policy,
        done,
        makespan,
        bound,
        if by == "clairvoyant" { "*" } else { " " },
        x(median),
        x(worst),
        pct(median),
        pct(worst),
        wasted,
        if policy == "steadfast" { if holds { "yes" } else { "NO" } } else { "" },
    );
    if scenario.fleet.processes > 1 {
        let trips = pick(&|row| row.run.ledger as f64 / row.run.sent.max(1) as f64, worst);
        println!("    {trips:.3} round trips a permit, {} lost", pick(&|row| row.run.lost as f64, worst));
    }
}

/// The processes of a run: `--processes N`, half of them killed at half time, or joining and leaving.
fn fleet(processes: usize, kill: bool, join: bool, rpm: f64) -> Processes {
    let total = 2_000.0 / rpm * 60.0;
    let kill_at = kill.then_some(total / 2.0);
    Processes { kill_at, join, leave_at: total * 0.7, ..Processes::of(processes) }
}
