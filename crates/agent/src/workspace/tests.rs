//! Workspaces over real git remotes, with commands in real bubblewrap.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use bytesize::ByteSize;
use secrecy::ExposeSecret;
use steadfast_core::failure::{FatalReason, Verdict};

use super::*;
use crate::jail::tests::bubblewrap;

const BRANCH: &str = "steadfast/issue-7-12345678";
const MESSAGE: &str = "Fix it\n\nWith words.";

fn settings() -> GitSettings {
    GitSettings {
        program: "git".into(),
        fetch_timeout: Duration::from_secs(60),
        push_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        max_file_bytes: ByteSize::mib(64),
        allow_workflows: false,
        max_changed_files: 20,
        max_patch_bytes: ByteSize::kib(64),
    }
}

fn identity() -> Identity {
    Identity { name: "steadfast[bot]".into(), email: "1+steadfast[bot]@users.noreply.github.com".into() }
}

/// Git as a person uses it, in `folder`.
fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=p", "-c", "user.email=p@example.org", "-c", "init.defaultBranch=main"]);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A remote with a person's clone of it, and the folder of the workspaces.
struct World {
    folder: tempfile::TempDir,
    workspaces: Workspaces,
}

impl World {
    async fn new() -> World {
        World::with(settings()).await
    }

    async fn with(settings: GitSettings) -> World {
        let folder = tempfile::tempdir().unwrap();
        let (remote, person) = (folder.path().join("remote.git"), folder.path().join("person"));
        fs::create_dir_all(&person).unwrap();
        git(folder.path(), &["init", "--quiet", "--bare", remote.to_str().unwrap()]);
        git(&person, &["init", "--quiet"]);
        git(&person, &["remote", "add", "origin", remote.to_str().unwrap()]);
        fs::create_dir(person.join("src")).unwrap();
        for (path, text) in [
            ("src/main.rs", "fn main() {}\n"),
            ("AGENTS.md", "Be brief.\n"),
            ("gone", "x\n"),
            (".gitignore", "target\n"),
        ] {
            fs::write(person.join(path), text).unwrap();
        }
        git(&person, &["add", "."]);
        git(&person, &["commit", "--quiet", "-m", "first"]);
        git(&person, &["push", "--quiet", "origin", "main"]);
        let root = folder.path().join("workspaces");
        World { workspaces: Workspaces::new(root, settings, Arc::new(bubblewrap().await)), folder }
    }

    fn remote(&self) -> PathBuf {
        self.folder.path().join("remote.git")
    }

    fn person(&self) -> PathBuf {
        self.folder.path().join("person")
    }

    fn spec(&self) -> OpenSpec {
        OpenSpec {
            job: JobId::new("12345678-aaaa-bbbb-cccc-000000000000").unwrap(),
            remote: Url::from_file_path(self.remote()).unwrap(),
            base_branch: "main".into(),
            commit: None,
            patch: Vec::new(),
        }
    }

    async fn open(&self) -> Workspace {
        self.workspaces.open(self.spec(), None).await.unwrap()
    }

    fn head(&self, branch: &str) -> String {
        git(&self.remote(), &["rev-parse", &format!("refs/heads/{branch}")])
    }
}

impl Workspace {
    fn path(&self, path: &str) -> PathBuf {
        self.slot.place.workspace.join(path)
    }

    async fn tool(&mut self, name: &str, arguments: serde_json::Value) -> ToolOutcome {
        let call = ToolCall { id: "c".into(), name: name.into(), arguments: arguments.to_string() };
        self.run(&call, CancellationToken::new()).await
    }

    async fn shell(&mut self, command: &str) -> String {
        self.tool("run_command", serde_json::json!({ "command": command })).await.output
    }

    async fn push(&self) -> Published {
        self.publish(BRANCH, MESSAGE, &identity(), None).await.unwrap()
    }

    async fn refusal(&self) -> String {
        match self.push().await {
            Published::Refused(why) => why,
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[tokio::test]
async fn tools_work_on_the_checkout() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    assert_eq!(workspace.base_commit(), world.head("main"));
    assert_eq!(workspace.conventions().await.as_deref(), Some("Be brief.\n"));
    let read = workspace.tool("read_file", serde_json::json!({ "path": "src/main.rs" })).await;
    let expected =
        ToolOutcome { output: "     1\tfn main() {}\n".into(), is_error: false, changed_files: false };
    assert_eq!(read, expected);
    let edit = serde_json::json!({ "path": "src/main.rs", "old_string": "{}", "new_string": "{ run() }" });
    let edited = workspace.tool("edit_file", edit.clone()).await;
    assert!(edited.changed_files && !edited.is_error, "{edited:?}");
    let again = workspace.tool("edit_file", edit).await;
    assert!(again.is_error && !again.changed_files, "{again:?}");
    assert_eq!(
        workspace.shell("cat src/main.rs; pwd; exit 3").await,
        "exit code 3\n--- stdout\nfn main() { run() }\n/workspace"
    );
    assert_eq!(workspace.shell("true").await, "exit code 0\n(no output)");
    let finish = workspace.tool("finish", serde_json::json!({ "summary": "x" })).await;
    assert!(finish.is_error);
    workspace.remove().await;
    assert_eq!(
        fs::read_dir(world.folder.path().join("workspaces"))
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_dir())
            .count(),
        0
    );
}

#[tokio::test]
async fn a_patch_brings_everything_back() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    assert_eq!(workspace.patch().await.unwrap(), b"");
    let made = workspace
        .shell(
            "printf 'a\\0b\\377' > bin; echo new > 'späce name'; rm gone; chmod +x src/main.rs; ln -s src/main.rs l; \
             mkdir -p target deep/er; echo x > target/built; echo y > deep/er/f; printf 'no end' > src/main.rs",
        )
        .await;
    assert_eq!(made, "exit code 0\n(no output)");
    let patch = workspace.patch().await.unwrap();
    let spec =
        OpenSpec { commit: Some(workspace.base_commit().into()), patch: patch.clone(), ..world.spec() };
    workspace.remove().await;

    // The branch goes on meanwhile; the job stands on its commit.
    git(&world.person(), &["commit", "--quiet", "--allow-empty", "-m", "later"]);
    git(&world.person(), &["push", "--quiet", "origin", "main"]);
    let resumed = world.workspaces.open(spec, None).await.unwrap();
    assert_ne!(resumed.base_commit(), world.head("main"));
    assert_eq!(fs::read(resumed.path("bin")).unwrap(), b"a\0b\xff");
    assert_eq!(fs::read_to_string(resumed.path("späce name")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(resumed.path("src/main.rs")).unwrap(), "no end");
    assert!(!resumed.path("gone").exists() && !resumed.path("target").exists());
    assert!(fs::metadata(resumed.path("src/main.rs")).unwrap().permissions().mode() & 0o100 != 0);
    assert_eq!(fs::read_link(resumed.path("l")).unwrap(), Path::new("src/main.rs"));
    assert_eq!(resumed.patch().await.unwrap(), patch);
}

#[tokio::test]
async fn a_patch_that_does_not_fit_is_said_so() {
    let world = World::new().await;
    let spec = OpenSpec { patch: b"garbage".to_vec(), ..world.spec() };
    let failure = world.workspaces.open(spec, None).await.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Unusable });
    assert!(failure.message.contains("does not fit"), "{failure}");
}

#[tokio::test]
async fn a_commit_is_found_by_its_full_or_short_name() {
    let world = World::new().await;
    let first = world.head("main");
    git(&world.person(), &["commit", "--quiet", "--allow-empty", "-m", "later"]);
    git(&world.person(), &["push", "--quiet", "origin", "main"]);
    for commit in [&first, &first[..9]] {
        let spec = OpenSpec { commit: Some(commit.into()), ..world.spec() };
        let workspace = world.workspaces.open(spec, None).await.unwrap();
        assert_eq!(workspace.base_commit(), first);
        workspace.remove().await;
    }
    let missing = Verdict::Fatal { why: FatalReason::NotFound };
    for commit in ["0123456789012345678901234567890123456789", "0123456"] {
        let spec = OpenSpec { commit: Some(commit.into()), ..world.spec() };
        assert_eq!(world.workspaces.open(spec, None).await.unwrap_err().verdict, missing, "{commit}");
    }
    let spec = OpenSpec { base_branch: "nope".into(), ..world.spec() };
    assert_eq!(world.workspaces.open(spec, None).await.unwrap_err().verdict, missing);
    // What failed leaves nothing behind.
    let left = fs::read_dir(world.folder.path().join("workspaces")).unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.path().is_dir()).count(), 0);
}

#[tokio::test]
async fn a_hostile_repository_runs_nothing() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let mark = world.folder.path().join("ran");
    let evil = format!("touch {}; cat", mark.display());
    fs::write(workspace.path(".gitattributes"), "* filter=evil diff=evil merge=evil\n").unwrap();
    let config = format!(
        "[core]\n\tfsmonitor = \"{evil}\"\n\tpager = \"{evil}\"\n[filter \"evil\"]\n\tclean = \"{evil}\"\n\tsmudge = \
         \"{evil}\"\n\trequired = true\n[diff \"evil\"]\n\ttextconv = \"{evil}\"\n\tcommand = \"{evil}\"\n\
         [credential]\n\thelper = \"!{evil}\"\n"
    );
    for place in [".git", "nested/.git"] {
        fs::create_dir_all(workspace.path(place).join("hooks")).unwrap();
        fs::write(workspace.path(place).join("config"), &config).unwrap();
        for hook in ["pre-push", "pre-commit", "post-index-change", "reference-transaction"] {
            let file = workspace.path(place).join("hooks").join(hook);
            fs::write(&file, format!("#!/bin/sh\n{evil}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    fs::write(workspace.path("src/main.rs"), "changed\n").unwrap();
    fs::write(workspace.path("nested/file"), "x\n").unwrap();
    // The control: git as a person uses it does run them.
    let plain = Command::new("git").args(["add", "-A"]).current_dir(workspace.path("")).output().unwrap();
    assert!(mark.exists(), "{plain:?}");
    fs::remove_file(&mark).unwrap();

    let patch = String::from_utf8(workspace.patch().await.unwrap()).unwrap();
    assert!(patch.contains("+changed") && !patch.contains("nested"), "{patch}");
    assert!(workspace.refusal().await.contains("nested is a git repository of its own"));
    workspace.shell("rm -rf nested").await;
    assert!(matches!(workspace.push().await, Published::Pushed { .. }));
    assert!(!mark.exists(), "the repository's configuration ran");
}

#[tokio::test]
async fn nested_repositories_are_told_of_and_ignored_ones_are_not() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let output = workspace
        .shell("git init -q sub && echo x > sub/f && git init -q target/dep && git init -q sub/in")
        .await;
    assert!(output.contains("repositories of their own: sub."), "{output}");
    assert!(workspace.patch().await.unwrap().is_empty());
    assert!(workspace.refusal().await.contains("remove sub/.git"));
    assert_eq!(workspace.shell("rm -rf sub/.git sub/in").await, "exit code 0\n(no output)");
    assert!(matches!(workspace.push().await, Published::Pushed { .. }));
}

#[tokio::test]
async fn a_publish_repeated_anywhere_is_the_same_commit() {
    let world = World::new().await;
    let workspace = world.open().await;
    assert_eq!(workspace.push().await, Published::Nothing);
    fs::write(workspace.path("new"), "x\n").unwrap();
    let first = workspace.push().await;
    let sha = world.head(BRANCH);
    assert_eq!(first, Published::Pushed { branch: BRANCH.into(), sha: sha.clone() });
    assert_eq!(workspace.push().await, first);
    let shown = git(&world.remote(), &["show", "--no-patch", "--format=%an <%ae>%n%cn%n%P%n%B", &sha]);
    assert_eq!(
        shown,
        format!(
            "steadfast[bot] <1+steadfast[bot]@users.noreply.github.com>\nsteadfast[bot]\n{}\nFix it\n\nWith \
             words.\n\nSteadfast-Job: 12345678-aaaa-bbbb-cccc-000000000000",
            workspace.base_commit()
        )
    );
    let commit = Some(workspace.base_commit().to_owned());
    let spec = OpenSpec { commit, patch: workspace.patch().await.unwrap(), ..world.spec() };
    let resumed = world.workspaces.open(spec, None).await.unwrap();
    assert_eq!(resumed.push().await, first);

    // An earlier run of this job pushed other content: it is ours, and is replaced.
    fs::write(resumed.path("new"), "y\n").unwrap();
    let Published::Pushed { branch, sha: newer } = resumed.push().await else { panic!("not pushed") };
    assert_eq!((branch.as_str(), world.head(BRANCH)), (BRANCH, newer.clone()));
    assert_ne!(newer, sha);
}

#[tokio::test]
async fn somebody_elses_branch_is_left_alone() {
    let world = World::new().await;
    let workspace = world.open().await;
    fs::write(workspace.path("new"), "x\n").unwrap();
    workspace.push().await;
    // A person goes on from what we pushed.
    git(&world.person(), &["fetch", "--quiet", "origin", BRANCH]);
    git(&world.person(), &["checkout", "--quiet", "FETCH_HEAD"]);
    git(&world.person(), &["commit", "--quiet", "--allow-empty", "-m", "by hand"]);
    git(&world.person(), &["push", "--quiet", "origin", &format!("HEAD:refs/heads/{BRANCH}")]);
    let theirs = world.head(BRANCH);
    let second = format!("{BRANCH}-2");
    for _ in 0..2 {
        let Published::Pushed { branch, sha } = workspace.push().await else { panic!("not pushed") };
        assert_eq!((&branch, sha), (&second, world.head(&second)));
    }
    assert_eq!(world.head(BRANCH), theirs);
}

#[tokio::test]
async fn what_must_not_be_pushed_is_refused_with_the_reason() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let key = ["ghp", "_0123456789abcdefghij0123456789abcdef"].concat();
    for (make, reason) in [
        ("mkdir -p .github/workflows; echo x > .github/workflows/ci.yml".into(), ".github/"),
        (format!("echo 'token = {key}' > conf"), "conf holds what looks like a GitHub token"),
        ("ln -s /etc/passwd link".into(), "outside the repository"),
        ("ln -s ../../x src/link".into(), "outside the repository"),
        ("for i in $(seq 21); do echo $i > f$i; done".into(), "touches 21 files"),
        ("head -c 200000 /dev/urandom > big".into(), "agent.git.max_patch_bytes"),
    ] {
        let made = workspace.shell(&make).await;
        assert!(made.starts_with("exit code 0"), "{made}");
        let why = workspace.refusal().await;
        assert!(why.contains(reason) && !why.contains(&key), "{make}: {why}");
        workspace.shell("git clean -qfd && git checkout -q .").await;
    }
    assert_eq!(workspace.push().await, Published::Nothing);
    let branches = git(&world.remote(), &["branch", "--list"]);
    assert_eq!(branches.trim(), "* main");
}

#[tokio::test]
async fn workflows_may_be_pushed_where_the_operator_says_so() {
    let world = World::with(GitSettings { allow_workflows: true, ..settings() }).await;
    let workspace = world.open().await;
    fs::create_dir(workspace.path(".github")).unwrap();
    fs::write(workspace.path(".github/x.yml"), "x\n").unwrap();
    assert!(matches!(workspace.push().await, Published::Pushed { .. }));
}

#[tokio::test]
async fn a_change_too_large_to_keep_keeps_its_small_files() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    workspace.shell("head -c 200000 /dev/urandom > big; echo small > small; echo x >> src/main.rs").await;
    let patch = String::from_utf8(workspace.patch().await.unwrap()).unwrap();
    assert!(
        patch.contains("b/small") && patch.contains("b/src/main.rs") && !patch.contains("b/big"),
        "{patch}"
    );
    workspace.shell("rm small; git checkout -q src/main.rs").await;
    assert!(workspace.patch().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_command_sees_a_decoy_and_not_the_git_directory() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let seen = workspace
        .shell("git log --format=%s; git status --short; git remote; ls -a / ~ ..; cat .git/config")
        .await;
    assert!(seen.contains("stdout\nfirst\n") && seen.contains("bare = false"), "{seen}");
    assert!(!seen.contains("remote.git") && !seen.contains("workspaces"), "{seen}");
    // What is done to it reaches nothing.
    workspace
        .shell("git -c user.name=x -c user.email=x@x commit -q --allow-empty -m evil; rm -rf .git/objects")
        .await;
    fs::write(workspace.path("new"), "x\n").unwrap();
    assert!(matches!(workspace.push().await, Published::Pushed { .. }));
    assert_eq!(git(&world.remote(), &["rev-list", "--count", BRANCH]), "2");
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_tidied() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let output =
        workspace.shell("mkfifo pipe .ignore; mkdir shut; echo x > shut/f; chmod 000 shut/f shut").await;
    assert!(output.contains("removed, since they are not files: ") && output.contains("pipe"), "{output}");
    let patch = String::from_utf8(workspace.patch().await.unwrap()).unwrap();
    assert!(patch.contains("shut/f"), "{patch}");
    workspace.shell("chmod 000 shut").await;
    let folder = workspace.slot.folder.clone();
    workspace.remove().await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_command_can_be_called_off() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let cancel = CancellationToken::new();
    let call = ToolCall {
        id: "c".into(),
        name: "run_command".into(),
        arguments: r#"{"command":"sleep 1000"}"#.into(),
    };
    let canceller = cancel.clone();
    let (outcome, ()) = tokio::join!(workspace.run(&call, cancel), async { canceller.cancel() });
    assert!(outcome.is_error && outcome.output.starts_with("called off"), "{outcome:?}");
    let slow =
        workspace.tool("run_command", serde_json::json!({ "command": "sleep 1000", "timeout_s": 1 })).await;
    assert!(slow.is_error && slow.output.starts_with("no end within 1 s: it and all"), "{slow:?}");
}

#[tokio::test]
async fn a_resumed_run_recalls_what_was_read() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    let edit = serde_json::json!({ "path": "src/main.rs", "old_string": "{}", "new_string": "{ }" });
    assert!(workspace.tool("edit_file", edit.clone()).await.output.contains("has not been read yet"));
    let read =
        ToolCall { id: "c".into(), name: "read_file".into(), arguments: r#"{"path":"src/main.rs"}"#.into() };
    workspace.recall(&[read]).await;
    assert!(!workspace.tool("edit_file", edit).await.is_error);
}

#[tokio::test]
async fn a_sweep_takes_what_is_not_in_use() {
    let world = World::new().await;
    let (used, unused) = (world.open().await, world.open().await);
    let (kept, gone) = (used.slot.folder.clone(), unused.slot.folder.clone());
    let foreign = world.folder.path().join("workspaces/0123456789abcdef");
    fs::create_dir(&foreign).unwrap();
    drop(unused);
    // A child that is just being started elsewhere holds a copy of the lock until it runs.
    for _ in 0..1000 {
        world.workspaces.sweep().await;
        if !gone.exists() {
            break;
        }
    }
    assert!(kept.exists() && foreign.exists() && !gone.exists());
}

/// A server that asks for credentials and then refuses; what it was sent.
fn refusing_server() -> (Url, std::sync::mpsc::Receiver<String>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/o/r.git", listener.local_addr().unwrap())).unwrap();
    let (sent, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => head.extend_from_slice(&buffer[..bytes]),
                }
            }
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
                          Connection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
            if sent.send(String::from_utf8_lossy(&head).into_owned()).is_err() {
                return;
            }
        }
    });
    (url, received)
}

#[tokio::test]
async fn a_token_goes_to_the_remote_alone_and_stays_nowhere() {
    let world = World::new().await;
    let (remote, received) = refusing_server();
    let token = SecretString::from("ghs_opaque.and.long_0123456789".to_owned());
    let spec = OpenSpec { remote, ..world.spec() };
    let failure = world.workspaces.open(spec.clone(), Some(token.clone())).await.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Refresh, "{failure}");
    assert!(!format!("{failure:?}").contains(token.expose_secret()), "{failure:?}");
    let heads: String = received.try_iter().collect();
    // x-access-token and the token, in base64.
    assert!(
        heads.contains("Authorization: Basic eC1hY2Nlc3MtdG9rZW46Z2hzX29wYXF1ZS5hbmQubG9uZ18wMTIzNDU2Nzg5"),
        "{heads}"
    );
    let failure = world.workspaces.open(spec, None).await.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Refresh, "{failure}");
    assert!(!received.try_iter().any(|head| head.contains("Authorization")));

    // With a remote that answers: nothing of it is left on the disk.
    let workspace = world.workspaces.open(world.spec(), Some(token.clone())).await.unwrap();
    fs::write(workspace.path("new"), "x\n").unwrap();
    workspace.publish(BRANCH, MESSAGE, &identity(), Some(token.clone())).await.unwrap();
    let found = Command::new("grep")
        .args(["-rlaF", token.expose_secret()])
        .arg(world.folder.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test]
async fn a_remote_that_hangs_is_given_up() {
    let settings = GitSettings { fetch_timeout: Duration::from_millis(300), ..settings() };
    let world = World::with(settings).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = Url::parse(&format!("http://{}/o/r.git", listener.local_addr().unwrap())).unwrap();
    let failure = world.workspaces.open(OpenSpec { remote, ..world.spec() }, None).await.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Retry { after: None }, "{failure}");
    assert!(failure.message.contains("no end within"), "{failure}");
}

#[tokio::test]
async fn a_submodule_is_not_pushed_and_links_within_are() {
    let world = World::new().await;
    let mut workspace = world.open().await;
    workspace.shell("ln -s main.rs src/alias").await;
    symlink("src/main.rs", workspace.path("top")).unwrap();
    assert!(matches!(workspace.push().await, Published::Pushed { .. }));
    workspace
        .shell(
            "git init -q mod && cd mod && git -c user.name=x -c user.email=x@x commit -q --allow-empty -m x",
        )
        .await;
    assert!(workspace.refusal().await.contains("mod is a git repository of its own"));
}

#[tokio::test]
async fn a_git_that_heeds_no_guards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("git");
    fs::write(&old, "#!/bin/sh\nunset GIT_CONFIG_COUNT\nexec git \"$@\"\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::with(GitSettings { program: old, ..settings() }).await;
    let failure = world.workspaces.open(world.spec(), None).await.unwrap_err();
    assert!(failure.message.contains("2.31"), "{failure}");
    let world = World::with(GitSettings { program: "/nowhere/git".into(), ..settings() }).await;
    let failure = world.workspaces.open(world.spec(), None).await.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Unusable });
    assert!(failure.message.contains("install git"), "{failure}");
}
