//! A job's steps as a story: when, after what wait, for how many tokens, and what happened.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_agent::settings::AgentSettings;
use steadfast_core::chat::{ModelAnswer, Usage};
use steadfast_core::effect::EffectOutcome;
use steadfast_core::journal::Event;
use steadfast_core::time::Timestamp;

use super::read::Read;
use crate::cli::print;

/// From this long between two steps on, the time between them is worth a word.
const PAUSE: Duration = Duration::from_secs(10);

/// What all steps of a job come to.
#[derive(Default)]
pub(super) struct Totals {
    pub turns: u32,
    pub tools: u32,
    pub failed_tools: u32,
    pub usage: Usage,
    /// By the servers' count and `llm.price`; `None` if a turn had no price or no count.
    pub cost: Option<f64>,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
    /// The time in pauses of [`PAUSE`] and more.
    pub waited: Duration,
}

impl Totals {
    pub fn of(reads: &[Read], settings: &AgentSettings) -> Self {
        let mut totals = Totals { cost: Some(0.0), ..Totals::default() };
        for step in reads.iter().filter_map(|read| read.step.as_ref().ok()) {
            totals.first.get_or_insert(step.at);
            let pause = totals.last.map_or(Duration::ZERO, |last| step.at.since(last));
            if pause >= PAUSE {
                totals.waited += pause;
            }
            totals.last = Some(step.at);
            match &step.event {
                Event::ModelAnswered { answer, .. } => {
                    totals.turns += 1;
                    totals.usage += answer.usage.unwrap_or_default();
                    totals.cost = totals.cost.zip(cost(answer, settings)).map(|(sum, cost)| sum + cost);
                }
                Event::ToolFinished { is_error, .. } => {
                    totals.tools += 1;
                    totals.failed_tools += u32::from(*is_error);
                }
                Event::Started { .. }
                | Event::ContextTooLong
                | Event::ToolStarted { .. }
                | Event::EffectAnnounced { .. }
                | Event::EffectConfirmed { .. }
                | Event::NothingToPublish
                | Event::ChangeRefused { .. }
                | Event::Ended { .. }
                | Event::Reopened => {}
            }
        }
        totals
    }

    pub fn as_json(&self) -> Value {
        json!({
            "turns": self.turns,
            "tools": self.tools,
            "failedTools": self.failed_tools,
            "tokens": {
                "prompt": self.usage.prompt_tokens,
                "cached": self.usage.cached_tokens,
                "completion": self.usage.completion_tokens,
            },
            "cost": self.cost,
            "firstStep": self.first,
            "lastStep": self.last,
            "betweenStepsMs": u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let Usage { prompt_tokens, cached_tokens, completion_tokens } = self.usage;
        let cost = match self.cost {
            Some(cost) if cost > 0.0 => format!("{cost:.4} by llm.price"),
            Some(_) | None => "cost not known".to_owned(),
        };
        let span = self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last.since(first));
        format!(
            "{} turns, {} tool results ({} failed), {prompt_tokens} prompt tokens ({cached_tokens} cached), \
             {completion_tokens} completion tokens, {cost}; {} from first step to last, {} of it in pauses",
            self.turns,
            self.tools,
            self.failed_tools,
            human(span),
            human(self.waited),
        )
    }
}

/// What an answer cost, if its model has a price and its tokens were counted.
fn cost(answer: &ModelAnswer, settings: &AgentSettings) -> Option<f64> {
    let usage = answer.usage.filter(|usage| usage.total() > 0)?;
    Some(settings.price(&answer.model)?.of(&usage))
}

/// The steps, a line each.
pub(super) fn told(reads: &[Read], settings: &AgentSettings) -> String {
    let mut out = String::new();
    let mut calls = HashMap::new();
    let mut before: Option<Timestamp> = None;
    for read in reads {
        let (number, step) = (
            read.number,
            match &read.step {
                Ok(step) => step,
                Err(error) => {
                    // Writing to a string has no way to fail.
                    let _ = writeln!(out, "{:>4}  {}", read.number, print::line(&error.to_string(), 200));
                    continue;
                }
            },
        );
        let pause = before.map_or(Duration::ZERO, |before| step.at.since(before));
        before = Some(step.at);
        if pause >= PAUSE {
            let _ = writeln!(out, "      ... {} later", human(pause));
        }
        if let Event::ModelAnswered { answer, .. } = &step.event {
            for call in &answer.tool_calls {
                calls.insert(call.id.as_str(), call.name.as_str());
            }
        }
        let line = print::line(&detail(&step.event, &calls, settings), 100);
        let _ = writeln!(out, "{number:>4}  {}  {:<16} {line}", step.at, step.event.kind());
    }
    out
}

/// A duration in at most two units: `3m 20s`.
fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let text = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A step in a line.
fn detail(event: &Event, calls: &HashMap<&str, &str>, settings: &AgentSettings) -> String {
    match event {
        Event::Started { base_commit, base_branch, .. } => format!("{base_branch} at {base_commit}"),
        Event::ModelAnswered { answer, endpoint } => {
            let by = endpoint.as_ref().map(|name| format!("{name} {}: ", answer.model)).unwrap_or_default();
            let tokens = answer.usage.map(|usage| format!("{} tokens", usage.total()));
            let cost =
                cost(answer, settings).filter(|cost| *cost > 0.0).map(|cost| format!("cost {cost:.4}"));
            let paid: Vec<String> = tokens.into_iter().chain(cost).collect();
            let paid = if paid.is_empty() { String::new() } else { format!("{}: ", paid.join(", ")) };
            let names: Vec<_> = answer.tool_calls.iter().map(|call| call.name.as_str()).collect();
            let said = answer.content.as_deref().unwrap_or("");
            if names.is_empty() {
                format!("{by}{paid}{said}")
            } else {
                format!("{by}{paid}{} {said}", names.join(", "))
            }
        }
        Event::ContextTooLong | Event::NothingToPublish => String::new(),
        Event::ToolStarted { call_id } => called(call_id, calls),
        Event::ToolFinished { call_id, output, is_error } => {
            let failed = if *is_error { " failed" } else { "" };
            format!("{}{failed}: {output}", called(call_id, calls))
        }
        Event::EffectAnnounced { key } => key.name(),
        Event::EffectConfirmed { key, outcome } => match outcome {
            EffectOutcome::Comment { url, .. } | EffectOutcome::PullRequest { url, .. } => {
                format!("{} {url}", key.name())
            }
            EffectOutcome::Branch { name, sha } => format!("{} {name} at {sha}", key.name()),
        },
        Event::ChangeRefused { why } => why.clone(),
        Event::Ended { end } => format!("{}: {}", end.status.as_str(), end.summary),
        Event::Reopened => "retried: its limits count anew".to_owned(),
    }
}

/// The tool of a call, or its id where the answer that asked for it cannot be read.
fn called(call_id: &str, calls: &HashMap<&str, &str>) -> String {
    calls.get(call_id).copied().unwrap_or(call_id).to_owned()
}

#[cfg(test)]
mod tests {
    use super::human;
    use std::time::Duration;

    #[test]
    fn a_duration_is_told_in_two_units() {
        for (ms, told) in [(0, "0ms"), (999, "999ms"), (61_500, "1m 1s"), (90_061_000, "1day 1h")] {
            assert_eq!(human(Duration::from_millis(ms)), told);
        }
    }
}
