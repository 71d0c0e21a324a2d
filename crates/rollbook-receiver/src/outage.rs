//! Log lines about a queue that refuses deliveries: one line when the outage starts, one per minute while it
//! lasts, and one when it ends.
//!
//! One node of the queue may refuse while the others accept, batch by batch. An outage therefore ends only
//! when no delivery was refused for [`END_AFTER`].

use std::collections::BTreeSet;
use std::time::Duration;

use rollbook_core::queue::{Enqueued, QueueError};
use tokio::time::Instant;
use tracing::{info, warn};

/// Minimum interval between two lines of one outage.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Time without refused deliveries after which the outage has ended.
const END_AFTER: Duration = Duration::from_secs(5);

/// Maximum number of causes of one outage that are logged immediately.
const CAUSES_MAX: usize = 8;

/// State of an outage of the queue; empty while the queue accepts deliveries.
#[derive(Debug, Default)]
pub(crate) struct Outage(Option<Ongoing>);

#[derive(Debug)]
struct Ongoing {
    last_at: Instant,
    logged_at: Instant,
    /// Refused deliveries that no log line has included yet.
    unlogged: usize,
    /// Causes already logged, at most [`CAUSES_MAX`].
    causes: BTreeSet<String>,
}

/// Content of a log line.
#[derive(Debug, PartialEq, Eq)]
enum LogLine {
    /// Number of refused deliveries.
    Refused(usize),
    Over,
}

impl Outage {
    /// Records the results of one call.
    pub(crate) fn note(&mut self, answers: &[Result<Enqueued, QueueError>]) {
        let error = answers.iter().find_map(|answer| answer.as_ref().err());
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        let cause = error.map(ToString::to_string);
        match (self.line(refused, cause.as_deref(), Instant::now()), error) {
            (Some(LogLine::Refused(refused)), Some(error)) => {
                warn!(%error, refused, "deliveries are answered 503; Svix sends them again");
            }
            (Some(LogLine::Over), _) => info!("the queue accepts deliveries again"),
            _ => {}
        }
    }

    fn line(&mut self, refused: usize, cause: Option<&str>, now: Instant) -> Option<LogLine> {
        let Some(ongoing) = &mut self.0 else {
            if refused > 0 {
                let causes = cause.map(str::to_owned).into_iter().collect();
                self.0 = Some(Ongoing { last_at: now, logged_at: now, unlogged: 0, causes });
                return Some(LogLine::Refused(refused));
            }
            return None;
        };
        if refused == 0 {
            let is_over = now.duration_since(ongoing.last_at) >= END_AFTER;
            return is_over.then(|| {
                self.0 = None;
                LogLine::Over
            });
        }
        ongoing.last_at = now;
        ongoing.unlogged = ongoing.unlogged.saturating_add(refused);
        // A new cause is logged immediately, not with the next interval.
        let is_new = ongoing.causes.len() < CAUSES_MAX
            && cause.is_some_and(|cause| ongoing.causes.insert(cause.to_owned()));
        if !is_new && now.duration_since(ongoing.logged_at) < LOG_INTERVAL {
            return None;
        }
        ongoing.logged_at = now;
        Some(LogLine::Refused(std::mem::take(&mut ongoing.unlogged)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_refuses_every_second_batch_is_logged_once_a_minute_with_the_count() {
        let (began, mut outage) = (Instant::now(), Outage::default());
        let mut lines = Vec::new();
        for second in 0..130 {
            let at = |millis| began + Duration::from_secs(second) + Duration::from_millis(millis);
            lines.extend(outage.line(2, None, at(0)));
            lines.extend(outage.line(0, None, at(500)));
        }
        assert_eq!(lines, [LogLine::Refused(2), LogLine::Refused(120), LogLine::Refused(120)]);
    }

    #[test]
    fn an_outage_ends_with_the_first_successful_call_after_the_quiet_time() {
        let (began, mut outage) = (Instant::now(), Outage::default());
        assert_eq!(outage.line(0, None, began), None, "no outage yet");
        assert_eq!(outage.line(1, None, began), Some(LogLine::Refused(1)));
        assert_eq!(outage.line(0, None, began + END_AFTER.saturating_sub(Duration::from_millis(1))), None);
        assert_eq!(outage.line(0, None, began + END_AFTER), Some(LogLine::Over));
        assert_eq!(outage.line(0, None, began + END_AFTER), None, "logged once");
        assert_eq!(outage.line(3, None, began + END_AFTER), Some(LogLine::Refused(3)), "a new outage");
    }

    #[test]
    fn a_new_cause_is_logged_immediately_and_a_known_one_once_a_minute() {
        let (began, mut outage) = (Instant::now(), Outage::default());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(outage.line(1, Some("NOPERM"), at(0)), Some(LogLine::Refused(1)));
        assert_eq!(outage.line(2, Some("OOM"), at(1)), Some(LogLine::Refused(2)));
        assert_eq!(outage.line(3, Some("OOM"), at(2)), None);
        assert_eq!(outage.line(1, Some("NOPERM"), at(3)), None);
        assert_eq!(outage.line(1, Some("OOM"), at(61)), Some(LogLine::Refused(5)));
    }
}
