//! An account by itself: turns, overtaking, those who are gone, and that nobody is forgotten.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use steadfast_core::budget::{LimitSettings, Tick};
use steadfast_core::failure::GateReason;
use steadfast_core::headers::Observed;
use steadfast_core::retry_budget::RetryBudget;
use steadfast_core::time::Timestamp;

use super::End;
use super::account::{Account, Answer, Ask, Sent, Served};
use super::messages::Need;
use super::shared::Shared;
use super::waiting::MOST_OVERTAKEN;
use crate::calls::Order;

#[derive(Clone, Debug)]
struct Caller {
    name: usize,
    gone: Rc<Cell<bool>>,
}

impl Answer for Caller {
    fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

fn caller(name: usize) -> Caller {
    Caller { name, gone: Rc::default() }
}

fn retries() -> RetryBudget {
    RetryBudget::new(crate::tests::settings().retry_budget)
}

fn account(limits: LimitSettings) -> Account<Caller> {
    Account::new(Shared::own(&limits, Duration::ZERO), Duration::ZERO, crate::tests::settings().breaker)
}

fn tokens_a_minute(tokens_per_minute: u32) -> LimitSettings {
    LimitSettings { tokens_per_minute, ..LimitSettings::UNKNOWN }
}

fn one_at_a_time() -> LimitSettings {
    LimitSettings { concurrency: 1, ..LimitSettings::UNKNOWN }
}

fn secs(s: u64) -> Tick {
    Duration::from_secs(s)
}

fn ask(priority: i32, admitted: i64, tokens: u64) -> Ask {
    let order = Order { priority, admitted: Timestamp::from_secs(admitted) };
    Ask { need: Need { operation: "chat", tokens, order, is_retry: false }, until: secs(100_000) }
}

fn answered(account: &mut Account<Caller>, now: Tick, sent: Sent) {
    let end = End::Answered(None);
    account.ended(now, sent, &Observed::default(), &end, Timestamp::EPOCH, Duration::ZERO);
}

/// Who goes, each answered at once.
fn names(account: &mut Account<Caller>, now: Tick) -> Vec<usize> {
    let Served { go, .. } = account.serve(now, &mut retries());
    for (_, sent) in &go {
        answered(account, now, *sent);
    }
    go.into_iter().map(|(caller, _)| caller.name).collect()
}

#[test]
fn one_who_is_gone_is_passed_over_and_takes_nothing() {
    let mut account = account(one_at_a_time());
    let gone = caller(0);
    account.join(secs(0), ask(0, 0, 0), gone.clone());
    gone.gone.set(true);
    for name in 1..3 {
        account.join(secs(0), ask(0, name, 0), caller(name as usize));
    }
    assert_eq!(names(&mut account, secs(0)), [1]);
    assert_eq!(names(&mut account, secs(1)), [2]);
    assert_eq!(account.counts().used, 2);
}

#[test]
fn one_who_leaves_is_not_met_again() {
    let mut account = account(one_at_a_time());
    let place = account.join(secs(0), ask(0, 0, 0), caller(0));
    account.join(secs(0), ask(0, 1, 0), caller(1));
    account.leave("chat", false, place);
    account.leave("chat", false, place);
    assert_eq!(names(&mut account, secs(0)), [1]);
    assert!(!account.is_in_use(secs(1)));
}

#[test]
fn a_large_request_is_overtaken_so_often_and_no_more() {
    // Ten tokens a second, and a burst of nine.
    let mut account = account(tokens_a_minute(600));
    assert_eq!(account.serve(secs(0), &mut retries()).go.len(), 0);
    account.join(secs(0), ask(0, 0, 9), caller(0));
    assert_eq!(names(&mut account, secs(0)), [0], "the burst is used up");
    account.join(secs(0), ask(0, 1, 9), caller(100));
    let mut order = Vec::new();
    for step in 0..200 {
        let now = Duration::from_millis(110 * (step + 1));
        account.join(now, ask(0, 2, 1), caller(step as usize));
        order.extend(names(&mut account, now));
    }
    let turn = order.iter().position(|name| *name == 100).unwrap();
    assert_eq!(turn, usize::from(MOST_OVERTAKEN));
    assert!(order.len() > 150, "then the small ones go on: {}", order.len());
}

#[test]
fn nobody_overtakes_a_higher_priority_nor_what_tokens_do_not_hold_up() {
    let mut account = account(tokens_a_minute(600));
    account.join(secs(0), ask(0, 0, 9), caller(0));
    names(&mut account, secs(0));
    account.join(secs(0), ask(1, 1, 9), caller(1));
    account.join(secs(0), ask(0, 0, 1), caller(2));
    assert_eq!(names(&mut account, Duration::from_millis(500)), [0; 0]);
    assert_eq!(names(&mut account, secs(1)), [1]);
}

#[test]
fn one_held_up_by_tokens_in_its_line_makes_no_timer_spin() {
    let mut account = account(tokens_a_minute(600));
    account.join(secs(0), ask(0, 0, 9), caller(0));
    names(&mut account, secs(0));
    let large = ask(0, 1, 9);
    account.join(secs(0), Ask { need: Need { is_retry: true, ..large.need }, ..large }, caller(1));
    account.join(secs(0), ask(0, 2, 1), caller(2));
    let half = Duration::from_millis(500);
    let served = account.serve(half, &mut retries());
    assert!(served.go.is_empty());
    assert!(served.next.unwrap() > half + Duration::from_millis(100), "{:?}", served.next);
}

#[test]
fn a_line_that_is_shut_sends_away_only_its_own() {
    let mut account = account(one_at_a_time());
    let mut spent = retries();
    while spent.wait(secs(0)).is_zero() {
        spent.sent(secs(0), true);
    }
    account.join(secs(0), ask(0, 0, 0), caller(0));
    assert_eq!(account.serve(secs(0), &mut spent).go.len(), 1);
    let soon = |is_retry| {
        let ask = ask(0, 1, 0);
        Ask { need: Need { is_retry, ..ask.need }, until: secs(5) }
    };
    account.join(secs(0), soon(true), caller(1));
    account.join(secs(0), soon(false), caller(2));
    let served = account.serve(secs(0), &mut spent);
    let away: Vec<_> = served.away.iter().map(|(caller, shut)| (caller.name, shut.reason)).collect();
    assert_eq!(away, [(1, Some(GateReason::Unavailable))], "its wait is known, and longer");
    assert_eq!(served.next, Some(secs(5)));
    assert_eq!(account.serve(secs(5), &mut spent).away.len(), 1);
}

/// One who waits, as the model of the property test knows it.
#[derive(Clone, Debug)]
struct Known {
    order: Order,
    arrival: usize,
    until: Tick,
    overtaken: u8,
    gone: Rc<Cell<bool>>,
}

proptest! {
    /// Whoever comes with whatever, leaves or is patient: each is answered exactly once, higher
    /// priorities first, the oldest first but for few that overtake, and the timer never spins.
    #[test]
    fn everyone_has_an_answer_and_turns_are_in_order(
        steps in prop::collection::vec(
            (0..2_000_u64, 0..3_i32, 0..50_i64, 0..40_u64, 1..90_u64, 0..8_u8), 1..200,
        ),
        concurrency in 0..3_u32,
    ) {
        let mut account = account(LimitSettings { concurrency, ..tokens_a_minute(1_200) });
        let mut retries = retries();
        let mut waiting: BTreeMap<usize, Known> = BTreeMap::new();
        let mut out: Vec<Sent> = Vec::new();
        let mut now = Duration::ZERO;
        for (arrival, (pause, priority, admitted, tokens, patience, act)) in steps.iter().enumerate() {
            now += Duration::from_millis(*pause);
            for sent in out.drain(..) {
                answered(&mut account, now, sent);
            }
            let until = now + secs(*patience);
            let asked = Ask { until, ..ask(*priority, *admitted, *tokens) };
            let one = caller(arrival);
            let place = account.join(now, asked, one.clone());
            let order = asked.need.order;
            let gone = Rc::clone(&one.gone);
            match act {
                0 => one.gone.set(true),
                1 => account.leave("chat", false, place),
                _ => {}
            }
            if *act > 1 {
                waiting.insert(arrival, Known { order, arrival, until, overtaken: 0, gone });
            }
            let served = account.serve(now, &mut retries);
            for (caller, sent) in served.go {
                let Some(went) = waiting.remove(&caller.name) else {
                    return Err(TestCaseError::fail(format!("{} was answered before, or left", caller.name)));
                };
                out.push(sent);
                for other in waiting.values_mut().filter(|other| !other.gone.get()) {
                    prop_assert!(other.order.priority <= went.order.priority);
                    let earlier = (other.order, other.arrival) < (went.order, went.arrival);
                    other.overtaken += u8::from(earlier);
                    prop_assert!(other.overtaken <= MOST_OVERTAKEN);
                }
            }
            for (caller, shut) in served.away {
                prop_assert!(waiting.remove(&caller.name).is_some());
                prop_assert!(shut.wait >= secs(1));
            }
            let wake = served.next;
            prop_assert!(wake.is_none_or(|next| next > now), "{:?} at {:?}", wake, now);
            prop_assert!(waiting.values().all(|known| known.until > now), "patience ended unheard");
            prop_assert_eq!(waiting.is_empty() || wake.is_some() || !out.is_empty(), true);
        }
        // Nobody is left in the end.
        for sent in out.drain(..) {
            answered(&mut account, now, sent);
        }
        now += secs(10_000);
        let served = account.serve(now, &mut retries);
        let answers = served.go.iter().map(|(caller, _)| caller.name);
        let answers: Vec<usize> = answers.chain(served.away.iter().map(|(caller, _)| caller.name)).collect();
        for name in answers {
            prop_assert!(waiting.remove(&name).is_some());
        }
        prop_assert!(waiting.is_empty(), "{:?}", waiting);
    }
}
