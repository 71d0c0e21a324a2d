//! Wall clock. No other file reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use rollbook_core::time::{Clock, Timestamp};

/// Clock of this machine.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        // A clock before 1970 is not set yet: every signature is then outside the tolerance, and the refusals say so.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}
