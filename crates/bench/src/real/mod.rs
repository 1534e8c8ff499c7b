//! The same with real processes: the release binary, a real Redis, real HTTP and git to the simulated
//! servers, judged by what these recorded.

mod town;

use std::time::Duration;

use anyhow::Context;
use steadfast_core::budget::Kind;
use steadfast_core::budget::least::{Limit, Work, makespan};
use steadfast_sim::{LimitKind, Records, RetryAfter, WorldConfig};
use steadfast_store::{Inspection, State};
use tokio::time::{Instant, interval, timeout};

use crate::report::Line;
use crate::run::Measured;
use town::Town;
pub use town::check;

/// No row takes longer.
const DEADLINE: Duration = Duration::from_secs(900);
/// To the model's first token, give or take half.
const LATENCY: Duration = Duration::from_millis(500);
/// GitHub's writes: their time at the server, and the gap that is kept between them: a quarter of its own,
/// as are the spans of its limits.
const WRITE: Duration = Duration::from_millis(50);
const GAP: Duration = Duration::from_millis(250);
const SECONDARY: Duration = Duration::from_secs(15);

/// What is limited, and what the workers know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// A bucket, told by the configuration.
    KnownBucket,
    /// A bucket of which nothing is told but a true Retry-After.
    RetryAfter,
    /// A fixed window of which nothing is told.
    BlindFixed,
    /// As the first, and half of the processes are killed by `kill -9`.
    Killed,
    /// GitHub's writes; the model has no limit.
    Github,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct RealRow {
    scenario: Scenario,
    rpm: u32,
    pub jobs: usize,
    pub at_once: usize,
    pub processes: usize,
    most_x: f64,
    most_429: f64,
}

impl RealRow {
    fn new(scenario: Scenario, rpm: u32, jobs: usize, processes: usize) -> Self {
        let (most_x, most_429) = match scenario {
            Scenario::KnownBucket => (1.05, 0.01),
            Scenario::RetryAfter => (1.08, 0.03),
            Scenario::BlindFixed => (1.20, 0.08),
            Scenario::Killed => (1.10, 0.02),
            Scenario::Github => (1.05, 0.0),
        };
        RealRow { scenario, rpm, jobs, at_once: 40, processes, most_x, most_429 }
    }

    /// As in the table.
    pub fn name(&self) -> &'static str {
        match self.scenario {
            Scenario::KnownBucket => "known-bucket",
            Scenario::RetryAfter => "retry-after",
            Scenario::BlindFixed => "blind-fixed",
            Scenario::Killed => "killed",
            Scenario::Github => "github",
        }
    }

    /// Requests of the model a minute, or writes of GitHub's.
    pub fn rpm(&self) -> f64 {
        match self.scenario {
            Scenario::Github => 60.0 / GAP.as_secs_f64(),
            Scenario::KnownBucket | Scenario::RetryAfter | Scenario::BlindFixed | Scenario::Killed => {
                f64::from(self.rpm)
            }
        }
    }

    fn kind(&self) -> Kind {
        match self.scenario {
            Scenario::BlindFixed => Kind::Fixed,
            Scenario::KnownBucket | Scenario::RetryAfter | Scenario::Killed | Scenario::Github => {
                Kind::Bucket
            }
        }
    }
}

/// All rows, or those that take little time.
pub fn all(quick: bool) -> Vec<RealRow> {
    let row = RealRow::new;
    if quick {
        return vec![row(Scenario::Killed, 600, 60, 4), row(Scenario::Github, 0, 30, 1)];
    }
    vec![
        row(Scenario::KnownBucket, 600, 80, 1),
        row(Scenario::KnownBucket, 600, 80, 4),
        row(Scenario::RetryAfter, 600, 80, 1),
        row(Scenario::RetryAfter, 600, 80, 4),
        row(Scenario::BlindFixed, 300, 80, 1),
        row(Scenario::BlindFixed, 300, 80, 4),
        row(Scenario::Killed, 600, 80, 4),
        row(Scenario::Github, 0, 60, 1),
        row(Scenario::Github, 0, 60, 4),
    ]
}

fn world(row: &RealRow, config: &mut WorldConfig) {
    config.latency.llm_first = LATENCY;
    config.latency.github = WRITE / 2;
    config.latency.jitter = 0.5;
    config.llm.tell_limits = false;
    config.llm.count_rejected = false;
    config.llm.retry_after = RetryAfter::Hidden;
    config.llm.requests_per_minute = Some(u64::from(row.rpm));
    config.llm.limit_kind = match row.kind() {
        Kind::Bucket | Kind::Rolling => LimitKind::Bucket { holds: Duration::from_secs(10) },
        Kind::Fixed => LimitKind::Fixed,
    };
    // GitHub is in nobody's way, except in its own row.
    let github = &mut config.github;
    (github.points_per_minute, github.content_per_minute) = (1_000_000, 1_000_000);
    (github.primary_per_hour, github.content_per_hour) = (1_000_000, 1_000_000);
    match row.scenario {
        Scenario::KnownBucket | Scenario::BlindFixed | Scenario::Killed => {}
        Scenario::RetryAfter => config.llm.retry_after = RetryAfter::True,
        Scenario::Github => {
            config.llm.requests_per_minute = None;
            config.latency.llm_first = LATENCY / 10;
            config.latency.jitter = 0.0;
            let github = &mut config.github;
            github.write_burst = Some((10, GAP * 10));
            github.secondary_lasts = SECONDARY;
            (github.points_per_minute, github.content_per_minute) = (4 * 900, 4 * 80);
            (github.primary_per_hour, github.content_per_hour) = (4 * 5_000, 4 * 500);
        }
    }
}

fn lines(row: &RealRow) -> Vec<String> {
    let mut lines = vec![format!("job.concurrency = {}", row.at_once.div_ceil(row.processes))];
    let known = || {
        let (rpm, burst) = (row.rpm, row.rpm / 6);
        [
            format!("llm.limits.requests_per_minute = {rpm}"),
            "llm.limits.window = \"bucket\"".to_owned(),
            format!("llm.limits.burst = {burst}"),
        ]
    };
    let spacing = match row.scenario {
        Scenario::KnownBucket | Scenario::Killed => {
            lines.extend(known());
            Duration::ZERO
        }
        Scenario::RetryAfter | Scenario::BlindFixed => Duration::ZERO,
        Scenario::Github => GAP,
    };
    lines.push(format!("github.write_spacing = \"{}ms\"", spacing.as_millis()));
    lines
}

/// Plays a row, in its own time.
pub fn measure(row: &RealRow) -> anyhow::Result<Line> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(play(row))
}

async fn play(row: &RealRow) -> anyhow::Result<Line> {
    let mut town = Town::build(row.jobs, |config| world(row, config), &lines(row)).await?;
    for _ in 0..row.processes {
        town.start()?;
    }
    town.ready().await?;
    let jobs: Vec<_> = (0..row.jobs).map(town::job).collect::<Result<_, _>>()?;
    let passed = town.world.now().since(town.world.config().start);
    let begin = Instant::now();
    for job in &jobs {
        town.store.submit(job).await?;
    }
    let all_ended = async {
        let mut pause = interval(Duration::from_millis(100));
        let mut killed = row.scenario != Scenario::Killed;
        loop {
            pause.tick().await;
            let [.., ended] = town.store.count().await?;
            if !killed && ended as usize >= row.jobs / 4 {
                killed = true;
                for number in 0..row.processes / 2 {
                    town.kill(number).await?;
                }
            }
            if ended as usize >= row.jobs {
                return anyhow::Ok(());
            }
        }
    };
    match timeout(DEADLINE, all_ended).await {
        Ok(ended) => ended?,
        Err(_) => eprintln!("not all jobs ended within {DEADLINE:?}: {}", town.last_words()),
    }
    let took = begin.elapsed();
    let ended = town.store.list(Some(State::Ended), row.jobs).await?;
    let records = town.world.records();
    judge(row, passed, took, &ended, &records)
}

/// What the servers recorded and the queue holds, against the least that any policy could need.
fn judge(
    row: &RealRow,
    passed: Duration,
    took: Duration,
    ended: &[Inspection],
    records: &Records,
) -> anyhow::Result<Line> {
    let status =
        |job: &&Inspection| job.status.iter().any(|(name, value)| name == "status" && value == "completed");
    let done: Vec<&Inspection> = ended.iter().filter(status).collect();
    let first = ended.iter().map(|job| job.admitted_at).min().context("no job has ended")?;
    let after = |job: &&Inspection| job.at.since(first).as_secs_f64();
    let sum: f64 = done.iter().map(after).sum();
    let last = done.iter().map(after).fold(0.0, f64::max);
    let is_github = row.scenario == Scenario::Github;
    let mut measured = if is_github {
        crate::github::run::of_records(records)
    } else {
        Measured {
            sent: records.chats.len(),
            rejected: records.chats_with(429),
            wasted: records.paid_twice(),
            ..Measured::default()
        }
    };
    measured.done = done.len();
    measured.failed = row.jobs - done.len();
    measured.makespan = if done.len() == row.jobs { last } else { took.as_secs_f64() };
    measured.mean_completion = sum / done.len().max(1) as f64;
    let (bound, mean_oracle) = if is_github {
        let writes = crate::github::run::writes(records);
        (by_writes(writes), None)
    } else {
        // What was paid twice was not needed.
        let calls = records.chats_with(200) - measured.wasted;
        let least = |calls: f64| by_calls(row, calls, passed);
        let each = calls as f64 / row.jobs as f64;
        let mean: f64 = (1..=row.jobs).map(|job| least(each * job as f64)).sum();
        (least(calls as f64), Some(mean / row.jobs as f64))
    };
    Ok(Line {
        mode: "real",
        scenario: row.name(),
        kind: if is_github { "github".to_owned() } else { format!("{:?}", row.kind()).to_lowercase() },
        policy: "steadfast",
        rpm: row.rpm(),
        at_once: row.at_once,
        processes: row.processes,
        jobs: row.jobs,
        bound,
        by_pacer: false,
        mean_oracle,
        measured,
        most_x: row.most_x,
        most_429: row.most_429,
        in_trouble: None,
        most_in_trouble: f64::INFINITY,
    })
}

/// The least time for so many calls of the model, in seconds: by the limit, by the places, and for each
/// job's own calls one after the other.
fn by_calls(row: &RealRow, calls: f64, passed: Duration) -> f64 {
    let most = f64::from(row.rpm);
    let window = Duration::from_secs(60);
    let into = Duration::from_secs_f64(passed.as_secs_f64() % window.as_secs_f64());
    let limit = Limit { kind: row.kind(), most, window, burst: most / 6.0, passed: into };
    let (shortest, total) = (LATENCY / 2, LATENCY.mul_f64(calls));
    let work = Work {
        total,
        // All jobs are alike but for chance, which is left out.
        longest_job: Duration::ZERO,
        shortest_call: shortest,
        at_once: u32::try_from(row.at_once).unwrap_or(u32::MAX),
    };
    makespan(&[(limit, calls.ceil())], &work).as_secs_f64()
}

/// The least time for so many writes of GitHub's, one after the other with the gap between, in seconds.
fn by_writes(writes: usize) -> f64 {
    writes as f64 * WRITE.as_secs_f64() + writes.saturating_sub(1) as f64 * GAP.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_counts_what_is_left_of_a_window() {
        let row = RealRow::new(Scenario::BlindFixed, 300, 80, 1);
        let least = |calls, passed| by_calls(&row, calls, Duration::from_secs(passed));
        assert_eq!(least(300.0, 70), 300.0 * 0.5 / 40.0);
        assert_eq!(least(301.0, 70), 50.0 + 0.25);
        assert_eq!(least(900.0, 70), 110.0 + 0.25);
        let bucket = RealRow::new(Scenario::KnownBucket, 600, 80, 1);
        assert_eq!(by_calls(&bucket, 700.0, Duration::ZERO), 60.0 + 0.25);
    }

    #[test]
    fn writes_have_their_gaps_between_them() {
        assert!((by_writes(3) - 0.65).abs() < 1e-9);
        assert_eq!(by_writes(0), 0.0);
    }
}
