//! The lines of the table, for people and as JSON.

use serde_json::{Value, json};

use crate::remote::Trouble;
use crate::rows::Row;
use crate::run::{Least, Measured, Policy};

/// One line.
pub struct Line<'a> {
    pub row: &'a Row,
    pub policy: Policy,
    pub least: &'a Least,
    pub measured: &'a Measured,
}

/// What stands above the lines.
pub fn heading() -> String {
    format!(
        "{:<15} {:<8} {:>5} {:>5} {:>5}  {:<10} {:>6} {:>7} {:>9} {:>8}  {:>7} {:>6} {:>7}  holds",
        "scenario",
        "window",
        "rpm",
        "jobs*",
        "proc",
        "policy",
        "done",
        "failed",
        "makespan",
        "bound",
        "x",
        "429 %",
        "wasted"
    )
}

impl Line<'_> {
    /// Times the least time that there could be; none if not every job was done.
    pub fn x(&self) -> Option<f64> {
        let all = self.measured.done == self.row.scenario.jobs;
        all.then(|| self.measured.makespan / self.least.bound)
    }

    /// Whether the row's bounds are kept.
    pub fn holds(&self) -> bool {
        let quiet = match self.row.trouble {
            Trouble::None | Trouble::Quota { .. } | Trouble::Faults { .. } => true,
            // A hundredth of what would have been sent.
            Trouble::Outage { from, until } => {
                self.measured.in_trouble as f64 <= self.row.scenario.rpm / 60.0 * (until - from) / 100.0
            }
        };
        let x = self.x().is_some_and(|x| x <= self.row.most_x);
        x && quiet && self.measured.share_429() <= self.row.most_429
    }

    /// For people.
    pub fn text(&self) -> String {
        let (scenario, measured) = (&self.row.scenario, self.measured);
        let ours = self.policy == Policy::Ours;
        let holds = if !ours {
            ""
        } else if self.holds() {
            "yes"
        } else {
            "NO"
        };
        let trouble = match self.row.trouble {
            Trouble::None | Trouble::Faults { .. } => String::new(),
            Trouble::Outage { .. } | Trouble::Quota { .. } => {
                format!(" ({} requests in it)", measured.in_trouble)
            }
        };
        format!(
            "{:<15} {:<8} {:>5} {:>5} {:>5}  {:<10} {:>6} {:>7} {:>9.0} {:>8.0}{} {:>7} {:>6.2} {:>7}  {holds}{trouble}",
            self.row.name,
            self.kind(),
            scenario.rpm,
            scenario.at_once,
            self.processes(),
            self.policy.name(),
            measured.done,
            measured.failed,
            measured.makespan,
            self.least.bound,
            if self.least.by_pacer { "*" } else { " " },
            self.x().map_or("-".to_owned(), |x| format!("{x:.3}")),
            measured.share_429() * 100.0,
            measured.wasted,
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (scenario, measured) = (&self.row.scenario, self.measured);
        json!({
            "mode": "simulated",
            "scenario": self.row.name,
            "kind": self.kind(),
            "policy": self.policy.name(),
            "rpm": scenario.rpm,
            "concurrency": scenario.at_once,
            "processes": self.processes(),
            "jobs": scenario.jobs,
            "done": measured.done,
            "failed": measured.failed,
            "makespan_s": measured.makespan,
            "bound_s": self.least.bound,
            "x_bound": self.x(),
            "bound_is": if self.least.by_pacer { "pacer" } else { "arithmetic" },
            "pct_429": measured.share_429() * 100.0,
            "wasted_calls": measured.wasted,
            "mean_completion_s": measured.mean_completion,
            "x_mean_oracle": measured.mean_completion / self.least.mean_completion.max(1e-9),
            "requests_in_trouble": measured.in_trouble,
            // No store keeps permits of its own: nothing to count.
            "round_trips_per_permit": self.measured.trips.map(|trips| trips as f64 / self.measured.sent.max(1) as f64),
            "most_x_bound": self.row.most_x,
            "most_pct_429": self.row.most_429 * 100.0,
            "holds": self.holds(),
        })
    }

    fn kind(&self) -> String {
        format!("{:?}", self.row.scenario.kind).to_lowercase()
    }

    /// The others know nothing of processes.
    fn processes(&self) -> usize {
        match self.policy {
            Policy::Ours => self.row.fleet.processes(),
            Policy::Naive(_) | Policy::Pacer => 1,
        }
    }
}
