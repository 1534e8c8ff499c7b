//! Hostile commands at level 2: this test program is its own jail.

use std::os::unix::fs::MetadataExt;

use super::super::tests::{Cell, settings};
use super::super::{Jail, Level};
use super::*;

/// Before the test harness, as in a program before its first line.
#[ctor::ctor]
#[expect(clippy::disallowed_methods, reason = "there is no main that could return it")]
fn entry() {
    if let Some(code) = super::entered() {
        std::process::exit(code.into());
    }
}

async fn jail(change: impl FnOnce(&mut JailSettings)) -> Jail {
    let (mut settings, command) = settings();
    change(&mut settings);
    let jail = Jail::probe_up_to(Level::Landlock, settings, command).await;
    assert_eq!(jail.level(), Level::Landlock, "{}", jail.why());
    assert!(jail.suffices());
    jail
}

async fn cell() -> Cell {
    Cell::with(jail(|_| {}).await)
}

/// A perl that makes a system call and says what came of it: 0, or the error's number.
fn call(number: libc::c_long, arguments: &str) -> String {
    format!("perl -e '$! = 0; my $r = syscall({number}, {arguments}); print $r == -1 ? $! + 0 : 0'\n")
}

#[tokio::test]
async fn what_was_reached_is_told() {
    let cell = cell().await;
    assert!(cell.jail.why().starts_with("a probe ran in Landlock ABI "), "{}", cell.jail.why());
    let (mut settings, command) = settings();
    settings.bubblewrap = "/nowhere/bwrap".into();
    let jail = Jail::probe(settings, command).await;
    let why = jail.why();
    assert!(why.contains("Landlock ABI") && why.contains("Not level 3: /nowhere/bwrap is not"), "{why}");
}

#[tokio::test]
async fn a_system_without_a_shell_is_no_jail() {
    let (mut settings, command) = settings();
    settings.system.clear();
    let jail = Jail::probe_up_to(Level::Landlock, settings, command).await;
    assert_eq!(jail.level(), Level::None);
    assert!(jail.why().contains("Not level 2: Code(125)"), "{}", jail.why());
}

#[tokio::test]
async fn the_environment_is_clean_and_home_lies_in_the_slot() {
    let cell = cell().await;
    let (exit, output) = cell.run("env; cd; pwd; cd $TMPDIR; pwd; echo x > ~/h; mktemp").await;
    assert_eq!(exit, Exit::Code(0), "{output}");
    assert!(!output.contains("CARGO"), "{output}");
    assert!(output.contains(&format!(
        "\n{0}\n{1}\n{1}/tmp.",
        cell.place.home.display(),
        cell.place.tmp.display()
    )));
}

#[tokio::test]
async fn no_other_process_is_read_or_traced() {
    let cell = cell().await;
    let ours = std::process::id();
    let look = format!("for f in environ cmdline status maps; do cat /proc/{ours}/$f /proc/$PPID/$f; done");
    let (exit, output) = cell.run(&format!("{look}; ls /proc | head -5")).await;
    assert!(exit == Exit::Code(0) || exit == Exit::Code(2), "{exit:?}");
    assert_eq!(output.matches("Permission denied").count(), 9, "{output}");
    assert_eq!(output.lines().count(), 9, "{output}");
    // PTRACE_SEIZE.
    assert_eq!(cell.run(&call(libc::SYS_ptrace, &format!("0x4206, {ours}, 0, 0"))).await.1, "1");
}

#[tokio::test]
async fn nobody_outside_is_signalled() {
    let cell = cell().await;
    // By modes alone where the worker is root, by Landlock's scope otherwise.
    if cell.jail.why().contains("signals to other processes") {
        return;
    }
    let signal = format!(
        "kill -0 {} && echo reached; kill -9 $PPID && echo reached; kill -0 $$ && echo alive",
        std::process::id()
    );
    let (exit, output) = cell.run(&signal).await;
    assert_eq!(exit, Exit::Code(0));
    assert!(output.starts_with("alive\n"), "{output}");
    assert_eq!(output.matches("not permitted").count(), 2, "{output}");
}

#[tokio::test]
async fn the_machines_loopback_is_not_reached() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
    let open = Cell::with(jail(|settings| settings.network = true).await);
    assert_eq!(open.run(&connect).await, (Exit::Code(0), "reached\n".into()));
    let (exit, output) = cell().await.run(&connect).await;
    assert!(exit != Exit::Code(0) && output.contains("not permitted"), "{output}");
}

#[tokio::test]
async fn nothing_is_written_outside_and_nothing_private_is_read() {
    let cell = cell().await;
    let (secret, open) = (cell.folder.path().join("secret"), cell.folder.path().join("open"));
    std::fs::write(&secret, "hidden-words").unwrap();
    std::fs::create_dir(&open).unwrap();
    // Modes would let anybody.
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let other = Place::make(&cell.folder.path().join("other")).unwrap();
    std::fs::write(other.workspace.join("file"), "hidden-words").unwrap();
    let at = |path: &Path| path.display().to_string();
    let (secret_at, open_at) = (at(&secret), at(&open));
    let writes: String = ["/usr/x", "/etc/x", "/x", "/dev/shm/x", "/tmp/x", "/var/tmp/x", "../x", &secret_at]
        .iter()
        .map(|path| format!("echo hi > {path} && echo wrote {path}\n"))
        .collect();
    let moves = format!(
        "echo a > a; mv a {open_at}/a && echo wrote; ln a {open_at}/b && echo wrote; mkdir {open_at}/c && echo wrote
         rm {secret_at} && echo wrote; truncate -s 0 {secret_at} && echo wrote; {}",
        call(libc::SYS_truncate, &format!("\"{secret_at}\", 0"))
    );
    let (_, output) = cell.run(&format!("{writes}\n{moves}")).await;
    assert!(!output.contains("wrote"), "{output}");
    assert!(output.contains("ermission denied"), "{output}");
    let reads = format!("cat {secret_at} /etc/shadow {0} {0}/file", other.workspace.display());
    let (_, output) = cell.run(&format!("{reads}; ls / /root /home /etc /var/lib /tmp {open_at}")).await;
    assert!(!output.contains("hidden-words") && !output.contains("root:"), "{output}");
    assert_eq!(output.lines().filter(|line| !line.contains("ermission denied")).count(), 0, "{output}");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "hidden-words");
    assert_eq!(std::fs::read_dir(&open).unwrap().count(), 0);
    let written = "echo a > w && echo b > ~/h && echo c > $TMPDIR/t && mv ~/h . && cat w h $TMPDIR/t";
    assert_eq!(cell.run(written).await, (Exit::Code(0), "a\nb\nc\n".into()));
}

#[tokio::test]
async fn workspaces_and_configuration_below_a_shown_folder_are_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(at("keys")).unwrap();
    for file in ["config.toml", "keys/app.pem"] {
        std::fs::write(at(file), "hidden-words").unwrap();
    }
    std::fs::write(at("tool"), "shown").unwrap();
    let root = at("workspaces");
    let (place, other) = (Place::make(&root.join("one")).unwrap(), Place::make(&root.join("two")).unwrap());
    std::fs::write(other.workspace.join("file"), "hidden-words").unwrap();
    let jail = jail(|settings| settings.system.push(folder.path().to_owned())).await;
    let cell = Cell { jail: jail.hiding([at("config.toml"), at("keys")]), place, folder };
    let shown = cell.folder.path().display();
    let (_, output) = cell
        .run(&format!(
            "cat {shown}/tool {shown}/config.toml {shown}/keys/app.pem {}/file; ls {shown} {shown}/keys {shown}/workspaces",
            other.workspace.display()
        ))
        .await;
    assert!(output.starts_with("shown") && !output.contains("hidden-words"), "{output}");
    assert_eq!(output.matches("ermission denied").count(), 6, "{output}");
}

#[tokio::test]
async fn a_burst_of_processes_is_bounded() {
    let cell = cell().await;
    // A burst of known size and not a bomb: should the jail fail, the machine is not to suffer.
    let burst = "exec sh -c 'for i in $(seq 300); do sleep 100 & done; wait; echo all' 2>&1";
    let (exit, output) = cell.run(burst).await;
    let by_kernel = output.to_lowercase().contains("fork");
    assert!(by_kernel || exit == Exit::TooManyProcesses, "{exit:?} {output}");
    assert!(by_kernel || !rustix::process::geteuid().is_root(), "{exit:?} {output}");
    assert!(!output.contains("all"), "{exit:?} {output}");
    assert_eq!(cell.run("echo alive").await, (Exit::Code(0), "alive\n".into()));
}

/// In a session and a group of its own, child of a parent that is no more.
const ESCAPE: &str = "(setsid sh -c '(while :; do date +%N > alive; sleep 0.01; done) &' &) > /dev/null 2>&1";

/// That nothing writes any more, now and for a while.
async fn assert_all_ended(cell: &Cell) {
    let alive = cell.place.workspace.join("alive");
    let before = std::fs::read(&alive).unwrap();
    assert_eq!(cell.run("sleep 0.3").await.0, Exit::Code(0));
    assert_eq!(std::fs::read(&alive).unwrap(), before, "it still writes");
}

#[tokio::test]
async fn an_orphan_in_its_own_session_dies_at_the_time_limit() {
    let cell = cell().await;
    let alive = cell.place.workspace.join("alive");
    tokio::time::pause();
    let escape = format!("{ESCAPE}; sleep 1000");
    let mut running = Box::pin(cell.run_for(&escape, Some(Duration::from_secs(30))));
    tokio::select! {
        ended = &mut running => panic!("{ended:?}"),
        () = async { while !alive.exists() { tokio::task::yield_now().await } } => {}
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(running.await.0, Exit::TimedOut);
    tokio::time::resume();
    assert_all_ended(&cell).await;
}

#[tokio::test]
async fn what_a_command_left_behind_is_gone_when_it_is_over() {
    let cell = cell().await;
    for code in 0..4 {
        let leave = format!("{ESCAPE}; while ! test -s alive; do sleep 0.01; done; exit {code}");
        assert_eq!(cell.run(&leave).await, (Exit::Code(code), String::new()));
        assert_all_ended(&cell).await;
        std::fs::remove_file(cell.place.workspace.join("alive")).unwrap();
    }
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_dies() {
    let cell = cell().await;
    let alive = cell.place.workspace.join("alive");
    let escape = format!("{ESCAPE}; echo $PPID > warden; sleep 1000");
    let warden = cell.place.workspace.join("warden");
    let mut running = Box::pin(cell.run(&escape));
    tokio::select! {
        ended = &mut running => panic!("{ended:?}"),
        () = async {
            while !alive.exists() || !std::fs::read_to_string(&warden).is_ok_and(|pid| pid.ends_with('\n')) {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    drop(running);
    let warden = format!("/proc/{}", std::fs::read_to_string(&warden).unwrap().trim());
    while Path::new(&warden).exists() {
        tokio::task::yield_now().await;
    }
    assert_all_ended(&cell).await;
}

#[tokio::test]
async fn a_command_of_roots_worker_is_not_root() {
    let cell = cell().await;
    let (_, output) = cell.run("id -u; id -g; id -G; touch made").await;
    let ours = rustix::process::geteuid();
    let user = if ours.is_root() { cell.place.user } else { ours.as_raw() };
    if ours.is_root() {
        assert_eq!(output, format!("{user}\n{user}\n{user}\n"));
    }
    let made = std::fs::metadata(cell.place.workspace.join("made")).unwrap();
    assert_eq!(made.uid(), user);
}

#[tokio::test]
async fn a_workspace_that_the_commands_user_cannot_reach_is_told() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let cell = cell().await;
    let root = cell.folder.path().join("shut/root");
    let place = Place::make(&root.join("job")).unwrap();
    std::fs::set_permissions(root.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    let refused =
        cell.jail.run(&place, "true", None, &CancellationToken::new()).await.unwrap_err().to_string();
    assert!(refused.contains("chmod o+x") && refused.contains("agent.workspaces"), "{refused}");
}

#[tokio::test]
async fn memory_file_size_and_output_are_bounded() {
    let cell = cell().await;
    let (exit, output) = cell.run("head -c 20000000 /dev/zero > big").await;
    assert!(exit != Exit::Code(0), "{output}");
    assert!(std::fs::metadata(cell.place.workspace.join("big")).unwrap().len() <= 8 << 20);
    let (exit, output) = cell.run("x=$(head -c 900000000 /dev/zero | tr '\\0' x); echo ${#x}").await;
    assert!(!output.contains("900000000"), "{exit:?} {output}");
    assert_eq!(cell.run("ulimit -c; ulimit -n; ulimit -t").await.1, "0\n256\n60\n");
    let (_, output) = cell.run("echo first; seq 1000000; echo last").await;
    assert!(output.starts_with("first\n1\n") && output.ends_with("last\n") && output.len() < 9000);
    assert_eq!(cell.run("kill -9 $$").await.0, Exit::Code(137));
}

#[tokio::test]
async fn dangerous_system_calls_are_refused() {
    let (eperm, enosys) = ("1", "38");
    let calls = [
        (libc::SYS_ptrace, "0, 0, 0, 0", eperm),
        (libc::SYS_process_vm_readv, "$$, 0, 0, 0, 0, 0", eperm),
        (libc::SYS_keyctl, "0, -3, 0", eperm),
        (libc::SYS_io_uring_setup, "1, 0", eperm),
        (libc::SYS_perf_event_open, "0, 0, -1, -1, 0", eperm),
        (libc::SYS_setns, "-1, 0", eperm),
        (libc::SYS_personality, "0x0040000", eperm),
        (libc::SYS_prlimit64, "getppid(), 7, 0, 0", eperm),
        // Above what the kernel takes for the family or the request.
        (libc::SYS_socket, "0x100000001, 1, 0", eperm),
        (libc::SYS_socket, "1, 1, 0", eperm),
        (libc::SYS_socket, "2, 2, 0", eperm),
        (libc::SYS_socketpair, "1, 2, 0, 0", eperm),
        (libc::SYS_shmget, "0, 0, 0", eperm),
        (libc::SYS_ioctl, "0, 0x5412, 0", eperm),
        (libc::SYS_clone3, "0, 0", enosys),
    ];
    let cell = cell().await;
    let (settings, command) = settings();
    let free = JailSettings { min_level: Level::None, ..settings };
    let free = Cell::with(Jail::probe_up_to(Level::None, free, command).await);
    for (number, arguments, error) in calls {
        let script = call(number, arguments);
        assert_eq!(cell.run(&script).await, (Exit::Code(0), error.into()), "{script}");
        assert_ne!(free.run(&script).await.1, error, "the control: {script}");
    }
    for (number, arguments) in [
        (libc::SYS_unshare, "0x10000000"),
        (libc::SYS_unshare, "0x80"),
        (libc::SYS_clone, "0x10000011, 0, 0, 0, 0"),
        (libc::SYS_mount, "0, 0, 0, 0, 0"),
        (libc::SYS_bpf, "0, 0, 0"),
        (libc::SYS_userfaultfd, "1"),
        (libc::SYS_open_by_handle_at, "-1, 0, 0"),
        (libc::SYS_chroot, "0"),
    ] {
        assert_eq!(cell.run(&call(number, arguments)).await.1, eperm, "{number} {arguments}");
    }
    let allowed =
        [call(libc::SYS_personality, "0xffffffff"), call(libc::SYS_prlimit64, "0, 7, 0, 0")].concat();
    assert_eq!(cell.run(&allowed).await.1, "00");
}

#[tokio::test]
async fn what_builds_use_works() {
    let cell = cell().await;
    let script = "perl -MSocket -e 'socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or die'
        cat <(echo sub) && echo err > /dev/stderr && mkfifo pipe && mkdir -p a/b && touch a/f && mv a/f a/b/f
        ln -s a l && ln a/b/f hard && chmod 755 hard && grep -q . /proc/cpuinfo && git init -q . && git status -s | wc -l
        printf '#!/bin/sh\\necho ran' > run && chmod +x run && ./run && head -c 4 /dev/urandom | wc -c && nproc > /dev/null";
    assert_eq!(cell.run(script).await, (Exit::Code(0), "sub\n3\nran\n4\nerr\n".into()));
}
