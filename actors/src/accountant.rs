//! RateAccountant: budgets, gates and breakers of every provider; hands out permits, oldest job
//! first, and learns from every answer. No request leaves without a permit.
//!
//! Its state can be rebuilt: after a restart limits come from the configuration and the next
//! headers, and a closed door is found closed by the first request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture, SpawnHandle};
use steadfast_core::breaker::{Breaker, BreakerSettings, Change};
use steadfast_core::budget::{Budget, LimitSettings, Outcome, Tick};
use steadfast_core::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::time::{Clock, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::address::{Address, Metered};
use crate::alerts::{Alarm, Alert, AlertKind};
use crate::calls::{Order, tick};
use crate::settings::EndpointBudget;
use crate::supervisor::Lifeline;

/// A job that is sent away comes back after this long at the earliest: less would be churn.
const SHORTEST_PARK: Duration = Duration::from_secs(1);

/// The most that is added to a wait that the server named.
const MOST_ADDED: Duration = Duration::from_secs(60);

/// Accounts beyond which those that are not in use are forgotten.
const MOST_ACCOUNTS: usize = 1_000;

/// Whose budget: a provider and, within it, the credential that is limited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetKey {
    /// One of the model's endpoints: a server, with the key and model that are asked of it.
    Llm(EndpointId),
    /// GitHub, by installation; 0 is the personal token.
    Github(u64),
    /// The git remote: no limit of its own, but a breaker.
    Git,
}

/// Place of an endpoint in `[[llm.endpoints]]`; 0 where there is but the one of `[llm]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId(pub u16);

impl EndpointId {
    /// Its place in lists.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All that there are with these settings, the preferred one first.
    pub fn all(endpoints: &[EndpointBudget]) -> impl Iterator<Item = EndpointId> + use<> {
        // More than fit are refused with the configuration.
        let count = u16::try_from(endpoints.len().max(1)).unwrap_or(u16::MAX);
        (0..count).map(EndpointId)
    }
}

impl BudgetKey {
    /// For people: `llm`, `llm:NAME`, `github:INSTALLATION`, `git`.
    pub fn name(&self, endpoints: &[EndpointBudget]) -> String {
        match self {
            BudgetKey::Llm(id) => match endpoints.get(id.index()) {
                Some(endpoint) => format!("llm:{}", endpoint.name),
                None => "llm".to_owned(),
            },
            BudgetKey::Github(installation) => format!("github:{installation}"),
            BudgetKey::Git => "git".to_owned(),
        }
    }

    /// The provider.
    pub fn provider(&self) -> Provider {
        match self {
            BudgetKey::Llm(_) => Provider::Llm,
            BudgetKey::Github(_) => Provider::Github,
            BudgetKey::Git => Provider::Git,
        }
    }
}

/// The right to send one request. Dropped without a report, it is given back unused.
pub struct Permit {
    key: BudgetKey,
    tokens: u64,
    sent: Tick,
    accountant: Option<Address<RateAccountant>>,
}

impl Permit {
    /// The request was sent, and this came of it.
    pub(crate) async fn report(mut self, observed: Observed, tokens: Option<u64>, failure: Option<Failure>) {
        let Some(accountant) = self.accountant.take() else { return };
        let (key, sent, estimated) = (self.key.clone(), self.sent, self.tokens);
        let report = Report { key, sent, estimated, observed, tokens, failure };
        // An accountant that died with the report has forgotten the permit too.
        if let Err(error) = accountant.send(report).await {
            tracing::debug!(%error, "a report was lost with the accountant");
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(accountant) = self.accountant.take() {
            // One for each permit that exists.
            accountant.tell_from_drop(GiveBack {
                key: self.key.clone(),
                sent: self.sent,
                tokens: self.tokens,
            });
        }
    }
}

/// Asks for a permit. Answered when it is this call's turn, or at once where the wait would be
/// longer than `patience`.
pub struct Acquire {
    /// Whose budget.
    pub key: BudgetKey,
    /// Tokens of the request and its answer, estimated high.
    pub tokens: u64,
    /// The caller's place: the oldest job goes first.
    pub order: Order,
    /// The longest wait that is sat out.
    pub patience: Duration,
}

impl Message for Acquire {
    type Result = Result<Permit, Shut>;
}

/// The door is shut for longer than the caller sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut {
    /// How long from now.
    pub wait: Duration,
    /// Why; `None`: the pace itself is that far behind.
    pub reason: Option<GateReason>,
}

/// What came of a request that had a permit.
struct Report {
    key: BudgetKey,
    sent: Tick,
    estimated: u64,
    observed: Observed,
    tokens: Option<u64>,
    failure: Option<Failure>,
}

impl Message for Report {
    type Result = ();
}

/// A permit that was not used.
struct GiveBack {
    key: BudgetKey,
    sent: Tick,
    tokens: u64,
}

impl Message for GiveBack {
    type Result = ();
}

/// Asks how long a new call would wait, without taking its place. With its `tokens`, what is left of
/// the budget and those who wait already are counted in; without, only a door that is shut.
pub struct Outlook {
    /// Whose budget.
    pub key: BudgetKey,
    /// Tokens of the request and its answer.
    pub tokens: Option<u64>,
}

impl Message for Outlook {
    type Result = Duration;
}

/// One who waits for a permit.
struct Waiter {
    tokens: u64,
    until: Tick,
    answer: oneshot::Sender<Result<Permit, Shut>>,
}

/// A budget with its breaker and those who wait for it, oldest job first.
struct Account {
    budget: Budget,
    breaker: Breaker,
    waiting: BTreeMap<(Order, u64), Waiter>,
    last_sent: Option<Tick>,
    spacing: Duration,
    /// Refusals in a row, each though the wait that the one before named was kept.
    in_vain: u32,
}

/// See the module.
pub struct RateAccountant {
    accounts: BTreeMap<BudgetKey, Account>,
    llm_limits: LimitSettings,
    llm_endpoints: Vec<EndpointBudget>,
    llm_spacing: Duration,
    github_limits: LimitSettings,
    breaker: BreakerSettings,
    credentials_recheck: Duration,
    clock: Arc<dyn Clock>,
    start: Instant,
    arrivals: u64,
    me: Address<RateAccountant>,
    alerts: Option<Alarm>,
    timer: Option<SpawnHandle>,
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
            llm_limits: settings.llm_limits.clone(),
            llm_endpoints: settings.llm_endpoints.clone(),
            llm_spacing: settings.llm_spacing,
            github_limits: settings.github_limits.clone(),
            breaker: settings.breaker.clone(),
            credentials_recheck: settings.credentials_recheck,
            clock,
            start: Instant::now(),
            arrivals: 0,
            me,
            alerts: None,
            timer: None,
            _lifeline: lifeline,
        }
    }

    /// Tells of what a person must know.
    pub(crate) fn alerting(self, alarm: Alarm) -> Self {
        RateAccountant { alerts: Some(alarm), ..self }
    }

    fn alert(&self, kind: AlertKind, key: &BudgetKey, reason: GateReason, wait: Duration) {
        if let Some(alarm) = &self.alerts {
            let until = self.clock.now() + wait;
            alarm.raise(Alert::of_budget(kind, key.provider(), key.name(&self.llm_endpoints), reason, until));
        }
    }

    fn account(&mut self, key: &BudgetKey) -> &mut Account {
        // Installations are named by queue entries, which strangers may write: no table without a bound.
        let now = tick(self.start);
        if self.accounts.len() >= MOST_ACCOUNTS && !self.accounts.contains_key(key) {
            self.accounts.retain(|_, account| account.is_in_use(now));
        }
        let (limits, spacing) = match key {
            BudgetKey::Llm(id) => {
                let own = self.llm_endpoints.get(id.index()).map(|endpoint| &endpoint.limits);
                (own.unwrap_or(&self.llm_limits), self.llm_spacing)
            }
            BudgetKey::Github(_) => (&self.github_limits, Duration::ZERO),
            BudgetKey::Git => (&LimitSettings::UNKNOWN, Duration::ZERO),
        };
        let breaker = &self.breaker;
        self.accounts.entry(key.clone()).or_insert_with(|| Account {
            budget: Budget::new(limits, now),
            breaker: Breaker::new(breaker.clone()),
            waiting: BTreeMap::new(),
            last_sent: None,
            spacing,
            in_vain: 0,
        })
    }

    /// Serves all who can be served now, and sets the timer for the next.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let now = tick(self.start);
        let me = self.me.clone();
        let next = self.accounts.iter_mut().filter_map(|(key, account)| account.serve(now, key, &me)).min();
        if let Some(wait) = next {
            let wait = wait.max(Duration::from_millis(1));
            self.timer = Some(ctx.run_later(wait, |accountant, ctx| {
                accountant.timer = None;
                accountant.pump(ctx);
            }));
        }
    }
}

impl Account {
    /// Whether forgetting it would lose more than what the next headers tell.
    fn is_in_use(&self, now: Tick) -> bool {
        !self.waiting.is_empty()
            || self.budget.in_flight() > 0
            || self.budget.gate(now).is_some()
            || !self.breaker.wait(now).is_zero()
    }

    /// How long until a call of `tokens` could go.
    fn wait(&mut self, now: Tick, tokens: u64) -> Duration {
        // Where all are refused one at a time is enough to find out when no longer.
        if self.in_vain > 1 && self.budget.in_flight() > 0 {
            return Duration::MAX;
        }
        let spaced = self.last_sent.map_or(Duration::ZERO, |sent| (sent + self.spacing).saturating_sub(now));
        self.budget.wait(now, tokens).max(self.breaker.wait(now)).max(spaced)
    }

    /// See [`Outlook`]. The least time between two calls is no want of budget.
    fn outlook(&mut self, now: Tick, tokens: Option<u64>) -> Duration {
        let gate = self.budget.gate(now).map_or(Duration::ZERO, |gate| gate.until.saturating_sub(now));
        let shut = gate.max(self.breaker.wait(now));
        let Some(tokens) = tokens.filter(|_| shut.is_zero()) else { return shut };
        if self.in_vain > 1 && self.budget.in_flight() > 0 {
            return Duration::MAX;
        }
        let ahead = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.budget.wait(now, tokens).saturating_mul(ahead.saturating_add(1))
    }

    /// Why the door is shut, if it is.
    fn shut_reason(&self, now: Tick) -> Option<GateReason> {
        let broken = !self.breaker.wait(now).is_zero();
        self.budget.gate(now).map(|gate| gate.reason).or(broken.then_some(GateReason::Unavailable))
    }

    /// Hands out permits while the budget has them. Returns how long until the next could go, if
    /// somebody waits for it.
    fn serve(&mut self, now: Tick, key: &BudgetKey, me: &Address<RateAccountant>) -> Option<Duration> {
        self.waiting.retain(|_, waiter| !waiter.answer.is_closed());
        while let Some(entry) = self.waiting.first_entry() {
            let tokens = entry.get().tokens;
            let place = *entry.key();
            let wait = self.wait(now, tokens);
            if !wait.is_zero() {
                return self.turn_away(now, wait);
            }
            let Some(waiter) = self.waiting.remove(&place) else { continue };
            self.budget.take(now, tokens);
            self.breaker.sent(now);
            self.last_sent = Some(now);
            let permit = Permit { key: key.clone(), tokens, sent: now, accountant: Some(me.clone()) };
            // A waiter that left in this very moment drops the permit, which gives it back.
            let _left = waiter.answer.send(Ok(permit));
        }
        None
    }

    /// Sends away those whose patience ends before the door opens; the rest wait on.
    fn turn_away(&mut self, now: Tick, wait: Duration) -> Option<Duration> {
        let known = wait != Duration::MAX;
        let opens = now.saturating_add(wait);
        let reason = self.shut_reason(now);
        let tired: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiter)| waiter.until <= now || (known && waiter.until < opens))
            .map(|(place, _)| *place)
            .collect();
        for (ahead, place) in (1u32..).zip(tired) {
            if let Some(waiter) = self.waiting.remove(&place) {
                // Behind a shut door all wait alike; behind a pace, each for those before it.
                let queue = if reason.is_some() { wait } else { wait.saturating_mul(ahead) };
                let wait = if known { queue.max(SHORTEST_PARK) } else { SHORTEST_PARK };
                // One that left in this very moment needs no answer.
                let _left = waiter.answer.send(Err(Shut { wait, reason }));
            }
        }
        let patience = self.waiting.values().map(|waiter| waiter.until.saturating_sub(now)).min();
        patience.map(|patience| patience.min(wait))
    }

    /// What is added to a named wait each time that keeping it was in vain. Servers count refused
    /// requests too: two processes that each come back just when they were told to can keep each
    /// other out for ever.
    fn added(&mut self, was_open: bool) -> Duration {
        // Those that were in flight together are refused together: once is enough.
        self.in_vain = self.in_vain.saturating_add(u32::from(was_open));
        let doubled = 0.5 * 2_f64.powi(i32::try_from(self.in_vain.min(20)).unwrap_or(20));
        let more = if self.in_vain < 2 { 0.0 } else { doubled * rand::random_range(0.8..1.2) };
        Duration::from_secs_f64(more).min(MOST_ADDED)
    }

    /// What a failure means for everybody who shares this budget.
    fn hear(
        &mut self,
        now: Tick,
        failure: &Failure,
        wall: Timestamp,
        recheck: Duration,
    ) -> Option<(Duration, GateReason)> {
        let (wait, reason) = match failure.verdict {
            // The budget has heard of it as a rejection.
            Verdict::WaitUntil { reason: GateReason::RateLimit, .. } => return None,
            Verdict::WaitUntil { at, reason } => (at.since(wall), reason),
            Verdict::Fatal { why: FatalReason::Credentials } => (recheck, GateReason::Credentials),
            Verdict::Retry { .. }
            | Verdict::Refresh
            | Verdict::Verify
            | Verdict::Shrink
            | Verdict::Fatal { .. } => return None,
        };
        self.budget.close(now, now + wait, reason);
        Some((wait, reason))
    }
}

/// How the server's limits met a request that ended so.
fn outcome(failure: Option<&Failure>, wall: Timestamp) -> Outcome {
    let Some(failure) = failure else { return Outcome::Accepted };
    match failure.verdict {
        Verdict::WaitUntil { at, reason: GateReason::RateLimit } => Outcome::Rejected(Some(at.since(wall))),
        Verdict::Retry { after } if failure.status == Some(429) => Outcome::Rejected(after),
        Verdict::WaitUntil { .. }
        | Verdict::Retry { .. }
        | Verdict::Refresh
        | Verdict::Verify
        | Verdict::Shrink
        | Verdict::Fatal { .. } => match failure.status {
            Some(_) => Outcome::Accepted,
            None => Outcome::Unknown,
        },
    }
}

impl Actor for RateAccountant {
    type Context = Context<Self>;
}

impl Handler<Metered<Acquire>> for RateAccountant {
    type Result = ResponseFuture<Result<Permit, Shut>>;

    fn handle(&mut self, message: Metered<Acquire>, ctx: &mut Self::Context) -> Self::Result {
        let (acquire, handling) = message.open();
        let (answer, answered) = oneshot::channel();
        let until = tick(self.start).saturating_add(acquire.patience);
        let place = (acquire.order, self.arrivals);
        self.arrivals += 1;
        let waiter = Waiter { tokens: acquire.tokens, until, answer };
        self.account(&acquire.key).waiting.insert(place, waiter);
        self.pump(ctx);
        drop(handling);
        // The sender of the answer lives in the table: it is dropped only with this actor.
        Box::pin(async move { answered.await.unwrap_or(Err(Shut { wait: Duration::ZERO, reason: None })) })
    }
}

impl Handler<Metered<Report>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<Report>, ctx: &mut Self::Context) {
        let (report, _handling) = message.open();
        let now = tick(self.start);
        let (wall, recheck) = (self.clock.now(), self.credentials_recheck);
        let account = self.account(&report.key);
        let before = account.budget.gate(now).map(|gate| gate.reason);
        let was_open = before.is_none();
        let met = outcome(report.failure.as_ref(), wall);
        account.budget.done(now, report.sent, report.estimated, report.tokens, met);
        account.budget.learn(now, report.sent, &report.observed);
        let unhealthy = report.failure.as_ref().is_some_and(|failure| failure.unhealthy);
        let provider = report.key.provider();
        let mut news = None;
        match account.breaker.ended(now, !unhealthy) {
            Some(Change::Opened(open)) => {
                let open_ms = millis(open);
                tracing::error!(%provider, open_ms, "breaker opened: the provider fails, only probes are sent");
                news = Some((AlertKind::BreakerOpened, GateReason::Unavailable, open));
            }
            Some(Change::Recovered) => {
                tracing::info!(%provider, "breaker closed: the provider answers again")
            }
            None => {}
        }
        if let Some(failure) = &report.failure {
            let heard = account.hear(now, failure, wall, recheck);
            let named = account.budget.gate(now).map(|gate| (gate.until.saturating_sub(now), gate.reason));
            // Without a word of the server's the callers' own backoff is the wait, unless that is in
            // vain too.
            let bare = (met == Outcome::Rejected(None)).then_some((Duration::ZERO, GateReason::RateLimit));
            if let Some((wait, reason)) = heard.or(named.filter(|_| met != Outcome::Accepted)).or(bare) {
                let more = match reason {
                    GateReason::RateLimit | GateReason::SecondaryLimit => account.added(was_open),
                    GateReason::Quota | GateReason::Credentials | GateReason::Unavailable => Duration::ZERO,
                };
                let wait = wait + more;
                if !more.is_zero() {
                    account.budget.close(now, now + wait, reason);
                }
                let by_a_person = matches!(reason, GateReason::Quota | GateReason::Credentials);
                if !wait.is_zero() && (was_open || by_a_person && before != Some(reason)) {
                    log_closed(provider, wait, reason, failure);
                    if by_a_person {
                        news = Some((AlertKind::GateClosed, reason, wait));
                    }
                }
            }
        } else {
            account.in_vain = 0;
            if account.budget.gate(now).is_some_and(|gate| gate.reason == GateReason::Credentials) {
                account.budget.open();
            }
        }
        if let Some((kind, reason, wait)) = news {
            self.alert(kind, &report.key, reason, wait);
        }
        self.pump(ctx);
    }
}

/// A gate that a person must open is an error; one that opens by itself is the course of things.
fn log_closed(provider: Provider, wait: Duration, reason: GateReason, failure: &Failure) {
    let wait_ms = millis(wait);
    match reason {
        GateReason::RateLimit | GateReason::SecondaryLimit | GateReason::Unavailable => {
            tracing::info!(%provider, wait_ms, %reason, "gate closed");
        }
        GateReason::Quota | GateReason::Credentials => {
            tracing::error!(%provider, wait_ms, %reason, error = %failure, "gate closed: a person must act");
        }
    }
}

impl Handler<Metered<GiveBack>> for RateAccountant {
    type Result = ();

    fn handle(&mut self, message: Metered<GiveBack>, ctx: &mut Self::Context) {
        let (back, _handling) = message.open();
        let now = tick(self.start);
        let account = self.account(&back.key);
        account.budget.untake(now, back.sent, back.tokens);
        account.breaker.unsent(now);
        self.pump(ctx);
    }
}

impl Handler<Metered<Outlook>> for RateAccountant {
    type Result = MessageResult<Metered<Outlook>>;

    fn handle(&mut self, message: Metered<Outlook>, _: &mut Self::Context) -> Self::Result {
        let (Outlook { key, tokens }, _handling) = message.open();
        let now = tick(self.start);
        MessageResult(self.account(&key).outlook(now, tokens))
    }
}

/// Whole milliseconds, for a log field.
pub(crate) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
