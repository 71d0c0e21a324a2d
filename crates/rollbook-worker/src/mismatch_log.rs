//! Log lines about fields that do not fit their columns, which are null then: for each table the first at once, then at most
//! one line a minute. The line names the fields of one event; the metric has the number of all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rollbook_core::change::{Change, Effect};
use rollbook_core::event::mismatches_of;
use rollbook_core::queue::Lease;
use tracing::warn;

use crate::backoff::Repeat;
use crate::batch::{Mismatched, Reading, trace_id};

/// Times of the last line, by table.
#[derive(Debug, Default)]
pub(crate) struct MismatchLog(Mutex<BTreeMap<&'static str, Repeat>>);

impl MismatchLog {
    /// Logs an example for each table of which a line is due.
    pub(crate) fn report(&self, reading: &Reading) {
        for (table, Mismatched { example, .. }) in &reading.mismatched {
            let mut messages = reading.leases.iter().zip(&reading.changes);
            let found = messages.find(|(lease, _)| lease.id == *example);
            if let Some((lease, change)) = found.filter(|_| self.is_due(table)) {
                log(table, lease, change);
            }
        }
    }

    /// Returns whether a line about a table is due.
    fn is_due(&self, table: &'static str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.entry(table).or_default().is_due()
    }
}

fn log(table: &'static str, lease: &Lease, change: &Change) {
    let Effect::Merge(subject) = &change.effect else { return };
    let fields: Vec<String> =
        mismatches_of(subject).iter().map(|(column, why)| format!("{column}: {why}")).collect();
    warn!(
        table,
        subject = subject.id,
        svix_id = %lease.id,
        event_type = change.origin.event_type(),
        trace_id = trace_id(lease),
        fields = fields.join("; "),
        "values of Clerk do not fit their columns, which are null; the whole object is in data, and rollbook explain names \
         these columns of a row"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backoff::REPEATED_EVERY;

    #[tokio::test(start_paused = true)]
    async fn each_table_has_a_line_at_once_and_then_at_most_one_a_minute() {
        let log = MismatchLog::default();
        assert!(log.is_due("users") && log.is_due("sessions"));
        assert!(!log.is_due("users"));
        tokio::time::advance(REPEATED_EVERY.saturating_sub(Duration::from_millis(1))).await;
        assert!(!log.is_due("users"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(log.is_due("users"));
        assert!(!log.is_due("users"), "the minute begins with the line");
    }
}
