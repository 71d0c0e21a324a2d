//! Every order of every history of five events about one user, instead of a sample.
//!
//! Each order is played on a user of its own. In half of the orders the events arrive one at a time, each in
//! another batch; in the other half all five are in one batch.

use std::sync::Arc;

use rollbook_core::catalog::USERS;
use rollbook_core::change::Change;
use rollbook_core::merge::DeletedRows;
use rollbook_core::store::{FullStore, RetentionChoices, RowView, Store as _};
use serde_json::{Value, json};

use super::convergence::{runtime, without_sync};
use crate::conformance::store::StoreHarness;
use crate::events::{START, change_of, deleted, event, user};
use crate::memory::store::MemoryStore;

const EVENTS: usize = 5;
/// Changes per call.
const BATCH: usize = 500;
/// More than the number of users.
const ROWS_MAX: usize = 100_000;

/// Event after a sign-up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// An update that increases `updated_at`.
    Moves,
    /// An update with the same `updated_at`.
    Stays,
    /// An update with the same `updated_at`, in the same millisecond as the event before.
    Ties,
    /// A delete.
    Ends,
    /// A delete with its time cut to seconds, so that it is too early.
    EndsInSeconds,
}

const CHANGES: [What; 3] = [What::Moves, What::Stays, What::Ties];

/// Returns all sequences of four events after a sign-up: updates, and possibly a delete as the last.
fn histories() -> Vec<[What; EVENTS - 1]> {
    let mut all = Vec::new();
    for first in CHANGES {
        for second in CHANGES {
            for third in CHANGES {
                for last in [What::Moves, What::Stays, What::Ties, What::Ends, What::EndsInSeconds] {
                    all.push([first, second, third, last]);
                }
            }
        }
    }
    all
}

/// Returns the events of a history in the order in which they happened.
fn play(id: &str, history: [What; EVENTS - 1]) -> Vec<Change> {
    let (mut now, mut updated_at) = (START, START);
    let mut happen = |number: usize, what: Option<What>| {
        now += i64::from(what != Some(What::Ties)) * 400;
        if matches!(what, None | Some(What::Moves)) {
            updated_at = now;
        }
        let body = match what {
            Some(What::Ends) => event("user.deleted", now, &deleted("user", id)),
            Some(What::EndsInSeconds) => event("user.deleted", now / 1000, &deleted("user", id)),
            _ => {
                let mut data = user(id, updated_at);
                data["first_name"] = json!(format!("as of {number}"));
                event(if number == 0 { "user.created" } else { "user.updated" }, now, &data)
            }
        };
        change_of(&format!("msg_{id}_{number}"), &body)
    };
    let mut changes = vec![happen(0, None)];
    changes.extend((1..).zip(history).map(|(number, what)| happen(number, Some(what))));
    changes
}

/// Returns all permutations of `count` indexes.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let insert = |order: Vec<usize>| {
        (0..count).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(insert).collect()
}

/// Checks that a store ends with the right row for each order.
///
/// # Panics
/// Panics if it does not.
pub fn check<H: StoreHarness, F: Future<Output = H>>(open: impl Fn() -> F) {
    runtime().block_on(async {
        for deleted_rows in [DeletedRows::Keep, DeletedRows::Erase] {
            let mut harness = open().await;
            converges(&mut harness, RetentionChoices { deleted_rows, ..RetentionChoices::default() }).await;
        }
    });
}

async fn converges(harness: &mut impl StoreHarness, retention: RetentionChoices) {
    harness.keep(retention).await;
    let truth = MemoryStore::new(harness.clock());
    truth.keep(retention);
    let ends =
        |history: &[What; EVENTS - 1]| matches!(history.last(), Some(What::Ends | What::EndsInSeconds));
    let mut one_by_one: [Vec<Change>; EVENTS] = Default::default();
    let mut at_once = Vec::new();
    // Erasing deleted content makes a difference only for histories with a delete.
    let histories =
        histories().into_iter().filter(|history| retention == RetentionChoices::default() || ends(history));
    for (number, history) in histories.enumerate() {
        for (place, order) in orders(EVENTS).into_iter().enumerate() {
            let changes = play(&format!("user_{number}_{place}"), history);
            truth.apply_many(&changes).await.expect("the model applies changes");
            let arriving = order.into_iter().map(|index| changes[index].clone());
            if place % 2 == 0 {
                one_by_one.iter_mut().zip(arriving).for_each(|(round, change)| round.push(change));
            } else {
                at_once.extend(arriving);
            }
        }
    }
    for changes in one_by_one.iter().chain([&at_once]) {
        apply(&harness.store(), changes).await;
    }
    let rows = harness.store().rows(&USERS, None, ROWS_MAX).await.expect("the store lists rows");
    let wrong = |(found, expected): &(RowView, RowView)| found != expected;
    let pairs = without_sync(rows).into_iter().zip(without_sync(truth.rows_of(&USERS)));
    let pairs: Vec<(RowView, RowView)> = pairs.collect();
    assert!(pairs.len() > 6000, "{} users", pairs.len());
    if let Some((found, expected)) = pairs.into_iter().find(wrong) {
        let (found, expected) = (Value::from(found.columns), Value::from(expected.columns));
        panic!("found {found:#}\nbut in order it is {expected:#}");
    }
}

async fn apply(store: &Arc<dyn FullStore>, changes: &[Change]) {
    for batch in changes.chunks(BATCH) {
        store.apply_many(batch).await.expect("the store applies changes");
    }
}
