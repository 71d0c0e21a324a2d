//! Limits of the API.

use std::time::Duration;

/// Maximum number of open connections.
pub const CONNECTIONS_MAX: usize = 512;
/// Maximum length of a request head, in bytes. A proxy that asks `/v1/authorize` sends the head of a browser's request, with
/// the cookies of a whole domain: nginx accepts 33 KiB by default.
pub const HEAD_LENGTH_MAX: usize = 48 * 1024;

/// Limits of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Maximum number of open streams and of requests that wait, together.
    pub readers_max: usize,
    /// Maximum number of calls to the store at once for the change feed, and as many for rows.
    pub reads_max: usize,
    /// Time between two events of a stream; without a change a heartbeat is sent.
    pub heartbeat: Duration,
    /// Maximum time that a client may leave an answer unread.
    pub write_timeout: Duration,
    /// Maximum time for running answers to finish after a stop.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            readers_max: 256,
            reads_max: 2,
            heartbeat: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(1),
        }
    }
}
