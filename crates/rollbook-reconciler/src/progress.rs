//! Position and counts of a run, as its record stores them.

use std::collections::BTreeMap;

use rollbook_core::drift::Drift;
use rollbook_core::source::{RECONCILED, Window};
use rollbook_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Position and counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Instance of the key.
    pub instance: String,
    /// Resources of the run, in the order of the walk, by table.
    pub resources: Vec<ResourceProgress>,
}

/// Position and counts of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "members of a JSON record, each with its own meaning")]
pub struct ResourceProgress {
    /// Table.
    pub table: String,
    /// Whether the walk is over.
    pub is_walked: bool,
    /// Whether the deletions are applied or held too.
    pub is_done: bool,
    /// Number of objects at Clerk when the walk began.
    pub total: u64,
    /// Objects read.
    pub read: u64,
    /// Differences by kind.
    pub drift: BTreeMap<String, u64>,
    /// Rows written.
    pub written: u64,
    /// Rows that refused their change.
    pub refused: u64,
    /// Deletions and wrongly deleted rows that wait for an operator.
    pub held: u64,
    /// Living rows that Clerk's lists lack, and that could not be proved absent.
    pub unproven: u64,
    /// Rows that Clerk's lists lack and a point read found alive.
    pub alive: u64,
    /// Objects that could not be read: without an id, of another type, or marked as deleted.
    pub unreadable: u64,
    /// Living rows of a resource that is not enabled at Clerk. They are left as they are.
    #[serde(default)]
    pub not_enabled: u64,
    /// Rows of other tables, by table, that the deletions of this run take with them: at least so many.
    #[serde(default)]
    pub cascades: BTreeMap<String, u64>,
    /// Whether the brake holds the deletions.
    #[serde(default)]
    pub is_braked: bool,
    /// Rows that were proved absent and live on, because they refuse their deletion. They are held too.
    #[serde(default)]
    pub undeleted: u64,
    /// Child rows of deleted parents, and parents, of which the cascade was not done when the run ended.
    #[serde(default)]
    pub pending: u64,
    /// Whether the table had no row when the walk began. Every row of it is then newer than the run, and none is examined.
    #[serde(default)]
    pub was_empty: bool,
    /// Parts of the list that are read on their own.
    pub slices: Vec<Slice>,
    /// Windows of `created_at` of which the rows are being examined, by their beginning: time up to which they were.
    /// Both are in milliseconds.
    #[serde(default)]
    pub examined: BTreeMap<i64, i64>,
}

/// Part of a list, read in ascending order of `created_at`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// First time of the part, in milliseconds.
    pub from: i64,
    /// First time after the part, in milliseconds.
    pub to: i64,
    /// Objects before the next page, for lists that are read by offset.
    pub offset: u64,
    /// Id after which the next page begins, for lists that are read by cursor.
    pub cursor: Option<String>,
    /// Last object of the page before.
    pub last: Option<Last>,
    /// Number of objects read so far, each counted once.
    #[serde(default)]
    pub seen: u64,
    /// Whether the page before ended with objects without an id, so that the next one can't overlap it.
    #[serde(default)]
    pub is_blind: bool,
    /// Whether the whole part was read.
    pub is_done: bool,
}

/// Last object of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Clerk's id.
    pub id: String,
    /// `created_at`, in milliseconds. `None` if Clerk gives none: then the pages prove no absence.
    pub created_at: Option<i64>,
    /// Ids of all objects read so far with this `created_at`.
    pub ties: Vec<String>,
}

impl Slice {
    /// Creates the part of a list for this window.
    pub const fn new(window: Window) -> Self {
        let (from, to) = (window.from.as_millis(), window.to.as_millis());
        Self { from, to, offset: 0, cursor: None, last: None, seen: 0, is_blind: false, is_done: false }
    }

    /// Returns the window of the part.
    pub const fn window(&self) -> Window {
        Window { from: Timestamp::from_millis(self.from), to: Timestamp::from_millis(self.to) }
    }
}

impl Progress {
    /// Reads the record of a run. `None` if another version of Rollbook wrote it.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Whether the run walks every resource that a reconciliation repairs. A run of named resources says nothing
    /// about the others.
    pub fn is_full(&self) -> bool {
        RECONCILED.iter().all(|resource| self.resources.iter().any(|of| of.table == resource.table))
    }

    /// Returns the text for the record of a run.
    pub fn to_text(&self) -> String {
        // The type has no map with other keys than texts and numbers, so that writing it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the number of rows of a table that deletions of other tables than `except` have taken with them.
    pub(crate) fn taken_along(&self, table: &str, except: &str) -> u64 {
        let parents = self.resources.iter().filter(|of| of.table != except && !of.is_braked);
        parents.filter_map(|of| of.cascades.get(table)).sum()
    }

    /// Returns the number of everything that keeps the run from being complete.
    pub(crate) fn waits(&self) -> u64 {
        self.sum(|of| of.held + of.refused + of.unreadable + of.not_enabled + of.pending)
    }

    /// Returns the total of a number over all resources.
    pub fn sum(&self, of: impl Fn(&ResourceProgress) -> u64) -> u64 {
        self.resources.iter().map(of).sum()
    }
}

impl ResourceProgress {
    /// Creates the progress of a resource that was not read yet.
    pub fn new(table: &str) -> Self {
        let drift = Drift::COUNTED.into_iter().map(|kind| (kind.as_str().to_owned(), 0)).collect();
        Self { table: table.to_owned(), drift, ..Self::default() }
    }

    /// Counts differences.
    pub fn count(&mut self, kind: Drift, number: u64) {
        *self.drift.entry(kind.as_str().to_owned()).or_default() += number;
    }

    /// Returns the number of differences of all kinds.
    pub fn drifted(&self) -> u64 {
        self.drift.values().sum()
    }
}
