//! The configuration for people: the effective values with their sources, and the reference page.

use super::defaults::Defaults;
use super::{Loaded, Source, endpoints, rules, secrets};

impl Loaded {
    /// The effective configuration as TOML, each value with where it comes from; secrets masked.
    pub fn show(&self) -> String {
        let defaults = Defaults::compiled_in();
        let mut out = String::new();
        for section in &defaults.sections {
            if section.leaves.is_empty() {
                continue;
            }
            if !out.is_empty() {
                out.push('\n');
            }
            if !section.path.is_empty() {
                out.push_str(&format!("[{}]\n", section.path));
            }
            for leaf in &section.leaves {
                let name = leaf.path.rsplit('.').next().unwrap_or(&leaf.path);
                let source = self.sources.get(&leaf.path).unwrap_or(&Source::Default);
                let value = rules::get(&self.values, &leaf.path).unwrap_or(&leaf.value);
                out.push_str(&format!("{name} = {}  # {source}\n", masked(&leaf.path, value)));
            }
        }
        out
    }
}

fn masked(path: &str, value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if secrets::is_secret(path) && !text.is_empty() => "\"***\"".to_owned(),
        toml::Value::String(text) if path == "queue.url" => {
            toml::Value::String(steadfast_store::QueueUrl::new(text).to_string()).to_string()
        }
        list if path == endpoints::KEY => endpoints::masked(list).to_string(),
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => value.to_string(),
    }
}

/// Every key with its default and meaning, as Markdown: docs/configuration.md.
pub fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Made by `steadfast config docs` from config.toml, which is compiled in as the default.\n\n\
         Values come from, each over the one before: the defaults, a file (`--config PATH`, else\n\
         `./config.toml`), the environment. A key `llm.retry.max_attempts` is the variable\n\
         `STEADFAST_LLM__RETRY__MAX_ATTEMPTS`: two underscores part tables. `STEADFAST_LOG` is short for\n\
         `log.level`; `OPENAI_API_KEY` and `GITHUB_TOKEN` are used where nothing else gives `llm.api_key`\n\
         and `github.token`. Durations are written `\"100ms\"`, `\"30s\"`, `\"15m\"`, `\"24h\"`, `\"7days\"`; sizes\n\
         `\"64KB\"`, `\"1MB\"`. `steadfast config check` says all that is wrong, `steadfast config show` what\n\
         holds and why.\n",
    );
    for section in &Defaults::compiled_in().sections {
        out.push_str(&format!("\n## [{}]\n\n{}\n", section.path, section.comment));
        if section.leaves.is_empty() {
            continue;
        }
        out.push_str("\n| key | default | range | meaning |\n|---|---|---|---|\n");
        for leaf in &section.leaves {
            let range = rules::range_of(&leaf.path).map(|range| range.words()).unwrap_or_default();
            let meaning = leaf.comment.replace('\n', " ").replace('|', "\\|");
            out.push_str(&format!("| `{}` | `{}` | {range} | {meaning} |\n", leaf.path, leaf.written));
        }
    }
    out
}
