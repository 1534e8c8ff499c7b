//! A Redis server for one run: on a free port of the loopback, without persistence, gone with its owner.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longest wait for it to come up; a busy machine takes its time.
const START: Duration = Duration::from_secs(30);

/// A server and a connection by which it is asked what it did.
pub struct Server {
    /// Where it listens.
    pub port: u16,
    connection: MultiplexedConnection,
    // Killed when it is dropped.
    _process: Child,
}

/// What a server has done since it was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// Processor time, in microseconds.
    pub cpu_us: f64,
    /// Times that it read from a client: pipelined commands are one.
    pub reads: u64,
    /// Calls and microseconds of each command, those that scripts ran among them.
    pub commands: BTreeMap<String, (u64, f64)>,
}

impl Server {
    /// Starts one.
    pub async fn start() -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command
            .spawn()
            .context("redis-server cannot be run: install it, apt-get install redis-server")?;
        let log = process.stdout.take().context("redis-server has no output")?;
        let mut lines = BufReader::new(log).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains("eady to accept connections") {
                    return Ok(());
                }
            }
            anyhow::bail!("redis-server ended at once: is port {port} taken?")
        };
        tokio::time::timeout(START, ready).await.context("redis-server does not come up")??;
        // Read on, or the server would stall on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        let connection = client.get_multiplexed_async_connection().await?;
        Ok(Server { port, connection, _process: process })
    }

    /// What it has done so far.
    pub async fn done(&mut self) -> anyhow::Result<Done> {
        let mut info = redis::cmd("INFO");
        info.arg("everything");
        let text: String = info.query_async(&mut self.connection).await?;
        Ok(Done::read(&text))
    }
}

impl Done {
    /// Reads the answer to INFO.
    fn read(text: &str) -> Self {
        let mut done = Done::default();
        for line in text.lines() {
            let Some((name, value)) = line.trim().split_once(':') else { continue };
            match name {
                "used_cpu_sys" | "used_cpu_user" => {
                    done.cpu_us += value.parse::<f64>().unwrap_or_default() * 1e6;
                }
                "total_reads_processed" => done.reads = value.parse().unwrap_or_default(),
                _ => {
                    let Some(command) = name.strip_prefix("cmdstat_") else { continue };
                    let part = |of: &str| {
                        let mut parts = value.split(',').filter_map(|part| part.split_once('='));
                        parts.find(|(name, _)| *name == of).and_then(|(_, value)| value.parse::<f64>().ok())
                    };
                    let (calls, spent) =
                        (part("calls").unwrap_or_default(), part("usec").unwrap_or_default());
                    done.commands.insert(command.to_owned(), (calls as u64, spent));
                }
            }
        }
        done
    }

    /// What it did since `before`.
    pub fn since(&self, before: &Done) -> Done {
        let commands = self.commands.iter().map(|(name, (calls, spent))| {
            let (calls_before, spent_before) = before.commands.get(name).copied().unwrap_or_default();
            (name.clone(), (calls.saturating_sub(calls_before), spent - spent_before))
        });
        Done {
            cpu_us: self.cpu_us - before.cpu_us,
            reads: self.reads.saturating_sub(before.reads),
            commands: commands.filter(|(_, (calls, _))| *calls > 0).collect(),
        }
    }

    /// What each command cost for a job, the dearest first.
    pub fn profile(&self, jobs: u64) -> String {
        let mut rows: Vec<_> = self.commands.iter().collect();
        rows.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
        let each = |number: f64| number / jobs.max(1) as f64;
        let row = |(name, (calls, spent)): &(&String, &(u64, f64))| {
            format!("  {name:<22} {:>8.3} calls {:>8.2} us", each(*calls as f64), each(*spent))
        };
        rows.iter().take(24).map(row).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: &str = "# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:0.5\r\ntotal_reads_processed:10\r\n\
        cmdstat_get:calls=2,usec=8,usec_per_call=4.00\r\n";
    const LATER: &str = "used_cpu_sys:2.5\r\nused_cpu_user:0.75\r\ntotal_reads_processed:30\r\n\
        cmdstat_get:calls=2,usec=8,usec_per_call=4.00\r\n\
        cmdstat_xgroup|create:calls=4,usec=100,usec_per_call=25.00\r\n";

    #[test]
    fn what_was_done_between_two_looks_is_told_for_each_job() {
        let (earlier, later) = (Done::read(EARLIER), Done::read(LATER));
        assert_eq!(earlier.cpu_us, 2e6);
        let between = later.since(&earlier);
        assert_eq!((between.cpu_us, between.reads), (1.25e6, 20));
        assert_eq!(between.commands, [("xgroup|create".to_owned(), (4, 100.0))].into());
        assert!(between.profile(10).contains("0.400 calls    10.00 us"), "{}", between.profile(10));
    }
}
