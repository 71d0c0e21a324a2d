//! Waiting of a lane until messages may be due.
//!
//! A lane waits without a call to the server: the listener wakes one lane per notification. Without a
//! listener the lanes poll the shards in turn (`idle.rs`).

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::RedisQueue;
use super::idle::Pauses;

/// Maximum time after which a waiting lane checks whether other lanes found messages: then it polls too.
const JOIN_AFTER: Duration = Duration::from_millis(250);
/// Minimum wait.
const WAIT_MIN: Duration = Duration::from_millis(1);

impl RedisQueue {
    /// Returns when messages may be due, or after `at_most`.
    pub(super) async fn wait(&self, at_most: Duration) {
        self.listen();
        let now = Instant::now();
        let until = self.next_poll().min(now + at_most.min(JOIN_AFTER)).max(now + WAIT_MIN);
        tokio::select! {
            () = self.listener.notified() => {}
            () = sleep_until(until) => {}
        }
    }

    /// Pauses between polls of an idle shard.
    pub(super) fn pauses(&self) -> Pauses {
        if self.listener.is_listening() {
            Pauses::with_listener(self.shards.len(), self.settings.idle_poll)
        } else {
            self.pauses_without_listener()
        }
    }

    /// Pauses between polls while the listener does not listen.
    pub(super) fn pauses_without_listener(&self) -> Pauses {
        Pauses::without_listener(self.shards.len(), self.can_listen())
    }

    /// Time of the next poll of any shard.
    fn next_poll(&self) -> Instant {
        let now = Instant::now();
        self.shards.iter().map(|shard| shard.idle.poll_at().unwrap_or(now)).min().unwrap_or(now)
    }
}
