//! Each row of the table of OpenAI-compatible answers, and the shapes that their bodies have.

use super::*;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

const WAITS: Waits =
    Waits { quota_recheck: Duration::from_secs(900), max_server_wait: Duration::from_secs(3600) };

fn now() -> Timestamp {
    Timestamp::from_secs(1_760_000_000)
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    pairs.iter().map(pair).collect()
}

fn judged(status: u16, pairs: &[(&str, &str)], body: &str) -> Failure {
    let headers = headers(pairs);
    refused("chat", Answer { status, headers: &headers, body: body.as_bytes() }, now(), &WAITS)
}

fn until(millis: u64) -> Verdict {
    Verdict::WaitUntil { at: now() + Duration::from_millis(millis), reason: GateReason::RateLimit }
}

fn retry_after(millis: u64) -> Verdict {
    Verdict::Retry { after: Some(Duration::from_millis(millis)) }
}

const RETRY: Verdict = Verdict::Retry { after: None };
const REJECTED: Verdict = Verdict::Fatal { why: FatalReason::Rejected };
const CREDENTIALS: Verdict = Verdict::Fatal { why: FatalReason::Credentials };
const NOT_FOUND: Verdict = Verdict::Fatal { why: FatalReason::NotFound };

fn out_of_quota() -> Verdict {
    Verdict::WaitUntil { at: now() + WAITS.quota_recheck, reason: GateReason::Quota }
}

/// A row: what it is, status, headers, body, the verdict.
type Row = (&'static str, u16, &'static [(&'static str, &'static str)], &'static str, Verdict);

#[test]
fn a_429_waits_as_long_as_it_says() {
    let rows: [Row; 20] = [
        ("seconds", 429, &[("retry-after", "7")], "", until(7000)),
        ("fractions", 429, &[("retry-after", "0.5")], "", until(500)),
        ("milliseconds win", 429, &[("retry-after-ms", "120"), ("retry-after", "7")], "", until(120)),
        ("a date", 429, &[("retry-after", "Thu, 09 Oct 2025 08:54:00 GMT")], "", until(40_000)),
        (
            "60 always, whatever is left",
            429,
            &[
                ("retry-after", "60"),
                ("x-ratelimit-remaining-requests", "3"),
                ("x-ratelimit-reset-requests", "2s"),
            ],
            "",
            until(60_000),
        ),
        (
            "its word, whatever the window's reset",
            429,
            &[
                ("retry-after", "5"),
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "9s"),
            ],
            "",
            until(5000),
        ),
        (
            "the reset of used up requests",
            429,
            &[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "59.9s")],
            "",
            until(59_900),
        ),
        (
            "the later reset of two that are used up",
            429,
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            "",
            until(360_000),
        ),
        (
            "anthropic's reset",
            429,
            &[
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2025-10-09T08:54:20Z"),
            ],
            "",
            until(60_000),
        ),
        ("the provider behind LiteLLM", 429, &[("llm_provider-retry-after", "12")], "", until(12_000)),
        (
            "a reset of what is not used up says nothing",
            429,
            &[("x-ratelimit-remaining-requests", "5"), ("x-ratelimit-reset-requests", "9s")],
            "",
            RETRY,
        ),
        (
            "nothing",
            429,
            &[],
            r#"{"error":{"message":"slow down","type":"None","param":"None","code":"429"}}"#,
            RETRY,
        ),
        ("negative", 429, &[("retry-after", "-3")], "", RETRY),
        ("not a number", 429, &[("retry-after", "soon")], "", RETRY),
        ("empty", 429, &[("retry-after", "")], "", RETRY),
        ("zero", 429, &[("retry-after", "0")], "", RETRY),
        ("beyond the cap", 429, &[("retry-after", "7200")], "", until(3_600_000)),
        ("told to retry", 429, &[("x-should-retry", "true")], "", RETRY),
        ("told not to retry", 429, &[("x-should-retry", "false")], "", REJECTED),
        ("told when, though", 429, &[("x-should-retry", "false"), ("retry-after", "9")], "", until(9000)),
    ];
    for (what, status, pairs, body, want) in rows {
        let failure = judged(status, pairs, body);
        assert_eq!(failure.verdict, want, "{what}");
        assert!(!failure.unhealthy, "{what}: a limit is no sickness");
        assert!(!failure.maybe_charged, "{what}");
        assert_eq!(failure.is_rate_limit(), want != REJECTED, "{what}");
    }
}

#[test]
fn a_wait_that_was_capped_is_told() {
    let failure = judged(429, &[("retry-after", "7200")], r#"{"error":{"message":"later"}}"#);
    assert_eq!(failure.message, "later (the server named a wait of 7200 s: capped)");
}

#[test]
fn no_quota_closes_the_gate_until_it_is_looked_at_again() {
    let rows: [Row; 6] = [
        (
            "by code",
            429,
            &[],
            r#"{"error":{"message":"m","type":"x","code":"insufficient_quota"}}"#,
            out_of_quota(),
        ),
        (
            "by type",
            429,
            &[],
            r#"{"error":{"message":"m","type":"insufficient_quota","code":null}}"#,
            out_of_quota(),
        ),
        (
            "whatever it says of waiting",
            429,
            &[("retry-after", "1")],
            r#"{"error":{"code":"insufficient_quota"}}"#,
            out_of_quota(),
        ),
        ("402", 402, &[], "", out_of_quota()),
        ("hard limit, 400", 400, &[], r#"{"error":{"code":"billing_hard_limit_reached"}}"#, out_of_quota()),
        ("hard limit, 429", 429, &[], r#"{"error":{"code":"billing_hard_limit_reached"}}"#, out_of_quota()),
    ];
    for (what, status, pairs, body, want) in rows {
        let failure = judged(status, pairs, body);
        assert_eq!(failure.verdict, want, "{what}");
        assert!(!failure.unhealthy && !failure.is_rate_limit(), "{what}");
    }
}

#[test]
fn a_request_that_is_too_large_shrinks() {
    let too_large = r#"{"error":{"message":"Request too large for model-a on tokens per min (TPM): Limit 30000, Requested 41000.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let rows: [Row; 5] = [
        ("429 by message", 429, &[], too_large, Verdict::Shrink),
        ("429 by message, with a wait", 429, &[("retry-after", "5")], too_large, Verdict::Shrink),
        ("400 by message", 400, &[], too_large, Verdict::Shrink),
        (
            "400 by code",
            400,
            &[],
            r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#,
            Verdict::Shrink,
        ),
        ("413 is another matter", 413, &[], too_large, REJECTED),
    ];
    for (what, status, pairs, body, want) in rows {
        assert_eq!(judged(status, pairs, body).verdict, want, "{what}");
    }
}

#[test]
fn refusals_that_repeating_cannot_help_are_fatal() {
    let rows = [
        (400, REJECTED),
        (413, REJECTED),
        (415, REJECTED),
        (422, REJECTED),
        (302, REJECTED),
        (404, NOT_FOUND),
        (410, NOT_FOUND),
        (401, CREDENTIALS),
        (403, CREDENTIALS),
    ];
    for (status, want) in rows {
        let failure = judged(status, &[], r#"{"error":{"message":"because","type":"t","code":"c"}}"#);
        assert_eq!(failure.verdict, want, "{status}");
        assert_eq!(failure.message, "because (c)", "{status}");
        assert!(!failure.unhealthy && !failure.maybe_charged, "{status}");
    }
}

#[test]
fn sick_servers_are_tried_again_and_counted() {
    for status in [408, 409, 500, 502, 503, 504].into_iter().chain(520..=529) {
        let failure = judged(status, &[], "<html><body>Bad things</body></html>");
        assert_eq!(failure.verdict, RETRY, "{status}");
        assert!(failure.unhealthy, "{status}");
        assert!(!failure.message.contains("html"), "{status}: {}", failure.message);
        assert_eq!(judged(status, &[("retry-after", "3")], "").verdict, retry_after(3000), "{status}");
        assert_eq!(
            judged(status, &[("retry-after", "9999")], "").verdict,
            retry_after(3_600_000),
            "{status}"
        );
    }
    assert!(judged(504, &[], "").maybe_charged);
    assert!(!judged(503, &[], "").maybe_charged);
}

#[test]
fn should_retry_wins_over_the_status() {
    let rows: [Row; 5] = [
        ("a 400 may be repeated", 400, &[("x-should-retry", "true")], "", RETRY),
        ("with a wait", 400, &[("x-should-retry", "true"), ("retry-after", "2")], "", retry_after(2000)),
        ("a 500 may not", 500, &[("x-should-retry", "false")], "", REJECTED),
        ("nor a 503 with a wait", 503, &[("x-should-retry", "false"), ("retry-after", "2")], "", REJECTED),
        (
            "a code is more exact still",
            400,
            &[("x-should-retry", "true")],
            r#"{"error":{"code":"context_length_exceeded"}}"#,
            Verdict::Shrink,
        ),
    ];
    for (what, status, pairs, body, want) in rows {
        assert_eq!(judged(status, pairs, body).verdict, want, "{what}");
    }
}

#[test]
fn an_error_within_a_200_counts_as_its_code() {
    let rows = [
        (r#"{"code":429,"message":"m"}"#, 429, RETRY),
        (r#"{"code":"429","message":"m"}"#, 429, RETRY),
        (r#"{"code":502,"message":"m"}"#, 502, RETRY),
        (r#"{"code":402,"message":"m"}"#, 402, out_of_quota()),
        (r#"{"code":401,"message":"m"}"#, 401, CREDENTIALS),
        (r#"{"code":403,"message":"m"}"#, 403, CREDENTIALS),
        (r#"{"code":400,"message":"m"}"#, 400, REJECTED),
        (r#"{"code":"context_length_exceeded","message":"m"}"#, 400, Verdict::Shrink),
        (r#"{"code":"insufficient_quota","message":"m"}"#, 429, out_of_quota()),
        (r#"{"code":"rate_limit_exceeded","message":"m"}"#, 429, RETRY),
        (r#"{"type":"overloaded_error","message":"m"}"#, 529, RETRY),
        (r#"{"type":"invalid_request_error","message":"m"}"#, 400, REJECTED),
        (r#"{"code":"model_not_found","message":"m"}"#, 404, NOT_FOUND),
        (r#"{"code":"server_error","message":"m"}"#, 500, RETRY),
        (r#"{"code":7,"message":"m"}"#, 500, RETRY),
        (r#"{"message":"m"}"#, 500, RETRY),
        (r#""m""#, 500, RETRY),
    ];
    for (error, status, want) in rows {
        let error: Value = serde_json::from_str(error).unwrap();
        let failure = error_within("chat", &error, &HeaderMap::new(), now(), &WAITS);
        assert_eq!((failure.status, failure.verdict), (Some(status), want), "{error}");
        assert!(failure.message.starts_with('m'), "{error}: {}", failure.message);
    }
}

#[test]
fn an_answer_that_is_none_is_dropped_and_asked_for_again() {
    let failure = unreadable("chat", "the answer holds no choices", &headers(&[("x-request-id", "req-7")]));
    assert_eq!(failure.verdict, RETRY);
    assert!(failure.unhealthy && failure.maybe_charged);
    assert_eq!(failure.request_id.as_deref(), Some("req-7"));
}

#[test]
fn each_fault_of_the_transport_is_repeated_and_what_may_have_been_paid_is_known() {
    let rows = [
        (TransportFault::Connect, RETRY, false, true),
        (TransportFault::Lost, RETRY, true, true),
        (TransportFault::Timeout, RETRY, true, true),
        (TransportFault::CutOff, RETRY, true, true),
        (TransportFault::TooLarge, RETRY, true, true),
        (TransportFault::Unusable, Verdict::Fatal { why: FatalReason::Unusable }, false, false),
    ];
    for (fault, verdict, charged, unhealthy) in rows {
        let failure = transport("chat", fault, "it broke", None);
        assert_eq!(failure.verdict, verdict, "{fault:?}");
        assert_eq!((failure.maybe_charged, failure.unhealthy), (charged, unhealthy), "{fault:?}");
        assert_eq!((failure.status, failure.message.as_str()), (None, "it broke"), "{fault:?}");
    }
}

#[test]
fn messages_are_found_in_every_usual_shape() {
    let rows = [
        (r#"{"error":{"message":"no such model","code":null}}"#, "no such model"),
        (r#"{"error":"no such model"}"#, "no such model"),
        (r#"[{"error":{"message":"no such model"}}]"#, "no such model"),
        (r#"{"object":"error","message":"no such model"}"#, "no such model"),
        (r#"{"detail":"no such model"}"#, "no such model"),
        (r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#),
        ("no such model", "no such model"),
        ("{\"error\":{\"message\":\"no\\u0007 such\\n\\nmodel\"}}", "no such model"),
        ("<html>no such model</html>", "Bad Request"),
        ("{\"error\":", "Bad Request"),
        ("", "Bad Request"),
    ];
    for (body, want) in rows {
        assert_eq!(judged(400, &[], body).message, want, "{body}");
    }
    assert!(
        judged(302, &[("location", "https://user:pass@elsewhere/")], "").message.contains("llm.base_url")
    );
}

#[test]
fn messages_are_short_whatever_is_added_to_them() {
    let body = format!(r#"{{"error":{{"message":"{}","code":"{}"}}}}"#, "m".repeat(3000), "c".repeat(300));
    let failure = judged(429, &[("retry-after", "90000")], &body);
    assert_eq!(failure.message.chars().count(), 500);
    assert!(failure.message.ends_with("capped)"), "{}", failure.message);
}

#[test]
fn a_key_that_a_server_echoes_is_masked() {
    let body = r#"{"error":{"message":"Incorrect API key provided: sk-proj-0123456789abcdef.","code":"invalid_api_key"}}"#;
    let message = judged(401, &[], body).message;
    assert!(!message.contains("0123456789"), "{message}");
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic_and_no_wait_is_beyond_the_cap(
        status in 100u16..1000,
        wait in "[0-9.-]{0,12}",
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let headers = headers(&[("retry-after", wait.as_str())]);
        let answer = Answer { status, headers: &headers, body: &body };
        let failure = refused("chat", answer, now(), &WAITS);
        prop_assert!(failure.message.chars().count() <= 500);
        match failure.verdict {
            Verdict::WaitUntil { at, .. } => prop_assert!(at.since(now()) <= WAITS.max_server_wait),
            Verdict::Retry { after } => prop_assert!(after.unwrap_or_default() <= WAITS.max_server_wait),
            Verdict::Refresh | Verdict::Verify | Verdict::Shrink | Verdict::Fatal { .. } => {}
        }
    }
}
