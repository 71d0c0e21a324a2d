//! What a user may set, and whose clock rules.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock;

use crate::owner::Owner;

/// What a user may set.
#[derive(Clone)]
pub struct RedisSettings {
    /// Where Redis is: see [`crate::RedisQueue::new`] for the forms. May hold a password.
    pub url: String,
    /// A file of certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What the names of all keys begin with, so that several deployments can share a server.
    /// See [`crate::is_key_prefix`].
    pub key_prefix: String,
    /// What this deployment is known by. A queue that belongs to another one is refused.
    pub owner: Owner,
    /// How many messages may wait, over all shards, before deliveries are refused with 503.
    pub depth_max: u64,
    /// Over how many sets of keys messages are spread: at least 1, at most 64. May only change while
    /// the queue is empty.
    pub shards: u16,
    /// Refuse to work while an acknowledgement means less than "on the disk".
    pub strict: bool,
    /// How many replicas must have a delivery too before it is acknowledged.
    pub replicas: u32,
    /// How far ahead a due time may lie: the longest lease and the longest backoff there are. What lies further was
    /// written by a clock that was ahead, and is pulled in.
    pub due_within: Duration,
    /// How long a lease lasts. An audit gives out what nobody is known to hold after this time.
    pub lease_for: Duration,
    /// How long a connection, and any one call, may take.
    pub call_timeout: Duration,
}

impl fmt::Debug for RedisSettings {
    /// Never the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// Whose clock says when something is due.
#[derive(Clone)]
pub enum DueTimes {
    /// The server's: the one clock that all processes share.
    Server,
    /// This one. For tests, whose clock stands still until it is told to move.
    Clock(Arc<dyn Clock>),
}

impl DueTimes {
    /// The first argument of every script.
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
            key_prefix: crate::KEY_PREFIX.to_owned(),
            owner: Owner::default(),
            depth_max: 1,
            shards: 2,
            strict: false,
            replicas: 0,
            due_within: Duration::from_secs(600),
            lease_for: Duration::from_secs(60),
            call_timeout: Duration::from_secs(1),
        };
        let shown = format!("{settings:?}");
        assert!(shown.contains("shards: 2") && !shown.contains("hidden"), "{shown}");
    }
}
