//! The way that the simulated model takes through a task: chosen once from seed and task, followed
//! turn by turn from what the conversation shows.

use serde_json::{Value, json};

use super::conversation::{Conversation, has_line};
use super::{Habits, Said};
use crate::fixture::{Bug, Issue, Work};

/// What the tests of the fixture print.
const PASSED: &str = "checks passed";
const FAILED: &str = "checks failed";

/// What a run of tests showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tests {
    Passed,
    Failed,
    Unclear,
}

fn tests_said(output: &str) -> Tests {
    if output.contains(FAILED) {
        Tests::Failed
    } else if output.contains(PASSED) {
        Tests::Passed
    } else {
        Tests::Unclear
    }
}

fn call(tool: &str, arguments: Value) -> Said {
    Said::calls(vec![(tool.to_owned(), arguments.to_string())])
}

fn read(path: &str) -> Said {
    call("read_file", json!({"path": path}))
}

fn run(command: &str) -> Said {
    call("run_command", json!({"command": command}))
}

fn edit(path: &str, old: &str, new: &str) -> Said {
    call("edit_file", json!({"path": path, "old_string": old, "new_string": new}))
}

fn finish(summary: impl Into<String>) -> Said {
    Said { finish: Some(summary.into()), ..Said::default() }
}

/// The model's next turn on an issue of the fixture.
pub(crate) fn next(seen: &Conversation, habits: Habits, issue: &Issue) -> Said {
    if let Some(opening) = opening(seen, habits, issue) {
        return opening;
    }
    match issue.work {
        Work::Bug(bug) => fix(seen, habits, &bug),
        Work::NothingWrong { function } => look_only(seen, function),
        Work::Document { after, add } => document(seen, after, add),
        Work::AddTests { function, name, content } => add_tests(seen, function, name, content),
    }
}

/// What comes before the work, by habit: each step at most once.
fn opening(seen: &Conversation, habits: Habits, issue: &Issue) -> Option<Said> {
    let function = match issue.work {
        Work::Bug(Bug { function, .. })
        | Work::NothingWrong { function }
        | Work::AddTests { function, .. } => function,
        Work::Document { .. } => "README",
    };
    let path = main_file(issue);
    if habits.prose && seen.turns == 0 {
        return Some(Said::prose(format!("I will look at {path} first, then at its tests.")));
    }
    if habits.list && !seen.called("list_directory") && seen.offers("list_directory") {
        let mut said = call("list_directory", json!({"path": "."}));
        if habits.together && seen.offers("read_file") {
            said.calls.push(("read_file".to_owned(), json!({"path": "AGENTS.md"}).to_string()));
        }
        return Some(said);
    }
    // A call cut short by a limit of tokens looks like this.
    if habits.malformed && seen.native && !seen.had_malformed() {
        return Some(Said::calls(vec![("read_file".to_owned(), format!("{{\"path\": \"{path}"))]));
    }
    if habits.unknown_tool && !seen.called("open_file") {
        return Some(call("open_file", json!({"path": path})));
    }
    if habits.search && !seen.called("search_code") && seen.offers("search_code") {
        return Some(call("search_code", json!({"pattern": function})));
    }
    if habits.comment && !seen.called("comment_on_issue") && seen.offers("comment_on_issue") {
        let message = format!("I am looking into this; `{path}` seems to be the place.");
        return Some(call("comment_on_issue", json!({"message": message})));
    }
    None
}

fn main_file(issue: &Issue) -> String {
    match issue.work {
        Work::Bug(Bug { function, .. })
        | Work::NothingWrong { function }
        | Work::AddTests { function, .. } => format!("lib/{function}.sh"),
        Work::Document { .. } => "README.md".to_owned(),
    }
}

/// Repairs one line: read, perhaps test, change, test, until the tests pass.
fn fix(seen: &Conversation, habits: Habits, bug: &Bug) -> Said {
    let path = format!("lib/{}.sh", bug.function);
    let test = format!("sh test.sh {}", bug.function);
    let shows = |output: &str| [bug.line, bug.wrong, bug.fixed].iter().any(|line| has_line(output, line));
    let mut reads = seen.on_file(&["read_file"], &path);
    let last_read = reads.rfind(|(_, call)| shows(&call.result));
    let edits = seen.on_file(&["edit_file", "write_file"], &path).count();
    let last_edit = seen.on_file(&["edit_file", "write_file"], &path).next_back().map(|(place, _)| place);

    let Some((read_at, source)) = last_read else {
        return read_again(seen, &path, habits, bug.function);
    };
    if let Some(said) = read_tests(seen, habits, bug.function) {
        return said;
    }
    if habits.test_before && last_edit.is_none() && seen.runs(&test).next().is_none() {
        return run(&test);
    }
    let Some(edited_at) = last_edit else {
        let new = if habits.wrong_first { bug.wrong } else { bug.fixed };
        return change(&path, &source.result, bug, new);
    };
    let since_edit: Vec<Tests> = seen
        .runs(&test)
        .filter(|(place, _)| *place > edited_at)
        .map(|(_, call)| tests_said(&call.result))
        .collect();
    let summary = format!(
        "`{}` was wrong in one line of `{path}`; that line is repaired. `{test}` passes now.",
        bug.function
    );
    match since_edit.last() {
        None => run(&test),
        Some(Tests::Passed) => finish(summary),
        Some(Tests::Unclear) if since_edit.len() < 3 => run(&test),
        Some(Tests::Unclear) => {
            finish(format!("`{path}` is repaired, but its tests could not be run to the end here."))
        }
        Some(Tests::Failed) if edits >= 4 => {
            finish(format!("I changed `{path}`, but its tests still fail; a person should look at it."))
        }
        Some(Tests::Failed) if read_at < edited_at => read(&path),
        Some(Tests::Failed) => change(&path, &source.result, bug, bug.fixed),
    }
}

/// Changes the line as it stands in what was read.
fn change(path: &str, source: &str, bug: &Bug, new: &str) -> Said {
    let standing = [bug.line, bug.wrong, bug.fixed].into_iter().find(|line| has_line(source, line));
    match standing {
        Some(old) if old != new => edit(path, old, new),
        // It is as it should be; only the tests know better.
        _ => finish(format!("`{path}` already holds the right line; nothing was left to change.")),
    }
}

/// Reads a file whose content is not in sight: not read yet, dropped, or refused.
fn read_again(seen: &Conversation, path: &str, habits: Habits, function: &str) -> Said {
    let tries = seen.on_file(&["read_file"], path).count();
    match tries {
        0 if habits.together && seen.native => Said::calls(vec![
            ("read_file".to_owned(), json!({"path": path}).to_string()),
            ("read_file".to_owned(), json!({"path": format!("tests/{function}.sh")}).to_string()),
        ]),
        0 => read(path),
        // The same call with the same result again and again would look stuck.
        1..=5 => call("read_file", json!({"path": path, "start_line": 1, "end_line": 20 + tries * 20})),
        _ => finish(format!("I could not read `{path}` and changed nothing.")),
    }
}

fn read_tests(seen: &Conversation, habits: Habits, function: &str) -> Option<Said> {
    let path = format!("tests/{function}.sh");
    let wanted = habits.read_tests && seen.on_file(&["read_file"], &path).next().is_none();
    wanted.then(|| read(&path))
}

/// Looks, tests, says what was found, and changes nothing.
fn look_only(seen: &Conversation, function: &str) -> Said {
    let path = format!("lib/{function}.sh");
    let test = format!("sh test.sh {function}");
    if seen.on_file(&["read_file"], &path).next().is_none() {
        return read(&path);
    }
    let runs: Vec<(usize, Tests)> =
        seen.runs(&test).map(|(place, call)| (place, tests_said(&call.result))).collect();
    let (ran_at, result) = match runs.last() {
        Some((place, result)) => (*place, *result),
        None => return run(&test),
    };
    if result == Tests::Unclear && runs.len() < 3 {
        return run(&test);
    }
    let finding =
        format!("`{function}` does what the issue asks for, and its tests say so; nothing to change.");
    // A comment from before the tests only said that the work had begun.
    let commented = seen.exchanges.iter().skip(ran_at).any(|call| call.name == "comment_on_issue");
    if !commented && seen.offers("comment_on_issue") {
        return call("comment_on_issue", json!({"message": finding}));
    }
    finish(finding)
}

/// Adds a line to the README.
fn document(seen: &Conversation, after: &str, add: &str) -> Said {
    let path = "README.md";
    let last_read = seen.on_file(&["read_file"], path).rfind(|(_, call)| has_line(&call.result, after));
    let edits = seen.on_file(&["edit_file"], path).count();
    let last_edit = seen.on_file(&["edit_file"], path).next_back().map(|(place, _)| place);
    let Some((read_at, source)) = last_read else {
        return read_again(seen, path, Habits::default(), "");
    };
    if has_line(&source.result, add) {
        return finish("The README now says how to run the tests of one function.");
    }
    match last_edit {
        Some(edited_at) if read_at < edited_at => {
            call("read_file", json!({"path": path, "start_line": 1, "end_line": 60 + edits}))
        }
        _ if edits >= 3 => finish("I could not change the README; a person should look at it."),
        _ => edit(path, after, &format!("{after}\n{add}")),
    }
}

/// Writes a further test file and runs it.
fn add_tests(seen: &Conversation, function: &str, name: &str, content: &str) -> Said {
    let path = format!("lib/{function}.sh");
    let new_path = format!("tests/{name}.sh");
    let test = format!("sh test.sh {name}");
    if seen.on_file(&["read_file"], &path).next().is_none() {
        return read(&path);
    }
    let writes = seen.on_file(&["write_file"], &new_path).count();
    let Some((written_at, _)) = seen.on_file(&["write_file"], &new_path).next_back() else {
        return call("write_file", json!({"path": new_path, "content": content}));
    };
    let runs: Vec<Tests> = seen
        .runs(&test)
        .filter(|(place, _)| *place > written_at)
        .map(|(_, call)| tests_said(&call.result))
        .collect();
    match runs.last() {
        None => run(&test),
        Some(Tests::Passed) => {
            finish(format!("`{new_path}` holds the tests that were asked for; they pass."))
        }
        Some(Tests::Unclear | Tests::Failed) if runs.len() < 2 => run(&test),
        Some(Tests::Unclear | Tests::Failed) if writes < 2 => {
            call("write_file", json!({"path": new_path, "content": content}))
        }
        Some(Tests::Unclear | Tests::Failed) => {
            finish(format!("`{new_path}` is written, but I could not see its tests pass."))
        }
    }
}

/// A task that is not of the fixture: have a look, and say what is there.
pub(crate) fn look_around(seen: &Conversation) -> Said {
    if !seen.called("list_directory") && seen.offers("list_directory") {
        return call("list_directory", json!({"path": "."}));
    }
    let listing = seen.exchanges.iter().find(|call| call.name == "list_directory");
    let listing: String = listing.map(|call| call.result.chars().take(500).collect()).unwrap_or_default();
    finish(format!("I looked around and changed nothing. What is there:\n\n{listing}"))
}
