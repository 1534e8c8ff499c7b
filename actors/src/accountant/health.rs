//! What the processes of a fleet tell each other of a provider that fails, so that all of them together
//! send into an outage what one would.
//!
//! Said on the budget's channel, and only while something fails: each failure, each probe, and the
//! first answer in good order. Where one process alone fails, the others' answers end the suspicion.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_core::budget::Tick;

/// No call is out for longer.
const LONGEST_CALL: Duration = Duration::from_secs(86_400);
/// Most that wait to be said.
const MOST_NEWS: usize = 64;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// One goes out, to see whether the provider is back.
    Probing,
    /// It failed.
    Failed,
    /// It ended in good order, after others failed.
    Well,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always [`WORD`]: what builds that know another tell it by.
    word: String,
    /// Who says so.
    pub from: String,
    /// Of which operation.
    pub operation: String,
    /// What.
    pub event: Event,
    /// For how long the call was out.
    ms: u64,
}

/// Tells it from a budget's own words.
const WORD: &str = "health";

impl Health {
    /// As it is said.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and a number: there is nothing that JSON refuses.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// As it was heard; `None` of a budget's own words and of what cannot be meant.
    pub fn decode(words: &[u8]) -> Option<Health> {
        if !words.starts_with(br#"{"word":"health""#) {
            return None;
        }
        let health: Health = serde_json::from_slice(words).ok()?;
        (health.word == WORD && health.out() <= LONGEST_CALL).then_some(health)
    }

    /// For how long the call was out.
    pub fn out(&self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

/// What this process has to say; nothing where it shares with nobody.
#[derive(Clone, Debug, Default)]
pub struct News {
    me: Option<String>,
    said: Vec<Health>,
}

impl News {
    /// Of a process called `me`.
    pub fn of(me: &str) -> Self {
        News { me: Some(me.to_owned()), said: Vec::new() }
    }

    /// Whether it was said by this process.
    pub fn is_own(&self, health: &Health) -> bool {
        self.me.as_ref() == Some(&health.from)
    }

    /// This happened at `now` to the call of `sent`.
    pub fn tell(&mut self, now: Tick, sent: Tick, operation: &str, event: Event) {
        let Some(from) = self.me.clone().filter(|_| self.said.len() < MOST_NEWS) else { return };
        let ms = u64::try_from(now.saturating_sub(sent).as_millis()).unwrap_or(u64::MAX);
        self.said.push(Health { word: WORD.to_owned(), from, operation: operation.to_owned(), event, ms });
    }

    /// What is to be said now.
    pub fn take(&mut self) -> Vec<Health> {
        std::mem::take(&mut self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_back_and_nothing_else_is_taken_for_it() {
        let mut news = News::of("a#1");
        news.tell(Duration::from_secs(9), Duration::from_secs(2), "chat", Event::Failed);
        let said = news.take();
        let heard = Health::decode(&said[0].encode()).unwrap();
        assert_eq!((&heard, heard.out()), (&said[0], Duration::from_secs(7)));
        assert!(news.is_own(&heard) && !News::of("b#1").is_own(&heard) && news.take().is_empty());
        let absurd = String::from_utf8(said[0].encode()).unwrap().replace("7000", "999999999999999");
        for words in [br#"{"word":"want","from":"a"}"#.as_slice(), br#"{"word":"health"}"#, absurd.as_bytes()]
        {
            assert_eq!(Health::decode(words), None);
        }
        let mut alone = News::default();
        alone.tell(Duration::ZERO, Duration::ZERO, "chat", Event::Well);
        assert!(alone.take().is_empty());
    }
}
