//! Every row of the table for GitHub's REST interface, and the edges between rows.

use super::*;

const NOW: Timestamp = Timestamp::EPOCH;
const BOUNDS: Bounds = Bounds { max_server_wait: Duration::from_secs(3600), secondary_streak: 0 };

/// Seconds since `NOW`, which is the epoch moved to a time that a date can be written for.
fn now() -> Timestamp {
    NOW + Duration::from_secs(1_760_000_000)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
}

fn call(operation: Operation) -> Call {
    Call { operation, credential: Credential::Installation }
}

fn wait(secs: u64, reason: GateReason) -> Verdict {
    Verdict::WaitUntil { at: now() + Duration::from_secs(secs), reason }
}

fn fatal(why: FatalReason) -> Verdict {
    Verdict::Fatal { why }
}

struct Row {
    name: &'static str,
    operation: Operation,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    verdict: Verdict,
}

const SECONDARY: &str = r#"{"message":"You have exceeded a secondary rate limit. Please wait."}"#;
const ABUSE: &str = r#"{"message":"You have triggered an abuse detection mechanism."}"#;
const PLAIN: &str = r#"{"message":"API rate limit exceeded for installation ID 1."}"#;
const EXISTS: &str = r#"{"message":"Validation Failed","errors":[{"resource":"PullRequest",
    "code":"custom","message":"A pull request already exists for o:b."}]}"#;
const UNSEEN: &str = r#"{"message":"Validation Failed","errors":[{"resource":"PullRequest",
    "field":"head","code":"invalid"}]}"#;
const NO_BASE: &str = r#"{"message":"Validation Failed","errors":[{"resource":"PullRequest",
    "field":"base","code":"invalid"}]}"#;

fn rows() -> Vec<Row> {
    use FatalReason::{NotFound, Permission, Rejected};
    use GateReason::{RateLimit, SecondaryLimit};
    use Operation::{
        BranchHead, CreateComment, CreatePull, CreateToken, FindComment, Repository, UpdateComment,
    };
    let retry = Verdict::Retry { after: None };
    let row = |name, operation, status, headers, body, verdict| Row {
        name,
        operation,
        status,
        headers,
        body,
        verdict,
    };
    vec![
        // 403 or 429 with retry-after
        row("403, retry-after", Repository, 403, &[("retry-after", "30")], PLAIN, wait(30, RateLimit)),
        row("429, retry-after", CreateComment, 429, &[("retry-after", "30")], "", wait(30, RateLimit)),
        row(
            "secondary, retry-after",
            CreatePull,
            403,
            &[("retry-after", "90")],
            SECONDARY,
            wait(90, SecondaryLimit),
        ),
        row("retry-after as a date", Repository, 429, DATES, "", wait(20, RateLimit)),
        row(
            "retry-after of zero is a second",
            Repository,
            429,
            &[("retry-after", "0")],
            "",
            wait(1, RateLimit),
        ),
        row("of zero, used up", Repository, 403, ZERO_USED_UP, PLAIN, wait(101, RateLimit)),
        row("of zero, secondary", CreateComment, 403, ZERO, SECONDARY, wait(60, SecondaryLimit)),
        row("of zero, a 403", Repository, 403, ZERO, PLAIN, wait(1, RateLimit)),
        row("a date that is past", Repository, 429, PAST, "", wait(1, RateLimit)),
        row("a reset from now", Repository, 403, SOON, PLAIN, wait(31, RateLimit)),
        row("an absurd reset", Repository, 403, ABSURD, PLAIN, wait(3600, RateLimit)),
        row("capped", Repository, 403, &[("retry-after", "86400")], "", wait(3600, RateLimit)),
        row("retry-after wins", Repository, 403, BOTH, "", wait(5, RateLimit)),
        // 403 or 429 with x-ratelimit-remaining: 0
        row("403, used up", Repository, 403, USED_UP, PLAIN, wait(101, RateLimit)),
        row("429, used up", CreateComment, 429, USED_UP, PLAIN, wait(101, RateLimit)),
        row("used up, by the server's clock", Repository, 403, USED_UP_SKEWED, PLAIN, wait(31, RateLimit)),
        row("used up, the reset is past", Repository, 403, USED_UP_PAST, PLAIN, wait(1, RateLimit)),
        row("used up, no reset", Repository, 403, REMAINING_0, PLAIN, wait(60, SecondaryLimit)),
        row("retry-after that is no number", Repository, 403, NONSENSE, PLAIN, wait(101, RateLimit)),
        // 403 or 429 that speaks of a secondary limit, no header
        row("403, secondary", CreateComment, 403, &[], SECONDARY, wait(60, SecondaryLimit)),
        row("429, secondary", Repository, 429, &[], SECONDARY, wait(60, SecondaryLimit)),
        row("403, abuse detection", Repository, 403, &[], ABUSE, wait(60, SecondaryLimit)),
        row("secondary, requests left", Repository, 403, LEFT, SECONDARY, wait(60, SecondaryLimit)),
        row("secondary as a page", Repository, 403, &[], "<p>secondary rate limit", wait(60, SecondaryLimit)),
        row("429 with nothing", Repository, 429, &[], "", wait(60, SecondaryLimit)),
        // 403 any other
        row("403, not accessible", CreateComment, 403, LEFT, NOT_ACCESSIBLE, fatal(Permission)),
        row("403, locked", CreateComment, 403, LEFT, LOCKED, fatal(Rejected)),
        row("403, archived", CreatePull, 403, &[], ARCHIVED, fatal(Permission)),
        row("403, SAML", Repository, 403, &[], r#"{"message":"SAML enforcement"}"#, fatal(Permission)),
        row("403, IP list", Repository, 403, &[], r#"{"message":"IP allow list"}"#, fatal(Permission)),
        row("403, empty", Repository, 403, &[], "", fatal(Permission)),
        // 401: see below; 404 on the installation or repository
        row("404, installation", CreateToken, 404, &[], r#"{"message":"Not Found"}"#, fatal(NotFound)),
        row("404, repository", Repository, 404, &[], r#"{"message":"Not Found"}"#, fatal(NotFound)),
        // 409, 422 on creating a pull request
        row("409, pull", CreatePull, 409, &[], "", Verdict::Verify),
        row("422, pull exists", CreatePull, 422, &[], EXISTS, Verdict::Verify),
        row("422, branch not seen yet", CreatePull, 422, &[], UNSEEN, Verdict::Verify),
        row("422, pull, no reason", CreatePull, 422, &[], "", Verdict::Verify),
        row("422, pull, words", CreatePull, 422, &[], r#"{"errors":["no"]}"#, Verdict::Verify),
        // 422 others, 410, 451
        row("422, no such base", CreatePull, 422, &[], NO_BASE, fatal(Rejected)),
        row("422, comment", CreateComment, 422, &[], "", fatal(Rejected)),
        row("422, token", CreateToken, 422, &[], "", fatal(Permission)),
        row("409, comment", CreateComment, 409, &[], "", fatal(Rejected)),
        row("410", CreateComment, 410, &[], "", fatal(NotFound)),
        row("451", Repository, 451, &[], "", fatal(NotFound)),
        row("400", CreateComment, 400, &[], "", fatal(Rejected)),
        row("413", CreateComment, 413, &[], "", fatal(Rejected)),
        // A redirect that was not followed.
        row("302", Repository, 302, &[], "", fatal(Rejected)),
        // 500, 502, 503, 504 on a read
        row("500, read", FindComment, 500, &[], "", retry),
        row("502, read", BranchHead, 502, &[], "<html>", retry),
        row("503, read", Repository, 503, &[], "", retry),
        row("504, token", CreateToken, 504, &[], "", retry),
        row("408, read", Repository, 408, &[], "", retry),
        row(
            "503, a wait is named",
            Repository,
            503,
            &[("retry-after", "7")],
            "",
            Verdict::Retry { after: Some(Duration::from_secs(7)) },
        ),
        // The same on a write
        row("500, comment", CreateComment, 500, &[], "", Verdict::Verify),
        row("502, pull", CreatePull, 502, &[], "", Verdict::Verify),
        row("503, comment", CreateComment, 503, &[], "", Verdict::Verify),
        row("504, comment", CreateComment, 504, &[], "", Verdict::Verify),
        row("408, pull", CreatePull, 408, &[], "", Verdict::Verify),
        row("502, replacing a text", UpdateComment, 502, &[], "", retry),
    ]
}

const NOT_ACCESSIBLE: &str = r#"{"message":"Resource not accessible by integration"}"#;
const LOCKED: &str = r#"{"message":"Unable to create comment because issue is locked."}"#;
const ARCHIVED: &str = r#"{"message":"Repository was archived so is read-only."}"#;
const DATES: &[(&str, &str)] =
    &[("date", "Thu, 09 Oct 2025 08:53:20 GMT"), ("retry-after", "Thu, 09 Oct 2025 08:53:40 GMT")];
const BOTH: &[(&str, &str)] =
    &[("retry-after", "5"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1760000100")];
const ZERO: &[(&str, &str)] = &[("retry-after", "0")];
const ZERO_USED_UP: &[(&str, &str)] =
    &[("retry-after", "0"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1760000100")];
const PAST: &[(&str, &str)] = &[("retry-after", "Thu, 09 Oct 2025 08:00:00 GMT")];
const SOON: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30")];
const ABSURD: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "4102444800")];
const USED_UP: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1760000100")];
const USED_UP_PAST: &[(&str, &str)] = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1759999000")];
const USED_UP_SKEWED: &[(&str, &str)] = &[
    ("x-ratelimit-remaining", "0"),
    ("x-ratelimit-reset", "1760000100"),
    // 70 s later than `now`
    ("date", "Thu, 09 Oct 2025 08:54:30 GMT"),
];
const REMAINING_0: &[(&str, &str)] = &[("x-ratelimit-remaining", "0")];
const NONSENSE: &[(&str, &str)] =
    &[("retry-after", "-3"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1760000100")];
const LEFT: &[(&str, &str)] = &[
    ("x-ratelimit-remaining", "4000"),
    ("x-ratelimit-reset", "1760000100"),
    ("x-accepted-github-permissions", "issues=write"),
];

#[test]
fn every_row_has_its_verdict() {
    for row in rows() {
        let status = StatusCode::from_u16(row.status).unwrap();
        let failure = classify(
            &call(row.operation),
            status,
            &headers(row.headers),
            row.body.as_bytes(),
            now(),
            &BOUNDS,
        );
        assert_eq!(failure.verdict, row.verdict, "{}", row.name);
        assert_eq!(failure.unhealthy, row.status == 408 || row.status >= 500, "{}", row.name);
        assert_eq!(failure.status, Some(row.status), "{}", row.name);
        assert_eq!(failure.operation, row.operation.name(), "{}", row.name);
    }
}

#[test]
fn a_refused_credential_is_renewed_where_it_can_be() {
    let ask = |credential, pairs: &[(&'static str, &str)]| {
        let call = Call { operation: Operation::Repository, credential };
        classify(&call, StatusCode::UNAUTHORIZED, &headers(pairs), b"{}", now(), &BOUNDS)
    };
    assert_eq!(ask(Credential::Installation, &[]).verdict, Verdict::Refresh);
    assert_eq!(ask(Credential::Personal, &[]).verdict, fatal(FatalReason::Credentials));
    assert!(ask(Credential::Personal, &[]).message.contains("replace it"));
    let skewed = ask(Credential::AppJwt, &[("date", "Thu, 09 Oct 2025 08:43:20 GMT")]);
    assert_eq!(skewed.verdict, Verdict::Refresh);
    assert!(skewed.message.contains("by 600 s"), "{}", skewed.message);
    let right = ask(Credential::AppJwt, &[("date", "Thu, 09 Oct 2025 08:53:20 GMT")]);
    assert_eq!((right.verdict, right.message.contains("clock")), (Verdict::Refresh, false));
}

#[test]
fn secondary_limits_in_a_row_double_the_wait_up_to_the_cap() {
    let waited = |secondary_streak| {
        let bounds = Bounds { secondary_streak, ..BOUNDS };
        let failure = classify(
            &call(Operation::CreateComment),
            StatusCode::FORBIDDEN,
            &HeaderMap::new(),
            SECONDARY.as_bytes(),
            now(),
            &bounds,
        );
        match failure.verdict {
            Verdict::WaitUntil { at, reason: GateReason::SecondaryLimit } => at.since(now()).as_secs(),
            other => panic!("{other:?}"),
        }
    };
    let waits: Vec<u64> = [0, 1, 2, 5, 6, u32::MAX].into_iter().map(waited).collect();
    assert_eq!(waits, [60, 120, 240, 1920, 3600, 3600]);
}

#[test]
fn without_an_answer_only_an_effect_is_in_doubt() {
    use TransportFault::{Connect, CutOff, Lost, Timeout, TooLarge, Unusable};
    let retry = Verdict::Retry { after: None };
    let unusable = fatal(FatalReason::Unusable);
    for (fault, read, effect, unhealthy) in [
        (Connect, retry, retry, true),
        (Lost, retry, Verdict::Verify, true),
        (Timeout, retry, Verdict::Verify, true),
        (CutOff, retry, Verdict::Verify, true),
        (TooLarge, unusable, Verdict::Verify, false),
        (Unusable, unusable, unusable, false),
    ] {
        for (operation, verdict) in [
            (Operation::Repository, read),
            (Operation::CreateToken, read),
            (Operation::UpdateComment, read),
            (Operation::CreateComment, effect),
            (Operation::CreatePull, effect),
        ] {
            let failure = no_answer(&call(operation), fault, "x");
            assert_eq!((failure.verdict, failure.unhealthy), (verdict, unhealthy), "{fault:?} {operation:?}");
        }
    }
    let unreadable = |operation| unreadable(&call(operation), StatusCode::CREATED, &HeaderMap::new(), "x");
    assert_eq!(unreadable(Operation::CreateComment).verdict, Verdict::Verify);
    assert_eq!(unreadable(Operation::FindPull).verdict, retry);
}

#[test]
fn the_message_is_githubs_with_what_helps() {
    let ask = |status: u16, pairs: &[(&'static str, &str)], body: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        classify(&call(Operation::CreatePull), status, &headers(pairs), body.as_bytes(), now(), &BOUNDS)
    };
    let forbidden = ask(403, LEFT, NOT_ACCESSIBLE);
    assert_eq!(
        forbidden.message,
        "Resource not accessible by integration; give the App or the token the permission: issues=write"
    );
    let invalid = ask(422, &[("x-github-request-id", "AB:1")], UNSEEN);
    assert_eq!(invalid.to_string(), "github create_pull: 422 Validation Failed; head invalid");
    assert_eq!(invalid.request_id.as_deref(), Some("AB:1"));
    let leak = ask(500, &[], r#"{"message":"bad ghs_0123456789abcdef0123 at https://a:b@h/"}"#);
    assert_eq!(leak.message, "bad ghs_*** at https://***@h/");
    assert!(ask(500, &[], &"x".repeat(9_999)).message.chars().count() <= 500);
}

proptest::proptest! {
    #[test]
    fn any_answer_has_a_verdict_within_bounds(
        status in 300u16..600,
        retry_after in "[-0-9.a-z: ]{0,12}",
        reset in "[-0-9]{0,20}",
        remaining in 0u8..3,
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        secondary_streak: u32,
    ) {
        let headers = headers(&[
            ("retry-after", retry_after.trim()),
            ("x-ratelimit-reset", &reset),
            ("x-ratelimit-remaining", &remaining.to_string()),
        ]);
        let bounds = Bounds { secondary_streak, ..BOUNDS };
        let status = StatusCode::from_u16(status).unwrap();
        let failure = classify(&call(Operation::CreatePull), status, &headers, &body, now(), &bounds);
        match failure.verdict {
            Verdict::WaitUntil { at, .. } => {
                let wait = at.since(now());
                assert!(wait >= MIN_WAIT && wait <= bounds.max_server_wait, "{wait:?}");
            }
            Verdict::Retry { .. } => panic!("an effect is never repeated blindly: {failure:?}"),
            Verdict::Refresh | Verdict::Verify | Verdict::Shrink | Verdict::Fatal { .. } => {}
        }
        assert!(failure.message.chars().count() <= 500);
    }
}

#[test]
fn a_page_or_nothing_is_told_by_its_status() {
    for body in ["", "<html><body><h1>Unicorn!</h1></body></html>", "\n <!DOCTYPE html>"] {
        let failure = classify(
            &call(Operation::Repository),
            StatusCode::BAD_GATEWAY,
            &headers(&[]),
            body.as_bytes(),
            now(),
            &BOUNDS,
        );
        assert_eq!(failure.message, "Bad Gateway", "{body}");
    }
}
