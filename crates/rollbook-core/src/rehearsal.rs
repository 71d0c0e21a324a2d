//! Made-up changes that touch everything a worker writes, for a transaction that is rolled back.
//!
//! A store that answers reads may still refuse every write: it is read-only, a right or a policy is missing,
//! a trigger refuses rows, or the encoding cannot store emoji. Writing these changes and rolling them back
//! shows this before a delivery does.

use crate::catalog::{Column, Kind, RESOURCES, Resource};
use crate::change::{Change, Effect, Field, Origin, Row, SubjectChange, Version};
use crate::delivery::MessageId;
use crate::time::Timestamp;

/// Prefix of every made-up id. No id of Clerk has it.
pub const ID_PREFIX: &str = "rollbook_rehearsal_";

/// Has a character outside the range that old encodings can store.
const TEXT: &str = "rehearsal\u{1F9FE}@rollbook.invalid";

/// Returns batches to apply in this order: they create, change and delete a row in every table. The rows
/// refer to each other, so that the deletions also reach the child tables. No real row has these ids.
pub fn batches(now: Timestamp) -> [Vec<Change>; 3] {
    ["created", "updated", "deleted"].map(|step| {
        RESOURCES.into_iter().map(|resource| change(resource, step, now)).collect::<Vec<Change>>()
    })
}

fn id_of(resource: &Resource, now: Timestamp) -> String {
    format!("{ID_PREFIX}{}_{}", now.as_millis(), resource.table)
}

fn change(resource: &'static Resource, step: &'static str, now: Timestamp) -> Change {
    let is_deleted = step == "deleted";
    let version = Version {
        is_deleted,
        updated_at: if is_deleted { 0 } else { now.as_millis() },
        event_at: now.as_millis(),
        hash: if is_deleted { [0; 16] } else { [if step == "updated" { 2 } else { 1 }; 16] },
    };
    let id = id_of(resource, now);
    Change {
        origin: Origin::Delivery {
            message_id: MessageId::new(format!("{id}_{step}")),
            event_type: format!("rollbook.rehearsal.{step}"),
            event_at: now,
            received_at: now,
            attempt: 1,
        },
        effect: Effect::Merge(Box::new(SubjectChange {
            resource,
            id,
            version,
            row: (!is_deleted).then(|| row(resource, step, now)),
        })),
    }
}

fn row(resource: &'static Resource, step: &str, now: Timestamp) -> Row {
    Row {
        values: resource.columns.iter().map(|column| field(resource, column, now)).collect(),
        created_at: Some(now),
        updated_at: Some(now),
        data: format!(r#"{{"rehearsal":"{TEXT}","step":"{step}"}}"#),
    }
}

fn field(resource: &'static Resource, column: &Column, now: Timestamp) -> Field {
    let parent = resource.links.iter().find(|link| link.column == column.name);
    match column.kind {
        Kind::Id => Field::Text(id_of(parent.map_or(resource, |link| link.parent), now)),
        Kind::Text | Kind::IndexedText => Field::Text(TEXT.to_owned()),
        Kind::Integer => Field::Integer(1),
        Kind::Bool => Field::Bool(true),
        Kind::Time => Field::Time(now),
        Kind::Json => Field::Json(format!(r#"{{"rehearsal":"{TEXT}"}}"#)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::{DeletedRows, fold};

    #[test]
    fn every_batch_writes_every_table_and_every_change_advances() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let mut known = std::collections::BTreeMap::new();
        for batch in batches(now) {
            assert_eq!(batch.len(), RESOURCES.len());
            for change in &batch {
                let Effect::Merge(subject_change) = &change.effect else { panic!("a change of a row") };
                let folded = fold(&[&**subject_change], DeletedRows::Keep, |id| known.get(id).copied());
                assert!(folded.outcomes[0].advances(), "{}", change.origin.entry_id());
                known.insert(subject_change.id.clone(), folded.winners[0].state);
                assert!(subject_change.id.len() <= 255 && subject_change.id.starts_with(ID_PREFIX));
            }
        }
    }
}
