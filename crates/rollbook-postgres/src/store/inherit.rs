//! What rows have from their parents, repaired after the fact.
//!
//! A membership is written by a worker that has read its user as alive while another one deletes that user; both
//! commit, and neither has seen the other. So whoever has written either side looks once more after its commit, before the
//! delivery is acknowledged: who commits last sees both ([`super::look`]). Who wrote a child looks at the parents alone, and
//! only where one has changed at the child; who deleted a parent looks at its children. A crash in between leaves the delivery in the
//! queue, and its next worker looks again. Rows that are wrong are locked first and worked out then, in a statement
//! of its own: of two that repair the same row, the later one has seen all that the earlier one saw.
//!
//! What is too much for once, or is refused, is noted and worked off in steps ([`super::cascade`]).

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::time::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::attempt::run_deferred;
use super::sql::{Statements, content, has_content, listed, number_of};
use crate::fault::NotKept;
use crate::transaction::{Session, Sql, Work};
use crate::types::Time;

/// Maximum rows of each link that are repaired right after the commit of a batch.
pub(super) const BATCH_MAX: usize = 1000;

/// The statements about rows of one table that have parents.
pub(super) struct Dependents {
    /// The number of their table and the ids of rows, as `child`, beside their parents; a condition follows.
    select: String,
    /// The condition of a `child` that does not have what it should.
    differs: String,
    /// The number of the table, and its name.
    table: (usize, String),
    resource: &'static Resource,
    pub(super) links: &'static [Link],
    /// Gives rows what they should have: (ids, now). Returns a row for each that changed.
    repair: Sql,
    /// Those of rows that still do not have it: (ids).
    still_wrong: Sql,
}

impl Dependents {
    pub(super) fn new(schema: &str, number: usize, resource: &'static Resource) -> Option<Self> {
        let table = format!(r#""{schema}".{}"#, resource.table);
        let (mut joins, mut ends, mut erased) = (Vec::new(), Vec::new(), Vec::new());
        for (number, link) in resource.links.iter().enumerate() {
            let (parent, of, column) = (format!("parent_{number}"), link.parent.table, link.column);
            joins.push(format!(r#"LEFT JOIN "{schema}".{of} AS {parent} ON {parent}.id = child.{column}"#));
            let is_erased = format!(r"{parent}.version_hash = '\xff'");
            if link.cascades {
                ends.push(format!("{parent}.deleted_at"));
                erased.push(format!("coalesce({is_erased}, false)"));
            } else {
                let is_erased_by_operator = format!("{is_erased} AND {parent}.version_floor > 0");
                ends.push(format!("CASE WHEN {is_erased_by_operator} THEN {parent}.deleted_at END"));
                erased.push(format!("coalesce({is_erased_by_operator}, false)"));
            }
        }
        let (joins, end, erased) = (joins.join(" "), ends.join(", "), erased.join(" OR "));
        let nothing = content(resource)
            .map(|name| format!("{name} = CASE WHEN found.erased THEN NULL ELSE stored.{name} END"));
        let repair = format!(
            r"UPDATE {table} AS stored
               SET version_parents_deleted_at = found.ended_at, synced_at = $2, version_revision = version_revision + 1,
                   deleted_at = CASE WHEN version_deleted_at IS NULL THEN found.ended_at ELSE stored.deleted_at END,
                   {nothing}
               FROM (SELECT child.id, least({end}) AS ended_at, {erased} AS erased
                     FROM {table} AS child {joins} WHERE child.id = ANY ($1::text[])) AS found
               WHERE stored.id = found.id AND {differs}
               RETURNING true",
            nothing = listed(nothing),
            differs = differs(resource, "stored", "found.ended_at", "found.erased"),
        );
        let select = format!("SELECT {number}::int4, child.id FROM {table} AS child {joins}");
        let differs = differs(resource, "child", &format!("least({end})"), &erased);
        (!resource.links.is_empty()).then(|| Self {
            still_wrong: format!("{select} WHERE child.id = ANY ($1::text[]) AND {differs} LIMIT 1").into(),
            select,
            differs,
            table: (number, table.clone()),
            resource,
            links: resource.links,
            repair: repair.into(),
        })
    }

    /// A SELECT of the rows that hang on parents by a link and do not show their deletion; `parents` gives (id, when,
    /// whether the content is erased). The number of the table, id, two nulls, and the number of this part; at most
    /// [`BATCH_MAX`].
    pub(super) fn suspects(&self, link: &Link, parents: &str, part: usize) -> String {
        let ((number, table), column) = (&self.table, link.column);
        let differs = differs(self.resource, "child", "parent.ended_at", "parent.erased");
        format!(
            "(SELECT {number}::int4, child.id, NULL::int8, NULL::bool, {part}::int4
              FROM {parents} AS parent (id, ended_at, erased) JOIN {table} AS child ON child.{column} = parent.id
              WHERE {differs}
              LIMIT {BATCH_MAX})"
        )
    }
}

/// The condition of a row that does not have what it should. The parents' deletion is of no interest to a row that was
/// deleted by itself: it shows its own, for good, and a write for nothing would run a team's triggers.
fn differs(resource: &'static Resource, row: &str, end: &str, erased: &str) -> String {
    format!(
        "({row}.version_deleted_at IS NULL
          AND ({row}.version_parents_deleted_at IS DISTINCT FROM {end} OR {row}.deleted_at IS NULL AND {end} IS NOT NULL)
          OR ({erased}) AND {})",
        has_content(row, resource)
    )
}

/// Ids by the numbers of their tables.
pub(super) type Ids = BTreeMap<usize, BTreeSet<String>>;

/// Parents whose rows may not have what they should, by their tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Parents {
    pub(super) ids: BTreeMap<&'static str, BTreeSet<String>>,
    /// Whether those rows are meant too that outlive the parents: an operator has had them erased.
    pub(super) with_survivors: bool,
}

/// Which rows of parents are looked for.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// Those that do not have what they should.
    Wrong,
    /// Those with lines in the ledger.
    InLedger,
    /// All of them.
    All,
}

impl Parents {
    /// One SELECT over all tables that are meant; empty where none is. Without the rows that have a line of their own
    /// about what they have from their parents, if `known` says that there are any.
    pub(super) fn query(
        &self,
        statements: &Statements,
        which: Rows,
        known: bool,
    ) -> sqlx::Result<(String, PgArguments)> {
        let mut arguments = PgArguments::default();
        let mut parts = Vec::new();
        let schema = &statements.schema;
        for dependents in statements.tables.iter().filter_map(|table| table.dependents.as_ref()) {
            for link in dependents.links.iter().filter(|link| link.cascades || self.with_survivors) {
                let Some(ids) = self.ids.get(link.parent.table) else { continue };
                arguments
                    .add(ids.iter().map(String::as_str).collect::<Vec<&str>>())
                    .map_err(sqlx::Error::Encode)?;
                let wrong = match which {
                    Rows::Wrong => format!("AND {}", dependents.differs),
                    Rows::InLedger => {
                        format!(
                            r#"AND EXISTS (SELECT FROM "{schema}".deliveries WHERE subject_id = child.id)"#
                        )
                    }
                    Rows::All => String::new(),
                };
                let known = if known {
                    format!(
                        r#"AND NOT EXISTS (SELECT FROM "{schema}".rollbook_cascades AS line
                                           WHERE line.table_name = '{}' AND line.id = child.id AND line.what = 'row')"#,
                        statements.tables[dependents.table.0].name
                    )
                } else {
                    String::new()
                };
                parts.push(format!(
                    "{} WHERE child.{} = ANY (${}::text[]) {wrong} {known}",
                    dependents.select,
                    link.column,
                    arguments.len()
                ));
            }
        }
        Ok((parts.join(" UNION ALL "), arguments))
    }

    /// The rows themselves, at most so many.
    pub(super) async fn rows(
        &self,
        statements: &Statements,
        session: &mut Session<'_>,
        which: Rows,
        known: bool,
        limit: usize,
    ) -> sqlx::Result<Ids> {
        let (sql, arguments) = self.query(statements, which, known)?;
        let mut found = Ids::new();
        if sql.is_empty() {
            return Ok(found);
        }
        let sql = format!("{sql} LIMIT {limit}");
        for row in session.fetch(&sql.into(), arguments).await? {
            found.entry(number(&row)?).or_default().insert(row.try_get(1)?);
        }
        Ok(found)
    }
}

/// The number of the table in the first column.
pub(super) fn number(row: &sqlx::postgres::PgRow) -> sqlx::Result<usize> {
    usize::try_from(row.try_get::<i32, _>(0)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Finds rows of parents that do not have what they should.
pub(super) struct FindWrong<'a> {
    pub(super) statements: &'a Statements,
    pub(super) parents: &'a Parents,
    pub(super) limit: usize,
}

impl Work for FindWrong<'_> {
    type Output = Ids;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Ids> {
        self.parents.rows(self.statements, session, Rows::Wrong, false, self.limit).await
    }
}

/// Counts subjects, and all rows that hang on or belong to them.
pub(super) struct Belonging<'a> {
    pub(super) statements: &'a Statements,
    pub(super) parents: &'a Parents,
    pub(super) subjects: &'a [(&'static Resource, String)],
}

impl Work for Belonging<'_> {
    type Output = u64;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<u64> {
        let (sql, mut arguments) = self.parents.query(self.statements, Rows::All, false)?;
        let tables = self.subjects.iter().map(|(resource, _)| i32::try_from(number_of(resource)));
        let tables: Vec<i32> = tables.map(Result::unwrap_or_default).collect();
        arguments.add(tables).map_err(sqlx::Error::Encode)?;
        let ids: Vec<&str> = self.subjects.iter().map(|(_, id)| id.as_str()).collect();
        arguments.add(ids).map_err(sqlx::Error::Encode)?;
        let last = arguments.len();
        let subjects = format!("SELECT * FROM unnest(${}::int4[], ${last}::text[])", last - 1);
        let all = if sql.is_empty() { subjects } else { format!("{sql} UNION ALL {subjects}") };
        let sql = format!("SELECT count(DISTINCT (number, id)) FROM ({all}) AS found (number, id)");
        let rows = session.fetch(&sql.into(), arguments).await?;
        let count: i64 = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

/// Gives rows what they should have from their parents, in one transaction. The output is how many have changed.
pub(super) struct Repair<'a> {
    pub(super) statements: &'a Statements,
    pub(super) rows: &'a Ids,
    pub(super) now: Timestamp,
}

impl Work for Repair<'_> {
    type Output = u64;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<u64> {
        let mut changed = 0;
        for (number, ids) in self.rows {
            let table = &self.statements.tables[*number];
            let Some(dependents) = &table.dependents else { continue };
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            for ids in ids.chunks(BATCH_MAX) {
                let mut arguments = PgArguments::default();
                arguments.add(ids).map_err(sqlx::Error::Encode)?;
                let locked = session.fetch(&table.lock, arguments.clone()).await?.len();
                let mut values = arguments.clone();
                values.add(Time(self.now)).map_err(sqlx::Error::Encode)?;
                let rows = session.fetch(&dependents.repair, values).await?.len();
                changed += rows as u64;
                // A trigger may have swallowed the change, or undone it, a deferred one too.
                run_deferred(session).await?;
                if !session.fetch(&dependents.still_wrong, arguments).await?.is_empty() {
                    return Err(NotKept::of(ids.len(), locked, rows).into());
                }
            }
        }
        Ok(changed)
    }
}
