//! What rows have from their parents, made right after the fact.
//!
//! A membership is written by a worker that has read its user as alive while another one ends that user; both
//! commit, and neither has seen the other. So whoever has written either side looks once more after its commit, before the
//! delivery is acknowledged: who commits last sees both ([`super::look`]). Who wrote a child looks at the parents alone, and
//! only where one has changed at the child; who ended a parent looks at its children. A crash in between leaves the delivery in the
//! queue, and its next worker looks again. What is wrong is locked first and worked out then, in a statement
//! of its own: of two that mend the same row, the later one has seen all that the earlier one saw.

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::time::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::sql::{Statements, content, listed};
use crate::transaction::{Session, Sql, Work};
use crate::types::Time;

/// So many rows are mended by one statement.
pub(super) const BATCH_MAX: usize = 1000;
/// So many rows are looked for at once. Each look passes those that are right already, so few large ones are quicker.
const FOUND_MAX: usize = 50_000;

/// The statements about rows of one table that have parents.
pub(super) struct Dependents {
    /// Ids of rows that do not have what they should, with the number of their table; a condition follows.
    wrong: String,
    /// Ids of rows; a condition follows.
    all: String,
    /// The number of the table, and its name.
    table: (usize, String),
    pub(super) links: &'static [Link],
    /// Locks rows by their ids.
    lock: Sql,
    /// Gives rows what they should have: (ids, now).
    mend: Sql,
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
                let is_forgotten = format!("{is_erased} AND {parent}.version_floor > 0");
                ends.push(format!("CASE WHEN {is_forgotten} THEN {parent}.deleted_at END"));
                erased.push(format!("coalesce({is_forgotten}, false)"));
            }
        }
        let (joins, end, erased) = (joins.join(" "), ends.join(", "), erased.join(" OR "));
        let nothing = content(resource)
            .map(|name| format!("{name} = CASE WHEN found.erased THEN NULL ELSE stored.{name} END"));
        let differs = |row: &str, end: &str, erased: &str| {
            format!(
                "({row}.version_parents_deleted_at IS DISTINCT FROM {end} OR ({erased}) AND {row}.data IS NOT NULL)"
            )
        };
        let mend = format!(
            r"UPDATE {table} AS stored
               SET version_parents_deleted_at = found.ended_at, synced_at = $2, version_revision = version_revision + 1,
                   deleted_at = CASE WHEN version_deleted_at IS NULL THEN found.ended_at ELSE stored.deleted_at END,
                   {nothing}
               FROM (SELECT child.id, least({end}) AS ended_at, {erased} AS erased
                     FROM {table} AS child {joins} WHERE child.id = ANY ($1::text[])) AS found
               WHERE stored.id = found.id AND {differs}",
            nothing = listed(nothing),
            differs = differs("stored", "found.ended_at", "found.erased"),
        );
        (!resource.links.is_empty()).then(|| Self {
            wrong: format!(
                "SELECT {number}::int4, child.id FROM {table} AS child {joins} WHERE {}",
                differs("child", &format!("least({end})"), &erased)
            ),
            all: format!("SELECT child.id FROM {table} AS child WHERE true"),
            table: (number, table.clone()),
            links: resource.links,
            lock: format!(
                r#"SELECT FROM {table} WHERE id = ANY ($1::text[]) ORDER BY id COLLATE "C" FOR UPDATE"#
            )
            .into(),
            mend: mend.into(),
        })
    }

    /// A SELECT of the rows that hang on parents by a link and do not show their ends; `parents` gives (id, end, whether
    /// the content is erased). The number of the table, id, two nulls, and the number of this part; at most [`BATCH_MAX`].
    pub(super) fn suspects(&self, link: &Link, parents: &str, part: usize) -> String {
        let ((number, table), column) = (&self.table, link.column);
        format!(
            "(SELECT {number}::int4, child.id, NULL::int8, NULL::bool, {part}::int4
              FROM {parents} AS parent (id, ended_at, erased) JOIN {table} AS child ON child.{column} = parent.id
              WHERE child.version_parents_deleted_at IS DISTINCT FROM parent.ended_at
                    OR parent.erased AND child.data IS NOT NULL
              LIMIT {BATCH_MAX})"
        )
    }

    /// Gives rows what they should have.
    async fn mend(
        &self,
        session: &mut Session<'_>,
        ids: &BTreeSet<String>,
        now: Timestamp,
    ) -> sqlx::Result<()> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        for ids in ids.chunks(BATCH_MAX) {
            let mut arguments = PgArguments::default();
            arguments.add(ids).map_err(sqlx::Error::Encode)?;
            session.fetch(&self.lock, arguments).await?;
            let mut arguments = PgArguments::default();
            arguments.add(ids).map_err(sqlx::Error::Encode)?;
            arguments.add(Time(now)).map_err(sqlx::Error::Encode)?;
            session.fetch(&self.mend, arguments).await?;
        }
        Ok(())
    }
}

/// Ids by the numbers of their tables.
pub(super) type Ids = BTreeMap<usize, BTreeSet<String>>;

/// Which rows may not have what they should have from their parents.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubtful {
    /// Parents whose rows are meant, by their tables.
    pub(super) parents: BTreeMap<&'static str, BTreeSet<String>>,
    /// Whether those rows are meant too that outlive the parents: an operator has had them erased.
    pub(super) with_survivors: bool,
}

impl Doubtful {
    pub(super) fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// The rows that hang on or belong to the parents.
    pub(super) async fn belonging(
        &self,
        statements: &Statements,
        session: &mut Session<'_>,
    ) -> sqlx::Result<BTreeSet<String>> {
        let (sql, arguments) = self.query(statements, |dependents| &dependents.all);
        if sql.is_empty() {
            return Ok(BTreeSet::new());
        }
        let rows = session.fetch(&sql.into(), arguments.map_err(sqlx::Error::Encode)?).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    /// One SELECT over all tables that are meant; empty where none is.
    fn query<'a>(
        &self,
        statements: &'a Statements,
        beginning: impl Fn(&'a Dependents) -> &'a str,
    ) -> (String, Result<PgArguments, sqlx::error::BoxDynError>) {
        let mut arguments = PgArguments::default();
        let (mut parts, mut added) = (Vec::new(), Ok(()));
        let mut add = |ids: &BTreeSet<String>| {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            added = std::mem::replace(&mut added, Ok(())).and_then(|()| arguments.add(ids));
            arguments.len()
        };
        for table in &statements.tables {
            let Some(dependents) = &table.dependents else { continue };
            let beginning = beginning(dependents);
            for link in dependents.links.iter().filter(|link| link.cascades || self.with_survivors) {
                if let Some(ids) = self.parents.get(link.parent.table) {
                    parts.push(format!(
                        "{beginning} AND child.{} = ANY (${}::text[])",
                        link.column,
                        add(ids)
                    ));
                }
            }
        }
        (parts.join(" UNION ALL "), added.map(|()| arguments))
    }
}

/// Gives rows of several tables what they should have.
pub(super) async fn mend_rows(
    statements: &Statements,
    session: &mut Session<'_>,
    rows: &Ids,
    now: Timestamp,
) -> sqlx::Result<()> {
    for (number, ids) in rows {
        if let Some(dependents) = &statements.tables[*number].dependents {
            dependents.mend(session, ids, now).await?;
        }
    }
    Ok(())
}

/// Finds what is wrong, and mends it: at most [`FOUND_MAX`] rows. Says whether there may be more.
pub(super) struct Mend<'a> {
    pub(super) statements: &'a Statements,
    pub(super) doubtful: &'a Doubtful,
    pub(super) now: Timestamp,
}

impl Work for Mend<'_> {
    type Output = bool;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<bool> {
        let (wrong, may_be_more) = self.wrong(session).await?;
        mend_rows(self.statements, session, &wrong, self.now).await?;
        Ok(may_be_more)
    }
}

impl Mend<'_> {
    /// Ids of rows that are wrong, and whether there may be more of them.
    async fn wrong(&self, session: &mut Session<'_>) -> sqlx::Result<(Ids, bool)> {
        let mut wrong = Ids::new();
        let (sql, arguments) = self.doubtful.query(self.statements, |dependents| &dependents.wrong);
        if sql.is_empty() {
            return Ok((wrong, false));
        }
        let sql = format!("{sql} LIMIT {FOUND_MAX}");
        let rows = session.fetch(&sql.into(), arguments.map_err(sqlx::Error::Encode)?).await?;
        for row in &rows {
            let number = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
            wrong.entry(number).or_default().insert(row.try_get(1)?);
        }
        Ok((wrong, rows.len() >= FOUND_MAX))
    }
}
