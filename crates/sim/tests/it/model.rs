//! The model works every issue of the fixture to its end, each job in its own way.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use steadfast_sim::fixture::{self, Work};
use steadfast_sim::{ScriptFor, ScriptedAnswer, World};

use crate::support::{chat, world};

const TOOLS: [&str; 8] = [
    "list_directory",
    "read_file",
    "search_code",
    "edit_file",
    "write_file",
    "run_command",
    "comment_on_issue",
    "finish",
];

/// How a toy agent numbers the lines of a file: each real one has its own way.
const NUMBERING: [fn(usize, &str) -> String; 4] = [
    |number, line| format!("{number:>6}\t{line}"),
    |number, line| format!("{number}: {line}"),
    |number, line| format!("{number:>4} | {line}"),
    |number, line| format!("{number}→{line}"),
];

struct Workspace {
    dir: tempfile::TempDir,
    numbering: fn(usize, &str) -> String,
    comments: Vec<String>,
    summary: Option<String>,
    /// What was seen of the model's habits.
    seen: BTreeSet<&'static str>,
}

impl Workspace {
    fn new(way: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in fixture::files() {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let numbering = NUMBERING[way % NUMBERING.len()];
        Workspace { dir, numbering, comments: Vec::new(), summary: None, seen: BTreeSet::new() }
    }

    fn run(&mut self, name: &str, arguments: &str) -> String {
        let Ok(arguments) = serde_json::from_str::<Value>(arguments) else {
            self.seen.insert("malformed");
            return "error: the arguments are not valid JSON".to_owned();
        };
        let text = |field: &str| arguments[field].as_str().unwrap_or_default().to_owned();
        let path = self.dir.path().join(text("path"));
        match name {
            "list_directory" => {
                self.seen.insert("list");
                let entries = std::fs::read_dir(path).unwrap();
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap() + "\n").collect()
            }
            "read_file" => {
                let content = std::fs::read_to_string(&path).unwrap();
                let lines = content.lines().enumerate();
                lines.map(|(index, line)| (self.numbering)(index + 1, line) + "\n").collect()
            }
            "search_code" => {
                self.seen.insert("search");
                format!("lib/{0}.sh:1:{0}", text("pattern"))
            }
            "edit_file" => {
                let content = std::fs::read_to_string(&path).unwrap();
                let (old, new) = (text("old_string"), text("new_string"));
                if content.matches(&old).count() != 1 {
                    return "error: old_string must be there exactly once".to_owned();
                }
                std::fs::write(&path, content.replace(&old, &new)).unwrap();
                "edited".to_owned()
            }
            "write_file" => {
                std::fs::write(&path, text("content")).unwrap();
                "written".to_owned()
            }
            "run_command" => {
                let (code, said) = sh(self.dir.path(), &text("command"));
                self.seen.insert(if code == 0 { "passed" } else { "failed" });
                format!("exit code: {code}\nstdout:\n{said}")
            }
            "comment_on_issue" => {
                self.comments.push(text("message"));
                "the comment was made".to_owned()
            }
            "finish" => {
                self.summary = Some(text("summary"));
                "finished".to_owned()
            }
            _ => {
                self.seen.insert("unknown tool");
                format!("error: there is no tool {name}; did you mean read_file?")
            }
        }
    }
}

fn sh(dir: &Path, command: &str) -> (i32, String) {
    let output = Command::new("sh").args(["-c", command]).current_dir(dir).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn task(number: u64, job: usize) -> Vec<Value> {
    let issue = fixture::issue(number).unwrap();
    let text = format!("Job {job}. Solve issue #{number}.\nTitle: {}\n\n{}", issue.title, issue.body);
    vec![json!({"role": "system", "content": "You repair code."}), json!({"role": "user", "content": text})]
}

/// Works a job to its end and returns the turns that it took.
async fn work(world: &Arc<World>, mut messages: Vec<Value>, workspace: &mut Workspace) -> usize {
    let tools: Vec<Value> = TOOLS
        .iter()
        .map(|name| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}))
        .collect();
    for turn in 1..=25 {
        let answer = chat(world, &json!({"model": "m", "messages": messages, "tools": tools})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut message = answer.json()["choices"][0]["message"].clone();
        message.as_object_mut().unwrap().remove("refusal");
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        // Servers parse arguments of calls long past, so clients send back an object.
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let arguments = &mut call["function"]["arguments"];
            if serde_json::from_str::<Value>(arguments.as_str().unwrap()).is_err() {
                *arguments = json!("{}");
            }
        }
        messages.push(message);
        if calls.is_empty() {
            workspace.seen.insert("prose");
            messages.push(json!({"role": "user", "content": "Go on with the tools."}));
        }
        if calls.len() > 1 {
            workspace.seen.insert("together");
        }
        for call in calls {
            let function = &call["function"];
            let result =
                workspace.run(function["name"].as_str().unwrap(), function["arguments"].as_str().unwrap());
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": result}));
        }
        if workspace.summary.is_some() {
            return turn;
        }
    }
    panic!("no end: {messages:#?}");
}

fn check(number: u64, workspace: &Workspace) {
    let dir = workspace.dir.path();
    let unchanged = |path: &str, content: &str| {
        std::fs::read_to_string(dir.join(path)).is_ok_and(|found| found == content)
    };
    let changed: Vec<&str> = fixture::files()
        .iter()
        .filter(|(path, content)| !unchanged(path, content))
        .map(|(path, _)| *path)
        .collect();
    match fixture::issue(number).unwrap().work {
        Work::Bug(bug) => {
            assert_eq!(changed, [format!("lib/{}.sh", bug.function)]);
            let (code, said) = sh(dir, &format!("sh test.sh {}", bug.function));
            assert_eq!(code, 0, "{said}");
        }
        Work::NothingWrong { .. } => {
            assert!(changed.is_empty());
            assert!(workspace.comments.iter().any(|comment| comment.contains("nothing to change")));
        }
        Work::Document { add, .. } => {
            assert_eq!(changed, ["README.md"]);
            let readme = std::fs::read_to_string(dir.join("README.md")).unwrap();
            assert!(readme.lines().any(|line| line == add));
        }
        Work::AddTests { name, .. } => {
            assert!(changed.is_empty());
            assert_eq!(sh(dir, &format!("sh test.sh {name}")).0, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_issue_is_solved_in_many_ways() {
    let world = world(|_| {});
    let mut seen = BTreeSet::new();
    let mut turns = BTreeSet::new();
    for job in 0..6 {
        for issue in fixture::issues() {
            let mut workspace = Workspace::new(job);
            turns.insert(work(&world, task(issue.number, job), &mut workspace).await);
            check(issue.number, &workspace);
            seen.extend(workspace.seen);
        }
    }
    let habits = ["failed", "list", "malformed", "passed", "prose", "search", "together", "unknown tool"];
    assert!(habits.iter().all(|habit| seen.contains(habit)), "{seen:?}");
    assert!(turns.len() >= 6, "{turns:?}");
    assert_eq!(world.records().paid_twice(), 0);
    assert_eq!(world.records().chats[0].issue, Some(1));
}

#[test]
fn every_wrong_change_fails_its_tests() {
    for issue in fixture::issues() {
        let Work::Bug(bug) = issue.work else { continue };
        let workspace = Workspace::new(0);
        let path = workspace.dir.path().join(format!("lib/{}.sh", bug.function));
        let content = std::fs::read_to_string(&path).unwrap();
        let test = format!("sh test.sh {}", bug.function);
        for (line, passes) in [(bug.line, false), (bug.wrong, false), (bug.fixed, true)] {
            std::fs::write(&path, content.replace(bug.line, line)).unwrap();
            let (code, said) = sh(workspace.dir.path(), &test);
            assert_eq!(code == 0, passes, "{line}: {said}");
            assert!(said.contains(if passes { "checks passed" } else { "checks failed" }), "{line}: {said}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_protocol_of_json_objects_works_too() {
    let world = world(|_| {});
    for job in 0..3 {
        let mut workspace = Workspace::new(job);
        let mut messages = task(2, job);
        let summary = loop {
            assert!(messages.len() < 60, "no end: {messages:#?}");
            let answer = chat(&world, &json!({"model": "m", "messages": messages})).await;
            let content = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
            messages.push(json!({"role": "assistant", "content": content}));
            let result = match serde_json::from_str::<Value>(&content) {
                Ok(said) if said["finished"] == true => break said["finalAnswer"].clone(),
                Ok(said) => workspace
                    .run(said["action"]["tool"].as_str().unwrap(), &said["action"]["parameters"].to_string()),
                Err(_) => "answer with one JSON object".to_owned(),
            };
            messages.push(json!({"role": "user", "content": result}));
        };
        assert!(summary.as_str().unwrap().contains("roman"));
        check(2, &workspace);
    }
}

#[tokio::test(start_paused = true)]
async fn the_model_recovers_from_lost_results_and_stubs() {
    let world = world(|_| {});
    let tools: Vec<Value> = TOOLS
        .iter()
        .map(|name| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}))
        .collect();
    let mut workspace = Workspace::new(0);
    let mut messages = task(4, 0);
    for turn in 0..30 {
        // From time to time everything that was read is compacted away, or a command was cut off.
        if turn % 4 == 3 {
            for message in messages.iter_mut().filter(|message| message["role"] == "tool") {
                message["content"] = json!("[output dropped]");
            }
        }
        let answer = chat(&world, &json!({"model": "m", "messages": messages, "tools": tools})).await;
        let mut message = answer.json()["choices"][0]["message"].clone();
        message.as_object_mut().unwrap().remove("refusal");
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        messages.push(message);
        for call in &calls {
            let function = &call["function"];
            let result =
                workspace.run(function["name"].as_str().unwrap(), function["arguments"].as_str().unwrap());
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": result}));
        }
        if calls.is_empty() {
            messages.push(json!({"role": "user", "content": "go on"}));
        }
        if workspace.summary.is_some() {
            check(4, &workspace);
            return;
        }
    }
    panic!("no end: {messages:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_is_known_by_its_title_or_its_number_and_else_looked_at() {
    let world = world(|_| {});
    for (text, expected) in [
        ("Title: roman 4 prints IIII", Some(2)),
        ("Solve issue #14 of acme/shell-tools.\nroman 4 prints IIII (14)", Some(14)),
        ("Solve issue #2 of acme/shell-tools.", Some(2)),
        ("List files", None),
    ] {
        let mut workspace = Workspace::new(0);
        work(&world, vec![json!({"role": "user", "content": text})], &mut workspace).await;
        match expected {
            Some(_) => check(2, &workspace),
            None => assert!(workspace.summary.unwrap().contains("README.md")),
        }
        assert_eq!(world.records().chats.last().unwrap().issue, expected, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_decides_by_turn_and_then_the_model_goes_on() {
    let world = world(|_| {});
    let calls = vec![("read_file".to_owned(), "{broken".to_owned())];
    world.script_model(
        ScriptFor::Issue(2),
        vec![ScriptedAnswer::Text("first".to_owned()), ScriptedAnswer::Calls(calls)],
    );
    let ask = |messages: Vec<Value>| {
        let world = Arc::clone(&world);
        async move {
            let tools = json!([{"type": "function", "function": {"name": "finish"}}]);
            chat(&world, &json!({"model": "m", "tools": tools, "messages": messages})).await.json()
        }
    };
    let mut messages = task(2, 0);
    for _ in 0..2 {
        let said = ask(messages.clone()).await;
        assert_eq!(said["choices"][0]["message"]["content"], "first");
    }
    messages.push(json!({"role": "assistant", "content": "first"}));
    let said = ask(messages).await;
    assert_eq!(said["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{broken");
    let other = ask(task(3, 0)).await;
    assert_ne!(other["choices"][0]["message"]["content"], "first");
}
