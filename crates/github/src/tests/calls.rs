//! Repository, branch, identity: what is sent and what is made of the answer.

use steadfast_core::failure::{FatalReason, Verdict};

use super::fake::*;
use crate::{Identity, Repo};

#[tokio::test(start_paused = true)]
async fn a_repository_says_its_name_of_today() {
    let (client, fake) = client(|_| {
        reply(200, r#"{"full_name":"new/name","default_branch":"trunk","private":true,"archived":false}"#)
            .with("x-ratelimit-limit", "5000")
            .with("x-ratelimit-remaining", "4999")
            .with("x-ratelimit-reset", (BEGIN_SECS + 90).to_string())
            .with("x-ratelimit-resource", "core")
    });
    let exchange = client.repository(&token(), &repo()).await;
    let found = exchange.result.unwrap();
    assert_eq!(found.repo, Repo { owner: "new".into(), name: "name".into() });
    assert_eq!((found.default_branch.as_str(), found.private, found.has_issues), ("trunk", true, true));
    let window = exchange.observed.requests.unwrap();
    assert_eq!((window.limit, window.remaining), (Some(5000), Some(4999)));
    assert_eq!(window.reset.unwrap().as_secs(), 90);
    assert_eq!(exchange.observed.resource.as_deref(), Some("core"));

    let asked = &fake.asked()[0];
    assert_eq!(asked.line(), "GET /repos/o/r");
    assert_eq!(asked.bearer(), "ghs_installation0123456789");
    for (header, value) in [
        ("user-agent", "steadfast"),
        ("accept", "application/vnd.github+json"),
        ("x-github-api-version", "2022-11-28"),
    ] {
        assert_eq!(asked.headers[header], value);
    }
    assert!(!asked.headers.contains_key("content-type"));
    assert!(asked.headers["authorization"].is_sensitive());
}

#[tokio::test(start_paused = true)]
async fn a_branch_has_a_head_or_is_not_there() {
    let (client, fake) = client(|asked| match asked.line().as_str() {
        "GET /repos/o/r/git/ref/heads/fix/a%23b%3F" => {
            reply(200, r#"{"ref":"refs/heads/fix/a#b?","object":{"sha":"abc","type":"commit"}}"#)
        }
        "GET /repos/o/r/git/ref/heads/fix" => {
            reply(200, r#"{"ref":"refs/heads/fix/other","object":{"sha":"abc"}}"#)
        }
        "GET /repos/o/r/git/ref/heads/none" => reply(404, r#"{"message":"Not Found"}"#),
        "GET /repos/o/r/git/ref/heads/empty" => reply(409, r#"{"message":"Git Repository is empty."}"#),
        _ => reply(500, ""),
    });
    let head = async |branch: &str| client.branch_head(&token(), &repo(), branch).await.result;
    assert_eq!(head("fix/a#b?").await, Ok(Some("abc".to_owned())));
    assert_eq!(head("fix").await, Ok(None));
    assert_eq!(head("none").await, Ok(None));
    assert_eq!(head("empty").await, Ok(None));
    assert_eq!(head("broken").await.unwrap_err().verdict, Verdict::Retry { after: None });
    let asked = fake.asked().len();
    for escape in ["../../../user", "a//b", ".", ""] {
        let failure = head(escape).await.unwrap_err();
        assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Unusable }, "{escape}");
    }
    assert_eq!(fake.asked().len(), asked, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn names_are_encoded_and_stay_in_their_place() {
    let (client, fake) = client(|_| reply(404, ""));
    let hostile = Repo { owner: "a/../b".into(), name: "c?d#e%2f".into() };
    client.repository(&token(), &hostile).await.result.unwrap_err();
    assert_eq!(fake.lines(), ["GET /repos/a%2F..%2Fb/c%3Fd%23e%252f"]);
    assert_eq!(client.clone_url(&repo()).unwrap().as_str(), "https://web.test/o/r.git");
    assert_eq!(client.clone_url(&hostile).unwrap().path(), "/a%2F..%2Fb/c%3Fd%23e%252f.git");
}

#[tokio::test(start_paused = true)]
async fn the_bot_is_asked_for_once() {
    let (client, fake) = client(|asked| match asked.line().as_str() {
        "GET /app" => reply(200, r#"{"id":42,"slug":"steadfast","name":"Steadfast"}"#),
        "GET /users/steadfast[bot]" | "GET /users/steadfast%5Bbot%5D" => {
            reply(200, r#"{"login":"steadfast[bot]","id":99,"type":"Bot"}"#)
        }
        _ => reply(404, ""),
    });
    let bot = Identity {
        login: Some("steadfast[bot]".into()),
        name: "steadfast[bot]".into(),
        email: "99+steadfast[bot]@users.noreply.web.test".into(),
    };
    assert_eq!(client.identity(&token()).await.result, Ok(bot.clone()));
    assert_eq!(client.identity(&token()).await.result, Ok(bot));
    let asked = fake.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].bearer().starts_with("eyJ"), "the app speaks for itself");
    assert_eq!(asked[1].bearer(), "ghs_installation0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_person_is_who_the_personal_token_says() {
    for (name, expected) in [(r#""Ada L.""#, "Ada L."), ("null", "ada"), (r#"" ""#, "ada")] {
        let body = format!(r#"{{"login":"ada","id":5,"name":{name}}}"#);
        let (client, fake) = client(move |_| reply(200, body.clone()));
        let token = client.token(0, &repo(), false).await.unwrap();
        let person = client.identity(&token).await.result.unwrap();
        assert_eq!((person.login.as_deref(), person.name.as_str()), (Some("ada"), expected));
        assert_eq!(person.email, "5+ada@users.noreply.web.test");
        assert_eq!(fake.lines(), ["GET /user"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_told_whose_it_is_works_all_the_same() {
    let personal = r#"{"message":"Resource not accessible by personal access token"}"#;
    for (status, body) in [(403, personal), (404, "")] {
        let (client, fake) = client(move |_| reply(status, body));
        let token = client.token(0, &repo(), false).await.unwrap();
        for _ in 0..2 {
            let nobody = client.identity(&token).await.result.unwrap();
            assert_eq!((nobody.login, nobody.name.as_str()), (None, "steadfast"));
            assert_eq!(nobody.email, "steadfast@noreply.invalid");
        }
        assert_eq!(fake.lines(), ["GET /user"], "asked once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_told_half_uses_that_half() {
    let (client, _) = client(|asked| match asked.line().as_str() {
        "GET /app" => reply(200, r#"{"id":42,"slug":"steadfast","name":"Steadfast"}"#),
        _ => reply(404, ""),
    });
    let bot = client.identity(&token()).await.result.unwrap();
    assert_eq!(bot.login.as_deref(), Some("steadfast[bot]"));
    assert_eq!(bot.email, "steadfast[bot]@users.noreply.web.test");
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_is_no_identity() {
    let (client, _) = client(|_| reply(401, r#"{"message":"Bad credentials"}"#));
    let token = client.token(0, &repo(), false).await.unwrap();
    let failure = client.identity(&token).await.result.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Credentials });
}
