//! Settings of the queue, and the clock that decides due times.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock;

use crate::certificate::Fingerprint;
use crate::owner::Owner;

/// Settings of the queue.
#[derive(Clone)]
pub struct RedisSettings {
    /// URL of the server; see [`crate::RedisQueue::new`] for the forms. May contain a password.
    pub url: String,
    /// File with certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 fingerprints of the server's certificate to trust instead of any authority; empty for none.
    pub fingerprints: Vec<Fingerprint>,
    /// Prefix of all keys, so that several deployments can share a server. See [`crate::is_key_prefix`].
    pub key_prefix: String,
    /// Identity of this deployment at its start. A queue of another deployment is refused.
    pub owner: Owner,
    /// Maximum number of messages over all shards that are not settled; above it deliveries are refused with 503.
    pub depth_max: u64,
    /// Number of shards (sets of keys), 1 to 64. May only change while the queue is empty.
    pub shards: u16,
    /// Refuse to work if acknowledged data may not be on the disk.
    pub strict: bool,
    /// The operator vouches that the server keeps acknowledged data: what it does not prove is not a weakness.
    pub trusted: bool,
    /// Number of replicas that must also have a delivery before it is acknowledged.
    pub replicas: u32,
    /// Maximum time between now and a due time: the longest lease or backoff. A later due time was written by
    /// a clock that was ahead, and is corrected.
    pub due_ahead_max: Duration,
    /// Duration of a lease. An audit releases entries without a holder after this time.
    pub lease_for: Duration,
    /// Maximum time of a connection attempt and of each call.
    pub call_timeout: Duration,
    /// Pause between two polls of an idle worker that is notified of messages.
    pub idle_poll: Duration,
}

impl fmt::Debug for RedisSettings {
    /// Omits the URL, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// Clock that decides due times.
#[derive(Clone)]
pub enum ClockSource {
    /// The server's clock, the only one that all processes share.
    Server,
    /// A fixed clock that tests move.
    Clock(Arc<dyn Clock>),
}

impl ClockSource {
    /// First argument of every script: the time in milliseconds, or empty for the server's clock.
    pub(crate) fn argument(&self) -> String {
        match self {
            Self::Server => String::new(),
            Self::Clock(clock) => clock.now().as_millis().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_of_the_settings_shows_the_password() {
        let settings = RedisSettings {
            url: "redis://me:hidden@h".to_owned(),
            ca_file: None,
            fingerprints: Vec::new(),
            key_prefix: crate::KEY_PREFIX.to_owned(),
            owner: Owner::default(),
            depth_max: 1,
            shards: 2,
            strict: false,
            trusted: false,
            replicas: 0,
            due_ahead_max: Duration::from_secs(600),
            lease_for: Duration::from_secs(60),
            call_timeout: Duration::from_secs(1),
            idle_poll: Duration::from_secs(20),
        };
        let shown = format!("{settings:?}");
        assert!(shown.contains("shards: 2") && !shown.contains("hidden"), "{shown}");
    }
}
