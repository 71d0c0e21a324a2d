//! Deletion and erasure that rows take over from their parents, repaired after the fact.
//!
//! One worker may read a user as alive and write a membership of it while another worker deletes that user. Both commit,
//! and neither sees the other. So every worker that wrote a parent or a child rechecks after its commit, before the
//! delivery is acknowledged ([`super::recheck`]): whoever commits last sees both. A worker that wrote a child row reads the
//! parents only, and repairs only if one has changed; a worker that deleted a parent reads its child rows. After a crash in
//! between, the delivery is still in the queue, and the next worker rechecks. [`Repair`] locks stale rows first and then
//! computes their values in a statement of its own: of two repairs of a row, the later one sees what the earlier one saw.
//!
//! Rows that are too many for one transaction, or are refused, become pending work in steps ([`super::cascade`]).

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::Resource;
use rollbook_core::store::cascades::Entry;
use rollbook_core::time::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::attempt::run_deferred;
use super::sql::Statements;
use crate::fault::NotKept;
use crate::transaction::{Session, Work};
use crate::types::{Time, number};
use crate::values::Values;

/// Maximum child rows per link that are repaired right after the commit of a batch.
pub(super) const BATCH_MAX: usize = 1000;

/// Ids by table number.
pub(super) type Ids = BTreeMap<usize, BTreeSet<String>>;

/// Parents with child rows that may be stale, by table.
#[derive(Clone, Debug, Default)]
pub(super) struct Parents {
    pub(super) ids: BTreeMap<&'static str, BTreeSet<String>>,
    /// Whether child rows that outlive their parents are included: after an erasure by an operator.
    pub(super) with_survivors: bool,
}

/// Selects child rows.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// Stale rows.
    Stale,
    /// Rows with entries in the ledger.
    InLedger,
    /// All rows.
    All,
}

impl Parents {
    /// The parent that an entry is about.
    pub(super) fn of(entry: &Entry, with_survivors: bool) -> Self {
        let ids = BTreeMap::from([(entry.resource.table, BTreeSet::from([entry.id.clone()]))]);
        Self { ids, with_survivors }
    }

    /// One SELECT over all child tables; empty if there are none. With `except_pending`, rows that have pending work of
    /// their own are left out.
    pub(super) fn query(
        &self,
        statements: &Statements,
        which: Rows,
        except_pending: bool,
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
                let condition = match which {
                    Rows::Stale => format!("AND {}", dependents.is_stale),
                    Rows::InLedger => {
                        format!(
                            r#"AND EXISTS (SELECT FROM "{schema}".deliveries WHERE subject_id = child.id)"#
                        )
                    }
                    Rows::All => String::new(),
                };
                let pending = if except_pending {
                    format!(
                        r#"AND NOT EXISTS (SELECT FROM "{schema}".rollbook_cascades AS entry
                                           WHERE entry.table_name = '{}' AND entry.id = child.id AND entry.what = 'row')"#,
                        statements.tables[dependents.table.0].name
                    )
                } else {
                    String::new()
                };
                parts.push(format!(
                    "{} WHERE child.{} = ANY (${}::text[]) {condition} {pending}",
                    dependents.select,
                    link.column,
                    arguments.len()
                ));
            }
        }
        Ok((parts.join(" UNION ALL "), arguments))
    }

    /// Ids of child rows, at most `limit`.
    pub(super) async fn rows(
        &self,
        statements: &Statements,
        session: &mut Session<'_>,
        which: Rows,
        except_pending: bool,
        limit: usize,
    ) -> sqlx::Result<Ids> {
        let (sql, arguments) = self.query(statements, which, except_pending)?;
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

/// Finds child rows.
pub(super) struct Find<'a> {
    pub(super) statements: &'a Statements,
    pub(super) parents: &'a Parents,
    pub(super) which: Rows,
    pub(super) limit: usize,
}

impl Work for Find<'_> {
    type Output = Ids;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Ids> {
        self.parents.rows(self.statements, session, self.which, false, self.limit).await
    }
}

/// Counts subjects and all their child rows.
pub(super) struct Belonging<'a> {
    pub(super) statements: &'a Statements,
    pub(super) parents: &'a Parents,
    pub(super) subjects: &'a [(&'static Resource, String)],
}

impl Work for Belonging<'_> {
    type Output = u64;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<u64> {
        let (sql, mut arguments) = self.parents.query(self.statements, Rows::All, false)?;
        let tables = self.subjects.iter().map(|(resource, _)| i32::try_from(resource.number));
        let tables =
            tables.collect::<Result<Vec<i32>, _>>().map_err(|error| sqlx::Error::Encode(error.into()))?;
        arguments.add(tables).map_err(sqlx::Error::Encode)?;
        let ids: Vec<&str> = self.subjects.iter().map(|(_, id)| id.as_str()).collect();
        arguments.add(ids).map_err(sqlx::Error::Encode)?;
        let last = arguments.len();
        let subjects = format!("SELECT * FROM unnest(${}::int4[], ${last}::text[])", last - 1);
        let all = if sql.is_empty() { subjects } else { format!("{sql} UNION ALL {subjects}") };
        let sql = format!("SELECT count(DISTINCT (number, id)) FROM ({all}) AS found (number, id)");
        let rows = session.fetch(&sql.into(), arguments).await?;
        Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get::<i64, _>(0)?.unsigned_abs())
    }
}

/// Repairs rows that do not match their parents, in one transaction. The output is the number of changed rows.
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
                let these = Values::default().with(ids);
                let locked = session.fetch(&table.lock, these.arguments()?).await?.len();
                let repaired = these.clone().with(Time(self.now)).into_arguments()?;
                let rows = session.fetch(&dependents.repair, repaired).await?.len();
                changed += rows as u64;
                // A trigger may have prevented or undone the change, a deferred one too.
                run_deferred(session).await?;
                if !session.fetch(&dependents.still_stale, these.into_arguments()?).await?.is_empty() {
                    return Err(NotKept::of(ids.len(), locked, rows).into());
                }
            }
        }
        Ok(changed)
    }
}
