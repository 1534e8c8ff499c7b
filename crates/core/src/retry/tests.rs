//! The arithmetic of delays, and what the loop does with each verdict, under a clock of its own.

use std::cell::{Cell, RefCell};
use std::future::ready;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::failure::Provider;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn policy(max_attempts: u32) -> RetryPolicy {
    RetryPolicy { max_attempts, initial: secs(1), max: secs(60), multiplier: 2.0, jitter: 0.2 }
}

fn failure(verdict: Verdict) -> Failure {
    Failure {
        verdict,
        provider: Provider::Llm,
        operation: "chat",
        status: Some(503),
        message: "unwell".into(),
        request_id: None,
        maybe_charged: false,
        unhealthy: true,
    }
}

const RETRY: Verdict = Verdict::Retry { after: None };

/// Time that passes by sleeping alone; chance that is always the same.
struct FakeEnv {
    now: Cell<Timestamp>,
    random: f64,
    slept: RefCell<Vec<Duration>>,
    heard: RefCell<Vec<(u32, Duration)>>,
}

impl FakeEnv {
    fn new(random: f64) -> Self {
        let now = Cell::new(Timestamp::from_secs(1_760_000_000));
        FakeEnv { now, random, slept: RefCell::default(), heard: RefCell::default() }
    }

    fn slept_ms(&self) -> Vec<u128> {
        self.slept.borrow().iter().map(Duration::as_millis).collect()
    }
}

impl RetryEnv for FakeEnv {
    fn now(&self) -> Timestamp {
        self.now.get()
    }
    fn random(&self) -> f64 {
        self.random
    }
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        self.slept.borrow_mut().push(wait);
        self.now.set(self.now.get() + wait);
        ready(())
    }
    fn on_retry(&self, _: &Failure, attempt: u32, wait: Duration) {
        self.heard.borrow_mut().push((attempt, wait));
    }
}

/// Runs the loop over prepared outcomes; gives its result and the tries that it made.
fn run(
    policy: &RetryPolicy,
    env: &FakeEnv,
    outcomes: Vec<Result<&'static str, Failure>>,
) -> (Result<&'static str, GaveUp>, Vec<Attempt>) {
    let mut tries = Vec::new();
    let mut outcomes = outcomes.into_iter();
    let looped = retry(policy, env, |attempt| {
        tries.push(attempt);
        ready(outcomes.next().expect("more tries than prepared outcomes"))
    });
    // Nothing in it ever waits for another: one poll runs it to its end.
    let result = match pin!(looped).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the loop waits for something that nobody brings"),
    };
    (result, tries)
}

fn numbers(tries: &[Attempt]) -> Vec<u32> {
    tries.iter().map(|attempt| attempt.number).collect()
}

#[test]
fn it_backs_off_and_succeeds() {
    let env = FakeEnv::new(0.5);
    let failures = vec![Err(failure(RETRY)), Err(failure(RETRY)), Err(failure(RETRY)), Ok("done")];
    let (result, tries) = run(&policy(5), &env, failures);
    assert_eq!(result, Ok("done"));
    assert_eq!(numbers(&tries), [1, 2, 3, 4]);
    assert_eq!(env.slept_ms(), [1000, 2000, 4000]);
    let heard: Vec<_> = env.heard.borrow().iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(heard, [1, 2, 3]);
}

#[test]
fn it_makes_as_many_tries_as_the_policy_has_and_never_sleeps_after_the_last() {
    for max_attempts in 0..6 {
        let env = FakeEnv::new(0.5);
        let most = max_attempts.max(1);
        let (result, tries) = run(&policy(max_attempts), &env, vec![Err(failure(RETRY)); most as usize]);
        assert_eq!(result, Err(GaveUp::Exhausted { attempts: most, failure: failure(RETRY) }));
        assert_eq!(tries.len(), most as usize);
        assert_eq!(env.slept.borrow().len(), most as usize - 1);
    }
}

#[test]
fn what_repeating_cannot_help_ends_it_at_once() {
    for verdict in [Verdict::Fatal { why: FatalReason::Rejected }, Verdict::Shrink] {
        let env = FakeEnv::new(0.5);
        let (result, tries) = run(&policy(5), &env, vec![Err(failure(verdict))]);
        assert_eq!(result, Err(GaveUp::Fatal(failure(verdict))));
        assert_eq!((tries.len(), env.slept.borrow().len()), (1, 0));
    }
}

#[test]
fn a_short_wait_of_the_server_is_sat_on() {
    let env = FakeEnv::new(0.0);
    let at = env.now() + secs(20);
    let gate = Verdict::WaitUntil { at, reason: GateReason::RateLimit };
    let named = Verdict::Retry { after: Some(secs(7)) };
    let (result, _) = run(&policy(5), &env, vec![Err(failure(gate)), Err(failure(named)), Ok("done")]);
    assert_eq!(result, Ok("done"));
    assert_eq!(env.slept_ms(), [20_000, 7000]);
}

#[test]
fn a_sick_server_that_asks_for_less_than_our_backoff_gets_our_backoff() {
    let env = FakeEnv::new(0.5);
    let named = Verdict::Retry { after: Some(Duration::from_millis(100)) };
    let (result, _) = run(&policy(5), &env, vec![Err(failure(named)), Ok("done")]);
    assert_eq!(result, Ok("done"));
    assert_eq!(env.slept_ms(), [1000]);
}

#[test]
fn a_long_wait_of_the_server_parks() {
    let env = FakeEnv::new(0.5);
    let at = env.now() + secs(61);
    let gate = failure(Verdict::WaitUntil { at, reason: GateReason::Quota });
    let (result, tries) = run(&policy(5), &env, vec![Err(gate.clone())]);
    assert_eq!(result, Err(GaveUp::Park { until: at, reason: GateReason::Quota, failure: gate }));
    assert_eq!((tries.len(), env.slept.borrow().len()), (1, 0));

    let named = failure(Verdict::Retry { after: Some(secs(61)) });
    let (result, _) = run(&policy(5), &env, vec![Err(named.clone())]);
    assert_eq!(result, Err(GaveUp::Park { until: at, reason: GateReason::Unavailable, failure: named }));
    assert!(env.slept.borrow().is_empty());
}

#[test]
fn a_rate_limit_on_the_last_try_parks_and_is_no_exhaustion() {
    let env = FakeEnv::new(0.5);
    let at = env.now() + secs(5);
    let gate = failure(Verdict::WaitUntil { at, reason: GateReason::RateLimit });
    let (result, _) = run(&policy(1), &env, vec![Err(gate.clone())]);
    assert_eq!(result, Err(GaveUp::Park { until: at, reason: GateReason::RateLimit, failure: gate }));
}

#[test]
fn a_credential_is_refreshed_once_uncounted_and_at_once() {
    let env = FakeEnv::new(0.5);
    let (result, tries) = run(&policy(1), &env, vec![Err(failure(Verdict::Refresh)), Ok("done")]);
    assert_eq!(result, Ok("done"));
    let first = Attempt { number: 1, refresh: false, verify: false };
    assert_eq!(tries, [first, Attempt { refresh: true, ..first }]);
    assert!(env.slept.borrow().is_empty());
}

#[test]
fn a_second_refusal_of_the_credential_is_fatal_even_after_other_failures() {
    let env = FakeEnv::new(0.5);
    let refused = || Err(failure(Verdict::Refresh));
    let (result, tries) = run(&policy(5), &env, vec![refused(), Err(failure(RETRY)), refused()]);
    let fatal = Verdict::Fatal { why: FatalReason::Credentials };
    assert_eq!(result, Err(GaveUp::Fatal(failure(fatal))));
    assert_eq!(tries.iter().map(|attempt| attempt.refresh).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn an_unknown_outcome_is_looked_up_from_then_on_and_counted() {
    let env = FakeEnv::new(0.5);
    let outcomes = vec![
        Err(failure(RETRY)),
        Err(failure(Verdict::Verify)),
        Err(failure(RETRY)),
        Err(failure(Verdict::Verify)),
    ];
    let (result, tries) = run(&policy(4), &env, outcomes);
    assert_eq!(result, Err(GaveUp::Exhausted { attempts: 4, failure: failure(Verdict::Verify) }));
    let verify: Vec<_> = tries.iter().map(|attempt| attempt.verify).collect();
    assert_eq!(verify, [false, false, true, true]);
    assert_eq!(env.slept_ms(), [1000, 2000, 4000]);
}

#[test]
fn a_refresh_keeps_the_duty_to_look_first() {
    let env = FakeEnv::new(0.5);
    let outcomes = vec![Err(failure(Verdict::Verify)), Err(failure(Verdict::Refresh)), Ok("done")];
    let (result, tries) = run(&policy(3), &env, outcomes);
    assert_eq!(result, Ok("done"));
    assert_eq!(tries.last(), Some(&Attempt { number: 2, refresh: true, verify: true }));
}

#[test]
fn the_defaults_of_the_first_layer_give_its_delays() {
    let policy = policy(5);
    let envelope: Vec<_> = (1..=8).map(|failed| policy.envelope(failed).as_secs()).collect();
    assert_eq!(envelope, [1, 2, 4, 8, 16, 32, 60, 60]);
}

fn policies() -> impl Strategy<Value = RetryPolicy> {
    (1u32..20, 0u64..10_000, 0u64..10_000_000, 1.0f64..10.0, 0.0f64..=1.0).prop_map(
        |(max_attempts, initial, more, multiplier, jitter)| RetryPolicy {
            max_attempts,
            initial: Duration::from_millis(initial),
            max: Duration::from_millis(initial + more),
            multiplier,
            jitter,
        },
    )
}

/// Doubles and nanoseconds do not agree to the last digit.
const ROUNDING: Duration = Duration::from_micros(1);

proptest! {
    #[test]
    fn the_envelope_grows_from_initial_to_max_and_never_beyond(policy in policies(), failed in 1u32..=u32::MAX) {
        let here = policy.envelope(failed);
        prop_assert!(here <= policy.envelope(failed.saturating_add(1)));
        prop_assert!(here + ROUNDING >= policy.initial && here <= policy.max + ROUNDING);
        prop_assert_eq!(policy.envelope(0), policy.envelope(1));
    }

    #[test]
    fn own_delays_stay_within_jitter_on_both_sides(
        policy in policies(), failed in 1u32..100, random in 0.0f64..=1.0,
    ) {
        let envelope = policy.envelope(failed);
        let delay = policy.delay(failed, random);
        prop_assert!(delay + ROUNDING >= envelope.mul_f64(1.0 - policy.jitter));
        prop_assert!(delay <= envelope.mul_f64(1.0 + policy.jitter) + ROUNDING);
        let lowest = policy.delay(failed, 0.0).abs_diff(envelope.mul_f64(1.0 - policy.jitter));
        let highest = policy.delay(failed, 1.0).abs_diff(envelope.mul_f64(1.0 + policy.jitter));
        prop_assert!(lowest <= ROUNDING && highest <= ROUNDING, "chance reaches both ends");
    }

    #[test]
    fn the_servers_time_is_jittered_upward_only(
        policy in policies(), wait in 0u64..100_000_000, random in 0.0f64..=1.0,
    ) {
        let wait = Duration::from_millis(wait);
        let waited = policy.server_wait(wait, random);
        prop_assert!(waited >= wait);
        prop_assert!(waited <= wait + wait.mul_f64(policy.jitter) + ROUNDING);
        prop_assert!(waited <= wait + policy.max / 10 + ROUNDING);
        prop_assert_eq!(policy.server_wait(wait, 0.0), wait);
    }

    #[test]
    fn numbers_beyond_reason_do_not_panic(
        jitter in any::<f64>(), multiplier in any::<f64>(), random in any::<f64>(), failed in any::<u32>(),
    ) {
        let policy = RetryPolicy { max_attempts: 3, initial: Duration::MAX, max: Duration::MAX, multiplier, jitter };
        let _ = (policy.delay(failed, random), policy.server_wait(Duration::MAX, random));
    }

    #[test]
    fn no_sleep_is_longer_than_the_policy_allows(
        policy in policies(), waits in proptest::collection::vec(proptest::option::of(0u64..200), 1..20),
        random in 0.0f64..=1.0,
    ) {
        let env = FakeEnv::new(random);
        let mut outcomes: Vec<_> = waits
            .iter()
            .map(|wait| Err(failure(Verdict::Retry { after: wait.map(secs) })))
            .collect();
        outcomes.resize(20, Err(failure(RETRY)));
        let (result, tries) = run(&policy, &env, outcomes);
        prop_assert!(result.is_err());
        prop_assert!(tries.len() <= policy.max_attempts as usize);
        let longest = policy.max.mul_f64(1.0 + policy.jitter) + ROUNDING;
        prop_assert!(env.slept.borrow().iter().all(|slept| *slept <= longest));
    }
}
