//! Ledger entries about erased subjects: finding and removing them, and those that can't be removed.

use rollbook_core::time::Timestamp;
use sqlx::Row as _;

use super::sql::Statements;
use super::values::Values;
use crate::transaction::{Session, Work};
use crate::types::Time;

/// Maximum entries that are found at once.
const ENTRIES_MAX: i64 = 10_000;

/// Finds the entries about these ids, after a `svix-id`, at most [`ENTRIES_MAX`].
pub(super) struct About<'a> {
    pub(super) statements: &'a Statements,
    pub(super) ids: &'a [String],
    pub(super) after: &'a str,
}

impl Work for About<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        let values = Values::default().with(self.ids).with(self.after).with(ENTRIES_MAX);
        let rows = session.fetch(&self.statements.about, values.into_arguments()?).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

/// Reads the oldest entries before a time, as `applied_at` and `svix-id`, from a position of a
/// [`rollbook_core::sweep::LedgerSweep`].
pub(super) struct Old<'a> {
    pub(super) statements: &'a Statements,
    pub(super) before: Timestamp,
    pub(super) from: Option<String>,
    pub(super) except: Vec<String>,
    pub(super) limit: usize,
}

impl Work for Old<'_> {
    type Output = Vec<(String, String)>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<(String, String)>> {
        let values = Values::default()
            .with(Time(self.before))
            .with(self.from.as_deref().unwrap_or("-infinity"))
            .with(&self.except)
            .with_limit(self.limit);
        let rows = session.fetch(&self.statements.old_entries, values.into_arguments()?).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
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
