//! What the processes of a fleet say to each other about one budget, as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::{Closed, Outcome, Tick};
use crate::headers::Observed;

/// No instant is later: the year 9999.
const LATEST: Duration = Duration::from_secs(253_402_300_800);
/// Most callers that one member says it has.
const MOST_JOBS: u32 = 1_000_000;
/// Most sizes that one message tells.
pub(super) const MOST_TOLD: usize = 64;
/// Most permits that one message gives back.
pub(super) const MOST_UNUSED: usize = 256;
/// No amount, and no second of any clock, is as large.
const MOST_NUMBER: f64 = 1e12;
/// No request has as many tokens.
const MOST_TOKENS: u64 = 1_000_000_000;

/// Whether no number in it is beyond all instants and amounts that there are.
pub(super) fn is_of_this_world(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() < MOST_NUMBER),
        Value::Array(values) => values.iter().all(is_of_this_world),
        Value::Object(fields) => fields.values().all(is_of_this_world),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// One message on a budget's channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub enum Word {
    /// To the keeper: who is there, and what for.
    Want(Want),
    /// To the keeper: how one request was met, where that cannot wait.
    Met(Met),
    /// From the keeper: who may send when.
    Plan(Plan),
}

impl Word {
    /// As it is said.
    pub fn encode(&self) -> Vec<u8> {
        // Structs of numbers and strings: there is nothing that JSON refuses.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// As it was heard; `None` of what this build does not understand, or cannot be meant.
    pub fn decode(words: &[u8]) -> Option<Word> {
        serde_json::from_slice(words).ok().filter(Word::is_plausible)
    }

    /// Whether it is for the keeper alone, as far as its beginning tells: of a thousand members each
    /// hears what each says.
    pub fn is_for_keeper(words: &[u8]) -> bool {
        words.starts_with(br#"{"word":"want""#) || words.starts_with(br#"{"word":"met""#)
    }

    /// Whether its numbers are of this world: nothing that is computed with them overflows.
    fn is_plausible(&self) -> bool {
        let instant = |at: Tick| at < LATEST;
        match self {
            Word::Want(want) => {
                want.jobs <= MOST_JOBS
                    && want.admitted.abs() < LATEST.as_secs_f64()
                    && want.tokens < MOST_TOKENS
                    && want.stock <= MOST_JOBS
                    && want.off.unsigned_abs() < MOST_TOKENS
                    && want.sizes.len() <= MOST_TOLD
                    && want.sizes.iter().all(|tokens| *tokens < MOST_TOKENS)
                    && want.unused.len() <= MOST_UNUSED
                    && want.unused.iter().all(|unused| instant(unused.at) && unused.tokens < MOST_TOKENS)
                    && want.observed.as_ref().is_none_or(|(sent, _)| instant(*sent))
            }
            Word::Met(met) => {
                instant(met.permit)
                    && instant(met.sent)
                    && met.closed.is_none_or(|closed| instant(closed.until))
            }
            Word::Plan(plan) => {
                let offset = |offset: &u64| *offset < LATEST.as_secs();
                [plan.at, plan.until, plan.next].into_iter().all(instant)
                    && plan.gate.is_none_or(|gate| instant(gate.until))
                    && plan.opens.is_none_or(instant)
                    && plan.slack < MOST_TOKENS
                    && plan.grants.iter().all(|grants| {
                        grants.offsets.iter().all(offset)
                            && grants.tokens < MOST_TOKENS
                            && grants.sizes.iter().all(|tokens| *tokens < MOST_TOKENS)
                    })
            }
        }
    }
}

/// A member's need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Want {
    /// Who.
    pub from: String,
    /// Callers that would send one request after another; 0 = nothing is needed, nothing is held.
    pub jobs: u32,
    /// When its callers' jobs were admitted, as a mean: seconds of the store's clock.
    pub admitted: f64,
    /// Tokens that a request costs, as it turned out.
    pub tokens: u64,
    /// Permits that it holds and has not used.
    #[serde(default)]
    pub stock: u32,
    /// Tokens of those that wait, in the order of their turns, where tokens are counted.
    #[serde(default)]
    pub sizes: Vec<u64>,
    /// Permits whose time came and that were not used.
    #[serde(default)]
    pub unused: Vec<Unused>,
    /// Tokens that answers cost beyond what was estimated since this was said last.
    #[serde(default)]
    pub off: i64,
    /// The newest answer's headers, and when its request was sent.
    pub observed: Option<(Tick, Observed)>,
}

/// A permit that was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// The permit's instant.
    pub at: Tick,
    /// Tokens that came with it.
    pub tokens: u64,
}

/// How one request was met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Met {
    /// Who sent it.
    pub from: String,
    /// The permit's instant.
    pub permit: Tick,
    /// When it was sent.
    pub sent: Tick,
    /// Tokens that it was estimated at.
    pub tokens: u64,
    /// How; `None`: it was not sent.
    pub outcome: Option<Outcome>,
    /// The gate that it closed.
    pub closed: Option<Closed>,
    /// The provider answers again: a gate that waited for that is open.
    pub reopened: bool,
}

/// Permits for the time to come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Grows with each keeper.
    pub epoch: u64,
    /// Who keeps the budget.
    pub keeper: String,
    /// What was granted before and not used is void.
    pub void: bool,
    /// Whether members must say what they want: the keeper is new.
    pub hello: bool,
    /// What the instants of `grants` count from.
    pub at: Tick,
    /// By member.
    pub grants: Vec<Grants>,
    /// When what is not used by then is void.
    pub until: Tick,
    /// When the next plan comes at the latest.
    pub next: Tick,
    /// Members with a need.
    pub members: u32,
    /// Requests a second, where known.
    pub rate: Option<f64>,
    /// Tokens a second, where known.
    pub token_rate: Option<f64>,
    /// When nobody is left without a window of his own: the end of the window that is being spent.
    pub opens: Option<Tick>,
    /// The gate.
    pub gate: Option<Closed>,
    /// How often members say that they are there, in seconds.
    pub say_each: f64,
    /// Whether there was less than members could use: then what is not used is given back.
    #[serde(default)]
    pub tight: bool,
    /// Tokens that a member's requests may cost beyond what was dealt for them before it says so.
    #[serde(default)]
    pub slack: u64,
}

/// One member's permits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grants {
    /// Whose.
    pub to: String,
    /// Tokens that come with each; 0 = they are not counted.
    pub tokens: u64,
    /// The last of them is a probe: used at once or not at all.
    pub probe: bool,
    /// Most requests in flight.
    pub flight: Option<u32>,
    /// When each may go, in microseconds after the plan's `at`.
    pub offsets: Vec<u64>,
    /// Tokens that come with each of them; fewer than there are offsets: `tokens` come with the rest.
    #[serde(default)]
    pub sizes: Vec<u64>,
}
