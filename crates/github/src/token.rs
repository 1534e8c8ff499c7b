//! Access tokens: what they are, and the cache that makes one request of many.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use steadfast_core::classify::github::Credential;
use steadfast_core::failure::Failure;
use steadfast_core::time::Timestamp;
use tokio::sync::Mutex;

use crate::client::Repo;

/// Slots above which those that nobody uses are dropped, even where their token still holds.
const MAX_SLOTS: usize = 4096;

/// What REST calls and git authenticate with.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token.
    pub secret: SecretString,
    /// Its end by GitHub's clock; `None` for a personal token, whose end we are not told.
    pub expires_at: Option<Timestamp>,
}

impl AccessToken {
    /// Whose it is, as far as verdicts depend on it.
    pub fn credential(&self) -> Credential {
        if self.expires_at.is_some() { Credential::Installation } else { Credential::Personal }
    }

    /// Whether both are the same token.
    pub fn is(&self, other: &AccessToken) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }
}

/// Installation tokens by installation and repository.
#[derive(Default)]
pub(crate) struct TokenCache {
    slots: StdMutex<HashMap<(u64, Repo), Arc<Slot>>>,
}

/// One token, its renewals one at a time.
#[derive(Default)]
pub(crate) struct Slot {
    /// Counts flights, so that those who waited for one take what it brought.
    flights: AtomicU64,
    last: Mutex<Option<Result<Held, Failure>>>,
}

#[derive(Clone)]
struct Held {
    token: AccessToken,
    renew_at: Timestamp,
}

impl TokenCache {
    pub(crate) fn slot(&self, installation: u64, repo: &Repo) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry((installation, repo.clone())).or_default())
    }

    /// Lets go of a token that is to be revoked. One that is just being renewed is left: what the
    /// renewal brings is another.
    pub(crate) fn forget(&self, token: &AccessToken) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| match slot.last.try_lock() {
            Ok(last) => !matches!(&*last, Some(Ok(held)) if held.token.is(token)),
            Err(_) => true,
        });
    }
}

impl Slot {
    /// The held token while it is fresh; `None` also while it is being renewed.
    pub(crate) fn held(&self, now: Timestamp) -> Option<AccessToken> {
        match self.last.try_lock().ok()?.as_ref()? {
            Ok(held) if now < held.renew_at => Some(held.token.clone()),
            Ok(_) | Err(_) => None,
        }
    }

    /// The held token while it is fresh, else what `fetch` brings. Whoever comes while a fetch is
    /// under way gets what that brings, be it a token or a failure: a hundred jobs that wait for a
    /// token that cannot be had ask once. `force` asks for one that is newer than the call.
    pub(crate) async fn get<F>(
        &self,
        force: bool,
        margin: Duration,
        now: impl Fn() -> Timestamp,
        fetch: impl FnOnce() -> F,
    ) -> Result<AccessToken, Failure>
    where
        F: Future<Output = Result<AccessToken, Failure>>,
    {
        let flights_before = self.flights.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        let waited_for_one = self.flights.load(Ordering::Acquire) != flights_before;
        match &*last {
            Some(outcome) if waited_for_one => return outcome.clone().map(|held| held.token),
            Some(Ok(held)) if !force && now() < held.renew_at => return Ok(held.token.clone()),
            Some(_) | None => {}
        }
        let asked_at = now();
        let outcome = fetch().await.map(|token| Held { renew_at: renew_at(&token, asked_at, margin), token });
        *last = Some(outcome.clone());
        self.flights.fetch_add(1, Ordering::Release);
        outcome.map(|held| held.token)
    }
}

/// `margin` before the token's end, but not before half its life: else a token that lives shorter
/// than the margin would be made anew for every call.
fn renew_at(token: &AccessToken, asked_at: Timestamp, margin: Duration) -> Timestamp {
    let Some(end) = token.expires_at else {
        return Timestamp::MAX;
    };
    (end - margin).max(asked_at + end.since(asked_at) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_life_is_used_by_half() {
        let token = |secs| AccessToken {
            secret: "x".to_owned().into(),
            expires_at: Some(Timestamp::from_secs(secs)),
        };
        let margin = Duration::from_secs(300);
        let at = |secs| renew_at(&token(secs), Timestamp::from_secs(1_000), margin).secs();
        assert_eq!(at(4_600), 4_300);
        assert_eq!(at(1_100), 1_050);
        assert_eq!(at(900), 1_000);
    }
}
