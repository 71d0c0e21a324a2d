//! Rows by which an application decides: one statement for each call, so that its rows are of one state.

use async_trait::async_trait;
use rollbook_core::catalog::{
    ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, SUBSCRIPTION_ITEMS, SUBSCRIPTIONS, USERS,
};
use rollbook_core::store::{Access, ContextRows, ITEMS_MAX, Member, MembersOf, STATUSES_OVER, StoreError};
use rollbook_core::table_layout::columns;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::columns::listed;
use super::read::view_at;
use crate::types::Sql;
use crate::values::Values;

/// Order in which the latest row is the first.
const LATEST: &str = r#"created_at DESC NULLS LAST, id COLLATE "C" DESC"#;

/// Statements of the port.
pub(super) struct Statements {
    /// Context of a user: (user).
    of_user: Sql,
    /// Context of a user in an organization: (user, organization).
    of_member: Sql,
    /// Members of an organization: (organization, user to start after, limit).
    members: Sql,
    /// Organizations of a user: (user, organization to start after, limit).
    organizations: Sql,
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        Self {
            of_user: context(schema, false),
            of_member: context(schema, true),
            members: members(schema, MembersOf::Organization("")),
            organizations: members(schema, MembersOf::User("")),
        }
    }
}

fn shown(resource: &'static Resource, table: &str) -> String {
    listed(columns(resource).map(|(name, _)| format!("{table}.{name}")))
}

/// Condition of a row that is current.
fn current(table: &str) -> String {
    format!("{table}.deleted_at IS NULL AND {table}.data IS NOT NULL")
}

/// Rows of a context, in one line for each subscription item. With an organization it pays, else the user.
fn context(schema: &str, has_organization: bool) -> Sql {
    // Ids of the latest rows that fulfil a condition: each found by an index on the columns of the condition.
    let latest = |resource: &Resource, condition: &str, limit: usize| {
        format!(
            r#"(SELECT id FROM "{schema}".{table} WHERE {condition} AND {current} ORDER BY {LATEST} LIMIT {limit})"#,
            table = resource.table,
            current = current(resource.table),
        )
    };
    let payer = if has_organization { "organization_id = $2" } else { "user_id = $1" };
    let over = STATUSES_OVER.map(|status| format!("'{status}'")).join(", ");
    let (organization, membership) = if has_organization {
        (
            "organization.id = $2",
            latest(&ORGANIZATION_MEMBERSHIPS, "user_id = $1 AND organization_id = $2", 1),
        )
    } else {
        ("false", "(SELECT NULL::text)".to_owned())
    };
    Sql::from(format!(
        r#"SELECT {users}, {organizations}, {memberships}, {subscriptions}, {items}
           FROM (SELECT) AS one
           LEFT JOIN "{schema}".users AS person ON person.id = $1 AND {is_user}
           LEFT JOIN "{schema}".organizations AS organization ON {organization} AND {is_organization}
           LEFT JOIN "{schema}".organization_memberships AS member ON member.id = {membership}
           LEFT JOIN "{schema}".subscriptions AS subscription ON subscription.id = {subscription}
           LEFT JOIN "{schema}".subscription_items AS item ON item.id = ANY (ARRAY{item})
           ORDER BY item.created_at DESC NULLS LAST, item.id COLLATE "C" DESC"#,
        users = shown(&USERS, "person"),
        organizations = shown(&ORGANIZATIONS, "organization"),
        memberships = shown(&ORGANIZATION_MEMBERSHIPS, "member"),
        subscriptions = shown(&SUBSCRIPTIONS, "subscription"),
        items = shown(&SUBSCRIPTION_ITEMS, "item"),
        is_user = current("person"),
        is_organization = current("organization"),
        subscription = latest(&SUBSCRIPTIONS, payer, 1),
        item = latest(&SUBSCRIPTION_ITEMS, &format!("{payer} AND status NOT IN ({over})"), ITEMS_MAX),
    ))
}

/// Current memberships with the rows of their other side, in the order of the index on both ids.
fn members(schema: &str, of: MembersOf<'_>) -> Sql {
    let (column, other) = of.columns();
    let later = r#"(coalesce(later.created_at, '-infinity'), later.id COLLATE "C")
                   > (coalesce(member.created_at, '-infinity'), member.id COLLATE "C")"#;
    Sql::from(format!(
        r#"SELECT {memberships}, {others}
           FROM "{schema}".organization_memberships AS member
           LEFT JOIN "{schema}".{table} AS other ON other.id = member.{other} AND {is_other}
           WHERE member.{column} = $1 AND member.{other} > $2 AND {is_member}
                 AND NOT EXISTS (SELECT FROM "{schema}".organization_memberships AS later
                                 WHERE later.{column} = $1 AND later.{other} = member.{other} AND {is_later} AND {later})
           ORDER BY member.{other} LIMIT $3"#,
        memberships = shown(&ORGANIZATION_MEMBERSHIPS, "member"),
        others = shown(of.other(), "other"),
        table = of.other().table,
        is_other = current("other"),
        is_member = current("member"),
        is_later = current("later"),
    ))
}

/// Reads a line of a context, with at most one subscription item.
fn context_line(row: &PgRow) -> sqlx::Result<ContextRows> {
    let mut first = 0;
    let mut next = |resource: &'static Resource| {
        let found = view_at(resource, row, first);
        first += columns(resource).count();
        found
    };
    Ok(ContextRows {
        user: next(&USERS)?,
        organization: next(&ORGANIZATIONS)?,
        membership: next(&ORGANIZATION_MEMBERSHIPS)?,
        subscription: next(&SUBSCRIPTIONS)?,
        items: next(&SUBSCRIPTION_ITEMS)?.into_iter().collect(),
    })
}

#[async_trait]
impl Access for PostgresStore {
    async fn context(&self, user_id: &str, organization_id: Option<&str>) -> Result<ContextRows, StoreError> {
        let values = Values::default().with(user_id);
        let (sql, values) = match organization_id {
            None => (&self.access.of_user, values),
            Some(id) => (&self.access.of_member, values.with(id)),
        };
        let mut lines = self.database.rows(sql, values, context_line).await?.into_iter();
        let mut rows = lines.next().unwrap_or_default();
        rows.items.extend(lines.flat_map(|line| line.items));
        Ok(rows)
    }

    async fn members(
        &self,
        of: MembersOf<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Member>, StoreError> {
        let sql = match of {
            MembersOf::Organization(_) => &self.access.members,
            MembersOf::User(_) => &self.access.organizations,
        };
        let values = Values::default().with(of.id()).with(after.unwrap_or_default()).with_limit(limit);
        let width = columns(&ORGANIZATION_MEMBERSHIPS).count();
        let read = |row: &PgRow| {
            let membership = view_at(&ORGANIZATION_MEMBERSHIPS, row, 0)?;
            let other = view_at(of.other(), row, width)?;
            Ok(membership.map(|membership| Member { membership, other }))
        };
        let found = self.database.rows(sql, values, read).await?;
        Ok(found.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollbook_testkit::servers::postgres::PostgresServer;

    use super::*;
    use crate::migrations::apply_migrations;
    use crate::settings::PostgresSettings;

    /// Settings of every transaction that decide about plans.
    const PLANNER: &str =
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
                           SET enable_mergejoin = off; SET jit = off;";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_statement_is_planned_with_indexes_and_pages_are_read_in_their_order() {
        let server = PostgresServer::start_with(&[("fsync", "off")]).await;
        server.create_database("plans").await;
        let settings = PostgresSettings {
            url: server.url("plans"),
            schema: "clerk".to_owned(),
            changes: false,
            pgbouncer: false,
            connections_max: 2,
            statement_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
        };
        apply_migrations(&settings).await.expect("the migrations apply");
        let statements = Statements::new("clerk");
        for (sql, values, pages) in [
            (&statements.of_user, "'user_1'", false),
            (&statements.of_member, "'user_1', 'org_1'", false),
            (&statements.members, "'org_1', 'user_1', 10", true),
            (&statements.organizations, "'user_1', 'org_1', 10", true),
        ] {
            let explain =
                format!("{PLANNER} PREPARE one AS {sql}; EXPLAIN (COSTS off) EXECUTE one ({values})");
            let plan = server.psql("plans", &explain).await;
            assert!(plan.contains("Index") && !plan.contains("Seq Scan"), "{plan}");
            if pages {
                let order = if values.starts_with("'org") { "by_organization" } else { "by_user" };
                let index = format!("organization_memberships_{order}");
                assert!(plan.contains(&index) && !plan.contains("Sort"), "{plan}");
            }
        }
    }
}
