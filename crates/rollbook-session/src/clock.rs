//! The machine's clock: the only file of this crate that reads the time.

use std::time::SystemTime;

/// Returns the current time. A service can give [`Verifier::clock`](crate::Verifier::clock) another one.
#[expect(
    clippy::disallowed_methods,
    reason = "this library is used without the rest of Rollbook, which has a clock of its own"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
