//! `[[llm.endpoints]]`: a list of tables, which no key of the compiled-in file can describe. What an
//! entry may say, what it takes from `[llm]`, and where its secret is.

use steadfast_llm::EndpointSettings;
use toml::{Table, Value};

use super::rules::{self, range_of, text};

/// The list's key.
pub const KEY: &str = "llm.endpoints";
/// Most entries.
const MOST: usize = 64;
/// Most characters of a name.
const LONGEST_NAME: usize = 32;

/// The entries that are tables; others are told of when the list is read.
pub fn entries(values: &Table) -> Vec<&Table> {
    let list = rules::get(values, KEY).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_table).collect()
}

/// Reads the list; what an entry does not say of price and limits is as in `price` and `limits`.
pub fn read(list: Value, price: &Value, limits: &Value) -> anyhow::Result<Vec<EndpointSettings>> {
    let Value::Array(list) = list else { anyhow::bail!("is a list of tables") };
    let one = |(number, entry): (usize, Value)| {
        let Value::Table(mut entry) = entry else { anyhow::bail!("entry {number}: is a table of keys") };
        entry.retain(|key, value| !matches!(key, "api_key" | "api_key_file") || !value.is_str());
        for (key, shared) in [("price", price), ("limits", limits)] {
            over(&mut entry, key, shared);
        }
        super::compose::read(entry).map_err(|error| anyhow::anyhow!("entry {number}: {error}"))
    };
    (1..).zip(list).map(one).collect()
}

/// Fills up an entry's table from the shared one.
fn over(entry: &mut Table, key: &str, shared: &Value) {
    match (entry.get_mut(key), shared) {
        (None, shared) => drop(entry.insert(key.to_owned(), shared.clone())),
        (Some(Value::Table(own)), Value::Table(shared)) => {
            for (key, value) in shared {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        // Of a wrong kind: told of when it is read.
        (Some(_), _) => {}
    }
}

/// What is wrong with entries that can be read.
pub fn problems(list: &Value) -> Vec<String> {
    let entries: Vec<&Table> = list.as_array().into_iter().flatten().filter_map(Value::as_table).collect();
    let mut found = Vec::new();
    if entries.len() > MOST {
        found.push(format!("{} are more than there may be, {MOST}", entries.len()));
    }
    for (position, entry) in entries.iter().enumerate() {
        let name = text(entry, "name");
        let mut tell = |what: String| found.push(format!("entry {} ({name}): {what}", position + 1));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            tell(format!("name must be 1 to {LONGEST_NAME} letters, digits, \".\", \"_\" or \"-\""));
        }
        if entries.iter().take(position).any(|other| text(other, "name") == name) {
            tell("an entry before it has this name".to_owned());
        }
        if text(entry, "model").trim().is_empty() {
            tell("model must not be empty".to_owned());
        }
        if !text(entry, "api_key").is_empty() && !text(entry, "api_key_file").is_empty() {
            tell("api_key and api_key_file are both set: one of them is enough".to_owned());
        }
        for table in ["price", "limits"] {
            for (key, value) in entry.get(table).and_then(Value::as_table).into_iter().flatten() {
                // The same key of [llm] has the range.
                let range = range_of(&format!("llm.{table}.{key}"));
                if let Some(problem) = range.and_then(|range| range.problem(value)) {
                    tell(format!("{table}.{key}: {problem}"));
                }
            }
        }
    }
    found
}

/// The list with its secrets masked.
pub fn masked(list: &Value) -> Value {
    let mut list = list.clone();
    for entry in list.as_array_mut().into_iter().flatten() {
        if let Some(key) = entry.get_mut("api_key")
            && key.as_str() != Some("")
        {
            *key = Value::String("***".to_owned());
        }
    }
    list
}
