//! The configuration as one typed value, composed of the settings that each crate defines.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// `[log]`: what is logged and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// `auto`: text on a terminal, JSON otherwise.
    pub format: LogFormat,
    /// The least level, and by target if wanted: `info`, `info,steadfast_llm=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// All of the configuration but its secrets.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[log]`.
    pub log: LogSettings,
}

/// Keys of the file that no crate's settings hold: secrets, and where they are.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("llm", &["api_key", "api_key_file"]),
    ("github", &["private_key", "private_key_file", "token", "token_file"]),
];

impl Config {
    /// Reads the whole of it. `values` holds every key; an error names the table it is in.
    pub fn from_table(values: &toml::Table) -> anyhow::Result<Self> {
        let mut values = values.clone();
        for (table, keys) in SECRET_KEYS {
            if let Some(toml::Value::Table(table)) = values.get_mut(*table) {
                table.retain(|key, _| !keys.contains(&key));
            }
        }
        let config = Config { log: take(&mut values, "log")? };
        match values.keys().next() {
            None => Ok(config),
            Some(table) => anyhow::bail!("[{table}] belongs to no part of the program"),
        }
    }
}

/// Takes a table out and reads it.
fn take<T: DeserializeOwned>(values: &mut toml::Table, name: &str) -> anyhow::Result<T> {
    let value = values.remove(name).ok_or_else(|| anyhow::anyhow!("[{name}] is missing"))?;
    T::deserialize(value).map_err(|error: toml::de::Error| anyhow::anyhow!("{}", error.message()))
}
