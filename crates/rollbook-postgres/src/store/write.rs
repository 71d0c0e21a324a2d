//! Values of an upsert: one array for each column.

use rollbook_core::catalog::{Kind, LINKS_MAX, Resource};
use rollbook_core::change::{Field, Row};
use rollbook_core::merge::{FromParents, SubjectState};
use rollbook_core::time::Timestamp;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, Row as _};

use crate::types::{Json, Time};

/// Write of one subject.
pub(super) struct Write<'a> {
    pub(super) id: &'a str,
    /// New content; `None` keeps the stored content.
    pub(super) row: Option<&'a Row>,
    /// Ids of parents to write, in the order of the resource's links; `None` keeps the stored id.
    pub(super) parents: [Option<&'a str>; LINKS_MAX],
    pub(super) state: SubjectState,
    /// Revision of the row after this write.
    pub(super) revision: i64,
    pub(super) from_parents: FromParents,
    pub(super) synced_by: &'a str,
}

impl<'a> Write<'a> {
    /// Returns the content, unless a parent is erased.
    fn content(&self) -> Option<&'a Row> {
        self.row.filter(|_| !self.from_parents.erased)
    }

    /// Whether this write leaves the row deleted, by itself or by its parents.
    pub(super) fn is_deleted(&self) -> bool {
        self.deleted_at().is_some()
    }

    fn deleted_at(&self) -> Option<Time> {
        self.state.deleted_at.or(self.from_parents.deleted_at).map(time)
    }
}

/// Returns the arguments of a table's upsert.
pub(super) fn arguments(
    resource: &'static Resource,
    writes: &[Write<'_>],
    now: Timestamp,
) -> Result<PgArguments, BoxDynError> {
    let content: Vec<Option<&Row>> = writes.iter().map(Write::content).collect();
    let times = |value: fn(&Row) -> Option<Timestamp>| -> Vec<Option<Time>> {
        content.iter().map(|row| row.and_then(value).map(Time)).collect()
    };
    let mut arguments = PgArguments::default();
    arguments.add(writes.iter().map(|write| write.id).collect::<Vec<&str>>())?;
    for (index, column) in resource.columns.iter().enumerate() {
        if let Some(number) = resource.links.iter().position(|link| link.column == column.name) {
            arguments.add(writes.iter().map(|write| write.parents[number]).collect::<Vec<Option<&str>>>())?;
        } else {
            add_column(
                &mut arguments,
                column.kind,
                content.iter().map(|row| row.map(|row| &row.values[index])),
            )?;
        }
    }
    arguments
        .add(content.iter().map(|row| row.map(|row| Json(&row.data))).collect::<Vec<Option<Json<'_>>>>())?;
    arguments.add(times(|row| row.created_at))?;
    arguments.add(times(|row| row.updated_at))?;
    arguments.add(writes.iter().map(Write::deleted_at).collect::<Vec<Option<Time>>>())?;
    arguments.add(vec![Time(now); writes.len()])?;
    arguments.add(writes.iter().map(|write| write.synced_by).collect::<Vec<&str>>())?;
    let contents = || writes.iter().map(|write| write.state.content.to_columns());
    arguments.add(contents().map(|(updated_at, _, _)| updated_at).collect::<Vec<i64>>())?;
    arguments.add(contents().map(|(_, event_at, _)| event_at).collect::<Vec<i64>>())?;
    arguments.add(contents().map(|(_, _, hash)| hash).collect::<Vec<&[u8]>>())?;
    arguments.add(writes.iter().map(|write| write.state.deleted_at).collect::<Vec<Option<i64>>>())?;
    arguments.add(writes.iter().map(|write| write.state.floor).collect::<Vec<i64>>())?;
    arguments.add(writes.iter().map(|write| write.revision).collect::<Vec<i64>>())?;
    if !resource.links.is_empty() {
        let from_parents = writes.iter().map(|write| write.from_parents.deleted_at.map(time));
        arguments.add(from_parents.collect::<Vec<Option<Time>>>())?;
        let links = writes.iter().map(|write| write.state.links.to_column());
        arguments.add(links.collect::<Vec<Option<String>>>())?;
    }
    Ok(arguments)
}

/// Whether a trigger undid the write of a row with this revision, from a row that the upsert returned. A trigger that returns the
/// old row restores its revision, too.
pub(super) fn is_undone(row: &PgRow, revision: i64) -> sqlx::Result<bool> {
    Ok(row.try_get(1)? || row.try_get::<i64, _>(2)? != revision)
}

fn time(millis: i64) -> Time {
    Time(Timestamp::from_millis(millis))
}

/// Adds the values of one typed column. A value of another kind, which no event has, becomes null.
fn add_column<'a>(
    arguments: &mut PgArguments,
    kind: Kind,
    values: impl Iterator<Item = Option<&'a Field>>,
) -> Result<(), BoxDynError> {
    macro_rules! array {
        ($type:ty, $field:pat => $value:expr) => {{
            let value = |field: &'a Field| match field {
                $field => Some($value),
                _ => None,
            };
            arguments.add(values.map(|field| field.and_then(value)).collect::<Vec<Option<$type>>>())
        }};
    }
    match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => array!(&str, Field::Text(text) => text.as_str()),
        Kind::Integer => array!(i64, Field::Integer(number) => *number),
        Kind::Bool => array!(bool, Field::Bool(yes) => *yes),
        Kind::Time => array!(Time, Field::Time(at) => Time(*at)),
        Kind::Json => array!(Json<'_>, Field::Json(text) => Json(text)),
    }
}
