//! The `[agent]` table of config.toml: the agent's limits, its context, its prompts, its words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::git::GitSettings;
use crate::jail::{CommandSettings, JailSettings};

/// How the agent works, and where it stops. Every number has its default in config.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// Most model turns of a job; at least 1. Default 30.
    pub max_turns: u32,
    /// The model is told to wrap up when this many turns are left, and again at the last one;
    /// 0 = never. Default 3.
    pub wrap_up_turns: u32,
    /// The share of a token or cost limit, 0 to 1, at which the model is told to wrap up.
    /// Default 0.9.
    pub wrap_up_share: f64,
    /// Most answers in a row that hold no tool call, after the model was told once; those that were
    /// cut off count once there were as many of them. Default 3.
    pub max_format_errors: u32,
    /// Most empty answers in a row. Default 3.
    pub max_empty_turns: u32,
    /// Most tool calls of one turn that are run; the rest are answered with an error. Default 16.
    pub max_calls_per_turn: u32,
    /// The same call with the same result this many times is pointed out to the model, once; then
    /// the job ends as stuck. At least 2. Default 3.
    pub max_repeats: u32,
    /// Most comments that the model may write on the issue. Default 5.
    pub max_comments: u32,
    /// Most times that a change that must not be pushed goes back to the model to be mended. Then
    /// the job fails. Default 3.
    pub max_refused_changes: u32,

    /// Most prompt tokens of a job, cached ones among them; 0 = no limit. Default 3,000,000.
    pub max_prompt_tokens: u64,
    /// Most completion tokens of a job, reasoning among them; 0 = no limit. Default 200,000.
    pub max_completion_tokens: u64,
    /// Most that a job may cost, in the currency of `prices`; 0 = no limit. Default 0.
    pub max_cost: f64,
    /// Price of tokens by model, from `[llm.price]`. A key is a model's name, the beginning of one,
    /// or `*` for all others. A model without a price counts as free
    /// ([`crate::machine::Spend::unpriced_turns`]).
    pub prices: BTreeMap<String, Price>,
    /// Price of tokens by endpoint, from `[[llm.endpoints]]`: before that of the model.
    pub endpoint_prices: BTreeMap<String, Price>,

    /// Tokens that the model takes, question and answer together: `llm.context_window`.
    /// Default 128,000.
    pub context_window: u64,
    /// The share of the window, 0 to 1, past which old tool outputs are left out. Default 0.8.
    pub compact_at: f64,
    /// The share of the window, 0 to 1, that compaction aims at: below `compact_at` by far, so
    /// that it is seldom and the provider's prompt cache holds between. Default 0.4.
    pub compact_to: f64,
    /// The newest tool outputs that compaction keeps whole. Default 6.
    pub keep_outputs: u32,
    /// Most tokens of one answer: `llm.max_answer_tokens`. Default 8,192.
    pub max_answer_tokens: u32,

    /// Commands that check the repository, run by the runner before the first edit and before the
    /// pull request: `["cargo test"]`. The pull request tells of both. Default none.
    pub checks: Vec<String>,

    /// A minijinja file in place of the built-in system prompt; empty = built in. Default empty.
    pub system_prompt_file: PathBuf,
    /// A minijinja file in place of the built-in task prompt; empty = built in. Default empty.
    pub task_prompt_file: PathBuf,
    /// Most bytes of the issue's text, and of `args`, in the task prompt. Default 64KB.
    pub max_issue_bytes: ByteSize,
    /// Most bytes of the repository's AGENTS.md in the task prompt. Default 32KB.
    pub max_conventions_bytes: ByteSize,
    /// What branch names begin with; must be one that git takes. Default `steadfast/`.
    pub branch_prefix: String,
    /// The commits' author in place of the App's bot; empty = the bot. Default empty.
    pub identity_name: String,
    /// The author's address in place of the bot's; empty = the bot's. Default empty.
    pub identity_email: String,
    /// Where jobs have their workspaces; made if it is not there. Default `/var/tmp/steadfast`.
    pub workspaces: PathBuf,

    /// `[agent.command]`: the bounds of one command.
    pub command: CommandSettings,
    /// `[agent.jail]`: how commands are locked in.
    pub jail: JailSettings,
    /// `[agent.git]`: how git is run, and what may be pushed.
    pub git: GitSettings,
}

/// What a million tokens cost, in any one currency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of prompt tokens that the provider's cache did not hold.
    pub prompt: f64,
    /// Of prompt tokens that it held.
    pub cached: f64,
    /// Of completion tokens.
    pub completion: f64,
}

/// A key whose value cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("agent.{key} is {value}: {needs}")]
pub struct SettingsError {
    /// Which key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it has to be.
    pub needs: &'static str,
}

impl AgentSettings {
    /// Checks what the types cannot say.
    pub fn check(&self) -> Result<(), SettingsError> {
        let bad = |key, value: String, needs| Err(SettingsError { key, value, needs });
        if self.max_turns == 0 {
            return bad("max_turns", "0".into(), "at least 1");
        }
        if self.max_repeats < 2 {
            return bad("max_repeats", self.max_repeats.to_string(), "at least 2");
        }
        if self.max_calls_per_turn == 0 {
            return bad("max_calls_per_turn", "0".into(), "at least 1");
        }
        let shares = [
            ("wrap_up_share", self.wrap_up_share),
            ("compact_at", self.compact_at),
            ("compact_to", self.compact_to),
        ];
        for (key, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return bad(key, share.to_string(), "a share, 0 to 1");
            }
        }
        if self.compact_to >= self.compact_at {
            return bad("compact_to", self.compact_to.to_string(), "must be less than compact_at");
        }
        if u64::from(self.max_answer_tokens) >= self.context_window || self.max_answer_tokens == 0 {
            let needs = "at least 1, and less than context_window";
            return bad("max_answer_tokens", self.max_answer_tokens.to_string(), needs);
        }
        let branch = format!("{}x", self.branch_prefix);
        if !steadfast_core::job::is_git_ref(&branch) {
            return bad("branch_prefix", self.branch_prefix.clone(), "must begin a name that git takes");
        }
        let prices = self.prices.values().chain(self.endpoint_prices.values());
        let amounts = prices.flat_map(|p| [p.prompt, p.cached, p.completion]);
        if amounts.chain([self.max_cost]).any(|amount| !amount.is_finite() || amount < 0.0) {
            return bad("prices", "negative or no number".into(), "prices and max_cost are 0 or more");
        }
        Ok(())
    }

    /// The price of `model`: by its name, else by the longest key that it begins with, else by `*`.
    pub fn price(&self, model: &str) -> Option<Price> {
        let prefixes = self.prices.iter().filter(|(key, _)| model.starts_with(key.as_str()));
        let best = prefixes.max_by_key(|(key, _)| key.len()).map(|(_, price)| price);
        best.or_else(|| self.prices.get("*")).copied()
    }
}

impl Price {
    /// What `usage` costs.
    pub fn of(&self, usage: &steadfast_core::chat::Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let parts = [
            (usage.prompt_tokens - cached, self.prompt),
            (cached, self.cached),
            (usage.completion_tokens, self.completion),
        ];
        // Token counts are far below 2^53: exact as f64.
        parts.iter().map(|(tokens, price)| *tokens as f64 * price / 1_000_000.0).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use steadfast_core::chat::Usage;

    use super::*;
    use crate::jail::{Level, SYSTEM};

    /// Settings as config.toml has them.
    pub(crate) fn settings() -> AgentSettings {
        AgentSettings {
            max_turns: 30,
            wrap_up_turns: 3,
            wrap_up_share: 0.9,
            max_format_errors: 3,
            max_empty_turns: 3,
            max_calls_per_turn: 16,
            max_repeats: 3,
            max_comments: 5,
            max_refused_changes: 3,
            max_prompt_tokens: 3_000_000,
            max_completion_tokens: 200_000,
            max_cost: 0.0,
            prices: BTreeMap::new(),
            endpoint_prices: BTreeMap::new(),
            context_window: 128_000,
            compact_at: 0.8,
            compact_to: 0.4,
            keep_outputs: 6,
            max_answer_tokens: 8_192,
            checks: Vec::new(),
            system_prompt_file: PathBuf::new(),
            task_prompt_file: PathBuf::new(),
            max_issue_bytes: ByteSize::kb(64),
            max_conventions_bytes: ByteSize::kb(32),
            branch_prefix: "steadfast/".into(),
            identity_name: String::new(),
            identity_email: String::new(),
            workspaces: "/var/tmp/steadfast".into(),
            command: CommandSettings {
                timeout: Duration::from_secs(120),
                max_timeout: Duration::from_secs(600),
                cpu: Duration::from_secs(600),
                memory: ByteSize::gb(4),
                processes: 512,
                file_size: ByteSize::gb(1),
                open_files: 1024,
                max_output_bytes: ByteSize::kb(32),
            },
            jail: JailSettings {
                min_level: Level::Landlock,
                network: false,
                env_allow: vec!["PATH".into()],
                system: SYSTEM.iter().map(PathBuf::from).collect(),
                bubblewrap: "bwrap".into(),
            },
            git: GitSettings {
                program: "git".into(),
                fetch_timeout: Duration::from_secs(600),
                push_timeout: Duration::from_secs(300),
                timeout: Duration::from_secs(120),
                max_file_bytes: ByteSize::gb(4),
                allow_workflows: false,
                max_changed_files: 100,
                max_patch_bytes: ByteSize::mb(1),
            },
        }
    }

    #[test]
    fn the_longest_key_prices_a_model() {
        let price = |prompt| Price { prompt, cached: 0.0, completion: 0.0 };
        let mut settings = settings();
        assert_eq!(settings.price("gpt-4o"), None);
        settings.prices = BTreeMap::from([
            ("*".into(), price(1.0)),
            ("gpt-4o".into(), price(2.0)),
            ("gpt-4o-mini".into(), price(3.0)),
        ]);
        let found = |model: &str| settings.price(model).map(|p| p.prompt);
        assert_eq!(found("gpt-4o-2024-08-06"), Some(2.0));
        assert_eq!(found("gpt-4o-mini-2024-07-18"), Some(3.0));
        assert_eq!(found("other"), Some(1.0));
    }

    #[test]
    fn cached_tokens_have_their_own_price() {
        let price = Price { prompt: 2.0, cached: 0.5, completion: 10.0 };
        let usage = Usage { prompt_tokens: 1_000_000, completion_tokens: 100_000, cached_tokens: 400_000 };
        assert!((price.of(&usage) - (1.2 + 0.2 + 1.0)).abs() < 1e-9);
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        assert_eq!(settings().check(), Ok(()));
        type Change = fn(&mut AgentSettings);
        let cases: [(Change, &str); 7] = [
            (|s| s.max_turns = 0, "max_turns"),
            (|s| s.max_repeats = 1, "max_repeats"),
            (|s| s.compact_at = 1.5, "compact_at"),
            (|s| s.compact_to = 0.8, "compact_to"),
            (|s| s.max_answer_tokens = 128_000, "max_answer_tokens"),
            (|s| s.branch_prefix = "bad branch/".into(), "branch_prefix"),
            (|s| s.max_cost = f64::NAN, "prices"),
        ];
        for (change, key) in cases {
            let mut settings = settings();
            change(&mut settings);
            assert_eq!(settings.check().map_err(|e| e.key), Err(key));
        }
    }
}
