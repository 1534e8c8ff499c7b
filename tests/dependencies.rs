//! Every dependency has its line in docs/dependencies.md, and every line its dependency.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_dependency_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = toml::from_str(&manifest).expect("TOML");
    let declared = manifest["workspace"]["dependencies"].as_table().expect("[workspace.dependencies]");
    let declared: BTreeSet<&str> =
        declared.keys().map(String::as_str).filter(|name| !name.starts_with("steadfast-")).collect();

    let page = std::fs::read_to_string(root.join("docs/dependencies.md")).expect("docs/dependencies.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    let explained: BTreeSet<&str> = rows
        .filter_map(|row| row.split_once(" | "))
        .inspect(|(name, why)| assert!(why.len() > 10, "{name}: why this one?"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(declared, explained, "docs/dependencies.md and Cargo.toml differ");
}
