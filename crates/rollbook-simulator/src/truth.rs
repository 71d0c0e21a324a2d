//! The truth: the rows that must exist once every event has arrived, in any order.

mod tolerance;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rollbook_core::change::Origin;
use rollbook_core::store::RowView;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value};

pub use self::tolerance::{Subject, Tolerance};

/// Expected row of one subject.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// The subject exists. The map has every column that the contract names for the table, except `synced_at`
    /// and `synced_by`, which depend on the delivery that won.
    Live(Map<String, Value>),
    /// The subject is deleted, by its own event or with its parent.
    Deleted {
        /// Timestamp of the event that deleted it.
        at: Timestamp,
        /// Last content: the columns of `Live`. `deleted_at` is compared with `at` instead.
        columns: Map<String, Value>,
    },
}

/// Expected row of every subject, by table and id.
#[derive(Clone, Default, PartialEq)]
pub struct Truth {
    /// Expected rows by table and id.
    pub rows: BTreeMap<(&'static str, String), Expected>,
}

/// Differences between rows and the truth. It names tables, ids and columns, never a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Number of rows that are as expected.
    pub equal: usize,
    /// Subjects without a row: table and id.
    pub missing: Vec<(&'static str, String)>,
    /// Rows of unknown subjects, and rows that occurred twice: table and id.
    pub unexpected: Vec<(&'static str, String)>,
    /// Number of deleted subjects without a row, of which neither an event nor a reading ever had content.
    /// Only a tolerance allows them.
    pub never_seen: usize,
    /// Values that differ from the expected ones: table, id and column.
    pub different: Vec<(&'static str, String, String)>,
}

impl Comparison {
    /// Returns whether every expected row exists, no other row exists, and every value is as expected.
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.different.is_empty()
    }
}

impl Truth {
    /// Number of subjects that are not deleted.
    pub fn live(&self) -> usize {
        self.rows.values().filter(|expected| matches!(expected, Expected::Live(_))).count()
    }

    /// Number of subjects that are deleted.
    pub fn deleted(&self) -> usize {
        self.rows.len() - self.live()
    }

    /// Compares rows, each with the name of its table, with the truth. `synced_at`, `synced_by` and columns
    /// that the truth does not have are ignored. JSON is compared by value.
    pub fn compare(&self, rows: impl Iterator<Item = (&'static str, RowView)>) -> Comparison {
        self.compare_rows(rows, None)
    }

    /// Compares rows as [`Self::compare`] does, after a reconciliation. They may differ as far as the tolerance says.
    pub fn compare_repaired(
        &self,
        rows: impl Iterator<Item = (&'static str, RowView)>,
        tolerance: &Tolerance,
    ) -> Comparison {
        self.compare_rows(rows, Some(tolerance))
    }

    fn compare_rows(
        &self,
        rows: impl Iterator<Item = (&'static str, RowView)>,
        tolerance: Option<&Tolerance>,
    ) -> Comparison {
        let mut comparison = Comparison::default();
        let mut open: BTreeSet<&(&'static str, String)> = self.rows.keys().collect();
        for (table, row) in rows {
            let key = (table, row.id.clone());
            let Some(expected) = self.rows.get(&key).filter(|_| open.remove(&key)) else {
                comparison.unexpected.push(key);
                continue;
            };
            let is_read = row.columns.get("synced_by").and_then(Value::as_str) == Some(Origin::RECONCILE);
            let mut wrong = expected.differences(&row);
            wrong.retain(|column| {
                let value = (column.as_str(), row.columns.get(column));
                !tolerance.is_some_and(|tolerance| tolerance.permits(&key, expected, value, is_read))
            });
            comparison.equal += usize::from(wrong.is_empty());
            let (table, id) = key;
            comparison.different.extend(wrong.into_iter().map(|column| (table, id.clone(), column)));
        }
        let may_be_missing =
            |key: &&(&'static str, String)| tolerance.is_some_and(|it| it.row.contains(*key));
        let (never_seen, missing): (Vec<_>, Vec<_>) = open.into_iter().partition(may_be_missing);
        comparison.never_seen = never_seen.len();
        comparison.missing = missing.into_iter().cloned().collect();
        comparison
    }
}

impl Expected {
    /// Columns of the subject; the last content if it is deleted.
    pub fn columns(&self) -> &Map<String, Value> {
        match self {
            Self::Live(columns) | Self::Deleted { columns, .. } => columns,
        }
    }

    /// Columns in which `row` differs.
    fn differences(&self, row: &RowView) -> Vec<String> {
        let deleted_at = match self {
            Self::Live(_) => None,
            Self::Deleted { at, .. } => Some(Value::from(at.to_string())),
        };
        let expected = |name: &str, value: &Value| match &deleted_at {
            Some(deleted_at) if name == "deleted_at" => deleted_at.clone(),
            _ => value.clone(),
        };
        let is_wrong =
            |(name, value): &(&String, &Value)| row.columns.get(*name) != Some(&expected(name, value));
        self.columns().iter().filter(is_wrong).map(|(name, _)| name.clone()).collect()
    }
}

impl fmt::Debug for Truth {
    /// Prints counts only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Truth({} live, {} deleted)", self.live(), self.deleted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(id: &str, columns: &Value) -> RowView {
        RowView { id: id.into(), columns: columns.as_object().cloned().unwrap_or_default() }
    }

    fn truth() -> Truth {
        let live = Expected::Live(row("", &json!({ "id": "a", "name": "A", "deleted_at": null })).columns);
        let was = row("", &json!({ "id": "b", "name": "old", "deleted_at": null })).columns;
        let deleted = Expected::Deleted { at: Timestamp::from_millis(15), columns: was };
        Truth { rows: BTreeMap::from([(("users", "a".into()), live), (("users", "b".into()), deleted)]) }
    }

    fn right_rows() -> [(&'static str, RowView); 2] {
        let synced = json!({ "id": "a", "name": "A", "deleted_at": null, "synced_by": "msg_1" });
        let deleted = json!({ "id": "b", "name": "old", "deleted_at": "1970-01-01T00:00:00.015Z" });
        [("users", row("a", &synced)), ("users", row("b", &deleted))]
    }

    #[test]
    fn expected_rows_are_equal_whatever_synced_them() {
        let comparison = truth().compare(right_rows().into_iter());
        assert!(comparison.is_equal(), "{comparison:?}");
        assert_eq!(comparison.equal, 2);
    }

    #[test]
    fn a_missing_row_a_repeated_row_and_a_row_of_the_wrong_table_are_reported() {
        let [first, _] = right_rows();
        let stray = ("organizations", row("b", &json!({})));
        let comparison = truth().compare([first.clone(), first, stray].into_iter());
        assert_eq!(comparison.missing, [("users", "b".into())]);
        assert_eq!(comparison.unexpected, [("users", "a".into()), ("organizations", "b".into())]);
        assert_eq!(comparison.equal, 1);
        assert!(!comparison.is_equal());
    }

    #[test]
    fn a_wrong_value_a_missing_column_and_a_wrong_deletion_time_are_reported_by_column() {
        let [(_, mut living), (_, mut dead)] = right_rows();
        living.columns.insert("name".into(), json!("B"));
        living.columns.remove("deleted_at");
        dead.columns.insert("deleted_at".into(), json!("1970-01-01T00:00:00.016Z"));
        dead.columns.insert("name".into(), Value::Null);
        let comparison = truth().compare([("users", living), ("users", dead)].into_iter());
        let named: Vec<(&str, &str)> =
            comparison.different.iter().map(|(_, id, column)| (id.as_str(), column.as_str())).collect();
        assert_eq!(named, [("a", "deleted_at"), ("a", "name"), ("b", "deleted_at"), ("b", "name")]);
        assert_eq!(comparison.equal, 0);
    }
}
