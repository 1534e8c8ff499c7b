//! Installation tokens: asked for once, narrowed, renewed in time, by the right clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::{ExposeSecret, SecretString};
use steadfast_core::failure::{FatalReason, Verdict};
use steadfast_core::time::Timestamp;

use super::fake::*;
use crate::{Credentials, GithubClient, Repo, UnusableSettings};

#[derive(serde::Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: String,
}

fn claims(jwt: &str) -> Claims {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    let key = DecodingKey::from_rsa_pem(PUBLIC.as_bytes()).unwrap();
    jsonwebtoken::decode::<Claims>(jwt, &key, &validation).unwrap().claims
}

/// Tokens numbered by request, living an hour.
fn issuing() -> impl Fn(&Asked) -> Reply {
    let issued = AtomicUsize::new(0);
    move |asked| {
        let number = issued.fetch_add(1, Ordering::Relaxed);
        let end = Timestamp::from_secs(BEGIN_SECS + 3600) + asked.at;
        let body = serde_json::json!({"token": format!("ghs_{number}"), "expires_at": end});
        reply(201, body.to_string()).after(Duration::from_millis(300))
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_narrowed_and_asked_for_by_a_good_jwt() {
    let (client, fake) = client(issuing());
    let token = client.token(7, &repo(), false).await.unwrap();
    assert_eq!(token.secret.expose_secret(), "ghs_0");
    assert_eq!(token.expires_at, Some(Timestamp::from_secs(BEGIN_SECS + 3600)));
    let asked = &fake.asked()[0];
    assert_eq!(asked.line(), "POST /app/installations/7/access_tokens");
    assert_eq!(
        asked.body,
        serde_json::json!({
            "repositories": ["r"],
            "permissions": {"contents": "write", "issues": "write", "pull_requests": "write"},
        })
    );
    let claims = claims(asked.bearer());
    assert_eq!((claims.iat, claims.exp), (BEGIN_SECS - 60, BEGIN_SECS + 540));
    assert_eq!(claims.iss, "42");
}

#[tokio::test(start_paused = true)]
async fn keys_in_any_usual_form_sign() {
    for key in [PKCS1.to_owned(), PKCS8.to_owned(), PKCS1.replace('\n', "\\n"), format!("\n{PKCS8}\n")] {
        let app = crate::app::App::new("42", &SecretString::from(key)).unwrap();
        let jwt = app.jwt(Timestamp::from_secs(1_000)).unwrap();
        assert_eq!(claims(jwt.expose_secret()).iat, 940);
    }
}

#[tokio::test(start_paused = true)]
async fn many_who_want_one_token_ask_once() {
    let (client, fake) = client(issuing());
    let repo = repo();
    let tokens = join_all((0..50).map(|_| client.token(7, &repo, false))).await;
    assert!(tokens.iter().all(|token| token.as_ref().unwrap().secret.expose_secret() == "ghs_0"));
    let forced = join_all((0..50).map(|_| client.token(7, &repo, true))).await;
    assert!(forced.iter().all(|token| token.as_ref().unwrap().secret.expose_secret() == "ghs_1"));
    assert_eq!(fake.asked().len(), 2);
    let other = Repo { name: "other".into(), ..repo };
    client.token(7, &other, false).await.unwrap();
    client.token(8, &other, false).await.unwrap();
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn many_who_want_a_token_that_cannot_be_had_ask_once_and_later_again() {
    let (client, fake) = client(|_| reply(502, "").after(Duration::from_secs(1)));
    let repo = repo();
    let results = join_all((0..50).map(|_| client.token(7, &repo, false))).await;
    assert!(results.iter().all(|r| r.as_ref().unwrap_err().verdict == Verdict::Retry { after: None }));
    assert_eq!(fake.asked().len(), 1);
    client.token(7, &repo, false).await.unwrap_err();
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_caller_that_left_asks_himself() {
    let (client, fake) = client(issuing());
    let repo = repo();
    let first = Box::pin(client.token(7, &repo, false));
    let left = tokio::time::timeout(Duration::from_millis(100), first);
    let (left, token) = tokio::join!(left, client.token(7, &repo, false));
    assert!(left.is_err());
    assert_eq!(token.unwrap().secret.expose_secret(), "ghs_1");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_five_minutes_before_its_end() {
    let (client, fake) = client(issuing());
    let held = async || client.token(7, &repo(), false).await.unwrap().secret.expose_secret().to_owned();
    assert_eq!(held().await, "ghs_0");
    tokio::time::advance(Duration::from_secs(3299) - Duration::from_millis(300)).await;
    assert_eq!(held().await, "ghs_0");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(held().await, "ghs_1");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_is_set_by_githubs_and_signed_anew_once() {
    // GitHub's clock is ten minutes behind ours: our JWT seems to come from the future.
    let server = |asked: &Asked| BEGIN_SECS - 600 + asked.at.as_secs() as i64;
    let (client, fake) = client(move |asked| {
        let claims = claims(asked.bearer());
        if claims.iat > server(asked) || claims.exp > server(asked) + 600 {
            return reply(401, r#"{"message":"'Expiration time' claim ('exp') is too far in the future"}"#)
                .with("date", "Thu, 09 Oct 2025 08:43:20 GMT");
        }
        let end = Timestamp::from_secs(server(asked) + 3600);
        reply(201, serde_json::json!({"token": "ghs_good", "expires_at": end}).to_string())
    });
    client.token(7, &repo(), false).await.unwrap();
    assert_eq!(fake.asked().len(), 2);
    // By our clock it ends in 50 minutes, by GitHub's in 60: still fresh after 46.
    tokio::time::advance(Duration::from_secs(46 * 60)).await;
    client.token(7, &repo(), false).await.unwrap();
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_jwt_that_is_refused_twice_is_fatal() {
    let (client, fake) = client(|_| reply(401, r#"{"message":"A JSON web token could not be decoded"}"#));
    let failure = client.token(7, &repo(), false).await.unwrap_err();
    assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Credentials });
    assert!(failure.message.contains("github.app_id"), "{}", failure.message);
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_said() {
    let (client, fake) = client(issuing());
    let personal = client.token(0, &repo(), false).await.unwrap();
    assert_eq!((personal.secret.expose_secret(), personal.expires_at), ("ghp_personal0123456789", None));
    let without = |credentials| {
        let settings = crate::Settings { app_id: String::new(), ..settings() };
        let clock = std::sync::Arc::new(TestClock::begin());
        GithubClient::new(settings, credentials, fake.clone(), clock).unwrap()
    };
    let blank = Credentials { private_key: None, personal_token: Some(" \n".to_owned().into()) };
    for (installation, expected) in [(0, "github.token"), (7, "github.app_id")] {
        let failure = without(blank.clone()).token(installation, &repo(), false).await.unwrap_err();
        assert_eq!(failure.verdict, Verdict::Fatal { why: FatalReason::Credentials });
        assert!(failure.message.contains(expected), "{}", failure.message);
    }
    assert_eq!(fake.asked().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_refused_at_start() {
    let (_, fake) = client(issuing());
    let refused = |settings, key: Option<&str>| {
        let credentials =
            Credentials { private_key: key.map(|key| key.to_owned().into()), personal_token: None };
        let clock = std::sync::Arc::new(TestClock::begin());
        GithubClient::new(settings, credentials, fake.clone(), clock).err()
    };
    let key = Some(PKCS1);
    assert_eq!(refused(settings(), key), None);
    assert_eq!(refused(settings(), None), Some(UnusableSettings::HalfAnApp));
    let no_app = crate::Settings { app_id: String::new(), ..settings() };
    assert_eq!(refused(no_app.clone(), key), Some(UnusableSettings::HalfAnApp));
    assert_eq!(refused(no_app, None), None);
    for bad in ["", "secret words", PUBLIC] {
        let error = refused(settings(), Some(bad)).unwrap();
        assert!(matches!(error, UnusableSettings::PrivateKey(_)), "{error}");
        assert!(!error.to_string().contains("secret words"));
    }
    for bad in ["ftp://h", "https://u:hidden@h", "https://h/?q=1", "https://h/#f", "data:x"] {
        let settings = crate::Settings { api_url: bad.parse().unwrap(), ..settings() };
        let error = refused(settings, key).unwrap();
        assert!(matches!(error, UnusableSettings::Url { key: "api_url", .. }), "{error}");
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
    let agent = crate::Settings { user_agent: "a\nb".into(), ..settings() };
    assert_eq!(refused(agent, key), Some(UnusableSettings::Header { key: "user_agent" }));
    let pages = crate::Settings { max_pages: 0, ..settings() };
    assert_eq!(refused(pages, key), Some(UnusableSettings::Zero { key: "max_pages" }));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_not_handed_out_again() {
    let issue = issuing();
    let (client, fake) = client(move |asked| match asked.method.as_str() {
        "DELETE" => reply(204, ""),
        _ => issue(asked),
    });
    let token = client.token(7, &repo(), false).await.unwrap();
    client.revoke(&token).await.result.unwrap();
    let next = client.token(7, &repo(), false).await.unwrap();
    assert_eq!(next.secret.expose_secret(), "ghs_1");
    assert_eq!(fake.asked()[1].line(), "DELETE /installation/token");
    assert_eq!(fake.asked()[1].bearer(), "ghs_0");
    let personal = client.token(0, &repo(), false).await.unwrap();
    client.revoke(&personal).await.result.unwrap();
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_dead_counts_as_revoked() {
    for (status, is_ok) in [(204, true), (401, true), (404, true), (500, false), (403, false)] {
        let (client, _) = client(move |_| reply(status, "{}"));
        assert_eq!(client.revoke(&token()).await.result.is_ok(), is_ok, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_in_what_is_printed() {
    let (client, _) = client(|asked| reply(403, format!("{{\"message\":\"bad {}\"}}", asked.bearer())));
    let failure = client.repository(&token(), &repo()).await.result.unwrap_err();
    let failed_token = client.token(7, &repo(), false).await.unwrap_err();
    let printed = format!("{failure} {failure:?} {failed_token:?} {:?} {:?}", token(), credentials());
    assert!(!printed.contains("installation0123456789"), "{printed}");
    assert!(!printed.contains("personal0123456789") && !printed.contains("PRIVATE"), "{printed}");
    assert!(!printed.contains("eyJ0"), "{printed}");
}

#[tokio::test(start_paused = true)]
async fn what_is_at_hand_is_what_would_be_given_without_asking() {
    let (client, fake) = client(issuing());
    assert!(client.token_at_hand(7, &repo()).is_none(), "nothing was made yet");
    let made = client.token(7, &repo(), false).await.unwrap();
    assert!(client.token_at_hand(7, &repo()).unwrap().unwrap().is(&made));
    assert!(client.token_at_hand(8, &repo()).is_none(), "another installation's is another");
    tokio::time::advance(Duration::from_secs(3301)).await;
    assert!(client.token_at_hand(7, &repo()).is_none(), "it is to be renewed");
    let personal = client.token_at_hand(0, &repo()).unwrap().unwrap();
    assert!(personal.is(&client.token(0, &repo(), false).await.unwrap()));
    assert_eq!(fake.asked().len(), 1, "a look asks nobody");
}
