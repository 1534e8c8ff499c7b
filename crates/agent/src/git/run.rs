//! One call of git: its environment, its configuration, its time limit, its failure.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use steadfast_core::classify;
use steadfast_core::failure::{Failure, FatalReason, Provider, Verdict};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::GitSettings;
use crate::jail::process;
use crate::jail::{Captured, Exit, Task};

/// Most bytes of git's complaints that are kept.
const STDERR: usize = 16 << 10;
/// Most bytes of an answer that is no patch.
const ANSWER: usize = 8 << 20;
/// Sets git's file size limit and becomes git.
const SCRIPT: &str = r#"ulimit -f "$1" 2>/dev/null; ulimit -c 0 2>/dev/null; shift; exec "$@""#;
/// The variable that holds the token, in the environment of git and of no other.
const TOKEN: &str = "STEADFAST_GIT_TOKEN";
/// Gives the token to git, and only when git asks for the one remote that it is scoped to. It runs
/// in a shell that git starts: the token is in no file, no argument and no URL.
const HELPER: &str =
    r#"!f() { test "$1" = get && echo username=x-access-token && echo "password=$STEADFAST_GIT_TOKEN"; }; f"#;

/// Variables of the worker by which git finds its way to the remote.
const INHERITED: [&str; 12] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];

/// Git's configuration, all of it: that of the system and the user is not read.
const CONFIG: [(&str, &str); 27] = [
    ("advice.detachedHead", "false"),
    ("core.askPass", ""),
    ("core.attributesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.excludesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.pager", "cat"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.quotePath", "false"),
    ("core.untrackedCache", "false"),
    ("credential.helper", ""),
    ("diff.external", ""),
    ("diff.ignoreSubmodules", "all"),
    ("diff.mnemonicPrefix", "false"),
    ("diff.noPrefix", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("gc.auto", "0"),
    ("http.lowSpeedLimit", "500"),
    ("http.lowSpeedTime", "60"),
    ("maintenance.auto", "false"),
    ("protocol.version", "2"),
    ("push.recurseSubmodules", "no"),
    ("submodule.recurse", "false"),
    ("transfer.fsckObjects", "true"),
    ("user.useConfigOnly", "true"),
];

/// Where git works, and for which remote.
#[derive(Debug)]
pub(super) struct Git {
    pub settings: GitSettings,
    /// Outside the workspace.
    pub git_dir: PathBuf,
    pub work_tree: PathBuf,
    pub remote: Url,
}

/// One call.
pub(super) struct Call<'a> {
    pub operation: &'static str,
    pub args: Vec<String>,
    pub stdin: Vec<u8>,
    pub env: Vec<(&'static str, String)>,
    pub token: Option<&'a SecretString>,
    pub timeout: Duration,
    pub cap: usize,
    pub is_push: bool,
    /// Whether git has to stand in the work tree itself; else it stands in its own folder, where
    /// nothing of the repository's lies about.
    pub in_work_tree: bool,
}

/// Git's answer.
pub(super) enum Answer {
    /// All of its output.
    Done(Vec<u8>),
    /// More output than the cap.
    TooLarge(u64),
    /// It ended with an error: code and complaint.
    Failed(i32, String),
}

impl Git {
    /// A call without a remote.
    pub fn call<'a>(&self, operation: &'static str, args: &[&str]) -> Call<'a> {
        Call {
            operation,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            stdin: Vec::new(),
            env: Vec::new(),
            token: None,
            timeout: self.settings.timeout,
            cap: ANSWER,
            is_push: false,
            in_work_tree: false,
        }
    }

    /// Runs a call whose error is a failure; its output as text, trimmed at the end.
    pub async fn text(&self, call: Call<'_>) -> Result<String, Failure> {
        let output = self.bytes(call).await?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// Runs a call whose error is a failure.
    pub async fn bytes(&self, call: Call<'_>) -> Result<Vec<u8>, Failure> {
        let (operation, is_push, cap) = (call.operation, call.is_push, call.cap);
        match self.run(call).await? {
            Answer::Done(output) => Ok(output),
            Answer::TooLarge(bytes) => {
                Err(unusable(operation, format!("git answered {bytes} bytes, more than {cap}")))
            }
            Answer::Failed(code, stderr) => {
                Err(classify::git::classify(operation, Some(code), &stderr, is_push))
            }
        }
    }

    /// Runs a call. A failure here is one of starting git, or of its time limit.
    pub async fn run(&self, call: Call<'_>) -> Result<Answer, Failure> {
        let Call { operation, args, stdin, env, token, timeout, cap, is_push, in_work_tree } = call;
        let mut command = Command::new("/bin/sh");
        let blocks = self.settings.max_file_bytes.as_u64().div_ceil(512);
        command.args(["-c", SCRIPT, "sh"]).arg(blocks.to_string()).arg(&self.settings.program).args(args);
        self.environment(&mut command, token);
        command.envs(env);
        command.current_dir(if in_work_tree { &self.work_tree } else { &self.git_dir });
        let task = Task {
            command,
            stdin,
            stdout: Captured::whole(cap),
            stderr: Captured::head_and_tail(STDERR),
            max_processes: None,
            tree: process::Tree::Group,
            timeout,
        };
        // A push that was cut off may have arrived.
        let cut_off = |words: &str| {
            let failure = classify::git::classify(operation, None, words, is_push);
            let is_remote = matches!(operation, "fetch" | "ls_remote" | "push");
            Failure { unhealthy: failure.unhealthy && is_remote, ..failure }
        };
        // Git is killed when this future is dropped; a cancelled job drops it.
        let ended = process::run(task, &CancellationToken::new()).await.map_err(|error| Failure {
            unhealthy: false,
            ..cut_off(&format!("git could not be run: {error}"))
        })?;
        match ended.exit {
            Exit::Code(0) => {
                let total = ended.stdout.total();
                Ok(ended.stdout.complete().map_or(Answer::TooLarge(total), Answer::Done))
            }
            Exit::Code(127) => Err(unusable(
                operation,
                format!("the program {} is not there: install git", self.settings.program.display()),
            )),
            Exit::Code(code) => Ok(Answer::Failed(code, ended.stderr.text())),
            Exit::TimedOut => Err(cut_off(&format!("no end within {timeout:?}. {}", ended.stderr.text()))),
            Exit::Signal(_) | Exit::Cancelled | Exit::TooManyProcesses => Err(cut_off(&ended.stderr.text())),
        }
    }

    fn environment(&self, command: &mut Command, token: Option<&SecretString>) {
        command.env_clear();
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // For this machine's own servers, as for all other requests: no proxy can reach them in our
        // place.
        if is_here(&self.remote) {
            command.env("no_proxy", "*");
        }
        command.env("LC_ALL", "C").env("HOME", "/nonexistent");
        command.env("GIT_DIR", &self.git_dir).env("GIT_WORK_TREE", &self.work_tree);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_CONFIG_SYSTEM", "/dev/null").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_REPLACE_OBJECTS", "1");
        command.env("GIT_LFS_SKIP_SMUDGE", "1").env("GIT_PROTOCOL_FROM_USER", "0");
        command.env("GIT_ALLOW_PROTOCOL", self.remote.scheme());

        let scoped = format!("credential.{}.helper", self.remote.origin().ascii_serialization());
        let mut config: Vec<(&str, &str)> = CONFIG.to_vec();
        if let Some(token) = token {
            command.env(TOKEN, token.expose_secret());
            config.push((&scoped, HELPER));
            // With a token, anonymous requests and their lower limits are not tried first.
            config.push(("http.proactiveAuth", "basic"));
        }
        command.env("GIT_CONFIG_COUNT", config.len().to_string());
        for (position, (key, value)) in config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{position}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{position}"), value);
        }
    }
}

fn is_here(remote: &Url) -> bool {
    match remote.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A failure that no repeating mends.
pub(crate) fn unusable(operation: &'static str, message: impl Into<String>) -> Failure {
    local(operation, Verdict::Fatal { why: FatalReason::Unusable }, message.into())
}

/// A failure of this machine, which another try, perhaps on another machine, may mend.
pub(crate) fn io(operation: &'static str, what: &str, error: &std::io::Error) -> Failure {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let after = full.then_some(classify::git::FULL_DISK);
    let hint = if full { classify::git::FULL_DISK_HINT } else { "" };
    let between = if full { "; " } else { "" };
    local(operation, Verdict::Retry { after }, format!("{hint}{between}{what}: {error}"))
}

fn local(operation: &'static str, verdict: Verdict, message: String) -> Failure {
    Failure {
        verdict,
        provider: Provider::Git,
        operation,
        status: None,
        message: message.chars().take(500).collect(),
        request_id: None,
        maybe_charged: false,
        unhealthy: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_not_asked_for_this_machines_own_servers() {
        for (remote, expected) in [
            ("http://127.0.0.1:8080/o/r.git", Some("*")),
            ("http://[::1]/o/r.git", Some("*")),
            ("http://localhost/o/r.git", Some("*")),
            ("https://github.com/o/r.git", std::env::var("no_proxy").ok().as_deref()),
        ] {
            let git = Git {
                settings: GitSettings {
                    program: "git".into(),
                    fetch_timeout: Duration::ZERO,
                    push_timeout: Duration::ZERO,
                    timeout: Duration::ZERO,
                    max_file_bytes: bytesize::ByteSize::mb(1),
                    allow_workflows: false,
                    max_changed_files: 1,
                    max_patch_bytes: bytesize::ByteSize::mb(1),
                },
                git_dir: "/g".into(),
                work_tree: "/w".into(),
                remote: remote.parse().unwrap(),
            };
            let mut command = Command::new("git");
            git.environment(&mut command, None);
            let no_proxy = command.get_envs().find(|(name, _)| *name == "no_proxy");
            let value = no_proxy.and_then(|(_, value)| value?.to_str());
            assert_eq!(value, expected, "{remote}");
        }
    }
}
