//! Writes go one by one and spaced; reads don't wait for them.

use std::time::Duration;

use futures_util::future::join_all;

use super::fake::*;

fn slow(asked: &Asked) -> Reply {
    match asked.method.as_str() {
        "GET" => reply(200, r#"{"full_name":"o/r","default_branch":"main"}"#),
        _ => reply(201, comment(9, "b", "x").to_string()).after(Duration::from_millis(400)),
    }
}

#[tokio::test(start_paused = true)]
async fn writes_are_one_by_one_and_a_second_apart_and_reads_are_not() {
    let (client, fake) = client(slow);
    let (token, repo) = (token(), repo());
    let writes = join_all((0..3).map(|_| client.create_comment(&token, &repo, 1, "x")));
    let reads = join_all((0..3).map(|_| client.repository(&token, &repo)));
    let (writes, reads) = tokio::join!(writes, reads);
    assert!(writes.iter().all(|w| w.result.is_ok()) && reads.iter().all(|r| r.result.is_ok()));
    let at = |method: &str| -> Vec<u128> {
        fake.asked().iter().filter(|a| a.method == method).map(|a| a.at.as_millis()).collect()
    };
    assert_eq!(at("POST"), [0, 1_400, 2_800]);
    assert_eq!(at("GET"), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_nobody_waits_for_any_longer_frees_the_lane() {
    let (client, fake) = client(slow);
    let (token, repo) = (token(), repo());
    let first = client.create_comment(&token, &repo, 1, "x");
    let left = tokio::time::timeout(Duration::from_millis(100), first).await;
    assert!(left.is_err());
    let in_queue = client.update_comment(&token, &repo, 9, "x");
    let left = tokio::time::timeout(Duration::from_millis(100), in_queue).await;
    assert!(left.is_err());
    client.create_comment(&token, &repo, 1, "x").await.result.unwrap();
    let at: Vec<u128> = fake.asked().iter().map(|a| a.at.as_millis()).collect();
    assert_eq!(at, [0, 1_100], "the one that left the queue was never sent");
    assert_eq!(fake.most_at_once(), 1);
}
