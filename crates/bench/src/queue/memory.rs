//! What a process needs while it waits, and while it holds very many jobs.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use steadfast::config::load_from;
use steadfast::logs::Redactor;
use steadfast_core::journal::Step;
use steadfast_store::{Lease, Renewal};
use tokio::process::Command;

use super::child::{Children, Said, say};
use super::figures::median;
use super::role::{self, settings, step};
use super::system::{Peers, Place, System};

/// How long an idle process is left to itself before it is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// Steps of each running job.
const STEPS: u32 = 30;

/// Calls to the store on their way at once.
const AT_ONCE: usize = 64;

/// Most that one claim gives.
const CLAIM: usize = 256;

/// A measure of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// The worker as it is installed, without a job.
    Idle,
    /// So many running jobs, and so many that were parked.
    Jobs { running: u64, parked: u64 },
}

impl Holding {
    /// As in the table.
    pub fn name(self) -> String {
        match self {
            Holding::Idle => "idle".to_owned(),
            Holding::Jobs { running, parked } => format!("holds-{parked}+{running}"),
        }
    }

    /// The bound that it is to keep, in megabytes.
    fn bound(self) -> f64 {
        match self {
            Holding::Idle => 25.0,
            Holding::Jobs { .. } => 150.0,
        }
    }
}

/// The median of the runs' peaks.
pub struct Held {
    holding: Holding,
    peak_mb: f64,
}

impl Held {
    /// Measures it in so many runs.
    pub async fn measure(peers: &Peers, holding: Holding, runs: usize) -> anyhow::Result<Self> {
        let mut peaks = Vec::new();
        for _ in 0..runs {
            peaks.push(peak(peers, holding).await?);
        }
        Ok(Held { holding, peak_mb: median(peaks).context("nothing was measured")? })
    }

    /// For people, in the columns of the table.
    pub fn text(&self) -> String {
        let missed = if self.peak_mb <= self.holding.bound() { "" } else { " NO" };
        format!(
            "{:<15} {:<17} {:>4} {:>5} {:>7} {:>9} {:>9} {:>9} {:>8.1}  (<= {} MB){missed}",
            self.holding.name(),
            System::Steadfast.name(),
            1,
            "-",
            self.jobs(),
            "-",
            "-",
            "-",
            self.peak_mb,
            self.holding.bound()
        )
    }

    /// For programs, with the keys of the other lines.
    pub fn json(&self) -> Value {
        json!({
            "system": System::Steadfast.name(),
            "processes": 1,
            "concurrency": null,
            "jobs": self.jobs(),
            "jobs_per_s": null,
            "pickup_p50_ms": null,
            "pickup_p99_ms": null,
            "rss_mb": self.peak_mb,
            "measure": self.holding.name(),
            "most_rss_mb": self.holding.bound(),
        })
    }

    fn jobs(&self) -> u64 {
        match self.holding {
            Holding::Idle => 0,
            Holding::Jobs { running, parked } => running + parked,
        }
    }
}

async fn peak(peers: &Peers, holding: Holding) -> anyhow::Result<f64> {
    let system = System::Steadfast;
    let place = Place::of(system).await?;
    let mut children = Children::new();
    let process = match holding {
        Holding::Idle => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("idle").arg(place.url());
            let process = children.start(command)?;
            tokio::time::sleep(SETTLE).await;
            process
        }
        Holding::Jobs { running, parked } => {
            children.start(peers.command(system, &place, "producer", running + parked, &[])?)?;
            hear(&mut children, Said::Filled).await?;
            let more = [parked.to_string()];
            let process = children.start(peers.command(system, &place, "holder", running, &more)?)?;
            hear(&mut children, Said::Ready).await?;
            process
        }
    };
    let usage = children.usage(process)?;
    children.end().await;
    Ok(usage.peak_rss as f64 / 1e6)
}

async fn hear(children: &mut Children, word: Said) -> anyhow::Result<()> {
    let (_, said) = children.hear().await?;
    anyhow::ensure!(said == word, "{word:?} was to be said, not {said:?}");
    Ok(())
}

/// The worker as `steadfast run` starts it, on this queue, until its input ends.
pub fn idle(url: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let workspaces = folder.path().display().to_string();
    let variables = [
        ("STEADFAST_QUEUE__URL", url),
        ("STEADFAST_AGENT__WORKSPACES", &workspaces),
        ("STEADFAST_LOG__LEVEL", "error"),
        // Nothing is sent: there is no job.
        ("STEADFAST_LLM__API_KEY", "none"),
        ("STEADFAST_GITHUB__TOKEN", "none"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = load_from(None, variables)?;
    let redactor = Redactor::new(loaded.secrets.all());
    std::thread::spawn(|| {
        // However the input ends, whoever wanted this process is gone.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    });
    steadfast::run::run(loaded, redactor)?;
    Ok(())
}

/// Parks so many jobs and runs so many more, up to their thirtieth step: each one's lease is kept and
/// its conversation is in memory, as a run has it.
pub async fn holder(url: &str, running: usize, parked: usize) -> anyhow::Result<()> {
    let config = settings(url)?.queue;
    let store = steadfast_store::open(&config, "holder").await?;
    let mut leases = VecDeque::new();
    while leases.len() < running + parked {
        let claims = store.claim(CLAIM.min(running + parked - leases.len())).await?;
        anyhow::ensure!(!claims.is_empty(), "there are only {} jobs", leases.len());
        let renewed: Vec<Lease> = leases.iter().cloned().collect();
        leases.extend(claims.into_iter().map(|claim| claim.lease));
        let renewals = store.renew(&renewed).await?;
        anyhow::ensure!(renewals.iter().all(|renewal| *renewal == Renewal::Held), "a lease was lost");
    }
    let later = store.now().await? + Duration::from_secs(3600);
    let parks = stream::iter(leases.drain(..parked)).map(|lease| {
        let store = &store;
        async move { store.park(&lease, later, "a limit").await }
    });
    parks.buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
    let runs = stream::iter(&leases).map(|lease| {
        let store = &store;
        async move {
            for at in 0..STEPS {
                store.append(lease, at, &[step(at)], None).await?;
            }
            let replay = store.replay(&lease.job).await?;
            anyhow::Ok(replay.steps.iter().map(|step| Step::decode(step)).collect::<Result<Vec<_>, _>>()?)
        }
    });
    let conversations: Vec<Vec<Step>> = runs.buffer_unordered(AT_ONCE).try_collect().await?;
    let leases: Vec<Lease> = leases.into();
    let renewals = store.renew(&leases).await?;
    let held = renewals.iter().filter(|renewal| **renewal == Renewal::Held).count();
    anyhow::ensure!(held == running, "of {running} leases {held} are held");
    say("ready");
    let mut lines = role::input();
    while lines.next_line().await?.is_some() {}
    // Until here they are in memory.
    drop(conversations);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_with_its_bound() {
        let held = Held { holding: Holding::Idle, peak_mb: 20.04 };
        assert!(held.text().ends_with("20.0  (<= 25 MB)"), "{}", held.text());
        let jobs = Holding::Jobs { running: 2_000, parked: 10_000 };
        let held = Held { holding: jobs, peak_mb: 151.0 };
        assert!(held.text().ends_with("(<= 150 MB) NO"), "{}", held.text());
        let json = held.json();
        assert_eq!((&json["jobs"], &json["rss_mb"]), (&12_000.into(), &151.0.into()));
        assert_eq!(json["measure"], "holds-10000+2000");
    }
}
