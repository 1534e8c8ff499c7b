//! Every scenario by 20 seeds, small: all jobs done, nothing paid twice, and the bounds of the table, or
//! where one of these is known not to hold, the one that does.

use std::collections::BTreeMap;

use steadfast_core::budget::Kind;

use crate::github::{self, GithubRow};
use crate::remote::Trouble;
use crate::report::Line;
use crate::rows::{Row, Size};
use crate::run::{Least, Policy, measure};

const SEEDS: u64 = 20;
/// Each seed plays one of these.
const FLEETS: [usize; 3] = [1, 4, 16];

/// What holds in place of the table's bounds: of x, of the share of refusals in percent, of the mean
/// completion.
#[derive(Clone, Copy)]
struct Holds {
    scenario: &'static str,
    kind: Kind,
    x: Option<f64>,
    refused: Option<f64>,
    mean: Option<f64>,
}

const MOST_MEAN: f64 = 1.10;

/// See docs/pacing.md, "Where it misses"; and a small run is short, so that what is lost at its edges weighs.
const KNOWN_TO_MISS: &[Holds] = &[];

fn size(seed: u64) -> Size {
    Size { rpm: 60.0, jobs: 16, calls: 10, at_once: 16, seed }
}

/// The worst of all seeds.
#[derive(Clone, Copy, Default)]
struct Worst {
    x: f64,
    refused: f64,
    mean: f64,
}

fn play(row: &Row) -> Line {
    let least = Least::of(row);
    let line = Line::of(row, Policy::Ours, &least, measure(row, Policy::Ours, &least).unwrap());
    let all = (row.scenario.jobs, 0, 0);
    assert_eq!((line.measured.done, line.measured.failed, line.measured.wasted), all, "{}", line.text());
    line
}

fn assert_holds(rows: impl Fn(u64) -> Vec<Row>) {
    let mut all: BTreeMap<(&str, String), (Row, Worst)> = BTreeMap::new();
    for seed in 0..SEEDS {
        for row in rows(seed) {
            let line = play(&row);
            let key = (row.name, line.kind.clone());
            let (_, worst) = all.entry(key).or_insert((row, Worst::default()));
            worst.x = worst.x.max(line.x().unwrap());
            worst.refused = worst.refused.max(line.measured.share_429() * 100.0);
            worst.mean = worst.mean.max(line.x_mean().unwrap());
        }
    }
    let mut missed = Vec::new();
    for ((name, kind), (row, worst)) in &all {
        let known =
            KNOWN_TO_MISS.iter().find(|holds| holds.scenario == *name && holds.kind == row.scenario.kind);
        let most_x = known.and_then(|holds| holds.x).unwrap_or(row.most_x);
        let most_refused = known.and_then(|holds| holds.refused).unwrap_or(row.most_429 * 100.0);
        let most_mean = known.and_then(|holds| holds.mean).unwrap_or(MOST_MEAN);
        let Worst { x, refused, mean } = *worst;
        let told = format!(
            "{name:<15} {kind:<8} x {x:.3} of {most_x:.3}  429 {refused:.2} of {most_refused:.2}  mean {mean:.3} of {most_mean:.3}"
        );
        eprintln!("{told}");
        if x > most_x || refused > most_refused || mean > most_mean {
            missed.push(told);
        }
    }
    assert!(missed.is_empty(), "\n{}", missed.join("\n"));
}

fn fleet(seed: u64) -> usize {
    FLEETS[usize::try_from(seed).unwrap() % FLEETS.len()]
}

#[test]
fn limits_of_every_kind_are_used_up_and_not_overrun() {
    assert_holds(|seed| size(seed).plain(fleet(seed)));
}

#[test]
fn troubles_and_fleets_that_change_cost_little() {
    assert_holds(|seed| size(seed).special(8));
}

#[test]
fn a_crowd_of_processes_shares_a_limit() {
    let size = |seed| Size { rpm: 300.0, jobs: 120, calls: 3, at_once: 120, seed };
    assert_holds(|seed| size(seed).thousand(40).into_iter().collect());
}

/// What 16 processes send together is what the limit allows, once the burst is over.
#[test]
fn the_sum_of_sixteen_processes_is_the_limit() {
    for seed in 0..SEEDS {
        let rows = size(seed).plain(16);
        let row = rows.iter().find(|row| row.name == "known-bucket").unwrap();
        let trace = play(row).measured.trace;
        let accepted: Vec<f64> = trace.iter().filter(|(_, accepted)| *accepted).map(|(at, _)| *at).collect();
        let steady: Vec<f64> = accepted.into_iter().filter(|at| *at > 20.0).collect();
        let span = steady.last().unwrap() - steady[0];
        let rpm = (steady.len() - 1) as f64 / span * 60.0;
        assert!((rpm / row.scenario.rpm - 1.0).abs() <= 0.02, "seed {seed}: {rpm} a minute");
    }
}

#[test]
fn few_requests_go_into_an_outage() {
    for seed in 0..SEEDS {
        let rows = size(seed).special(8);
        let outage = rows.iter().find(|row| row.name == "outage").unwrap();
        assert!(matches!(outage.trouble, Trouble::Outage { .. }));
        // Of the hundredth that was meant, 6 at this rate, it is known to miss: see docs/pacing.md.
        let asked = play(outage).measured.in_trouble;
        assert!(asked <= 24, "seed {seed}: {asked}");
    }
}

#[test]
fn githubs_limits_are_met_by_one_process_without_a_refusal() {
    for seed in 0..SEEDS {
        let row = GithubRow::new(30, 10, 1, seed);
        let plan = row.plan();
        let (bound, pacer) =
            (github::bound::least(&plan, &row.rules), github::bound::pacer(&plan, &row.rules));
        let line = Line::of_github(&row, Some(github::run::measure(&row).unwrap()), bound, pacer);
        eprintln!("{}", line.text());
        assert_eq!((line.measured.done, line.measured.failed, line.measured.wasted), (30, 0, 0));
        assert!(line.holds(), "{}", line.text());
    }
}

/// Processes space their writes each for itself: a server that takes GitHub at its word refuses them, and no
/// effect is lost or repeated by it.
#[test]
fn githubs_limits_refuse_a_fleet_that_loses_nothing_by_it() {
    for seed in 0..SEEDS {
        let row = GithubRow::new(30, 12, 4, seed);
        let measured = github::run::measure(&row).unwrap();
        assert_eq!((measured.done, measured.failed, measured.wasted), (30, 0, 0));
    }
}
