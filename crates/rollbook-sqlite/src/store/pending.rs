//! Pending cascades, as entries of `rollbook_cascades`: recording, taking, postponing and removing them.
//!
//! The revision of an entry counts how often it was recorded. A worker removes an entry only at the revision that it has read:
//! what was recorded meanwhile stays. Other workers leave an entry that was taken alone for a while: several processes may
//! share the file. An entry that seems to wait longer than the maximum was written while the clock was ahead: it is due.

use rollbook_core::catalog::find_resource;
use rollbook_core::store::cascades::{BACKOFF, BACKOFF_MAX, DOUBLINGS_MAX, Entry, TAKEN_FOR};
use rollbook_core::store::{CascadeStep, PendingCascade, PendingCascades, PendingWork};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

fn key(entry: &Entry) -> (&str, &str, &'static str) {
    (entry.resource.table, &entry.id, entry.what.as_str())
}

/// Reads an entry from its first eight columns; `None` for a kind that only a newer Rollbook knows.
fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let (table, what): (String, String) = (row.get(0)?, row.get(2)?);
    let (Some(resource), Some(what)) = (find_resource(&table), PendingWork::parse(&what)) else {
        return Ok(None);
    };
    let parent: (Option<String>, Option<String>) = (row.get(6)?, row.get(7)?);
    let parent = parent.0.as_deref().and_then(find_resource).zip(parent.1);
    let (survivors, forget) = (row.get(3)?, row.get(4)?);
    Ok(Some(Entry { resource, id: row.get(1)?, what, survivors, forget, parent, revision: row.get(5)? }))
}

const COLUMNS: &str = "table_name, id, what, survivors, forget_ledger, revision, parent_table, parent_id";

/// Records an entry, due at this time. Returns it as it is now.
pub(super) fn note(
    connection: &Connection,
    entry: &Entry,
    now: Timestamp,
    due_at: Timestamp,
) -> rusqlite::Result<Entry> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO rollbook_cascades
             (table_name, id, what, parent_table, parent_id, survivors, forget_ledger, noted_at, next_try_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT DO UPDATE
         SET survivors = max(survivors, excluded.survivors), forget_ledger = max(forget_ledger, excluded.forget_ledger),
             revision = revision + 1,
             next_try_at = CASE WHEN attempts = 0 THEN next_try_at ELSE excluded.next_try_at END
         RETURNING survivors, forget_ledger, revision",
    )?;
    let (table, id, what) = key(entry);
    let parent = entry.parent.as_ref();
    let values = (
        table,
        id,
        what,
        parent.map(|(resource, _)| resource.table),
        parent.map(|(_, id)| id),
        entry.survivors,
        entry.forget,
        now.to_string(),
        due_at.to_string(),
    );
    let (survivors, forget, revision) =
        statement.query_row(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Entry { survivors, forget, revision, ..entry.clone() })
}

/// Takes entries that are due. Other workers leave them alone for [`TAKEN_FOR`].
pub(super) fn take(
    connection: &Connection,
    what: PendingWork,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(&format!(
        "UPDATE rollbook_cascades SET next_try_at = ?4
         WHERE (table_name, id, what) IN
               (SELECT table_name, id, what FROM rollbook_cascades
                WHERE what = ?1 AND (next_try_at <= ?2 OR next_try_at > ?3) ORDER BY next_try_at, id LIMIT ?5)
         RETURNING {COLUMNS}"
    ))?;
    let [present, latest, until] = [now, now.plus(BACKOFF_MAX), now.plus(TAKEN_FOR)].map(|at| at.to_string());
    let rows = statement.query_map((what.as_str(), present, latest, until, as_limit(limit)), entry)?;
    rows.filter_map(Result::transpose).collect()
}

/// Returns an entry as it is now, if it exists.
pub(super) fn find(connection: &Connection, of: &Entry) -> rusqlite::Result<Option<Entry>> {
    let sql =
        format!("SELECT {COLUMNS} FROM rollbook_cascades WHERE table_name = ?1 AND id = ?2 AND what = ?3");
    Ok(connection.prepare_cached(&sql)?.query_row(key(of), entry).optional()?.flatten())
}

/// Makes an entry due at this time.
pub(super) fn hold(connection: &Connection, entry: &Entry, until: Timestamp) -> rusqlite::Result<()> {
    let (table, id, what) = key(entry);
    let mut statement = connection.prepare_cached(
        "UPDATE rollbook_cascades SET next_try_at = ?4 WHERE table_name = ?1 AND id = ?2 AND what = ?3",
    )?;
    statement.execute((table, id, what, until.to_string())).map(drop)
}

/// Records that a row refuses its change for this reason, or postpones the entry of a parent. It is retried after a wait that
/// grows.
pub(super) fn refuse(
    connection: &Connection,
    entry: &Entry,
    why: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (table, id, what) = key(entry);
    let known = "SELECT attempts FROM rollbook_cascades WHERE table_name = ?1 AND id = ?2 AND what = ?3";
    let attempts: u32 = connection
        .prepare_cached(known)?
        .query_row((table, id, what), |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let wait = BACKOFF.saturating_mul(1 << attempts.min(DOUBLINGS_MAX)).min(BACKOFF_MAX);
    let mut statement = connection.prepare_cached(
        "INSERT INTO rollbook_cascades
             (table_name, id, what, parent_table, parent_id, last_error, attempts, noted_at, next_try_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8)
         ON CONFLICT DO UPDATE
         SET attempts = attempts + 1, next_try_at = excluded.next_try_at, last_error = excluded.last_error,
             revision = revision + 1, parent_table = coalesce(parent_table, excluded.parent_table),
             parent_id = coalesce(parent_id, excluded.parent_id)",
    )?;
    let parent = entry.parent.as_ref();
    statement.execute((
        table,
        id,
        what,
        parent.map(|(resource, _)| resource.table),
        parent.map(|(_, id)| id),
        why,
        now.to_string(),
        now.plus(wait).to_string(),
    ))?;
    Ok(())
}

/// Removes an entry unless it was recorded anew since it was read. Returns whether it was removed.
pub(super) fn remove(connection: &Connection, entry: &Entry) -> rusqlite::Result<bool> {
    let (table, id, what) = key(entry);
    let mut statement = connection.prepare_cached(
        "DELETE FROM rollbook_cascades WHERE table_name = ?1 AND id = ?2 AND what = ?3 AND revision = ?4",
    )?;
    Ok(statement.execute((table, id, what, entry.revision))? > 0)
}

/// Counts the entries, and returns when a cascade is due. Content is left to retention.
pub(super) fn left(connection: &Connection, now: Timestamp) -> rusqlite::Result<CascadeStep> {
    let mut statement = connection.prepare_cached(
        "SELECT count(*) FILTER (WHERE what = 'children'), count(*) FILTER (WHERE what <> 'children'),
                min(next_try_at) FILTER (WHERE what <> 'content'), max(next_try_at) FILTER (WHERE what <> 'content')
         FROM rollbook_cascades",
    )?;
    statement.query_row((), |row| {
        let (first, last): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let is_ahead = last.is_some_and(|last| last > now.plus(BACKOFF_MAX).to_string());
        // Text that is not a time was written by hand: the entry is due.
        let first = first.map(|first| Timestamp::parse(&first).filter(|_| !is_ahead).unwrap_or(now));
        Ok(CascadeStep {
            parents_left: row.get(0)?,
            rows_left: row.get(1)?,
            due_in: first.map(|first| first.since(now)),
            ..CascadeStep::default()
        })
    })
}

/// Lists entries: all, or those of one id.
pub(super) fn list(
    connection: &Connection,
    about: Option<&str>,
    limit: usize,
) -> rusqlite::Result<PendingCascades> {
    let of = "FROM rollbook_cascades WHERE ?1 IS NULL OR id = ?1 OR parent_id = ?1";
    let counts = format!(
        "SELECT count(*) FILTER (WHERE what = 'children'), count(*) FILTER (WHERE what <> 'children') {of}"
    );
    let (parents, rows) =
        connection.prepare_cached(&counts)?.query_row((about,), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT table_name, id, what, parent_table, parent_id, noted_at, attempts, next_try_at, last_error {of}
         ORDER BY noted_at, table_name, id LIMIT ?2"
    ))?;
    let listed = statement.query_map((about, as_limit(limit)), pending)?.collect::<rusqlite::Result<_>>()?;
    Ok(PendingCascades { parents, rows, listed })
}

fn pending(row: &Row<'_>) -> rusqlite::Result<PendingCascade> {
    let parent: (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
    Ok(PendingCascade {
        table: row.get(0)?,
        id: row.get(1)?,
        // A kind that only a newer Rollbook knows is listed, too: it is about one row.
        what: PendingWork::parse(&row.get::<_, String>(2)?).unwrap_or(PendingWork::Row),
        parent: parent.0.zip(parent.1),
        noted_at: Timestamp::parse(&row.get::<_, String>(5)?),
        attempts: row.get(6)?,
        // Text that is not a time was written by hand: the entry is due.
        next_try_at: Timestamp::parse(&row.get::<_, String>(7)?).unwrap_or(Timestamp::from_millis(0)),
        last_error: row.get(8)?,
    })
}

pub(super) fn as_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
