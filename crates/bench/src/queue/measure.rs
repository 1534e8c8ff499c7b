//! One run: fill a queue, let the workers have it, then hand over jobs one by one; and the medians of
//! several.

use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

use super::child::{Children, Said, now_us};
use super::figures::{Waits, median};
use super::server::Done;
use super::system::{Peers, Place, System};

/// How long a queue is left alone before the first job that is handed over, and between two.
const IDLE: Duration = Duration::from_millis(200);
const BETWEEN: Duration = Duration::from_millis(2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Jobs without work.
    Noop,
    /// Jobs of thirty steps.
    Life,
    /// Jobs without work, while so many more wait.
    Waiting(u64),
}

impl What {
    /// As in the table.
    pub fn name(self) -> String {
        match self {
            What::Noop => "noop".to_owned(),
            What::Life => "life".to_owned(),
            What::Waiting(more) => format!("waiting-{more}"),
        }
    }

    fn steps(self) -> u32 {
        match self {
            What::Noop | What::Waiting(_) => 0,
            What::Life => 30,
        }
    }

    /// Jobs that are there beside those that are measured.
    fn more(self) -> u64 {
        match self {
            What::Noop | What::Life => 0,
            What::Waiting(more) => more,
        }
    }
}

/// A line of the table before it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub what: What,
    pub processes: usize,
    /// Jobs at once in each process.
    pub concurrency: usize,
    /// Jobs over which the rate is taken.
    pub jobs: u64,
    /// Jobs that are handed over one by one to an idle queue.
    pub pickups: u64,
}

/// What came of a run, or the median of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    pub jobs_per_s: f64,
    pub fill_per_s: f64,
    pub pickup_p50_ms: Option<f64>,
    pub pickup_p99_ms: Option<f64>,
    /// The largest worker's peak.
    pub rss_mb: f64,
    /// Processor time of all workers for a job.
    pub worker_us: f64,
    /// Processor time of the Redis server for a job.
    pub redis_us: Option<f64>,
    /// Times that the Redis server read from its clients for a job.
    pub redis_reads: Option<f64>,
    /// What the server did, command by command.
    pub profile: String,
}

/// One run.
pub async fn run(peers: &Peers, system: System, row: &Row) -> anyhow::Result<Measured> {
    let mut place = Place::of(system).await?;
    let mut children = Children::new();
    let jobs = row.jobs + row.what.more();
    let began = now_us();
    let producer = children.start(peers.command(system, &place, "producer", jobs, &[])?)?;
    await_all(&mut children, 1, Said::Filled).await?;
    let fill_per_s = jobs as f64 / seconds(began, now_us());

    let more = if system.is_ours() { vec![row.what.steps().to_string()] } else { Vec::new() };
    let worker = || -> anyhow::Result<Command> {
        peers.command(system, &place, "worker", row.concurrency as u64, &more)
    };
    let workers = (0..row.processes).map(|_| children.start(worker()?)).collect::<Result<Vec<_>, _>>()?;
    await_all(&mut children, workers.len(), Said::Ready).await?;
    let server_before = look(&mut place).await?;
    let cpu_before = cpu_us(&children, &workers)?;
    let began = now_us();
    for worker in &workers {
        children.tell(*worker, "go").await?;
    }
    let (done, last) = all_done(&mut children, &workers, row.jobs).await?;
    let spent = seconds(began, last);
    let worker_us = (cpu_us(&children, &workers)? - cpu_before) / done as f64;
    let server = look(&mut place).await?.zip(server_before).map(|(after, before)| after.since(&before));
    let each = |all: f64| all / done as f64;
    let mut measured = Measured {
        jobs_per_s: done as f64 / spent,
        fill_per_s,
        worker_us,
        redis_us: server.as_ref().map(|server| each(server.cpu_us)),
        redis_reads: server.as_ref().map(|server| each(server.reads as f64)),
        profile: server.map(|server| server.profile(done)).unwrap_or_default(),
        ..Measured::default()
    };
    if row.pickups > 0 {
        let waits = pickups(&mut children, producer, &workers, row.pickups).await?;
        measured.pickup_p50_ms = waits.at_ms(0.5);
        measured.pickup_p99_ms = waits.at_ms(0.99);
    }
    for worker in workers {
        measured.rss_mb = measured.rss_mb.max(children.usage(worker)?.peak_rss as f64 / 1e6);
    }
    children.end().await;
    Ok(measured)
}

fn seconds(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us).max(1) as f64 / 1e6
}

async fn look(place: &mut Place) -> anyhow::Result<Option<Done>> {
    match place {
        Place::Redis(server) => server.done().await.map(Some),
        Place::File(_) => Ok(None),
    }
}

fn cpu_us(children: &Children, workers: &[usize]) -> anyhow::Result<f64> {
    workers.iter().map(|&worker| Ok(children.usage(worker)?.cpu_us)).sum()
}

async fn await_all(children: &mut Children, processes: usize, word: Said) -> anyhow::Result<()> {
    for _ in 0..processes {
        let (_, said) = children.hear().await?;
        anyhow::ensure!(said == word, "{word:?} was to be said, not {said:?}");
    }
    Ok(())
}

/// Waits for so many jobs; how many there were by then, and when the last of them was settled.
async fn all_done(children: &mut Children, workers: &[usize], jobs: u64) -> anyhow::Result<(u64, u64)> {
    let mut done = vec![(0, 0); children.len()];
    loop {
        let (by, said) = children.hear().await?;
        let (Said::Done { count, at }, true) = (said, workers.contains(&by)) else { continue };
        if let Some(of_worker) = done.get_mut(by) {
            *of_worker = (count, at);
        }
        let all: u64 = done.iter().map(|(count, _)| count).sum();
        if all >= jobs {
            return Ok((all, done.iter().map(|(_, at)| *at).max().unwrap_or_default()));
        }
    }
}

/// Hands over jobs one by one, each when the one before is settled.
async fn pickups(
    children: &mut Children,
    producer: usize,
    workers: &[usize],
    jobs: u64,
) -> anyhow::Result<Waits> {
    for worker in workers {
        children.tell(*worker, "pickup").await?;
    }
    tokio::time::sleep(IDLE).await;
    let mut waits = Waits::new()?;
    for _ in 0..jobs {
        children.tell(producer, "add").await?;
        let (mut handed, mut began, mut settled) = (None, None, false);
        while handed.is_none() || began.is_none() || !settled {
            let (_, said) = children.hear().await?;
            match said {
                Said::Added { at } => handed = Some(at),
                Said::Start { at } => began = Some(at),
                // One that was told late is of the job before.
                Said::Done { .. } => settled = began.is_some(),
                Said::Ready | Said::Filled | Said::Ended => {}
            }
        }
        let (handed, began) = handed.zip(began).context("both were heard")?;
        waits.enter(began.saturating_sub(handed));
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(waits)
}

/// The median of each figure; none of no runs.
pub fn medians(runs: &[Measured]) -> Option<Measured> {
    let of = |figure: fn(&Measured) -> Option<f64>| median(runs.iter().filter_map(figure));
    Some(Measured {
        jobs_per_s: of(|run| Some(run.jobs_per_s))?,
        fill_per_s: of(|run| Some(run.fill_per_s))?,
        pickup_p50_ms: of(|run| run.pickup_p50_ms),
        pickup_p99_ms: of(|run| run.pickup_p99_ms),
        rss_mb: of(|run| Some(run.rss_mb))?,
        worker_us: of(|run| Some(run.worker_us))?,
        redis_us: of(|run| run.redis_us),
        redis_reads: of(|run| run.redis_reads),
        profile: runs.last().map(|run| run.profile.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_its_own_median() {
        let run = |jobs_per_s, rss_mb, redis_us, pickup_p50_ms| Measured {
            jobs_per_s,
            rss_mb,
            redis_us,
            pickup_p50_ms,
            ..Measured::default()
        };
        let runs =
            [run(1.0, 30.0, Some(5.0), None), run(3.0, 10.0, Some(7.0), None), run(2.0, 20.0, None, None)];
        let middle = medians(&runs).unwrap();
        assert_eq!((middle.jobs_per_s, middle.rss_mb), (2.0, 20.0));
        assert_eq!((middle.redis_us, middle.pickup_p50_ms), (Some(6.0), None));
        assert_eq!(medians(&[]), None);
    }
}
