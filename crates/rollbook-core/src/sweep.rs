//! Order in which retention reads deleted rows, without reading rows again that it has erased already.
//!
//! Rows are read in the order of their `deleted_at`. A round continues where the last one ended, minus a
//! margin. Every few hours a round starts from the beginning: a late delivery may delete a row at a time that
//! was passed long ago.

use std::time::Duration;

use crate::catalog::{RESOURCES, Resource};
use crate::time::Timestamp;

/// Margin: how far before the last position a round starts.
const LOOK_BACK: Duration = Duration::from_secs(60 * 60);
/// Interval between rounds that start at the first deleted row. Svix delivers for a day at most, so they find
/// little.
const FROM_START_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// Position among the deleted rows of a table: everything up to it has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// `deleted_at` of the last row that was read.
    pub deleted_at: Timestamp,
    /// `deleted_at` in the engine's own precision, if that is finer: two rows of one millisecond must not be
    /// confused.
    pub exact: Option<String>,
    /// Id of the last row that was read.
    pub id: String,
}

impl Cursor {
    const fn start() -> Self {
        Self::at(Timestamp::from_millis(i64::MIN))
    }

    /// Position before all rows that were deleted at this time.
    const fn at(deleted_at: Timestamp) -> Self {
        Self { deleted_at, exact: None, id: String::new() }
    }

    /// Returns the timestamp in ISO 8601, as precisely as it is known.
    pub fn moment(&self) -> String {
        self.exact.clone().unwrap_or_else(|| self.deleted_at.to_string())
    }
}

/// Position in each table.
#[derive(Debug)]
pub struct Sweep {
    /// Position and whether this round has reached the end, for each table in the order of [`RESOURCES`].
    tables: Vec<(Cursor, bool)>,
    from_start_at: Option<Timestamp>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { tables: vec![(Cursor::start(), true); RESOURCES.len()], from_start_at: None }
    }
}

impl Sweep {
    /// Starts a round over all rows deleted before `before`, unless one is in progress.
    pub fn begin(&mut self, now: Timestamp, before: Timestamp) {
        if self.tables.iter().any(|(_, done)| !done) {
            return;
        }
        let from_start = self.from_start_at.is_none_or(|at| now.since(at) >= FROM_START_EVERY);
        let latest = before.minus(LOOK_BACK);
        for (cursor, done) in &mut self.tables {
            *done = false;
            if from_start {
                *cursor = Cursor::start();
            } else if cursor.deleted_at >= latest {
                *cursor = Cursor::at(latest);
            }
        }
        if from_start {
            self.from_start_at = Some(now);
        }
    }

    /// Returns the next table to read and the position to start after; `None` at the end of the round.
    pub fn next(&self) -> Option<(&'static Resource, Cursor)> {
        let mut tables = RESOURCES.into_iter().zip(&self.tables);
        tables.find(|(_, (_, done))| !done).map(|(resource, (cursor, _))| (resource, cursor.clone()))
    }

    /// Records that rows of a table were read up to `last`, and to the end if the page was not full.
    pub fn read(&mut self, resource: &Resource, last: Option<&Cursor>, is_full: bool) {
        let tables = RESOURCES.into_iter().zip(&mut self.tables);
        for (_, (cursor, done)) in tables.filter(|(known, _)| *known == resource) {
            *done = !is_full;
            if let Some(last) = last {
                cursor.clone_from(last);
            }
        }
    }
}

/// Position among old ledger entries. Entries that can't be removed are passed, and retried when a round starts from the
/// oldest entry: every few hours, and after a restart.
#[derive(Debug, Default)]
pub struct LedgerSweep {
    /// `applied_at` of the last entry that was passed, in the engine's own precision.
    from: Option<String>,
    /// The passed entries of this `applied_at`.
    passed: Vec<String>,
    has_kept: bool,
    from_start_at: Option<Timestamp>,
}

impl LedgerSweep {
    /// Returns the `applied_at` to continue from, `None` for the oldest entry, and entries of this time to leave out.
    pub fn next(&mut self, now: Timestamp) -> (Option<String>, Vec<String>) {
        if self.from_start_at.is_none_or(|at| now.since(at) >= FROM_START_EVERY) {
            *self = Self { from_start_at: Some(now), ..Self::default() };
        }
        (self.from.clone(), self.passed.clone())
    }

    /// Records that these entries, as `applied_at` and id, were removed or could not be, and whether some could not.
    pub fn pass(&mut self, entries: Vec<(String, String)>, has_kept: bool) {
        self.has_kept |= has_kept;
        let Some(last) = entries.last().map(|(applied_at, _)| applied_at.clone()) else { return };
        if self.from.as_ref() != Some(&last) {
            self.passed.clear();
        }
        self.passed.extend(entries.into_iter().filter(|(at, _)| *at == last).map(|(_, id)| id));
        self.from = Some(last);
    }

    /// Records that nothing is left to remove. If nothing was kept, the next round starts from the oldest entry.
    pub fn end(&mut self) {
        if !self.has_kept {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::USERS;

    const HOUR: i64 = 60 * 60 * 1000;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(hours * HOUR)
    }

    fn cursor(hours: i64) -> Cursor {
        Cursor { id: "user_1".to_owned(), ..Cursor::at(at(hours)) }
    }

    /// Reads every table to its end. Returns the start position in the users.
    fn round(sweep: &mut Sweep, now: i64, last: Option<&Cursor>) -> Cursor {
        sweep.begin(at(now), at(now - 24));
        let mut from = None;
        while let Some((resource, cursor)) = sweep.next() {
            if *resource == USERS {
                from = Some(cursor);
            }
            sweep.read(resource, last.filter(|_| *resource == USERS), false);
        }
        from.expect("the users are among the tables")
    }

    #[test]
    fn a_round_continues_where_the_last_one_ended_minus_an_hour() {
        let mut sweep = Sweep::default();
        assert_eq!(round(&mut sweep, 100, Some(&cursor(50))), Cursor::start());
        assert_eq!(round(&mut sweep, 101, Some(&cursor(77))), cursor(50));
        // Deleted at hour 77 with 78 as the limit: the last hour is read again.
        assert_eq!(round(&mut sweep, 102, None), Cursor::at(at(77)));
    }

    #[test]
    fn every_six_hours_a_round_begins_at_the_first_row() {
        let mut sweep = Sweep::default();
        round(&mut sweep, 100, Some(&cursor(50)));
        assert_eq!(round(&mut sweep, 105, None), cursor(50));
        assert_eq!(round(&mut sweep, 106, None), Cursor::start());
    }

    #[test]
    fn a_round_that_stops_half_way_continues_from_there() {
        let mut sweep = Sweep::default();
        sweep.begin(at(100), at(76));
        let (resource, _) = sweep.next().expect("a table");
        sweep.read(resource, Some(&cursor(3)), true);
        sweep.begin(at(200), at(176));
        assert_eq!(sweep.next(), Some((resource, cursor(3))), "no other round begins before this one ends");
        sweep.read(resource, None, false);
        assert_ne!(sweep.next().expect("a table").0, resource);
    }

    #[test]
    fn kept_ledger_entries_are_passed_and_retried_hours_later() {
        let mut sweep = LedgerSweep::default();
        let entry = |at: &str, id: &str| (at.to_owned(), id.to_owned());
        assert_eq!(sweep.next(at(0)), (None, Vec::new()));
        sweep.pass(vec![entry("1", "msg_1"), entry("2", "msg_2")], false);
        sweep.pass(vec![entry("2", "msg_3")], true);
        sweep.end();
        let passed = vec!["msg_2".to_owned(), "msg_3".to_owned()];
        assert_eq!(sweep.next(at(5)), (Some("2".to_owned()), passed), "two of one time");
        sweep.pass(vec![entry("3", "msg_4")], false);
        sweep.end();
        assert_eq!(sweep.next(at(5)), (Some("3".to_owned()), vec!["msg_4".to_owned()]));
        assert_eq!(sweep.next(at(6)), (None, Vec::new()), "all are tried again");
        sweep.pass(vec![entry("3", "msg_4")], false);
        sweep.end();
        assert_eq!(sweep.next(at(7)), (None, Vec::new()), "nothing was kept");
    }
}
