//! Who asks: the App by a signed token, an installation by an issued one, or a person.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::Value;
use steadfast_core::time::Timestamp;

use super::refusal;
use crate::config::{Level, Permissions};
use crate::reply::Reply;
use crate::world::World;

/// Versions of the API that are served.
const VERSIONS: [&str; 2] = ["2022-11-28", "2026-03-10"];
/// Seconds from now to the latest `exp` of an App's token.
const LONGEST_JWT: i64 = 600;

/// An installation token that was issued.
#[derive(Clone, Debug)]
pub(crate) struct TokenInfo {
    pub(crate) expires: Timestamp,
    /// Names of repositories; empty for all.
    pub(crate) repositories: Vec<String>,
    pub(crate) permissions: Permissions,
    pub(crate) record: Option<usize>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    App,
    Installation { token: String, info: TokenInfo },
    Person,
}

impl Caller {
    /// Whose limits are used.
    pub(crate) fn account(&self) -> &'static str {
        match self {
            Caller::App => "app",
            Caller::Installation { .. } => "installation",
            Caller::Person => "user",
        }
    }

    pub(crate) fn sees(&self, repository: &str) -> bool {
        match self {
            Caller::App => false,
            Caller::Installation { info, .. } => {
                info.repositories.is_empty() || info.repositories.iter().any(|name| name == repository)
            }
            Caller::Person => true,
        }
    }

    pub(crate) fn has(&self, permission: &str, level: Level) -> bool {
        match self {
            Caller::App => false,
            Caller::Installation { info, .. } => {
                permission == "metadata" && level == Level::Read
                    || info.permissions.get(permission).is_some_and(|granted| *granted >= level)
            }
            Caller::Person => true,
        }
    }

    pub(crate) fn login(&self, world: &World) -> String {
        match self {
            Caller::App | Caller::Installation { .. } => format!("{}[bot]", world.config.github.app_slug),
            Caller::Person => world.config.github.personal_login.clone(),
        }
    }
}

/// The headers that every request must have, and those that may not be wrong.
pub(crate) fn check_headers(headers: &HeaderMap) -> Result<(), Reply> {
    let text = |name: http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(http::header::USER_AGENT).is_none_or(str::is_empty) {
        let message = "Request forbidden by administrative rules. Please make sure your request has a \
                       User-Agent header.";
        return Err(Reply::bytes(StatusCode::FORBIDDEN, "text/html", format!("{message}\n")).because(message));
    }
    if let Some(version) = text(http::HeaderName::from_static("x-github-api-version"))
        && !VERSIONS.contains(&version)
    {
        let message = format!("The API version '{version}' is not supported.");
        return Err(refusal(StatusCode::BAD_REQUEST, message));
    }
    let accept = text(http::header::ACCEPT).unwrap_or("*/*");
    let accepted = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind == "*/*"
            || kind == "application/*"
            || kind == "application/json"
            || (kind.starts_with("application/vnd.github") && kind.ends_with("json"))
    };
    if !accept.split(',').any(accepted) {
        let message = format!("Unsupported 'Accept' header: '{accept}'. Must accept 'application/json'.");
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    Ok(())
}

/// Who sent these headers.
pub(crate) fn identify(world: &World, headers: &HeaderMap) -> Result<Caller, Reply> {
    let value = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(value) = value else {
        return Err(refusal(StatusCode::UNAUTHORIZED, "Requires authentication"));
    };
    let bad = || refusal(StatusCode::UNAUTHORIZED, "Bad credentials");
    let (scheme, credential) = value.split_once(' ').ok_or_else(bad)?;
    let credential = credential.trim();
    if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("token") {
        return Err(bad());
    }
    let is_token =
        ["ghs_", "ghp_", "github_pat_", "gho_"].iter().any(|prefix| credential.starts_with(prefix));
    let is_personal = world.config.github.personal_token.as_deref() == Some(credential);
    if !is_token && !is_personal && credential.matches('.').count() == 2 {
        return check_jwt(world, credential).map(|()| Caller::App);
    }
    by_token(world, credential)
}

/// Whose token this is.
pub(crate) fn by_token(world: &World, token: &str) -> Result<Caller, Reply> {
    if world.config.github.personal_token.as_deref() == Some(token) {
        return Ok(Caller::Person);
    }
    let info = world.state().github.tokens.get(token).cloned();
    match info {
        Some(info) if info.expires > world.now() => {
            Ok(Caller::Installation { token: token.to_owned(), info })
        }
        Some(_) => {
            let reply = refusal(StatusCode::UNAUTHORIZED, "Bad credentials");
            Err(reply.because("the installation token has expired"))
        }
        None => {
            let reply = refusal(StatusCode::UNAUTHORIZED, "Bad credentials");
            Err(reply.because("the token is unknown or revoked"))
        }
    }
}

/// The password of a Basic authorization: git's way to hand over a token.
pub(crate) fn basic_password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let encoded = value.strip_prefix("Basic ").or_else(|| value.strip_prefix("basic "))?;
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    // GitHub takes a token as either half.
    Some(if password.is_empty() { user } else { password }.to_owned())
}

/// GitHub's rules for an App's token: RS256, its own App, not from the future, at most ten minutes.
fn check_jwt(world: &World, jwt: &str) -> Result<(), Reply> {
    let refused = |message: &str| refusal(StatusCode::UNAUTHORIZED, message);
    let undecodable = || refused("A JSON web token could not be decoded");
    let mut validation = Validation::new(Algorithm::RS256);
    // Times are compared with the world's clock, below.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Value>(jwt, &world.app_key, &validation)
        .map_err(|error| undecodable().because(format!("undecodable JWT: {error}")))?
        .claims;
    let config = &world.config.github;
    let issuer = match &claims["iss"] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(refused("Missing 'issuer' claim ('iss') in assertion")),
    };
    if issuer != config.app_id.to_string() && issuer != config.client_id {
        return Err(refusal(StatusCode::NOT_FOUND, "Integration not found"));
    }
    let now = world.now().secs();
    let issued = claims["iat"].as_i64().filter(|issued| *issued <= now);
    if issued.is_none() {
        return Err(refused(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        ));
    }
    match claims["exp"].as_i64() {
        None => Err(refused("Missing 'expiration' claim ('exp') in assertion")),
        Some(expires) if expires <= now => Err(refused(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the \
             assertion expires",
        )),
        Some(expires) if expires - now > LONGEST_JWT => {
            Err(refused("'Expiration time' claim ('exp') is too far in the future"))
        }
        Some(_) => Ok(()),
    }
}
