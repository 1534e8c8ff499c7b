//! The deliberate faults of `tests/mutants/` can still be made: each patch applies to the code as it
//! is, says what is wrong with it and what must notice it, and is told of in their README.

use std::path::Path;
use std::process::Command;

/// Fewest faults.
const FEWEST: usize = 25;

#[test]
fn each_patch_applies_and_says_who_must_notice_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/mutants");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut patches = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "patch") {
            continue;
        }
        patches += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for header in ["# fault: ", "# catch: "] {
            let said = text.lines().find_map(|line| line.strip_prefix(header));
            assert!(said.is_some_and(|said| !said.trim().is_empty()), "{name} has no line {header:?}");
        }
        assert!(text.contains("# catch: cargo test -q ") || text.contains(" cargo test -q "), "{name}");
        assert!(readme.contains(&format!("`{name}`")), "tests/mutants/README.md does not tell of {name}");
        let applied = Command::new("git").args(["apply", "--check"]).arg(&path).current_dir(root).output();
        let applied = applied.unwrap();
        let why = String::from_utf8_lossy(&applied.stderr);
        assert!(applied.status.success(), "{name} no longer applies, make it anew: {why}");
    }
    assert!(patches >= FEWEST, "{patches} faults are too few");
}
