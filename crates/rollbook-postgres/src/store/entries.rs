//! Ledger entries about erased subjects: finding and removing them, and those that can't be removed.

use std::fmt;

use rollbook_core::time::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::sql::Statements;
use crate::transaction::{Session, Work};
use crate::types::Time;

/// Maximum entries that are found at once.
const ENTRIES_MAX: i64 = 10_000;

/// Ledger entries that could not be removed.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) count: u64,
    pub(super) example: String,
    pub(super) why: String,
}

impl Kept {
    pub(super) fn add(&mut self, count: u64, example: String, why: &str) {
        if self.count == 0 {
            (self.example, self.why) = (example, why.to_owned());
        }
        self.count += count;
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, example, why } = self;
        write!(f, "{count} ledger entries (table deliveries) about them stay, such as {example}: {why}")
    }
}

/// Finds the entries about these ids, after a `svix-id`, at most [`ENTRIES_MAX`].
pub(super) struct About<'a> {
    pub(super) statements: &'a Statements,
    pub(super) ids: &'a [String],
    pub(super) after: &'a str,
}

impl Work for About<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        let mut arguments = texts(self.ids)?;
        arguments.add(self.after).map_err(sqlx::Error::Encode)?;
        arguments.add(ENTRIES_MAX).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(&self.statements.about, arguments).await?;
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
        let mut arguments = PgArguments::default();
        arguments.add(Time(self.before)).map_err(sqlx::Error::Encode)?;
        arguments.add(self.from.as_deref().unwrap_or("-infinity")).map_err(sqlx::Error::Encode)?;
        arguments.add(&self.except).map_err(sqlx::Error::Encode)?;
        arguments.add(i64::try_from(self.limit).unwrap_or(i64::MAX)).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(&self.statements.old_entries, arguments).await?;
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
        let gone = session.fetch(&self.statements.forget, texts(self.entries)?).await?.len() as u64;
        let left = session.fetch(&self.statements.kept, texts(self.entries)?).await?;
        let left = left.first().ok_or(sqlx::Error::RowNotFound)?;
        let (count, example) = (left.try_get::<i64, _>(0)?.unsigned_abs(), left.try_get(1)?);
        Ok((gone.min((self.entries.len() as u64).saturating_sub(count)), count, example))
    }
}

fn texts(texts: &[String]) -> sqlx::Result<PgArguments> {
    let mut arguments = PgArguments::default();
    arguments.add(texts.iter().map(String::as_str).collect::<Vec<&str>>()).map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}
