//! The schema's steps, each applied once and in order, and the table that says which. A step that has
//! been released never changes: tests pin their checksums.

use std::time::Duration;

use rollbook_core::store::StoreError;
use rollbook_core::time::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use crate::fault::Fault;
use crate::place::Place;
use crate::settings::PostgresSettings;
use crate::transaction::{Database, Session, Work};

/// A step: its name and its SQL, which names no schema.
type Step = (&'static str, &'static str);

const STEPS: &[Step] = &[
    ("0001_mirror", include_str!("../../../migrations/postgres/0001_mirror.sql")),
    ("0002_whole_of_clerk", include_str!("../../../migrations/postgres/0002_whole_of_clerk.sql")),
    ("0003_ends", include_str!("../../../migrations/postgres/0003_ends.sql")),
    ("0004_storage", include_str!("../../../migrations/postgres/0004_storage.sql")),
    ("0007_links", include_str!("../../../migrations/postgres/0007_links.sql")),
];

/// The key of the lock that is held while steps are applied. Any number does that nobody else uses.
const LOCK: i64 = i64::from_be_bytes(*b"rollbook");

/// How long applying may take: a step may have to read and write big tables.
const APPLY_MAX: Duration = Duration::from_secs(3600);

/// The longest name that Postgres keeps whole.
const SCHEMA_LENGTH_MAX: usize = 63;

/// The names of the steps that the database lacks. Nothing is made.
///
/// # Errors
/// The database can't be asked, or a newer Rollbook made the schema.
pub async fn pending_migrations(settings: &PostgresSettings) -> Result<Vec<&'static str>, StoreError> {
    let (database, schema) = open(settings)?;
    let applied = database.run(&Applied { schema: &schema }).await?;
    Ok(pending(database.place(), &schema, &applied)?.map(|(name, _)| name).collect())
}

/// Applies what is pending, all or nothing, making the schema where there is none. Returns the names. Two
/// at once do it once.
///
/// # Errors
/// The database can't be written, or a newer Rollbook made the schema.
pub async fn apply_migrations(settings: &PostgresSettings) -> Result<Vec<&'static str>, StoreError> {
    let (database, schema) = open(settings)?;
    let before = database.run_within(APPLY_MAX, &Apply { schema: &schema }).await?;
    Ok(pending(database.place(), &schema, &before)?.map(|(name, _)| name).collect())
}

/// Whether the database has the schema, whatever is in it.
///
/// # Errors
/// The database can't be asked.
pub async fn schema_exists(settings: &PostgresSettings) -> Result<bool, StoreError> {
    let (database, schema) = open(settings)?;
    Ok(database.run(&Exists { schema: &schema }).await?)
}

/// What the server's clock says.
///
/// # Errors
/// The database can't be asked.
pub async fn server_time(settings: &PostgresSettings) -> Result<Timestamp, StoreError> {
    let (database, _) = open(settings)?;
    Ok(Timestamp::from_millis(database.run(&Now).await?))
}

/// Drops the schema with all that is in it, whoever made it.
///
/// # Errors
/// It could not be dropped.
pub async fn drop_schema(settings: &PostgresSettings) -> Result<(), StoreError> {
    let (database, schema) = open(settings)?;
    Ok(database.run(&Drop { schema: &schema }).await?)
}

fn open(settings: &PostgresSettings) -> Result<(Database, String), Fault> {
    let (place, _) = Place::parse(&settings.url).map_err(Fault::Deployment)?;
    let schema = schema(&settings.schema)?;
    Ok((Database::new(place, settings), schema))
}

/// The name of a schema, fit to be written into SQL between double quotes.
///
/// # Errors
/// It is not a plain name, or one of Postgres's own.
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

/// The steps that are not among these names.
///
/// # Errors
/// There is a name that is not known here.
pub(crate) fn pending(
    place: &Place,
    schema: &str,
    applied: &[String],
) -> Result<impl Iterator<Item = Step>, Fault> {
    if let Some(newer) = applied.iter().find(|name| STEPS.iter().all(|(known, _)| known != name)) {
        return Err(Fault::Deployment(format!(
            "{place}: schema {schema} has migration {newer}, which this Rollbook does not know; use the \
             Rollbook that made it, or a newer one"
        )));
    }
    let applied = applied.to_vec();
    Ok(STEPS.iter().copied().filter(move |(name, _)| applied.iter().all(|known| known != name)))
}

/// The names of the applied steps.
pub(crate) struct Applied<'a> {
    pub(crate) schema: &'a str,
}

impl Work for Applied<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        applied(session, self.schema).await
    }
}

async fn applied(session: &mut Session<'_>, schema: &str) -> sqlx::Result<Vec<String>> {
    let mut arguments = PgArguments::default();
    arguments.add(schema).map_err(sqlx::Error::Encode)?;
    let found =
        "SELECT true FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'rollbook_migrations'";
    if session.fetch(&found.into(), arguments).await?.is_empty() {
        return Ok(Vec::new());
    }
    let names = format!(r#"SELECT name FROM "{schema}".rollbook_migrations ORDER BY name"#);
    let rows = session.fetch(&names.into(), PgArguments::default()).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

struct Exists<'a> {
    schema: &'a str,
}

impl Work for Exists<'_> {
    type Output = bool;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<bool> {
        let mut arguments = PgArguments::default();
        arguments.add(self.schema).map_err(sqlx::Error::Encode)?;
        let found = "SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1";
        Ok(!session.fetch(&found.into(), arguments).await?.is_empty())
    }
}

struct Now;

impl Work for Now {
    type Output = i64;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<i64> {
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        let rows = session.fetch(&now.into(), PgArguments::default()).await?;
        rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
    }
}

struct Drop<'a> {
    schema: &'a str,
}

impl Work for Drop<'_> {
    type Output = ();

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<()> {
        session.script(format!(r#"DROP SCHEMA IF EXISTS "{}" CASCADE"#, self.schema)).await
    }
}

/// Applies all steps that are not there; its output are the names of those that were there before.
struct Apply<'a> {
    schema: &'a str,
}

impl Work for Apply<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        // A lock of the transaction: a pooler may give the session to someone else afterwards. Who applies
        // them first may take long: only what holds up the team's own sessions is cut short.
        let first = format!(
            "SET LOCAL statement_timeout = 0;
             SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
             SELECT set_config('rollbook.lock_timeout', current_setting('lock_timeout'), true);
             SET LOCAL lock_timeout = 0;
             SELECT pg_advisory_xact_lock({LOCK});
             SELECT set_config('lock_timeout', current_setting('rollbook.lock_timeout'), true)"
        );
        session.script(first).await?;
        let before = applied(session, self.schema).await?;
        let knows = |step: &Step| before.iter().any(|name| name == step.0);
        if before.iter().any(|name| STEPS.iter().all(|(known, _)| known != name)) || STEPS.iter().all(knows) {
            return Ok(before);
        }
        let schema = self.schema;
        // Asked first: `IF NOT EXISTS` needs the right to make schemas even where there is nothing to make.
        if !(Exists { schema }).run(session).await? {
            session.script(format!(r#"CREATE SCHEMA "{schema}""#)).await?;
        }
        session
            .script(format!(
                r#"SET LOCAL search_path TO "{schema}";
               CREATE TABLE IF NOT EXISTS rollbook_migrations (
                   name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now()
               )"#
            ))
            .await?;
        for (name, sql) in STEPS.iter().filter(|step| !knows(step)) {
            session.script((*sql).to_owned()).await?;
            session.script(format!("INSERT INTO rollbook_migrations (name) VALUES ('{name}')")).await?;
        }
        Ok(before)
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

    #[test]
    fn a_schema_of_a_newer_rollbook_is_refused() {
        let (place, _) = Place::parse("postgres://me@h/app").expect("a URL");
        let Err(Fault::Deployment(text)) = pending(&place, "clerk", &["0099_later".to_owned()]).map(drop)
        else {
            panic!("a newer schema is taken");
        };
        assert!(text.contains("0099_later"), "{text}");
    }
}
