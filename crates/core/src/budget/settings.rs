//! The `[*.limits]` tables of the configuration.

use serde::{Deserialize, Serialize};

/// How the server counts a limit, as far as the configuration knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    /// Found out from headers, else from what is accepted and rejected.
    #[default]
    Auto,
    /// Refilled continuously, up to a burst.
    Bucket,
    /// Whole again each minute.
    Fixed,
    /// Each request comes back a minute after it was sent.
    Rolling,
}

/// Limits from the configuration; 0 = not known, found out while running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Requests a minute; 0 = learned from headers and rejections.
    pub requests_per_minute: u32,
    /// Tokens a minute, prompt and answer together; 0 = learned.
    pub tokens_per_minute: u32,
    /// Requests in flight at once; 0 = no limit of its own.
    pub concurrency: u32,
    /// How the server counts: "auto", "bucket", "fixed" or "rolling".
    pub window: WindowKind,
    /// Requests that a bucket lets through at once; 0 = a second's worth.
    pub burst: u32,
}

impl LimitSettings {
    /// Nothing is known, and nothing bounded beforehand.
    pub const UNKNOWN: LimitSettings = LimitSettings {
        requests_per_minute: 0,
        tokens_per_minute: 0,
        concurrency: 0,
        window: WindowKind::Auto,
        burst: 0,
    };
}
