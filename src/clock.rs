//! The system's wall clock: the one place that reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use steadfast_core::time::{Clock, Timestamp};

/// Wall time from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 reads as 1970: a machine that was never set.
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
