//! Answers and silences of a webhook that is told of alerts, and what they mean.

use http::HeaderMap;

use super::clean::clean;
use super::transport::TransportFault;
use crate::failure::{Failure, FatalReason, Provider, Verdict};
use crate::headers;
use crate::time::Timestamp;

/// What an answer means: `None` for one that took the alert. Its body is not looked at, since some
/// servers repeat the address in it, and the address may hold a secret.
pub fn judge(operation: &'static str, status: u16, headers: &HeaderMap, now: Timestamp) -> Option<Failure> {
    let after = headers::retry_after(headers, now).filter(|wait| !wait.is_zero());
    let verdict = match status {
        200..=299 => return None,
        408 | 425 | 429 | 500..=599 => Verdict::Retry { after },
        401 | 403 => Verdict::Fatal { why: FatalReason::Credentials },
        404 | 410 => Verdict::Fatal { why: FatalReason::NotFound },
        _ => Verdict::Fatal { why: FatalReason::Rejected },
    };
    let message = match status {
        300..=399 => "redirected: give the final address".to_owned(),
        _ => "the alert was not taken".to_owned(),
    };
    Some(failure(operation, verdict, Some(status), message))
}

/// No answer came. An alert that comes twice does no harm.
pub fn transport(operation: &'static str, fault: TransportFault, message: &str) -> Failure {
    let verdict = match fault {
        TransportFault::Connect
        | TransportFault::Lost
        | TransportFault::Timeout
        | TransportFault::CutOff
        | TransportFault::TooLarge => Verdict::Retry { after: None },
        TransportFault::Unusable => Verdict::Fatal { why: FatalReason::Unusable },
    };
    failure(operation, verdict, None, clean(message))
}

fn failure(operation: &'static str, verdict: Verdict, status: Option<u16>, message: String) -> Failure {
    Failure {
        verdict,
        provider: Provider::Webhook,
        operation,
        status,
        message,
        request_id: None,
        maybe_charged: false,
        unhealthy: status.is_none_or(|status| status >= 500),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_answer_has_its_verdict() {
        let now = Timestamp::from_secs(1_760_000_000);
        let mut named = HeaderMap::new();
        named.insert("retry-after", "7".parse().unwrap());
        let fatal = |why| Some(Verdict::Fatal { why });
        let retry = |after| Some(Verdict::Retry { after });
        let rows = [
            (200, HeaderMap::new(), None),
            (204, HeaderMap::new(), None),
            (302, HeaderMap::new(), fatal(FatalReason::Rejected)),
            (400, HeaderMap::new(), fatal(FatalReason::Rejected)),
            (403, HeaderMap::new(), fatal(FatalReason::Credentials)),
            (404, HeaderMap::new(), fatal(FatalReason::NotFound)),
            (429, named, retry(Some(Duration::from_secs(7)))),
            (503, HeaderMap::new(), retry(None)),
        ];
        for (status, headers, want) in rows {
            let got = judge("alert", status, &headers, now).map(|failure| failure.verdict);
            assert_eq!(got, want, "{status}");
        }
    }

    #[test]
    fn silence_is_asked_again_and_what_cannot_be_sent_is_not() {
        let verdict = |fault| transport("alert", fault, "gone").verdict;
        assert_eq!(verdict(TransportFault::Lost), Verdict::Retry { after: None });
        assert_eq!(verdict(TransportFault::Unusable), Verdict::Fatal { why: FatalReason::Unusable });
    }
}
