//! What the configuration may say, and where requests go.

use serde_json::json;

use super::*;
use crate::testing::{KEY, settings};

#[test]
fn settings_are_read_back_as_they_were_written() {
    let written = serde_json::to_value(settings()).unwrap();
    assert_eq!(written["timeout"], "30s");
    assert_eq!(written["tools"], "native");
    assert_eq!(written["temperature"], "default");
    let read: Settings = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), written);
}

#[test]
fn an_unknown_key_is_an_error() {
    let mut written = serde_json::to_value(settings()).unwrap();
    written["modle"] = json!("typo");
    assert!(serde_json::from_value::<Settings>(written).is_err());
}

#[test]
fn an_endpoint_has_its_own_server_model_and_price_and_the_rest_in_common() {
    let spare = json!({
        "name": "spare", "base_url": "https://spare.example/v1", "model": "model-b",
        "price": {"prompt": 9.0, "cached": 0.0, "completion": 0.0}, "limits": LimitSettings::UNKNOWN,
    });
    let spare: EndpointSettings = serde_json::from_value(spare).unwrap();
    let there = settings().at(&spare);
    assert_eq!((there.base_url.as_str(), there.model.as_str()), ("https://spare.example/v1", "model-b"));
    let back =
        Settings { base_url: settings().base_url, model: settings().model, price: settings().price, ..there };
    assert_eq!((spare.price.prompt, back), (9.0, settings()));
}

#[test]
fn temperature_is_a_number_in_its_range_or_default() {
    let rows = [
        (json!("default"), Some(Temperature::Default)),
        (json!(0), Some(Temperature::Of(0.0))),
        (json!(2), Some(Temperature::Of(2.0))),
        (json!(0.7), Some(Temperature::Of(0.7))),
        (json!(2.1), None),
        (json!(-1), None),
        (json!("hot"), None),
        (json!(null), None),
    ];
    for (text, want) in rows {
        assert_eq!(serde_json::from_value(text.clone()).ok(), want, "{text}");
    }
}

#[test]
fn requests_go_below_the_base_and_keep_its_query() {
    let rows = [
        ("https://api.example/v1", "https://api.example/v1/chat/completions"),
        ("https://api.example/v1/", "https://api.example/v1/chat/completions"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/chat/completions"),
        ("https://api.example/m?api-version=1#x", "https://api.example/m/chat/completions?api-version=1"),
    ];
    for (base, want) in rows {
        let endpoint = Endpoint::new(&Url::parse(base).unwrap(), SecretString::from("")).unwrap();
        assert_eq!(endpoint.chat.to_string(), want);
        assert_eq!(endpoint.authorization, None, "an empty key is not sent");
    }
}

#[test]
fn what_cannot_be_asked_is_told_without_secrets() {
    let rows = [
        ("ftp://api.example/v1", KEY, UnusableEndpoint::Address),
        ("data:text", KEY, UnusableEndpoint::Address),
        ("https://me:hunter2@api.example/v1", KEY, UnusableEndpoint::UserInfo),
        ("https://api.example/v1", "hunter2\nhunter2", UnusableEndpoint::Key),
    ];
    for (base, key, want) in rows {
        let error = Endpoint::new(&Url::parse(base).unwrap(), SecretString::from(key)).unwrap_err();
        assert_eq!(error, want, "{base}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn the_key_is_trimmed_and_never_shown() {
    let url = Url::parse("https://api.example/v1").unwrap();
    let endpoint = Endpoint::new(&url, SecretString::from(format!("{KEY}\n"))).unwrap();
    assert_eq!(endpoint.authorization.clone().unwrap().to_str().unwrap(), format!("Bearer {KEY}"));
    assert!(!format!("{endpoint:?}").contains(KEY));
}

#[test]
fn a_price_counts_cached_tokens_apart() {
    let price = Price { prompt: 2.0, cached: 0.5, completion: 8.0 };
    let usage = Usage { prompt_tokens: 1_000_000, completion_tokens: 250_000, cached_tokens: 400_000 };
    assert!((price.of(&usage) - (0.6 * 2.0 + 0.4 * 0.5 + 0.25 * 8.0)).abs() < 1e-9);
    let odd = Usage { prompt_tokens: 1, completion_tokens: 0, cached_tokens: 5 };
    assert!(price.of(&odd) > 0.0, "more cached than there are is no reason to pay back");
}
