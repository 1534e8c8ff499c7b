//! The limit ledger in Redis: an entry a budget, one script, and one channel for all.

use std::sync::Arc;

use async_trait::async_trait;
use redis::aio::PubSubSink;
use redis::{Script, cmd};
use steadfast_core::time::Timestamp;

use super::keys::Keys;
use super::link::{Call, Link, Words};
use crate::ledger::{Heard, KEPT, Keep, Kept, Ledger, Listener, Noted, SURELY_THERE, check};
use crate::{Result, StoreError};

/// See the module.
pub(super) struct RedisLedger {
    pub link: Arc<Link>,
    pub keys: Keys,
    pub script: Script,
}

impl RedisLedger {
    pub fn new(link: Arc<Link>, keys: Keys) -> Self {
        RedisLedger { link, keys, script: Script::new(include_str!("lua/keep.lua")) }
    }
}

/// `granted, keeper, epoch, now, until, note, noted at, channels of those present`.
type Answer = (u8, String, String, String, String, Vec<u8>, String, Vec<String>);

fn number(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()> {
        check(budget, None, Some(words))?;
        let mut message = budget.as_bytes().to_vec();
        message.push(b'\n');
        message.extend_from_slice(words);
        let publish = cmd("PUBLISH").arg(self.keys.ledger_channel()).arg(message).to_owned();
        self.link.command::<i64>(&publish).await.map(|_| ())
    }

    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept> {
        check(budget, Some(keep), None)?;
        let presence = self.keys.ledger_presence("");
        let call = Call::bare([self.keys.ledger(budget), self.keys.ledger_index()])
            .arg(&keep.member)
            .arg(keep.epoch)
            .arg(keep.lease.as_millis())
            .bytes(keep.note.as_deref().unwrap_or_default())
            .bytes(keep.words.as_deref().unwrap_or_default())
            .arg(self.keys.ledger_channel())
            .arg(&presence)
            .arg(budget)
            .arg(KEPT.as_millis())
            .arg(SURELY_THERE.as_millis());
        let answer: Answer = self.link.script(&self.script, &call).await?;
        let (granted, keeper, epoch, now, until, note, noted_at, present) = answer;
        let name = |channel: &String| channel.strip_prefix(&presence).map(str::to_owned);
        let noted_at = Timestamp::from_millis(number(&noted_at));
        Ok(Kept {
            yours: granted == 1,
            keeper,
            epoch: u64::try_from(number(&epoch)).unwrap_or(0),
            now: Timestamp::from_millis(number(&now)),
            until: Timestamp::from_millis(number(&until)),
            note: (!note.is_empty()).then_some((note, noted_at)),
            present: present.iter().filter_map(name).collect(),
        })
    }

    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>> {
        let failed = |error: redis::RedisError| self.link.failure(&error);
        let (mut sink, stream) = self.link.pubsub().await.map_err(failed)?;
        let channels = [self.keys.ledger_channel(), self.keys.ledger_presence(member)];
        sink.subscribe(&channels).await.map_err(failed)?;
        Ok(Box::new(Ears { _sink: sink, stream, shown: self.link.shown.clone() }))
    }

    async fn budgets(&self, most: usize) -> Result<Vec<Noted>> {
        let last = i64::try_from(most).unwrap_or(i64::MAX).saturating_sub(1);
        let newest = cmd("ZREVRANGE").arg(self.keys.ledger_index()).arg(0).arg(last).to_owned();
        let names: Vec<String> = self.link.command(&newest).await?;
        let mut budgets = Vec::new();
        for budget in names {
            let fields = ["keeper", "until", "note", "notedAt"];
            let read = cmd("HMGET").arg(self.keys.ledger(&budget)).arg(&fields).to_owned();
            type Fields = (Option<String>, Option<String>, Option<Vec<u8>>, Option<String>);
            let (keeper, until, note, noted_at): Fields = self.link.command(&read).await?;
            let at = |text: Option<String>| Timestamp::from_millis(text.as_deref().map_or(0, number));
            budgets.push(Noted {
                budget,
                keeper: keeper.unwrap_or_default(),
                until: at(until),
                note: note.unwrap_or_default(),
                noted_at: at(noted_at),
            });
        }
        budgets.sort_by(|a, b| a.budget.cmp(&b.budget));
        Ok(budgets)
    }
}

struct Ears {
    /// Dropped, it would end the connection.
    _sink: PubSubSink,
    stream: Words,
    shown: String,
}

#[async_trait]
impl Listener for Ears {
    async fn next(&mut self) -> Result<Heard> {
        loop {
            let lost = || StoreError::Unavailable(format!("{}: the ledger's channel was lost", self.shown));
            let message = self.stream.next().await.ok_or_else(lost)?;
            let bytes = message.get_payload_bytes();
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { continue };
            let (budget, words) = (bytes.get(..end), bytes.get(end + 1..));
            if let (Some(Ok(budget)), Some(words)) = (budget.map(std::str::from_utf8), words) {
                return Ok(Heard { budget: budget.to_owned(), words: words.to_vec() });
            }
        }
    }
}
