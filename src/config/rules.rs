//! Which values make sense: a range for every number, duration and size, and what must agree.

use std::time::Duration;

use bytesize::ByteSize;

use super::defaults::Defaults;

/// The range of a key; `*` in a pattern stands for any one or more tables.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// A whole number.
    Count(i64, i64),
    /// A number with a fraction.
    Number(f64, f64),
    /// A duration, bounds in milliseconds.
    Time(u64, u64),
    /// A size, bounds in bytes.
    Size(u64, u64),
    /// A text that must not be empty.
    Text,
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MB: u64 = 1_000_000;

/// The first pattern that matches a key is its range.
const RANGES: &[(&str, Range)] = &[
    ("job.concurrency", Range::Count(1, 10_000)),
    ("job.park_after", Range::Time(0, DAY)),
    ("job.deadline", Range::Time(MINUTE, 365 * DAY)),
    ("job.max_attempts", Range::Count(1, 1_000)),
    ("job.max_crashes", Range::Count(1, 1_000)),
    ("job.report_wait_over", Range::Time(0, 365 * DAY)),
    ("supervisor.max_restarts", Range::Count(0, 100_000)),
    ("supervisor.window", Range::Time(SECOND, DAY)),
    ("supervisor.drain_timeout", Range::Time(0, DAY)),
    ("actors.*", Range::Count(1, 1_000_000)),
    ("metrics.log_interval", Range::Time(SECOND, DAY)),
    ("breaker.window", Range::Time(SECOND, DAY)),
    ("breaker.min_calls", Range::Count(1, 1_000)),
    ("breaker.failure_rate", Range::Number(0.01, 1.0)),
    ("breaker.*", Range::Time(SECOND, DAY)),
    ("*.requests_per_minute", Range::Count(0, 100_000_000)),
    ("*.tokens_per_minute", Range::Count(0, 4_000_000_000)),
    ("*.limits.concurrency", Range::Count(0, 100_000)),
    ("*.max_attempts", Range::Count(1, 100)),
    ("*.initial", Range::Time(1, DAY)),
    ("*.max", Range::Time(1, DAY)),
    ("*.multiplier", Range::Number(1.0, 100.0)),
    ("*.jitter", Range::Number(0.0, 1.0)),
    ("log.level", Range::Text),
];

/// The range of a key.
pub fn range_of(path: &str) -> Option<Range> {
    RANGES.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, range)| *range)
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => {
            path.len() > before.len() + after.len() && path.starts_with(before) && path.ends_with(after)
        }
    }
}

impl Range {
    /// What is wrong with a value, if anything. Values of a wrong type are not this function's matter.
    pub fn problem(self, value: &toml::Value) -> Option<String> {
        let within = match (self, value) {
            (Range::Count(least, most), toml::Value::Integer(count)) => (least..=most).contains(count),
            (Range::Number(least, most), toml::Value::Float(number)) => (least..=most).contains(number),
            (Range::Number(least, most), toml::Value::Integer(number)) => {
                (least..=most).contains(&(*number as f64))
            }
            (Range::Time(least, most), toml::Value::String(text)) => {
                let Ok(time) = humantime::parse_duration(text) else { return None };
                (u128::from(least)..=u128::from(most)).contains(&time.as_millis())
            }
            (Range::Size(least, most), toml::Value::String(text)) => {
                let Ok(size) = text.parse::<ByteSize>() else { return None };
                (least..=most).contains(&size.as_u64())
            }
            (Range::Text, toml::Value::String(text)) => !text.trim().is_empty(),
            (Range::Count(..) | Range::Number(..) | Range::Time(..) | Range::Size(..) | Range::Text, _) => {
                return None;
            }
        };
        (!within).then(|| format!("{} is out of range: {}", show(value), self.words()))
    }

    /// The range for people: `1 to 1000`.
    pub fn words(self) -> String {
        let time = |millis| humantime::format_duration(Duration::from_millis(millis)).to_string();
        match self {
            Range::Count(least, most) => format!("{least} to {most}"),
            Range::Number(least, most) => format!("{least} to {most}"),
            Range::Time(least, most) => format!("{} to {}", time(least), time(most)),
            Range::Size(least, most) => {
                format!("{} to {}", ByteSize(least).display().si(), ByteSize(most).display().si())
            }
            Range::Text => "must not be empty".to_owned(),
        }
    }
}

/// A value as the user wrote it, cut to what fits a line.
pub fn show(value: &toml::Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { format!("{}...", text.chars().take(77).collect::<String>()) } else { text }
}

/// What must hold between two keys of the effective configuration: `(key, other, what)`, where it
/// does not. `get` reads a value.
pub fn contradictions(defaults: &Defaults, values: &toml::Table) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for leaf in defaults.leaves() {
        let Some(table) = leaf.path.strip_suffix(".initial") else { continue };
        at_most(values, &leaf.path, &format!("{table}.max"), &mut found);
    }
    at_most(values, "breaker.open", "breaker.open_max", &mut found);
    at_most(values, "job.park_after", "job.deadline", &mut found);
    for (key, file) in [
        ("llm.api_key", "llm.api_key_file"),
        ("github.private_key", "github.private_key_file"),
        ("github.token", "github.token_file"),
    ] {
        if !text(values, key).is_empty() && !text(values, file).is_empty() {
            found.push((key.to_owned(), file.to_owned(), "set one of them, not both".to_owned()));
        }
    }
    found
}

fn at_most(values: &toml::Table, key: &str, bound: &str, found: &mut Vec<(String, String, String)>) {
    let (Ok(value), Ok(limit)) =
        (humantime::parse_duration(text(values, key)), humantime::parse_duration(text(values, bound)))
    else {
        return;
    };
    if value > limit {
        let message = format!("{} is longer than {bound} ({})", text(values, key), text(values, bound));
        found.push((key.to_owned(), bound.to_owned(), message));
    }
}

/// A text value; empty if it is none.
pub fn text<'a>(values: &'a toml::Table, path: &str) -> &'a str {
    get(values, path).and_then(toml::Value::as_str).unwrap_or("")
}

/// A value by its dotted path.
pub fn get<'a>(values: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    match path.split_once('.') {
        None => values.get(path),
        Some((table, rest)) => get(values.get(table)?.as_table()?, rest),
    }
}

/// Sets a value by its dotted path; its tables are there.
pub fn set(values: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => {
            values.insert(path.to_owned(), value);
        }
        Some((table, rest)) => {
            if let Some(toml::Value::Table(inner)) = values.get_mut(table) {
                set(inner, rest, value);
            }
        }
    }
}

/// What is allowed and probably not meant.
pub fn notes(values: &toml::Table, secrets: &super::Secrets) -> Vec<String> {
    let mut notes = Vec::new();
    let public_llm = text(values, "llm.base_url").contains("api.openai.com");
    if secrets.llm_api_key.is_none() && public_llm {
        notes.push(
            "no key for the language model: set llm.api_key, llm.api_key_file or OPENAI_API_KEY".into(),
        );
    }
    let app = !text(values, "github.app_id").is_empty();
    match (app, secrets.github_private_key.is_some()) {
        (true, true) | (false, false) => {}
        (true, false) => notes.push("github.app_id without a key: set github.private_key_file".into()),
        (false, true) => notes.push("a private key without github.app_id: set it".into()),
    }
    if !app && secrets.github_token.is_none() {
        notes.push(
            "no way into GitHub: set github.app_id and github.private_key_file, or github.token".into(),
        );
    }
    notes
}
