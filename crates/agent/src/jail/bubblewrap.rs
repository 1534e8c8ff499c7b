//! The highest level: bubblewrap, with every namespace unshared.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::settings::{CommandSettings, JailSettings};
use super::{Captured, Exit, HOME, Place, Task, WORKSPACE, limits, process};

/// The probe's wall time.
const PROBE: Duration = Duration::from_secs(20);
/// Shared memory of a command, in bytes.
const SHM: &str = "67108864";

/// A bubblewrap that works on this machine.
#[derive(Debug)]
pub(super) struct Bubblewrap {
    program: PathBuf,
    /// Whether it knows `--disable-userns` (0.8 and later).
    disable_userns: bool,
}

impl Bubblewrap {
    /// Runs a command in it; the error says what stands in the way and the cure.
    pub async fn probe(settings: &JailSettings, bounds: &CommandSettings) -> Result<Bubblewrap, String> {
        let Some(program) = find(&settings.bubblewrap) else {
            return Err(format!(
                "{} is not installed: apt-get install bubblewrap (or your system's package of it)",
                settings.bubblewrap.display()
            ));
        };
        let folder = tempfile::tempdir().map_err(|error| format!("no folder for a probe: {error}"))?;
        let place = Place::make(folder.path()).map_err(|error| format!("no folder for a probe: {error}"))?;
        let mut complaint = String::new();
        for disable_userns in [true, false] {
            let bubblewrap = Bubblewrap { program: program.clone(), disable_userns };
            let mut command = bubblewrap.command(settings, &place);
            // The first process of the jail's own process namespace, and a place to write.
            limits::finish(&mut command, bounds, "test -d /proc/1 && echo . > probe");
            limits::environment(&mut command, settings, Path::new(HOME), Path::new("/tmp"));
            let task = Task {
                command,
                stdin: Vec::new(),
                stdout: Captured::whole(0),
                stderr: Captured::head_and_tail(600),
                max_processes: None,
                timeout: PROBE,
            };
            match process::run(task, &CancellationToken::new()).await {
                Ok(ended) if ended.exit == Exit::Code(0) => return Ok(bubblewrap),
                Ok(ended) => complaint = format!("{:?}: {}", ended.exit, ended.stderr.text().trim()),
                Err(error) => complaint = error.to_string(),
            }
        }
        Err(format!("bubblewrap does not work here ({complaint}). {}", cure(&complaint)))
    }

    /// The program that was found.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A child that is the shell within the jail; its arguments and environment are still to come.
    pub fn command(&self, settings: &JailSettings, place: &Place) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--unshare-user", "--unshare-all"]);
        if settings.network {
            command.arg("--share-net");
        }
        if self.disable_userns {
            command.arg("--disable-userns");
        }
        command.args(["--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
        command.args(["--uid", "1000", "--gid", "1000", "--hostname", "steadfast"]);
        for path in &settings.system {
            command.arg("--ro-bind-try").arg(path).arg(path);
        }
        for name in ["passwd", "group"] {
            command.arg("--ro-bind").arg(place.etc.join(name)).arg(Path::new("/etc").join(name));
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--size", SHM, "--tmpfs", "/dev/shm"]);
        for (from, to) in [(&place.tmp, "/tmp"), (&place.tmp, "/var/tmp"), (&place.home, HOME)] {
            command.arg("--bind").arg(from).arg(to);
        }
        command.arg("--bind").arg(&place.workspace).args([WORKSPACE, "--chdir", WORKSPACE]);
        // What is not one of these folders is memory: nothing may be left there.
        command.args(["--remount-ro", "/dev", "--remount-ro", "/"]);
        command.args(["--", "/bin/sh"]);
        command
    }
}

impl Place {
    /// Makes the folders of a workspace below `folder`.
    pub(crate) fn make(folder: &Path) -> std::io::Result<Place> {
        let place = Place {
            workspace: folder.join("work"),
            home: folder.join("home"),
            tmp: folder.join("tmp"),
            etc: folder.join("etc"),
        };
        for path in [&place.workspace, &place.home, &place.tmp, &place.etc] {
            std::fs::create_dir_all(path)?;
        }
        let passwd = format!("steadfast:x:1000:1000::{HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
        std::fs::write(place.etc.join("passwd"), passwd)?;
        std::fs::write(place.etc.join("group"), "steadfast:x:1000:\nnogroup:x:65534:\n")?;
        Ok(place)
    }
}

/// The program by its path, or by its name in `PATH`.
fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What a person can do about bubblewrap's complaint.
fn cure(complaint: &str) -> &'static str {
    let says = |part: &str| complaint.contains(part);
    if says("uid map") || says("RTM_NEWADDR") {
        "AppArmor probably restricts user namespaces: load its profile bwrap-userns-restrict, or set \
         kernel.apparmor_restrict_unprivileged_userns=0"
    } else if says("mount proc") {
        "the container masks /proc: start it with --security-opt systempaths=unconfined"
    } else if says("namespace") || says("ermission") || says("not permitted") {
        "user namespaces are probably forbidden: set kernel.unprivileged_userns_clone=1, or in a container \
         allow them with a seccomp profile of its own"
    } else {
        "try `bwrap --unshare-user --unshare-all --ro-bind / / --proc /proc true` as the worker's user"
    }
}
