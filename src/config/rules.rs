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
/// As humantime counts it, so that it is shown as one.
const YEAR: u64 = 31_557_600 * SECOND;
const KB: u64 = 1_000;
const MB: u64 = 1_000 * KB;
const GB: u64 = 1_000 * MB;
const TB: u64 = 1_000 * GB;

/// The first pattern that matches a key is its range.
const RANGES: &[(&str, Range)] = &[
    ("queue.url", Range::Text),
    ("queue.lease", Range::Time(SECOND, HOUR)),
    ("queue.keep_ended", Range::Time(MINUTE, YEAR)),
    ("queue.max_steps", Range::Count(10, 1_000_000)),
    ("queue.max_journal_bytes", Range::Size(MB, 10 * GB)),
    ("queue.max_*", Range::Size(10 * KB, 512 * MB)),
    ("queue.poll_interval", Range::Time(1, MINUTE)),
    ("queue.connect_timeout", Range::Time(10, MINUTE)),
    ("queue.response_timeout", Range::Time(10, MINUTE)),
    ("llm.model", Range::Text),
    ("llm.max_answer_tokens", Range::Count(1, 10_000_000)),
    ("llm.context_window", Range::Count(1_000, 100_000_000)),
    ("llm.timeout", Range::Time(SECOND, HOUR)),
    ("llm.answer_timeout", Range::Time(SECOND, DAY)),
    ("llm.max_answer_bytes", Range::Size(10 * KB, GB)),
    ("llm.quota_recheck", Range::Time(SECOND, DAY)),
    ("llm.spacing", Range::Time(0, HOUR)),
    ("llm.price.*", Range::Number(0.0, 1e9)),
    ("*.max_server_wait", Range::Time(SECOND, 7 * DAY)),
    ("github.user_agent", Range::Text),
    ("github.api_version", Range::Text),
    ("github.timeout", Range::Time(100, HOUR)),
    ("github.write_spacing", Range::Time(0, HOUR)),
    ("github.shown_after", Range::Time(0, 10 * MINUTE)),
    ("github.max_body_bytes", Range::Size(10 * KB, GB)),
    ("github.token_margin", Range::Time(0, 50 * MINUTE)),
    ("github.max_pages", Range::Count(1, 1_000)),
    ("http.connect_timeout", Range::Time(10, 10 * MINUTE)),
    ("job.concurrency", Range::Count(1, 10_000)),
    ("job.per_repo_concurrency", Range::Count(0, 10_000)),
    ("job.park_after", Range::Time(0, DAY)),
    ("job.deadline", Range::Time(MINUTE, YEAR)),
    ("job.max_attempts", Range::Count(1, 1_000)),
    ("job.max_crashes", Range::Count(1, 1_000)),
    ("job.report_wait_over", Range::Time(0, YEAR)),
    ("agent.workspaces", Range::Text),
    ("agent.max_turns", Range::Count(1, 100_000)),
    ("agent.wrap_up_turns", Range::Count(0, 1_000)),
    ("agent.max_calls_per_turn", Range::Count(1, 1_000)),
    ("agent.max_repeats", Range::Count(2, 1_000)),
    ("agent.max_cost", Range::Number(0.0, 1e12)),
    ("agent.compact_*", Range::Number(0.0, 1.0)),
    ("agent.wrap_up_share", Range::Number(0.0, 1.0)),
    ("agent.max_issue_bytes", Range::Size(KB, 10 * MB)),
    ("agent.max_conventions_bytes", Range::Size(0, 10 * MB)),
    ("agent.max_prompt_tokens", Range::Count(0, 1_000_000_000_000)),
    ("agent.max_completion_tokens", Range::Count(0, 1_000_000_000_000)),
    ("agent.keep_outputs", Range::Count(0, 10_000)),
    ("agent.branch_prefix", Range::Text),
    ("agent.jail.min_level", Range::Count(0, 3)),
    ("agent.jail.bubblewrap", Range::Text),
    ("agent.command.memory", Range::Size(16 * MB, TB)),
    ("agent.command.processes", Range::Count(8, 1_000_000)),
    ("agent.command.file_size", Range::Size(KB, TB)),
    ("agent.command.open_files", Range::Count(16, 1_000_000)),
    ("agent.command.max_output_bytes", Range::Size(KB, 10 * MB)),
    ("agent.command.*", Range::Time(SECOND, DAY)),
    ("agent.git.program", Range::Text),
    ("agent.git.max_file_bytes", Range::Size(MB, TB)),
    ("agent.git.max_changed_files", Range::Count(1, 1_000_000)),
    ("agent.git.max_patch_bytes", Range::Size(KB, 512 * MB)),
    ("agent.git.timeout", Range::Time(SECOND, DAY)),
    ("agent.git.*_timeout", Range::Time(SECOND, DAY)),
    ("agent.max_*", Range::Count(0, 10_000)),
    ("supervisor.max_restarts", Range::Count(0, 100_000)),
    ("supervisor.window", Range::Time(SECOND, DAY)),
    ("supervisor.drain_timeout", Range::Time(0, DAY)),
    ("actors.*", Range::Count(1, 1_000_000)),
    ("alerts.min_interval", Range::Time(0, 7 * DAY)),
    ("alerts.timeout", Range::Time(100, 10 * MINUTE)),
    ("metrics.log_interval", Range::Time(SECOND, DAY)),
    ("breaker.window", Range::Time(SECOND, DAY)),
    ("breaker.min_calls", Range::Count(1, 100)),
    ("breaker.failure_rate", Range::Number(0.01, 1.0)),
    ("breaker.slow_after", Range::Time(0, DAY)),
    ("breaker.slow_rate", Range::Number(0.01, 1.0)),
    ("breaker.*", Range::Time(SECOND, DAY)),
    ("retry_budget.share", Range::Number(0.0, 1.0)),
    ("retry_budget.window", Range::Time(SECOND, DAY)),
    ("retry_budget.floor", Range::Count(1, 1_000_000)),
    ("*.requests_per_minute", Range::Count(0, 100_000_000)),
    ("*.tokens_per_minute", Range::Count(0, 4_000_000_000)),
    ("*.limits.concurrency", Range::Count(0, 100_000)),
    ("*.limits.burst", Range::Count(0, 1_000_000)),
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
    match value {
        // 1e99 is not shown with its hundred digits.
        toml::Value::Float(number) if number.abs() >= 1e15 => format!("{number:e}"),
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => cut(&value.to_string(), 80),
    }
}

/// A text of at most `most` characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => format!("{}...", text.chars().take(most.saturating_sub(3)).collect::<String>()),
        None => text.to_owned(),
    }
}

/// Two keys that cannot both be as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The two keys.
    pub keys: [String; 2],
    /// What is wrong with them together.
    pub message: String,
}

/// What must hold between keys of the effective configuration and does not.
pub fn contradictions(defaults: &Defaults, values: &toml::Table) -> Vec<Contradiction> {
    let mut found = Vec::new();
    for leaf in defaults.leaves() {
        if let Some(table) = leaf.path.strip_suffix(".initial") {
            found.extend(at_most(values, &leaf.path, &format!("{table}.max")));
        }
    }
    for (key, bound) in [
        ("breaker.open", "breaker.open_max"),
        ("job.park_after", "job.deadline"),
        ("llm.timeout", "llm.answer_timeout"),
        ("llm.max_answer_tokens", "llm.context_window"),
        ("agent.command.timeout", "agent.command.max_timeout"),
        // A lease is renewed at a third of it: an answer that takes longer than the rest loses it.
        ("queue.response_timeout", "queue.lease"),
        // A step must fit its journal, and a patch that may be pushed must be one that is kept.
        ("queue.max_step_bytes", "queue.max_journal_bytes"),
        ("agent.git.max_patch_bytes", "queue.max_patch_bytes"),
        ("agent.command.max_output_bytes", "queue.max_step_bytes"),
    ] {
        found.extend(at_most(values, key, bound));
    }
    for key in ["llm.api_key", "github.private_key", "github.token", "alerts.webhook"] {
        let file = format!("{key}_file");
        if !text(values, key).is_empty() && !text(values, &file).is_empty() {
            let message = format!("{key} and {file} are both set: one of them is enough");
            found.push(Contradiction { keys: [key.to_owned(), file], message });
        }
    }
    let name = text(values, "agent.identity_name").is_empty();
    if name != text(values, "agent.identity_email").is_empty() {
        let keys = ["agent.identity_name".to_owned(), "agent.identity_email".to_owned()];
        let message = "agent.identity_name and agent.identity_email go together: set both or none".to_owned();
        found.push(Contradiction { keys, message });
    }
    found
}

fn at_most(values: &toml::Table, key: &str, bound: &str) -> Option<Contradiction> {
    let (value, limit) = (get(values, key)?, get(values, bound)?);
    (measure(value)? > measure(limit)?).then(|| Contradiction {
        keys: [key.to_owned(), bound.to_owned()],
        message: format!("{key} ({}) is more than {bound} ({})", show(value), show(limit)),
    })
}

/// A count, a duration in nanoseconds or a size in bytes. A value that is none of these is told of
/// elsewhere.
fn measure(value: &toml::Value) -> Option<u128> {
    match value {
        toml::Value::Integer(count) => u128::try_from(*count).ok(),
        toml::Value::String(text) => match humantime::parse_duration(text) {
            Ok(time) => Some(time.as_nanos()),
            Err(_) => text.parse::<ByteSize>().ok().map(|size| u128::from(size.as_u64())),
        },
        toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => None,
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
    let is_public = |url: &str| url.contains("api.openai.com");
    let endpoints = super::endpoints::entries(values);
    if endpoints.is_empty() && secrets.llm_api_key.is_none() && is_public(text(values, "llm.base_url")) {
        notes.push(
            "no key for the language model: set llm.api_key, llm.api_key_file or OPENAI_API_KEY".into(),
        );
    }
    for (endpoint, key) in endpoints.iter().zip(&secrets.endpoint_api_keys) {
        if key.is_none() && is_public(text(endpoint, "base_url")) {
            let name = text(endpoint, "name");
            notes.push(format!("no key for llm.endpoints {name}: set its api_key or api_key_file"));
        }
    }
    if !endpoints.is_empty() && secrets.llm_api_key.is_some() {
        notes.push("llm.api_key is not used: llm.endpoints have their own".into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_duration_and_size_has_a_range_and_its_default_is_in_it() {
        for leaf in Defaults::compiled_in().leaves() {
            let time = leaf.value.as_str().is_some_and(|text| humantime::parse_duration(text).is_ok());
            let size = leaf.value.as_str().is_some_and(|text| {
                text.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<ByteSize>().is_ok()
            });
            let range = range_of(&leaf.path);
            let fits = match range {
                Some(Range::Count(..)) => leaf.value.is_integer(),
                Some(Range::Number(..)) => leaf.value.is_float(),
                Some(Range::Time(..)) => time,
                Some(Range::Size(..)) => size,
                Some(Range::Text) => leaf.value.is_str() && !time && !size,
                None => !leaf.value.is_integer() && !leaf.value.is_float() && !time && !size,
            };
            assert!(fits, "{} = {} has the range {range:?}", leaf.path, leaf.written);
            let problem = range.and_then(|range| range.problem(&leaf.value));
            assert_eq!(problem, None, "{}", leaf.path);
        }
    }

    #[test]
    fn every_range_is_of_a_key() {
        let defaults = Defaults::compiled_in();
        for (position, (pattern, _)) in RANGES.iter().enumerate() {
            let first = |path: &str| RANGES.iter().position(|(pattern, _)| matches(pattern, path));
            let used = defaults.leaves().any(|leaf| first(&leaf.path) == Some(position));
            assert!(used, "{pattern} is the range of no key");
        }
    }

    #[test]
    fn what_is_compared_is_there() {
        let defaults = Defaults::compiled_in();
        assert_eq!(contradictions(&defaults, &defaults.table), []);
        for (value, limit) in [("1m", "30s"), ("2MB", "1MB")] {
            let table: toml::Table = toml::from_str(&format!("a = \"{value}\"\nb = \"{limit}\"")).unwrap();
            assert!(at_most(&table, "a", "b").is_some(), "{value} {limit}");
            assert_eq!(at_most(&table, "b", "a"), None, "{value} {limit}");
        }
    }
}
