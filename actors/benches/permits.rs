//! What a permit costs: the arithmetic of an account with many who wait, without the actor around it.

use std::time::Duration;

use divan::{Bencher, black_box};
use steadfast_actors::accountant::account::{Account, Answer, Ask, Served};
use steadfast_actors::accountant::shared::Shared;
use steadfast_actors::accountant::{End, Need};
use steadfast_actors::calls::Order;
use steadfast_core::breaker::BreakerSettings;
use steadfast_core::budget::{LimitSettings, Tick, WindowKind};
use steadfast_core::headers::Observed;
use steadfast_core::retry_budget::{RetryBudget, RetryBudgetSettings};
use steadfast_core::time::Timestamp;

fn main() {
    divan::main();
}

/// One who waits for ever.
struct Caller;

impl Answer for Caller {
    fn is_gone(&self) -> bool {
        false
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn account(limits: &LimitSettings) -> (Account<Caller>, RetryBudget) {
    let breaker = BreakerSettings {
        window: Duration::from_secs(60),
        min_calls: 10,
        failure_rate: 0.5,
        slow_after: Duration::ZERO,
        slow_rate: 0.8,
        open: Duration::from_secs(15),
        open_max: Duration::from_secs(300),
    };
    let retries = RetryBudgetSettings { share: 0.2, window: Duration::from_secs(60), floor: 10 };
    (Account::new(Shared::own(limits, Duration::ZERO), Duration::ZERO, breaker), RetryBudget::new(retries))
}

/// Jobs come in no order.
fn ask(number: u64, now: Tick) -> Ask {
    let admitted = Timestamp::from_millis((number.wrapping_mul(0x9E37_79B9) % 1_000_003) as i64);
    let order = Order { priority: 0, admitted };
    Ask { need: Need { operation: "chat", tokens: 0, order, is_retry: false }, until: now + HOUR }
}

/// As many wait; one permit at a time: one comes, one goes, one ends, by a limit of `window` that
/// lets one go each millisecond.
fn one_in_one_out(bencher: Bencher<'_, '_>, waiters: u64, window: WindowKind) {
    let limits = LimitSettings { requests_per_minute: 60_000, window, burst: 1, ..LimitSettings::UNKNOWN };
    let (mut account, mut retries) = account(&limits);
    let mut now = Duration::ZERO;
    for number in 0..waiters {
        account.join(now, ask(number, now), Caller);
    }
    let (mut number, mut served) = (waiters, waiters);
    let (observed, end) = (Observed::default(), End::Answered(None));
    bencher.bench_local(|| {
        now += Duration::from_micros(1_001);
        account.join(now, ask(number, now), Caller);
        number += 1;
        let Served { go, away, next } = account.serve(now, &mut retries);
        served += go.len() as u64;
        assert!(away.is_empty());
        for (_, sent) in go {
            account.ended(now, sent, &observed, &end, Timestamp::EPOCH, Duration::ZERO);
        }
        black_box(next)
    });
    assert!(served * 10 >= number * 9, "{served} of {number}: as many come as go");
}

#[divan::bench(args = [1, 100, 10_000, 100_000], sample_size = 1_000)]
fn one_permit_while_so_many_wait(bencher: Bencher<'_, '_>, waiters: u64) {
    one_in_one_out(bencher, waiters, WindowKind::Bucket);
}

#[divan::bench(args = [10_000], sample_size = 1_000)]
fn one_permit_of_a_fixed_window(bencher: Bencher<'_, '_>, waiters: u64) {
    one_in_one_out(bencher, waiters, WindowKind::Fixed);
}

/// Nobody can go: what each message costs then.
#[divan::bench(args = [10_000], sample_size = 1_000)]
fn one_more_before_a_shut_door(bencher: Bencher<'_, '_>, waiters: u64) {
    let limits = LimitSettings { concurrency: 1, ..LimitSettings::UNKNOWN };
    let (mut account, mut retries) = account(&limits);
    for number in 0..waiters {
        account.join(Duration::ZERO, ask(number, Duration::ZERO), Caller);
    }
    assert_eq!(account.serve(Duration::ZERO, &mut retries).go.len(), 1);
    let mut number = waiters;
    bencher.bench_local(|| {
        let place = account.join(Duration::ZERO, ask(number, Duration::ZERO), Caller);
        number += 1;
        let next = account.serve(Duration::ZERO, &mut retries).next;
        account.leave("chat", false, place);
        black_box(next)
    });
}
