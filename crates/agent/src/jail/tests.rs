//! Hostile commands in the real jail, at level 3 and at level 2.

use bytesize::ByteSize;

use super::*;

pub(crate) fn settings() -> (JailSettings, CommandSettings) {
    let jail = JailSettings {
        min_level: Level::Landlock,
        network: false,
        env_allow: vec!["LANG".into(), "LC_ALL".into(), "TZ".into(), "PATH".into()],
        system: SYSTEM.iter().map(PathBuf::from).collect(),
        bubblewrap: "bwrap".into(),
    };
    let command = CommandSettings {
        timeout: Duration::from_secs(60),
        max_timeout: Duration::from_secs(120),
        cpu: Duration::from_secs(60),
        memory: ByteSize::mib(512),
        processes: 64,
        file_size: ByteSize::mib(8),
        open_files: 256,
        max_output_bytes: ByteSize::kib(8),
    };
    (jail, command)
}

/// The jail that the tests of this crate need: bubblewrap, really.
pub(crate) async fn bubblewrap() -> Jail {
    let (jail, command) = settings();
    let jail = Jail::probe(jail, command).await;
    assert_eq!(jail.level(), Level::Bubblewrap, "{}: apt-get install bubblewrap", jail.why());
    jail
}

pub(super) struct Cell {
    pub jail: Jail,
    pub place: Place,
    pub folder: tempfile::TempDir,
}

impl Cell {
    async fn new() -> Cell {
        Cell::with(bubblewrap().await)
    }

    pub fn with(jail: Jail) -> Cell {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::make(&folder.path().join("job")).unwrap();
        Cell { jail, place, folder }
    }

    pub async fn run(&self, command: &str) -> (Exit, String) {
        self.run_for(command, None).await
    }

    pub async fn run_for(&self, command: &str, timeout: Option<Duration>) -> (Exit, String) {
        let ended = self.jail.run(&self.place, command, timeout, &CancellationToken::new()).await.unwrap();
        (ended.exit, ended.stdout.text() + &ended.stderr.text())
    }
}

#[tokio::test]
async fn the_environment_is_clean() {
    let cell = Cell::new().await;
    let (exit, output) = cell.run("env; cat /proc/*/environ | tr '\\0' '\\n'").await;
    assert_eq!(exit, Exit::Code(0));
    assert!(output.contains("HOME=/home/steadfast"), "{output}");
    // On the allow list.
    assert!(output.contains(&format!("PATH={}", std::env::var("PATH").unwrap())), "{output}");
    let ours: Vec<&str> = output.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let known = [
        "PATH",
        "LANG",
        "TERM",
        "CI",
        "NO_COLOR",
        "PAGER",
        "GIT_PAGER",
        "GIT_TERMINAL_PROMPT",
        "USER",
        "LOGNAME",
        "DEBIAN_FRONTEND",
        "HOME",
        "TMPDIR",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "LC_ALL",
        "TZ",
    ];
    for name in ours {
        assert!(known.contains(&name), "{name} leaked: {output}");
    }
}

#[test]
fn a_name_that_speaks_of_a_secret_is_never_handed_on() {
    let names =
        ["PATH", "GITHUB_TOKEN", "OPENAI_API_KEY", "db_password", "APP_SECRET", "NETRC_AUTH", "unset", "TZ"];
    let names = names.map(String::from);
    let allowed = limits::allowed(&names, |name| (name != "unset").then(|| "value".into()));
    assert_eq!(allowed.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["PATH", "TZ"]);
}

#[tokio::test]
async fn no_other_process_is_seen() {
    let cell = Cell::new().await;
    let (_, output) =
        cell.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; ls -d /proc/[0-9]* | wc -l").await;
    assert!(!output.contains("cargo") && !output.contains("steadfast_agent"), "{output}");
    let seen: u32 = output.lines().last().unwrap().trim().parse().unwrap();
    assert!(seen < 10, "{output}");
}

#[tokio::test]
async fn the_machines_loopback_is_not_reached() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
    // The control: a jail that may use the network reaches it.
    let (mut settings, command) = settings();
    settings.network = true;
    let cell = Cell { jail: Jail::probe(settings, command).await, ..Cell::new().await };
    assert_eq!(cell.run(&connect).await, (Exit::Code(0), "reached\n".into()));
    let (exit, output) = Cell::new().await.run(&connect).await;
    assert!(exit != Exit::Code(0) && !output.contains("reached"), "{output}");
}

#[tokio::test]
async fn nothing_is_written_outside_and_nothing_private_is_read() {
    let cell = Cell::new().await;
    let secret = cell.folder.path().join("secret");
    std::fs::write(&secret, "hidden-words").unwrap();
    let paths = ["/usr/x", "/etc/x", "/x", "/dev/x", "/home/x", "/bin/x"];
    let writes: String =
        paths.iter().map(|path| format!("echo hi > {path} && echo wrote {path}\n")).collect();
    let (_, output) =
        cell.run(&format!("{writes} cat {} /etc/shadow; ls /root /var/lib", secret.display())).await;
    assert!(!output.contains("wrote") && !output.contains("hidden-words"), "{output}");
    let (_, output) = cell.run("cat /etc/shadow > /dev/null && echo read; ls / /home /etc").await;
    assert!(!output.contains("read\n") && !output.contains("root\n"), "{output}");
    let written = "echo a > w && echo b > ~/h && echo c > /tmp/t && cat w ~/h /tmp/t";
    assert_eq!(cell.run(written).await, (Exit::Code(0), "a\nb\nc\n".into()));
    assert_eq!(std::fs::read_to_string(cell.place.workspace.join("w")).unwrap(), "a\n");
}

#[tokio::test]
async fn workspaces_and_configuration_below_a_shown_folder_are_hidden() {
    // Not below /tmp and /var/tmp, over which the jail's own stands; the build may be there.
    let program = std::env::current_exe().unwrap();
    let build = program.parent().unwrap();
    let covered = ["/tmp", "/var/tmp"].iter().any(|own| build.starts_with(own));
    let folder = tempfile::tempdir_in(if covered { std::path::Path::new("/srv") } else { build }).unwrap();
    let config = folder.path().join("config.toml");
    let keys = folder.path().join("keys");
    std::fs::write(&config, "hidden-words").unwrap();
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(keys.join("app.pem"), "hidden-words").unwrap();
    std::fs::write(folder.path().join("tool"), "shown").unwrap();
    let root = folder.path().join("workspaces");
    let (place, other) = (Place::make(&root.join("one")).unwrap(), Place::make(&root.join("two")).unwrap());
    std::fs::write(other.workspace.join("file"), "hidden-words").unwrap();
    let (mut settings, command) = settings();
    settings.system.push(folder.path().to_owned());
    // The same by another name.
    let alias = folder.path().with_extension("alias");
    std::os::unix::fs::symlink(folder.path(), &alias).unwrap();
    settings.system.push(alias.clone());
    // As an operator may have it: the jail's own stand over them.
    settings.system.extend(["/etc/passwd".into(), "/etc/group".into()]);
    let jail = Jail::probe(settings, command).await.hiding([config, keys]);
    let look = format!(
        "cat {0}/tool; cat /etc/passwd; grep -r hidden-words {0} {1}; ls {0}/workspaces {1}/keys",
        folder.path().display(),
        alias.display()
    );
    let ended = jail.run(&place, &look, None, &CancellationToken::new()).await.unwrap();
    let output = ended.stdout.text() + &ended.stderr.text();
    assert!(output.starts_with("shownsteadfast:x:"), "{output}");
    std::fs::remove_file(&alias).unwrap();
    assert!(!output.contains("hidden-words") && !output.contains("root:x:0"), "{output}");
    assert_eq!(
        jail.run(&place, "pwd", None, &CancellationToken::new()).await.unwrap().stdout.text(),
        "/workspace\n"
    );
}

#[tokio::test]
async fn a_symlink_out_leads_nowhere() {
    let cell = Cell::new().await;
    let secret = cell.folder.path().join("secret");
    std::fs::write(&secret, "hidden-words").unwrap();
    std::os::unix::fs::symlink(&secret, cell.place.workspace.join("link")).unwrap();
    let (_, output) = cell.run("cat link; echo x > link").await;
    assert!(!output.contains("hidden-words"), "{output}");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "hidden-words");
}

#[tokio::test]
async fn processes_are_bounded_by_the_kernel() {
    // A burst of known size and not a bomb: should the jail fail, the machine is not to suffer.
    let cell = Cell::new().await;
    // In sh, which does not try again for a quarter of a minute.
    let burst = "exec sh -c 'for i in $(seq 300); do sleep 100 & done; echo all' 2>&1";
    let (exit, output) = cell.run_for(burst, Some(Duration::from_secs(60))).await;
    assert!(output.to_lowercase().contains("fork"), "{exit:?} {output}");
    assert!(!output.contains("all"), "{exit:?} {output}");
    assert_eq!(cell.run("echo alive").await, (Exit::Code(0), "alive\n".into()));
}

#[tokio::test]
async fn a_grandchild_in_its_own_session_dies_at_the_time_limit() {
    let cell = Cell::new().await;
    let alive = cell.place.workspace.join("alive");
    tokio::time::pause();
    let escape = "setsid sh -c 'while :; do date +%N > alive; sleep 0.05; done' & wait";
    let mut running = Box::pin(cell.run_for(escape, Some(Duration::from_secs(30))));
    tokio::select! {
        ended = &mut running => panic!("{ended:?}"),
        () = async { while !alive.exists() { tokio::task::yield_now().await } } => {}
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(running.await.0, Exit::TimedOut);
    tokio::time::resume();
    // All is gone when the command is over, not some time after.
    let before = std::fs::read(&alive).unwrap();
    cell.run("sleep 0.3").await;
    assert_eq!(std::fs::read(&alive).unwrap(), before, "it still writes");
}

#[tokio::test]
async fn what_a_command_left_behind_is_gone_when_it_is_over() {
    let cell = Cell::new().await;
    for _ in 0..5 {
        let (exit, _) =
            cell.run("setsid sh -c 'while :; do date +%N > alive; done' > /dev/null 2>&1 & exit 0").await;
        assert_eq!(exit, Exit::Code(0));
        let before = std::fs::read(cell.place.workspace.join("alive")).ok();
        cell.run("sleep 0.1").await;
        assert_eq!(std::fs::read(cell.place.workspace.join("alive")).ok(), before);
    }
}

#[tokio::test]
async fn a_command_of_roots_worker_is_not_root() {
    let cell = Cell::new().await;
    let (_, output) =
        cell.run("id -un; id -u; touch made; stat -c %u made .; grep CapEff /proc/self/status").await;
    let user = cell.place.user;
    assert_eq!(output, format!("steadfast\n{user}\n{user}\n{user}\nCapEff:\t0000000000000000\n"));
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(cell.place.workspace.join("made")).unwrap());
    assert_ne!(owner, 0);
}

#[tokio::test]
async fn memory_and_file_size_are_bounded() {
    let cell = Cell::new().await;
    let (exit, output) = cell.run("head -c 20000000 /dev/zero > big").await;
    assert!(exit != Exit::Code(0), "{output}");
    assert!(std::fs::metadata(cell.place.workspace.join("big")).unwrap().len() <= 8 << 20);
    let (exit, output) = cell.run("x=$(head -c 900000000 /dev/zero | tr '\\0' x); echo ${#x}").await;
    assert!(!output.contains("900000000"), "{exit:?} {output}");
    let (_, output) =
        cell.run("ulimit -c; ulimit -n; ulimit -t; ulimit -u; cat /proc/self/oom_score_adj").await;
    assert_eq!(output, "0\n256\n60\n64\n1000\n");
}

#[tokio::test]
async fn huge_output_keeps_its_ends() {
    let (exit, output) = Cell::new().await.run("echo first; seq 1000000; echo last").await;
    assert_eq!(exit, Exit::Code(0));
    assert!(output.starts_with("first\n1\n") && output.ends_with("last\n") && output.len() < 9000);
    assert!(output.contains("bytes left out"));
}

#[tokio::test]
async fn no_more_namespaces_inside() {
    let (exit, _) = Cell::new().await.run("unshare --user --map-root-user true").await;
    assert!(exit != Exit::Code(0));
}

#[tokio::test]
async fn below_the_level_asked_for_commands_are_refused_with_the_cure() {
    let (mut settings, command) = settings();
    settings.bubblewrap = "/nowhere/bwrap".into();
    settings.min_level = Level::Bubblewrap;
    let cell = Cell::with(Jail::probe(settings.clone(), command.clone()).await);
    assert_eq!(cell.jail.level(), Level::Landlock, "{}", cell.jail.why());
    let refused = cell.jail.run(&cell.place, "echo hi", None, &CancellationToken::new()).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("apt-get install bubblewrap") && refused.contains("min_level"), "{refused}");
    assert!(refused.contains("level is 2 (landlock)"), "{refused}");

    settings.min_level = Level::None;
    let cell = Cell::with(Jail::probe_up_to(Level::None, settings, command).await);
    let (_, output) = cell.run("pwd; env").await;
    assert!(
        output.contains(cell.place.workspace.to_str().unwrap()) && !output.contains("CARGO_MANIFEST"),
        "{output}"
    );
}
