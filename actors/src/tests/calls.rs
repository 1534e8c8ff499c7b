//! What the calls make of permits: which tries ask the retry budget, and how a wait ends a call.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::classify;
use steadfast_core::failure::{GateReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::retry::RetryPolicy;
use steadfast_core::time::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accountant::{accountant, failure};
use super::{PausedClock, paused, settings};
use crate::Settings;
use crate::accountant::{BudgetKey, EndpointId, Need};
use crate::calls::{CallError, Caller, Order, Patience, Try};
use crate::dice::Dice;
use crate::watch;

/// One call of the model, each try of which ends in `end`; and which of the tries were retries.
async fn failing(caller: &Caller, end: Verdict, status: u16) -> (Result<(), CallError>, Vec<bool>) {
    let (_renewals, leased) = watch::channel(Instant::now() + Duration::from_secs(86_400));
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    let patience = Patience { soft, hard, leased, span: tracing::Span::none() };
    let retries = RefCell::new(Vec::new());
    let order = Order { priority: 0, admitted: Timestamp::EPOCH };
    let result = caller
        .retrying(&settings().github_retry, &patience, async |Try { is_retry, .. }| {
            retries.borrow_mut().push(is_retry);
            let need = Need { operation: "chat", tokens: 0, order, is_retry };
            let permit = caller.permit(&BudgetKey::Llm(EndpointId(0)), need, &patience).await?;
            let failed = failure(end, status, false);
            caller.exchange(permit, &patience, async { (Err(failed), Observed::default()) }, |()| None).await
        })
        .await;
    (result, retries.into_inner())
}

fn caller(change: impl FnOnce(&mut Settings)) -> Caller {
    let park_after = Duration::from_secs(5);
    Caller {
        accountant: accountant(change),
        clock: Arc::new(PausedClock::new()),
        dice: Dice::seeded(1),
        park_after,
    }
}

#[test]
fn a_try_after_our_own_backoff_is_a_retry_and_one_after_a_named_wait_is_not() {
    paused(async {
        let caller = caller(|_| {});
        let (_, retries) = failing(&caller, Verdict::Retry { after: None }, 500).await;
        assert_eq!(retries, [false, true, true]);
        let after = Some(Duration::from_secs(1));
        let (_, retries) = failing(&caller, Verdict::Retry { after }, 500).await;
        assert_eq!(retries, [false, false, false]);
    });
}

#[test]
fn a_call_whose_retry_finds_no_room_parks_its_job() {
    paused(async {
        let caller = caller(|settings| settings.retry_budget.floor = 1);
        let begin = caller.clock.now();
        let (result, retries) = failing(&caller, Verdict::Retry { after: None }, 500).await;
        assert_eq!(retries, [false, true, true]);
        let Err(CallError::Park { until, provider, reason, .. }) = result else { panic!("{result:?}") };
        assert_eq!((provider, reason), (Provider::Llm, GateReason::Unavailable));
        let parked = until.since(begin);
        assert!(parked > Duration::from_secs(50) && parked < Duration::from_secs(70), "{parked:?}");
    });
}

/// However patient the layer is: no attempt is spent on what a person must mend.
#[test]
fn a_disk_that_stays_full_parks_its_job() {
    paused(async {
        let caller = caller(|_| {});
        let (_renewals, leased) = watch::channel(Instant::now() + Duration::from_secs(86_400));
        let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
        let patience = Patience { soft, hard, leased, span: tracing::Span::none() };
        let said = "fatal: write error: No space left on device";
        for max in [30, 600].map(Duration::from_secs) {
            let policy = RetryPolicy { max, ..settings().github_retry };
            let full = || classify::git::classify("fetch", Some(128), said, false);
            let result = caller.retrying(&policy, &patience, async |_| Ok(Err::<(), _>(full()))).await;
            let Err(CallError::Park { provider, why, .. }) = result else { panic!("{result:?}") };
            assert_eq!(provider, Provider::Git);
            assert!(why.contains("disk is full: make room in agent.workspaces"), "{why}");
        }
    });
}

/// The lease may end while a permit is waited for: another runner has the job by then.
#[test]
fn a_permit_that_comes_after_the_lease_is_not_used_before_a_renewal() {
    paused(async {
        let caller = caller(|settings| settings.llm_limits.concurrency = 1);
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let (renewals, leased) = watch::channel(begin + 2 * second);
        let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
        let patience = Patience { soft, hard, leased, span: tracing::Span::none() };
        let order = Order { priority: 0, admitted: Timestamp::EPOCH };
        let need = Need { operation: "chat", tokens: 0, order, is_retry: false };
        let permit = async || caller.permit(&BudgetKey::Llm(EndpointId(0)), need, &patience).await;
        let held = permit().await.unwrap();
        let others = async {
            tokio::time::sleep(3 * second).await;
            drop(held);
            tokio::time::sleep(7 * second).await;
            renewals.send_replace(begin + 60 * second);
        };
        let (late, ()) = futures_util::future::join(permit(), others).await;
        assert!(late.is_ok());
        assert_eq!(begin.elapsed(), 10 * second);
    });
}
