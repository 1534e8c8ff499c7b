//! The tools over a real folder, and the checks of their calls.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: "c".into(), name: name.into(), arguments: arguments.into() }
}

fn check(name: &str, arguments: &str) -> Result<Checked, String> {
    check_call(&call(name, arguments))
}

#[test]
fn every_tool_is_told_of_with_a_schema() {
    let specs = specs();
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "list_directory",
            "read_file",
            "search_code",
            "edit_file",
            "write_file",
            "move_file",
            "delete_file",
            "run_command",
            "comment_on_issue",
            "finish"
        ]
    );
    for spec in &specs {
        assert_eq!(spec.parameters["type"], "object", "{}", spec.name);
        assert_eq!(spec.parameters["additionalProperties"], false);
        for required in spec.parameters["required"].as_array().unwrap() {
            assert!(spec.parameters["properties"].get(required.as_str().unwrap()).is_some(), "{}", spec.name);
        }
    }
}

#[test]
fn good_calls_are_understood_under_both_names() {
    let read = check("read_file", r#"{"path":"a","start_line":2.0,"end_line":null}"#).unwrap();
    assert_eq!(read, Checked::ReadFile { path: "a".into(), start_line: Some(2), end_line: None });
    assert!(read.read_only());
    let run =
        |timeout| Checked::RunCommand { command: "ls".into(), timeout: Some(Duration::from_secs(timeout)) };
    assert_eq!(check("run_command", r#"{"command":"ls","timeout_s":5}"#), Ok(run(5)));
    assert_eq!(check("run_command", r#"{"command":"ls","timeout":1500}"#), Ok(run(2)));
    let Ok(Checked::SearchCode { glob, context, .. }) =
        check("search_code", r#"{"pattern":"x","filePattern":"*.rs","context":99}"#)
    else {
        panic!("not a search")
    };
    assert_eq!((glob.as_deref(), context), (Some("*.rs"), 20));
    assert!(!check("write_file", r#"{"path":"a","content":""}"#).unwrap().read_only());
}

#[test]
fn bad_calls_are_answered_with_what_was_expected() {
    for (name, arguments, parts) in [
        ("read_fil", "{}", &["no tool \"read_fil\"", "Did you mean read_file?"][..]),
        ("quux", "{}", &["no tool \"quux\"", "The tools are: list_directory"]),
        ("write_file", r#"{"path":"a","content":"un"#, &["end too early", "Nothing was done", "path"]),
        ("read_file", "{path: a}", &["not valid JSON"]),
        ("read_file", "[1]", &["must be a JSON object, not an array"]),
        ("read_file", "", &["path is missing", "optionally start_line"]),
        ("read_file", r#"{"path":""}"#, &["path must be a string that is not empty"]),
        ("read_file", r#"{"path":"a","start":1}"#, &["no parameter \"start\"", "Did you mean start_line?"]),
        ("read_file", r#"{"path":"a","start_line":0}"#, &["start_line must be an integer of at least 1"]),
        ("read_file", r#"{"path":"a","start_line":"3"}"#, &["not a string (\"3\")"]),
        (
            "read_file",
            r#"{"path":"a","start_line":5,"end_line":2}"#,
            &["start_line (5) is after end_line (2)"],
        ),
        ("run_command", r#"{"command":"x","timeout":1,"timeout_s":1}"#, &["timeout_s was given twice"]),
        ("edit_file", r#"{"path":"a","old_string":"x","new_string":"x"}"#, &["are the same"]),
        ("finish", r#"{"summary":7}"#, &["summary must be a string"]),
    ] {
        let why = check(name, arguments).unwrap_err();
        for part in parts {
            assert!(why.contains(part), "{name} {arguments}: {why}");
        }
    }
    let long = check("read_file", &format!(r#"{{"{}":1}}"#, "x".repeat(10_000))).unwrap_err();
    assert!(long.len() < 600, "{long}");
}

proptest::proptest! {
    #[test]
    fn no_arguments_whatsoever_panic(text in ".{0,80}", tool in 0usize..10) {
        let _ = check(&specs()[tool].name, &text);
        let _ = check(&text, "{}");
    }
}

struct Folder {
    files: Files,
    dir: tempfile::TempDir,
}

impl Folder {
    fn new(content: &[(&str, &str)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("work");
        std::fs::create_dir(&root).unwrap();
        for (path, text) in content {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Folder { files: Files::open(&root, 4000).unwrap(), dir }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("work").join(path)
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap()
    }

    fn list(&self, path: &str, depth: Option<u32>) -> String {
        self.files.list_directory(path, depth.is_some(), depth, &Stop::default()).unwrap()
    }

    fn search(&self, pattern: &str, path: Option<&str>, glob: Option<&str>, context: u32) -> String {
        self.files.search_code(pattern, path, glob, context, &Stop::default()).unwrap()
    }
}

#[test]
fn a_file_is_read_with_numbers_and_capped() {
    let long: String = (1..=2000).map(|line| format!("line {line}\n")).collect();
    let folder = Folder::new(&[("a.txt", "one\r\ntwo\n"), ("long", &long), ("none", ""), ("bin", "a\0b")]);
    assert_eq!(folder.files.read_file("a.txt", None, None).unwrap(), "     1\tone\n     2\ttwo\n");
    assert_eq!(folder.files.read_file("./none", None, None).unwrap(), "none is empty.");
    let read = folder.files.read_file("long", None, None).unwrap();
    let shown = read.lines().count() - 1;
    let note = format!("[lines 1 to {shown} of 2000: go on with start_line {}]", shown + 1);
    assert!(read.len() <= 4000 && shown > 100 && read.ends_with(&note), "{read}");
    let read = folder.files.read_file("long", Some(1999), Some(5000)).unwrap();
    assert_eq!(read, "  1999\tline 1999\n  2000\tline 2000\n[lines 1999 to 2000 of 2000]");
    for (path, part) in [
        ("bin", "binary file of 3 bytes"),
        ("a.tx", "Did you mean a.txt?"),
        ("no/file", "does not exist"),
        ("..", "leads out"),
        (".", "is a folder"),
        ("/workspace/a.txt", "such as a.txt"),
        ("/etc/passwd", "is absolute"),
        ("a.txt/b", "is a file and not a folder"),
    ] {
        let why = folder.files.read_file(path, None, None).unwrap_err();
        assert!(why.contains(part), "{path}: {why}");
    }
    assert!(folder.files.read_file("long", Some(2001), None).unwrap_err().contains("has 2000 lines"));
}

#[test]
fn nothing_leads_out_of_the_workspace() {
    let folder = Folder::new(&[("dir/in", "x")]);
    let secret = folder.dir.path().join("secret");
    std::fs::write(&secret, "hidden").unwrap();
    symlink(&secret, folder.at("out")).unwrap();
    symlink("../../secret", folder.at("dir/up")).unwrap();
    symlink(folder.dir.path(), folder.at("outdir")).unwrap();
    symlink("/proc/self/environ", folder.at("environ")).unwrap();
    for path in ["out", "dir/up", "outdir/secret", "../secret", "dir/../../secret", "environ"] {
        let files = &folder.files;
        for said in [
            files.read_file(path, None, None),
            files.edit_file(path, "hidden", "x", false),
            files.write_file(path, "x"),
        ] {
            let why = said.unwrap_err();
            assert!(why.contains("leads out"), "{path}: {why}");
        }
    }
    for path in ["outdir/secret", "../secret"] {
        assert!(folder.files.move_file("dir/in", &format!("{path}2")).is_err());
        assert!(folder.files.move_file(path, "here").is_err());
        assert!(folder.files.delete_file(path).is_err());
    }
    assert!(folder.files.list_directory("outdir", false, None, &Stop::default()).is_err());
    let found = folder.search("hidden", None, None, 0);
    assert!(found.starts_with("No line matches"), "{found}");
    assert!(folder.list(".", Some(9)).contains(" -> "));
    assert_eq!((folder.files.text("out", 99), folder.files.text("dir/in", 99)), (None, Some("x".into())));
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "hidden");
    // A link itself may be deleted.
    folder.files.delete_file("out").unwrap();
    assert!(secret.exists());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]
    #[test]
    fn no_path_whatsoever_changes_anything_outside(
        parts in proptest::collection::vec(
            proptest::sample::select(vec!["..", ".", "", "a", "dir", "outdir", "out", "up", ".git", "link", "new"]),
            1..7,
        ),
        other in proptest::sample::select(vec!["in", "../in", "outdir/in", "a/../../in", ".git/in", "link/in"]),
    ) {
        let folder = Folder::new(&[("a", "x"), ("dir/b", "x"), (".git/HEAD", "x")]);
        let outside = folder.dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("a"), "x").unwrap();
        symlink(&outside, folder.at("outdir")).unwrap();
        symlink(outside.join("a"), folder.at("out")).unwrap();
        symlink("../../outside", folder.at("dir/up")).unwrap();
        symlink(".git", folder.at("link")).unwrap();
        let path = parts.join("/");
        let _ = folder.files.read_file(&path, None, None);
        let _ = folder.files.edit_file(&path, "x", "changed", false);
        let _ = folder.files.write_file(&path, "changed");
        let _ = folder.files.move_file(&path, other);
        let _ = folder.files.move_file(other, &path);
        let _ = folder.files.delete_file(&path);
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        proptest::prop_assert_eq!(read(&outside.join("a")), "x");
        proptest::prop_assert_eq!(read(&folder.at(".git/HEAD")), "x");
        for (at, entries) in [(folder.dir.path().to_owned(), 2), (outside, 1), (folder.at(".git"), 1)] {
            proptest::prop_assert_eq!(std::fs::read_dir(&at).unwrap().count(), entries, "{}", at.display());
        }
    }
}

#[test]
fn git_is_readable_and_not_writable() {
    let folder = Folder::new(&[(".git/HEAD", "ref\n"), ("a", "x")]);
    symlink(".git", folder.at("link")).unwrap();
    folder.files.read_file(".git/HEAD", None, None).unwrap();
    let files = &folder.files;
    for said in [
        files.write_file(".git/hooks/pre-push", "x"),
        files.write_file("link/config", "x"),
        files.write_file("sub/.GIT/config", "x"),
        files.edit_file(".git/HEAD", "ref", "x", false),
        files.edit_file("link/HEAD", "ref", "x", false),
        files.move_file("a", ".git/a"),
        files.move_file(".git", "b"),
        files.delete_file(".git/HEAD"),
        files.delete_file("link/HEAD"),
    ] {
        let why = said.unwrap_err();
        assert!(why.contains("lies in .git"), "{why}");
    }
}

#[test]
fn a_pipe_does_not_hang_a_tool() {
    let folder = Folder::new(&[("a", "x")]);
    let made = std::process::Command::new("mkfifo").arg(folder.at("pipe")).status().unwrap();
    assert!(made.success());
    assert!(folder.files.read_file("pipe", None, None).unwrap_err().contains("not a regular file"));
    assert!(folder.files.write_file("pipe", "x").is_err());
    assert!(folder.search("x", None, None, 0).starts_with("1 matching"));
}

#[test]
fn a_file_is_edited_only_as_it_was_read() {
    let folder = Folder::new(&[("a", "one\ntwo\n")]);
    let edit = |old: &str, new: &str| folder.files.edit_file("a", old, new, false);
    assert!(edit("one", "1").unwrap_err().contains("has not been read yet"));
    assert!(folder.files.write_file("a", "x").unwrap_err().contains("has not been read yet"));
    folder.files.read_file("a", None, None).unwrap();
    let said = edit("one", "1").unwrap();
    assert!(said.contains("     1\t1\n     2\ttwo\n"), "{said}");
    edit("two", "2").unwrap();
    std::fs::write(folder.at("a"), "other 2\n").unwrap();
    assert!(edit("2", "3").unwrap_err().contains("has changed since"));
    assert!(folder.files.write_file("a", "x").unwrap_err().contains("has changed since"));
    folder.files.read_file("a", None, None).unwrap();
    edit("2", "3").unwrap();
    assert_eq!(folder.text("a"), "other 3\n");
    // What was read moves along.
    folder.files.move_file("a", "b/c").unwrap();
    folder.files.edit_file("b/c", "3", "4", false).unwrap();
    folder.files.move_file("b", "d").unwrap();
    folder.files.edit_file("d/c", "4", "5", false).unwrap();
    assert_eq!(folder.text("d/c"), "other 5\n");
}

#[test]
fn an_edit_is_exact_and_unique_or_shows_what_is_near() {
    let folder =
        Folder::new(&[("a", "fn main() {\n    let x = 1;\n    let y = 1;\n}\n"), ("w", "a\r\nb\r\nc\r\n")]);
    folder.files.read_file("a", None, None).unwrap();
    let why = |old: &str| folder.files.edit_file("a", old, "new", false).unwrap_err();
    let twice = why("= 1;");
    assert!(
        twice.contains("2 times") && twice.contains("lines 2, 3") && twice.contains("replace_all"),
        "{twice}"
    );
    let spaces = why("\tlet x = 1;\n\tlet y = 1;");
    assert!(spaces.contains("white space") && spaces.contains("     2\t    let x = 1;"), "{spaces}");
    let near = why("let xx = 11;");
    assert!(near.contains("nearest lines") && near.contains("let x = 1;"), "{near}");
    let far = why("complete nonsense with no likeness 77777");
    assert!(far.contains("Nothing in the file"), "{far}");
    let said = folder.files.edit_file("a", "= 1", "= 2", true).unwrap();
    assert!(said.contains("2 times"), "{said}");
    // Windows line ends are kept.
    folder.files.read_file("w", None, None).unwrap();
    folder.files.edit_file("w", "a\nb", "a\nx\nb", false).unwrap();
    assert_eq!(folder.text("w"), "a\r\nx\r\nb\r\nc\r\n");
    // Removing everything.
    folder.files.write_file("all", "all").unwrap();
    folder.files.edit_file("all", "all", "", false).unwrap();
    assert_eq!(folder.text("all"), "");
}

#[test]
fn files_are_made_with_folders_and_keep_their_mode() {
    let folder = Folder::new(&[("run.sh", "#!/bin/sh\n")]);
    folder.files.write_file("x/y/z", "1\n2\n").unwrap();
    assert_eq!(folder.text("x/y/z"), "1\n2\n");
    std::fs::set_permissions(folder.at("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder.files.read_file("run.sh", None, None).unwrap();
    folder.files.write_file("run.sh", "#!/bin/bash\n").unwrap();
    let mode = std::fs::metadata(folder.at("run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let files = &folder.files;
    assert!(files.move_file("run.sh", "x/y/z").unwrap_err().contains("exists already"));
    assert!(files.move_file("x", "x/inside").unwrap_err().contains("into itself"));
    assert!(files.move_file("none", "n").unwrap_err().contains("does not exist"));
    assert!(files.delete_file("x").unwrap_err().contains("is a folder"));
    assert!(files.write_file(".", "x").is_err() && files.write_file("x/..", "x").is_err());
    files.delete_file("x/y/z").unwrap();
    assert!(!folder.at("x/y/z").exists());
}

#[test]
fn lists_honour_gitignore_and_are_capped() {
    let folder = Folder::new(&[
        (".gitignore", "target\n*.log\n"),
        ("target/big", ""),
        ("src/a.rs", ""),
        ("src/deep/b.rs", ""),
        ("src/x.log", ""),
        (".git/HEAD", ""),
        (".github/w.yml", ""),
    ]);
    assert_eq!(folder.list(".", None), ".:\n.github/\n.gitignore\nsrc/\n");
    assert_eq!(folder.list("src", Some(9)), "src:\na.rs\ndeep/\ndeep/b.rs\n");
    assert_eq!(folder.list("src", Some(1)), "src:\na.rs\ndeep/\n");
    assert_eq!(folder.list("target", None), "target:\nbig\n[git ignores all of these]");
    let many: Vec<(String, &str)> = (0..700).map(|n| (format!("f{n:04}"), "")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let list = Folder::new(&many).list(".", None);
    assert!(list.ends_with("[200 more: list a folder within]"), "{list}");
    let why = folder.files.list_directory("src/a.rs", false, None, &Stop::default()).unwrap_err();
    assert!(why.contains("use read_file"), "{why}");
}

#[test]
fn search_finds_by_path_glob_and_context() {
    let folder = Folder::new(&[
        (".gitignore", "out\n"),
        ("out/a.rs", "needle\n"),
        ("src/a.rs", "one\nneedle here\nthree\n"),
        ("src/b.txt", "Needle\n"),
        ("bin", "needle\n\0"),
    ]);
    assert_eq!(
        folder.search("needle", None, None, 1),
        "1 matching lines in 1 files\nsrc/a.rs: 1\n     1- one\n     2: needle here\n     3- three\n"
    );
    assert!(folder.search("(?i)needle", None, None, 0).starts_with("2 matching lines in 2 files"));
    assert!(folder.search("(?i)needle", Some("src"), Some("*.txt"), 0).contains("src/b.txt: 1"));
    assert!(folder.search("needle", None, Some("src/**"), 0).contains("src/a.rs"));
    assert!(folder.search("needle", None, Some("lib/**"), 0).starts_with("No line"));
    assert!(folder.search("needle", Some("out/a.rs"), None, 0).contains("out/a.rs: 1"));
    let bad = folder.files.search_code("(", None, None, 0, &Stop::default()).unwrap_err();
    assert!(bad.contains("regular expression"), "{bad}");
    let stopped = Stop::default();
    stopped.set();
    assert!(folder.files.search_code("needle", None, None, 0, &stopped).unwrap().starts_with("No line"));
}

#[test]
fn search_is_capped_with_files_first() {
    let line = "needle ".repeat(20);
    let files: Vec<(String, String)> = (0..40).map(|n| (format!("f{n:02}"), line.clone() + "\n")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let found = Folder::new(&files).search("needle", None, None, 0);
    assert!(found.starts_with("40 matching lines in 40 files\nf00: 1\n") && found.len() < 4100, "{found}");
    assert!(found.contains("left out: narrow") && found.contains("f39: 1"), "{found}");
}

#[test]
fn ignore_files_above_the_workspace_do_not_count() {
    let folder = Folder::new(&[("src/a", "needle\n")]);
    std::fs::write(folder.dir.path().join(".gitignore"), "*\n").unwrap();
    assert!(folder.search("needle", None, None, 0).starts_with("1 matching"));
    assert_eq!(folder.list(".", None), ".:\nsrc/\n");
}
