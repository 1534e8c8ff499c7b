//! Promises of a budget, one at a time; whole runs are in crates/core/tests/pacing.rs.

use proptest::prelude::*;

use super::*;
use crate::headers::Window;

fn secs(s: u64) -> Tick {
    Duration::from_secs(s)
}

fn settings(requests: u32, tokens: u32, concurrency: u32) -> LimitSettings {
    LimitSettings {
        requests_per_minute: requests,
        tokens_per_minute: tokens,
        concurrency,
        window: WindowKind::Auto,
        burst: 0,
    }
}

fn budget(requests: u32, tokens: u32, concurrency: u32) -> Budget {
    Budget::new(&settings(requests, tokens, concurrency), Duration::ZERO)
}

/// Sends as fast as the budget lets it; how many went within `span`.
fn greedy(budget: &mut Budget, mut now: Tick, span: Duration, tokens: u64) -> u32 {
    let end = now + span;
    let mut sent = 0;
    while now < end {
        let wait = budget.wait(now, tokens);
        if wait.is_zero() {
            budget.take(now, tokens);
            budget.done(now, now, tokens, None, Outcome::Accepted);
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
fn a_configured_window_is_used_at_once_and_never_exceeded() {
    for window in [WindowKind::Fixed, WindowKind::Rolling] {
        let settings = LimitSettings { window, ..settings(60, 0, 0) };
        let mut budget = Budget::new(&settings, Duration::ZERO);
        assert_eq!(greedy(&mut budget, secs(0), secs(4), 1), 60, "{window:?}");
        assert_eq!(budget.request_kind().1, Source::Config);
    }
}

/// Told a minute at 1 s; whether the one request that is sent a second later is told `then`. Until
/// when nothing goes after that.
fn after_a_minute(requests: u32, tokens: u32, then: u64) -> Tick {
    let mut budget = budget(requests, tokens, 0);
    budget.take(secs(1), 10);
    budget.done(secs(1), secs(1), 10, None, Outcome::Rejected(Some(secs(60))));
    assert_eq!(budget.gate(secs(1)), None, "nobody parks for what is not known to be meant");
    let test = secs(1) + budget.wait(secs(1), 10);
    assert!(test > secs(2) && test < secs(3), "{test:?}");
    budget.take(test, 10);
    assert!(!budget.wait(test, 10).is_zero(), "one is enough");
    budget.done(test, test, 10, None, Outcome::Rejected(Some(secs(then))));
    test + budget.wait(test, 10)
}

#[test]
fn a_minute_that_counts_is_waited_for_and_one_that_never_changes_is_not() {
    for (requests, tokens) in [(0, 0), (600, 0), (600, 6_000)] {
        let meant = after_a_minute(requests, tokens, 59);
        assert!((secs(60)..=secs(62)).contains(&meant), "{meant:?}");
        let constant = after_a_minute(requests, tokens, 60);
        assert!(constant < secs(6), "{constant:?}");
    }
}

#[test]
fn a_configured_burst_goes_at_once() {
    let settings = LimitSettings { window: WindowKind::Bucket, burst: 10, ..settings(60, 0, 0) };
    let mut budget = Budget::new(&settings, Duration::ZERO);
    let sent = greedy(&mut budget, secs(0), Duration::from_millis(100), 1);
    assert!((9..=10).contains(&sent), "{sent}");
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
    assert!(budget.wait(secs(0), 1) > secs(1));
    budget.done(secs(0), secs(0), 600, Some(0), Outcome::Accepted);
    assert!(budget.wait(secs(0), 1) < secs(1));
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
    budget.untake(secs(0), secs(0), 1);
    assert_eq!(budget.in_flight(), 1);
    assert_eq!(budget.wait(secs(1), 1), Duration::ZERO);
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
fn after_a_gate_one_goes_first_and_the_rest_are_paced() {
    let mut budget = budget(0, 0, 0);
    budget.close(secs(0), secs(10), GateReason::Unavailable);
    assert_eq!(budget.wait(secs(10), 1), Duration::ZERO);
    budget.take(secs(10), 1);
    assert!(budget.wait(secs(10), 1) > Duration::from_millis(100), "the probe is under way");
    budget.done(secs(11), secs(10), 1, None, Outcome::Accepted);
    let sent = greedy(&mut budget, secs(11), secs(1), 1);
    assert!((2..100).contains(&sent), "{sent} in the first second");
}

#[test]
fn a_probe_that_is_rejected_closes_the_door_for_longer() {
    let mut budget = budget(0, 0, 0);
    let reject = |budget: &mut Budget, now: Tick| {
        budget.take(now, 1);
        budget.done(now, now, 1, None, Outcome::Rejected(None));
    };
    reject(&mut budget, secs(0));
    let (mut now, mut waits) = (secs(0), Vec::new());
    for _ in 0..5 {
        let wait = budget.wait(now, 1);
        waits.push(wait);
        now += wait;
        reject(&mut budget, now);
    }
    assert!(waits.is_sorted() && waits[4] > waits[0] * 8, "{waits:?}");
}

#[test]
fn headers_teach_what_the_configuration_leaves_open_and_only_that() {
    let window = Window { limit: Some(120), remaining: Some(0), reset: Some(secs(7)) };
    let observed = Observed { requests: Some(window), tokens: None, resource: None };
    let mut open = budget(0, 0, 0);
    open.learn(secs(0), secs(0), &observed);
    assert_eq!(open.request_limit(), Some((120.0, Source::Headers)));
    assert_eq!(open.wait(secs(0), 1), secs(7));
    let mut told = budget(60, 0, 0);
    told.learn(secs(0), secs(0), &observed);
    assert_eq!(told.request_limit(), Some((60.0, Source::Config)));
}

#[test]
fn a_limit_with_a_far_reset_is_one_of_an_hour() {
    let window = Window { limit: Some(5_000), remaining: Some(4_999), reset: Some(secs(3_000)) };
    let observed = Observed { requests: Some(window), tokens: None, resource: None };
    let mut github = budget(0, 0, 0);
    github.learn(secs(0), secs(0), &observed);
    let (limit, _) = github.request_limit().unwrap();
    assert!((83.0..84.0).contains(&limit), "{limit}");
    assert_eq!(github.request_kind(), (Kind::Fixed, Source::Headers));
    let sent = greedy(&mut github, secs(1), secs(2), 1);
    assert!(sent > 20, "{sent}: an hour's limit is not spread over the hour");
}

#[test]
fn a_wait_of_a_minute_sharp_is_probed_before_it_is_over_and_another_is_kept() {
    let reject = |named: u64| {
        let mut budget = budget(0, 0, 0);
        budget.take(secs(0), 1);
        budget.done(secs(0), secs(0), 1, None, Outcome::Rejected(Some(secs(named))));
        budget.wait(secs(0), 1)
    };
    assert_eq!(reject(59), secs(59));
    assert!(reject(60) < secs(5));
}

#[test]
fn a_rate_that_is_felt_for_says_so() {
    let mut budget = budget(0, 0, 0);
    let mut now = secs(0);
    for _ in 0..20 {
        now += budget.wait(now, 1);
        budget.take(now, 1);
        budget.done(now, now, 1, None, Outcome::Accepted);
    }
    assert_eq!(budget.request_limit(), None);
    now += budget.wait(now, 1);
    budget.take(now, 1);
    budget.done(now, now, 1, None, Outcome::Rejected(None));
    now += budget.wait(now, 1);
    budget.take(now, 1);
    budget.done(now, now, 1, None, Outcome::Accepted);
    let (limit, source) = budget.request_limit().unwrap();
    assert_eq!(source, Source::Felt);
    assert!(limit > 1.0, "{limit}");
}

proptest! {
    /// Whatever headers, hints and times say, nothing panics, and a closed budget opens again.
    #[test]
    fn nonsense_is_survived(
        steps in prop::collection::vec(
            (0..4_u8, any::<u64>(), any::<u64>(), any::<u64>(), 0..90_u64), 1..60,
        ),
        window in 0..4_usize,
        requests in prop::sample::select(vec![0, 1, 60, u32::MAX]),
    ) {
        let kinds = [WindowKind::Auto, WindowKind::Bucket, WindowKind::Fixed, WindowKind::Rolling];
        let settings = LimitSettings { window: kinds[window], ..settings(requests, 0, 0) };
        let mut budget = Budget::new(&settings, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (outcome, limit, remaining, reset, step) in steps {
            now += secs(step);
            budget.wait(now, remaining);
            budget.take(now, remaining % 1_000_000);
            let met = match outcome {
                0 | 1 => Outcome::Accepted,
                2 => Outcome::Rejected(None),
                _ => Outcome::Rejected(Some(secs(reset % 100))),
            };
            let told = Window { limit: Some(limit), remaining: Some(remaining), reset: Some(secs(reset)) };
            let observed = Observed { requests: Some(told), tokens: Some(told), resource: None };
            budget.done(now, now, remaining % 1_000_000, Some(limit % 1_000_000), met);
            budget.learn(now, now, &observed);
        }
        prop_assert_eq!(budget.in_flight(), 0);
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            let wait = budget.wait(now + waited, 0);
            if wait.is_zero() {
                break;
            }
            waited = waited.saturating_add(wait);
        }
        prop_assert!(waited < secs(400 * 86_400), "{:?}", waited);
    }
}

/// What GitHub says of its hour.
fn told(remaining: u64, reset: u64) -> Observed {
    Observed {
        requests: Some(Window { limit: Some(5_000), remaining: Some(remaining), reset: Some(secs(reset)) }),
        tokens: None,
        resource: None,
    }
}

/// A budget that GitHub let ten requests into.
fn github() -> Budget {
    let mut github = budget(0, 0, 0);
    github.learn(secs(0), secs(0), &told(4_999, 3_000));
    for second in 1..10 {
        github.take(secs(second), 1);
        github.done(secs(second), secs(second), 1, None, Outcome::Accepted);
        github.learn(secs(second), secs(second), &told(4_999 - second, 3_000 - second));
    }
    github
}

#[test]
fn a_refusal_of_something_else_makes_an_hour_no_smaller() {
    for hint in [None, Some(secs(51))] {
        let mut github = github();
        github.take(secs(30), 1);
        github.done(secs(30), secs(30), 1, None, Outcome::Rejected(hint));
        github.learn(secs(30), secs(30), &told(4_990, 2_970));
        let mut now = secs(30) + hint.unwrap_or_default() + secs(2);
        for left in [4_989, 4_988, 4_987] {
            now += github.wait(now, 1);
            github.take(now, 1);
            github.done(now + secs(1), now, 1, None, Outcome::Accepted);
            github.learn(now + secs(1), now, &told(left, 3_000 - now.as_secs()));
            now += secs(1);
        }
        assert!(now < secs(120), "{now:?}");
        let (limit, _) = github.request_limit().unwrap();
        assert!((83.0..84.0).contains(&limit), "{limit} after {hint:?}");
    }
}

#[test]
fn a_window_that_others_used_up_is_no_smaller_for_us() {
    let mut github = github();
    github.take(secs(30), 1);
    github.done(secs(30), secs(30), 1, None, Outcome::Rejected(Some(secs(10))));
    github.learn(secs(30), secs(30), &told(0, 10));
    let (limit, _) = github.request_limit().unwrap();
    assert!((83.0..84.0).contains(&limit), "{limit}");
    let wait = github.wait(secs(41), 1);
    assert!(wait < secs(5), "{wait:?} after the reset");
}
