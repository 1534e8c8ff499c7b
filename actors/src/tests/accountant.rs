//! Permits: pace, order, patience, gates, and what becomes of a permit that is not used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Actor;
use steadfast_core::failure::{Failure, GateReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::time::{Clock, Timestamp};
use tokio::time::Instant;

use super::{PausedClock, paused, settings};
use crate::Settings;
use crate::accountant::{Acquire, BudgetKey, EndpointId, Permit, RateAccountant, Shut};
use crate::address::{Address, address};
use crate::meter::Meter;
use crate::supervisor::Lifeline;

fn accountant(change: impl FnOnce(&mut Settings)) -> Address<RateAccountant> {
    let mut settings = settings();
    settings.llm_spacing = Duration::ZERO;
    change(&mut settings);
    let (reached_at, binding) = address(Meter::new("rate_accountant"), 100);
    let (nobody, _) = address(Meter::new("supervisor"), 100);
    let lifeline = Lifeline::new(0, nobody);
    let clock = Arc::new(PausedClock::new());
    binding.bind(RateAccountant::new(&settings, clock, reached_at.clone(), lifeline).start());
    reached_at
}

fn acquire(order: i64, patience: Duration) -> Acquire {
    Acquire { key: BudgetKey::Llm(EndpointId(0)), tokens: 1, order: Timestamp::from_secs(order), patience }
}

const MINUTE: Duration = Duration::from_secs(60);

async fn get(accountant: &Address<RateAccountant>, order: i64, patience: Duration) -> Result<Permit, Shut> {
    accountant.send(acquire(order, patience)).await.unwrap()
}

async fn done(permit: Permit, failure: Option<Failure>) {
    permit.report(Observed::default(), None, failure).await;
}

fn failure(verdict: Verdict, status: u16, unhealthy: bool) -> Failure {
    Failure {
        verdict,
        provider: Provider::Llm,
        operation: "chat",
        status: Some(status),
        message: "no".into(),
        request_id: None,
        maybe_charged: false,
        unhealthy,
    }
}

#[test]
fn a_configured_limit_is_kept_and_used() {
    paused(async {
        let accountant = accountant(|settings| settings.llm_limits.requests_per_minute = 60);
        let begin = Instant::now();
        for order in 0..120 {
            done(get(&accountant, order, MINUTE).await.unwrap(), None).await;
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((118.0..121.0).contains(&took), "{took}");
    });
}

#[test]
fn the_oldest_job_is_served_first_whoever_came_first() {
    paused(async {
        let accountant = accountant(|settings| settings.llm_limits.concurrency = 1);
        let held = get(&accountant, 0, MINUTE).await.unwrap();
        let served = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = [5, 3, 9, 1]
            .into_iter()
            .map(|order| {
                let (accountant, served) = (accountant.clone(), Arc::clone(&served));
                actix::spawn(async move {
                    let permit = get(&accountant, order, MINUTE).await.unwrap();
                    served.lock().unwrap().push(order);
                    done(permit, None).await;
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        done(held, None).await;
        for waiter in waiting {
            waiter.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [1, 3, 5, 9]);
    });
}

#[test]
fn a_permit_that_is_dropped_and_a_waiter_that_leaves_lose_nothing() {
    paused(async {
        let accountant = accountant(|settings| settings.llm_limits.concurrency = 1);
        let held = get(&accountant, 0, MINUTE).await.unwrap();
        let leaves = tokio::time::timeout(Duration::from_secs(1), get(&accountant, 1, MINUTE)).await;
        assert!(leaves.is_err(), "there was only one");
        drop(held);
        let next = tokio::time::timeout(Duration::from_secs(1), get(&accountant, 2, MINUTE)).await;
        drop(next.expect("the dropped permit is free again").unwrap());
    });
}

#[test]
fn a_named_wait_closes_the_gate_for_all_and_the_impatient_are_told_at_once() {
    paused(async {
        let accountant = accountant(|_| {});
        let permit = get(&accountant, 0, MINUTE).await.unwrap();
        let at = PausedClock::new().now() + Duration::from_secs(120);
        let verdict = Verdict::WaitUntil { at, reason: GateReason::RateLimit };
        done(permit, Some(failure(verdict, 429, false))).await;
        let begin = Instant::now();
        let shut = get(&accountant, 1, MINUTE).await.err().expect("the wait is longer than a minute");
        assert_eq!(shut.reason, Some(GateReason::RateLimit));
        assert!(shut.wait > MINUTE && shut.wait <= 2 * MINUTE, "{:?}", shut.wait);
        assert!(begin.elapsed() < Duration::from_secs(1), "told at once");
        let patient = get(&accountant, 2, 10 * MINUTE).await;
        assert!(patient.is_ok());
        let waited = begin.elapsed().as_secs_f64();
        assert!((119.0..122.0).contains(&waited), "{waited}");
    });
}

#[test]
fn waits_that_are_kept_in_vain_grow_until_an_answer_comes() {
    paused(async {
        let accountant = accountant(|_| {});
        let clock = PausedClock::new();
        let named = Duration::from_secs(6);
        let mut waits = Vec::new();
        let mut refused = async || {
            let begin = Instant::now();
            let permit = get(&accountant, 0, 10 * MINUTE).await.unwrap();
            waits.push(begin.elapsed().as_secs_f64());
            let verdict = Verdict::WaitUntil { at: clock.now() + named, reason: GateReason::RateLimit };
            done(permit, Some(failure(verdict, 429, false))).await;
        };
        for _ in 0..5 {
            refused().await;
        }
        done(get(&accountant, 0, 10 * MINUTE).await.unwrap(), None).await;
        refused().await;
        refused().await;
        let bounds = [(0.0, 0.1), (6.0, 6.1), (7.6, 8.5), (9.2, 10.9), (12.4, 15.7), (0.0, 0.1), (6.0, 6.1)];
        for (wait, (least, most)) in waits.iter().zip(bounds) {
            assert!((least..most).contains(wait), "{waits:?}");
        }
        assert_eq!(waits.len(), bounds.len());
    });
}

#[test]
fn where_all_are_refused_without_a_word_one_at_a_time_asks_and_ever_more_seldom() {
    paused(async {
        let accountant = accountant(|_| {});
        let mut waits = Vec::new();
        for _ in 0..10 {
            let begin = Instant::now();
            let permit = get(&accountant, 0, 10 * MINUTE).await.unwrap();
            waits.push(begin.elapsed().as_secs());
            done(permit, Some(failure(Verdict::Retry { after: None }, 429, false))).await;
        }
        assert_eq!(waits[..2], [0, 0], "the callers' own backoff comes first");
        assert!(waits[2..].is_sorted() && waits[8..] == [60, 60], "{waits:?}");
        let probe = get(&accountant, 0, 10 * MINUTE).await.unwrap();
        assert!(get(&accountant, 1, MINUTE).await.is_err(), "one at a time");
        done(probe, None).await;
        let (one, other) = (get(&accountant, 1, MINUTE).await, get(&accountant, 2, MINUTE).await);
        assert!(one.is_ok() && other.is_ok(), "an answer opens the door to all");
    });
}

#[test]
fn failures_open_the_breaker_and_one_probe_closes_it() {
    paused(async {
        let accountant = accountant(|_| {});
        for order in 0..5 {
            let permit = get(&accountant, order, MINUTE).await.unwrap();
            done(permit, Some(failure(Verdict::Retry { after: None }, 503, true))).await;
        }
        let short = Duration::from_secs(1);
        let shut = get(&accountant, 6, short).await.err().expect("the breaker is open");
        assert_eq!(shut.reason, Some(GateReason::Unavailable));
        let probe = get(&accountant, 7, MINUTE).await.unwrap();
        assert!(get(&accountant, 8, short).await.is_err(), "one probe at a time");
        done(probe, None).await;
        assert!(get(&accountant, 9, short).await.is_ok());
    });
}

#[test]
fn a_probe_that_was_never_sent_makes_room_for_another() {
    paused(async {
        let accountant = accountant(|_| {});
        for order in 0..5 {
            let permit = get(&accountant, order, MINUTE).await.unwrap();
            done(permit, Some(failure(Verdict::Retry { after: None }, 503, true))).await;
        }
        drop(get(&accountant, 6, MINUTE).await.unwrap());
        assert!(get(&accountant, 7, Duration::from_secs(1)).await.is_ok());
    });
}

#[test]
fn budgets_of_different_credentials_are_apart() {
    paused(async {
        let accountant = accountant(|_| {});
        let github = |installation| Acquire { key: BudgetKey::Github(installation), ..acquire(0, MINUTE) };
        let permit = accountant.send(github(1)).await.unwrap().unwrap();
        let at = PausedClock::new().now() + Duration::from_secs(3600);
        let verdict = Verdict::WaitUntil { at, reason: GateReason::RateLimit };
        done(permit, Some(failure(verdict, 403, false))).await;
        assert!(accountant.send(github(1)).await.unwrap().is_err());
        assert!(accountant.send(github(2)).await.unwrap().is_ok());
        assert!(get(&accountant, 0, MINUTE).await.is_ok());
    });
}
