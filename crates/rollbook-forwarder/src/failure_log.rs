//! Log lines about requests that fail: the first at once, then one a minute with their number and the newest reason.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::verdict::Verdict;

/// Minimum time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Failures since the last log line.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    logged_at: Option<Instant>,
    unlogged: u64,
    /// Whether the last log line was about a failure.
    is_failing: bool,
}

impl FailureLog {
    /// Notes the result of a request, and logs a line if one is due.
    pub(crate) fn note(&mut self, forward: &str, verdict: &Verdict, dead_letters: u64) {
        if *verdict == Verdict::Accepted {
            let is_quiet = self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
            if self.is_failing && is_quiet {
                (self.is_failing, self.unlogged) = (false, 0);
                info!(forward, dead_letters, "the endpoint of the forward accepts changes again");
            }
            return;
        }
        self.unlogged = self.unlogged.saturating_add(1);
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        self.logged_at = Some(Instant::now());
        self.is_failing = true;
        let failed = std::mem::take(&mut self.unlogged);
        warn!(
            forward,
            failed,
            reason = verdict.reason(),
            dead_letters,
            fix = "see rollbook changes status; dead letters: rollbook changes failed",
            "changes could not be delivered, and are tried again"
        );
    }
}
