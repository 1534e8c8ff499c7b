//! The keys of `[github]`, the secrets beside them, and what is wrong with either.

use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

/// The keys of `[github]` that the client needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Base of the REST interface; `https://api.github.com`, or `https://HOST/api/v3` on an
    /// enterprise server.
    pub api_url: Url,
    /// Base of clone URLs: repositories are at `{web_url}/{owner}/{name}.git`; `https://github.com`.
    pub web_url: Url,
    /// The GitHub App's id or client id; empty (the default) = no App, only a personal token.
    pub app_id: String,
    /// What requests call themselves; GitHub refuses those without; `steadfast`.
    pub user_agent: String,
    /// The REST interface's version, sent as `X-GitHub-Api-Version`; `2022-11-28`.
    pub api_version: String,
    /// Longest time for one whole exchange, connecting included; 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Time between the end of one write and the begin of the next, as GitHub asks; 1 s.
    #[serde(with = "humantime_serde")]
    pub write_spacing: Duration,
    /// How long GitHub may take to show what was written: an effect whose outcome is unknown is
    /// looked for only after it, so that it is not made twice; 5 s.
    #[serde(with = "humantime_serde")]
    pub shown_after: Duration,
    /// Longest wait that is believed of the server; 1 h.
    #[serde(with = "humantime_serde")]
    pub max_server_wait: Duration,
    /// Largest answer that is read, in bytes; 8 MB.
    pub max_body_bytes: ByteSize,
    /// Time before an installation token's end at which a new one is made; 5 min. A token that
    /// lives less than twice that is renewed at half its life.
    #[serde(with = "humantime_serde")]
    pub token_margin: Duration,
    /// Most pages that are read in search of a comment or pull request, 100 entries each; 30.
    pub max_pages: u32,
}

/// The secrets; both may be absent.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The App's RSA private key in PEM, PKCS#1 or PKCS#8.
    pub private_key: Option<SecretString>,
    /// A person's access token, for jobs without an installation.
    pub personal_token: Option<SecretString>,
}

/// Why there can be no client from these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSettings {
    /// A base URL that nothing can be appended to, or that would carry secrets or end in a query.
    #[error("github.{key} must be an http(s) URL with a host and without user, query or fragment: {url}")]
    Url {
        /// Which key.
        key: &'static str,
        /// What it holds, without user information.
        url: String,
    },
    /// A value that cannot stand in a header.
    #[error("github.{key} must be visible ASCII, as it is sent in a header")]
    Header {
        /// Which key.
        key: &'static str,
    },
    /// A number that leaves nothing to do.
    #[error("github.{key} must not be zero")]
    Zero {
        /// Which key.
        key: &'static str,
    },
    /// The key is no RSA private key.
    #[error("github.private_key (or private_key_file) is no RSA private key in PEM, PKCS#1 or PKCS#8: {0}")]
    PrivateKey(String),
    /// Half an App.
    #[error(
        "of github.app_id and github.private_key (or private_key_file) one is set and one is not: set both or none"
    )]
    HalfAnApp,
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), UnusableSettings> {
        for (key, url) in [("api_url", &self.api_url), ("web_url", &self.web_url)] {
            let plain = matches!(url.scheme(), "http" | "https")
                && url.host().is_some()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none();
            if !plain {
                let url = steadfast_core::classify::clean::clean(url.as_str());
                return Err(UnusableSettings::Url { key, url });
            }
        }
        for (key, value) in [("user_agent", &self.user_agent), ("api_version", &self.api_version)] {
            if value.is_empty() || http::HeaderValue::from_str(value).is_err() {
                return Err(UnusableSettings::Header { key });
            }
        }
        let zeros = [
            ("timeout", self.timeout.is_zero()),
            ("max_server_wait", self.max_server_wait.is_zero()),
            ("max_body_bytes", self.max_body_bytes.as_u64() == 0),
            ("max_pages", self.max_pages == 0),
        ];
        match zeros.into_iter().find(|(_, zero)| *zero) {
            Some((key, _)) => Err(UnusableSettings::Zero { key }),
            None => Ok(()),
        }
    }
}
