//! Permits: pace, order, patience, gates, and what becomes of a permit that is not used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Actor;
use steadfast_core::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use steadfast_core::headers::Observed;
use steadfast_core::time::{Clock, Timestamp};
use tokio::time::Instant;

use super::{PausedClock, paused, settings};
use crate::Settings;
use crate::accountant::{
    Acquire, BudgetKey, Budgets, End, EndpointId, Need, Permit, RateAccountant, Shut, Ticket,
};
use crate::address::{Address, address};
use crate::calls::Order;
use crate::meter::Meter;
use crate::supervisor::Lifeline;

pub(super) fn accountant(change: impl FnOnce(&mut Settings)) -> Address<RateAccountant> {
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
    let order = Order { priority: 0, admitted: Timestamp::from_secs(order) };
    let need = Need { operation: "chat", tokens: 1, order, is_retry: false };
    Acquire { key: BudgetKey::Llm(EndpointId(0)), need, patience }
}

const MINUTE: Duration = Duration::from_secs(60);

async fn get(accountant: &Address<RateAccountant>, order: i64, patience: Duration) -> Result<Permit, Shut> {
    ask(accountant, acquire(order, patience)).await
}

async fn ask(accountant: &Address<RateAccountant>, acquire: Acquire) -> Result<Permit, Shut> {
    accountant.send(acquire).await.unwrap().permit().await.unwrap()
}

async fn done(permit: Permit, failure: Option<Failure>) {
    permit.report(Observed::default(), failure.map_or(End::Answered(None), End::Failed)).await;
}

/// A retry of order 0.
fn retry(patience: Duration) -> Acquire {
    let acquire = acquire(0, patience);
    Acquire { need: Need { is_retry: true, ..acquire.need }, ..acquire }
}

/// A call of GitHub's.
fn github(installation: u64, operation: &'static str) -> Acquire {
    let acquire = acquire(0, MINUTE);
    let need = Need { operation, tokens: 0, ..acquire.need };
    Acquire { key: BudgetKey::Github(installation), need, ..acquire }
}

/// How many wait for the model.
async fn waiting(accountant: &Address<RateAccountant>) -> usize {
    let budgets = accountant.send(Budgets).await.unwrap();
    budgets.iter().find(|budget| budget.budget == "llm").map_or(0, |budget| budget.waiting)
}

pub(super) fn failure(verdict: Verdict, status: u16, unhealthy: bool) -> Failure {
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
        let permit = ask(&accountant, github(1, "user")).await.unwrap();
        let at = PausedClock::new().now() + Duration::from_secs(3600);
        let verdict = Verdict::WaitUntil { at, reason: GateReason::RateLimit };
        done(permit, Some(failure(verdict, 403, false))).await;
        assert!(ask(&accountant, github(1, "user")).await.is_err());
        assert!(ask(&accountant, github(2, "user")).await.is_ok());
        assert!(get(&accountant, 0, MINUTE).await.is_ok());
    });
}

#[test]
fn a_higher_priority_goes_before_an_older_job() {
    paused(async {
        let accountant = accountant(|settings| settings.llm_limits.concurrency = 1);
        let held = get(&accountant, 0, MINUTE).await.unwrap();
        let mut tickets = Vec::new();
        for (priority, admitted) in [(0, 1), (5, 9), (-1, 0), (5, 3)] {
            let order = Order { priority, admitted: Timestamp::from_secs(admitted) };
            let acquire = acquire(0, MINUTE);
            let need = Need { order, ..acquire.need };
            let ticket = accountant.send(Acquire { need, ..acquire }).await.unwrap();
            tickets.push(((priority, admitted), ticket));
        }
        let served = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = tickets
            .into_iter()
            .map(|(order, ticket): (_, Ticket)| {
                let served = Arc::clone(&served);
                actix::spawn(async move {
                    let permit = ticket.permit().await.unwrap().unwrap();
                    served.lock().unwrap().push(order);
                    done(permit, None).await;
                })
            })
            .collect();
        done(held, None).await;
        for waiter in waiting {
            waiter.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [(5, 3), (5, 9), (0, 1), (-1, 0)]);
    });
}

#[test]
fn a_caller_that_leaves_leaves_no_place_behind() {
    paused(async {
        let accountant = accountant(|settings| settings.llm_limits.concurrency = 1);
        let held = get(&accountant, 0, MINUTE).await.unwrap();
        let ticket = accountant.send(acquire(1, 60 * MINUTE)).await.unwrap();
        assert_eq!(waiting(&accountant).await, 1);
        drop(ticket);
        assert_eq!(waiting(&accountant).await, 0);
        // One that leaves with its permit already in the answer.
        let ticket = accountant.send(acquire(2, MINUTE)).await.unwrap();
        done(held, None).await;
        drop(ticket);
        let next = tokio::time::timeout(Duration::from_secs(1), get(&accountant, 3, MINUTE)).await;
        done(next.expect("no permit was lost").unwrap(), None).await;
    });
}

#[test]
fn whoever_waits_behind_a_pace_longer_than_its_patience_is_told_when_to_come_back() {
    paused(async {
        let accountant = accountant(|settings| {
            settings.llm_limits.requests_per_minute = 1;
            settings.llm_limits.burst = 1;
        });
        done(get(&accountant, 0, MINUTE).await.unwrap(), None).await;
        let begin = Instant::now();
        let shut = get(&accountant, 1, Duration::from_secs(10)).await.err().unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "told at once");
        assert_eq!(shut.reason, None);
        assert!(shut.wait > Duration::from_secs(50) && shut.wait <= MINUTE, "{:?}", shut.wait);
    });
}

#[test]
fn patience_ends_though_nobody_knows_when_the_door_opens() {
    paused(async {
        let accountant = accountant(|settings| settings.llm_limits.concurrency = 1);
        let held = get(&accountant, 0, MINUTE).await.unwrap();
        let begin = Instant::now();
        let patient = accountant.send(acquire(1, 2 * MINUTE)).await.unwrap();
        let impatient = get(&accountant, 2, MINUTE).await;
        assert!(impatient.is_err());
        let waited = begin.elapsed();
        assert!(waited >= MINUTE && waited < MINUTE + Duration::from_secs(1), "{waited:?}");
        done(held, None).await;
        assert!(patient.permit().await.unwrap().is_ok());
    });
}

#[test]
fn after_a_gate_one_goes_first_and_the_rest_are_paced() {
    paused(async {
        let accountant = accountant(|_| {});
        let permit = get(&accountant, 0, MINUTE).await.unwrap();
        let at = PausedClock::new().now() + Duration::from_secs(20);
        let verdict = Verdict::WaitUntil { at, reason: GateReason::Unavailable };
        done(permit, Some(failure(verdict, 503, false))).await;
        let mut tickets = Vec::new();
        for order in 1..=50 {
            tickets.push(accountant.send(acquire(order, 10 * MINUTE)).await.unwrap());
        }
        let begin = Instant::now();
        let mut tickets = tickets.into_iter();
        let probe = tickets.next().unwrap().permit().await.unwrap().unwrap();
        let opened = begin.elapsed().as_secs_f64();
        assert!((19.0..21.5).contains(&opened), "{opened}");
        assert_eq!(waiting(&accountant).await, 49, "one at first");
        done(probe, None).await;
        let let_in = Instant::now();
        for ticket in tickets {
            done(ticket.permit().await.unwrap().unwrap(), None).await;
        }
        let paced = let_in.elapsed();
        assert!(paced > Duration::from_secs(1) && paced < MINUTE, "{paced:?}");
    });
}

#[test]
fn a_gate_that_a_person_must_open_is_rechecked_and_credentials_open_it_by_an_answer() {
    paused(async {
        let recheck = settings().credentials_recheck;
        let quota = Verdict::WaitUntil { at: PausedClock::new().now() + recheck, reason: GateReason::Quota };
        let credentials = Verdict::Fatal { why: FatalReason::Credentials };
        for (verdict, status, reason) in
            [(quota, 429, GateReason::Quota), (credentials, 401, GateReason::Credentials)]
        {
            let accountant = accountant(|_| {});
            let out = get(&accountant, 0, MINUTE).await.unwrap();
            let refused = get(&accountant, 0, MINUTE).await.unwrap();
            done(refused, Some(failure(verdict, status, false))).await;
            let shut = get(&accountant, 1, MINUTE).await.err().unwrap();
            assert_eq!(shut.reason, Some(reason));
            assert!(recheck - shut.wait < Duration::from_secs(1), "{:?}", shut.wait);
            done(out, None).await;
            let opened = get(&accountant, 2, Duration::from_secs(1)).await.is_ok();
            assert_eq!(opened, reason == GateReason::Credentials, "{reason}");
            let begin = Instant::now();
            drop(get(&accountant, 3, 60 * MINUTE).await.unwrap());
            let waited = begin.elapsed();
            let expected = if opened { Duration::ZERO } else { recheck };
            let off = waited.abs_diff(expected);
            assert!(off < Duration::from_secs(1), "{reason} {waited:?}");
        }
    });
}

#[test]
fn an_operation_that_fails_shuts_no_other() {
    paused(async {
        let accountant = accountant(|_| {});
        for _ in 0..5 {
            let permit = ask(&accountant, github(1, "create_pull")).await.unwrap();
            done(permit, Some(failure(Verdict::Retry { after: None }, 503, true))).await;
        }
        let short = Duration::from_secs(1);
        let shut = ask(&accountant, Acquire { patience: short, ..github(1, "create_pull") }).await;
        assert_eq!(shut.err().unwrap().reason, Some(GateReason::Unavailable));
        let other = ask(&accountant, Acquire { patience: short, ..github(1, "find_pull") }).await;
        done(other.unwrap(), None).await;
        let status = accountant.send(Budgets).await.unwrap();
        let told = serde_json::to_value(&status[0]).unwrap();
        assert_eq!(told["breaker"], "closed");
        assert_eq!(told["operations"], serde_json::json!([{"operation": "create_pull", "breaker": "open"}]));
        assert_eq!((&told["budget"], &told["used"]), (&"github:1".into(), &6.into()));
    });
}

#[test]
fn answers_that_take_too_long_open_the_breaker_of_the_model_only() {
    paused(async {
        let accountant = accountant(|settings| settings.breaker.slow_after = Duration::from_secs(10));
        let slow = async |acquire: &dyn Fn() -> Acquire| {
            let mut permits = Vec::new();
            for _ in 0..5 {
                permits.push(ask(&accountant, acquire()).await.unwrap());
            }
            tokio::time::advance(Duration::from_secs(11)).await;
            for permit in permits {
                done(permit, None).await;
            }
            ask(&accountant, Acquire { patience: Duration::from_secs(1), ..acquire() }).await
        };
        assert!(slow(&|| github(1, "create_comment")).await.is_ok());
        let shut = slow(&|| acquire(0, MINUTE)).await.err().expect("all were slow");
        assert_eq!(shut.reason, Some(GateReason::Unavailable));
    });
}

#[test]
fn retries_without_room_wait_or_park_and_hold_nobody_up() {
    paused(async {
        let accountant = accountant(|_| {});
        for _ in 0..12 {
            done(ask(&accountant, retry(MINUTE)).await.unwrap(), None).await;
        }
        let begin = Instant::now();
        let impatient = ask(&accountant, retry(Duration::from_secs(5))).await.err().expect("no room");
        assert_eq!(impatient.reason, Some(GateReason::Unavailable));
        assert!(begin.elapsed() < Duration::from_secs(1), "told at once");
        let patient = accountant.send(retry(2 * MINUTE)).await.unwrap();
        done(get(&accountant, 1, MINUTE).await.unwrap(), None).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "a first try goes at once");
        let permit = patient.permit().await.unwrap().expect("it has patience");
        let waited = begin.elapsed();
        assert!(waited > MINUTE / 2 && waited <= MINUTE + Duration::from_secs(2), "{waited:?}");
        done(permit, None).await;
        // The budget is the provider's, and no other's.
        let other = Acquire { need: Need { is_retry: true, ..github(1, "user").need }, ..github(1, "user") };
        assert!(ask(&accountant, other).await.is_ok());
    });
}

#[test]
fn a_retry_that_was_not_sent_takes_nothing() {
    paused(async {
        let accountant = accountant(|_| {});
        for _ in 0..100 {
            drop(ask(&accountant, retry(MINUTE)).await.unwrap());
        }
        assert_eq!(accountant.send(Budgets).await.unwrap()[0].used, 0);
    });
}

#[test]
fn a_request_that_was_cut_off_is_no_answer() {
    paused(async {
        let accountant = accountant(|_| {});
        for order in 0..5 {
            let permit = get(&accountant, order, MINUTE).await.unwrap();
            done(permit, Some(failure(Verdict::Retry { after: None }, 503, true))).await;
        }
        let probe = get(&accountant, 6, MINUTE).await.unwrap();
        probe.report(Observed::default(), End::Cut).await;
        let other = get(&accountant, 7, Duration::from_secs(1)).await.expect("another probe may go");
        let third = get(&accountant, 8, Duration::from_secs(1)).await;
        assert!(third.is_err(), "the breaker is as it was");
        drop(other);
    });
}
