//! Pending cascades, as entries of `rollbook_cascades`: recording, taking, postponing and removing them.
//!
//! The revision of an entry counts how often it was recorded. A worker removes an entry only at the revision that it has read:
//! what was recorded meanwhile stays.

use std::time::Duration;

use rollbook_core::catalog::find_resource;
use rollbook_core::store::cascades::{BACKOFF, BACKOFF_MAX, DOUBLINGS_MAX, Entry, TAKEN_FOR};
use rollbook_core::store::{CascadeStep, PendingCascade, PendingCascades, PendingWork};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::fault::{Fault, Unreadable};
use crate::transaction::{Database, Session, Work};
use crate::types::{Sql, Time, count, span};
use crate::values::Values;

/// Statements about the entries.
pub(super) struct Statements {
    pub(super) note: Sql,
    take: Sql,
    refuse: Sql,
    postpone: Sql,
    hold: Sql,
    /// Removes entries, unless they were recorded anew since they were read.
    pub(super) remove: Sql,
    pub(super) lock: Sql,
    pub(super) done: Sql,
    /// Removes the entries of refused rows of these parents, so that a search finds the rows again: (tables, ids).
    forget_rows: Sql,
    /// Removes the entries about content, which only retention retries.
    pub(super) forget_content: Sql,
    left: Sql,
    count: Sql,
    list: Sql,
}

/// The statement that records entries.
fn note_sql(table: &str) -> Sql {
    Sql::from(format!(
        r#"INSERT INTO {table} AS entry
               (table_name, id, what, parent_table, parent_id, survivors, forget_ledger, next_try_at)
           SELECT new.*, clock_timestamp() + $8::int8 * interval '1 millisecond'
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::bool[])
                AS new (table_name, id, what, parent_table, parent_id, survivors, forget_ledger)
           ORDER BY new.table_name COLLATE "C", new.id COLLATE "C", new.what COLLATE "C"
           ON CONFLICT (table_name, id, what) DO UPDATE
           SET survivors = entry.survivors OR excluded.survivors,
               forget_ledger = entry.forget_ledger OR excluded.forget_ledger,
               revision = entry.revision + 1,
               next_try_at = CASE WHEN entry.attempts = 0 THEN entry.next_try_at ELSE excluded.next_try_at END
           RETURNING table_name, id, what, survivors, forget_ledger, revision"#
    ))
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        let table = format!(r#""{schema}".rollbook_cascades"#);
        let key = "table_name = $1 AND id = $2 AND what = $3";
        let wait = |attempts: &str| {
            format!(
                "clock_timestamp() + least({max}, {first} * power(2, least({attempts}, {DOUBLINGS_MAX}))) * interval '1 second'",
                max = BACKOFF_MAX.as_secs(),
                first = BACKOFF.as_secs(),
            )
        };
        let counts = "count(*) FILTER (WHERE what = 'children'), count(*) FILTER (WHERE what <> 'children')";
        Self {
            note: note_sql(&table),
            take: Sql::from(format!(
                r"UPDATE {table} SET next_try_at = clock_timestamp() + $3::int8 * interval '1 millisecond'
                  WHERE (table_name, id, what) IN
                        (SELECT table_name, id, what FROM {table} WHERE what = $1 AND next_try_at <= clock_timestamp()
                         ORDER BY next_try_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                  RETURNING table_name, id, what, survivors, forget_ledger, revision"
            )),
            refuse: Sql::from(format!(
                r"INSERT INTO {table} AS entry
                      (table_name, id, what, parent_table, parent_id, last_error, attempts, next_try_at)
                  VALUES ($1, $2, $3, $4, $5, $6, 1, {first})
                  ON CONFLICT (table_name, id, what) DO UPDATE
                  SET attempts = entry.attempts + 1, next_try_at = {next}, last_error = excluded.last_error,
                      revision = entry.revision + 1,
                      parent_table = coalesce(entry.parent_table, excluded.parent_table),
                      parent_id = coalesce(entry.parent_id, excluded.parent_id)",
                first = wait("0"),
                next = wait("entry.attempts"),
            )),
            postpone: Sql::from(format!(
                "UPDATE {table} SET attempts = attempts + 1, last_error = $4, next_try_at = {next} WHERE {key}",
                next = wait("attempts"),
            )),
            hold: Sql::from(format!(
                "UPDATE {table} SET next_try_at = clock_timestamp() + $4::int8 * interval '1 millisecond' WHERE {key}"
            )),
            forget_rows: Sql::from(format!(
                r"DELETE FROM {table} WHERE what = 'row' AND (parent_table, parent_id) IN
                      (SELECT * FROM unnest($1::text[], $2::text[]))"
            )),
            forget_content: format!("DELETE FROM {table} WHERE what = 'content'").into(),
            remove: Sql::from(format!(
                r"DELETE FROM {table} WHERE (table_name, id, what, revision) IN
                      (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[]))"
            )),
            lock: format!("SELECT survivors, forget_ledger FROM {table} WHERE {key} FOR UPDATE").into(),
            done: format!("DELETE FROM {table} WHERE {key}").into(),
            left: Sql::from(format!(
                // Without content, which retention works on: a cascade that waited for it would find nothing to do.
                "SELECT {counts}, (extract(epoch FROM min(next_try_at) FILTER (WHERE what <> 'content') - clock_timestamp())
                                   * 1000)::int8 FROM {table}"
            )),
            count: format!("SELECT {counts} FROM {table} WHERE $1::text IS NULL OR id = $1 OR parent_id = $1").into(),
            list: Sql::from(format!(
                r#"SELECT table_name, id, what, parent_table, parent_id, noted_at, attempts, next_try_at, last_error
                   FROM {table} WHERE $1::text IS NULL OR id = $1 OR parent_id = $1
                   ORDER BY noted_at, table_name, id COLLATE "C" LIMIT $2"#
            )),
        }
    }
}

/// Returns the key of an entry, as values of a statement.
pub(super) fn key(entry: &Entry) -> Values {
    Values::default().with(entry.resource.table).with(entry.id.as_str()).with(entry.what.as_str())
}

/// Reads an entry from its first six columns; `None` for a kind that only a newer Rollbook knows.
fn entry(row: &PgRow) -> sqlx::Result<Option<Entry>> {
    let (resource, what) = (find_resource(row.try_get(0)?), PendingWork::parse(row.try_get(2)?));
    let (Some(resource), Some(what)) = (resource, what) else { return Ok(None) };
    let (survivors, forget) = (row.try_get(3)?, row.try_get(4)?);
    let revision = row.try_get(5)?;
    Ok(Some(Entry { resource, id: row.try_get(1)?, what, survivors, forget, parent: None, revision }))
}

/// Records entries within a transaction, due after this time. Returns them as they are now.
pub(super) async fn note(
    statements: &Statements,
    session: &mut Session<'_>,
    entries: &[Entry],
    after: Duration,
) -> sqlx::Result<Vec<Entry>> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.fetch(&statements.note, noting(entries, after).into_arguments()?).await?;
    rows.iter().filter_map(|row| entry(row).transpose()).collect()
}

/// Returns the values that record entries, due after this time.
pub(super) fn noting(entries: &[Entry], after: Duration) -> Values {
    let parents = || entries.iter().map(|entry| entry.parent.as_ref());
    keys(entries.iter())
        .with_all(parents().map(|parent| parent.map(|(resource, _)| resource.table)))
        .with_all(parents().map(|parent| parent.map(|(_, id)| id.as_str())))
        .with_all(entries.iter().map(|entry| entry.survivors))
        .with_all(entries.iter().map(|entry| entry.forget))
        .with(millis(after))
}

/// Returns the keys of entries, as three arrays.
fn keys<'a>(entries: impl Iterator<Item = &'a Entry> + Clone) -> Values {
    Values::default()
        .with_all(entries.clone().map(|entry| entry.resource.table))
        .with_all(entries.clone().map(|entry| entry.id.as_str()))
        .with_all(entries.map(|entry| entry.what.as_str()))
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Removes the entries of refused rows of these parents, so that the rows are retried at once.
pub(super) async fn forget_rows(
    statements: &Statements,
    session: &mut Session<'_>,
    parents: &[Entry],
) -> sqlx::Result<()> {
    let values = Values::default()
        .with_all(parents.iter().map(|entry| entry.resource.table))
        .with_all(parents.iter().map(|entry| entry.id.as_str()));
    session.fetch(&statements.forget_rows, values.into_arguments()?).await.map(drop)
}

/// Takes entries that are due. Other workers leave them alone for [`TAKEN_FOR`].
pub(super) async fn take(
    database: &Database,
    statements: &Statements,
    what: PendingWork,
    limit: usize,
) -> Result<Vec<Entry>, Fault> {
    let values = Values::default().with(what.as_str()).with_limit(limit).with(millis(TAKEN_FOR));
    Ok(database.rows(&statements.take, values, entry).await?.into_iter().flatten().collect())
}

/// Change of an entry.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    /// The entry is due at once, for any worker.
    Release,
    /// The entry is held for [`TAKEN_FOR`] longer.
    Hold,
    /// The entry is retried after a wait that grows, for this reason.
    Postpone(&'a str),
    /// A row refuses its change for this reason: its entry is recorded, or waits longer.
    Refuse(&'a str),
}

impl Statements {
    /// Returns the statement that changes an entry, with its values.
    pub(super) fn change(&self, entry: &Entry, then: Then<'_>) -> (&Sql, Values) {
        let key = key(entry);
        match then {
            Then::Release => (&self.hold, key.with(millis(Duration::ZERO))),
            Then::Hold => (&self.hold, key.with(millis(TAKEN_FOR))),
            Then::Postpone(why) => (&self.postpone, key.with(why)),
            Then::Refuse(why) => {
                let parent = entry.parent.as_ref();
                let key = key.with(parent.map(|(resource, _)| resource.table));
                (&self.refuse, key.with(parent.map(|(_, id)| id.as_str())).with(why))
            }
        }
    }
}

/// Returns the values by which [`Statements::remove`] removes entries.
pub(super) fn removing<'a>(entries: impl Iterator<Item = &'a Entry> + Clone) -> Values {
    keys(entries.clone()).with_all(entries.map(|entry| entry.revision))
}

/// Removes entries, within a transaction.
pub(super) async fn remove<'a>(
    statements: &Statements,
    session: &mut Session<'_>,
    entries: impl Iterator<Item = &'a Entry> + Clone,
) -> sqlx::Result<()> {
    session.fetch(&statements.remove, removing(entries).into_arguments()?).await.map(drop)
}

/// Counts the entries.
pub(super) async fn left(database: &Database, statements: &Statements) -> Result<CascadeStep, Fault> {
    let read = |row: &PgRow| {
        let due_in: Option<i64> = row.try_get(2)?;
        Ok(CascadeStep {
            parents_left: count(row, 0)?,
            rows_left: count(row, 1)?,
            due_in: due_in.map(span),
            ..CascadeStep::default()
        })
    };
    let counted = database.rows(&statements.left, Values::default(), read).await?.pop();
    counted.ok_or_else(|| Fault::Unreadable("the entries of rollbook_cascades have no count".to_owned()))
}

/// Lists entries: all, or those of one id.
pub(super) struct List<'a> {
    pub(super) statements: &'a Statements,
    pub(super) about: Option<&'a str>,
    pub(super) limit: usize,
}

impl Work for List<'_> {
    type Output = PendingCascades;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<PendingCascades> {
        let values = Values::default().with(self.about);
        let counted = session.fetch(&self.statements.count, values.arguments()?).await?;
        let counted = counted.first().ok_or(sqlx::Error::RowNotFound)?;
        let values = values.with_limit(self.limit);
        let rows = session.fetch(&self.statements.list, values.into_arguments()?).await?;
        let listed = rows.iter().map(pending).collect::<sqlx::Result<_>>()?;
        Ok(PendingCascades { parents: count(counted, 0)?, rows: count(counted, 1)?, listed })
    }
}

fn pending(row: &PgRow) -> sqlx::Result<PendingCascade> {
    let parent: (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
    Ok(PendingCascade {
        table: row.try_get(0)?,
        id: row.try_get(1)?,
        // A kind that only a newer Rollbook knows is listed, too: it is about one row.
        what: PendingWork::parse(row.try_get(2)?).unwrap_or(PendingWork::Row),
        parent: parent.0.zip(parent.1),
        noted_at: Some(row.try_get::<Time, _>(5)?.0),
        attempts: u32::try_from(row.try_get::<i32, _>(6)?)
            .map_err(|_| Unreadable("rollbook_cascades.attempts"))?,
        next_try_at: row.try_get::<Time, _>(7)?.0,
        last_error: row.try_get(8)?,
    })
}
