//! Finding comments and pull requests, and what is written of them.

use std::time::Duration;

use steadfast_core::failure::{FatalReason, Verdict};

use super::fake::*;
use crate::{MAX_TEXT, NewPull, PullState, Settings};

const MARKER: &str = "<!-- steadfast job=a effect=progress -->";

fn query(asked: &Asked, key: &str) -> usize {
    let url: url::Url = asked.uri.parse().unwrap();
    let value = url.query_pairs().find(|(name, _)| name == key).unwrap().1.into_owned();
    value.parse().unwrap()
}

/// Serves `all` in pages; `per_comment` bytes are added to each.
fn paged(all: Vec<serde_json::Value>, with_link: bool) -> impl Fn(&Asked) -> Reply {
    move |asked| {
        let (page, size) = (query(asked, "page"), query(asked, "per_page"));
        let here: Vec<_> = all.iter().skip((page - 1) * size).take(size).cloned().collect();
        let reply = reply(200, serde_json::to_string(&here).unwrap());
        match with_link {
            true if page * size < all.len() => {
                reply.with("link", "<https://evil.test/?page=2>; rel=\"next\", <https://x>; rel=\"last\"")
            }
            true => reply.with("link", "<https://x>; rel=\"prev\""),
            false => reply,
        }
    }
}

fn comments(count: u64, marked: u64) -> Vec<serde_json::Value> {
    let body = |id| if id == marked { format!("done {MARKER}") } else { "words".to_owned() };
    (0..count).map(|id| comment(id, "steadfast[bot]", &body(id))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_comment_is_found_on_whatever_page() {
    for with_link in [true, false] {
        for (count, marked, pages) in [(0, None, 1), (5, Some(3), 1), (250, Some(220), 3), (250, None, 3)] {
            let (client, fake) = client(paged(comments(count, marked.unwrap_or(u64::MAX)), with_link));
            let found = client.find_comment(&token(), &repo(), 1, MARKER, None).await.result.unwrap();
            assert_eq!(found.map(|comment| comment.id), marked);
            assert_eq!(fake.asked().len(), pages, "{count} {with_link}");
            assert!(fake.asked().iter().all(|asked| asked.uri.starts_with("https://api.test/base/repos/")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_exactly_full_is_followed_by_another() {
    let (client, fake) = client(paged(comments(200, u64::MAX), false));
    assert_eq!(client.find_comment(&token(), &repo(), 1, MARKER, None).await.result, Ok(None));
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_strangers_copy_of_the_marker_is_not_ours() {
    let mut ghost = comment(3, "x", MARKER);
    ghost["user"] = serde_json::Value::Null;
    let all = vec![comment(1, "mallory", MARKER), ghost, comment(2, "Steadfast[bot]", MARKER)];
    let (client, _) = client(paged(all, true));
    let find = async |author| {
        let exchange = client.find_comment(&token(), &repo(), 1, MARKER, author).await;
        exchange.result.unwrap().map(|comment| comment.id)
    };
    assert_eq!(find(Some("steadfast[bot]")).await, Some(2));
    assert_eq!(find(Some("nobody")).await, None);
    assert_eq!(find(None).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn pages_that_are_too_large_are_read_in_pieces() {
    let long = "x".repeat(60_000);
    let mut all: Vec<_> = (0..70).map(|id| comment(id, "a", &long)).collect();
    all[65] = comment(65, "a", MARKER);
    let (client, fake) = client(paged(all, true));
    let found = client.find_comment(&token(), &repo(), 1, MARKER, None).await.result.unwrap().unwrap();
    assert_eq!(found.id, 65);
    let sizes: Vec<usize> = fake.asked().iter().map(|asked| query(asked, "per_page")).collect();
    assert_eq!(sizes, [100, 50, 10, 10, 10, 10, 10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_list_without_end_is_a_failure_and_not_an_absence() {
    let settings = Settings { max_pages: 2, ..settings() };
    let (client, fake) = client_with(settings, paged(comments(500, 450), true));
    let failure = client.find_comment(&token(), &repo(), 1, MARKER, None).await.result.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Rejected });
    assert!(failure.message.contains("github.max_pages"), "{}", failure.message);
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_on_a_later_page_is_the_result() {
    let list = paged(comments(250, 220), true);
    let (client, _) = client(move |asked| match query(asked, "page") {
        2 => reply(503, ""),
        _ => list(asked),
    });
    let failure = client.find_comment(&token(), &repo(), 1, MARKER, None).await.result.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Retry { after: None });
}

#[tokio::test(start_paused = true)]
async fn comments_are_written_and_replaced_within_the_cap() {
    let (client, fake) = client(|asked| {
        let text = asked.body["body"].as_str().unwrap().to_owned();
        reply(if asked.method == "POST" { 201 } else { 200 }, comment(9, "b", &text).to_string())
    });
    let text = format!("{}\n{MARKER}", "é".repeat(MAX_TEXT));
    let made = client.create_comment(&token(), &repo(), 4, &text).await.result.unwrap();
    assert_eq!((made.id, made.body.chars().count()), (9, MAX_TEXT));
    assert!(made.body.ends_with(MARKER));
    assert!(made.url.ends_with("#issuecomment-9"));
    client.update_comment(&token(), &repo(), 9, "new").await.result.unwrap();
    assert_eq!(fake.lines(), ["POST /repos/o/r/issues/4/comments", "PATCH /repos/o/r/issues/comments/9"]);
    assert_eq!(fake.asked()[0].headers["content-type"], "application/json");
    assert_eq!(fake.asked()[1].body, serde_json::json!({"body": "new"}));
}

fn pull(number: u64, branch: &str, home: Option<&str>, state: &str, merged: bool) -> serde_json::Value {
    serde_json::json!({
        "number": number, "html_url": format!("https://web.test/o/r/pull/{number}"), "state": state,
        "merged_at": merged.then_some("2025-10-09T00:00:00Z"), "body": null,
        "head": {"ref": branch, "sha": "abc", "repo": home.map(|name| serde_json::json!({"full_name": name}))},
    })
}

#[tokio::test(start_paused = true)]
async fn a_pull_request_is_found_by_its_branch_alone() {
    let (client, fake) = client(paged(
        vec![
            pull(5, "other", Some("o/r"), "open", false),
            pull(4, "fix/1", Some("stranger/r"), "open", false),
            pull(3, "fix/1", Some("O/R"), "closed", true),
            pull(2, "fix/1", Some("o/r"), "closed", false),
        ],
        false,
    ));
    let found = client.find_pull(&token(), &repo(), "fix/1").await.result.unwrap().unwrap();
    assert_eq!((found.number, found.state, found.body.as_str()), (3, PullState::Merged, ""));
    assert_eq!(client.find_pull(&token(), &repo(), "none").await.result, Ok(None));
    let first = &fake.lines()[0];
    assert!(first.starts_with("GET /repos/o/r/pulls?head=o%3Afix%2F1&state=all"), "{first}");
}

#[tokio::test(start_paused = true)]
async fn a_pull_request_is_opened() {
    let (client, fake) = client(|_| reply(201, pull(6, "b", Some("o/r"), "open", false).to_string()));
    let new = NewPull {
        title: "one\ntwo".into(),
        body: "text".into(),
        head: "b".into(),
        base: "trunk".into(),
        draft: true,
    };
    let made = client.create_pull(&token(), &repo(), &new).await.result.unwrap();
    assert_eq!((made.number, made.state, made.head_sha.as_str()), (6, PullState::Open, "abc"));
    assert_eq!(
        fake.asked()[0].body,
        serde_json::json!({"title": "one two", "body": "text", "head": "b", "base": "trunk", "draft": true})
    );
    assert_eq!(fake.lines(), ["POST /repos/o/r/pulls"]);
    assert_eq!(fake.asked()[0].at, Duration::ZERO);
}
