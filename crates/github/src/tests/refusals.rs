//! What the client makes of unhappy answers and of none: verdicts by way of real responses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use steadfast_core::failure::{Failure, FatalReason, GateReason, Verdict};
use steadfast_core::time::Timestamp;
use steadfast_http::TransportError;

use super::fake::*;
use crate::NewPull;

const RETRY: Verdict = Verdict::Retry { after: None };
const SECONDARY: &str = r#"{"message":"You have exceeded a secondary rate limit."}"#;

fn until(secs: i64, reason: GateReason) -> Verdict {
    Verdict::WaitUntil { at: Timestamp::from_secs(BEGIN_SECS + secs), reason }
}

fn fatal(why: FatalReason) -> Verdict {
    Verdict::Fatal { why }
}

async fn read(answer: Reply) -> Failure {
    let (client, _) = client(move |_| answer.clone());
    client.repository(&token(), &repo()).await.result.unwrap_err()
}

async fn write(answer: Reply) -> Failure {
    let (client, _) = client(move |_| answer.clone());
    client.create_comment(&token(), &repo(), 1, "x").await.result.unwrap_err()
}

async fn pull(answer: Reply) -> Failure {
    let (client, _) = client(move |_| answer.clone());
    let text = || "x".to_owned();
    let new = NewPull { title: text(), body: text(), head: text(), base: text(), draft: false };
    client.create_pull(&token(), &repo(), &new).await.result.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_refusal_has_its_verdict() {
    let used_up = reply(403, "{}")
        .with("x-ratelimit-remaining", "0")
        .with("x-ratelimit-reset", (BEGIN_SECS + 100).to_string());
    let after = reply(429, "{}").with("retry-after", "30");
    let exists = r#"{"message":"Validation Failed","errors":[{"code":"custom","message":"exists"}]}"#;
    let unseen = r#"{"message":"Validation Failed","errors":[{"field":"head","code":"invalid"}]}"#;
    for (failure, verdict) in [
        (read(after.clone()).await, until(30, GateReason::RateLimit)),
        (write(after).await, until(30, GateReason::RateLimit)),
        (read(used_up).await, until(101, GateReason::RateLimit)),
        (write(reply(403, SECONDARY)).await, until(60, GateReason::SecondaryLimit)),
        (write(reply(403, "{}")).await, fatal(FatalReason::Permission)),
        (read(reply(401, "{}")).await, Verdict::Refresh),
        (read(reply(404, "{}")).await, fatal(FatalReason::NotFound)),
        (write(reply(410, "{}")).await, fatal(FatalReason::NotFound)),
        (write(reply(422, "{}")).await, fatal(FatalReason::Rejected)),
        (pull(reply(409, "{}")).await, Verdict::Verify),
        (pull(reply(422, exists)).await, Verdict::Verify),
        (pull(reply(422, unseen)).await, Verdict::Verify),
        (read(reply(502, "<html>")).await, RETRY),
        (write(reply(502, "<html>")).await, Verdict::Verify),
        (read(reply(200, "{\"full_na")).await, RETRY),
        (write(reply(201, "{\"id\":")).await, Verdict::Verify),
        (pull(reply(201, "[]")).await, Verdict::Verify),
    ] {
        assert_eq!(failure.verdict, verdict, "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_answer_leaves_an_effect_in_doubt_and_a_read_not() {
    let lost = || TransportError::Lost("reset".into());
    let cut = |status| Reply {
        body: vec![Ok("{".into()), Err(TransportError::CutOff("early end".into()))],
        ..reply(status, "")
    };
    let refused = || TransportError::Connect("refused".into());
    for (failure, verdict) in [
        (read(failing(lost())).await, RETRY),
        (write(failing(lost())).await, Verdict::Verify),
        (read(failing(refused())).await, RETRY),
        (write(failing(refused())).await, RETRY),
        (read(cut(200)).await, RETRY),
        (write(cut(201)).await, Verdict::Verify),
        // Cut off, it might have named a rate limit: no reason to end a job.
        (read(cut(403)).await, RETRY),
        (read(cut(404)).await, fatal(FatalReason::NotFound)),
        (pull(cut(422)).await, Verdict::Verify),
        (read(reply(403, "x".repeat(2_000_000))).await, fatal(FatalReason::Permission)),
        (
            write(Reply { body: vec![Ok("x".repeat(2_000_000).into())], ..reply(201, "") }).await,
            Verdict::Verify,
        ),
    ] {
        assert_eq!(failure.verdict, verdict, "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_ends_in_ten_seconds_whatever_the_server_does() {
    let silent = || reply(200, "{}").after(Duration::from_secs(3600));
    let dripping = || Reply { stalls: true, ..reply(200, "{") };
    for (reply, write_verdict) in [(silent(), Verdict::Verify), (dripping(), Verdict::Verify)] {
        let begin = tokio::time::Instant::now();
        let failure = read(reply.clone()).await;
        assert_eq!((failure.verdict, failure.unhealthy), (RETRY, true));
        assert_eq!(begin.elapsed().as_secs(), 10);
        assert_eq!(write(reply).await.verdict, write_verdict);
        assert_eq!(begin.elapsed().as_secs(), 20);
    }
    let stalled_refusal = read(Reply { stalls: true, ..reply(500, "{") }).await;
    assert_eq!((stalled_refusal.verdict, stalled_refusal.status), (RETRY, Some(500)));
}

#[tokio::test(start_paused = true)]
async fn secondary_limits_in_a_row_double_and_a_success_ends_the_row() {
    let number = AtomicU64::new(0);
    let (client, _) = client(move |_| match number.fetch_add(1, Ordering::Relaxed) {
        5 => reply(200, r#"{"full_name":"o/r","default_branch":"main"}"#),
        _ => reply(403, SECONDARY),
    });
    let begin = tokio::time::Instant::now();
    let wait = async || match client.repository(&token(), &repo()).await.result {
        Ok(_) => 0,
        Err(Failure { verdict: Verdict::WaitUntil { at, .. }, .. }) => {
            at.secs() - BEGIN_SECS - begin.elapsed().as_secs() as i64
        }
        Err(other) => panic!("{other}"),
    };
    // Three that were in flight together are one.
    assert_eq!([wait().await, wait().await, wait().await], [60, 60, 60]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(wait().await, 120);
    tokio::time::advance(Duration::from_secs(120)).await;
    assert_eq!(wait().await, 240);
    tokio::time::advance(Duration::from_secs(240)).await;
    assert_eq!(wait().await, 0);
    assert_eq!(wait().await, 60);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_still_tells_of_limits() {
    let (client, _) = client(|_| reply(404, "{}").with("x-ratelimit-remaining", "7"));
    let exchange = client.repository(&token(), &repo()).await;
    assert!(exchange.result.is_err());
    assert_eq!(exchange.observed.requests.unwrap().remaining, Some(7));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_sent_is_said_without_being_shown() {
    let (client, fake) = client(|_| reply(200, "{}"));
    let token = crate::AccessToken { secret: "se\ncret".to_owned().into(), expires_at: None };
    let failure = client.repository(&token, &repo()).await.result.unwrap_err();
    assert_eq!(failure.verdict, fatal(FatalReason::Unusable));
    assert!(!failure.message.contains("cret") && failure.message.contains("access token"), "{failure}");
    assert_eq!(fake.asked().len(), 0);
}
