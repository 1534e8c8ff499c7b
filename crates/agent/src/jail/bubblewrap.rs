//! The highest level: bubblewrap, with every namespace unshared.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::place::{Hidden, Place};
use super::process::Tree;
use super::settings::{CommandSettings, JailSettings};
use super::{Captured, Exit, HOME, Task, WORKSPACE, limits, process};

/// The probe's wall time.
const PROBE: Duration = Duration::from_secs(20);
/// Shared memory of a command, in bytes.
const SHM: &str = "67108864";

/// A bubblewrap that works on this machine.
#[derive(Debug)]
pub(super) struct Bubblewrap {
    program: PathBuf,
    form: Form,
    network: bool,
    shown: Vec<Shown>,
}

/// A file or folder of the system that commands may read.
#[derive(Clone, Debug)]
struct Shown {
    /// Where it is seen.
    path: PathBuf,
    /// Where it really is.
    real: PathBuf,
}

/// How bubblewrap is used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// By a worker that is root: the command is another user. The kernel holds root to no bound of
    /// processes, so a command must not be root even in a namespace.
    OtherUser {
        /// The program `setpriv`.
        setpriv: PathBuf,
        /// Whether a second bubblewrap shuts the way to further user namespaces.
        shut: bool,
    },
    /// In a user namespace of the worker's own user.
    UserNamespace {
        /// Whether it knows `--disable-userns` (0.8 and later).
        shut: bool,
    },
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
        let mut forms = vec![Form::UserNamespace { shut: true }, Form::UserNamespace { shut: false }];
        if let Some(setpriv) = find(Path::new("setpriv")).filter(|_| rustix::process::geteuid().is_root()) {
            let other = |shut| Form::OtherUser { setpriv: setpriv.clone(), shut };
            forms.splice(..0, [other(true), other(false)]);
        }
        let folder = tempfile::tempdir().map_err(|error| format!("no folder for a probe: {error}"))?;
        let place = Place::make(folder.path()).map_err(|error| format!("no folder for a probe: {error}"))?;
        let show = |path: &PathBuf| Some(Shown { path: path.clone(), real: path.canonicalize().ok()? });
        let shown: Vec<Shown> = settings.system.iter().filter_map(show).collect();
        let mut complaint = String::new();
        for form in forms {
            let (program, shown) = (program.clone(), shown.clone());
            let bubblewrap = Bubblewrap { program, form, network: settings.network, shown };
            match bubblewrap.try_once(settings, bounds, &place).await {
                Ok(()) => return Ok(bubblewrap),
                Err(said) => complaint = said,
            }
        }
        Err(format!("bubblewrap does not work here ({complaint}). {}", cure(&complaint)))
    }

    async fn try_once(
        &self,
        settings: &JailSettings,
        bounds: &CommandSettings,
        place: &Place,
    ) -> Result<(), String> {
        self.prepare(place).await.map_err(|error| error.to_string())?;
        let mut command = self.command(&[], place);
        // The first process of the jail's own process namespace, and a place to write.
        limits::finish(&mut command, bounds, "test -d /proc/1 && echo . > probe", true);
        limits::environment(&mut command, settings, Path::new(HOME), Path::new("/tmp"));
        let task = Task {
            command,
            stdin: Vec::new(),
            stdout: Captured::whole(0),
            stderr: Captured::head_and_tail(600),
            max_processes: None,
            tree: Tree::Namespace,
            timeout: PROBE,
        };
        match process::run(task, &CancellationToken::new()).await {
            Ok(ended) if ended.exit == Exit::Code(0) => Ok(()),
            Ok(ended) => Err(format!("{:?}: {}", ended.exit, ended.stderr.text().trim())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What was found, for the log.
    pub fn describe(&self) -> String {
        let program = self.program.display();
        match (&self.form, rustix::process::geteuid().is_root()) {
            (Form::OtherUser { shut: true, .. }, _) => format!("{program}, commands as another user"),
            (Form::OtherUser { shut: false, .. }, _) => {
                format!("{program}, commands as another user, who may make further user namespaces")
            }
            (Form::UserNamespace { .. }, true) => format!(
                "{program}; the worker is root and setpriv (util-linux) was of no use, so the kernel does not \
                 bound the processes of a command, they are only counted: run the worker as another user"
            ),
            (Form::UserNamespace { shut: true }, false) => program.to_string(),
            (Form::UserNamespace { shut: false }, false) => {
                format!("{program}, where commands may make further user namespaces")
            }
        }
    }

    /// Gives the workspace to the user that the command will be. Nothing runs in it meanwhile.
    pub async fn prepare(&self, place: &Place) -> std::io::Result<()> {
        match self.form {
            Form::UserNamespace { .. } => return Ok(()),
            Form::OtherUser { .. } => {}
        }
        let place = place.clone();
        let given = tokio::task::spawn_blocking(move || place.give());
        given.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    /// A child that is the shell within the jail; its arguments and environment are still to come.
    pub fn command(&self, hidden: &[Hidden], place: &Place) -> Command {
        let user = place.user.to_string();
        let mut command = Command::new(&self.program);
        command.args(["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]);
        if !self.network {
            command.arg("--unshare-net");
        }
        command.args(["--die-with-parent", "--new-session", "--hostname", "steadfast", "--cap-drop", "ALL"]);
        match &self.form {
            Form::OtherUser { .. } => {
                command.args(["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]);
            }
            Form::UserNamespace { shut } => {
                command.args(["--unshare-user", "--uid", &user, "--gid", &user]);
                command.args(shut.then_some("--disable-userns"));
            }
        }
        // Folders that bubblewrap makes on its way to a bind are shut to other users.
        let shown = self.shown.iter().map(|shown| shown.path.as_path());
        for parent in shown.chain([Path::new("/etc/passwd"), Path::new(HOME)]).filter_map(Path::parent) {
            command.arg("--dir").arg(parent);
        }
        for Shown { path, .. } in &self.shown {
            command.arg("--ro-bind-try").arg(path).arg(path);
        }
        let root = Hidden { real: place.root.clone(), is_folder: true };
        for hidden in hidden.iter().chain([&root]) {
            self.hide(&mut command, hidden);
        }
        for name in ["passwd", "group"] {
            command.arg("--ro-bind").arg(place.etc.join(name)).arg(Path::new("/etc").join(name));
        }
        command.args([
            "--proc", "/proc", "--dev", "/dev", "--size", SHM, "--perms", "1777", "--tmpfs", "/dev/shm",
        ]);
        for (from, to) in [(&place.tmp, "/tmp"), (&place.tmp, "/var/tmp"), (&place.home, HOME)] {
            command.arg("--bind").arg(from).arg(to);
        }
        command.arg("--bind").arg(&place.workspace).args([WORKSPACE, "--chdir", WORKSPACE]);
        // What is not one of these folders is memory: nothing may be left there.
        command.args(["--remount-ro", "/dev", "--remount-ro", "/", "--"]);
        if let Form::OtherUser { setpriv, shut } = &self.form {
            command.arg(setpriv).args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            command.args(["--inh-caps=-all", "--no-new-privs"]);
            if *shut {
                command.arg(&self.program).args(["--unshare-user", "--disable-userns"]);
                command.args(["--dev-bind", "/", "/", "--chdir", WORKSPACE, "--"]);
            }
        }
        command.arg("/bin/sh");
        command
    }

    /// Covers what must not be seen wherever it would be.
    fn hide(&self, command: &mut Command, hidden: &Hidden) {
        for shown in &self.shown {
            let Ok(within) = hidden.real.strip_prefix(&shown.real) else { continue };
            // Joining nothing would leave a slash at the end, which a file must not have.
            let at = if within.as_os_str().is_empty() { shown.path.clone() } else { shown.path.join(within) };
            if hidden.is_folder {
                command.arg("--tmpfs").arg(&at).arg("--remount-ro").arg(&at);
            } else {
                command.args(["--ro-bind", "/dev/null"]).arg(&at);
            }
        }
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
    if says("nknown option") {
        "it is too old: 0.8 or newer is needed"
    } else if says("uid map") || says("RTM_NEWADDR") {
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
