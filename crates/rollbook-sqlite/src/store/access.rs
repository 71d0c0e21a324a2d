//! Rows by which an application decides. Each call reads one state of the file.

use async_trait::async_trait;
use rollbook_core::catalog::{
    ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, SUBSCRIPTION_ITEMS, SUBSCRIPTIONS, USERS,
};
use rollbook_core::store::{
    Access, ContextRows, ITEMS_MAX, Member, MembersOf, RowView, STATUSES_OVER, StoreError,
};
use rollbook_core::table_layout::columns;
use rusqlite::{Connection, Params, Row};

use super::SqliteStore;
use super::pending::as_limit;
use super::read::view_at;
use crate::select::select;

/// Condition of a row that is current.
const CURRENT: &str = "deleted_at IS NULL AND data IS NOT NULL";
/// Order in which the latest row is the first. A missing time is the earliest.
const LATEST: &str = "created_at DESC, id DESC";

fn listed(resource: &'static Resource, table: &str) -> String {
    columns(resource).map(|(name, _)| format!("{table}.{name}")).collect::<Vec<_>>().join(", ")
}

/// Current rows that fulfil a condition, the latest first. `limit` is the parameter with the limit.
fn latest(resource: &'static Resource, condition: &str, limit: &str) -> String {
    let table = resource.table;
    let listed = listed(resource, table);
    format!("SELECT {listed} FROM {table} WHERE {condition} AND {CURRENT} ORDER BY {LATEST} LIMIT {limit}")
}

fn one_sql(resource: &'static Resource) -> String {
    latest(resource, "id = ?1", "1")
}

/// The membership of a user in an organization: (user, organization).
fn membership_sql() -> String {
    latest(&ORGANIZATION_MEMBERSHIPS, "user_id = ?1 AND organization_id = ?2", "1")
}

/// Column of the payer.
fn payer_column(of_organization: bool) -> &'static str {
    if of_organization { "organization_id" } else { "user_id" }
}

/// The subscription of a payer: (payer).
fn subscription_sql(of_organization: bool) -> String {
    latest(&SUBSCRIPTIONS, &format!("{} = ?1", payer_column(of_organization)), "1")
}

/// Items of a payer that are not over: (payer, limit).
fn items_sql(of_organization: bool) -> String {
    let over = STATUSES_OVER.map(|status| format!("'{status}'")).join(", ");
    let condition = format!("{} = ?1 AND status NOT IN ({over})", payer_column(of_organization));
    latest(&SUBSCRIPTION_ITEMS, &condition, "?2")
}

/// Current memberships with the rows of their other side: (id, id of the other side to start after, limit).
fn members_sql(of: MembersOf<'_>) -> String {
    let (column, other) = of.columns();
    let (membership, table) = (ORGANIZATION_MEMBERSHIPS.table, of.other().table);
    format!(
        "SELECT {members}, {others}
         FROM {membership} AS member
         LEFT JOIN {table} AS other ON other.id = member.{other} AND other.deleted_at IS NULL AND other.data IS NOT NULL
         WHERE member.{column} = ?1 AND member.{other} > ?2 AND member.deleted_at IS NULL AND member.data IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM {membership} AS later
                               WHERE later.{column} = member.{column} AND later.{other} = member.{other}
                                     AND later.deleted_at IS NULL AND later.data IS NOT NULL
                                     AND (coalesce(later.created_at, ''), later.id)
                                         > (coalesce(member.created_at, ''), member.id))
         ORDER BY member.{other} LIMIT ?3",
        members = listed(&ORGANIZATION_MEMBERSHIPS, "member"),
        others = listed(of.other(), "other"),
    )
}

fn rows_of(
    connection: &Connection,
    resource: &'static Resource,
    sql: &str,
    values: impl Params,
) -> rusqlite::Result<Vec<RowView>> {
    let rows = select(connection, sql, values, |row| view_at(resource, row, 0))?;
    Ok(rows.into_iter().flatten().collect())
}

fn context(connection: &Connection, user: &str, organization: Option<&str>) -> rusqlite::Result<ContextRows> {
    let first = |resource, sql: &str, values: &[&str]| {
        let rows = rows_of(connection, resource, sql, rusqlite::params_from_iter(values))?;
        Ok::<_, rusqlite::Error>(rows.into_iter().next())
    };
    let payer = organization.unwrap_or(user);
    let is_organization = organization.is_some();
    let mut rows = ContextRows {
        user: first(&USERS, &one_sql(&USERS), &[user])?,
        subscription: first(&SUBSCRIPTIONS, &subscription_sql(is_organization), &[payer])?,
        items: rows_of(
            connection,
            &SUBSCRIPTION_ITEMS,
            &items_sql(is_organization),
            (payer, as_limit(ITEMS_MAX)),
        )?,
        ..ContextRows::default()
    };
    if let Some(id) = organization {
        rows.organization = first(&ORGANIZATIONS, &one_sql(&ORGANIZATIONS), &[id])?;
        rows.membership = first(&ORGANIZATION_MEMBERSHIPS, &membership_sql(), &[user, id])?;
    }
    Ok(rows)
}

#[async_trait]
impl Access for SqliteStore {
    async fn context(&self, user_id: &str, organization_id: Option<&str>) -> Result<ContextRows, StoreError> {
        let (user, organization) = (user_id.to_owned(), organization_id.map(str::to_owned));
        let read = move |connection: &Connection| context(connection, &user, organization.as_deref());
        Ok(self.database.read(read).await?)
    }

    async fn members(
        &self,
        of: MembersOf<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Member>, StoreError> {
        let values = (of.id().to_owned(), after.unwrap_or_default().to_owned(), as_limit(limit));
        let (other, width) = (of.other(), columns(&ORGANIZATION_MEMBERSHIPS).count());
        let read = move |row: &Row<'_>| {
            let membership = view_at(&ORGANIZATION_MEMBERSHIPS, row, 0)?;
            let other = view_at(other, row, width)?;
            Ok(membership.map(|membership| Member { membership, other }))
        };
        let members = self.database.rows(members_sql(of), values, read).await?;
        Ok(members.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::{Schema, apply_migrations};

    #[test]
    fn every_statement_searches_by_an_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = crate::connection::open(&path).expect("a file");
        let statements = [
            one_sql(&USERS),
            membership_sql(),
            subscription_sql(true),
            subscription_sql(false),
            items_sql(true),
            items_sql(false),
            members_sql(MembersOf::Organization("")),
            members_sql(MembersOf::User("")),
        ];
        for sql in statements {
            let mut explained =
                connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
            let plan = explained.raw_query().mapped(|row| row.get::<_, String>("detail"));
            let plan: Vec<String> = plan.map(|line| line.expect("a line")).collect();
            assert!(!plan.iter().any(|line| line.starts_with("SCAN")), "{sql}: {plan:?}");
            let pages = sql.contains("ORDER BY member");
            assert!(!pages || !plan.iter().any(|line| line.contains("TEMP B-TREE")), "{sql}: {plan:?}");
        }
    }
}
