//! Promises of a budget, one at a time; whole runs are in crates/core/tests/pacing.rs.

use super::*;
use crate::headers::Window;

fn secs(s: u64) -> Tick {
    Duration::from_secs(s)
}

fn budget(requests: u32, tokens: u32, concurrency: u32) -> Budget {
    let settings = LimitSettings {
        requests_per_minute: requests,
        tokens_per_minute: tokens,
        concurrency,
        window: WindowKind::Auto,
        burst: 0,
    };
    Budget::new(&settings, Duration::ZERO)
}

/// Sends as fast as the budget lets it; how many went within `span`.
fn greedy(budget: &mut Budget, mut now: Tick, span: Duration, tokens: u64) -> u32 {
    let end = now + span;
    let mut sent = 0;
    while now < end {
        let wait = budget.wait(now, tokens);
        if wait.is_zero() {
            budget.take(now, tokens);
            budget.done(tokens, None);
            sent += 1;
        }
        now += wait.max(Duration::from_millis(1));
    }
    sent
}

#[test]
fn a_configured_rate_is_kept_and_used() {
    let sent = greedy(&mut budget(60, 0, 0), secs(0), secs(600), 10);
    assert!((599..=601).contains(&sent), "{sent}");
}

#[test]
fn tokens_bind_where_they_are_the_tighter_limit() {
    let sent = greedy(&mut budget(600, 6_000, 0), secs(0), secs(600), 1_000);
    assert!((59..=61).contains(&sent), "{sent}");
}

#[test]
fn a_correction_gives_back_what_was_held_too_much() {
    let mut budget = budget(0, 600, 0);
    budget.take(secs(0), 600);
    assert!(budget.wait(secs(0), 1) > Duration::ZERO);
    budget.done(600, Some(0));
    assert_eq!(budget.wait(secs(0), 1), Duration::ZERO);
}

#[test]
fn an_amount_larger_than_the_burst_goes_when_the_bucket_is_full() {
    let mut budget = budget(0, 60, 0);
    assert_eq!(budget.wait(secs(0), 10_000), Duration::ZERO);
    budget.take(secs(0), 10_000);
    assert!(budget.wait(secs(0), 1) > secs(3_600));
}

#[test]
fn concurrency_is_bounded_and_freed() {
    let mut budget = budget(0, 0, 2);
    budget.take(secs(0), 1);
    budget.take(secs(0), 1);
    assert_eq!(budget.wait(secs(0), 1), Duration::MAX);
    budget.untake(1);
    assert_eq!(budget.wait(secs(0), 1), Duration::ZERO);
}

#[test]
fn the_gate_closes_everything_until_its_time_and_the_later_time_wins() {
    let mut budget = budget(0, 0, 0);
    assert!(budget.close(secs(0), secs(10), GateReason::RateLimit));
    assert!(!budget.close(secs(0), secs(5), GateReason::RateLimit));
    assert_eq!(budget.wait(secs(4), 1), secs(6));
    assert_eq!(budget.wait(secs(10), 1), Duration::ZERO);
}

#[test]
fn headers_teach_what_the_configuration_leaves_open_and_only_that() {
    let window = Window { limit: Some(120), remaining: Some(0), reset: Some(secs(7)) };
    let observed = Observed { requests: Some(window), tokens: None, resource: None };
    let mut open = budget(0, 0, 0);
    open.learn(secs(0), &observed);
    assert_eq!(open.request_limit(), Some((120.0, Source::Headers)));
    assert_eq!(open.wait(secs(0), 1), secs(7));
    let mut told = budget(60, 0, 0);
    told.learn(secs(0), &observed);
    assert_eq!(told.request_limit(), Some((60.0, Source::Config)));
}

#[test]
fn a_bare_rejection_of_the_first_requests_says_nothing_of_the_rate() {
    let mut budget = budget(0, 0, 0);
    budget.take(secs(0), 1);
    budget.done(1, None);
    budget.rejected_without_hint(secs(1));
    assert_eq!(budget.request_limit(), None);
    assert_eq!(budget.wait(secs(1), 1), Duration::ZERO);
}

#[test]
fn a_bare_rejection_cuts_the_rate_once_and_quiet_raises_it_again() {
    let mut budget = budget(0, 0, 0);
    for second in 0..100 {
        budget.take(secs(second), 1);
        budget.done(1, None);
    }
    budget.rejected_without_hint(secs(100));
    budget.rejected_without_hint(secs(100));
    let (cut, source) = budget.request_limit().unwrap();
    assert_eq!(source, Source::Felt);
    assert!((35.0..50.0).contains(&cut), "{cut}");
    budget.wait(secs(160), 1);
    assert!(budget.request_limit().unwrap().0 > cut);
}
