//! The real program as a child process: `steadfast submit`, `run` and `jobs`, nothing of it linked in.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// Longest time that a short command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// The program and its configuration.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary.
    pub binary: PathBuf,
    /// Where it runs and keeps its files.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
}

impl Program {
    /// The binary beside this one.
    pub fn beside_us(folder: &Path, config: PathBuf) -> anyhow::Result<Self> {
        let ours = std::env::current_exe().context("cannot find out where this program is")?;
        let binary = ours.with_file_name("steadfast");
        if !binary.is_file() {
            bail!("{} is not there: build it with `cargo build --bins` (make demo does)", binary.display());
        }
        Ok(Program { binary, folder: folder.to_path_buf(), config })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).args(args).current_dir(&self.folder);
        // The user's own settings and keys are none of the demo's business.
        let ours = |name: &str| name.starts_with("STEADFAST_");
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| ours(name) || name == "OPENAI_API_KEY" || name == "GITHUB_TOKEN")
            {
                command.env_remove(name);
            }
        }
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.kill_on_drop(true);
        command
    }

    /// Runs a short command to its end; its standard output.
    pub async fn output(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let what = args.join(" ");
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start steadfast {what}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A child that goes away early says why on its standard error.
            if let Err(error) = stdin.write_all(input.as_bytes()).await {
                tracing::debug!(%error, "the command did not read its input");
            }
        }
        let done = tokio::time::timeout(COMMAND, child.wait_with_output()).await;
        let output = done.with_context(|| format!("steadfast {what} took more than {COMMAND:?}"))??;
        if !output.status.success() {
            bail!("steadfast {what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts `steadfast run`.
    pub fn run(&self) -> anyhow::Result<Worker> {
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C goes to this program, which then ends the worker in good order.
        command.process_group(0);
        let mut child = command.spawn().context("cannot start steadfast run")?;
        let stderr = child.stderr.take().context("the worker has no standard error")?;
        Ok(Worker { child, lines: BufReader::new(stderr).lines() })
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Worker {
    /// The next line of its log; `None` when it is gone.
    pub async fn line(&mut self) -> anyhow::Result<Option<String>> {
        Ok(self.lines.next_line().await?)
    }

    /// Asks it to stop, and waits at most `longest` before it is killed. Its exit status.
    pub async fn stop(mut self, longest: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let drained = async {
            // Its log is read on, so that a full pipe cannot hold it up.
            while let Ok(Some(_)) = self.lines.next_line().await {}
            self.child.wait().await
        };
        match tokio::time::timeout(longest, drained).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.child.kill().await?;
                bail!("the worker did not stop within {longest:?} after SIGTERM and was killed")
            }
        }
    }

    /// Waits for the end of a worker whose log has ended.
    pub async fn ended(mut self) -> anyhow::Result<std::process::ExitStatus> {
        Ok(tokio::time::timeout(COMMAND, self.child.wait()).await.context("the worker hangs")??)
    }
}
