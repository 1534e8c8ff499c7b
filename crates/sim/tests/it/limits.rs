//! Limits hold to the request, the token and the millisecond, under paused time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_sim::{LimitKind, RetryAfter, World};

use crate::support::{Answer, chat, github, hello, installation_token, world};

async fn refused(world: &Arc<World>) -> Answer {
    let answer = chat(world, &hello()).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    answer
}

async fn passes(world: &Arc<World>) -> Answer {
    let answer = chat(world, &hello()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

#[tokio::test(start_paused = true)]
async fn a_bucket_gives_its_burst_and_then_its_rate() {
    let world = world(|config| {
        config.llm.requests_per_minute = Some(60);
        config.llm.limit_kind = LimitKind::Bucket { holds: Duration::from_secs(5) };
        config.llm.count_rejected = false;
    });
    for left in (0..5).rev() {
        let answer = passes(&world).await;
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("60"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left.to_string().as_str()));
    }
    let answer = refused(&world).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("retry-after-ms"), Some("1000"));
    assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("5s"));
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(refused(&world).await.header("retry-after-ms"), Some("1"));
    tokio::time::advance(Duration::from_millis(1)).await;
    passes(&world).await;
    refused(&world).await;
    assert_eq!(world.records().chats_with(429), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_counts_where_the_server_says_so() {
    let world = world(|config| {
        config.llm.requests_per_minute = Some(60);
        config.llm.limit_kind = LimitKind::Bucket { holds: Duration::from_secs(1) };
    });
    passes(&world).await;
    for missing in 1..=3 {
        assert_eq!(refused(&world).await.header("retry-after"), Some(missing.to_string().as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_window_opens_at_its_end_for_everybody() {
    let world = world(|config| {
        config.llm.requests_per_minute = Some(2);
        config.llm.limit_kind = LimitKind::Fixed;
        config.llm.retry_after = RetryAfter::Always(Duration::from_secs(60));
        config.llm.tell_limits = false;
    });
    passes(&world).await;
    passes(&world).await;
    tokio::time::advance(Duration::from_millis(59_999)).await;
    let answer = refused(&world).await;
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), None);
    tokio::time::advance(Duration::from_millis(1)).await;
    passes(&world).await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_charged_up_front_and_corrected() {
    let world = world(|config| {
        config.llm.tokens_per_minute = Some(1000);
        config.llm.limit_kind = LimitKind::Fixed;
        config.latency.llm_first = Duration::from_secs(2);
    });
    let mut body = hello();
    body["max_tokens"] = json!(900);
    let (first, second) = tokio::join!(chat(&world, &body), chat(&world, &body));
    // While one waits for its answer, its 900 tokens are taken; the other comes too early.
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 429));
    assert_eq!(second.json()["error"]["type"], "tokens");
    let used = first.json()["usage"]["total_tokens"].as_u64().unwrap();
    let left = (1000 - used).to_string();
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), Some(left.as_str()));
    assert_eq!(chat(&world, &body).await.status, 200);
    body["max_tokens"] = json!(1000);
    let answer = chat(&world, &body).await;
    assert_eq!(answer.status, 429);
    assert!(answer.text().contains("Request too large"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), None);
}

#[tokio::test(start_paused = true)]
async fn githubs_hour_is_counted_and_begins_anew() {
    let world = world(|config| config.github.primary_per_hour = 3);
    let token = installation_token(&world, Value::Null).await;
    let repo = "/repos/acme/shell-tools";
    for left in ["2", "1", "0"] {
        let answer = github(&world, "GET", repo, &token, Value::Null).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ratelimit-remaining")), (200, Some(left)));
    }
    let answer = github(&world, "GET", repo, &token, Value::Null).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(answer.header("retry-after"), None);
    let reset: i64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
    assert_eq!(reset, world.now().secs() + 3600);
    let free = github(&world, "GET", "/rate_limit", &token, Value::Null).await;
    assert_eq!(free.json()["rate"]["remaining"], 0);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let token = installation_token(&world, Value::Null).await;
    assert_eq!(github(&world, "GET", repo, &token, Value::Null).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_answer_costs_nothing() {
    let world = world(|_| {});
    let token = installation_token(&world, Value::Null).await;
    let first = github(&world, "GET", "/repos/acme/shell-tools", &token, Value::Null).await;
    let mut request = crate::support::github_request("GET", "/repos/acme/shell-tools", &token, &Value::Null);
    request.headers_mut().insert("if-none-match", first.headers["etag"].clone());
    let second = crate::support::try_send(&world, request).await.unwrap();
    assert_eq!(second.status, 304);
    assert!(second.body.is_empty());
    assert_eq!(first.header("x-ratelimit-remaining"), second.header("x-ratelimit-remaining"));
}

#[tokio::test(start_paused = true)]
async fn too_much_content_meets_the_secondary_limit() {
    let world = world(|config| config.github.content_per_minute = 2);
    let token = installation_token(&world, Value::Null).await;
    let comments = "/repos/acme/shell-tools/issues/1/comments";
    let comment = || github(&world, "POST", comments, &token, json!({"body": "x"}));
    assert_eq!(comment().await.status, 201);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(comment().await.status, 201);
    let answer = comment().await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("secondary rate limit"));
    assert_eq!(answer.header("retry-after"), Some("40"));
    assert_ne!(answer.header("x-ratelimit-remaining"), Some("0"));
    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(comment().await.status, 201);
    let records = world.records();
    assert_eq!(records.comments.len(), 3);
    assert_eq!(records.min_write_spacing, Some(Duration::from_secs(20)));
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_writes_shuts_the_door_for_everything() {
    let world = world(|config| {
        config.github.write_burst = Some((2, Duration::from_secs(2)));
        config.github.secondary_lasts = Duration::from_secs(60);
    });
    let token = installation_token(&world, Value::Null).await;
    let comments = "/repos/acme/shell-tools/issues/1/comments";
    let comment = || github(&world, "POST", comments, &token, json!({"body": "x"}));
    let read = || github(&world, "GET", comments, &token, Value::Null);
    assert_eq!(comment().await.status, 201);
    assert_eq!(comment().await.status, 201);
    assert_eq!(read().await.status, 200);
    let refused = comment().await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (403, Some("60")));
    tokio::time::advance(Duration::from_secs(59)).await;
    let refused = read().await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (403, Some("1")));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(read().await.status, 200);
    assert_eq!(comment().await.status, 201);
    assert_eq!(world.records().comments.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn writes_at_the_same_time_can_be_refused() {
    let world = world(|config| {
        config.latency.github = Duration::from_millis(100);
        config.github.concurrent_writes = Some(1);
    });
    let token = installation_token(&world, Value::Null).await;
    let comments = "/repos/acme/shell-tools/issues/1/comments";
    let (one, two) = tokio::join!(
        github(&world, "POST", comments, &token, json!({"body": "x"})),
        github(&world, "POST", comments, &token, json!({"body": "y"})),
    );
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (201, 403));
    assert_eq!(world.records().max_concurrent_writes, 1);
}

#[tokio::test(start_paused = true)]
async fn writes_at_the_same_time_are_measured_where_they_are_allowed() {
    let world = world(|config| config.latency.github = Duration::from_millis(100));
    let token = installation_token(&world, Value::Null).await;
    let comments = "/repos/acme/shell-tools/issues/1/comments";
    let write = || github(&world, "POST", comments, &token, json!({"body": "x"}));
    let (one, two, three) = tokio::join!(write(), write(), write());
    assert!([one, two, three].iter().all(|answer| answer.status == 201));
    let records = world.records();
    assert_eq!((records.max_concurrent_writes, records.min_write_spacing), (3, Some(Duration::ZERO)));
}
