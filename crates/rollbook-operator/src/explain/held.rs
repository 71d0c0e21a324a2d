//! Changes of a subject that a reconciliation holds until an operator decides.

use rollbook_core::drift::Drift;
use rollbook_core::store::{Held, HeldKey, HeldState, Reconciliation, StoreError};
use rollbook_core::time::Timestamp;
use serde::Serialize;

/// Held objects that are read for one run: those with an id that begins as the asked one does.
const PAGE: usize = 100;

/// A subject that waits for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldSubject {
    /// Run that holds it.
    pub run: String,
    /// Table.
    pub table: String,
    /// Kind of difference.
    pub kind: &'static str,
    /// Time at which the run recorded it.
    pub noted_at: Timestamp,
    /// Command that settles it.
    pub fix: String,
}

/// Reads what runs hold of a subject.
///
/// # Errors
/// The store gave no answer.
pub async fn held(records: &dyn Reconciliation, id: &str) -> Result<Vec<HeldSubject>, StoreError> {
    let mut found = Vec::new();
    for of in records.count_held(None).await?.into_iter().filter(|of| of.state == HeldState::Waiting) {
        // An id without its last character precedes it, with few others between.
        let mut before = id.to_owned();
        before.pop();
        let after = HeldKey { table: of.table.clone(), id: before };
        let page = records.held(&of.run, HeldState::Waiting, Some(&after), PAGE).await?;
        let is_asked = |held: &Held| held.key.table == of.table && held.key.id == id && held.kind == of.kind;
        found.extend(page.into_iter().filter(is_asked).map(|held| HeldSubject::new(&of.run, held)));
    }
    Ok(found)
}

impl HeldSubject {
    fn new(run: &str, held: Held) -> Self {
        let Held { key, kind, noted_at, .. } = held;
        let fix = match kind {
            Drift::NotDeleted => format!("rollbook reconcile approve {run}"),
            Drift::WronglyDeleted => format!("rollbook resync --force {}", key.id),
            _ => format!("correct the trigger or constraint of the table, then rollbook resync {}", key.id),
        };
        Self { run: run.to_owned(), table: key.table, kind: kind.as_str(), noted_at, fix }
    }
}
