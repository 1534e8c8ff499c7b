//! What one server and model turned out to want, against what most servers take.
//!
//! Learned from refusals, by one immediate repeat each, and remembered for the client's life.

use steadfast_core::classify::openai::ErrorBody;

use crate::settings::{MaxTokensField, Settings};

/// How requests are written for this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// The answer is bounded by `max_completion_tokens`, not `max_tokens`.
    pub completion_tokens: bool,
    /// The configured temperature is sent.
    pub temperature: bool,
    /// Whether usage is asked for in a stream.
    pub usage_in_stream: UsageInStream,
}

/// What is known of `stream_options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageInStream {
    /// It is sent; nothing is known yet.
    Untried,
    /// It is sent, and was taken before.
    Taken,
    /// It is not sent.
    Refused,
}

/// A change of dialect that may cure a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// What to try.
    pub to: Dialect,
    /// What changes, for the log.
    pub what: &'static str,
    /// The server named the field; else the change is a guess, kept only when it helps.
    pub certain: bool,
}

impl Dialect {
    /// What to begin with.
    pub fn new(settings: &Settings) -> Self {
        Dialect {
            completion_tokens: match settings.max_tokens_field {
                MaxTokensField::Auto | MaxTokensField::MaxTokens => false,
                MaxTokensField::MaxCompletionTokens => true,
            },
            temperature: settings.temperature.value().is_some(),
            usage_in_stream: UsageInStream::Untried,
        }
    }

    /// What to change after the server refused a request in this dialect, if that may help. Each
    /// change can happen once, so a chain of them ends.
    pub fn after_refusal(self, status: u16, error: &ErrorBody, settings: &Settings) -> Option<Change> {
        if !matches!(status, 400 | 422) {
            return None;
        }
        let param = error.param.as_deref();
        let unsupported = error.is(&["unsupported_parameter", "unsupported_value"]);
        let may_rename = settings.max_tokens_field == MaxTokensField::Auto && !self.completion_tokens;
        if unsupported && may_rename && matches!(param, Some("max_tokens") | None) && !is_value(error) {
            let to = Dialect { completion_tokens: true, ..self };
            return Some(Change { to, what: "max_completion_tokens instead of max_tokens", certain: true });
        }
        if unsupported && self.temperature && matches!(param, Some("temperature") | None) {
            let to = Dialect { temperature: false, ..self };
            return Some(Change { to, what: "no temperature", certain: true });
        }
        if settings.stream && self.usage_in_stream != UsageInStream::Refused {
            let to = Dialect { usage_in_stream: UsageInStream::Refused, ..self };
            let named = param.is_some_and(|param| param.starts_with("stream_options"));
            // Servers that don't know the option seldom say which field they stumble over.
            let unspecific = param.is_none() && !error.has_named_code();
            if named || (unspecific && self.usage_in_stream == UsageInStream::Untried) {
                return Some(Change { to, what: "no stream_options", certain: named });
            }
        }
        None
    }

    /// The dialect after a request in it was taken.
    pub fn taken(self, settings: &Settings) -> Self {
        let usage_in_stream = match self.usage_in_stream {
            UsageInStream::Untried if settings.stream => UsageInStream::Taken,
            known => known,
        };
        Dialect { usage_in_stream, ..self }
    }

    /// What this and another call learned, together.
    pub fn merge(self, learned: Dialect) -> Self {
        let usage_in_stream = match (self.usage_in_stream, learned.usage_in_stream) {
            (UsageInStream::Refused, _) | (_, UsageInStream::Refused) => UsageInStream::Refused,
            (UsageInStream::Taken, _) | (_, UsageInStream::Taken) => UsageInStream::Taken,
            (UsageInStream::Untried, UsageInStream::Untried) => UsageInStream::Untried,
        };
        Dialect {
            completion_tokens: self.completion_tokens || learned.completion_tokens,
            temperature: self.temperature && learned.temperature,
            usage_in_stream,
        }
    }
}

/// The field is known, but not the value that we gave it.
fn is_value(error: &ErrorBody) -> bool {
    error.is(&["unsupported_value"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Temperature;
    use crate::testing::settings;

    fn error(code: Option<&str>, param: Option<&str>) -> ErrorBody {
        ErrorBody { code: code.map(str::to_owned), param: param.map(str::to_owned), ..ErrorBody::default() }
    }

    #[test]
    fn each_refusal_changes_what_it_names() {
        let settings = Settings { temperature: Temperature::Of(0.2), ..settings() };
        let unsupported = Some("unsupported_parameter");
        let cases = [
            (400, unsupported, Some("max_tokens"), Some("max_completion_tokens instead of max_tokens")),
            (400, unsupported, None, Some("max_completion_tokens instead of max_tokens")),
            (400, Some("unsupported_value"), Some("temperature"), Some("no temperature")),
            (400, Some("unsupported_value"), None, Some("no temperature")),
            (400, unsupported, Some("temperature"), Some("no temperature")),
            (400, unsupported, Some("stream_options"), Some("no stream_options")),
            (422, None, Some("stream_options.include_usage"), Some("no stream_options")),
            (400, None, None, Some("no stream_options")),
            (400, Some("400"), None, Some("no stream_options")),
            (400, Some("model_not_found"), None, None),
            (400, None, Some("messages"), None),
            (400, unsupported, Some("tools"), None),
            (404, None, None, None),
            (500, unsupported, Some("max_tokens"), None),
        ];
        for (status, code, param, want) in cases {
            let change = Dialect::new(&settings).after_refusal(status, &error(code, param), &settings);
            assert_eq!(change.map(|change| change.what), want, "{status} {code:?} {param:?}");
        }
    }

    #[test]
    fn changes_happen_once_each() {
        let settings = Settings { temperature: Temperature::Of(0.2), ..settings() };
        let mut dialect = Dialect::new(&settings);
        let refusal = error(Some("unsupported_parameter"), None);
        let mut changes = 0;
        while let Some(change) = dialect.after_refusal(400, &refusal, &settings) {
            dialect = change.to;
            changes += 1;
            assert!(changes <= 3, "a chain of changes must end");
        }
        assert_eq!(changes, 2);
    }

    #[test]
    fn a_field_that_the_operator_chose_is_kept() {
        let settings = Settings { max_tokens_field: MaxTokensField::MaxTokens, stream: false, ..settings() };
        let refusal = error(Some("unsupported_parameter"), Some("max_tokens"));
        assert_eq!(Dialect::new(&settings).after_refusal(400, &refusal, &settings), None);
    }

    #[test]
    fn what_was_taken_before_is_not_doubted_without_a_word() {
        let settings = settings();
        let taken = Dialect::new(&settings).taken(&settings);
        assert_eq!(taken.after_refusal(400, &error(None, None), &settings), None);
        assert!(taken.after_refusal(400, &error(None, Some("stream_options")), &settings).is_some());
    }
}
