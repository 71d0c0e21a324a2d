//! The least that the same rows cost on Postgres: in our tables with their indexes, in transactions of the
//! same size, one prepared upsert for each table in a batch. No queue, no comparison of versions, no ledger.

use std::collections::BTreeMap;
use std::time::Instant;

use rollbook_core::catalog::{Kind, RESOURCES, Resource};
use rollbook_core::change::{Effect, Field, Row, SubjectChange, Version};
use rollbook_core::event;
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresSettings;
use rollbook_simulator::history::Event;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgConnection, PgHasArrayType, PgTypeInfo};
use sqlx::{Arguments as _, AssertSqlSafe, Connection as _, Encode, Postgres, Type, raw_sql};

use crate::apply::BATCH;
use crate::load::per_second;

/// Columns that every table has after the typed ones.
const LAST: [(&str, &str); 10] = [
    ("data", "jsonb"),
    ("created_at", "timestamptz"),
    ("updated_at", "timestamptz"),
    ("deleted_at", "timestamptz"),
    ("synced_at", "timestamptz"),
    ("synced_by", "text"),
    ("version_updated_at", "int8"),
    ("version_event_at", "int8"),
    ("version_hash", "bytea"),
    ("version_deleted_at", "int8"),
];

/// Rows that an event writes.
struct Write {
    subject_change: SubjectChange,
    at: Timestamp,
    by: String,
}

/// Events a second over one connection. Everything is parsed and encoded beforehand.
pub(crate) async fn upserts(events: &[Event], settings: &PostgresSettings) -> f64 {
    let writes: Vec<Option<Write>> = events.iter().map(write).collect();
    let batches: Vec<Vec<(usize, PgArguments)>> = writes.chunks(BATCH).map(arguments).collect();
    let statements =
        RESOURCES.map(|resource| std::sync::Arc::<str>::from(upsert(&settings.schema, resource)));
    let mut connection = PgConnection::connect(&settings.url).await.expect("a connection");
    let started = Instant::now();
    for batch in batches {
        raw_sql("BEGIN").execute(&mut connection).await.expect("a transaction");
        for (table, arguments) in batch {
            let statement = AssertSqlSafe(std::sync::Arc::clone(&statements[table]));
            sqlx::query_with(statement, arguments).execute(&mut connection).await.expect("rows");
        }
        raw_sql("COMMIT").execute(&mut connection).await.expect("a commit");
    }
    per_second(events.len(), started.elapsed())
}

fn write(event: &Event) -> Option<Write> {
    let Effect::Merge(subject_change) = event::parse(&event.body, None).ok()?.effect else {
        return None;
    };
    Some(Write { subject_change: *subject_change, at: event.at, by: event.id.as_str().to_owned() })
}

fn upsert(schema: &str, resource: &'static Resource) -> String {
    let typed = resource.columns.iter().map(|column| (column.name, type_of(column.kind)));
    let columns: Vec<(&str, &str)> = [("id", "text")].into_iter().chain(typed).chain(LAST).collect();
    let listed = |text: &dyn Fn(usize, (&str, &str)) -> String| {
        columns.iter().enumerate().map(|(index, column)| text(index, *column)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "INSERT INTO {schema}.{} ({}) SELECT * FROM unnest({}) ON CONFLICT (id) DO UPDATE SET {}",
        resource.table,
        listed(&|_, (name, _)| name.to_owned()),
        listed(&|index, (_, kind)| format!("${}::{kind}[]", index + 1)),
        listed(&|_, (name, _)| format!("{name} = excluded.{name}")),
    )
}

const fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => "text",
        Kind::Integer => "int8",
        Kind::Bool => "bool",
        Kind::Time => "timestamptz",
        Kind::Json => "jsonb",
    }
}

/// The upserts of a batch: of each row only its last write, since one upsert may not write a row twice.
fn arguments(batch: &[Option<Write>]) -> Vec<(usize, PgArguments)> {
    let of_table = |table: usize| {
        let last: BTreeMap<&str, &Write> = batch
            .iter()
            .flatten()
            .filter(|write| write.subject_change.resource == RESOURCES[table])
            .map(|write| (&*write.subject_change.id, write))
            .collect();
        let writes: Vec<&Write> = last.into_values().collect();
        (!writes.is_empty())
            .then(|| (table, encode(RESOURCES[table], &writes).expect("values of their types")))
    };
    (0..RESOURCES.len()).filter_map(of_table).collect()
}

fn encode(resource: &'static Resource, writes: &[&Write]) -> Result<PgArguments, BoxDynError> {
    let mut arguments = PgArguments::default();
    arguments.add(writes.iter().map(|write| &*write.subject_change.id).collect::<Vec<&str>>())?;
    let row = |write: &&Write| write.subject_change.row.clone();
    for (index, column) in resource.columns.iter().enumerate() {
        let fields: Vec<Field> = writes
            .iter()
            .map(|write| row(write).map_or(Field::Null, |row| row.values[index].clone()))
            .collect();
        add(&mut arguments, column.kind, &fields)?;
    }
    let times = |of: fn(&Row) -> Option<Timestamp>| -> Vec<Option<Time>> {
        writes.iter().map(|write| row(write).as_ref().and_then(of).map(Time)).collect()
    };
    let version = |write: &&Write| -> Version { write.subject_change.version };
    let data = |write: &&Write| row(write).map(|row| Json(row.data));
    let deleted_at = |write: &&Write| version(write).is_deleted.then_some(Time(write.at));
    arguments.add(writes.iter().map(data).collect::<Vec<Option<Json>>>())?;
    arguments.add(times(|row| row.created_at))?;
    arguments.add(times(|row| row.updated_at))?;
    arguments.add(writes.iter().map(deleted_at).collect::<Vec<Option<Time>>>())?;
    arguments.add(writes.iter().map(|write| Time(write.at)).collect::<Vec<Time>>())?;
    arguments.add(writes.iter().map(|write| &*write.by).collect::<Vec<&str>>())?;
    arguments.add(writes.iter().map(|write| version(write).updated_at).collect::<Vec<i64>>())?;
    arguments.add(writes.iter().map(|write| version(write).event_at).collect::<Vec<i64>>())?;
    arguments.add(writes.iter().map(|write| version(write).hash.to_vec()).collect::<Vec<Vec<u8>>>())?;
    let ended_at = |write: &&Write| version(write).is_deleted.then_some(version(write).event_at);
    arguments.add(writes.iter().map(ended_at).collect::<Vec<Option<i64>>>())?;
    Ok(arguments)
}

fn add(arguments: &mut PgArguments, kind: Kind, fields: &[Field]) -> Result<(), BoxDynError> {
    macro_rules! array {
        ($type:ty, $field:pat => $value:expr) => {{
            let value = |field: &Field| match field {
                $field => Some($value),
                _ => None,
            };
            arguments.add(fields.iter().map(value).collect::<Vec<Option<$type>>>())
        }};
    }
    match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => array!(String, Field::Text(text) => text.clone()),
        Kind::Integer => array!(i64, Field::Integer(number) => *number),
        Kind::Bool => array!(bool, Field::Bool(yes) => *yes),
        Kind::Time => array!(Time, Field::Time(at) => Time(*at)),
        Kind::Json => array!(Json, Field::Json(text) => Json(text.clone())),
    }
}

/// A `timestamptz`: microseconds since 2000.
struct Time(Timestamp);

/// A `jsonb`: a version and the text.
struct Json(String);

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&((self.0.as_millis() - 946_684_800_000) * 1000).to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Type<Postgres> for Json {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(3802))
    }
}

impl PgHasArrayType for Json {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(3807))
    }
}

impl Encode<'_, Postgres> for Json {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(1);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}
