//! Alerts: tells a webhook of what a person must know; each kind about each budget seldom.
//!
//! Whoever has the news logs it and goes on: an [`Alarm`] never waits. What is told is made of our own
//! words alone, so that no provider's message carries a secret out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use steadfast_core::classify::clean::{cap, clean};
use steadfast_core::classify::webhook;
use steadfast_core::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use steadfast_core::job::JobId;
use steadfast_core::retry::{RetryEnv, RetryPolicy, retry};
use steadfast_core::time::{Clock, Timestamp};
use steadfast_http::{Timeouts, Transport};
use tokio::time::Instant;
use url::Url;

use crate::accountant::millis;
use crate::address::{Address, Metered};
use crate::dice::Dice;
use crate::settings::AlertSettings;
use crate::supervisor::Lifeline;
use crate::watch;

/// The operation's name in failures and logs.
const ALERT: &str = "alert";
/// Deliveries at one time beyond which further alerts are only logged.
const MOST_UNDER_WAY: usize = 16;
/// Kinds and budgets whose last alert is remembered; the oldest go first.
const MOST_REMEMBERED: usize = 1_000;
/// Most characters of the text.
const MAX_TEXT: usize = 500;
/// How an alert that was not taken is tried again.
const RETRIES: RetryPolicy = RetryPolicy {
    max_attempts: 4,
    initial: Duration::from_secs(1),
    max: Duration::from_secs(30),
    multiplier: 3.0,
    jitter: 0.2,
};

/// Of which kind the news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A provider fails, and only probes are sent.
    BreakerOpened,
    /// A provider's door is shut until a person opens it: no quota, or a credential refused.
    GateClosed,
    /// Actors died too often: the process ends with an error.
    Escalation,
    /// A job crashed its runner too often and was set aside.
    Poison,
}

/// News for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    kind: AlertKind,
    provider: Option<Provider>,
    budget: Option<String>,
    reason: String,
    until: Option<Timestamp>,
    text: String,
}

impl Message for Alert {
    type Result = ();
}

impl Alert {
    /// Of a provider's budget, by its name.
    pub(crate) fn of_budget(
        kind: AlertKind,
        provider: Provider,
        budget: String,
        reason: GateReason,
        until: Timestamp,
    ) -> Self {
        let text = match reason {
            GateReason::Quota => {
                format!("{budget}: {reason}: nothing is sent before {until}; someone must pay")
            }
            GateReason::Credentials => {
                format!(
                    "{budget}: {reason}: nothing is sent before {until}; someone must mend the credential"
                )
            }
            GateReason::RateLimit | GateReason::SecondaryLimit | GateReason::Unavailable => {
                format!("{budget}: {reason}: only probes are sent, the first at {until}")
            }
        };
        let (provider, budget) = (Some(provider), Some(budget));
        Alert { kind, provider, budget, reason: reason.to_string(), until: Some(until), text }
    }

    /// The process ends because of its actors.
    pub(crate) fn escalation(why: &str) -> Self {
        let text = format!("{why}: the process drains and ends with an error");
        Alert::of_process(AlertKind::Escalation, why.to_owned(), text)
    }

    /// A job was set aside.
    pub(crate) fn poison(job: &JobId, why: &str) -> Self {
        Alert::of_process(AlertKind::Poison, "poison".to_owned(), format!("job {job}: {why}"))
    }

    fn of_process(kind: AlertKind, reason: String, text: String) -> Self {
        Alert { kind, provider: None, budget: None, reason, until: None, text }
    }
}

/// Waits until nothing is under way any more.
pub(crate) struct Flush;

impl Message for Flush {
    type Result = ();
}

/// Raises alerts; clones raise the same.
#[derive(Clone)]
pub(crate) struct Alarm(pub(crate) Address<Alerts>);

impl Alarm {
    /// Hands the news over, without ever waiting for anybody.
    pub(crate) fn raise(&self, alert: Alert) {
        let kind = alert.kind;
        if let Err(error) = self.0.try_send(alert) {
            tracing::warn!(?kind, %error, "alert not told: the log alone has it");
        }
    }
}

/// Where alerts go. Its address may hold a secret and is never shown.
#[derive(Clone)]
pub struct Webhook {
    address: Uri,
    transport: Arc<dyn Transport>,
}

/// Why nothing can be told with what the configuration says. Never holds the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableWebhook {
    /// Not an address that requests can go to.
    #[error("is no http or https address with a host")]
    Address,
    /// A user name or password, which is not sent.
    #[error("holds a user or password, which is not sent: put the secret into the path or the query")]
    UserInfo,
}

impl Webhook {
    /// At this address.
    pub fn new(address: &SecretString, transport: Arc<dyn Transport>) -> Result<Self, UnusableWebhook> {
        Ok(Webhook { address: Webhook::check(address)?, transport })
    }

    /// The address as it is sent to, if anything can be.
    pub fn check(address: &SecretString) -> Result<Uri, UnusableWebhook> {
        let mut url = Url::parse(address.expose_secret().trim()).map_err(|_| UnusableWebhook::Address)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(UnusableWebhook::Address);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UnusableWebhook::UserInfo);
        }
        url.set_fragment(None);
        url.as_str().parse().map_err(|_| UnusableWebhook::Address)
    }

    async fn post(&self, body: &Bytes, timeout: Duration, clock: &dyn Clock) -> Result<(), Failure> {
        let request = Request::post(self.address.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, HeaderValue::from_static(concat!("steadfast/", env!("CARGO_PKG_VERSION"))))
            .body(body.clone())
            .map_err(|_| unusable("no request can be made for it"))?;
        match self.transport.send(request, Timeouts { first_byte: timeout, idle: timeout }).await {
            Ok(answer) => {
                let judged = webhook::judge(ALERT, answer.status().as_u16(), answer.headers(), clock.now());
                judged.map_or(Ok(()), Err)
            }
            Err(error) => Err(webhook::transport(ALERT, error.fault(), &error.to_string())),
        }
    }
}

fn unusable(why: &str) -> Failure {
    webhook::transport(ALERT, steadfast_core::classify::transport::TransportFault::Unusable, why)
}

/// What is sent.
#[derive(Serialize)]
struct Told<'a> {
    event: AlertKind,
    provider: Option<Provider>,
    budget: Option<&'a str>,
    reason: &'a str,
    since: Timestamp,
    until: Option<Timestamp>,
    text: &'a str,
    process: &'a str,
}

/// The last alert of one kind about one budget.
struct Last {
    at: Instant,
    /// Further ones since, that were not told.
    held_back: u32,
}

/// See the module.
pub struct Alerts {
    webhook: Option<Arc<Webhook>>,
    settings: AlertSettings,
    process: Arc<str>,
    clock: Arc<dyn Clock>,
    dice: Dice,
    /// A hint only: started anew, an alert may be told once more than it should.
    last: BTreeMap<(AlertKind, Option<String>), Last>,
    under_way: watch::Sender<usize>,
    _lifeline: Lifeline,
}

impl Alerts {
    pub(crate) fn new(
        webhook: Option<Arc<Webhook>>,
        settings: AlertSettings,
        process: Arc<str>,
        clock: Arc<dyn Clock>,
        lifeline: Lifeline,
    ) -> Self {
        let under_way = watch::channel(0).0;
        let (dice, last) = (Dice::from_os(), BTreeMap::new());
        Alerts { webhook, settings, process, clock, dice, last, under_way, _lifeline: lifeline }
    }

    /// With chance from `dice`.
    pub(crate) fn drawing(self, dice: Dice) -> Self {
        Alerts { dice, ..self }
    }

    /// Whether it is time to tell of it, and how many like it were held back since the last.
    fn due(&mut self, alert: &Alert) -> Option<u32> {
        let (now, least) = (Instant::now(), self.settings.min_interval);
        let key = (alert.kind, alert.budget.clone());
        if let Some(last) = self.last.get_mut(&key)
            && now.duration_since(last.at) < least
        {
            last.held_back = last.held_back.saturating_add(1);
            return None;
        }
        let held_back =
            self.last.insert(key, Last { at: now, held_back: 0 }).map_or(0, |last| last.held_back);
        if self.last.len() > MOST_REMEMBERED {
            let oldest = self.last.iter().min_by_key(|(_, last)| last.at).map(|(key, _)| key.clone());
            oldest.map(|key| self.last.remove(&key));
        }
        Some(held_back)
    }

    fn body(&self, alert: &Alert, held_back: u32) -> Option<Bytes> {
        let mut text = cap(&clean(&alert.text), MAX_TEXT);
        if held_back > 0 {
            text.push_str(&format!("; {held_back} more like it since the last alert"));
        }
        let reason = cap(&clean(&alert.reason), MAX_TEXT);
        let told = Told {
            event: alert.kind,
            provider: alert.provider,
            budget: alert.budget.as_deref(),
            reason: &reason,
            since: self.clock.now(),
            until: alert.until,
            text: &text,
            process: &self.process,
        };
        serde_json::to_vec(&told).ok().map(Bytes::from)
    }
}

/// Tells of one alert, again and again while that may help; the log hears of what was in vain.
async fn tell(webhook: &Webhook, body: &Bytes, timeout: Duration, env: AlertEnv<'_>, kind: AlertKind) {
    let told = retry(&RETRIES, &env, |_| webhook.post(body, timeout, env.clock)).await;
    match told {
        Ok(()) => tracing::debug!(?kind, "alert told"),
        Err(gave_up) => {
            let failure = gave_up.failure();
            let hint = match failure.verdict {
                Verdict::Fatal { why: FatalReason::Unusable | FatalReason::Rejected } => {
                    "check alerts.webhook"
                }
                Verdict::Fatal { why: FatalReason::Credentials | FatalReason::NotFound } => {
                    "alerts.webhook is wrong or was revoked"
                }
                Verdict::Fatal { why: FatalReason::Permission }
                | Verdict::Retry { .. }
                | Verdict::WaitUntil { .. }
                | Verdict::Refresh
                | Verdict::Verify
                | Verdict::Shrink => "the log alone has it",
            };
            let (status, error) = (failure.status, &failure.message);
            tracing::warn!(?kind, status, error, hint, "alert not told");
        }
    }
}

/// Time and chance of the deliveries.
struct AlertEnv<'a> {
    clock: &'a dyn Clock,
    dice: &'a Dice,
}

impl RetryEnv for AlertEnv<'_> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn random(&self) -> f64 {
        self.dice.share()
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }

    fn on_retry(&self, failure: &Failure, attempt: u32, wait: Duration) {
        let (wait_ms, status, error) = (millis(wait), failure.status, &failure.message);
        tracing::info!(attempt, wait_ms, status, error, "alert not taken, trying again");
    }
}

impl Actor for Alerts {
    type Context = Context<Self>;
}

impl Handler<Metered<Alert>> for Alerts {
    type Result = ();

    fn handle(&mut self, message: Metered<Alert>, ctx: &mut Self::Context) {
        let (alert, handling) = message.open();
        let Some(webhook) = self.webhook.clone() else { return };
        let kind = alert.kind;
        if self.under_way.get() >= MOST_UNDER_WAY {
            tracing::warn!(?kind, "too many alerts under way: the log alone has this one");
            return;
        }
        let Some(held_back) = self.due(&alert) else {
            tracing::debug!(?kind, "alert held back: there was one like it within alerts.min_interval");
            return;
        };
        let Some(body) = self.body(&alert, held_back) else { return };
        self.under_way.send_modify(|under_way| *under_way += 1);
        let (timeout, clock, dice) = (self.settings.timeout, Arc::clone(&self.clock), self.dice.clone());
        let telling = async move {
            tell(&webhook, &body, timeout, AlertEnv { clock: &*clock, dice: &dice }, kind).await;
            drop(handling);
        };
        let told =
            actix::fut::ActorFutureExt::map(actix::fut::wrap_future::<_, Self>(telling), |(), alerts, _| {
                alerts.under_way.send_modify(|under_way| *under_way -= 1);
            });
        ctx.spawn(told);
    }
}

impl Handler<Metered<Flush>> for Alerts {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, message: Metered<Flush>, _: &mut Self::Context) -> Self::Result {
        let (Flush, handling) = message.open();
        let mut under_way = self.under_way.subscribe();
        Box::pin(async move {
            // The other end is gone only with this actor: then there is nothing to wait for.
            let _either_way = under_way.wait_for(|under_way| *under_way == 0).await.map(|_| ());
            drop(handling);
        })
    }
}
