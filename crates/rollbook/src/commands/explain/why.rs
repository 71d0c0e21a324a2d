//! Why each delivery did what it did, worked out from the ledger's lines about one subject.
//!
//! The ledger says what a delivery did, and when; not against what it lost. That is found among the lines that
//! were applied no later. Where nothing there explains it, nothing is claimed.

use rollbook_core::catalog::{NEVER_STORED, Verb, find_event};
use rollbook_core::change::Applied;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::LedgerEntry;
use rollbook_core::time::Timestamp;

use super::row::Row;

/// A line of the ledger, and its reason.
pub(super) struct Told {
    pub(super) line: LedgerEntry,
    pub(super) why: Why,
    /// Whether the row is as this delivery left it.
    pub(super) is_last: bool,
    /// Whether the row's content is removed.
    pub(super) is_gone: bool,
}

/// Why a delivery did what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nothing of the content was known.
    First,
    /// Newer than what the row had.
    Newer,
    /// Newer than what a deleted row was known to be like.
    FillsIn,
    /// It says that the subject is gone.
    Ends,
    /// It says so with a later time than was known.
    EndsLater,
    /// The row had something newer.
    Older {
        /// What that was, where the ledger still tells.
        than: Option<Rival>,
        /// Whether both say that the subject is gone.
        is_end: bool,
    },
    /// What the row was like is removed for good.
    Removed {
        /// What had ended it, where the ledger still tells.
        by: Option<MessageId>,
    },
    /// The row was exactly so already.
    Same {
        /// What had told the same, where the ledger still tells.
        like: Option<MessageId>,
        /// Whether both say that the subject is gone.
        is_end: bool,
    },
    /// No table is for events of this type.
    NoTable,
    /// Its content is never kept.
    NeverKept,
    /// Made before the row was erased.
    EarlierLife,
    /// Its time is 1970 or before.
    NoTime,
}

/// The delivery whose content the row had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rival {
    pub(super) id: MessageId,
    pub(super) applied_at: Timestamp,
    /// How much later Clerk made it (milliseconds); negative where only its `updated_at` is later.
    pub(super) made_later_by: i64,
}

/// Judges all lines about one subject, whose row is this. Gives them in the order in which they were applied, and
/// those of one moment in the order in which Clerk made them.
pub(super) fn tell(mut lines: Vec<LedgerEntry>, row: Option<&Row>) -> Vec<Told> {
    lines.sort_by(|one, other| {
        let key = |line: &LedgerEntry| (line.applied_at, line.event_at, line.message_id.clone());
        key(one).cmp(&key(other))
    });
    let whys: Vec<Why> = lines.iter().map(|line| judge(line, &lines, row)).collect();
    // What it hangs on, or time, may have changed it since.
    let unchanged = row.filter(|row| row.ended_with.is_none() && !row.is_gone());
    let is_gone = row.is_some_and(Row::is_gone);
    let told = lines.into_iter().zip(whys).map(|(line, why)| {
        let is_last = unchanged.is_some_and(|row| row.synced_by == line.message_id.as_str());
        Told { line, why, is_last, is_gone }
    });
    told.collect()
}

/// Judges a line of which nothing else is known.
pub(super) fn alone(line: LedgerEntry) -> Told {
    let why = judge(&line, &[], None);
    Told { line, why, is_last: false, is_gone: false }
}

/// Whether a line tells that the row was erased and began anew.
pub(super) fn had_earlier_life(lines: &[LedgerEntry]) -> bool {
    lines.iter().any(|line| ignored(line) == Some(Why::EarlierLife))
}

fn ignored(line: &LedgerEntry) -> Option<Why> {
    let why = match find_event(&line.event_type) {
        _ if line.outcome != Applied::Ignored => return None,
        None if NEVER_STORED.contains(&line.event_type.as_str()) => Why::NeverKept,
        None => Why::NoTable,
        Some(_) if line.event_at.as_millis() <= 0 => Why::NoTime,
        Some(_) => Why::EarlierLife,
    };
    Some(why)
}

fn judge(line: &LedgerEntry, lines: &[LedgerEntry], row: Option<&Row>) -> Why {
    let is_end = find_event(&line.event_type).is_some_and(|(_, verb)| verb == Verb::Delete);
    let others = || lines.iter().filter(|other| other.message_id != line.message_id);
    let no_later = || others().filter(|other| other.applied_at <= line.applied_at);
    let ends = |line: &&LedgerEntry| line.outcome == Applied::Deleted;
    let contents = |line: &&LedgerEntry| matches!(line.outcome, Applied::Inserted | Applied::Updated);
    let had_ended = || others().filter(|other| other.applied_at < line.applied_at).find(ends);
    match line.outcome {
        Applied::Inserted => Why::First,
        Applied::Updated if had_ended().is_some() => Why::FillsIn,
        Applied::Updated => Why::Newer,
        Applied::Deleted if had_ended().is_some() => Why::EndsLater,
        Applied::Deleted => Why::Ends,
        Applied::Unchanged => {
            let same = |other: &&LedgerEntry| {
                other.event_at == line.event_at && if is_end { ends(other) } else { contents(other) }
            };
            Why::Same { like: no_later().find(same).map(|other| other.message_id.clone()), is_end }
        }
        Applied::Stale if is_end => {
            let later = no_later().filter(ends).rfind(|other| other.event_at > line.event_at);
            Why::Older { than: later.map(|other| Rival::new(other, line)), is_end }
        }
        Applied::Stale => {
            // Each that advanced the row was the newest then, so the last of them is.
            let newer = no_later().filter(contents).rfind(|other| other.event_at >= line.event_at);
            let is_gone = row.is_some_and(Row::is_gone);
            match newer.or_else(|| no_later().rfind(contents).filter(|_| !is_gone)) {
                Some(rival) => Why::Older { than: Some(Rival::new(rival, line)), is_end },
                None if is_gone => {
                    Why::Removed { by: no_later().rfind(ends).map(|end| end.message_id.clone()) }
                }
                None => Why::Older { than: None, is_end },
            }
        }
        Applied::Ignored => ignored(line).unwrap_or(Why::NoTable),
    }
}

impl Rival {
    fn new(rival: &LedgerEntry, line: &LedgerEntry) -> Self {
        Self {
            id: rival.message_id.clone(),
            applied_at: rival.applied_at,
            made_later_by: rival.event_at.as_millis().saturating_sub(line.event_at.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::State;
    use super::*;

    /// A line about a user: id, end or not, outcome, made at, applied at.
    fn line(id: &str, verb: &str, outcome: Applied, made_at: i64, applied_at: i64) -> LedgerEntry {
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
        }
    }

    fn whys(lines: Vec<LedgerEntry>, row: &Row) -> Vec<(String, Why)> {
        tell(lines, Some(row)).into_iter().map(|told| (told.line.message_id.to_string(), told.why)).collect()
    }

    fn why(id: &str, lines: Vec<LedgerEntry>, row: &Row) -> Why {
        whys(lines, row).into_iter().find(|(of, _)| of == id).expect("a line").1
    }

    fn older(id: &str, made_later_by: i64, applied_at: i64) -> Why {
        let applied_at = Timestamp::from_millis(applied_at);
        let than = Some(Rival { id: MessageId::new(id), applied_at, made_later_by });
        Why::Older { than, is_end: false }
    }

    #[test]
    fn a_late_delivery_is_held_against_the_last_that_advanced_the_row_before_it() {
        let lines = vec![
            line("a", "created", Applied::Inserted, 100, 1_000),
            line("b", "updated", Applied::Updated, 200, 1_001),
            line("c", "updated", Applied::Updated, 300, 1_002),
            line("late", "updated", Applied::Stale, 150, 1_003),
            line("d", "updated", Applied::Updated, 400, 1_004),
        ];
        assert_eq!(why("late", lines, &row(None, true)), older("c", 150, 1_002));
    }

    #[test]
    fn what_one_batch_brought_is_told_in_the_order_in_which_clerk_made_it() {
        let lines = vec![
            line("a", "updated", Applied::Updated, 300, 1_000),
            line("b", "updated", Applied::Stale, 200, 1_000),
            line("c", "created", Applied::Inserted, 100, 1_000),
        ];
        let told = whys(lines, &row(None, true));
        let expected = [("c", Why::First), ("b", older("a", 100, 1_000)), ("a", Why::Newer)];
        assert_eq!(told, expected.map(|(id, why)| (id.to_owned(), why)));
    }

    #[test]
    fn what_was_made_later_and_is_older_by_its_updated_at_says_so_by_a_negative_span() {
        let lines = vec![
            line("a", "created", Applied::Inserted, 200, 1_000),
            line("late", "updated", Applied::Stale, 250, 1_001),
        ];
        assert_eq!(why("late", lines, &row(None, true)), older("a", -50, 1_000));
    }

    #[test]
    fn nothing_is_claimed_that_no_line_tells() {
        let stale = || line("late", "updated", Applied::Stale, 150, 1_000);
        let later = line("a", "updated", Applied::Updated, 300, 1_001);
        let unknown = Why::Older { than: None, is_end: false };
        assert_eq!(why("late", vec![stale()], &row(None, true)), unknown);
        assert_eq!(why("late", vec![stale(), later], &row(None, true)), unknown);
        let same = line("late", "updated", Applied::Unchanged, 150, 1_000);
        assert_eq!(why("late", vec![same], &row(None, true)), Why::Same { like: None, is_end: false });
    }

    #[test]
    fn a_deleted_row_takes_in_what_it_was_like_or_has_lost_it_for_good() {
        let ended = || line("end", "deleted", Applied::Deleted, 200, 1_000);
        let late = |outcome| line("late", "updated", outcome, 150, 1_001);
        let kept = row(Some("then"), true);
        assert_eq!(why("late", vec![ended(), late(Applied::Updated)], &kept), Why::FillsIn);
        let by = Some(MessageId::new("end"));
        assert_eq!(
            why("late", vec![ended(), late(Applied::Stale)], &row(Some("then"), false)),
            Why::Removed { by }
        );
    }

    #[test]
    fn ends_are_held_against_ends() {
        let lines = || {
            vec![
                line("new", "updated", Applied::Updated, 400, 999),
                line("end", "deleted", Applied::Deleted, 200, 1_000),
                line("early", "deleted", Applied::Stale, 150, 1_001),
                line("same", "deleted", Applied::Unchanged, 200, 1_002),
                line("later", "deleted", Applied::Deleted, 300, 1_003),
            ]
        };
        let row = row(Some("then"), true);
        let than =
            Rival { id: MessageId::new("end"), applied_at: Timestamp::from_millis(1_000), made_later_by: 50 };
        assert_eq!(why("early", lines(), &row), Why::Older { than: Some(than), is_end: true });
        assert_eq!(why("same", lines(), &row), Why::Same { like: Some(MessageId::new("end")), is_end: true });
        assert_eq!(why("later", lines(), &row), Why::EndsLater);
        assert_eq!((why("new", lines(), &row), why("end", lines(), &row)), (Why::Newer, Why::Ends));
        // Of what came in one batch nobody knows which was first.
        let together = vec![
            line("end", "deleted", Applied::Deleted, 200, 1_000),
            line("new", "updated", Applied::Updated, 300, 1_000),
        ];
        assert_eq!(why("new", together, &row), Why::Newer);
    }

    #[test]
    fn what_is_ignored_is_told_apart() {
        let ignored = |event_type: &str, made_at| {
            let line = line("a", "", Applied::Ignored, made_at, 1_000);
            LedgerEntry { event_type: event_type.to_owned(), ..line }
        };
        for (event_type, made_at, expected) in [
            ("user.updated", 100, Why::EarlierLife),
            ("user.updated", 0, Why::NoTime),
            ("user.frobnicated", 100, Why::NoTable),
            ("sms.created", 100, Why::NeverKept),
        ] {
            assert_eq!(alone(ignored(event_type, made_at)).why, expected, "{event_type}");
            assert_eq!(had_earlier_life(&[ignored(event_type, made_at)]), expected == Why::EarlierLife);
        }
    }

    #[test]
    fn only_the_delivery_that_the_row_names_left_it_as_it_is() {
        let lines = || vec![line("b", "updated", Applied::Updated, 200, 1_001)];
        let ended_with = Some((&rollbook_core::catalog::USERS, "user_2".to_owned()));
        assert!(tell(lines(), Some(&row(None, true)))[0].is_last);
        for other in [
            Row { ended_with, ..row(Some("then"), true) },
            row(Some("then"), false),
            Row { synced_by: "a".to_owned(), ..row(None, true) },
        ] {
            assert!(!tell(lines(), Some(&other))[0].is_last);
        }
    }
}
