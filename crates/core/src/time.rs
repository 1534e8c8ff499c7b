//! Wall time as a value: [`Timestamp`] in milliseconds, written as ISO 8601, and the [`Clock`] seam.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant of wall time: milliseconds since the Unix epoch, UTC.
///
/// Written and read as ISO 8601 with milliseconds (`2025-10-09T00:00:00.000Z`), the form that the
/// queue's other readers expect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Timestamp = Timestamp(0);
    /// The latest instant that is written; year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_000);

    /// From milliseconds since the Unix epoch, clamped to years 1970 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        Timestamp(millis.clamp(0, Self::MAX.0))
    }

    /// From whole seconds since the Unix epoch, as GitHub's `x-ratelimit-reset` gives it.
    pub fn from_secs(secs: i64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub fn secs(self) -> i64 {
        self.0 / 1000
    }

    /// The time from `earlier` to `self`; zero where `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, by: Duration) -> Timestamp {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, by: Duration) -> Timestamp {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The constructors keep the value within what jiff can write.
        let instant = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{instant:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an instant in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time in RFC 3339, such as 2025-10-09T00:00:00.000Z")]
pub struct NotATime(pub String);

impl FromStr for Timestamp {
    type Err = NotATime;
    fn from_str(text: &str) -> Result<Self, NotATime> {
        let instant: jiff::Timestamp = text.trim().parse().map_err(|_| NotATime(text.to_owned()))?;
        Ok(Self::from_millis(instant.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where wall time comes from. The binary hands out the system's; a simulation hands out its own.
pub trait Clock: Send + Sync + 'static {
    /// The wall time now.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_iso_8601_with_milliseconds() {
        let at = Timestamp::from_millis(1_760_000_000_123);
        assert_eq!(at.to_string(), "2025-10-09T08:53:20.123Z");
        assert_eq!(at.to_string().parse::<Timestamp>(), Ok(at));
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn far_instants_are_clamped_and_still_written() {
        let far = Timestamp::from_millis(i64::MAX) + Duration::MAX;
        assert_eq!(far, Timestamp::MAX);
        assert!(far.to_string().starts_with("9999-"));
    }

    #[test]
    fn since_never_goes_below_zero() {
        let early = Timestamp::from_secs(10);
        let late = Timestamp::from_secs(12);
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
