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

/// How large the rows are, and what decides their chances.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub rpm: f64,
    pub jobs: usize,
    pub calls: usize,
    pub at_once: usize,
    pub seed: u64,
}

impl Size {
    /// All scenarios; what had passed of a fixed window is by the seed.
    fn scenarios(self) -> Vec<Scenario> {
        let phase = Random(self.seed * 77 + 5).unit();
        let told = |name: &str| name.starts_with("told") || name.ends_with("told");
        let all = scenario::all(self.rpm, self.jobs, self.calls, self.at_once, phase);
        all.into_iter().filter(|scenario| !told(scenario.name)).collect()
    }

    /// The rows without troubles, with so many processes.
    pub fn plain(self, processes: usize) -> Vec<Row> {
        self.scenarios().into_iter().map(|scenario| self.row(scenario, processes)).collect()
    }

    fn row(self, scenario: Scenario, processes: usize) -> Row {
        Row {
            name: scenario.name,
            most_x: scenario.most_x,
            most_429: scenario.most_429,
            scenario,
            fleet: Fleet::Steady(processes),
            trouble: Trouble::None,
            lost: 0.0,
            seed: self.seed,
        }
    }

    /// The rows with troubles or with `fleet` processes that come and go, on a bucket that is known.
    pub fn special(self, fleet: usize) -> Vec<Row> {
        let base = self.scenarios().into_iter().find(|scenario| scenario.name == "known-bucket");
        let Some(base) = base else { return Vec::new() };
        let third = bound(&base, self.seed) / 3.0;
        let row = |name, fleet, trouble, lost, most_x, most_429| {
            let alone = self.row(base.clone(), 1);
            Row { name, fleet, trouble, lost, most_x, most_429, ..alone }
        };
        let one = Fleet::Steady(1);
        let outage = Trouble::Outage { from: third, until: third + 600.0 };
        let quota = Trouble::Quota { from: third, until: third + 1800.0 };
        let mut rows = vec![
            row("outage", one, outage, 600.0, 1.10, 1.0),
            row("quota", one, quota, 1800.0, 1.05, 1.0),
            row("faults", one, Trouble::Faults { share: 0.02 }, 0.0, 1.08, 0.01),
        ];
        if self.at_once >= fleet {
            let killed = Fleet::Killed { processes: fleet, at: 1.5 * third };
            let join = Fleet::JoinLeave { others: fleet - 1, within: 60.0, leave: 2.0 * third };
            rows.push(row("killed", killed, Trouble::None, 0.0, 1.10, 0.02));
            rows.push(row("join-leave", join, Trouble::None, 0.0, 1.10, 0.02));
        }
        rows
    }

    /// A fleet of very many processes on a bucket that is known.
    pub fn thousand(self, processes: usize) -> Option<Row> {
        let scenario = self.scenarios().into_iter().find(|scenario| scenario.name == "known-bucket")?;
        Some(Row { name: "thousand", ..self.row(scenario, processes) })
    }
}

/// All rows, or those that take little time.
pub fn all(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let crowds: &[usize] = if quick { &[50] } else { &[10, 50, 200] };
    let fleets: &[usize] = if quick { &[1, 4] } else { &[1, 4, 16] };
    for rpm in [60.0, 600.0] {
        for &at_once in crowds {
            let size = Size { rpm, jobs: JOBS, calls: CALLS, at_once, seed: SEED };
            for &processes in fleets.iter().filter(|processes| **processes <= at_once) {
                rows.extend(size.plain(processes));
            }
            rows.extend(size.special(16));
        }
    }
    if !quick {
        // A thousand processes with twenty jobs each.
        let size = Size { rpm: 6_000.0, jobs: 20_000, calls: CALLS, at_once: 4_000, seed: SEED };
        rows.extend(size.thousand(1_000));
    }
    rows
}
