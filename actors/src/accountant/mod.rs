//! RateAccountant: budgets, gates and breakers of every provider; hands out permits, higher
//! priority and oldest job first, and learns from every answer. No request leaves without a permit.
//!
//! Its state can be rebuilt: after a restart limits come from the configuration and the next
//! headers, and a closed door is found closed by the first request.
//!
//! | file | holds |
//! |---|---|
//! | [`shared`] | a budget that processes share, in this process's time |
//! | [`ledger`] | the way to those who share it |
//! | [`messages`] | what is said to it and by it |
//! | [`account`] | one budget, its breakers and those who wait |
//! | [`waiting`] | a line of those who wait |
//! | [`breakers`] | the breakers of one budget |
//! | [`row`] | calls that failed one after the other |
//! | [`health`] | what processes tell each other of a provider that fails |
//! | [`heard`] | what the end of a request teaches |
//! | [`status`] | where a budget stands, as data |
//! | [`told`] | what an operator is told of its doors |

pub mod account;
pub mod breakers;
pub mod health;
pub mod heard;
mod ledger;
mod messages;
pub mod row;
pub mod shared;
pub mod status;
#[cfg(test)]
mod tests;
mod told;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, MessageResult, SpawnHandle};
use steadfast_core::breaker::{BreakerSettings, Change};
use steadfast_core::budget::{LimitSettings, Tick};
use steadfast_core::failure::GateReason;
use steadfast_core::retry_budget::{RetryBudget, RetryBudgetSettings};
use steadfast_core::time::Clock;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use self::ledger::{Depart, Fleetwide, Halt};
pub use self::messages::{
    Acquire, BudgetKey, Budgets, End, EndpointId, Lost, Need, Outlook, Permit, Shut, Ticket,
};
pub use self::status::BudgetStatus;

use self::account::{Account, Counts, Served};
use self::breakers::Changed;
use self::messages::{Answering, GiveBack, Leave, Report};
use self::shared::Shared;
use self::told::Told;
use crate::address::{Address, Metered};
use crate::alerts::{Alarm, Alert, AlertKind};
use crate::calls::tick;
use crate::dice::Dice;
use crate::settings::EndpointBudget;
use crate::supervisor::Lifeline;

/// Accounts beyond which those that are not in use are forgotten.
const MOST_ACCOUNTS: usize = 1_000;

/// The timer is no finer than this.
const SHORTEST_TIMER: Duration = Duration::from_millis(1);

/// An account, when it is to be served again, and what was logged of it last.
struct Entry {
    account: Account<Answering>,
    due: Option<Tick>,
    logged: Counts,
    told: Told,
}

/// The retry budgets, one a provider.
struct Retries {
    llm: RetryBudget,
    github: RetryBudget,
    git: RetryBudget,
}

impl Retries {
    fn new(settings: &RetryBudgetSettings) -> Self {
        let budget = || RetryBudget::new(settings.clone());
        Retries { llm: budget(), github: budget(), git: budget() }
    }

    fn of(&mut self, key: &BudgetKey) -> &mut RetryBudget {
        match key {
            BudgetKey::Llm(_) => &mut self.llm,
            BudgetKey::Github(_) => &mut self.github,
            BudgetKey::Git => &mut self.git,
        }
    }
}

/// See the module.
pub struct RateAccountant {
    accounts: BTreeMap<BudgetKey, Entry>,
    /// Accounts by when they are to be served again.
    due: BTreeSet<(Tick, BudgetKey)>,
    timer: Option<(Tick, SpawnHandle)>,
    retries: Retries,
    llm_limits: LimitSettings,
    llm_endpoints: Vec<EndpointBudget>,
    llm_spacing: Duration,
    github_limits: LimitSettings,
    breaker: BreakerSettings,
    credentials_recheck: Duration,
    log_interval: Duration,
    clock: Arc<dyn Clock>,
    start: Instant,
    me: Address<RateAccountant>,
    alerts: Option<Alarm>,
    fleet: Option<Fleetwide>,
    dice: Dice,
    listening: Option<ledger::Listening>,
    _lifeline: Lifeline,
}

impl RateAccountant {
    pub(crate) fn new(
        settings: &crate::Settings,
        clock: Arc<dyn Clock>,
        me: Address<RateAccountant>,
        lifeline: Lifeline,
    ) -> Self {
        RateAccountant {
            accounts: BTreeMap::new(),
            due: BTreeSet::new(),
            timer: None,
            retries: Retries::new(&settings.retry_budget),
            llm_limits: settings.llm_limits.clone(),
            llm_endpoints: settings.llm_endpoints.clone(),
            llm_spacing: settings.llm_spacing,
            github_limits: settings.github_limits.clone(),
            breaker: settings.breaker.clone(),
            credentials_recheck: settings.credentials_recheck,
            log_interval: settings.metrics.log_interval,
            clock,
            start: Instant::now(),
            me,
            alerts: None,
            fleet: None,
            dice: Dice::from_os(),
            listening: None,
            _lifeline: lifeline,
        }
    }

    /// Tells of what a person must know.
    pub(crate) fn alerting(self, alarm: Alarm) -> Self {
        RateAccountant { alerts: Some(alarm), ..self }
    }

    /// With chance from `dice`.
    pub(crate) fn drawing(self, dice: Dice) -> Self {
        RateAccountant { dice, ..self }
    }

    fn alert(&self, kind: AlertKind, key: &BudgetKey, reason: GateReason, wait: Duration) {
        if let Some(alarm) = &self.alerts {
            let until = self.clock.now() + wait;
            alarm.raise(Alert::of_budget(kind, key.provider(), key.name(&self.llm_endpoints), reason, until));
        }
    }

    fn now(&self) -> Tick {
        tick(self.start)
    }

    /// A breaker opened or closed.
    fn tell_changed(&mut self, key: &BudgetKey, changed: Changed) {
        let (now, wall) = (self.now(), self.clock.now());
        let budget = key.name(&self.llm_endpoints);
        let Some(entry) = self.accounts.get_mut(key) else { return };
        entry.told.changed(&budget, changed, now, wall);
        if let Change::Opened(open) = changed.1 {
            self.alert(AlertKind::BreakerOpened, key, GateReason::Unavailable, open);
        }
    }

    /// Calls may be spaced out from now on, or not any more.
    fn tell_spaced(&mut self, key: &BudgetKey) {
        let budget = key.name(&self.llm_endpoints);
        if let Some(entry) = self.accounts.get_mut(key) {
            entry.told.spaced(&budget, &entry.account.breakers.spaced());
        }
    }

    /// The account of `key`, and the retry budget of its provider.
    fn account(&mut self, key: &BudgetKey) -> (&mut Account<Answering>, &mut RetryBudget) {
        let now = self.now();
        // Installations are named by queue entries, which strangers may write: no table without a bound.
        if self.accounts.len() >= MOST_ACCOUNTS && !self.accounts.contains_key(key) {
            let due = &mut self.due;
            self.accounts.retain(|key, entry| {
                let keep = entry.account.is_in_use(now);
                if let Some(at) = entry.due.filter(|_| !keep) {
                    due.remove(&(at, key.clone()));
                }
                keep
            });
        }
        // Only a model's answers say by their slowness how it is. GitHub's calls and git's end by
        // their own short timeouts; but writes take turns, and large repositories take time.
        let quick = BreakerSettings { slow_after: Duration::ZERO, ..self.breaker.clone() };
        let retries = self.retries.of(key);
        let wall = self.clock.now();
        let fleet = self.fleet.as_ref();
        let shared = |limits: &LimitSettings| match fleet {
            Some(fleet) => Shared::by(limits, &fleet.me, now, wall),
            None => Shared::own(limits, now),
        };
        let entry = self.accounts.entry(key.clone()).or_insert_with(|| {
            let account = match key {
                BudgetKey::Llm(id) => {
                    let own = self.llm_endpoints.get(id.index()).map(|endpoint| &endpoint.limits);
                    let limits = own.unwrap_or(&self.llm_limits);
                    Account::new(shared(limits), self.llm_spacing, self.breaker.clone())
                }
                BudgetKey::Github(_) => Account::new(shared(&self.github_limits), Duration::ZERO, quick),
                BudgetKey::Git => {
                    Account::new(Shared::own(&LimitSettings::UNKNOWN, now), Duration::ZERO, quick)
                }
            };
            let account = match (key, fleet) {
                (BudgetKey::Llm(_) | BudgetKey::Github(_), Some(fleet)) => account.telling(&fleet.me),
                (BudgetKey::Git, _) | (_, None) => account,
            };
            let account = account.drawing(&self.dice);
            Entry { account, due: None, logged: Counts::default(), told: Told::default() }
        });
        (&mut entry.account, retries)
    }

    /// Serves all of one account who can be served now, and notes when it is to be served next.
    fn pump(&mut self, key: &BudgetKey, ctx: &mut Context<Self>) {
        self.serve(key);
        self.arm(ctx);
    }

    fn serve(&mut self, key: &BudgetKey) {
        let now = self.now();
        let retries = self.retries.of(key);
        let Some(entry) = self.accounts.get_mut(key) else { return };
        let Served { go, away, next } = entry.account.serve(now, retries);
        let (acts, share_again) = entry.account.share(now);
        let next = next.into_iter().chain(share_again).min();
        if entry.due != next {
            if let Some(before) = entry.due {
                self.due.remove(&(before, key.clone()));
            }
            if let Some(next) = next {
                self.due.insert((next, key.clone()));
            }
            entry.due = next;
        }
        for (answer, sent) in go {
            // A waiter that left in this very moment drops the permit, which gives it back.
            let _left = answer.send(Ok(Permit::new(key.clone(), sent, self.me.clone())));
        }
        for (answer, shut) in away {
            // One that left in this very moment needs no answer.
            let _left = answer.send(Err(shut));
        }
        for act in acts {
            self.act(key, act);
        }
    }

    /// Sets the timer for the account that is due next. One that is set for earlier is left alone:
    /// it finds nothing to do and is set anew.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some((at, _)) = self.due.first() else { return };
        let at = *at;
        match self.timer.take() {
            Some(timer) if timer.0 <= at => self.timer = Some(timer),
            earlier => {
                if let Some((_, handle)) = earlier {
                    ctx.cancel_future(handle);
                }
                let wait = at.saturating_sub(self.now()).max(SHORTEST_TIMER);
                let handle = ctx.run_later(wait, |accountant, ctx| {
                    accountant.timer = None;
                    accountant.serve_due();
                    accountant.arm(ctx);
                });
                self.timer = Some((at, handle));
            }
        }
    }

    /// Each at most once: one that is due again at once waits for the timer.
    fn serve_due(&mut self) {
        let now = self.now();
        let due: Vec<BudgetKey> =
            self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect();
        for key in due {
            self.serve(&key);
        }
    }

    fn log(&mut self) {
        let now = self.now();
        for (key, entry) in &mut self.accounts {
            let name = key.name(&self.llm_endpoints);
            entry.account.status(now, name).log(entry.logged);
            entry.logged = entry.account.counts();
        }
    }
}

impl Actor for RateAccountant {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.log_interval, |accountant, _| accountant.log());
    }
}

impl Handler<Metered<Acquire>> for RateAccountant {
    type Result = MessageResult<Metered<Acquire>>;

    fn handle(&mut self, message: Metered<Acquire>, ctx: &mut Self::Context) -> Self::Result {
        let (acquire, _handling) = message.open();
        let now = self.now();
        let (answer, answered) = oneshot::channel();
        let ask = acquire.ask(now.saturating_add(acquire.patience));
        let (account, _) = self.account(&acquire.key);
        let place = account.join(now, ask, answer);
        self.listen();
        self.pump(&acquire.key, ctx);
        let Acquire { key, need, .. } = acquire;
        let leave = Leave { key, operation: need.operation, is_retry: need.is_retry, place };
        MessageResult(Ticket::new(answered, self.me.clone(), leave))
    }
}

impl Handler<Metered<Leave>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<Leave>, ctx: &mut Self::Context) {
        let (leave, _handling) = message.open();
        let (account, _) = self.account(&leave.key);
        account.leave(leave.operation, leave.is_retry, leave.place);
        self.pump(&leave.key, ctx);
    }
}

impl Handler<Metered<Report>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<Report>, ctx: &mut Self::Context) {
        let (report, _handling) = message.open();
        let Report { key, sent, observed, end } = report;
        let now = self.now();
        let (wall, recheck) = (self.clock.now(), self.credentials_recheck);
        let (account, _) = self.account(&key);
        let heard = account.ended(now, sent, &observed, &end, wall, recheck);
        for changed in heard.changed {
            self.tell_changed(&key, changed);
        }
        self.tell_spaced(&key);
        if let (Some((wait, reason)), End::Failed(failure)) = (heard.closed, &end) {
            let budget = key.name(&self.llm_endpoints);
            told::closed(&budget, wait, wall, reason, failure);
            if matches!(reason, GateReason::Quota | GateReason::Credentials) {
                self.alert(AlertKind::GateClosed, &key, reason, wait);
            }
        }
        self.pump(&key, ctx);
    }
}

impl Handler<Metered<GiveBack>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<GiveBack>, ctx: &mut Self::Context) {
        let (back, _handling) = message.open();
        let now = self.now();
        let (account, retries) = self.account(&back.key);
        account.give_back(now, back.sent, retries);
        self.pump(&back.key, ctx);
    }
}

impl Handler<Metered<Outlook>> for RateAccountant {
    type Result = MessageResult<Metered<Outlook>>;

    fn handle(&mut self, message: Metered<Outlook>, _: &mut Self::Context) -> Self::Result {
        let (Outlook { key, tokens }, _handling) = message.open();
        let now = self.now();
        let (account, _) = self.account(&key);
        MessageResult(account.outlook(now, tokens))
    }
}

impl Handler<Metered<Budgets>> for RateAccountant {
    type Result = MessageResult<Metered<Budgets>>;

    fn handle(&mut self, message: Metered<Budgets>, _: &mut Self::Context) -> Self::Result {
        let (Budgets, _handling) = message.open();
        let now = self.now();
        MessageResult({
            let name = |key: &BudgetKey| key.name(&self.llm_endpoints);
            self.accounts.iter().map(|(key, entry)| entry.account.status(now, name(key))).collect()
        })
    }
}

/// Whole milliseconds, for a log field.
pub(crate) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
