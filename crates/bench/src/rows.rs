//! The rows of the table: scenarios, their troubles and processes, and what each must hold.

use crate::remote::Trouble;
use crate::scenario::{self, Scenario};
use crate::world::{Random, bound};

/// How many processes there are, and what becomes of them. Times are seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fleet {
    /// This many, from beginning to end.
    Steady(usize),
    /// Of this many, half are killed then.
    Killed { processes: usize, at: f64 },
    /// One stays; `others` join one by one until then, and leave one by one from `leave` on.
    JoinLeave { others: usize, within: f64, leave: f64 },
}

impl Fleet {
    /// Processes in all.
    pub fn processes(self) -> usize {
        match self {
            Fleet::Steady(processes) | Fleet::Killed { processes, .. } => processes,
            Fleet::JoinLeave { others, .. } => others + 1,
        }
    }

    /// Jobs that each process has at once at most, `now` seconds after the beginning: those that are
    /// there share the places.
    pub fn room(self, at_once: usize, now: f64) -> usize {
        let is_there = |number: &usize| {
            let gone = self.killed(*number).or(self.leaves(*number));
            self.joins(*number) <= now && gone.is_none_or(|at| now < at)
        };
        at_once.div_ceil((0..self.processes()).filter(is_there).count().max(1))
    }

    /// When process `number` begins.
    pub fn joins(self, number: usize) -> f64 {
        match self {
            Fleet::Steady(_) | Fleet::Killed { .. } => 0.0,
            Fleet::JoinLeave { others, within, .. } => within * number as f64 / others.max(1) as f64,
        }
    }

    /// When it is killed.
    pub fn killed(self, number: usize) -> Option<f64> {
        match self {
            Fleet::Killed { processes, at } if number < processes / 2 => Some(at),
            Fleet::Steady(_) | Fleet::Killed { .. } | Fleet::JoinLeave { .. } => None,
        }
    }

    /// When it leaves in order.
    pub fn leaves(self, number: usize) -> Option<f64> {
        match self {
            Fleet::JoinLeave { leave, .. } if number > 0 => Some(leave + 2.0 * number as f64),
            Fleet::Steady(_) | Fleet::Killed { .. } | Fleet::JoinLeave { .. } => None,
        }
    }
}

/// One row, under any policy.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name in the table.
    pub name: &'static str,
    pub scenario: Scenario,
    pub fleet: Fleet,
    pub trouble: Trouble,
    /// Added to the bound: time in which nothing could be done.
    pub lost: f64,
    pub seed: u64,
    /// Most of `x_bound`, and of the share of 429.
    pub most_x: f64,
    pub most_429: f64,
}

/// Decides all that is left to chance.
pub const SEED: u64 = 1;
const JOBS: usize = 200;
const CALLS: usize = 10;

fn phase() -> f64 {
    Random(SEED * 77 + 5).unit()
}

fn plain(scenario: Scenario, processes: usize) -> Row {
    Row {
        name: scenario.name,
        most_x: scenario.most_x,
        most_429: scenario.most_429,
        scenario,
        fleet: Fleet::Steady(processes),
        trouble: Trouble::None,
        lost: 0.0,
        seed: SEED,
    }
}

/// The rows with troubles or a moving fleet, on a bucket that is known.
fn special(rpm: f64, at_once: usize) -> Vec<Row> {
    let known = || {
        let all = scenario::all(rpm, JOBS, CALLS, at_once, phase());
        all.into_iter().find(|scenario| scenario.name == "known-bucket")
    };
    let Some(base) = known() else { return Vec::new() };
    let third = bound(&base, SEED) / 3.0;
    let row = |name, fleet, trouble, lost, most_x, most_429| Row {
        name,
        scenario: base.clone(),
        fleet,
        trouble,
        lost,
        seed: SEED,
        most_x,
        most_429,
    };
    let one = Fleet::Steady(1);
    let outage = Trouble::Outage { from: third, until: third + 600.0 };
    let quota = Trouble::Quota { from: third, until: third + 1800.0 };
    let mut rows = vec![
        row("outage", one, outage, 600.0, 1.10, 1.0),
        row("quota", one, quota, 1800.0, 1.05, 1.0),
        row("faults", one, Trouble::Faults { share: 0.02 }, 0.0, 1.08, 0.01),
    ];
    if at_once >= 16 {
        let killed = Fleet::Killed { processes: 16, at: 1.5 * third };
        let join = Fleet::JoinLeave { others: 15, within: 60.0, leave: 2.0 * third };
        rows.push(row("killed", killed, Trouble::None, 0.0, 1.10, 0.02));
        rows.push(row("join-leave", join, Trouble::None, 0.0, 1.10, 0.02));
    }
    rows
}

/// A thousand processes with twenty jobs each.
fn thousand() -> Option<Row> {
    let rows = scenario::all(6_000.0, 20_000, CALLS, 4_000, phase());
    let scenario = rows.into_iter().find(|scenario| scenario.name == "known-bucket")?;
    Some(Row { name: "thousand", ..plain(scenario, 1_000) })
}

/// All rows, or those that take little time.
pub fn all(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let crowds: &[usize] = if quick { &[50] } else { &[10, 50, 200] };
    let fleets: &[usize] = if quick { &[1, 4] } else { &[1, 4, 16] };
    for rpm in [60.0, 600.0] {
        for &at_once in crowds {
            let told = |name: &str| name.starts_with("told") || name.ends_with("told");
            let scenarios = scenario::all(rpm, JOBS, CALLS, at_once, phase());
            for scenario in scenarios.into_iter().filter(|scenario| !told(scenario.name)) {
                for &processes in fleets.iter().filter(|processes| **processes <= at_once) {
                    rows.push(plain(scenario.clone(), processes));
                }
            }
            rows.extend(special(rpm, at_once));
        }
    }
    if !quick {
        rows.extend(thousand());
    }
    rows
}
