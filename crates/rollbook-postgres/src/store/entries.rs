//! Ledger entries about erased subjects: finding and removing them, and those that can't be removed.

use rollbook_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::sql::Statements;
use crate::transaction::{Session, Statement, Work};
use crate::types::Time;
use crate::values::Values;

/// Maximum entries that are found at once.
const ENTRIES_MAX: i64 = 10_000;

/// Finds the entries about these ids, after a `svix-id`, at most [`ENTRIES_MAX`].
pub(super) fn about<'s>(
    statements: &'s Statements,
    ids: &[String],
    after: &str,
) -> impl Work<Output = Vec<String>> + use<'s> {
    let values = Values::default().with(ids).with(after).with(ENTRIES_MAX);
    Statement { sql: &statements.about, values, read: |row: &PgRow| row.try_get(0) }
}

/// Reads the oldest entries before a time, as `applied_at` and `svix-id`, from a position of a
/// [`rollbook_core::sweep::LedgerSweep`].
pub(super) fn old<'s>(
    statements: &'s Statements,
    before: Timestamp,
    from: Option<&str>,
    except: &[String],
    limit: usize,
) -> impl Work<Output = Vec<(String, String)>> + use<'s> {
    let values =
        Values::default().with(Time(before)).with(from.unwrap_or("-infinity")).with(except).with_limit(limit);
    Statement {
        sql: &statements.old_entries,
        values,
        read: |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?)),
    }
}

/// Removes entries by `svix-id`. The output is how many were removed, how many are left, and an example of these.
pub(super) struct Forget<'a> {
    pub(super) statements: &'a Statements,
    pub(super) entries: &'a [String],
}

impl Work for Forget<'_> {
    type Output = (u64, u64, Option<String>);

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Self::Output> {
        let these = Values::default().with(self.entries);
        let gone = session.fetch(&self.statements.forget, these.arguments()?).await?.len() as u64;
        let left = session.fetch(&self.statements.kept, these.into_arguments()?).await?;
        let left = left.first().ok_or(sqlx::Error::RowNotFound)?;
        let (count, example) = (left.try_get::<i64, _>(0)?.unsigned_abs(), left.try_get(1)?);
        Ok((gone.min((self.entries.len() as u64).saturating_sub(count)), count, example))
    }
}
