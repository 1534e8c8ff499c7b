//! What the user set, by file and by environment, checked against the keys that there are.

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::defaults::{Defaults, join};
use super::problem::{Problem, Source};

/// Variables that begin with this belong to us; `__` parts tables.
const PREFIX: &str = "STEADFAST_";
/// Variables that are ours and no keys of the configuration.
const OTHERS: &[&str] = &["STEADFAST_CONFIG"];
/// Short names of variables for keys, and other programs' names that are honoured where nothing
/// else sets the key.
const SHORT: &[(&str, &str)] = &[("STEADFAST_LOG", "log.level")];
const FALLBACKS: &[(&str, &str)] = &[("OPENAI_API_KEY", "llm.api_key"), ("GITHUB_TOKEN", "github.token")];

/// One key that the user set.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Dotted.
    pub path: String,
    /// To what.
    pub value: toml::Value,
    /// What else it can mean: a variable's text that looks like a number.
    pub otherwise: Option<toml::Value>,
    /// Where.
    pub source: Source,
}

/// Reads a file of the user's. Returns what can be understood of it, and adds the rest to `problems`.
pub fn from_file(defaults: &Defaults, name: &str, text: &str, problems: &mut Vec<Problem>) -> Vec<Setting> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let source = Source::File { path: name.to_owned(), line: line_of(text, error.span()) };
        let mut message = error.message().trim().replace('\n', ", ");
        // The parser says `duplicate key` and where, not which.
        let at = error.span().and_then(|span| text.get(span)).unwrap_or("");
        if message == "duplicate key" && !at.contains('\n') {
            message = format!("{message} {at}");
        }
        problems.push(Problem { source, key: String::new(), message });
    }
    let mut reader = FileReader { defaults, name, text, settings: Vec::new(), problems };
    reader.table("", document.get_ref());
    // A key under a broken header lands in the wrong table: such a file is told of its syntax only.
    if errors.is_empty() {
        reader.settings
    } else {
        problems.retain(|problem| problem.key.is_empty() || !is_of_file(&problem.source, name));
        Vec::new()
    }
}

fn is_of_file(source: &Source, name: &str) -> bool {
    match source {
        Source::File { path, .. } => path == name,
        Source::Default | Source::Environment(_) => false,
    }
}

struct FileReader<'a> {
    defaults: &'a Defaults,
    name: &'a str,
    text: &'a str,
    settings: Vec<Setting>,
    problems: &'a mut Vec<Problem>,
}

impl FileReader<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let below = join(path, name.get_ref());
            let source =
                Source::File { path: self.name.to_owned(), line: line_of(self.text, Some(name.span())) };
            let message = match value.get_ref() {
                DeValue::Table(table) if self.defaults.is_table(&below) => {
                    self.table(&below, table);
                    continue;
                }
                _ if self.defaults.is_table(&below) => "is a table of keys, not a value".to_owned(),
                _ if self.defaults.leaf(&below).is_some() => {
                    match toml::Value::deserialize(ValueDeserializer::from(value.clone())) {
                        Ok(value) => {
                            self.settings.push(Setting { path: below, value, otherwise: None, source });
                            continue;
                        }
                        Err(error) => error.message().to_owned(),
                    }
                }
                _ => unknown(self.defaults, &below),
            };
            self.problems.push(Problem { source, key: below, message });
        }
    }
}

/// Reads the environment. Returns what can be understood of it, and adds the rest to `problems`.
pub fn from_environment(
    defaults: &Defaults,
    variables: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> (Vec<Setting>, Vec<Setting>) {
    let (mut settings, mut fallbacks) = (Vec::new(), Vec::new());
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort();
    for (name, text) in variables {
        let source = Source::Environment(name.clone());
        let fallback = FALLBACKS.iter().find(|(variable, _)| *variable == name);
        if let Some((_, path)) = fallback.filter(|_| !text.is_empty()) {
            let value = toml::Value::String(text);
            fallbacks.push(Setting { path: (*path).to_owned(), value, otherwise: None, source });
            continue;
        }
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !OTHERS.contains(&name.as_str())) else {
            continue;
        };
        let short = SHORT.iter().find(|(variable, _)| *variable == name).map(|(_, path)| (*path).to_owned());
        let path = short.unwrap_or_else(|| rest.to_ascii_lowercase().replace("__", "."));
        let message = match defaults.leaf(&path) {
            Some(_) if text.trim().is_empty() => {
                "is set and empty: unset it, or write \"\" if the value is to be empty".to_owned()
            }
            Some(leaf) => {
                let (value, otherwise) = value_of(&text, &leaf.value);
                settings.push(Setting { path, value, otherwise, source });
                continue;
            }
            None if defaults.is_table(&path) => {
                format!("names a table, not a key: write {name}__KEY")
            }
            None => unknown(defaults, &path),
        };
        problems.push(Problem { source, key: path, message });
    }
    (settings, fallbacks)
}

/// A variable's text as TOML where it is TOML and no text is wanted; otherwise as text, and what else
/// it can mean.
fn value_of(text: &str, default: &toml::Value) -> (toml::Value, Option<toml::Value>) {
    let as_text = || toml::Value::String(text.to_owned());
    match (text.trim().parse::<toml::Value>(), default) {
        (Ok(toml::Value::String(inner)), _) => (toml::Value::String(inner), None),
        (Ok(value), toml::Value::String(_)) => (as_text(), Some(value)),
        (Ok(value), _) => (value, None),
        (Err(_), _) => (as_text(), None),
    }
}

/// What to say of a key that there is not: the closest that there is.
fn unknown(defaults: &Defaults, path: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let candidates = defaults.leaves().map(|leaf| leaf.path.as_str());
    let candidates = candidates.chain(defaults.sections.iter().map(|section| section.path.as_str()));
    // By the whole path or by the last name alone: a good name in a wrong table is a near miss too.
    let near = |candidate: &str| {
        let whole = strsim::jaro_winkler(candidate, path);
        let name = strsim::jaro_winkler(&last(candidate), &last(path));
        let joined = candidate.replace('.', "_") == path.replace('.', "_");
        if joined { 1.0 } else { (whole + name) / 2.0 }
    };
    let closest = candidates.map(|candidate| (near(candidate), candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((score, candidate)) if score > 0.75 => format!("no such key; did you mean {candidate}?"),
        Some(_) | None => "no such key; steadfast config docs lists all".to_owned(),
    }
}

/// The line of a span's beginning, from 1.
fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
}
