//! Each form of refusal that providers are known to answer with, by name.

use std::time::Duration;

use super::Fault;

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn openai_error(message: &str, kind: &str, code: &str) -> String {
    serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}

fn github_error(message: &str, status: u16) -> String {
    serde_json::json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.to_string(),
    })
    .to_string()
}

impl Fault {
    fn status(code: u16, headers: &[(&str, &str)], body: String) -> Self {
        let mut headers = owned(headers);
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        Fault::Status { code, headers, body }
    }

    fn limit_body() -> String {
        openai_error("Rate limit reached: too many requests a minute", "requests", "rate_limit_exceeded")
    }

    /// 429 that names the wait.
    pub fn rate_limited_retry_after(seconds: u64) -> Self {
        Self::status(429, &[("retry-after", &seconds.to_string())], Self::limit_body())
    }

    /// 429 that names the wait in milliseconds too, and less of it than in seconds.
    pub fn rate_limited_retry_after_ms(millis: u64) -> Self {
        let seconds = millis.div_ceil(1000).to_string();
        Self::status(
            429,
            &[("retry-after", &seconds), ("retry-after-ms", &millis.to_string())],
            Self::limit_body(),
        )
    }

    /// 429 without `retry-after`, whose `x-ratelimit-reset-requests` tells when.
    pub fn rate_limited_reset(seconds: u64) -> Self {
        Self::status(
            429,
            &[
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", &format!("{seconds}s")),
            ],
            Self::limit_body(),
        )
    }

    /// 429 that says nothing of the time.
    pub fn rate_limited_bare() -> Self {
        Self::status(429, &[], Self::limit_body())
    }

    /// 429 because nobody paid.
    pub fn insufficient_quota() -> Self {
        let body = openai_error(
            "The quota of this account is used up: see plan and billing",
            "insufficient_quota",
            "insufficient_quota",
        );
        Self::status(429, &[], body)
    }

    /// 400 because the conversation is longer than the model's window.
    pub fn context_length_exceeded() -> Self {
        let body = openai_error(
            "The messages are longer than this model's context",
            "invalid_request_error",
            "context_length_exceeded",
        );
        Self::status(400, &[], body)
    }

    /// A proxy's 502 in HTML.
    pub fn html_502() -> Self {
        let page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad \
                    Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
        Self::status(502, &[("content-type", "text/html")], page.to_owned())
    }

    /// 503 that names the wait.
    pub fn unavailable(seconds: u64) -> Self {
        let body = openai_error("The engine is overloaded, try again later", "server_error", "overloaded");
        Self::status(503, &[("retry-after", &seconds.to_string())], body)
    }

    /// GitHub's secondary limit; `None` leaves the header out.
    pub fn secondary_limit(retry_after: Option<u64>) -> Self {
        let body = github_error("You have exceeded a secondary rate limit. Please wait a while.", 403);
        match retry_after {
            Some(seconds) => Self::status(403, &[("retry-after", &seconds.to_string())], body),
            None => Self::status(403, &[], body),
        }
    }

    /// GitHub's primary limit, used up until `reset_in` from now.
    pub fn primary_limit(reset_in: Duration) -> Self {
        Fault::PrimaryLimit { reset_in: reset_in.as_secs() }
    }

    /// 403 for want of a permission.
    pub fn forbidden() -> Self {
        let body = github_error("Resource not accessible by integration", 403);
        Self::status(403, &[("x-accepted-github-permissions", "issues=write; pull_requests=write")], body)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::status(401, &[], github_error("Bad credentials", 401))
    }

    /// 404.
    pub fn not_found() -> Self {
        Self::status(404, &[], github_error("Not Found", 404))
    }

    /// 200 whose body is an error, as some routers of models answer.
    pub fn error_in_200(code: u16) -> Self {
        let body = serde_json::json!({"error": {"message": "the provider failed", "code": code}}).to_string();
        Self::status(200, &[], body)
    }

    /// A stream whose second chunk is an error.
    pub fn error_in_stream(code: u16) -> Self {
        let first = serde_json::json!({
            "id": "chatcmpl-sim", "object": "chat.completion.chunk", "created": 0, "model": "sim",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": "I "}, "finish_reason": null}],
        });
        let second = serde_json::json!({"error": {"message": "the provider failed", "code": code}});
        let body = format!("data: {first}\n\ndata: {second}\n\n");
        Self::status(200, &[("content-type", "text/event-stream")], body)
    }

    /// A short name for records.
    pub fn name(&self) -> String {
        match self {
            Fault::Status { code, .. } => format!("status {code}"),
            Fault::PrimaryLimit { .. } => "primary limit".to_owned(),
            Fault::Hang => "hang".to_owned(),
            Fault::Reset => "reset".to_owned(),
            Fault::DoneButLost => "done but lost".to_owned(),
            Fault::CutBody { after } => format!("cut after {after} bytes"),
            Fault::SilentAfter { after } => format!("silent after {after} bytes"),
            Fault::SlowStream { .. } => "slow stream".to_owned(),
        }
    }
}
