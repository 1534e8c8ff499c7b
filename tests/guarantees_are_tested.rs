//! docs/guarantees.md names tests: each is there.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') && name != "node_modules" {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_promise_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for part in ["src", "actors", "crates", "tests"] {
        sources(&root.join(part), &mut files);
    }
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).expect("a source")).collect();
    let page = std::fs::read_to_string(root.join("docs/guarantees.md")).expect("docs/guarantees.md");
    let promises: Vec<_> =
        page.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 2).collect();
    assert!(promises.len() > 10, "{promises:?}");
    for promise in &promises[1..] {
        let tests: Vec<&str> =
            promise.rsplit(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test says so: {promise}");
        for test in tests {
            let is_there =
                [format!("fn {test}("), format!("mod {test};")].iter().any(|words| code.contains(words));
            assert!(is_there, "there is no test {test}, named for: {promise}");
        }
    }
}
