//! Applying a batch so that one bad change costs the others nothing.

use std::ops::Range;
use std::time::{Duration, Instant};

use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{Store, StoreError};

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in the store, durably.
    Applied(Applied),
    /// The store refuses its values; the text says why.
    Refused(String),
    /// The store failed before its turn: nothing is known against it.
    Untried,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// One for each change, in their order.
    pub(crate) fates: Vec<Fate>,
    /// The error for which no change is to blame, where one ended the work early.
    pub(crate) failure: Option<StoreError>,
}

/// Applies `changes`: in one call where all are good. Where the store refuses the values, each half is
/// applied by itself, and so on until every bad change stands alone: about `2 log2 n` calls for one,
/// fewer than `2 n` for any number. `called` is told the size and the time of each call.
pub(crate) async fn apply(
    store: &dyn Store,
    changes: &[Change],
    mut called: impl FnMut(usize, Duration),
) -> Outcome {
    let mut fates = vec![Fate::Untried; changes.len()];
    let mut pending: Vec<Range<usize>> = Vec::new();
    pending.extend((!changes.is_empty()).then_some(0..changes.len()));
    while let Some(part) = pending.pop() {
        let began_at = Instant::now();
        let answer = store.apply_many(&changes[part.clone()]).await;
        called(part.len(), began_at.elapsed());
        match answer {
            Ok(outcomes) => {
                for (fate, applied) in fates[part].iter_mut().zip(outcomes) {
                    *fate = Fate::Applied(applied);
                }
            }
            Err(StoreError::Event(detail)) if part.len() == 1 => fates[part.start] = Fate::Refused(detail),
            Err(StoreError::Event(_)) => {
                let middle = part.start + part.len() / 2;
                // The last in is the next out: the earlier half is applied first.
                pending.push(middle..part.end);
                pending.push(part.start..middle);
            }
            Err(failure) => return Outcome { fates, failure: Some(failure) },
        }
    }
    Outcome { fates, failure: None }
}
