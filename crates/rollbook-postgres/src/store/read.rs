//! Reads of rows and of the ledger.

use rollbook_core::catalog::{Kind, RESOURCES, Resource};
use rollbook_core::delivery::MessageId;
use rollbook_core::json::Document;
use rollbook_core::store::{LedgerEntry, RowText, RowView};
use rollbook_core::table_layout::columns;
use serde_json::{Map, Value};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::fault::Unreadable;
use crate::types::{Read, Time};

/// Reads a row as an application sees it.
pub(super) fn view(resource: &'static Resource, row: &PgRow) -> sqlx::Result<RowView> {
    view_from(resource, row, 0)
}

/// Reads a row from the columns from this one on; `None` if its id is null, as of a row that a join did not find.
pub(super) fn view_at(
    resource: &'static Resource,
    row: &PgRow,
    first: usize,
) -> sqlx::Result<Option<RowView>> {
    match row.try_get::<Option<&str>, _>(first)? {
        None => Ok(None),
        Some(_) => view_from(resource, row, first).map(Some),
    }
}

fn view_from(resource: &'static Resource, row: &PgRow, first: usize) -> sqlx::Result<RowView> {
    let columns = columns(resource)
        .zip(first..)
        .map(|((name, kind), position)| Ok((name.to_owned(), value(row, position, kind)?)))
        .collect::<sqlx::Result<Map<String, Value>>>()?;
    Ok(RowView { id: row.try_get(first)?, columns })
}

/// Reads a row as a text.
pub(super) fn row_text(resource: &'static Resource, row: &PgRow) -> sqlx::Result<RowText> {
    let text = |((name, kind), position): ((&str, Kind), usize)| {
        let text = match kind {
            Kind::Json => row.try_get::<Option<Read<Document>>, _>(position)?.map(|Read(json)| json),
            _ => Some(Document::from(&value(row, position, kind)?)),
        };
        Ok((name.to_owned(), text.unwrap_or_default()))
    };
    let columns: sqlx::Result<_> = columns(resource).zip(0..).map(text).collect();
    Ok(RowText::new(&columns?))
}

fn value(row: &PgRow, position: usize, kind: Kind) -> sqlx::Result<Value> {
    Ok(match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => row.try_get::<Option<String>, _>(position)?.into(),
        Kind::Integer => row.try_get::<Option<i64>, _>(position)?.into(),
        Kind::Bool => row.try_get::<Option<bool>, _>(position)?.into(),
        Kind::Time => row.try_get::<Option<Time>, _>(position)?.map(|Time(at)| at.to_string()).into(),
        Kind::Json => {
            row.try_get::<Option<Read<Value>>, _>(position)?.map_or(Value::Null, |Read(value)| value)
        }
    })
}

/// Reads an entry of the ledger.
///
/// # Errors
/// Returns the error for an entry with an unknown outcome or negative attempts: no Rollbook of this schema
/// writes such an entry.
pub(super) fn entry(row: &PgRow) -> sqlx::Result<LedgerEntry> {
    let time = |position: usize| row.try_get::<Time, _>(position).map(|Time(at)| at);
    let message_id = MessageId::new(row.try_get::<String, _>(0)?);
    let outcome = LedgerEntry::parse_outcome(&message_id, row.try_get(3)?)
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(LedgerEntry {
        message_id,
        event_type: row.try_get(1)?,
        subject_id: row.try_get(2)?,
        outcome,
        event_at: time(4)?,
        received_at: time(5)?,
        applied_at: time(6)?,
        attempts: u32::try_from(row.try_get::<i32, _>(7)?).map_err(|_| Unreadable("deliveries.attempts"))?,
    })
}

/// Returns the SELECT of the tables with row-level policies that may hide rows from this role. A policy hides
/// nothing if its condition holds for every row: `true`, or a comparison of `CURRENT_USER` with this role,
/// alone or as the first or last term of an `OR`. Any other condition may depend on the row. Policies do not
/// apply at all to a superuser, a role with `BYPASSRLS`, and the owner of a table without `FORCE ROW LEVEL SECURITY`.
pub(super) fn hidden(schema: &str) -> String {
    let applies = "EXISTS (SELECT FROM unnest(policy.polroles) AS role (id)
                           WHERE CASE WHEN role.id = 0 THEN true ELSE pg_has_role(current_user, role.id, 'USAGE') END)";
    let shows_all = "(pg_get_expr(policy.polqual, one.id) = 'true'
                      OR EXISTS (SELECT FROM unnest(ARRAY[format('(CURRENT_USER = %L::name)', current_user),
                                                          format('((CURRENT_USER)::text = %L::text)', current_user)])
                                             AS known (me),
                                             pg_get_expr(policy.polqual, one.id) AS shown (condition)
                                 WHERE condition = me
                                       OR left(condition, length(me) + 5) = '(' || me || ' OR '
                                       OR right(condition, length(me) + 5) = ' OR ' || me || ')'))";
    let part = |table: &str, commands: &str| {
        format!(
            r#"SELECT '{table}' FROM to_regclass('"{schema}".{table}') AS one (id)
               WHERE row_security_active(one.id)
                     AND EXISTS (SELECT FROM unnest(ARRAY[{commands}]) AS needed (command)
                                 WHERE NOT EXISTS (SELECT FROM pg_policy AS policy
                                                   WHERE policy.polrelid = one.id AND policy.polpermissive AND {applies}
                                                         AND policy.polcmd::text IN ('*', needed.command)
                                                         AND {shows_all})
                                       OR EXISTS (SELECT FROM pg_policy AS policy
                                                  WHERE policy.polrelid = one.id AND NOT policy.polpermissive AND {applies}
                                                        AND policy.polcmd::text IN ('*', needed.command)
                                                        AND {shows_all} IS NOT TRUE))"#
        )
    };
    let tables = RESOURCES.iter().map(|resource| part(resource.table, "'r', 'w'"));
    tables.chain([part("deliveries", "'r', 'd'")]).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Returns the SELECT of the functions of a team's triggers that run when a placeholder row is written, and that find their
/// tables by the search path of whoever writes it.
pub(super) fn unpinned(schema: &str) -> String {
    format!(
        r#"SELECT DISTINCT format('%I.%I', spaces.nspname, functions.proname) FROM pg_catalog.pg_trigger AS triggers
           JOIN pg_catalog.pg_proc AS functions ON functions.oid = triggers.tgfoid
           JOIN pg_catalog.pg_namespace AS spaces ON spaces.oid = functions.pronamespace
           JOIN pg_catalog.pg_language AS languages ON languages.oid = functions.prolang
           WHERE triggers.tgrelid IN (to_regclass('"{schema}".users'), to_regclass('"{schema}".organizations'))
                 AND NOT triggers.tgisinternal AND triggers.tgenabled <> 'D' AND triggers.tgtype & 4 <> 0
                 AND languages.lanname NOT IN ('c', 'internal')
                 AND NOT EXISTS (SELECT FROM unnest(functions.proconfig) AS own (setting)
                                 WHERE starts_with(own.setting, 'search_path='))
           ORDER BY 1"#
    )
}
