//! The secrets of the configuration: given as values or as files, never printed.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use steadfast_actors::alerts::Webhook;
use url::Url;

use super::endpoints;
use super::problem::{Problem, Source};
use super::rules::text;

/// Most bytes of a file that holds a secret.
const MAX_SECRET: u64 = 64 * 1024;

/// What is wrong with a key that is not [`is_visible`].
const INVISIBLE: &str = "holds a blank, a line break or a character that no header can carry";
/// A path of a webhook that is shorter holds no secret, and stands in ordinary lines.
const LEAST_PATH: usize = 12;

/// What must not be printed. Debug shows that a secret is there, never the secret.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The language model's key; `None`: requests carry none.
    pub llm_api_key: Option<SecretString>,
    /// The key of each of `[[llm.endpoints]]`, in their order.
    pub endpoint_api_keys: Vec<Option<SecretString>>,
    /// Where alerts go, if anywhere: whoever knows it can send there.
    pub webhook: Option<SecretString>,
    /// The forms in which that address may stand in a log besides.
    pub webhook_forms: Vec<SecretString>,
    /// The GitHub App's private key, PEM.
    pub github_private_key: Option<SecretString>,
    /// A personal token, for jobs without an installation.
    pub github_token: Option<SecretString>,
    /// The password in `queue.url`, if any, as it is written there and decoded.
    pub queue_passwords: Vec<SecretString>,
}

impl Secrets {
    /// Every secret, for masking.
    pub fn all(&self) -> impl Iterator<Item = &SecretString> {
        let single = [&self.llm_api_key, &self.github_private_key, &self.github_token, &self.webhook];
        let keys = self.endpoint_api_keys.iter().flatten();
        single.into_iter().flatten().chain(keys).chain(&self.queue_passwords).chain(&self.webhook_forms)
    }

    /// Collects them from the effective configuration.
    pub(super) fn collect(
        values: &toml::Table,
        source: impl Fn(&str) -> Source,
        problems: &mut Vec<Problem>,
    ) -> Secrets {
        let mut one = |key: &str| {
            let direct = text(values, key).trim();
            if !direct.is_empty() {
                return Some(SecretString::from(direct.to_owned()));
            }
            let file_key = format!("{key}_file");
            let file = text(values, &file_key);
            if file.is_empty() {
                return None;
            }
            match read(Path::new(file)) {
                Ok(secret) => Some(secret),
                Err(message) => {
                    problems.push(Problem { source: source(&file_key), key: file_key, message });
                    None
                }
            }
        };
        let llm_api_key = one("llm.api_key");
        let github_private_key = one("github.private_key");
        let github_token = one("github.token");
        let webhook = one("alerts.webhook");
        let pem = github_private_key.as_ref().is_none_or(|key| key.expose_secret().contains("-----BEGIN"));
        if !pem {
            let inline = !text(values, "github.private_key").is_empty();
            let key = if inline { "github.private_key" } else { "github.private_key_file" };
            let message =
                "is not a PEM key: it begins with -----BEGIN RSA PRIVATE KEY----- as GitHub gives it";
            problems.push(Problem { source: source(key), key: key.into(), message: message.into() });
        }
        for (key, secret) in [("llm.api_key", &llm_api_key), ("github.token", &github_token)] {
            if !secret.as_ref().is_none_or(is_visible) {
                let inline = !text(values, key).is_empty();
                let key = if inline { key.to_owned() } else { format!("{key}_file") };
                let message = INVISIBLE;
                problems.push(Problem { source: source(&key), key, message: message.into() });
            }
        }
        let queue_passwords = passwords(text(values, "queue.url"));
        let mut tell = |key: &str, message: String| {
            problems.push(Problem { source: source(key), key: key.to_owned(), message });
        };
        let keys = endpoints::entries(values).into_iter();
        let endpoint_api_keys =
            keys.map(|entry| of_endpoint(entry, |what| tell(endpoints::KEY, what))).collect();
        let mut webhook_forms = Vec::new();
        match webhook.as_ref().map(Webhook::check) {
            None => {}
            Some(Ok(address)) => {
                let path = address.path_and_query().map(|path| path.as_str().to_owned());
                let path = path.filter(|path| path.len() >= LEAST_PATH);
                let forms = [Some(address.to_string()), path].into_iter().flatten();
                webhook_forms.extend(forms.map(SecretString::from));
            }
            Some(Err(error)) => {
                let inline = !text(values, "alerts.webhook").is_empty();
                tell(if inline { "alerts.webhook" } else { "alerts.webhook_file" }, error.to_string());
            }
        }
        Secrets {
            llm_api_key,
            endpoint_api_keys,
            github_private_key,
            github_token,
            queue_passwords,
            webhook,
            webhook_forms,
        }
    }
}

/// The key of one of `[[llm.endpoints]]`.
fn of_endpoint(entry: &toml::Table, mut tell: impl FnMut(String)) -> Option<SecretString> {
    let (name, direct, file) =
        (text(entry, "name"), text(entry, "api_key").trim(), text(entry, "api_key_file"));
    let key = match (direct, file) {
        ("", "") => return None,
        ("", file) => read(Path::new(file)),
        (direct, _) => Ok(SecretString::from(direct.to_owned())),
    };
    let key = key.and_then(|key| if is_visible(&key) { Ok(key) } else { Err(INVISIBLE.to_owned()) });
    key.map_err(|message| {
        tell(format!("{name}: {} {message}", if direct.is_empty() { "api_key_file" } else { "api_key" }))
    })
    .ok()
}

/// Whether a header can carry it.
fn is_visible(secret: &SecretString) -> bool {
    secret.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())
}

/// Keys whose value is a secret itself.
pub fn is_secret(path: &str) -> bool {
    matches!(path, "llm.api_key" | "github.private_key" | "github.token" | "alerts.webhook")
}

fn read(path: &Path) -> Result<SecretString, String> {
    let describe = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(describe)?.len();
    if size > MAX_SECRET {
        return Err(format!("{} is {size} bytes: not a key, which is at most {MAX_SECRET}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(describe)?;
    if text.trim().is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(SecretString::from(text.trim().to_owned()))
}

/// The passwords in a queue's URL: before the host, or in the query of `redis+unix:` and of
/// `redis+sentinel:`.
fn passwords(url: &str) -> Vec<SecretString> {
    let Ok(url) = Url::parse(&steadfast_store::settings::with_one_host(url)) else { return Vec::new() };
    let written = url.password().filter(|password| !password.is_empty());
    let mut all = Vec::new();
    if let Some(written) = written {
        // As a password `p%40ss` may stand in a message either way.
        let query = format!("p={}", written.replace('+', "%2B"));
        let decoded = url::form_urlencoded::parse(query.as_bytes()).next();
        let decoded = decoded.map(|(_, value)| value.into_owned()).filter(|decoded| decoded != written);
        all.push(SecretString::from(written.to_owned()));
        all.extend(decoded.map(SecretString::from));
    }
    let is_secret = |name: &str| matches!(name, "pass" | "sentinel_pass");
    let in_query = url.query_pairs().filter(|(name, value)| is_secret(name) && !value.is_empty());
    all.extend(in_query.map(|(_, value)| SecretString::from(value.into_owned())));
    all
}
