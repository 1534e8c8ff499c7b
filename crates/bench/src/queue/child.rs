//! The processes that are measured: what they are told and what they say, line by line, and what the
//! system says of them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// Longest silence of a process that ought to say something.
const SILENCE: Duration = Duration::from_secs(120);

/// Longest wait for one to end that was told to.
const END: Duration = Duration::from_secs(10);

/// What a process says. Times are microseconds on the system's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// A worker is connected.
    Ready,
    /// The producer's jobs are in.
    Filled,
    /// So many jobs are settled, the last one then.
    Done { count: u64, at: u64 },
    /// Work on a job began.
    Start { at: u64 },
    /// A job was handed to the queue then, and is in.
    Added { at: u64 },
    /// Nothing more: it ended, which none does before it is told to.
    Ended,
}

impl Said {
    /// Reads a line.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse().ok();
        Some(match word {
            "ready" => Said::Ready,
            "filled" => Said::Filled,
            "done" => Said::Done { count: number()?, at: number()? },
            "start" => Said::Start { at: number()? },
            "added" => Said::Added { at: number()? },
            _ => return None,
        })
    }
}

/// Says a line to whoever started this process, at once.
pub fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Nobody is left to hear it when this fails; the input ends then too.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Microseconds on the system's monotonic clock, which all processes share; tokio's is each one's own.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).unwrap_or_default()
}

/// Several processes, and all that they say in one place.
pub struct Children {
    processes: Vec<(Child, Option<ChildStdin>)>,
    said: mpsc::Receiver<(usize, Said)>,
    sayings: mpsc::Sender<(usize, Said)>,
}

impl Children {
    pub fn new() -> Self {
        let (sayings, said) = mpsc::channel(1024);
        Children { processes: Vec::new(), said, sayings }
    }

    /// Starts one more; its number. Its errors go where ours go.
    pub fn start(&mut self, mut command: Command) -> anyhow::Result<usize> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let number = self.processes.len();
        let output = process.stdout.take().context("a process has no output")?;
        let sayings = self.sayings.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match Said::read(&line) {
                    Some(said) => {
                        if sayings.send((number, said)).await.is_err() {
                            return;
                        }
                    }
                    None => eprintln!("{line}"),
                }
            }
            // Nobody is left to hear it when all were let go.
            let _ = sayings.send((number, Said::Ended)).await;
        });
        let input = process.stdin.take();
        self.processes.push((process, input));
        Ok(number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Tells one a line.
    pub async fn tell(&mut self, number: usize, line: &str) -> anyhow::Result<()> {
        let input = self.processes.get_mut(number).and_then(|(_, input)| input.as_mut());
        let input = input.context("a process was told to end")?;
        input.write_all(format!("{line}\n").as_bytes()).await.context("a process has ended too early")
    }

    /// What is said next, and by whom.
    pub async fn hear(&mut self) -> anyhow::Result<(usize, Said)> {
        let heard = tokio::time::timeout(SILENCE, self.said.recv()).await;
        let heard = heard.ok().flatten().with_context(|| format!("nobody said anything for {SILENCE:?}"))?;
        anyhow::ensure!(heard.1 != Said::Ended, "process {} ended too early; what it said is above", heard.0);
        Ok(heard)
    }

    /// What the system says of one.
    pub fn usage(&self, number: usize) -> anyhow::Result<Usage> {
        let id = self.processes.get(number).and_then(|(process, _)| process.id());
        Usage::of(id.context("a process has ended too early")?)
    }

    /// Lets all end.
    pub async fn end(mut self) {
        for (_, input) in &mut self.processes {
            drop(input.take());
        }
        for (process, _) in &mut self.processes {
            if tokio::time::timeout(END, process.wait()).await.is_err() {
                // It fails only for one that has ended by now.
                let _ = process.kill().await;
            }
        }
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// The most memory that it had at once, in bytes.
    pub peak_rss: u64,
    /// The memory that it has, in bytes.
    pub rss: u64,
    /// Processor time, in microseconds.
    pub cpu_us: f64,
}

impl Usage {
    /// Of the process with this id.
    pub fn of(id: u32) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))
            .with_context(|| format!("nothing is known of process {id}"))?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let tick_us = 1e6 / rustix::param::clock_ticks_per_second().max(1) as f64;
        Ok(Usage::read(&status, &stat, tick_us))
    }

    fn read(status: &str, stat: &str, tick_us: f64) -> Self {
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
        };
        // The name before may hold anything but ends with the last bracket; user and system time are
        // the fourteenth and fifteenth.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
        Usage {
            peak_rss: kilobytes("VmHWM:") * 1024,
            rss: kilobytes("VmRSS:") * 1024,
            cpu_us: ticks.sum::<f64>() * tick_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_said() {
        assert_eq!(Said::read("ready"), Some(Said::Ready));
        assert_eq!(Said::read("filled"), Some(Said::Filled));
        assert_eq!(Said::read("done 12 34"), Some(Said::Done { count: 12, at: 34 }));
        assert_eq!(Said::read("start 7"), Some(Said::Start { at: 7 }));
        assert_eq!(Said::read("added 7"), Some(Said::Added { at: 7 }));
        for line in ["", "done", "done 1", "done 1 x", "start", "hello 1"] {
            assert_eq!(Said::read(line), None, "{line}");
        }
    }

    #[test]
    fn the_systems_files_are_read() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let stat = "1 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        let usage = Usage::read(status, stat, 10_000.0);
        assert_eq!(usage, Usage { peak_rss: 2 << 20, rss: 1 << 20, cpu_us: 2e6 });
    }

    #[tokio::test]
    async fn a_process_is_told_and_heard() {
        let mut children = Children::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read line; echo \"$line\"; read line"]);
        let child = children.start(command).unwrap();
        assert_eq!(children.hear().await.unwrap(), (child, Said::Ready));
        children.tell(child, "start 5").await.unwrap();
        assert_eq!(children.hear().await.unwrap(), (child, Said::Start { at: 5 }));
        assert!(children.usage(child).unwrap().peak_rss > 0);
        children.tell(child, "end").await.unwrap();
        let error = children.hear().await.unwrap_err().to_string();
        assert!(error.contains("process 0 ended too early"), "{error}");
        children.end().await;
    }
}
