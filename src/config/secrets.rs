//! The secrets of the configuration: given as values or as files, never printed.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::problem::{Problem, Source};
use super::rules::text;

/// Most bytes of a file that holds a secret.
const MAX_SECRET: u64 = 64 * 1024;

/// What must not be printed. Debug shows that a secret is there, never the secret.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The language model's key; `None`: requests carry none.
    pub llm_api_key: Option<SecretString>,
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
        let single = [&self.llm_api_key, &self.github_private_key, &self.github_token];
        single.into_iter().flatten().chain(&self.queue_passwords)
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
        let pem = github_private_key.as_ref().is_none_or(|key| key.expose_secret().contains("-----BEGIN"));
        if !pem {
            let inline = !text(values, "github.private_key").is_empty();
            let key = if inline { "github.private_key" } else { "github.private_key_file" };
            let message =
                "is not a PEM key: it begins with -----BEGIN RSA PRIVATE KEY----- as GitHub gives it";
            problems.push(Problem { source: source(key), key: key.into(), message: message.into() });
        }
        for (key, secret) in [("llm.api_key", &llm_api_key), ("github.token", &github_token)] {
            let visible =
                |secret: &SecretString| secret.expose_secret().bytes().all(|b| b.is_ascii_graphic());
            if !secret.as_ref().is_none_or(visible) {
                let inline = !text(values, key).is_empty();
                let key = if inline { key.to_owned() } else { format!("{key}_file") };
                let message = "holds a blank, a line break or a character that no header can carry";
                problems.push(Problem { source: source(&key), key, message: message.into() });
            }
        }
        let queue_passwords = passwords(text(values, "queue.url"));
        Secrets { llm_api_key, github_private_key, github_token, queue_passwords }
    }
}

/// Keys whose value is a secret itself.
pub fn is_secret(path: &str) -> bool {
    matches!(path, "llm.api_key" | "github.private_key" | "github.token")
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

/// The passwords in a queue's URL: before the host, or in the query of `redis+unix:`.
fn passwords(url: &str) -> Vec<SecretString> {
    let Ok(url) = Url::parse(url) else { return Vec::new() };
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
    let in_query = url.query_pairs().filter(|(name, value)| name == "pass" && !value.is_empty());
    all.extend(in_query.map(|(_, value)| SecretString::from(value.into_owned())));
    all
}
