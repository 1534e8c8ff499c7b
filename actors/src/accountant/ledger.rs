//! The accountant's way to the fleet: what budgets want done at the ledger is done beside the actor,
//! and what comes of it, and what is heard, comes back as messages.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorContext, Context, Handler, Message, ResponseFuture};
use serde::{Deserialize, Serialize};
use steadfast_core::budget::Tick;
use steadfast_core::fleet::{Act, Answer, Learned, Part};
use steadfast_core::time::Timestamp;
use steadfast_store::{Heard, Keep, Kept, Ledger, StoreError};

use super::RateAccountant;
use super::health::Health;
use super::messages::BudgetKey;
use super::status::BudgetStatus;
use crate::address::{Address, Metered};

/// Between two tries to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// A channel that says nothing for so long may be a connection that died without a word.
const SILENCE: Duration = Duration::from_secs(60);
/// The form of the notes that this build writes.
const VERSION: u32 = 1;

/// What the keeper of a budget notes in the ledger.
#[derive(Serialize)]
struct Note<'a> {
    version: u32,
    status: &'a BudgetStatus,
    members: Vec<Member>,
    learned: &'a Learned,
}

/// A member, for people.
#[derive(Serialize)]
struct Member {
    name: String,
    jobs: u32,
}

/// What is read of a note. One of another version, or garbage, is no note: the budget is learned anew.
#[derive(Deserialize)]
struct Noted {
    version: u32,
    learned: Learned,
}

/// The ledger and this process's name at it.
#[derive(Clone)]
pub(crate) struct Fleetwide {
    pub ledger: Arc<dyn Ledger>,
    /// The runner's name, and what makes this process one of its kind.
    pub me: String,
}

/// The ledger's answer to a budget's request.
pub(super) struct Answered {
    key: BudgetKey,
    sent: Tick,
    answer: Result<Option<Kept>, StoreError>,
}

impl Message for Answered {
    type Result = ();
}

/// Listens as long as it is kept.
pub(super) struct Listening(tokio::task::JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The process stops: what it keeps is given up, so that another goes on at once. Answered when the
/// ledger knows.
pub(crate) struct Depart;

impl Message for Depart {
    type Result = ();
}

/// The process ends without a word.
pub(crate) struct Halt;

impl Message for Halt {
    type Result = ();
}

impl Handler<Metered<Halt>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<Halt>, ctx: &mut Context<Self>) {
        let (Halt, _handling) = message.open();
        ctx.stop();
    }
}

impl Handler<Metered<Depart>> for RateAccountant {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, message: Metered<Depart>, _: &mut Context<Self>) -> Self::Result {
        let (Depart, _handling) = message.open();
        let Some(Fleetwide { ledger, me }) = self.fleet.take() else { return Box::pin(async {}) };
        let mut last = Vec::new();
        for (key, entry) in &mut self.accounts {
            let budget = key.name(&self.llm_endpoints);
            last.extend(entry.account.budget.leave().into_iter().map(|act| (budget.clone(), act)));
        }
        Box::pin(async move {
            for (budget, act) in last {
                let done = match act {
                    Act::Say(words) => ledger.say(&budget, &words).await,
                    Act::Keep { epoch, lease, words, .. } => {
                        let keep = Keep { member: me.clone(), epoch, lease, note: None, words };
                        ledger.keep(&budget, &keep).await.map(|_| ())
                    }
                };
                if let Err(error) = done {
                    tracing::debug!(budget, %error, "a budget's lease is left to end by itself");
                }
            }
        })
    }
}

/// What was said on a budget's channel.
pub(super) struct Said(Heard);

impl Message for Said {
    type Result = ();
}

impl RateAccountant {
    /// Shares its budgets.
    pub(crate) fn sharing(self, fleet: Fleetwide) -> Self {
        RateAccountant { fleet: Some(fleet), ..self }
    }

    /// Does at the ledger what a budget wants done.
    pub(super) fn act(&mut self, key: &BudgetKey, act: Act) {
        let Some(Fleetwide { ledger, me }) = self.fleet.clone() else { return };
        let (budget, sent, accountant) = (key.name(&self.llm_endpoints), self.now(), self.me.clone());
        let keep = match act {
            Act::Say(words) => Err(words),
            Act::Keep { epoch, lease, note, words } => {
                let note = note.and_then(|learned| self.note(key, &budget, &learned));
                Ok(Keep { member: me, epoch, lease, note, words })
            }
        };
        let key = key.clone();
        actix::spawn(async move {
            let answer = match keep {
                Err(words) => ledger.say(&budget, &words).await.map(|()| None),
                Ok(keep) => ledger.keep(&budget, &keep).await.map(Some),
            };
            tell(&accountant, Answered { key, sent, answer }).await;
        });
    }

    fn note(&self, key: &BudgetKey, budget: &str, learned: &Learned) -> Option<Vec<u8>> {
        let account = &self.accounts.get(key)?.account;
        let status = account.status(self.now(), budget.to_owned());
        let members =
            account.budget.members().into_iter().map(|(name, jobs)| Member { name, jobs }).collect();
        let note = serde_json::to_vec(&Note { version: VERSION, status: &status, members, learned });
        note.inspect_err(|error| tracing::warn!(budget, %error, "a budget could not be noted")).ok()
    }

    /// Listens for as long as the actor lives.
    pub(super) fn listen(&mut self) {
        if self.listening.is_some() {
            return;
        }
        let Some(Fleetwide { ledger, me }) = self.fleet.clone() else { return };
        let accountant = self.me.clone();
        self.listening = Some(Listening(actix::spawn(async move {
            // Said once, not each second of an outage.
            let mut lost = false;
            loop {
                match hear(&*ledger, &me, &accountant).await {
                    // Silent: a new connection costs less than a dead one.
                    Ok(()) => lost = false,
                    Err(error) => {
                        if !std::mem::replace(&mut lost, true) {
                            tracing::warn!(%error, "the fleet is not heard: listening again");
                        }
                        tokio::time::sleep(LISTEN_AGAIN).await;
                    }
                }
            }
        })));
    }
}

/// Hands on what is said, until nothing is for long.
async fn hear(ledger: &dyn Ledger, me: &str, accountant: &Address<RateAccountant>) -> Result<(), StoreError> {
    let mut listener = ledger.listen(me).await?;
    while let Ok(heard) = tokio::time::timeout(SILENCE, listener.next()).await {
        tell(accountant, Said(heard?)).await;
    }
    Ok(())
}

/// An accountant that is being started again has no budget that could hear it.
async fn tell<M>(accountant: &Address<RateAccountant>, message: M)
where
    M: Message<Result = ()> + Send + 'static,
    RateAccountant: Handler<Metered<M>>,
{
    if let Err(error) = accountant.send(message).await {
        tracing::debug!(%error, "the ledger's word found no accountant");
    }
}

fn learned(note: &[u8]) -> Option<Learned> {
    serde_json::from_slice::<Noted>(note)
        .ok()
        .filter(|noted| noted.version == VERSION)
        .map(|noted| noted.learned)
        .filter(Learned::is_plausible)
}

fn epoch_time(at: Timestamp) -> Tick {
    Duration::from_millis(u64::try_from(at.millis()).unwrap_or(0))
}

impl Handler<Metered<Answered>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<Answered>, ctx: &mut Context<Self>) {
        let (Answered { key, sent, answer }, _handling) = message.open();
        let now = self.now();
        let budget = key.name(&self.llm_endpoints);
        let Some(entry) = self.accounts.get_mut(&key) else { return };
        let shared = &mut entry.account.budget;
        let was = shared.part();
        match answer {
            Ok(None) => {}
            Ok(Some(kept)) => {
                // The answer was made on the way: half of it is the best guess.
                shared.clock(sent + now.saturating_sub(sent) / 2, kept.now);
                if let Some((note, _)) = &kept.note
                    && learned(note).is_none()
                {
                    tracing::warn!(
                        budget,
                        "the ledger's note of this budget cannot be read: it is learned anew"
                    );
                }
                let note = kept.note.and_then(|(note, _)| learned(&note));
                let until = epoch_time(kept.until);
                let answer =
                    Answer { yours: kept.yours, epoch: kept.epoch, until, note, present: kept.present };
                shared.kept(now, answer);
            }
            Err(error) => {
                if was != Part::Adrift {
                    tracing::warn!(budget, %error, "the ledger is away: going on with this process's part");
                }
                shared.away(now);
            }
        }
        match (was, shared.part()) {
            (Part::Adrift, Part::Idle | Part::Seeking | Part::Keeper | Part::Member) => {
                tracing::info!(budget, "the ledger is back");
            }
            (Part::Member, Part::Keeper) => {
                tracing::info!(budget, "the budget's keeper is gone: this process keeps it now");
            }
            (Part::Keeper, Part::Member) => {
                tracing::info!(budget, "another process keeps the budget now");
            }
            (Part::Idle | Part::Seeking | Part::Keeper | Part::Member | Part::Adrift, _) => {}
        }
        self.pump(&key, ctx);
    }
}

impl Handler<Metered<Said>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<Said>, ctx: &mut Context<Self>) {
        let (Said(Heard { budget, words }), _handling) = message.open();
        let now = self.now();
        let named = |key: &&BudgetKey| key.name(&self.llm_endpoints) == budget;
        let Some(key) = self.accounts.keys().find(named).cloned() else { return };
        if let Some(entry) = self.accounts.get_mut(&key) {
            match Health::decode(&words) {
                Some(health) => {
                    if let Some(changed) = entry.account.heard(now, &health) {
                        self.tell_changed(&key, changed);
                    }
                    self.tell_spaced(&key);
                }
                None => entry.account.budget.hear(now, &words),
            }
        }
        self.pump(&key, ctx);
    }
}
