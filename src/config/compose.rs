//! The configuration as one typed value, composed of the settings that each crate defines.
//!
//! The tables of the file and the crates' settings differ in a few places, for the sake of the
//! reader of the file: secrets stand beside the settings that they belong to, and what two parts
//! need to know is written once. [`Config::from_table`] is where that is untangled.

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use steadfast_actors::settings::EndpointBudget;
use steadfast_agent::prompts::Prompts;
use steadfast_agent::settings::AgentSettings;
use steadfast_llm::EndpointSettings;
use steadfast_store::Location;
use steadfast_store::settings::with_one_host;
use toml::{Table, Value};

use super::endpoints;

/// `[log]`: what is logged and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// `auto`: text on a terminal, JSON otherwise.
    pub format: LogFormat,
    /// The least level, and by part if wanted: `info`, `info,steadfast_llm=debug`.
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
    /// `[queue]`.
    pub queue: steadfast_store::Settings,
    /// `[llm]`.
    pub llm: steadfast_llm::Settings,
    /// `[[llm.endpoints]]`, the preferred one first; empty: `[llm]` alone is the one endpoint.
    pub llm_endpoints: Vec<EndpointSettings>,
    /// `[github]`.
    pub github: steadfast_github::Settings,
    /// `[http]`.
    pub http: steadfast_http::Settings,
    /// `[agent]`; the model's properties in it come from `[llm]`.
    pub agent: AgentSettings,
    /// `[job]`, `[supervisor]`, `[actors]`, `[alerts]`, `[metrics]`, `[breaker]`, `[retry_budget]`, and
    /// every layer's retry and limits.
    pub actors: steadfast_actors::Settings,
    /// `[log]`.
    pub log: LogSettings,
}

impl Config {
    /// Reads the whole of it. `values` holds every key of the compiled-in file.
    pub fn from_table(values: &Table) -> anyhow::Result<Self> {
        let mut values = values.clone();
        let mut queue = table(&mut values, "queue")?;
        let store_retry = untried(&mut queue)?;
        let mut queue: steadfast_store::Settings = read(queue)?;

        let mut llm = table(&mut values, "llm")?;
        without_secrets(&mut llm, &["api_key", "api_key_file"]);
        let llm_retry = take(&mut llm, "retry")?;
        let limits = llm.remove("limits").context("llm.limits is missing")?;
        let price = llm.get("price").cloned().context("llm.price is missing")?;
        let endpoints = llm.remove("endpoints").context("llm.endpoints is missing")?;
        let llm_endpoints = endpoints::read(endpoints, &price, &limits)?;
        let llm_limits = read(limits)?;
        let llm: steadfast_llm::Settings = read(llm)?;

        let mut github = table(&mut values, "github")?;
        without_secrets(&mut github, &["private_key", "private_key_file", "token", "token_file"]);
        let token_retry = take(&mut github, "token_retry")?;
        let github_retry = take(&mut github, "retry")?;
        let github_limits = take(&mut github, "limits")?;
        let github: steadfast_github::Settings = read(github)?;

        let mut agent = table(&mut values, "agent")?;
        // Properties of the model: written once, under [llm].
        agent.insert("context_window".into(), i64::from(llm.context_window).into());
        agent.insert("max_answer_tokens".into(), i64::from(llm.max_answer_tokens).into());
        let mut prices = Table::new();
        if costs(&llm.price) {
            prices.insert("*".into(), Value::try_from(llm.price)?);
        }
        let mut endpoint_prices = Table::new();
        for endpoint in &llm_endpoints {
            // A free one among others that cost is known to be free.
            if costs(&endpoint.price) || costs(&llm.price) {
                endpoint_prices.insert(endpoint.name.clone(), Value::try_from(endpoint.price)?);
            }
        }
        agent.insert("prices".into(), prices.into());
        agent.insert("endpoint_prices".into(), endpoint_prices.into());
        let agent = read(agent)?;

        let mut job = table(&mut values, "job")?;
        // The number of runs is job.max_attempts: not a second time in [job.retry].
        let attempts = job.get("max_attempts").cloned();
        if let (Some(Value::Table(retry)), Some(attempts)) = (job.get_mut("retry"), attempts) {
            insert_once(retry, "max_attempts", attempts)?;
        }
        let job: steadfast_actors::settings::JobSettings = read(job)?;
        // A limit on what runs, which only the queue can count for the whole fleet.
        queue.per_repo_concurrency = job.per_repo_concurrency;
        let mut alerts = table(&mut values, "alerts")?;
        without_secrets(&mut alerts, &["webhook", "webhook_file"]);
        let budget = |endpoint: &EndpointSettings| EndpointBudget {
            name: endpoint.name.clone(),
            limits: endpoint.limits.clone(),
        };
        let actors = steadfast_actors::Settings {
            alerts: read(alerts)?,
            job,
            supervisor: take(&mut values, "supervisor")?,
            actors: take(&mut values, "actors")?,
            metrics: take(&mut values, "metrics")?,
            breaker: take(&mut values, "breaker")?,
            retry_budget: take(&mut values, "retry_budget")?,
            credentials_recheck: llm.quota_recheck,
            lease: queue.lease,
            store_retry,
            llm_retry,
            llm_limits,
            llm_endpoints: llm_endpoints.iter().map(budget).collect(),
            llm_spacing: llm.spacing,
            token_retry,
            github_retry,
            github_limits,
            github_shown_after: github.shown_after,
        };
        let http = take(&mut values, "http")?;
        let log = take(&mut values, "log")?;
        if let Some(name) = values.keys().next() {
            anyhow::bail!("[{name}] belongs to no part of the program");
        }
        Ok(Config { queue, llm, llm_endpoints, github, http, agent, actors, log })
    }

    /// What the parts themselves object to, as `(key, message)`, once all values are known.
    pub fn objections(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        match self.queue.url.parse() {
            Ok(Location::Memory | Location::Sqlite(_)) => {}
            Ok(Location::Redis(url)) => {
                let socket = url.starts_with("redis+unix:");
                let host = url::Url::parse(&with_one_host(&url))
                    .is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()));
                if !socket && !host {
                    let message =
                        "names no host: write redis://HOST:6379, a password before it as :PASSWORD@";
                    found.push(("queue.url".to_owned(), message.to_owned()));
                }
            }
            Err(error) => found.push(("queue.url".to_owned(), error.to_string())),
        }
        if let Err(error) = self.agent.check() {
            let key = match error.key {
                "context_window" | "max_answer_tokens" => format!("llm.{}", error.key),
                "prices" => "llm.price.prompt".to_owned(),
                key => format!("agent.{key}"),
            };
            found.push((key, format!("is {}: {}", error.value, error.needs)));
        }
        let prompts = Prompts::problems(&self.agent).into_iter();
        found.extend(prompts.map(|(key, message)| (key.to_owned(), message)));
        if let Err(error) = crate::logs::filter(&self.log.level) {
            found.push(("log.level".to_owned(), error.to_string()));
        }
        for (key, url) in [
            ("llm.base_url", &self.llm.base_url),
            ("github.api_url", &self.github.api_url),
            ("github.web_url", &self.github.web_url),
        ] {
            found.extend(address_problem(url).map(|message| (key.to_owned(), message.to_owned())));
        }
        for endpoint in &self.llm_endpoints {
            let tell =
                |message| (endpoints::KEY.to_owned(), format!("{}: base_url {message}", endpoint.name));
            found.extend(address_problem(&endpoint.base_url).map(tell));
        }
        // Else a token of the one server would be handed to the other by git.
        let (api, web) = (&self.github.api_url, &self.github.web_url);
        let ours = [api.host_str() == Some("api.github.com"), web.host_str() == Some("github.com")];
        let apart = match ours {
            [true, true] | [false, false] => None,
            [false, true] => Some(("github.api_url", api, "github.web_url", web)),
            [true, false] => Some(("github.web_url", web, "github.api_url", api)),
        };
        if let Some((key, url, other, still)) = apart {
            let message = format!("is {url}, while {other} is {still}: set both, to the same server");
            found.push((key.to_owned(), message));
        }
        found
    }
}

/// What is wrong with the address of an interface, if anything.
fn address_problem(url: &url::Url) -> Option<&'static str> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Some("is no http or https address with a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("holds a user or password: give secrets by their own keys");
    }
    let ends = url.query().is_some() || url.fragment().is_some();
    ends.then_some("ends in a query or fragment, to which nothing can be appended")
}

/// Whether anything costs.
fn costs(price: &steadfast_llm::Price) -> bool {
    [price.prompt, price.cached, price.completion].iter().any(|price| *price != 0.0)
}

/// Takes a table out.
fn table(values: &mut Table, name: &str) -> anyhow::Result<Table> {
    match values.remove(name) {
        Some(Value::Table(table)) => Ok(table),
        Some(_) | None => anyhow::bail!("[{name}] is missing"),
    }
}

/// Takes a key or table out and reads it.
fn take<T: DeserializeOwned>(values: &mut Table, name: &str) -> anyhow::Result<T> {
    match values.remove(name) {
        Some(value) => read(value),
        None => anyhow::bail!("{name} is missing"),
    }
}

/// Reads a value of our making, or a leaf of the file.
pub(super) fn read<T: DeserializeOwned>(value: impl Into<Value>) -> anyhow::Result<T> {
    // `value` is of our making or a leaf of the file: without spans, only the message is of use.
    T::deserialize(value.into()).map_err(|error: toml::de::Error| anyhow::anyhow!("{}", error.message()))
}

/// Secrets are read by `secrets.rs`; here only their kind is checked.
fn without_secrets(values: &mut Table, keys: &[&str]) {
    values.retain(|key, value| !keys.contains(&key) || !value.is_str());
}

/// A `retry` table without a number of tries: what it is for is tried for ever.
fn untried(values: &mut Table) -> anyhow::Result<steadfast_core::retry::RetryPolicy> {
    let mut retry = table(values, "retry")?;
    insert_once(&mut retry, "max_attempts", i64::from(u32::MAX).into())?;
    read(retry)
}

fn insert_once(values: &mut Table, key: &str, value: Value) -> anyhow::Result<()> {
    match values.insert(key.to_owned(), value) {
        None => Ok(()),
        Some(_) => anyhow::bail!("{key} is no key here"),
    }
}
