//! Changes that are written in one transaction.

use rollbook_core::change::{Change, Effect};

/// Maximum size of the contents of one transaction, in bytes. A store has copies of them while it writes: the values, and
/// what it sends to a server. Four pages of large objects in one transaction each would take a hundred megabytes.
pub(crate) const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Splits changes, in their order, into batches of at most this number and of about this size. One change is a batch
/// whatever its size.
pub(crate) fn batches(changes: &[Change], number_max: usize, bytes_max: usize) -> Vec<&[Change]> {
    let (mut batches, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, change) in changes.iter().enumerate() {
        let size = bytes_of(change);
        if at > begin && (at - begin >= number_max || bytes + size > bytes_max) {
            batches.push(&changes[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += size;
    }
    if begin < changes.len() {
        batches.push(&changes[begin..]);
    }
    batches
}

fn bytes_of(change: &Change) -> usize {
    match &change.effect {
        Effect::Merge(subject) => subject.row.as_ref().map_or(0, |row| row.data.len()),
        Effect::Ignore { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use rollbook_testkit::events::{START, change_of, event, user};
    use serde_json::json;

    use super::*;

    /// Changes with contents of these sizes, and their own few hundred bytes.
    fn changes(sizes: &[usize]) -> Vec<Change> {
        let change = |(number, size): (usize, &usize)| {
            let mut object = user(&format!("user_{number}"), START);
            object["unsafe_metadata"] = json!({ "x": "y".repeat(*size) });
            change_of(&format!("msg_{number}"), &event("user.updated", START, &object))
        };
        sizes.iter().enumerate().map(change).collect()
    }

    fn lengths(sizes: &[usize]) -> Vec<usize> {
        batches(&changes(sizes), 3, 100_000).into_iter().map(<[Change]>::len).collect()
    }

    #[test]
    fn a_batch_is_limited_by_its_number_and_by_its_size_and_keeps_the_order() {
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[0; 7]), [3, 3, 1]);
        assert_eq!(lengths(&[40_000; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[90_000, 90_000, 0, 0, 0, 0]), [1, 3, 2]);
        assert_eq!(lengths(&[0, 1_000_000, 0]), [1, 1, 1], "one that is too large by itself");
        let all = changes(&[0, 50_000, 60_000, 0]);
        assert_eq!(batches(&all, 3, 100_000).concat(), all);
    }
}
