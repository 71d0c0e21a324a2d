//! The store in one schema: the tables of the contract and the ledger.
//!
//! A batch is one transaction of a few statements, however many changes it has: one reads the states of
//! all its subjects and their parents, [`rollbook_core::merge::fold`] says what each change does and what of each
//! subject is left to write, the winners of each table go through one upsert, sorted by id, and one insert
//! writes the ledger. What would not advance is never sent, so a redelivery writes nothing. Workers
//! that write the same row meet in the upsert, which takes only what builds on the row as it is: whoever
//! loses there holds its lock, reads it again and folds again. What rows have from their parents is looked at
//! once more after the commit; see [`inherit`] and [`look`].

mod apply;
mod inherit;
mod look;
mod read;
mod rehearse;
mod sql;
mod upkeep;
mod write;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{Due, ErasedCounts, Keeping, LedgerEntry, RowView, Store, StoreError, Tidied};
use rollbook_core::time::{Clock, Timestamp};

use self::apply::{Apply, Done};
use self::inherit::{Doubtful, Mend};
use self::look::Look;
use self::read::{Deliveries, Delivery, Forbidden, Get, Rows, RowsWhere};
use self::rehearse::Rehearse;
use self::sql::Statements;
use self::upkeep::{Erase, Tidy};
use crate::fault::Fault;
use crate::migrations;
use crate::place::Place;
use crate::settings::PostgresSettings;
use crate::transaction::Database;

/// How long an operator's erasure may take: as long as all that hangs on an organization needs.
const ERASE_MAX: Duration = Duration::from_secs(600);

/// A store in a schema of a Postgres database.
pub struct PostgresStore {
    database: Database,
    clock: Arc<dyn Clock>,
    statements: Statements,
    schema: String,
    keeping: Keeping,
}

impl PostgresStore {
    /// A store that connects when it is first used, and again whenever it has to.
    ///
    /// # Errors
    /// The URL or the schema's name is wrong.
    pub fn new(settings: PostgresSettings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (place, ignored) = Place::parse(&settings.url).map_err(StoreError::Deployment)?;
        if !ignored.is_empty() {
            tracing::warn!(
                parameters = ignored.join(", "),
                "parameters of the Postgres URL without a meaning here"
            );
        }
        let statements = Statements::new(&migrations::schema(&settings.schema)?);
        let database = Database::new(place, &settings);
        Ok(Self { database, clock, statements, schema: settings.schema, keeping: Keeping::default() })
    }

    /// The same store, keeping what this says.
    #[must_use]
    pub fn keeping(self, keeping: Keeping) -> Self {
        Self { keeping, ..self }
    }

    /// Makes sure, after a commit, that what hangs on parents has what it should from them.
    async fn mend(&self, doubtful: &Doubtful) -> Result<(), StoreError> {
        let mend = Mend { statements: &self.statements, doubtful, now: self.clock.now() };
        while !doubtful.is_empty() && self.database.run(&mend).await? {}
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let (keeping, now) = (self.keeping, self.clock.now());
        let work = Apply { statements: &self.statements, changes, keeping, now };
        let Done { outcomes, doubts } = self.database.run(&work).await?;
        if !doubts.is_empty() {
            let look = Look { statements: &self.statements, doubts: &doubts, now: self.clock.now() };
            self.mend(&self.database.run(&look).await?).await?;
        }
        Ok(outcomes)
    }

    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        Ok(self.database.run(&Get { sql: &self.statements.of(resource).get, resource, id }).await?)
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let sql = &self.statements.of(resource).rows;
        let after = after.unwrap_or_default();
        Ok(self.database.run(&Rows { sql, resource, after, limit }).await?)
    }

    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let Some(sql) = sql::rows_where(&self.schema, resource, column) else { return Ok(Vec::new()) };
        Ok(self.database.run(&RowsWhere { sql: &sql, resource, value, limit }).await?)
    }

    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        Ok(self.database.run(&Deliveries { sql: &self.statements.deliveries, subject_id, limit }).await?)
    }

    async fn erase(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
    ) -> Result<ErasedCounts, StoreError> {
        let mut subjects = subjects.to_vec();
        subjects.sort_by(|(one, id), (other, other_id)| {
            (sql::number_of(one), id).cmp(&(sql::number_of(other), other_id))
        });
        let work = Erase { statements: &self.statements, subjects: &subjects, at };
        let erased = self.database.run_within(ERASE_MAX, &work).await?;
        self.mend(&work.doubtful()).await?;
        Ok(erased)
    }

    async fn tidy(&self, due: &Due) -> Result<Tidied, StoreError> {
        let now = self.clock.now();
        let (tidied, doubtful) = self.database.run(&Tidy { statements: &self.statements, due, now }).await?;
        self.mend(&doubtful).await?;
        Ok(tidied)
    }

    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        Ok(self.database.run(&Delivery { sql: &self.statements.delivery, id }).await?)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let (place, schema) = (self.database.place(), &self.schema);
        let applied = self.database.run(&migrations::Applied { schema }).await?;
        if let Some((name, _)) = migrations::pending(place, schema, &applied)?.next() {
            return Err(
                Fault::Deployment(format!("migration {name} is pending; run: rollbook migrate")).into()
            );
        }
        let forbidden = self.database.run(&Forbidden { sql: &self.statements.forbidden }).await?;
        if forbidden.is_empty() {
            return Ok(());
        }
        Err(Fault::Deployment(format!(
            "{place}: user {} lacks rights in schema {schema}; grant what is missing on {}",
            place.user(),
            forbidden.join(", ")
        ))
        .into())
    }

    async fn rehearse(&self) -> Result<bool, StoreError> {
        let (keeping, now) = (self.keeping, self.clock.now());
        self.database.run(&Rehearse { statements: &self.statements, keeping, now }).await?;
        Ok(true)
    }
}
