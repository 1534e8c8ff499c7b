//! The `[llm]` table of the configuration, and where the model's server is.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use http::{HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use steadfast_core::budget::LimitSettings;
use steadfast_core::chat::Usage;
use url::Url;

/// How the model is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the server's interface begins, `/v1` included. Default `https://api.openai.com/v1`.
    pub base_url: Url,
    /// The model's name as the server knows it. Default `gpt-5-mini`.
    pub model: String,
    /// Whether answers come in pieces, so that silence is noticed early. Default true.
    pub stream: bool,
    /// How the model calls tools: `native`, or `json` for models without tool calling. Default `native`.
    pub tools: ToolsMode,
    /// The field that bounds an answer: `auto`, `max_tokens` or `max_completion_tokens`. `auto`
    /// begins with `max_tokens` and changes when the server refuses it. Default `auto`.
    pub max_tokens_field: MaxTokensField,
    /// Most tokens of one answer. Default 8192.
    pub max_answer_tokens: u32,
    /// 0 to 2, or `default` to leave it to the server. Default `default`.
    pub temperature: Temperature,
    /// Longest time for the head of an answer and, when streaming, between two pieces of it. Default 30s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest time for a whole answer, streamed or not. Default 10m.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// Most bytes of a whole answer. Default 8MB.
    pub max_answer_bytes: ByteSize,
    /// How long nothing is sent after the server said that the account has no quota left, or refused
    /// the key. Default 15m.
    #[serde(with = "humantime_serde")]
    pub quota_recheck: Duration,
    /// The longest wait that is believed of the server. Default 1h.
    #[serde(with = "humantime_serde")]
    pub max_server_wait: Duration,
    /// Least time between two calls of one process. Default 100ms.
    #[serde(with = "humantime_serde")]
    pub spacing: Duration,
    /// Tokens that the model can look at, request and answer together. Default 128000.
    pub context_window: u32,
    /// What a million tokens cost, for limits on cost and reports; in one currency. Default 0.
    pub price: Price,
}

/// One of `[[llm.endpoints]]`: a server, a credential and a model that calls may go to. What it does
/// not say itself is as in [`Settings`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// Its name in the journal, the log and budgets; unique in the list. No default.
    pub name: String,
    /// Where the server's interface begins, `/v1` included. No default.
    pub base_url: Url,
    /// The model's name as this server knows it. No default.
    pub model: String,
    /// What a million tokens cost here. Default: each as in `[llm.price]`.
    pub price: Price,
    /// What the provider allows this key. Default: each as in `[llm.limits]`.
    pub limits: LimitSettings,
}

impl Settings {
    /// The same at one endpoint.
    pub fn at(&self, endpoint: &EndpointSettings) -> Settings {
        let EndpointSettings { name: _, base_url, model, price, limits: _ } = endpoint.clone();
        Settings { base_url, model, price, ..self.clone() }
    }
}

/// How the model calls tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolsMode {
    /// By the interface's own tool calls.
    Native,
    /// By one JSON object in the text of each answer.
    Json,
}

/// The field of the request that bounds an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// `max_tokens` until the server refuses it.
    Auto,
    /// What most servers know.
    MaxTokens,
    /// What newer models of OpenAI want.
    MaxCompletionTokens,
}

/// How much chance there is in an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Temperature {
    /// As the server likes: the field is not sent.
    Default,
    /// This much, 0 to 2.
    Of(f64),
}

impl Temperature {
    /// What is sent, if anything.
    pub fn value(self) -> Option<f64> {
        match self {
            Temperature::Default => None,
            Temperature::Of(value) => Some(value),
        }
    }
}

impl Serialize for Temperature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Temperature::Default => serializer.serialize_str("default"),
            Temperature::Of(value) => serializer.serialize_f64(*value),
        }
    }
}

impl<'de> Deserialize<'de> for Temperature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Temperature;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 2, or \"default\"")
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Temperature, E> {
                if (0.0..=2.0).contains(&value) {
                    Ok(Temperature::Of(value))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(value), &self))
                }
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Temperature, E> {
                self.visit_f64(value as f64)
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Temperature, E> {
                self.visit_f64(value as f64)
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Temperature, E> {
                if value == "default" {
                    Ok(Temperature::Default)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(value), &self))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What a million tokens cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Tokens of the request that are not in the provider's cache. Default 0.
    pub prompt: f64,
    /// Tokens of the request that are. Default 0.
    pub cached: f64,
    /// Tokens of the answer. Default 0.
    pub completion: f64,
}

impl Price {
    /// What `usage` cost, in the currency of the prices.
    pub fn of(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let millionths = fresh as f64 * self.prompt
            + cached as f64 * self.cached
            + usage.completion_tokens as f64 * self.completion;
        millionths / 1e6
    }
}

/// Where requests go, and the key that opens the door there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(crate) chat: Uri,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) key: SecretString,
}

/// Why no requests can be sent with what the configuration says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableEndpoint {
    /// The address is none that requests can go to.
    #[error("llm.base_url is no http or https address with a host; write it like https://api.openai.com/v1")]
    Address,
    /// The address holds a user name or password.
    #[error("llm.base_url holds a user name or password; give the key as llm.api_key_file instead")]
    UserInfo,
    /// The key cannot stand in a header.
    #[error("the llm's API key holds a line break or another character that no header may hold")]
    Key,
}

impl Endpoint {
    /// Of a server whose interface begins at `base_url`; an empty `key` means that none is sent.
    pub fn new(base_url: &Url, key: SecretString) -> Result<Self, UnusableEndpoint> {
        if !matches!(base_url.scheme(), "http" | "https") || base_url.host_str().is_none() {
            return Err(UnusableEndpoint::Address);
        }
        if !base_url.username().is_empty() || base_url.password().is_some() {
            return Err(UnusableEndpoint::UserInfo);
        }
        let mut chat = base_url.clone();
        chat.set_path(&format!("{}/chat/completions", base_url.path().trim_end_matches('/')));
        chat.set_fragment(None);
        let chat = chat.as_str().parse().map_err(|_| UnusableEndpoint::Address)?;
        let trimmed = key.expose_secret().trim();
        let authorization = if trimmed.is_empty() {
            None
        } else {
            let value = HeaderValue::try_from(format!("Bearer {trimmed}"));
            let mut value = value.map_err(|_| UnusableEndpoint::Key)?;
            value.set_sensitive(true);
            Some(value)
        };
        let key = SecretString::from(trimmed);
        Ok(Endpoint { chat, authorization, key })
    }
}

#[cfg(test)]
mod tests;
