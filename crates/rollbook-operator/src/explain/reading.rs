//! Ledger entries of readings of Clerk's API: reconciliations, and resyncs by an operator.

use rollbook_core::catalog::{Resource, Verb, find_event, find_resource};
use rollbook_core::change::{Applied, Origin};
use rollbook_core::drift::Drift;
use rollbook_core::store::LedgerEntry;

/// A reading of Clerk's API that wrote a ledger entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Id of the run.
    pub(super) run: String,
    /// Kind of difference.
    pub(super) drift: Drift,
    resource: &'static Resource,
}

impl Reading {
    /// Returns the reading that wrote an entry; `None` if a delivery did.
    pub(super) fn of(entry: &LedgerEntry) -> Option<Self> {
        let drift = entry.event_type.strip_prefix(Origin::RECONCILE)?.strip_prefix('.')?;
        let (run, rest) = run_of(entry.message_id.as_str())?;
        let resource = find_resource(rest.split(':').next()?)?;
        Some(Self { run: run.to_owned(), drift: Drift::parse(drift)?, resource })
    }

    /// Returns what the reading found and did, as a sentence.
    pub(super) fn sentence(&self, outcome: Applied, what: &str) -> String {
        let Self { run, drift, .. } = self;
        if !outcome.advances() {
            return format!(
                "Reconciliation {run} read the {what} at Clerk, and the row showed this state or a newer one by then. \
                 Nothing changed."
            );
        }
        match drift {
            Drift::Missing if outcome == Applied::Inserted => {
                format!("Reconciliation {run} found the row missing and inserted it.")
            }
            Drift::Missing => format!("Reconciliation {run} found the row without content and filled it in."),
            Drift::Stale => {
                format!("Reconciliation {run} found the row older than Clerk's object and updated it.")
            }
            Drift::Undated => format!(
                "Reconciliation {run} found that Clerk had changed the {what} without a new updated_at, and updated \
                 the row."
            ),
            Drift::NotDeleted => format!(
                "Reconciliation {run} found that Clerk no longer has the {what}: a read of it alone proved it. It \
                 deleted the row."
            ),
            Drift::WronglyDeleted => format!(
                "The row was deleted, and Clerk had the {what}. An operator revived the row: rollbook resync --force ({run})."
            ),
            Drift::Resync => format!(
                "An operator had the {what} read at Clerk, and the row was {outcome}: rollbook resync ({run})."
            ),
        }
    }
}

/// Returns the run that an entry's id names, and the rest of the id; `None` if it is the id of a delivery.
pub(super) fn run_of(id: &str) -> Option<(&str, &str)> {
    id.strip_prefix(Origin::RECONCILE)?.strip_prefix(':')?.split_once(':')
}

/// Returns the kind of an entry's subject, and whether the entry changes or deletes it.
pub(super) fn subject_of(entry: &LedgerEntry) -> Option<(&'static Resource, Verb)> {
    let of_reading = |reading: Reading| {
        let verb = if reading.drift == Drift::NotDeleted { Verb::Delete } else { Verb::Upsert };
        (reading.resource, verb)
    };
    find_event(&entry.event_type).or_else(|| Reading::of(entry).map(of_reading))
}

#[cfg(test)]
mod tests {
    use rollbook_core::delivery::MessageId;
    use rollbook_core::time::Timestamp;

    use super::*;

    fn entry(id: &str, event_type: &str) -> LedgerEntry {
        let at = Timestamp::from_millis(1);
        LedgerEntry {
            message_id: MessageId::new(id),
            event_type: event_type.to_owned(),
            subject_id: Some("user_1".to_owned()),
            outcome: Applied::Inserted,
            event_at: at,
            received_at: at,
            applied_at: at,
            attempts: 1,
        }
    }

    #[test]
    fn every_kind_of_reading_is_found_and_has_a_sentence_with_its_run() {
        for drift in Drift::ALL {
            let reading =
                Reading::of(&entry("reconcile:run_1:users:user_1", drift.event_type())).expect("one");
            assert_eq!((reading.run.as_str(), reading.drift), ("run_1", drift));
            for outcome in Applied::ALL {
                let sentence = reading.sentence(outcome, "user");
                assert!(sentence.contains("run_1"), "{sentence}");
                assert_eq!(sentence.contains("Nothing changed"), !outcome.advances(), "{sentence}");
            }
        }
        let (resource, verb) =
            subject_of(&entry("reconcile:run_1:users:user_1", "reconcile.not_deleted")).expect("a user");
        assert_eq!((resource.table, verb), ("users", Verb::Delete));
    }

    #[test]
    fn a_delivery_is_not_a_reading_whatever_its_type_claims() {
        for (id, event_type) in [
            ("msg_1", "user.created"),
            ("msg_1", "reconcile.missing"),
            ("reconcile:run_1:users:user_1", "reconcile.unheard_of"),
            ("reconcile:run_1:nothing:user_1", "reconcile.missing"),
        ] {
            assert_eq!(Reading::of(&entry(id, event_type)), None, "{id} {event_type}");
        }
    }
}
