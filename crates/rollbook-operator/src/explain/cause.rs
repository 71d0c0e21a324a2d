//! Cause of each delivery's outcome, derived from the ledger entries of one subject.
//!
//! The ledger records outcome and time of a delivery, not the delivery that it lost against. That one is
//! searched among the entries that were applied no later. If none explains the outcome, no cause is claimed.

use rollbook_core::catalog::{NEVER_STORED, Verb};
use rollbook_core::change::{Applied, Origin};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::LedgerEntry;
use rollbook_core::time::Timestamp;

use super::reading::{Reading, subject_of};
use super::row::Row;

/// A ledger entry and the cause of its outcome.
pub(super) struct Explained {
    pub(super) entry: LedgerEntry,
    pub(super) cause: Cause,
    /// Whether the row is still as this delivery left it.
    pub(super) is_last: bool,
    /// Whether the content of the row was removed.
    pub(super) is_gone: bool,
}

/// Cause of a delivery's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No content was stored before.
    First,
    /// The content is newer than that of the row.
    Newer,
    /// The content is newer than that of a deleted row.
    FillsIn,
    /// The event is the deletion of the subject.
    Deletes,
    /// The event is a deletion with a later time than the stored one.
    DeletesLater,
    /// The row had newer content, or a later deletion.
    Older {
        /// Delivery that was newer, if the ledger still has it.
        than: Option<Competitor>,
        /// Whether both are deletions.
        is_deletion: bool,
    },
    /// The content of the row was erased.
    Removed {
        /// Delivery that deleted the row, if the ledger still has it.
        by: Option<MessageId>,
    },
    /// The row already had this content or deletion.
    Same {
        /// Earlier delivery with the same content, if the ledger still has it.
        like: Option<MessageId>,
        /// Whether both are deletions.
        is_deletion: bool,
    },
    /// The change is a reading of Clerk's API.
    Reconciled(Reading),
    /// The event type has no table.
    NoTable,
    /// The event type is never stored.
    NeverStored,
    /// The event is from before the erasure of the row.
    BeforeErasure,
    /// The event time is 1970 or earlier.
    NoTime,
}

/// Delivery that an outcome is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Competitor {
    pub(super) id: MessageId,
    pub(super) applied_at: Timestamp,
    /// Difference of the event times in milliseconds; negative if only its `updated_at` is later.
    pub(super) made_later_by: i64,
}

/// Explains all entries of one subject and its row. Returns them in the order of application, and entries
/// applied at the same time in the order of their events.
pub(super) fn explain_all(mut entries: Vec<LedgerEntry>, row: Option<&Row>) -> Vec<Explained> {
    entries.sort_by(|one, other| {
        let key = |entry: &LedgerEntry| (entry.applied_at, entry.event_at, entry.message_id.clone());
        key(one).cmp(&key(other))
    });
    let causes: Vec<Cause> = entries.iter().map(|entry| judge(entry, &entries, row)).collect();
    // A cascade or retention may have changed the row since.
    let unchanged = row.filter(|row| row.ended_with.is_none() && !row.is_empty_tombstone());
    let is_gone = row.is_some_and(Row::is_empty_tombstone);
    // Rows do not name the reading that wrote them.
    let wrote = |(entry, cause): &(&LedgerEntry, &Cause)| {
        matches!(cause, Cause::Reconciled(_)) && entry.outcome.advances()
    };
    let last_reading = entries.iter().zip(&causes).rfind(wrote).map(|(entry, _)| entry.message_id.clone());
    let explained = entries.into_iter().zip(causes).map(|(entry, cause)| {
        let is_last = unchanged.is_some_and(|row| {
            row.synced_by == entry.message_id.as_str()
                || (row.synced_by == Origin::RECONCILE && last_reading.as_ref() == Some(&entry.message_id))
        });
        Explained { entry, cause, is_last, is_gone }
    });
    explained.collect()
}

/// Explains an entry without the other entries of its subject.
pub(super) fn alone(entry: LedgerEntry) -> Explained {
    let cause = judge(&entry, &[], None);
    Explained { entry, cause, is_last: false, is_gone: false }
}

/// Returns whether an entry shows that the row was erased earlier.
pub(super) fn had_earlier_life(entries: &[LedgerEntry]) -> bool {
    entries.iter().any(|entry| ignored(entry) == Some(Cause::BeforeErasure))
}

fn ignored(entry: &LedgerEntry) -> Option<Cause> {
    let cause = match subject_of(entry) {
        _ if entry.outcome != Applied::Ignored => return None,
        None if NEVER_STORED.contains(&entry.event_type.as_str()) => Cause::NeverStored,
        None => Cause::NoTable,
        Some(_) if entry.event_at.as_millis() <= 0 => Cause::NoTime,
        Some(_) => Cause::BeforeErasure,
    };
    Some(cause)
}

fn judge(entry: &LedgerEntry, entries: &[LedgerEntry], row: Option<&Row>) -> Cause {
    if let Some(reading) = Reading::of(entry) {
        return Cause::Reconciled(reading);
    }
    let is_deletion = subject_of(entry).is_some_and(|(_, verb)| verb == Verb::Delete);
    let others = || entries.iter().filter(|other| other.message_id != entry.message_id);
    let no_later = || others().filter(|other| other.applied_at <= entry.applied_at);
    let ends = |entry: &&LedgerEntry| entry.outcome == Applied::Deleted;
    let contents = |entry: &&LedgerEntry| matches!(entry.outcome, Applied::Inserted | Applied::Updated);
    let was_deleted = || others().filter(|other| other.applied_at < entry.applied_at).find(ends);
    match entry.outcome {
        Applied::Inserted => Cause::First,
        Applied::Updated if was_deleted().is_some() => Cause::FillsIn,
        Applied::Updated => Cause::Newer,
        Applied::Deleted if was_deleted().is_some() => Cause::DeletesLater,
        Applied::Deleted => Cause::Deletes,
        Applied::Unchanged => {
            let same = |other: &&LedgerEntry| {
                other.event_at == entry.event_at && if is_deletion { ends(other) } else { contents(other) }
            };
            Cause::Same { like: no_later().find(same).map(|other| other.message_id.clone()), is_deletion }
        }
        Applied::Stale if is_deletion => {
            let later = no_later().filter(ends).rfind(|other| other.event_at > entry.event_at);
            Cause::Older { than: later.map(|other| Competitor::new(other, entry)), is_deletion }
        }
        Applied::Stale => {
            // Each entry that changed the content was the newest then, so the last of them is the newest.
            let newer = no_later().filter(contents).rfind(|other| other.event_at >= entry.event_at);
            let is_gone = row.is_some_and(Row::is_empty_tombstone);
            match newer.or_else(|| no_later().rfind(contents).filter(|_| !is_gone)) {
                Some(competitor) => {
                    Cause::Older { than: Some(Competitor::new(competitor, entry)), is_deletion }
                }
                None if is_gone => {
                    Cause::Removed { by: no_later().rfind(ends).map(|end| end.message_id.clone()) }
                }
                None => Cause::Older { than: None, is_deletion },
            }
        }
        Applied::Ignored => ignored(entry).unwrap_or(Cause::NoTable),
    }
}

impl Competitor {
    fn new(competitor: &LedgerEntry, entry: &LedgerEntry) -> Self {
        Self {
            id: competitor.message_id.clone(),
            applied_at: competitor.applied_at,
            made_later_by: competitor.event_at.as_millis().saturating_sub(entry.event_at.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::State;
    use super::*;
    use crate::serialize::RowRef;

    /// Entry about a user: id, verb, outcome, event time, time of application.
    fn entry(id: &str, verb: &str, outcome: Applied, made_at: i64, applied_at: i64) -> LedgerEntry {
        LedgerEntry {
            message_id: MessageId::new(id),
            event_type: format!("user.{verb}"),
            subject_id: Some("user_1".to_owned()),
            outcome,
            event_at: Timestamp::from_millis(made_at),
            received_at: Timestamp::from_millis(made_at),
            applied_at: Timestamp::from_millis(applied_at),
            attempts: 1,
        }
    }

    fn row(deleted_at: Option<&str>, has_content: bool) -> Row {
        let deleted_at = deleted_at.map(str::to_owned);
        let state = if deleted_at.is_some() { State::Deleted } else { State::Alive };
        Row {
            state,
            deleted_at,
            ended_with: None,
            has_content,
            synced_by: "b".to_owned(),
            columns: Vec::new(),
            unfit: Vec::new(),
        }
    }

    fn causes(entries: Vec<LedgerEntry>, row: &Row) -> Vec<(String, Cause)> {
        explain_all(entries, Some(row))
            .into_iter()
            .map(|one| (one.entry.message_id.to_string(), one.cause))
            .collect()
    }

    fn cause(id: &str, entries: Vec<LedgerEntry>, row: &Row) -> Cause {
        causes(entries, row).into_iter().find(|(of, _)| of == id).expect("an entry").1
    }

    fn older(id: &str, made_later_by: i64, applied_at: i64) -> Cause {
        let applied_at = Timestamp::from_millis(applied_at);
        let than = Some(Competitor { id: MessageId::new(id), applied_at, made_later_by });
        Cause::Older { than, is_deletion: false }
    }

    #[test]
    fn a_late_delivery_is_compared_with_the_last_one_that_changed_the_row_before_it() {
        let entries = vec![
            entry("a", "created", Applied::Inserted, 100, 1_000),
            entry("b", "updated", Applied::Updated, 200, 1_001),
            entry("c", "updated", Applied::Updated, 300, 1_002),
            entry("late", "updated", Applied::Stale, 150, 1_003),
            entry("d", "updated", Applied::Updated, 400, 1_004),
        ];
        assert_eq!(cause("late", entries, &row(None, true)), older("c", 150, 1_002));
    }

    #[test]
    fn entries_of_one_batch_are_in_the_order_of_their_events() {
        let entries = vec![
            entry("a", "updated", Applied::Updated, 300, 1_000),
            entry("b", "updated", Applied::Stale, 200, 1_000),
            entry("c", "created", Applied::Inserted, 100, 1_000),
        ];
        let explained = causes(entries, &row(None, true));
        let expected = [("c", Cause::First), ("b", older("a", 100, 1_000)), ("a", Cause::Newer)];
        assert_eq!(explained, expected.map(|(id, cause)| (id.to_owned(), cause)));
    }

    #[test]
    fn a_later_event_with_an_older_updated_at_has_a_negative_difference() {
        let entries = vec![
            entry("a", "created", Applied::Inserted, 200, 1_000),
            entry("late", "updated", Applied::Stale, 250, 1_001),
        ];
        assert_eq!(cause("late", entries, &row(None, true)), older("a", -50, 1_000));
    }

    #[test]
    fn no_cause_is_claimed_without_an_entry_that_shows_it() {
        let stale = || entry("late", "updated", Applied::Stale, 150, 1_000);
        let later = entry("a", "updated", Applied::Updated, 300, 1_001);
        let unknown = Cause::Older { than: None, is_deletion: false };
        assert_eq!(cause("late", vec![stale()], &row(None, true)), unknown);
        assert_eq!(cause("late", vec![stale(), later], &row(None, true)), unknown);
        let same = entry("late", "updated", Applied::Unchanged, 150, 1_000);
        assert_eq!(
            cause("late", vec![same], &row(None, true)),
            Cause::Same { like: None, is_deletion: false }
        );
    }

    #[test]
    fn a_deleted_row_accepts_late_content_unless_its_content_was_erased() {
        let ended = || entry("end", "deleted", Applied::Deleted, 200, 1_000);
        let late = |outcome| entry("late", "updated", outcome, 150, 1_001);
        let kept = row(Some("then"), true);
        assert_eq!(cause("late", vec![ended(), late(Applied::Updated)], &kept), Cause::FillsIn);
        let by = Some(MessageId::new("end"));
        assert_eq!(
            cause("late", vec![ended(), late(Applied::Stale)], &row(Some("then"), false)),
            Cause::Removed { by }
        );
    }

    #[test]
    fn deletions_are_compared_with_deletions() {
        let entries = || {
            vec![
                entry("new", "updated", Applied::Updated, 400, 999),
                entry("end", "deleted", Applied::Deleted, 200, 1_000),
                entry("early", "deleted", Applied::Stale, 150, 1_001),
                entry("same", "deleted", Applied::Unchanged, 200, 1_002),
                entry("later", "deleted", Applied::Deleted, 300, 1_003),
            ]
        };
        let row = row(Some("then"), true);
        let than = Competitor {
            id: MessageId::new("end"),
            applied_at: Timestamp::from_millis(1_000),
            made_later_by: 50,
        };
        assert_eq!(cause("early", entries(), &row), Cause::Older { than: Some(than), is_deletion: true });
        assert_eq!(
            cause("same", entries(), &row),
            Cause::Same { like: Some(MessageId::new("end")), is_deletion: true }
        );
        assert_eq!(cause("later", entries(), &row), Cause::DeletesLater);
        assert_eq!(
            (cause("new", entries(), &row), cause("end", entries(), &row)),
            (Cause::Newer, Cause::Deletes)
        );
        // The order within one batch is unknown.
        let together = vec![
            entry("end", "deleted", Applied::Deleted, 200, 1_000),
            entry("new", "updated", Applied::Updated, 300, 1_000),
        ];
        assert_eq!(cause("new", together, &row), Cause::Newer);
    }

    #[test]
    fn each_kind_of_ignored_event_has_its_cause() {
        let ignored = |event_type: &str, made_at| {
            let entry = entry("a", "", Applied::Ignored, made_at, 1_000);
            LedgerEntry { event_type: event_type.to_owned(), ..entry }
        };
        for (event_type, made_at, expected) in [
            ("user.updated", 100, Cause::BeforeErasure),
            ("user.updated", 0, Cause::NoTime),
            ("user.frobnicated", 100, Cause::NoTable),
            ("sms.created", 100, Cause::NeverStored),
        ] {
            assert_eq!(alone(ignored(event_type, made_at)).cause, expected, "{event_type}");
            assert_eq!(had_earlier_life(&[ignored(event_type, made_at)]), expected == Cause::BeforeErasure);
        }
    }

    #[test]
    fn a_reading_of_clerk_left_the_row_as_it_is_if_it_is_the_last_one_that_changed_it() {
        let reading = |run: &str, outcome, at| LedgerEntry {
            event_type: "reconcile.stale".to_owned(),
            ..entry(&format!("reconcile:{run}:users:user_1"), "", outcome, at, at)
        };
        let entries = vec![
            reading("run_1", Applied::Updated, 100),
            entry("late", "updated", Applied::Stale, 90, 150),
            reading("run_2", Applied::Updated, 200),
            reading("run_3", Applied::Unchanged, 300),
        ];
        let row = Row { synced_by: Origin::RECONCILE.to_owned(), ..row(None, true) };
        let explained = explain_all(entries, Some(&row));
        let last: Vec<bool> = explained.iter().map(|one| one.is_last).collect();
        assert_eq!(last, [false, false, true, false]);
        assert!(explained[0].sentences()[0].contains("run_1 found the row older"));
        let late = explained[1].sentences().join(" ");
        assert!(late.contains("reconciliation run_1 had read newer content of this user at Clerk"), "{late}");
    }

    #[test]
    fn only_the_delivery_in_synced_by_left_the_row_as_it_is() {
        let entries = || vec![entry("b", "updated", Applied::Updated, 200, 1_001)];
        let ended_with = Some(RowRef { resource: &rollbook_core::catalog::USERS, id: "user_2".to_owned() });
        assert!(explain_all(entries(), Some(&row(None, true)))[0].is_last);
        for other in [
            Row { ended_with, ..row(Some("then"), true) },
            row(Some("then"), false),
            Row { synced_by: "a".to_owned(), ..row(None, true) },
        ] {
            assert!(!explain_all(entries(), Some(&other))[0].is_last);
        }
    }
}
