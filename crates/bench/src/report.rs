//! The lines of the table, for people and as JSON.

use serde_json::{Value, json};

use crate::github::GithubRow;
use crate::github::bound::Times;
use crate::remote::Trouble;
use crate::rows::Row;
use crate::run::{Least, Measured, Policy};

/// One line: a row under a policy, and what came of it. Times are seconds.
#[derive(Clone, Debug)]
pub struct Line {
    /// `simulated` or `real`.
    pub mode: &'static str,
    pub scenario: &'static str,
    pub kind: String,
    pub policy: &'static str,
    pub rpm: f64,
    pub at_once: usize,
    pub processes: usize,
    pub jobs: usize,
    pub bound: f64,
    /// Whether the bound is the pacer's time, since the arithmetic is loose there.
    pub by_pacer: bool,
    /// The mean completion of a perfect pacer that serves the oldest first; none where there is none.
    pub mean_oracle: Option<f64>,
    pub measured: Measured,
    /// Most of `x`, and of the share of 429.
    pub most_x: f64,
    pub most_429: f64,
    /// Requests while a trouble lasted, and the most of them; none where there is no trouble.
    pub in_trouble: Option<usize>,
    pub most_in_trouble: f64,
}

/// What stands above the lines.
pub fn heading() -> String {
    format!(
        "{:<15} {:<9} {:<8} {:>5} {:>5} {:>5}  {:<10} {:>6} {:>7} {:>9} {:>8}  {:>7} {:>6} {:>7} {:>7}  holds",
        "scenario",
        "mode",
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
        "wasted",
        "x mean",
    )
}

impl Line {
    /// Of a row in simulated time.
    pub fn of(row: &Row, policy: Policy, least: &Least, measured: Measured) -> Self {
        let (in_trouble, most_in_trouble) = match row.trouble {
            Trouble::None | Trouble::Faults { .. } => (None, f64::INFINITY),
            Trouble::Quota { .. } => (Some(measured.in_trouble), f64::INFINITY),
            // A hundredth of what would have been sent.
            Trouble::Outage { from, until } => {
                (Some(measured.in_trouble), row.scenario.rpm / 60.0 * (until - from) / 100.0)
            }
        };
        Line {
            mode: "simulated",
            scenario: row.name,
            kind: format!("{:?}", row.scenario.kind).to_lowercase(),
            policy: policy.name(),
            rpm: row.scenario.rpm,
            at_once: row.scenario.at_once,
            // The others know nothing of processes.
            processes: match policy {
                Policy::Ours => row.fleet.processes(),
                Policy::Naive(_) | Policy::Pacer => 1,
            },
            jobs: row.scenario.jobs,
            bound: least.bound,
            by_pacer: least.by_pacer,
            mean_oracle: Some(least.mean_completion),
            measured,
            most_x: row.most_x,
            most_429: row.most_429,
            in_trouble,
            most_in_trouble,
        }
    }

    /// Of GitHub's row in simulated time; without `measured`, of the pacer.
    pub fn of_github(row: &GithubRow, measured: Option<Measured>, bound: f64, pacer: Times) -> Self {
        let policy = if measured.is_some() { Policy::Ours } else { Policy::Pacer };
        let of_pacer = Measured {
            done: row.jobs,
            makespan: pacer.makespan,
            mean_completion: pacer.mean_completion,
            ..Measured::default()
        };
        Line {
            mode: "simulated",
            scenario: row.name,
            kind: "github".to_owned(),
            policy: policy.name(),
            rpm: row.rpm(),
            at_once: row.at_once,
            processes: if policy == Policy::Ours { row.processes } else { 1 },
            jobs: row.jobs,
            bound,
            by_pacer: false,
            mean_oracle: Some(pacer.mean_completion),
            measured: measured.unwrap_or(of_pacer),
            most_x: row.most_x,
            most_429: row.most_429,
            in_trouble: None,
            most_in_trouble: f64::INFINITY,
        }
    }

    /// Times the least time that there could be; none if not every job was done.
    pub fn x(&self) -> Option<f64> {
        (self.measured.done == self.jobs).then(|| self.measured.makespan / self.bound)
    }

    /// The mean completion, times the perfect pacer's.
    pub fn x_mean(&self) -> Option<f64> {
        self.mean_oracle.map(|oracle| self.measured.mean_completion / oracle.max(1e-9))
    }

    /// Whether the row's bounds are kept.
    pub fn holds(&self) -> bool {
        let quiet = self.in_trouble.is_none_or(|count| count as f64 <= self.most_in_trouble);
        let x = self.x().is_some_and(|x| x <= self.most_x);
        x && quiet && self.measured.share_429() <= self.most_429
    }

    fn is_ours(&self) -> bool {
        self.policy == Policy::Ours.name()
    }

    /// For people.
    pub fn text(&self) -> String {
        let measured = &self.measured;
        let holds = match (self.is_ours(), self.holds()) {
            (false, _) => "",
            (true, true) => "yes",
            (true, false) => "NO",
        };
        let trouble = self.in_trouble.map_or(String::new(), |count| format!(" ({count} requests in it)"));
        format!(
            "{:<15} {:<9} {:<8} {:>5} {:>5} {:>5}  {:<10} {:>6} {:>7} {:>9.0} {:>8.0}{} {:>7} {:>6.2} {:>7} {:>7}  {holds}{trouble}",
            self.scenario,
            self.mode,
            self.kind,
            self.rpm,
            self.at_once,
            self.processes,
            self.policy,
            measured.done,
            measured.failed,
            measured.makespan,
            self.bound,
            if self.by_pacer { "*" } else { " " },
            self.x().map_or("-".to_owned(), |x| format!("{x:.3}")),
            measured.share_429() * 100.0,
            measured.wasted,
            self.x_mean().map_or("-".to_owned(), |x| format!("{x:.3}")),
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let measured = &self.measured;
        json!({
            "mode": self.mode,
            "scenario": self.scenario,
            "kind": self.kind,
            "policy": self.policy,
            "rpm": self.rpm,
            "concurrency": self.at_once,
            "processes": self.processes,
            "jobs": self.jobs,
            "done": measured.done,
            "failed": measured.failed,
            "makespan_s": measured.makespan,
            "bound_s": self.bound,
            "x_bound": self.x(),
            "bound_is": if self.by_pacer { "pacer" } else { "arithmetic" },
            "pct_429": measured.share_429() * 100.0,
            "wasted_calls": measured.wasted,
            "mean_completion_s": measured.mean_completion,
            "x_mean_oracle": self.x_mean(),
            "requests_in_trouble": measured.in_trouble,
            // No store keeps permits of its own: nothing to count.
            "round_trips_per_permit": measured.trips.map(|trips| trips as f64 / measured.sent.max(1) as f64),
            "most_x_bound": self.most_x,
            "most_pct_429": self.most_429 * 100.0,
            "holds": self.holds(),
        })
    }
}
