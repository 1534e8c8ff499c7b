//! Jobs at GitHub's limits: the real Github and RateAccountant actors against the simulated GitHub, in
//! simulated time.

pub mod bound;
pub mod run;

use bound::{Plan, Rules};

/// One row.
#[derive(Clone, Debug)]
pub struct GithubRow {
    /// Its name in the table.
    pub name: &'static str,
    pub jobs: usize,
    pub at_once: usize,
    pub processes: usize,
    pub seed: u64,
    pub rules: Rules,
    /// `github.write_spacing`, as times of the gap that GitHub asks for.
    pub spacing: f64,
    /// Most of `x_bound`, and of the share of refusals.
    pub most_x: f64,
    pub most_429: f64,
}

impl GithubRow {
    /// With GitHub's own limits.
    pub fn new(jobs: usize, at_once: usize, processes: usize, seed: u64) -> Self {
        let (name, rules) = ("github", Rules::real());
        GithubRow { name, jobs, at_once, processes, seed, rules, spacing: 1.0, most_x: 1.05, most_429: 0.0 }
    }

    /// Each process leaves the others' share of the writes alone, as an operator may set it.
    pub fn spaced(self) -> Self {
        GithubRow { name: "github-spaced", spacing: self.processes as f64, ..self }
    }

    /// Writes a minute, as GitHub asks for them.
    pub fn rpm(&self) -> f64 {
        60.0 / self.rules.gap
    }

    /// What the jobs need, the same whoever does it.
    pub fn plan(&self) -> Plan {
        Plan::drawn(self.jobs, self.at_once, self.seed)
    }
}

/// All rows, or those that take little time: 200 jobs stay below the 500 contents of an hour, 600 do not.
pub fn all(quick: bool, seed: u64) -> Vec<GithubRow> {
    let sizes: &[(usize, &[usize])] =
        if quick { &[(200, &[50])] } else { &[(200, &[10, 50, 200]), (600, &[50])] };
    let fleets: &[usize] = if quick { &[1, 4] } else { &[1, 4, 16] };
    let mut rows = Vec::new();
    for &(jobs, crowds) in sizes {
        for &at_once in crowds {
            let fitting = fleets.iter().filter(|processes| **processes <= at_once);
            for &processes in fitting {
                let row = GithubRow::new(jobs, at_once, processes, seed);
                rows.push(row.clone());
                if processes > 1 {
                    rows.push(row.spaced());
                }
            }
        }
    }
    rows
}
