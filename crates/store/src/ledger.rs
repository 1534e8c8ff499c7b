//! The limit ledger: who keeps each budget that the fleet shares, what it noted, and what the
//! processes say to each other about it.
//!
//! A budget has one keeper at a time, by a lease of the store's clock and fenced by an epoch; one that
//! died is followed as soon as the store sees that it listens no more. What is said is pushed to all
//! who listen: nobody polls, so that a message serves many permits.

use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::time::Timestamp;

use crate::{Result, StoreError};

/// Most bytes of a budget's name.
pub const MOST_NAME: usize = 256;
/// Most bytes of a message and of a note.
pub const MOST_WORDS: usize = 256 * 1024;
/// How long a note outlives its last renewal.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A keeper that was heard of so lately is there, whether or not it is seen to listen: it may be
/// about to, or to do so again after its connection was lost.
pub(crate) const SURELY_THERE: Duration = Duration::from_secs(2);
/// Messages that a listener may lag behind.
pub(crate) const MOST_LAG: usize = 4_096;

/// See the module.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Says words on a budget's channel: all who listen hear them, the sayer too.
    async fn say(&self, budget: &str, words: &[u8]) -> Result<()>;

    /// Takes or keeps the keepership of a budget, notes its state and says words: one round trip, all
    /// of it or nothing. A request whose answer was lost may be repeated. It is taken from a keeper
    /// whose lease is over, or that does not listen and was not heard of for a moment.
    async fn keep(&self, budget: &str, keep: &Keep) -> Result<Kept>;

    /// Hears what is said from now on, on every budget; as long as it listens, `member` counts as
    /// present.
    async fn listen(&self, member: &str) -> Result<Box<dyn Listener>>;

    /// Budgets with their keepers and notes, for people; at most `most`.
    async fn budgets(&self, most: usize) -> Result<Vec<Noted>>;
}

/// Hears.
#[async_trait]
pub trait Listener: Send {
    /// The next message; [`StoreError::Unavailable`] where the connection was lost: listen anew.
    async fn next(&mut self) -> Result<Heard>;
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// On which budget's channel.
    pub budget: String,
    /// The words.
    pub words: Vec<u8>,
}

/// A request for the keepership.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Who asks.
    pub member: String,
    /// That of the keepership that is held; 0: none.
    pub epoch: u64,
    /// For how long; zero gives it up.
    pub lease: Duration,
    /// What is noted.
    pub note: Option<Vec<u8>>,
    /// What is said.
    pub words: Option<Vec<u8>>,
}

/// The answer to it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Whether the keepership is the asker's; if not, nothing was noted or said.
    pub yours: bool,
    /// Who has it.
    pub keeper: String,
    /// Grows with each keeper.
    pub epoch: u64,
    /// The store's clock.
    pub now: Timestamp,
    /// Until when it is the keeper's at the longest; sooner than its lease ends where it seems to be
    /// gone.
    pub until: Timestamp,
    /// The last note and when its keeper was heard of last; only where the keepership is newly the asker's.
    pub note: Option<(Vec<u8>, Timestamp)>,
    /// Members and runners that are surely there.
    pub present: Vec<String>,
}

/// A budget, as the ledger has it.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Its name.
    pub budget: String,
    /// Its keeper, now or last.
    pub keeper: String,
    /// Until when the keepership lasts, or lasted.
    pub until: Timestamp,
    /// What the keeper noted.
    pub note: Vec<u8>,
    /// When the keeper was heard of last.
    pub noted_at: Timestamp,
}

/// Refuses what is over a bound.
pub(crate) fn check(budget: &str, keep: Option<&Keep>, words: Option<&[u8]>) -> Result<()> {
    let too_large = |what, actual, limit| Err(StoreError::TooLarge { what, actual, limit });
    if budget.len() > MOST_NAME {
        return too_large("budget's name", budget.len(), MOST_NAME);
    }
    let said = words.or(keep.and_then(|keep| keep.words.as_deref()));
    for bytes in said.into_iter().chain(keep.and_then(|keep| keep.note.as_deref())) {
        if bytes.len() > MOST_WORDS {
            return too_large("note of a budget", bytes.len(), MOST_WORDS);
        }
    }
    Ok(())
}

/// One budget's entry, where the store itself has no better form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub keeper: String,
    pub epoch: u64,
    pub until: Timestamp,
    pub note: Vec<u8>,
    pub noted_at: Timestamp,
}

impl Entry {
    /// Applies a request; `listens` is whether a member is seen to. Says whether it was granted.
    pub fn keep(&mut self, keep: &Keep, now: Timestamp, listens: impl Fn(&str) -> bool) -> Kept {
        let mine = self.keeper == keep.member;
        let ours = mine && keep.epoch > 0 && self.epoch == keep.epoch;
        let mut until = self.until;
        if !ours && until > now && !listens(&self.keeper) {
            until = until.min(self.noted_at + SURELY_THERE);
        }
        // Who has it and asks for it never heard that it was granted.
        let granted = ours || (mine && keep.epoch == 0) || until <= now;
        let mut note = None;
        if granted {
            if !ours {
                self.epoch += 1;
                note = (!self.note.is_empty()).then(|| (self.note.clone(), self.noted_at));
            }
            self.keeper.clone_from(&keep.member);
            self.until = now + keep.lease;
            until = self.until;
            self.noted_at = now;
            if let Some(noted) = &keep.note {
                self.note.clone_from(noted);
            }
        }
        Kept {
            yours: granted,
            keeper: self.keeper.clone(),
            epoch: self.epoch,
            now,
            until,
            note,
            present: Vec::new(),
        }
    }

    /// For people.
    pub fn noted(&self, budget: &str) -> Noted {
        Noted {
            budget: budget.to_owned(),
            keeper: self.keeper.clone(),
            until: self.until,
            note: self.note.clone(),
            noted_at: self.noted_at,
        }
    }
}
