//! Masks every known secret, by its exact value, in everything that is logged.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError, RwLock};

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::fmt::MakeWriter;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// A text shorter than this is not masked: it would stand in ordinary words.
const SHORTEST: usize = 6;
/// Most secrets that were added while running; the oldest go first. An installation token lives an
/// hour, and a process starts far fewer jobs an hour.
const MOST_ADDED: usize = 2_000;
/// How GitHub's tokens begin: masked even when nobody told us of them.
const PREFIXES: &[&str] = &["ghs_", "ghp_", "gho_", "ghu_", "ghr_", "github_pat_"];

/// The secrets that are known; clones share them.
#[derive(Clone, Default)]
pub struct Redactor {
    known: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    fixed: Vec<String>,
    added: VecDeque<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// Knows the configuration's secrets, for good.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let mut fixed: Vec<String> = secrets.into_iter().flat_map(forms).collect();
        // A secret that is part of another must not spoil the longer one's mask.
        fixed.sort_by_key(|form| std::cmp::Reverse(form.len()));
        fixed.dedup();
        Redactor { known: Arc::new(RwLock::new(Known { fixed, added: VecDeque::new() })) }
    }

    /// Learns a secret that came up while running, such as an installation token.
    pub fn add(&self, secret: &SecretString) {
        // Whoever panicked while holding the lock left a list of texts: still good.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for form in forms(secret) {
            if known.fixed.contains(&form) || known.added.contains(&form) {
                continue;
            }
            if known.added.len() >= MOST_ADDED {
                known.added.pop_front();
            }
            known.added.push_back(form);
        }
    }

    /// The text with every secret in it masked.
    pub fn mask(&self, text: &str) -> String {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut masked = text.to_owned();
        for secret in known.fixed.iter().chain(&known.added) {
            if masked.contains(secret.as_str()) {
                masked = masked.replace(secret.as_str(), MASK);
            }
        }
        for prefix in PREFIXES {
            if masked.contains(prefix) {
                masked = without_token(&masked, prefix);
            }
        }
        masked
    }

    /// Wraps a maker of writers so that what is written is masked.
    pub fn writer<M>(&self, inner: M) -> MaskedMaker<M> {
        MaskedMaker { redactor: self.clone(), inner }
    }
}

/// The forms in which a secret can stand in a log line: as it is, and each line of it (a PEM key in
/// JSON has its line breaks escaped).
fn forms(secret: &SecretString) -> Vec<String> {
    let text = secret.expose_secret().trim();
    let header = |line: &&str| !line.starts_with("-----");
    let lines = text.lines().map(str::trim).filter(header);
    let escaped = serde_json::to_string(text).unwrap_or_default();
    let escaped = escaped.trim_matches('"');
    let debugged = format!("{text:?}");
    let debugged = debugged.trim_matches('"');
    let mut all: Vec<String> =
        [text, escaped, debugged].into_iter().chain(lines).map(str::to_owned).collect();
    all.retain(|form| form.len() >= SHORTEST);
    all.sort_by_key(|form| std::cmp::Reverse(form.len()));
    all.dedup();
    all
}

/// Masks every word that begins with `prefix` and is long enough for a token.
fn without_token(text: &str, prefix: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(prefix) {
        let (before, from) = rest.split_at(at);
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let end = from.find(|c| !word(c)).unwrap_or(from.len());
        let whole = end >= prefix.len() + 16;
        out.push_str(before);
        out.push_str(if whole { MASK } else { &from[..end] });
        rest = &from[end..];
    }
    out.push_str(rest);
    out
}

/// Makes writers that mask.
#[derive(Debug)]
pub struct MaskedMaker<M> {
    redactor: Redactor,
    inner: M,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for MaskedMaker<M> {
    type Writer = Masked<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Masked { redactor: self.redactor.clone(), inner: self.inner.make_writer() }
    }
}

/// A writer that masks. tracing-subscriber hands over each line whole, in one call.
#[derive(Debug)]
pub struct Masked<W> {
    redactor: Redactor,
    inner: W,
}

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let masked = self.redactor.mask(&String::from_utf8_lossy(bytes));
        self.inner.write_all(masked.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[test]
    fn masks_what_it_was_told_of_at_the_start_and_later() {
        let redactor = Redactor::new([&secret("sk-abcdef"), &secret("sk-abcdef-longer")]);
        let clone = redactor.clone();
        clone.add(&secret("late-secret\"with quote"));
        assert_eq!(redactor.mask("a sk-abcdef-longer b sk-abcdef"), "a *** b ***");
        assert_eq!(redactor.mask(r#"{"m":"late-secret\"with quote"}"#), r#"{"m":"***"}"#);
    }

    #[test]
    fn masks_each_line_of_a_key() {
        let pem =
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabcdefghij\n-----END RSA PRIVATE KEY-----";
        let redactor = Redactor::new([&secret(pem)]);
        for text in
            ["x MIIEowIBAAKCAQEA y", &serde_json::json!({ "m": pem }).to_string(), &format!("{pem:?}")]
        {
            let masked = redactor.mask(text);
            assert!(!masked.contains("MIIEow") && !masked.contains("abcdefghij"), "{masked}");
        }
    }

    #[test]
    fn masks_tokens_of_github_that_nobody_told_of() {
        let token = format!("ghs_{}.{}", "a1".repeat(30), "b-".repeat(200));
        let masked = Redactor::default().mask(&format!("token={token}, ghs_ is a prefix"));
        assert_eq!(masked, "token=***, ghs_ is a prefix");
    }

    #[test]
    fn short_texts_stay_and_the_list_has_a_bound() {
        let redactor = Redactor::new([&secret("none")]);
        assert_eq!(redactor.mask("none of it"), "none of it");
        for number in 0..MOST_ADDED + 10 {
            redactor.add(&secret(&format!("secret-{number:06}-x")));
        }
        assert_eq!(redactor.known.read().unwrap().added.len(), MOST_ADDED);
        assert_eq!(redactor.mask(&format!("secret-{:06}-x", MOST_ADDED + 9)), MASK);
    }
}
