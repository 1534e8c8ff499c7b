//! The lines of the table, for people and as JSON, and how far the goals against BullMQ are met.

use serde_json::{Value, json};

use super::measure::{Measured, Row};
use super::system::System;

/// A line.
pub struct Line<'a> {
    pub row: &'a Row,
    pub system: System,
    pub measured: &'a Measured,
    /// BullMQ's figures in the same row.
    pub bullmq: Option<&'a Measured>,
}

/// What stands above the lines.
pub fn heading() -> String {
    format!(
        "{:<15} {:<17} {:>4} {:>5} {:>7} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>7}  against BullMQ",
        "measure",
        "system",
        "proc",
        "conc",
        "jobs",
        "jobs/s",
        "p50 ms",
        "p99 ms",
        "rss MB",
        "worker us",
        "redis us",
        "reads"
    )
}

/// A goal against BullMQ: a ratio, and the bound that it is to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    pub name: &'static str,
    pub ratio: f64,
    /// At least this, or at most.
    pub bound: f64,
    pub at_least: bool,
}

impl Goal {
    /// Whether it is met.
    pub fn holds(&self) -> bool {
        if self.at_least { self.ratio >= self.bound } else { self.ratio <= self.bound }
    }
}

impl Line<'_> {
    /// The goals that concern this line: of our queue on Redis, in rows that BullMQ is in.
    pub fn goals(&self) -> Vec<Goal> {
        let (ours, theirs) = match (self.system, self.bullmq) {
            (System::Steadfast, Some(theirs)) => (self.measured, theirs),
            (System::Steadfast | System::Sqlite | System::Bullmq | System::Apalis, _) => return Vec::new(),
        };
        let rate = if self.row.concurrency == 1 { 3.0 } else { 2.0 };
        let goal = |name, ours: Option<f64>, theirs: Option<f64>, bound, at_least| {
            let (ours, theirs) = ours.zip(theirs.filter(|theirs| *theirs > 0.0))?;
            Some(Goal { name, ratio: ours / theirs, bound, at_least })
        };
        [
            goal("jobs", Some(ours.jobs_per_s), Some(theirs.jobs_per_s), rate, true),
            goal("p50", ours.pickup_p50_ms, theirs.pickup_p50_ms, 0.6, false),
            goal("p99", ours.pickup_p99_ms, theirs.pickup_p99_ms, 0.4, false),
            goal("rss", Some(ours.rss_mb), Some(theirs.rss_mb), 0.2, false),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// For people.
    pub fn text(&self) -> String {
        let Measured { jobs_per_s, rss_mb, worker_us, .. } = self.measured;
        let maybe = |number: Option<f64>, places| number.map_or("-".to_owned(), |n| format!("{n:.places$}"));
        let goals = self.goals();
        let against: Vec<String> = goals.iter().map(Goal::text).collect();
        format!(
            "{:<15} {:<17} {:>4} {:>5} {:>7} {jobs_per_s:>9.0} {:>9} {:>9} {rss_mb:>8.1} {worker_us:>9.1} {:>9} {:>7}  {}",
            self.row.what.name(),
            self.system.name(),
            self.row.processes,
            self.row.concurrency,
            self.row.jobs,
            maybe(self.measured.pickup_p50_ms, 3),
            maybe(self.measured.pickup_p99_ms, 3),
            maybe(self.measured.redis_us, 1),
            maybe(self.measured.redis_reads, 2),
            against.join(", "),
        )
        .trim_end()
        .to_owned()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut line = json!({
            "system": self.system.name(),
            "processes": self.row.processes,
            "concurrency": self.row.concurrency,
            "jobs": self.row.jobs,
            "jobs_per_s": self.measured.jobs_per_s,
            "pickup_p50_ms": self.measured.pickup_p50_ms,
            "pickup_p99_ms": self.measured.pickup_p99_ms,
            "rss_mb": self.measured.rss_mb,
            "measure": self.row.what.name(),
            "fill_per_s": self.measured.fill_per_s,
            "worker_us_per_job": self.measured.worker_us,
            "redis_us_per_job": self.measured.redis_us,
            "redis_reads_per_job": self.measured.redis_reads,
        });
        for goal in self.goals() {
            line[format!("{}_x_bullmq", goal.name)] = goal.ratio.into();
        }
        line
    }
}

impl Goal {
    fn text(&self) -> String {
        let (sign, word) = if self.at_least { (">=", "x") } else { ("<=", "x") };
        let missed = if self.holds() { "" } else { " NO" };
        format!("{} {:.2}{word} ({sign} {}){missed}", self.name, self.ratio, self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::What;
    use super::*;

    fn measured(jobs_per_s: f64, wait: f64, rss_mb: f64) -> Measured {
        Measured {
            jobs_per_s,
            rss_mb,
            pickup_p50_ms: Some(wait),
            pickup_p99_ms: Some(wait * 2.0),
            ..Measured::default()
        }
    }

    #[test]
    fn goals_are_ratios_to_bullmq_and_no_other() {
        let (ours, theirs) = (measured(6000.0, 0.25, 20.0), measured(2500.0, 0.5, 100.0));
        let row = |concurrency| Row { what: What::Noop, processes: 1, concurrency, jobs: 9, pickups: 3 };
        let kept = |concurrency, system| {
            let row = row(concurrency);
            let line = Line { row: &row, system, measured: &ours, bullmq: Some(&theirs) };
            line.goals().iter().map(|goal| (goal.name, goal.holds())).collect::<Vec<_>>()
        };
        let waits = [("p50", true), ("p99", false), ("rss", true)];
        assert_eq!(kept(50, System::Steadfast), [&[("jobs", true)][..], &waits].concat());
        assert_eq!(kept(1, System::Steadfast), [&[("jobs", false)][..], &waits].concat());
        assert_eq!(kept(1, System::Apalis), []);
        assert_eq!(kept(1, System::Bullmq), []);
    }

    #[test]
    fn a_line_has_the_keys_that_it_is_known_by() {
        let ours = measured(6000.0, 0.25, 20.0);
        let row = Row { what: What::Noop, processes: 4, concurrency: 50, jobs: 20_000, pickups: 300 };
        let line = Line { row: &row, system: System::Steadfast, measured: &ours, bullmq: None };
        let json = line.json();
        let keys = ["system", "processes", "concurrency", "jobs"];
        let figures = ["jobs_per_s", "pickup_p50_ms", "pickup_p99_ms", "rss_mb"];
        for key in keys.iter().chain(&figures) {
            assert!(!json[key].is_null(), "{key}: {json}");
        }
        assert!(json["redis_us_per_job"].is_null(), "not measured");
        assert!(line.text().contains("steadfast"), "{}", line.text());
        assert_eq!(line.text().split_whitespace().count(), 12, "{}", line.text());
    }
}
