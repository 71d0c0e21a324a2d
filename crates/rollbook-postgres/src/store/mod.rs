//! The store in one schema: the tables of the contract and the ledger.
//!
//! A batch is one transaction of a few statements, however many changes it has: one reads the versions of
//! all its subjects, [`rollbook_core::merge::fold`] says what each change does and which one of each subject is
//! left to write, the winners of each table go through one upsert, sorted by id, and one insert writes the
//! ledger. What would not advance is never sent, so a redelivery locks and writes nothing. Workers that
//! write the same row meet in the upsert, which compares once more: whoever loses there learns it
//! from what is returned.

mod apply;
mod read;
mod sql;

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{LedgerEntry, RowView, Store, StoreError};
use rollbook_core::time::Clock;

use self::apply::Apply;
use self::read::{Delivery, Forbidden, Get, Rows};
use self::sql::Statements;
use crate::fault::Fault;
use crate::migrations;
use crate::place::Place;
use crate::settings::PostgresSettings;
use crate::transaction::Database;

/// A store in a schema of a Postgres database.
pub struct PostgresStore {
    database: Database,
    clock: Arc<dyn Clock>,
    statements: Statements,
    schema: String,
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
        Ok(Self { database, clock, statements, schema: settings.schema })
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let work = Apply { statements: &self.statements, changes, now: self.clock.now() };
        Ok(self.database.run(&work).await?)
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
            "{place}: user {} may not read and write {} in schema {schema}; grant SELECT, INSERT and UPDATE",
            place.user(),
            forbidden.join(", ")
        ))
        .into())
    }
}
