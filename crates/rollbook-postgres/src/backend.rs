//! Setup of a store on Postgres.

use async_trait::async_trait;
use rollbook_core::backend::{Backend, Pending, PendingError, Stopped};
use rollbook_core::store::StoreError;
use rollbook_core::time::Timestamp;
use rollbook_core::weakness::Weakness;

use crate::address::Address;
use crate::link::Ignored;
use crate::migrations::{
    apply_migrations, drop_schema, examine, identity, schema, schema_exists, server_time, weaknesses,
};
use crate::pooler;
use crate::settings::PostgresSettings;

impl PostgresSettings {
    /// Fix for a pooler that no setting names.
    pub const POOLER_FIX: &str = pooler::FIX;

    /// Returns what the URL has that has no effect, and the sign that it leads to a pooler, if neither the URL nor a setting
    /// says what there is. Connects to nothing.
    pub fn ignored(&self) -> Ignored {
        Address::of(self).map(|(_, ignored)| ignored).unwrap_or_default()
    }
}

#[async_trait]
impl Backend for PostgresSettings {
    fn describe(&self) -> String {
        let schema = &self.schema;
        match Address::parse(&self.url) {
            Ok((address, _)) => format!("{address}, database {}, schema {schema}", address.database()),
            Err(_) => format!("Postgres, schema {schema}"),
        }
    }

    fn check(&self) -> Result<(), String> {
        Address::of(self)?;
        schema(&self.schema).map(drop).map_err(|fault| match fault.into() {
            StoreError::Deployment(wrong) => wrong,
            error => error.to_string(),
        })
    }

    async fn pending(&self) -> Result<Pending, PendingError> {
        examine(self).await.map_err(|error| match error {
            StoreError::Deployment(why) => PendingError::Manual(why),
            error => PendingError::Unavailable(error.to_string()),
        })
    }

    async fn migrate(&self, _stopped: Stopped) -> Result<Vec<&'static str>, String> {
        apply_migrations(self).await.map_err(|error| error.to_string())
    }

    async fn exists(&self) -> Result<bool, String> {
        schema_exists(self).await.map_err(|error| error.to_string())
    }

    async fn identity(&self) -> Result<Option<String>, String> {
        identity(self).await.map(Some).map_err(|error| error.to_string())
    }

    async fn server_time(&self) -> Option<Result<Timestamp, String>> {
        Some(server_time(self).await.map_err(|error| error.to_string()))
    }

    async fn weaknesses(&self) -> Result<Vec<Weakness>, String> {
        weaknesses(self).await.map_err(|error| error.to_string())
    }

    async fn remove(&self) -> Result<(), String> {
        drop_schema(self).await.map_err(|error| error.to_string())
    }
}
