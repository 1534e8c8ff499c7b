//! What a person sees of a configuration that is right, wrong in one place, or wrong in many.

use std::path::Path;

use super::*;

fn load_text(text: &str) -> Result<Loaded, Problems> {
    load_from(Some((Path::new("c.toml"), text)), [])
}

fn load_env(variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_from(None, owned.collect::<Vec<_>>())
}

fn problems(text: &str) -> String {
    load_text(text).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_a_configuration() {
    let loaded = load_from(None, []).unwrap();
    assert_eq!(loaded.config.log.format, LogFormat::Auto);
    assert!(loaded.is_default("log.level"));
}

#[test]
fn the_whole_compiled_in_file_can_be_the_users_file() {
    let loaded = load_text(defaults::TEXT).unwrap();
    assert!(!loaded.is_default("log.level"));
}

#[test]
fn everything_wrong_is_told_at_once_with_its_line() {
    let text = "\
[log]
format = \"yaml\"
levle = \"debug\"
level = 5

[logs]
level = \"debug\"
";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn syntax_errors_and_duplicates_have_their_lines() {
    let text = "[log]\nlevel = \"a\"\nlevel = \"b\"\nformat = \n[log]\nx = 1\n";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn the_environment_is_over_the_file_and_is_checked_like_it() {
    let text = "[log]\nlevel = \"warn\"\n";
    let variables = [("STEADFAST_LOG__LEVEL".to_owned(), "debug".to_owned())];
    let loaded = load_from(Some((Path::new("c.toml"), text)), variables).unwrap();
    assert_eq!(loaded.config.log.level, "debug");
    let quoted = load_env(&[("STEADFAST_LOG", "\"trace\"")]).unwrap();
    assert_eq!(quoted.config.log.level, "trace");
    let error = load_env(&[
        ("STEADFAST_LOG__FORMAT", "xml"),
        ("STEADFAST_LOG__LEVEL", ""),
        ("STEADFAST_LOG__LEVL", "info"),
        ("STEADFAST_CONFIG", "elsewhere.toml"),
        ("OTHER", "x"),
    ]);
    insta::assert_snapshot!(error.unwrap_err().to_string());
}
