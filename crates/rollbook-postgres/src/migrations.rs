//! Schema migrations: finds the pending ones and applies them, each once and in order.

mod apply;
pub(crate) mod feed;
mod refused;
mod rights;
pub(crate) mod state;
mod steps;

use rollbook_core::backend::Pending;
use rollbook_core::store::StoreError;
use rollbook_core::time::Timestamp;
use rollbook_core::weakness::Weakness;
use sqlx::Row as _;

pub use self::state::OLDEST_VERSION;
use self::state::{OF_SERVER, State, guard_sql, read};
use crate::address::Address;
use crate::fault::Fault;
use crate::settings::PostgresSettings;
use crate::transaction::{Database, Session, Work};
use crate::values::Values;

/// Maximum length of a name in Postgres, in bytes.
const SCHEMA_LENGTH_MAX: usize = 63;

/// Examines the database without changes to it. The database is refused if the server is too old, its
/// encoding can't hold the data, or a newer Rollbook changed the schema.
pub(crate) async fn examine(settings: &PostgresSettings) -> Result<Pending, StoreError> {
    let (database, schema) = open(settings)?;
    let state = match database.run(&Ask { schema: &schema }).await {
        Ok(state) => state,
        // To read takes a worker's rights; only a migration needs the owner's.
        Err(fault) => return Err(crate::rights::with_grants(&database, &schema, fault).await.into()),
    };
    let newer = state.newer();
    Ok(match state.pending(database.address(), &schema) {
        Ok(names) => Pending { names, refusal: None, newer },
        Err(refusal) => Pending { names: Vec::new(), refusal: Some(refusal.to_string()), newer },
    })
}

/// Returns the names of pending migrations, without changes to the database.
///
/// # Errors
/// The database is unreachable, or is refused.
pub async fn pending_migrations(settings: &PostgresSettings) -> Result<Vec<&'static str>, StoreError> {
    match examine(settings).await? {
        Pending { refusal: Some(refusal), .. } => Err(StoreError::Deployment(refusal)),
        Pending { names, .. } => Ok(names),
    }
}

/// Applies pending migrations and creates the schema if it does not exist. Returns their names. Then makes the
/// triggers of the change feed, or drops them, as the settings say. Of concurrent calls one applies each migration. A new schema gets all migrations or none; otherwise finished parts stay,
/// and the next call continues from there.
///
/// # Errors
/// The database can't be written, or is refused.
pub async fn apply_migrations(settings: &PostgresSettings) -> Result<Vec<&'static str>, StoreError> {
    // One connection holds the lock against other calls, the other one applies migrations.
    let settings = PostgresSettings { connections_max: settings.connections_max.max(2), ..settings.clone() };
    let (database, schema) = open(&settings)?;
    match apply::apply(&database, &schema, &settings).await {
        Ok(names) => Ok(names),
        Err(fault) => Err(rights::with_grants(&database, &settings, fault).await.into()),
    }
}

/// Returns whether the database has the schema, whatever it contains.
pub(crate) async fn schema_exists(settings: &PostgresSettings) -> Result<bool, StoreError> {
    let (database, schema) = open(settings)?;
    Ok(database.run(&Exists { schema: &schema }).await?)
}

/// Returns the time of the server's clock.
pub(crate) async fn server_time(settings: &PostgresSettings) -> Result<Timestamp, StoreError> {
    let (database, _) = open(settings)?;
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8".into();
    let rows =
        database.rows(&now, Values::default(), |row| row.try_get(0).map(Timestamp::from_millis)).await?;
    rows.first().copied().ok_or_else(|| StoreError::Unavailable("the server returns no time".to_owned()))
}

/// Returns what no two schemas share: the start of the server, and the numbers of database and schema. No right is needed.
pub(crate) async fn identity(settings: &PostgresSettings) -> Result<String, StoreError> {
    let (database, schema) = open(settings)?;
    // The schema's name is validated.
    let sql = format!(
        "SELECT format('schema %s.%s.%s',
            (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8,
            (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()),
            (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = '{schema}'))"
    );
    let rows = database.rows(&sql.into(), Values::default(), |row| row.try_get::<String, _>(0)).await?;
    rows.into_iter().next().ok_or_else(|| StoreError::Unavailable("the server returns no row".to_owned()))
}

/// Returns the roles that may create objects in the schema although they should not, as weaknesses.
pub(crate) async fn weaknesses(settings: &PostgresSettings) -> Result<Vec<Weakness>, StoreError> {
    let (database, schema) = open(settings)?;
    let roles = database.names(&rights::creators(&schema)).await?;
    Ok(roles.into_iter().map(|role| rights::weakness(&schema, role)).collect())
}

/// Drops the schema with everything in it, whoever created it.
pub(crate) async fn drop_schema(settings: &PostgresSettings) -> Result<(), StoreError> {
    let (database, schema) = open(settings)?;
    // Not prepared: at a pooler, a prepared statement may be another client's. It returns no names.
    Ok(database.names(&format!(r#"DROP SCHEMA IF EXISTS "{schema}" CASCADE"#)).await.map(drop)?)
}

fn open(settings: &PostgresSettings) -> Result<(Database, String), Fault> {
    let (address, _) = Address::of(settings).map_err(Fault::Deployment)?;
    let schema = schema(&settings.schema)?;
    Ok((Database::new(address, settings), schema))
}

/// Validates the name of a schema, so that it can be written into SQL between double quotes.
///
/// # Errors
/// The name has other characters, is too long, or is reserved by Postgres.
pub(crate) fn schema(name: &str) -> Result<String, Fault> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let fits = (1..=SCHEMA_LENGTH_MAX).contains(&name.len()) && name.bytes().all(is_plain);
    if !fits || name.starts_with(|first: char| first.is_ascii_digit()) || name.starts_with("pg_") {
        return Err(Fault::Deployment(format!(
            "the schema's name must be lower-case letters, digits and _, at most {SCHEMA_LENGTH_MAX}, \
             starting with neither a digit nor pg_"
        )));
    }
    Ok(name.to_owned())
}

struct Exists<'a> {
    schema: &'a str,
}

impl Work for Exists<'_> {
    type Output = bool;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<bool> {
        let found = "SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1";
        let schema = Values::default().with(self.schema).into_arguments()?;
        Ok(!session.fetch(&found.into(), schema).await?.is_empty())
    }
}

/// Reads the state of a database.
pub(crate) struct Ask<'a> {
    pub(crate) schema: &'a str,
}

impl Work for Ask<'_> {
    type Output = State;

    /// The guard itself relies on this state.
    const GUARDED: bool = false;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<State> {
        // The schema's name is validated, so it can be written into a text.
        let schema = self.schema;
        let server = session
            .ask(&format!(
                "SELECT {OF_SERVER}, EXISTS (SELECT FROM pg_catalog.pg_tables
                     WHERE schemaname = '{schema}' AND tablename = 'rollbook_migrations')::text"
            ))
            .await?;
        let server = server.first().ok_or(sqlx::Error::RowNotFound)?;
        let (version, encoding) = (server.try_get(0)?, server.try_get(1)?);
        let exists: String = server.try_get(2)?;
        let rows = if exists == "true" {
            let rows = session.ask(&guard_sql(schema)).await?;
            rows.iter().map(|row| read(row, 2)).collect::<sqlx::Result<_>>()?
        } else {
            Vec::new()
        };
        Ok(State { version, encoding, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_has_a_plain_name() {
        for name in ["clerk", "mirror_2", "_", &"x".repeat(63)] {
            assert_eq!(schema(name), Ok(name.to_owned()));
        }
        for name in ["", "Clerk", "2nd", "pg_catalog", "a b", "a\"b", "a.b", "ü", &"x".repeat(64)] {
            assert!(schema(name).is_err(), "{name}");
        }
    }
}
