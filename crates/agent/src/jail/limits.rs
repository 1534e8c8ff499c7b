//! What holds for a command at every level: resource limits and a clean environment.
//!
//! The limits are set by the shell that the command replaces: setting them from here would need
//! code between fork and exec.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::JailSettings;
use super::settings::CommandSettings;

/// Waits for the line by which a namespace's maker is let go, sets the limits, and becomes the
/// shell that runs the command. A limit that is lower already cannot be raised and need not be: the
/// error is left aside. dash calls `-u` `-p`. Where memory runs out, a command goes before the
/// worker does.
const SCRIPT: &str = r#"
if [ -n "$7" ]; then read -r _ || exit 125; exec </dev/null; fi
echo 1000 2>/dev/null >/proc/self/oom_score_adj
ulimit -c 0 2>/dev/null
ulimit -n "$1" 2>/dev/null
ulimit -f "$2" 2>/dev/null
ulimit -t "$3" 2>/dev/null
ulimit -d "$4" 2>/dev/null
ulimit -u "$5" 2>/dev/null || ulimit -p "$5" 2>/dev/null
command=$6
for shell in /bin/bash /usr/bin/bash /bin/sh; do
    if [ -x "$shell" ]; then exec "$shell" -c "$command"; fi
done
exit 127
"#;

/// Parts of a variable's name that speak of a secret.
const SECRET: [&str; 7] = ["TOKEN", "SECRET", "PASSW", "CREDENTIAL", "APIKEY", "_KEY", "AUTH"];

/// The search path where the worker's own is not handed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A child that is the shell itself, without a jail.
pub(super) fn shell() -> Command {
    Command::new("/bin/sh")
}

/// Adds the arguments of the shell: limits, command, and whether it first waits for a line.
pub(super) fn finish(child: &mut Command, bounds: &CommandSettings, command: &str, waits: bool) {
    // POSIX: file sizes in blocks of 512 bytes; memory in kilobytes.
    let blocks = bounds.file_size.as_u64().div_ceil(512);
    let kilobytes = bounds.memory.as_u64().div_ceil(1024);
    let seconds = bounds.cpu.as_secs().max(1);
    child.args(["-c", SCRIPT, "sh"]);
    child.args([bounds.open_files.to_string(), blocks.to_string(), seconds.to_string()]);
    child.args([kilobytes.to_string(), bounds.processes.to_string()]);
    child.arg(command).arg(if waits { "wait" } else { "" });
}

/// Gives the child its environment: nothing of the worker's but what is allowed.
pub(super) fn environment(child: &mut Command, settings: &JailSettings, home: &Path, tmp: &Path) {
    child.env_clear();
    child.env("PATH", PATH).env("LANG", "C.UTF-8").env("TERM", "dumb");
    child.env("CI", "1").env("NO_COLOR", "1").env("PAGER", "cat").env("GIT_PAGER", "cat");
    child.env("GIT_TERMINAL_PROMPT", "0").env("DEBIAN_FRONTEND", "noninteractive");
    child.env("USER", "steadfast").env("LOGNAME", "steadfast");
    child.envs(allowed(&settings.env_allow, |name| std::env::var_os(name)));
    child.env("HOME", home).env("TMPDIR", tmp);
}

/// Those of the names that are set and do not speak of a secret, with their values.
pub(super) fn allowed(
    names: &[String],
    value: impl Fn(&str) -> Option<OsString>,
) -> impl Iterator<Item = (&String, OsString)> {
    let harmless = names.iter().filter(|name| !is_secret(name));
    harmless.filter_map(move |name| Some((name, value(name)?)))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET.iter().any(|part| name.contains(part))
}
