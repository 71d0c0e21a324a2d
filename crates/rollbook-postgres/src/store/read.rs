//! Reading rows and the ledger.

use rollbook_core::catalog::{Kind, RESOURCES, Resource};
use rollbook_core::change::Applied;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{LedgerEntry, RowView};
use serde_json::{Map, Value};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, Row as _};

use super::sql;
use crate::transaction::{Session, Sql, Work};
use crate::types::{Read, Time};

/// One row.
pub(super) struct Get<'a> {
    pub(super) sql: &'a Sql,
    pub(super) resource: &'static Resource,
    pub(super) id: &'a str,
}

impl Work for Get<'_> {
    type Output = Option<RowView>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Option<RowView>> {
        let mut arguments = PgArguments::default();
        arguments.add(self.id).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(self.sql, arguments).await?;
        rows.first().map(|row| view(self.resource, row)).transpose()
    }
}

/// Rows behind `after`, in the order of their ids.
pub(super) struct Rows<'a> {
    pub(super) sql: &'a Sql,
    pub(super) resource: &'static Resource,
    pub(super) after: &'a str,
    pub(super) limit: usize,
}

impl Work for Rows<'_> {
    type Output = Vec<RowView>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<RowView>> {
        let mut arguments = PgArguments::default();
        arguments.add(self.after).map_err(sqlx::Error::Encode)?;
        arguments.add(i64::try_from(self.limit).unwrap_or(i64::MAX)).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(self.sql, arguments).await?;
        rows.iter().map(|row| view(self.resource, row)).collect()
    }
}

fn view(resource: &'static Resource, row: &PgRow) -> sqlx::Result<RowView> {
    let columns = sql::columns(resource)
        .enumerate()
        .map(|(position, (name, kind))| Ok((name.to_owned(), value(row, position, kind)?)))
        .collect::<sqlx::Result<Map<String, Value>>>()?;
    Ok(RowView { id: row.try_get(0)?, columns })
}

fn value(row: &PgRow, position: usize, kind: Kind) -> sqlx::Result<Value> {
    Ok(match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => row.try_get::<Option<String>, _>(position)?.into(),
        Kind::Integer => row.try_get::<Option<i64>, _>(position)?.into(),
        Kind::Bool => row.try_get::<Option<bool>, _>(position)?.into(),
        Kind::Time => row.try_get::<Option<Time>, _>(position)?.map(|Time(at)| at.to_string()).into(),
        Kind::Json => row.try_get::<Option<Read>, _>(position)?.map_or(Value::Null, |Read(value)| value),
    })
}

/// Rows where a typed column has this value.
pub(super) struct RowsWhere<'a> {
    pub(super) sql: &'a Sql,
    pub(super) resource: &'static Resource,
    pub(super) value: &'a str,
    pub(super) limit: usize,
}

impl Work for RowsWhere<'_> {
    type Output = Vec<RowView>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<RowView>> {
        let mut arguments = PgArguments::default();
        arguments.add(self.value).map_err(sqlx::Error::Encode)?;
        arguments.add(i64::try_from(self.limit).unwrap_or(i64::MAX)).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(self.sql, arguments).await?;
        rows.iter().map(|row| view(self.resource, row)).collect()
    }
}

/// The ledger's line of a delivery.
pub(super) struct Delivery<'a> {
    pub(super) sql: &'a Sql,
    pub(super) id: &'a MessageId,
}

impl Work for Delivery<'_> {
    type Output = Option<LedgerEntry>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Option<LedgerEntry>> {
        let mut arguments = PgArguments::default();
        arguments.add(self.id.as_str()).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(self.sql, arguments).await?;
        rows.first().map(line).transpose()
    }
}

/// The latest lines about a subject, in the order in which they were written.
pub(super) struct Deliveries<'a> {
    pub(super) sql: &'a Sql,
    pub(super) subject_id: &'a str,
    pub(super) limit: usize,
}

impl Work for Deliveries<'_> {
    type Output = Vec<LedgerEntry>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<LedgerEntry>> {
        let mut arguments = PgArguments::default();
        arguments.add(self.subject_id).map_err(sqlx::Error::Encode)?;
        arguments.add(i64::try_from(self.limit).unwrap_or(i64::MAX)).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(self.sql, arguments).await?;
        rows.iter().rev().map(line).collect()
    }
}

fn line(row: &PgRow) -> sqlx::Result<LedgerEntry> {
    let time = |position: usize| row.try_get::<Time, _>(position).map(|Time(at)| at);
    let outcome: String = row.try_get(3)?;
    Ok(LedgerEntry {
        message_id: MessageId::new(row.try_get::<String, _>(0)?),
        event_type: row.try_get(1)?,
        subject_id: row.try_get(2)?,
        outcome: Applied::parse(&outcome).unwrap_or(Applied::Ignored),
        event_at: time(4)?,
        received_at: time(5)?,
        applied_at: time(6)?,
        attempts: u32::try_from(row.try_get::<i32, _>(7)?).unwrap_or_default(),
    })
}

/// The tables that lack a right that is needed.
pub(super) struct Forbidden<'a> {
    pub(super) sql: &'a Sql,
}

impl Work for Forbidden<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        session.must_be_writable().await?;
        let rows = session.fetch(self.sql, PgArguments::default()).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

/// Finds the tables of which row-level policies may hide rows.
pub(super) struct Hidden<'a> {
    pub(super) sql: &'a Sql,
}

impl Work for Hidden<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        let rows = session.fetch(self.sql, PgArguments::default()).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

/// Returns the SELECT of the tables of which row-level policies may hide rows from this role. A policy hides nothing if its
/// condition holds for every row: `true`, or a comparison of `CURRENT_USER` with this role, alone or as the first or last
/// term of an `OR`. Any other condition may depend on the row. Policies do not apply at all to a superuser, a role with
/// `BYPASSRLS`, and the owner of a table without `FORCE ROW LEVEL SECURITY`.
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
