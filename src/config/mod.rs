//! Configuration as a value: the compiled-in config.toml, a file over it, the environment over both.
//!
//! Loading reports everything that is wrong at once, each with its key and where it was set.

mod compose;
mod defaults;
mod docs;
mod endpoints;
mod layers;
mod problem;
mod rules;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use steadfast_store::Location;

pub use compose::{Config, LogFormat, LogSettings};
pub use docs::reference;
pub use problem::{Problem, Problems, Source};
pub use secrets::Secrets;

use defaults::Defaults;
use layers::Setting;
use rules::Contradiction;

/// The file that is read if it is there and none is named.
const USUAL_FILE: &str = "config.toml";
/// Most bytes of a configuration file.
const MAX_FILE: u64 = 1_000_000;

/// A configuration that was found good.
#[derive(Clone)]
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

    // Without this a flaw of the compiled-in file would be told once for every value of the user's.
    if let Err(error) = Config::from_table(&defaults.table) {
        let message = format!("{error:#}");
        return Err(Problems(vec![Problem { source: Source::Default, key: String::new(), message }]));
    }
    let mut values = defaults.table.clone();
    let mut sources = BTreeMap::new();
    for mut setting in settings {
        let mut judged = alone(&defaults, &setting);
        if let (Err(_), Some(other)) = (&judged, setting.otherwise.take()) {
            // Not good as a text: perhaps as the number that it looks like.
            let other = Setting { value: other, ..setting.clone() };
            if alone(&defaults, &other).is_ok() {
                (setting, judged) = (other, Ok(()));
            }
        }
        match judged {
            Ok(()) => {
                rules::set(&mut values, &setting.path, setting.value);
                sources.insert(setting.path, setting.source);
            }
            Err(message) => problems.push(Problem { source: setting.source, key: setting.path, message }),
        }
    }
    let source = |key: &str| sources.get(key).cloned().unwrap_or(Source::Default);
    for Contradiction { keys: [key, other], message } in rules::contradictions(&defaults, &values) {
        // Told where the user can change it: at the key that was set; if both were, at the first.
        let key = if source(&key) == Source::Default { other } else { key };
        problems.push(Problem { source: source(&key), key, message });
    }
    let secrets = Secrets::collect(&values, source, &mut problems);
    let config = Config::from_table(&values);
    match &config {
        Ok(config) => {
            let objections = config.objections().into_iter();
            let objections = objections.map(|(key, message)| Problem { source: source(&key), key, message });
            let known: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
            let told = |problem: &Problem| known.iter().any(|message| message.contains(&problem.key));
            problems.extend(objections.filter(|problem| !told(problem)));
        }
        // Each value was read alone before: what cannot be read now is the compiled-in file.
        Err(error) => {
            let message = format!("{error:#}");
            problems.push(Problem { source: Source::Default, key: String::new(), message });
        }
    }
    problems.sort();
    problems.dedup();
    match config {
        Ok(config) if problems.is_empty() => {
            let notes = rules::notes(&values, &secrets);
            let file = file.map(|(path, _)| path.to_path_buf());
            Ok(Loaded { config, secrets, file, notes, values, sources })
        }
        Ok(_) | Err(_) => Err(Problems(problems)),
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
    if secret && !setting.value.is_str() {
        return Err("must be a text".to_owned());
    }
    if let Err(error) = Config::from_table(&values) {
        let error = rules::cut(&error.to_string(), 160);
        if setting.path == endpoints::KEY {
            return Err(format!("{error}; see steadfast config docs"));
        }
        let shown = if secret { "the value".to_owned() } else { rules::show(&setting.value) };
        return Err(format!("{shown}: {error}{like}"));
    }
    if setting.path == endpoints::KEY {
        let problems = endpoints::problems(&setting.value);
        return if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) };
    }
    match rules::range_of(&setting.path).and_then(|range| range.problem(&setting.value)) {
        Some(message) => Err(message),
        None => Ok(()),
    }
}

/// Without the values, which hold secrets as they were written.
impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("secrets", &self.secrets)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    /// Whether nobody set the key.
    pub fn is_default(&self, key: &str) -> bool {
        !self.sources.contains_key(key)
    }

    /// Files that the model's commands must not see: the configuration, key files, the queue.
    pub fn private_paths(&self) -> Vec<PathBuf> {
        let keys =
            ["llm.api_key_file", "github.private_key_file", "github.token_file", "alerts.webhook_file"];
        let files = keys.iter().map(|key| rules::text(&self.values, key)).filter(|file| !file.is_empty());
        let endpoints = endpoints::entries(&self.values).into_iter();
        let of_endpoints = endpoints.map(|entry| rules::text(entry, "api_key_file"));
        let files = files.chain(of_endpoints.filter(|file| !file.is_empty()));
        let mut paths: Vec<PathBuf> = files.map(PathBuf::from).chain(self.file.clone()).collect();
        if let Ok(Location::Sqlite(queue)) = self.config.queue.url.parse() {
            let beside = |ending: &str| PathBuf::from(format!("{}{ending}", queue.display()));
            paths.extend([beside("-wal"), beside("-shm"), queue.clone()]);
        }
        paths
    }
}
