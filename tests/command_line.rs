//! The command line as a person or a script meets it: words, exit codes, nothing secret.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A folder of its own and the real program in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("a file");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
        command.args(args).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Told {
        Told::of(self.command(args).output().expect("steadfast starts"))
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Told {
        self.file("input", input);
        let input = std::fs::File::open(self.0.path().join("input")).expect("the input");
        Told::of(self.command(args).stdin(input).output().expect("steadfast starts"))
    }
}

#[derive(Debug)]
struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Told { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

fn entry(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","installationId":0,"repoOwner":"o","repoName":"r","taskType":"autonomous","status":"pending","taskParams":{{"issueTitle":"Title of {id}"}},"createdAt":"2025-10-09T00:00:00.000Z"}}"#
    )
}

#[test]
fn a_job_is_submitted_listed_shown_and_called_off() {
    let place = Place::new();
    let flags = ["submit", "--repo", "acme/shop", "--issue", "42", "--title", "Off by one", "--id", "j1"];
    let told = place.run(&flags);
    assert_eq!((told.code, told.out.as_str()), (Some(0), "j1 queued\n"), "{told:?}");
    assert_eq!(place.run(&flags).out, "j1 duplicate\n");
    assert_eq!(
        place.run(&[&flags[..], &["--json"]].concat()).out,
        "{\"id\":\"j1\",\"admission\":\"duplicate\"}\n"
    );

    let told = place.run(&["jobs", "list"]);
    for part in ["j1", "queued", "acme/shop", "#42", "Off by one", "1 queued, 0 running, 0 parked, 0 ended"] {
        assert!(told.out.contains(part), "{part} not in {told:?}");
    }
    let told = place.run(&["jobs", "list", "--json", "--state", "queued"]);
    let job: serde_json::Value = serde_json::from_str(&told.out).expect("one JSON object");
    assert_eq!((&job["id"], &job["state"], &job["issue"]), (&"j1".into(), &"queued".into(), &42.into()));
    assert_eq!(place.run(&["jobs", "list", "--json", "--state", "parked"]).out, "");

    let told = place.run(&["jobs", "show", "j1"]);
    assert!(told.out.contains("title            Off by one\n"), "{told:?}");
    let told = place.run(&["jobs", "show", "j1", "--json"]);
    let job: serde_json::Value = serde_json::from_str(&told.out).expect("one JSON object");
    assert_eq!(job["job"]["taskParams"]["issueTitle"], "Off by one");
    assert_eq!(job["steps"], serde_json::json!([]));

    let told = place.run(&["jobs", "cancel", "j1"]);
    assert_eq!((told.code, told.out.as_str()), (Some(0), "j1 cancelled\n"), "{told:?}");
    assert_eq!(place.run(&["jobs", "cancel", "j1"]).out, "j1 had ended before\n");
    let told = place.run(&["jobs", "cancel", "j1", "j2"]);
    assert_eq!((told.code, told.out.contains("j2 no such job")), (Some(1), true), "{told:?}");
    let told = place.run(&["jobs", "show", "j2"]);
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("no job j2"), "{told:?}");
}

#[test]
fn the_queue_is_paused_and_ended_jobs_are_retried() {
    let place = Place::new();
    let submit = |id: &str, more: &[&str]| {
        let job = ["submit", "--repo", "acme/shop", "--issue", "42", "--title", "t", "--id", id];
        place.run(&[&job[..], more].concat()).out
    };
    assert_eq!(submit("j1", &["--priority", "-3", "--delay", "1h", "--unique"]), "j1 queued\n");
    assert_eq!(submit("j2", &["--unique"]), "j2 joined to j1\n");
    assert_eq!(
        submit("j3", &["--unique", "--json"]),
        "{\"id\":\"j3\",\"admission\":\"joined\",\"joinedTo\":\"j1\"}\n"
    );
    let told = place.run(&["jobs", "show", "j1", "--json"]);
    let job: serde_json::Value = serde_json::from_str(&told.out).expect("one JSON object");
    assert_eq!((&job["status"]["priority"], &job["job"]["unique"]), (&"-3".into(), &true.into()), "{job}");
    assert!(job["at"].as_str() > job["admittedAt"].as_str(), "an hour later: {job}");
    assert!(place.run(&["jobs", "show", "j2"]).out.contains("joinedTo         j1\n"));

    assert_eq!(place.run(&["jobs", "pause"]).out, "paused: all jobs\n");
    assert_eq!(place.run(&["jobs", "pause", "--owner", "Acme"]).out, "paused: all jobs, acme\n");
    assert!(place.run(&["jobs", "list"]).out.ends_with("2 ended; paused: all jobs, acme\n"));
    assert_eq!(place.run(&["jobs", "resume", "--json"]).out, "{\"all\":false,\"owners\":[\"acme\"]}\n");
    assert_eq!(place.run(&["jobs", "resume", "--owner", "ACME"]).out, "nothing is paused\n");

    let told = place.run(&["jobs", "retry", "j1", "j2", "nobody"]);
    assert_eq!(told.code, Some(1));
    let lines = ["j1 has not ended", "j2 not queued: job j1 is at the same issue", "nobody no such job"];
    assert_eq!(told.out.lines().collect::<Vec<_>>(), lines);
    place.run(&["jobs", "cancel", "j1"]);
    assert_eq!(place.run(&["jobs", "retry", "j2"]).out, "j2 queued\n");
    assert_eq!(
        place.run(&["jobs", "retry", "--from-start", "--json", "j1"]).out,
        "{\"id\":\"j1\",\"retry\":\"joined\"}\n"
    );
    for wrong in ["10", "-10", "high"] {
        let args = ["submit", "--repo", "a/b", "--title", "t", "--priority", wrong];
        assert_eq!(place.run(&args).code, Some(2), "{wrong}");
    }
}

#[test]
fn many_jobs_come_by_standard_input_or_none_of_them() {
    let place = Place::new();
    let good = format!("{}\n{}\n", entry("a"), entry("b"));
    let told = place.run_with_input(&["submit"], &good);
    assert_eq!((told.code, told.out.as_str()), (Some(0), "a queued\nb queued\n"), "{told:?}");
    let told = place.run_with_input(
        &["submit", "-"],
        &format!("{}\n{}\n", entry("c"), entry("../d").replace("\"o\"", "\"..\"")),
    );
    assert_eq!((told.code, told.out.as_str()), (Some(1), ""), "{told:?}");
    assert!(told.err.contains("nothing was submitted") && told.err.contains("job 2"), "{told:?}");
    assert_eq!(place.run(&["jobs", "list", "--json"]).out.lines().count(), 2);
}

#[test]
fn a_text_from_a_stranger_cannot_steer_the_terminal() {
    let place = Place::new();
    let told =
        place.run_with_input(&["submit"], &entry("a").replace("Title of a", r"\u001b[2Jboo\nX-Forged: yes"));
    assert_eq!(told.code, Some(0), "{told:?}");
    for args in [&["jobs", "list"][..], &["jobs", "show", "a"]] {
        let told = place.run(args);
        assert!(told.out.contains("boo X-Forged") && !told.out.contains('\u{1b}'), "{told:?}");
    }
}

#[test]
fn exit_codes_are_as_documented() {
    let place = Place::new();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["config", "check"], 0),
        (&["frobnicate"], 2),
        (&["submit", "--repo", "acme/shop"], 2),
        (&["submit", "--repo", "acme", "--title", "t"], 1),
        (&["submit"], 1),
        (&["jobs", "show", "nobody"], 1),
        (&["jobs", "list", "--most", "0"], 2),
        (&["--config", "nowhere.toml", "run"], 1),
    ] {
        let told = place.run(args);
        assert_eq!(told.code, Some(code), "{args:?}: {told:?}");
        assert_eq!(told.err.is_empty(), code == 0, "{args:?}: {told:?}");
    }
}

#[test]
fn a_queue_that_is_away_is_told_from_one_that_is_wrong() {
    let place = Place::new();
    // Port 1 answers nobody.
    let away = place
        .command(&["jobs", "list"])
        .env("STEADFAST_QUEUE__URL", "redis://:hunter22@127.0.0.1:1")
        .output();
    let told = Told::of(away.expect("steadfast starts"));
    assert_eq!(told.code, Some(75), "{told:?}");
    assert!(!told.err.contains("hunter22"), "{told:?}");
    let memory = place.command(&["jobs", "list"]).env("STEADFAST_QUEUE__URL", "memory:").output();
    let told = Told::of(memory.expect("steadfast starts"));
    assert_eq!((told.code, told.err.contains("queue.url is memory")), (Some(1), true), "{told:?}");
    let wrong = place.command(&["jobs", "list"]).env("STEADFAST_QUEUE__URL", "postgres://h").output();
    let told = Told::of(wrong.expect("steadfast starts"));
    assert_eq!((told.code, told.err.contains("queue.url")), (Some(1), true), "{told:?}");
}

#[test]
fn a_wrong_configuration_is_told_whole_by_every_command() {
    let place = Place::new();
    place.file("config.toml", "[job]\nconcurrency = 0\n[llm]\ntimeuot = \"3s\"\napi_key = \"sk-secret-1\"\n");
    for args in [&["config", "check"][..], &["run"], &["jobs", "list"], &["submit", "-"], &[]] {
        let told = place.run(args);
        assert_eq!(told.code, Some(1), "{args:?}: {told:?}");
        for part in ["config.toml:2: job.concurrency", "did you mean llm.timeout?", "2 problems"] {
            assert!(told.err.contains(part), "{args:?}: {part} not in {told:?}");
        }
        assert!(!told.err.contains("sk-secret-1"), "{told:?}");
    }
}

#[test]
fn what_is_shown_holds_no_secret_and_can_be_used() {
    let place = Place::new();
    place.file("config.toml", "[llm]\napi_key = \"sk-secret-1\"\n[queue]\nurl = \"redis://:hunter22@h:1\"\n");
    let told = place.run(&["config", "show"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.out.contains("api_key = \"***\"  # config.toml:2"), "{told:?}");
    assert!(!told.out.contains("sk-secret-1") && !told.out.contains("hunter22"), "{told:?}");
    let other = Place::new();
    other.file("config.toml", &told.out);
    assert_eq!(other.run(&["config", "check"]).code, Some(0));
}

#[test]
fn the_reference_page_comes_from_the_program() {
    let told = Place::new().run(&["config", "docs"]);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    assert_eq!(told.out, std::fs::read_to_string(page).expect("docs/configuration.md"));
}
