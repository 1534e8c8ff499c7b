//! Configuration as a value: the compiled-in config.toml, a file over it, the environment over both.
//!
//! Loading reports everything that is wrong at once, each with its key and where it was set.

mod compose;
mod defaults;
mod docs;
mod layers;
mod problem;
mod rules;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use compose::{Config, LogFormat, LogSettings};
pub use docs::reference;
pub use problem::{Problem, Problems, Source};
pub use secrets::Secrets;

use defaults::Defaults;
use layers::Setting;

/// The file that is read if it is there and none is named.
const USUAL_FILE: &str = "config.toml";
/// Most bytes of a configuration file.
const MAX_FILE: u64 = 1_000_000;

/// A configuration that was found good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// All of it but the secrets.
    pub config: Config,
    /// The secrets.
    pub secrets: Secrets,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What is allowed and probably not meant, for the log.
    pub notes: Vec<String>,
    values: toml::Table,
    sources: BTreeMap<String, Source>,
}

/// Loads the configuration of this process: from `file`, else from `config.toml` in the working
/// directory if there is one, and from the environment.
pub fn load(file: Option<&Path>) -> Result<Loaded, Problems> {
    let file = file.map(Path::to_path_buf).or_else(|| {
        let usual = PathBuf::from(USUAL_FILE);
        usual.is_file().then_some(usual)
    });
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        // A name or value that is not UTF-8 is no key of ours; ours are ASCII.
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    });
    let Some(path) = file else { return load_from(None, variables) };
    match read(&path) {
        Ok(text) => load_from(Some((&path, &text)), variables),
        Err(message) => {
            let source = Source::File { path: path.display().to_string(), line: 1 };
            Err(Problems(vec![Problem { source, key: String::new(), message }]))
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot read the file: {error}"))?.len();
    if size > MAX_FILE {
        return Err(format!("{size} bytes are more than a configuration file may have ({MAX_FILE})"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))
}

/// Loads from a file's text and variables that are given.
pub fn load_from(
    file: Option<(&Path, &str)>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let defaults = Defaults::compiled_in();
    let mut problems = Vec::new();
    let mut settings = Vec::new();
    if let Some((path, text)) = file {
        settings.extend(layers::from_file(&defaults, &path.display().to_string(), text, &mut problems));
    }
    let (from_environment, fallbacks) = layers::from_environment(&defaults, variables, &mut problems);
    settings.extend(from_environment);
    for fallback in fallbacks {
        let file_key = format!("{}_file", fallback.path);
        if !settings.iter().any(|setting| setting.path == fallback.path || setting.path == file_key) {
            settings.push(fallback);
        }
    }

    let mut values = defaults.table.clone();
    let mut sources = BTreeMap::new();
    for setting in settings {
        match alone(&defaults, &setting) {
            Ok(()) => {
                rules::set(&mut values, &setting.path, setting.value);
                sources.insert(setting.path, setting.source);
            }
            Err(message) => problems.push(Problem { source: setting.source, key: setting.path, message }),
        }
    }
    let source = |key: &str| sources.get(key).cloned().unwrap_or(Source::Default);
    for (key, other, message) in rules::contradictions(&defaults, &values) {
        let message = match (source(&key), source(&other)) {
            (Source::Default, Source::Default) => message,
            (_, other_source) => format!("{message}; {other} is set by {other_source}"),
        };
        problems.push(Problem { source: source(&key), key, message });
    }
    let secrets = Secrets::collect(&values, source, &mut problems);
    if !problems.is_empty() {
        problems.sort();
        return Err(Problems(problems));
    }
    match Config::from_table(&values) {
        Ok(config) => {
            let notes = rules::notes(&values, &secrets);
            let file = file.map(|(path, _)| path.to_path_buf());
            Ok(Loaded { config, secrets, file, notes, values, sources })
        }
        // Each value is good alone and all were checked together: only a part of the program that
        // knows more of its keys than we do can still object.
        Err(error) => {
            let source = file.map_or(Source::Default, |(path, _)| Source::File {
                path: path.display().to_string(),
                line: 1,
            });
            Err(Problems(vec![Problem { source, key: String::new(), message: error.to_string() }]))
        }
    }
}

/// What is wrong with one value, on top of the defaults and alone, so that one bad value does not
/// hide the next.
fn alone(defaults: &Defaults, setting: &Setting) -> Result<(), String> {
    let mut values = defaults.table.clone();
    rules::set(&mut values, &setting.path, setting.value.clone());
    let leaf = defaults.leaf(&setting.path);
    let like = leaf.map(|leaf| format!("; write it like the default, {}", leaf.written)).unwrap_or_default();
    let secret = secrets::is_secret(&setting.path);
    if let Err(error) = Config::from_table(&values) {
        let shown = if secret { "the value".to_owned() } else { rules::show(&setting.value) };
        return Err(format!("{shown}: {error}{like}"));
    }
    if leaf.is_some_and(|leaf| leaf.value.is_str()) && !setting.value.is_str() {
        return Err(format!("must be a text{like}"));
    }
    match rules::range_of(&setting.path).and_then(|range| range.problem(&setting.value)) {
        Some(message) => Err(message),
        None => Ok(()),
    }
}

impl Loaded {
    /// Whether nobody set the key.
    pub fn is_default(&self, key: &str) -> bool {
        !self.sources.contains_key(key)
    }
}
