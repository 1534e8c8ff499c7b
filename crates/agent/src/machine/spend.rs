//! What a job has used of its turns, tokens and money, and when that is too much.

use steadfast_core::chat::{ModelAnswer, Usage};
use steadfast_core::end::EndReason;

use super::conversation::estimate_answer;
use super::words;
use crate::settings::AgentSettings;

/// What a job has used so far. Only answers that came are in it; a call that failed halfway may
/// have been charged for besides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spend {
    /// Model turns.
    pub turns: u32,
    /// Tokens, by the servers' count where they gave one, else estimated.
    pub usage: Usage,
    /// Money, in the currency of `agent.prices`.
    pub cost: f64,
    /// Turns whose tokens are estimated.
    pub estimated_turns: u32,
    /// Turns of a model that `agent.prices` does not have: they are not in `cost`.
    pub unpriced_turns: u32,
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reached {
    pub reason: EndReason,
    pub why: String,
}

/// [`Spend`], and what the model was told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Purse {
    pub spend: Spend,
    /// What was used before the job was opened again: limits count from there.
    before: Spend,
    told_budget: bool,
}

impl Purse {
    /// One answer more, of that endpoint, to a request of `prompt` tokens by our own count.
    pub(super) fn pay(
        &mut self,
        settings: &AgentSettings,
        answer: &ModelAnswer,
        endpoint: Option<&str>,
        prompt: u64,
    ) {
        let spend = &mut self.spend;
        spend.turns += 1;
        // Some servers send zeros for "not counted".
        let counted = answer.usage.filter(|usage| usage.total() > 0);
        let usage = counted.unwrap_or_else(|| {
            spend.estimated_turns += 1;
            Usage { prompt_tokens: prompt, completion_tokens: estimate_answer(answer), cached_tokens: 0 }
        });
        spend.usage += usage;
        let at_endpoint = endpoint.and_then(|name| settings.endpoint_prices.get(name)).copied();
        match at_endpoint.or_else(|| settings.price(&answer.model)) {
            Some(price) => spend.cost += price.of(&usage),
            None => spend.unpriced_turns += 1,
        }
    }

    /// The limits count from here.
    pub(super) fn begin_anew(&mut self) {
        (self.before, self.told_budget) = (self.spend, false);
    }

    /// Turns that count.
    fn turns(&self) -> u32 {
        self.spend.turns - self.before.turns
    }

    /// The limit that forbids another turn, if any.
    pub(super) fn reached(&self, settings: &AgentSettings) -> Option<Reached> {
        if self.turns() >= settings.max_turns {
            let why = format!("all {} turns are used (agent.max_turns)", settings.max_turns);
            return Some(Reached { reason: EndReason::TurnLimit, why });
        }
        let budget = self.budgets(settings).into_iter().find(|budget| budget.share >= 1.0)?;
        let why = format!("{} of {} are used ({})", budget.used, budget.what, budget.key);
        Some(Reached { reason: EndReason::SpendLimit, why })
    }

    /// What the model is to be told before the next turn, if a limit is near.
    pub(super) fn warning(&mut self, settings: &AgentSettings) -> Option<String> {
        let left = settings.max_turns.saturating_sub(self.turns());
        let near = settings.wrap_up_turns > 0 && (left == settings.wrap_up_turns || left == 1);
        // A job that may take one turn only is told by its prompt.
        let turns = (near && self.turns() > 0).then(|| words::turns_left(left));
        let budget = self.budgets(settings).into_iter().find(|b| b.share >= settings.wrap_up_share);
        let budget = budget.filter(|_| !self.told_budget).map(|b| words::budget_nearly_spent(b.what));
        self.told_budget |= budget.is_some();
        turns.or(budget)
    }

    fn budgets(&self, settings: &AgentSettings) -> Vec<Budget> {
        let (usage, before) = (self.spend.usage, self.before.usage);
        let budget = |what, key, used: f64, limit: f64| {
            (limit > 0.0).then(|| Budget { what, key, used, share: used / limit })
        };
        // Token counts are far below 2^53: exact as f64.
        let all = [
            budget(
                "prompt tokens",
                "agent.max_prompt_tokens",
                (usage.prompt_tokens - before.prompt_tokens) as f64,
                settings.max_prompt_tokens as f64,
            ),
            budget(
                "completion tokens",
                "agent.max_completion_tokens",
                (usage.completion_tokens - before.completion_tokens) as f64,
                settings.max_completion_tokens as f64,
            ),
            budget("cost", "agent.max_cost", self.spend.cost - self.before.cost, settings.max_cost),
        ];
        all.into_iter().flatten().collect()
    }
}

/// One limit on tokens or money, and how much of it is used.
struct Budget {
    what: &'static str,
    key: &'static str,
    used: f64,
    share: f64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use steadfast_core::chat::FinishReason;

    use super::*;
    use crate::settings::Price;
    use crate::settings::tests::settings;

    fn answer(usage: Option<Usage>) -> ModelAnswer {
        ModelAnswer {
            content: Some("x".repeat(40)),
            reasoning: Some("y".repeat(40)),
            tool_calls: Vec::new(),
            finish: FinishReason::Stop,
            usage,
            model: "m-1".into(),
            request_id: None,
        }
    }

    #[test]
    fn missing_counts_and_prices_are_said_so() {
        let mut purse = Purse::default();
        purse.pay(&settings(), &answer(None), None, 500);
        let used = Usage { prompt_tokens: 500, completion_tokens: 20, cached_tokens: 0 };
        let spend = Spend { turns: 1, usage: used, cost: 0.0, estimated_turns: 1, unpriced_turns: 1 };
        assert_eq!(purse.spend, spend);
        purse.pay(&settings(), &answer(Some(Usage::default())), None, 500);
        assert_eq!((purse.spend.estimated_turns, purse.spend.usage.prompt_tokens), (2, 1_000));
    }

    #[test]
    fn money_ends_a_job_after_a_warning() {
        let price = Price { prompt: 1.0, cached: 0.1, completion: 10.0 };
        let settings =
            AgentSettings { max_cost: 2.0, prices: BTreeMap::from([("m".into(), price)]), ..settings() };
        let mut purse = Purse::default();
        let usage = Usage { prompt_tokens: 950_000, completion_tokens: 0, cached_tokens: 0 };
        purse.pay(&settings, &answer(Some(usage)), None, 0);
        assert_eq!((purse.warning(&settings), purse.reached(&settings)), (None, None));
        purse.pay(&settings, &answer(Some(usage)), None, 0);
        assert!(purse.warning(&settings).is_some_and(|text| text.contains("cost")));
        assert_eq!(purse.warning(&settings), None, "told once");
        assert_eq!(purse.reached(&settings), None);
        purse.pay(&settings, &answer(Some(usage)), None, 0);
        let reached = purse.reached(&settings).unwrap();
        assert_eq!(reached.reason, EndReason::SpendLimit);
        assert!(reached.why.contains("agent.max_cost"), "{}", reached.why);
    }

    #[test]
    fn a_job_that_is_opened_again_has_its_limits_anew() {
        let settings = AgentSettings { max_turns: 2, max_prompt_tokens: 1_000, ..settings() };
        let mut purse = Purse::default();
        let usage = Usage { prompt_tokens: 400, completion_tokens: 1, cached_tokens: 0 };
        for round in 1..=3 {
            for _ in 0..2 {
                assert_eq!(purse.reached(&settings), None);
                purse.pay(&settings, &answer(Some(usage)), None, 0);
            }
            assert_eq!(purse.reached(&settings).map(|reached| reached.reason), Some(EndReason::TurnLimit));
            assert_eq!(
                (purse.spend.turns, purse.spend.usage.prompt_tokens),
                (2 * round, u64::from(800 * round))
            );
            purse.begin_anew();
        }
    }

    #[test]
    fn an_endpoint_has_its_own_price_whatever_model_answers() {
        let price = |prompt| Price { prompt, cached: 0.0, completion: 0.0 };
        let settings = AgentSettings {
            prices: BTreeMap::from([("*".into(), price(1.0))]),
            endpoint_prices: BTreeMap::from([("spare".into(), price(5.0))]),
            ..settings()
        };
        let usage = Usage { prompt_tokens: 1_000_000, completion_tokens: 0, cached_tokens: 0 };
        let mut purse = Purse::default();
        for (endpoint, cost) in [(None, 1.0), (Some("spare"), 6.0), (Some("other"), 7.0)] {
            purse.pay(&settings, &answer(Some(usage)), endpoint, 0);
            assert_eq!(purse.spend.cost, cost, "{endpoint:?}");
        }
    }

    #[test]
    fn the_last_turns_are_announced() {
        let settings = AgentSettings { max_turns: 5, ..settings() };
        let mut purse = Purse::default();
        let mut told = Vec::new();
        while purse.reached(&settings).is_none() {
            purse.pay(&settings, &answer(None), None, 1);
            told.push(purse.warning(&settings).is_some());
        }
        assert_eq!(told, [false, true, false, true, false]);
        assert_eq!(purse.reached(&settings).unwrap().reason, EndReason::TurnLimit);
    }
}
