//! Renamed repositories are followed, and a token never leaves its server.

use steadfast_core::failure::{FatalReason, Verdict};

use super::fake::*;

const MOVED: &str = r#"{"message":"Moved Permanently"}"#;

#[tokio::test(start_paused = true)]
async fn a_renamed_repository_is_followed_with_method_and_body() {
    for status in [301, 307, 308] {
        for location in [
            "https://api.test/base/repositories/1/issues/4/comments",
            "/base/repositories/1/issues/4/comments",
        ] {
            let (client, fake) = client(move |asked| match asked.uri.contains("repositories") {
                true => reply(201, comment(9, "b", "x").to_string()),
                false => reply(status, MOVED).with("location", location),
            });
            client.create_comment(&token(), &repo(), 4, "text").await.result.unwrap();
            let asked = fake.asked();
            assert_eq!(asked[1].line(), "POST /repositories/1/issues/4/comments");
            assert_eq!(asked[1].body["body"], "text");
            assert_eq!(asked[1].bearer(), "ghs_installation0123456789");
            assert_eq!(asked[1].at, asked[0].at, "it is one write, not two");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_other_server_sees_the_token() {
    for location in [
        "https://evil.test/base/repos/o/r",
        "http://api.test/base/repos/o/r",
        "https://api.test:8443/base/repos/o/r",
        "https://api.test.evil.test/",
        "//evil.test/x",
        "https://api.test@evil.test/",
        "https://user:word@api.test/base/repos/o/other",
        "file:///etc/passwd",
        "",
    ] {
        let (client, fake) = client(move |asked| match asked.uri.as_str() {
            "https://api.test/base/repos/o/r" => reply(301, MOVED).with("location", location),
            _ => reply(200, "{}"),
        });
        let result = client.repository(&token(), &repo()).await.result;
        assert_eq!(result.unwrap_err().verdict, Verdict::Fatal { why: FatalReason::Rejected }, "{location}");
        let elsewhere = fake.asked().into_iter().filter(|a| !a.uri.starts_with("https://api.test/base/"));
        assert_eq!(elsewhere.count(), 0, "{location}");
    }
}

#[tokio::test(start_paused = true)]
async fn three_redirects_are_followed_and_no_more() {
    let hops = |last: usize| {
        move |asked: &Asked| {
            let hop: usize = asked.uri.rsplit('/').next().unwrap().parse().unwrap_or(0);
            match hop < last {
                true => reply(301, MOVED).with("location", format!("/hop/{}", hop + 1)),
                false => reply(200, r#"{"full_name":"o/r","default_branch":"main"}"#),
            }
        }
    };
    let (three, asked_three) = client(hops(3));
    three.repository(&token(), &repo()).await.result.unwrap();
    assert_eq!(asked_three.asked().len(), 4);
    let (endless, asked_endless) = client(hops(usize::MAX));
    let failure = endless.repository(&token(), &repo()).await.result.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Rejected });
    assert_eq!(asked_endless.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn other_redirects_are_not_followed() {
    for status in [302, 303, 304] {
        let (client, fake) = client(move |_| reply(status, "").with("location", "/elsewhere"));
        let failure = client.repository(&token(), &repo()).await.result.unwrap_err();
        assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Rejected });
        assert_eq!(fake.asked().len(), 1);
    }
}
