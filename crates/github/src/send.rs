//! How one call is made, sent, redirected and judged.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use steadfast_core::classify::clean::clean;
use steadfast_core::classify::github::{self as verdicts, Bounds, Call, Credential, Operation};
use steadfast_core::failure::{Failure, FatalReason, Verdict};
use steadfast_core::headers::{self, Observed};
use steadfast_http::{Timeouts, TransportError, read_capped};
use tokio::time::Instant;
use url::Url;

use crate::app::App;
use crate::client::{Exchange, GithubClient, unsent_failure};
use crate::token::AccessToken;

/// Redirects that one call follows.
const MAX_REDIRECTS: usize = 3;

/// Bytes of a refusal that are read.
const MAX_REFUSAL: usize = 256 * 1024;

/// A request that can be sent more than once.
pub(crate) struct Outgoing {
    pub operation: Operation,
    pub method: Method,
    pub url: Url,
    pub body: Bytes,
}

/// What came of one request. The body may fail alone, so that a status that came is not lost.
struct Heard {
    status: StatusCode,
    headers: HeaderMap,
    body: Result<Bytes, TransportError>,
}

/// A success.
pub(crate) struct Answer {
    pub call: Call,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| verdicts::unreadable(&self.call, self.status, &self.headers, &error.to_string()))
    }
}

impl GithubClient {
    /// Sends as the App. A refused JWT is signed anew once, by GitHub's own clock.
    pub(crate) async fn send_as_app(&self, app: &App, outgoing: &Outgoing) -> Exchange<Answer> {
        let mut refused = false;
        loop {
            let jwt = match app.jwt(self.server_now()) {
                Ok(jwt) => jwt,
                Err(why) => {
                    let text = format!("cannot sign with the App's private key: {why}");
                    let failure = unsent_failure(outgoing.operation, FatalReason::Credentials, text);
                    return Exchange::unsent(Err(failure));
                }
            };
            let mut exchange = self.perform(outgoing, Credential::AppJwt, &jwt).await;
            match &mut exchange.result {
                Err(failure) if failure.verdict == Verdict::Refresh && !refused => refused = true,
                Err(failure) if failure.verdict == Verdict::Refresh => {
                    failure.verdict = Verdict::Fatal { why: FatalReason::Credentials };
                    failure.message =
                        clean(&format!("{}; check github.app_id and github.private_key", failure.message));
                    return exchange;
                }
                Ok(_) | Err(_) => return exchange,
            }
        }
    }

    /// Sends with an access token.
    pub(crate) async fn send(&self, outgoing: &Outgoing, token: &AccessToken) -> Exchange<Answer> {
        self.perform(outgoing, token.credential(), &token.secret).await
    }

    /// A request to `{api_url}/{path}?{query}`. Segments and values are encoded.
    pub(crate) fn outgoing<B: Serialize>(
        &self,
        operation: Operation,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&B>,
    ) -> Result<Outgoing, Failure> {
        let unusable = |text: String| unsent_failure(operation, FatalReason::Unusable, text);
        // A URL parser resolves these away, and the request would go elsewhere.
        if let Some(bad) = path.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
            return Err(unusable(format!("{bad:?} cannot stand in a path")));
        }
        let mut url = self.settings.api_url.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(unusable("nothing can be appended to github.api_url".to_owned())),
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| unusable(error.to_string()))?.into(),
            None => Bytes::new(),
        };
        Ok(Outgoing { operation, method, url, body })
    }

    /// One call: its turn if it is a write, the exchange and its redirects, the verdict.
    async fn perform(
        &self,
        outgoing: &Outgoing,
        credential: Credential,
        secret: &SecretString,
    ) -> Exchange<Answer> {
        let call = Call { operation: outgoing.operation, credential };
        let _turn = match outgoing.operation.is_write() {
            true => Some(self.writes.turn().await),
            false => None,
        };
        let mut url = outgoing.url.clone();
        let mut redirects = 0;
        loop {
            let Heard { status, headers, body } = match self.exchange(outgoing, &url, secret).await {
                Ok(whole) => whole,
                Err(error) => {
                    let failure = verdicts::no_answer(&call, error.fault(), &error.to_string());
                    return Exchange::unsent(Err(failure));
                }
            };
            if matches!(status.as_u16(), 301 | 307 | 308) {
                match redirect_target(&url, &headers) {
                    Ok(_) if redirects == MAX_REDIRECTS => {
                        let text = format!("more than {MAX_REDIRECTS} redirects");
                        return self.judge(&call, status, &headers, Err(text));
                    }
                    Ok(target) => {
                        tracing::debug!(
                            operation = call.operation.name(),
                            path = target.path(),
                            "redirected"
                        );
                        redirects += 1;
                        url = target;
                        continue;
                    }
                    Err(text) => return self.judge(&call, status, &headers, Err(text)),
                }
            }
            return match body {
                Ok(body) => self.judge(&call, status, &headers, Ok(body)),
                // A refusal that broke off might have named a rate limit; and a success that broke off
                // is one of unknown shape.
                Err(error) if status.is_success() || is_cut_refusal(status, &error) => {
                    let observed = Observed::of_github(&headers, self.clock.now());
                    let result = Err(verdicts::no_answer(&call, error.fault(), &error.to_string()));
                    Exchange { result, observed }
                }
                Err(_) => self.judge(&call, status, &headers, Ok(Bytes::new())),
            };
        }
    }

    /// From an answer to a result. An `Err` body is what makes a redirect unusable.
    fn judge(
        &self,
        call: &Call,
        status: StatusCode,
        headers: &HeaderMap,
        body: Result<Bytes, String>,
    ) -> Exchange<Answer> {
        let now = self.clock.now();
        let observed = Observed::of_github(headers, now);
        tracing::debug!(
            operation = call.operation.name(),
            status = status.as_u16(),
            remaining = observed.requests.and_then(|window| window.remaining),
            request_id = headers::request_id(headers),
            "github answered"
        );
        let body = match body {
            Ok(body) if status.is_success() => {
                self.secondary.succeeded(now);
                let answer = Answer { call: *call, status, headers: headers.clone(), body };
                return Exchange { result: Ok(answer), observed };
            }
            Ok(body) => body,
            Err(text) => text.into(),
        };
        let max_server_wait = self.settings.max_server_wait;
        let bounds = Bounds { max_server_wait, secondary_streak: self.secondary.before(now) };
        let failure = verdicts::classify(call, status, headers, &body, now, &bounds);
        self.secondary.refused(&failure, now);
        if matches!(failure.verdict, Verdict::WaitUntil { at, .. } if at >= now + max_server_wait) {
            tracing::warn!(
                operation = call.operation.name(),
                max_server_wait = ?max_server_wait,
                "github names a wait of github.max_server_wait or more, taken as that"
            );
        }
        if call.credential == Credential::AppJwt
            && status == StatusCode::UNAUTHORIZED
            && let Some(skew) = verdicts::clock_skew(headers, now)
        {
            self.skew.store(skew, Ordering::Relaxed);
            tracing::warn!(
                skew_ms = skew,
                "github refused the app's token, signing by its clock from now on"
            );
        }
        Exchange { result: Err(failure), observed }
    }

    /// One request and its answer, within `github.timeout` from the first byte to the last.
    async fn exchange(
        &self,
        outgoing: &Outgoing,
        url: &Url,
        secret: &SecretString,
    ) -> Result<Heard, TransportError> {
        let request = self.request(outgoing, url, secret)?;
        let timeout = self.settings.timeout;
        let deadline = Instant::now() + timeout;
        let timeouts = Timeouts { first_byte: timeout, idle: timeout };
        let late = |what| TransportError::Timeout { what, after: timeout };
        let answer = tokio::time::timeout_at(deadline, self.transport.send(request, timeouts))
            .await
            .map_err(|_| late("answer"))??;
        let (head, body) = answer.into_parts();
        let cap = usize::try_from(self.settings.max_body_bytes.as_u64()).unwrap_or(usize::MAX);
        let cap = if head.status.is_success() { cap } else { cap.min(MAX_REFUSAL) };
        let body = tokio::time::timeout_at(deadline, read_capped(body, cap))
            .await
            .unwrap_or_else(|_| Err(late("further data")));
        Ok(Heard { status: head.status, headers: head.headers, body })
    }

    fn request(
        &self,
        outgoing: &Outgoing,
        url: &Url,
        secret: &SecretString,
    ) -> Result<http::Request<Bytes>, TransportError> {
        let unusable = |what: &str| TransportError::Unusable(format!("{what} cannot be sent in a header"));
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret()))
            .map_err(|_| unusable("the access token"))?;
        bearer.set_sensitive(true);
        let mut request = http::Request::new(outgoing.body.clone());
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() =
            url.as_str().parse().map_err(|_| TransportError::Unusable("the url is no uri".to_owned()))?;
        let headers = request.headers_mut();
        let plain = |value: &str, what| HeaderValue::from_str(value).map_err(|_| unusable(what));
        headers.insert(USER_AGENT, plain(&self.settings.user_agent, "github.user_agent")?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert("x-github-api-version", plain(&self.settings.api_version, "github.api_version")?);
        headers.insert(AUTHORIZATION, bearer);
        if !outgoing.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }
}

/// For [`GithubClient::outgoing`] without a body.
pub(crate) const NO_BODY: Option<&()> = None;

/// Whether a 403, which its words may make a rate limit, lacks words that were on their way.
fn is_cut_refusal(status: StatusCode, error: &TransportError) -> bool {
    status == StatusCode::FORBIDDEN && !matches!(error, TransportError::TooLarge { .. })
}

/// Where a redirect leads, if it is to the same scheme, host and port: a token goes nowhere else.
fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    let target = target.ok_or_else(|| "redirected without a place to go".to_owned())?;
    let has_user = !target.username().is_empty() || target.password().is_some();
    if target.origin() != from.origin() || has_user {
        let host = target.host_str().unwrap_or("nowhere");
        return Err(format!("redirected to another server ({host}), which must not see our token"));
    }
    Ok(target)
}
