//! Log lines about dead letters: for each reason the first at once with its details, then at most one line a minute with
//! their number. Thousands of messages may become dead letters for one reason, such as the id of another Clerk instance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::retry::Reason;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Minimum time between two lines about one reason.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which it is checked whether a number is due.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Numbers of dead letters that no line has reported yet, by reason.
#[derive(Debug, Default)]
pub(crate) struct DeadLetterLog(Mutex<BTreeMap<Reason, Unlogged>>);

#[derive(Debug)]
struct Unlogged {
    logged_at: Instant,
    count: u64,
}

impl DeadLetterLog {
    /// Counts a dead letter. Returns whether a line about it is due: the details of the others are logged at the level
    /// debug.
    pub(crate) fn is_due(&self, reason: Reason) -> bool {
        let mut reasons = self.reasons();
        match reasons.get_mut(&reason) {
            // Others wait for their line: it comes first, and has their number.
            Some(unlogged) if unlogged.count > 0 || unlogged.logged_at.elapsed() < LOG_INTERVAL => {
                unlogged.count = unlogged.count.saturating_add(1);
                false
            }
            _ => {
                reasons.insert(reason, Unlogged { logged_at: Instant::now(), count: 0 });
                true
            }
        }
    }

    /// Takes the numbers that are due; at the end, all.
    fn take(&self, is_end: bool) -> Vec<(Reason, u64)> {
        let mut due = Vec::new();
        for (reason, unlogged) in self.reasons().iter_mut().filter(|(_, unlogged)| unlogged.count > 0) {
            if is_end || unlogged.logged_at.elapsed() >= LOG_INTERVAL {
                due.push((*reason, std::mem::take(&mut unlogged.count)));
                unlogged.logged_at = Instant::now();
            }
        }
        due
    }

    /// Logs the numbers that are due; at the end, when all lanes have ended, all.
    pub(crate) fn report(&self, is_end: bool) {
        for (reason, messages) in self.take(is_end) {
            warn!(
                %reason,
                messages,
                fix = "see rollbook dead-letters summary, and rollbook dead-letters list --reason with this reason",
                "more messages became dead letters for this reason"
            );
        }
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<Reason, Unlogged>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the numbers when they are due, until `stop`.
pub(crate) async fn run(log: Arc<DeadLetterLog>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(CHECK_EVERY)).await.is_some() {
        log.report(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_reason_is_logged_and_then_at_most_one_line_a_minute_with_the_number_of_the_others()
     {
        let log = DeadLetterLog::default();
        assert!(log.is_due(Reason::WrongInstance));
        assert!(log.is_due(Reason::InvalidJson), "each reason has lines of its own");
        for _ in 0..999 {
            assert!(!log.is_due(Reason::WrongInstance));
        }
        tokio::time::advance(LOG_INTERVAL.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(log.take(false), []);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!log.is_due(Reason::WrongInstance), "the line with the number comes first");
        assert_eq!(log.take(false), [(Reason::WrongInstance, 1_000)]);
        assert!(!log.is_due(Reason::WrongInstance), "within a minute of that line");
        assert!(log.is_due(Reason::InvalidJson), "after a minute without any");
        assert_eq!(log.take(false), []);
        assert_eq!(log.take(true), [(Reason::WrongInstance, 1)], "nothing is left unreported at the end");
        assert_eq!(log.take(true), []);
    }
}
