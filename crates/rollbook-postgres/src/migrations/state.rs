//! State of a database, and whether this Rollbook may work on it.
//!
//! Applied migrations are rows of `rollbook_migrations`. A row records whether its migration `expands`:
//! whether a Rollbook that does not know it still works correctly. Every transaction of a store reads these
//! rows first and holds the table's weakest lock until its end, and the start of a migration takes the
//! strongest lock. So no transaction writes to a schema that has changed since its check (decision 0170).

use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _, raw_sql};

use super::steps::STEPS;
use crate::address::Address;
use crate::fault::Fault;

/// Oldest supported Postgres, as `server_version_num`.
pub const OLDEST_VERSION: i32 = 120_000;
/// Encoding that can hold every character that Clerk may send.
const ENCODING: &str = "UTF8";
/// Suffix of a migration's name in its row while it is being applied. To a Rollbook without phases this is an
/// unknown migration, so it waits.
pub(super) const UNFINISHED: &str = " (unfinished)";

/// A row of `rollbook_migrations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(super) name: String,
    pub(super) expands: bool,
}

/// State of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(super) version: i32,
    pub(super) encoding: String,
    pub(super) rows: Vec<Row>,
}

/// Reason why this Rollbook does not work on a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(String);

impl From<Refusal> for sqlx::Error {
    fn from(refusal: Refusal) -> Self {
        Self::Encode(Box::new(refusal))
    }
}

impl From<Refusal> for Fault {
    fn from(Refusal(text): Refusal) -> Self {
        Self::Deployment(text)
    }
}

impl Refusal {
    /// Returns the refusal inside an error, if there is one.
    pub(crate) fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Encode(error) => error.downcast_ref::<Self>().cloned(),
            _ => None,
        }
    }
}

pub(super) const OF_SERVER: &str =
    "current_setting('server_version_num')::int4, current_setting('server_encoding')";

/// First SELECT of every transaction of a store. Databases of earlier builds have no column `expands`.
pub(super) fn guard_sql(schema: &str) -> String {
    format!(
        r#"SELECT {OF_SERVER}, step.name, to_jsonb(step) ->> 'expands' FROM "{schema}".rollbook_migrations AS step"#
    )
}

/// Refuses a schema that a store must not work on.
pub(crate) struct Guard {
    address: Address,
    schema: String,
    /// Number of rows of `rollbook_migrations` at the last check that passed; 0 before the first.
    passed: AtomicUsize,
}

impl Guard {
    /// Returns a guard for a schema with a validated name.
    pub(crate) fn new(address: Address, schema: &str) -> Self {
        Self { address, schema: schema.to_owned(), passed: AtomicUsize::new(0) }
    }

    /// Begins a transaction with `begin` and checks the schema within it. The start of a migration adds a
    /// row, and no migration was unfinished when a check passed: as long as the number of rows is the same,
    /// the rows are the same.
    ///
    /// # Errors
    /// The connection failed, or the schema is refused.
    pub(crate) async fn begin(&self, connection: &mut PgConnection, begin: &str) -> sqlx::Result<()> {
        let passed = self.passed.load(Ordering::Relaxed);
        let mut sql = begin.to_owned();
        if passed > 0 {
            let schema = &self.schema;
            let as_many = format!(r#"SELECT FROM "{schema}".rollbook_migrations OFFSET {}"#, passed - 1);
            let found = raw_sql(AssertSqlSafe(sql + &as_many)).fetch_all(&mut *connection).await?;
            if found.len() == 1 {
                return Ok(());
            }
            self.passed.store(0, Ordering::Relaxed);
            sql = String::new();
        }
        let rows = raw_sql(AssertSqlSafe(sql + &guard_sql(&self.schema))).fetch_all(connection).await?;
        self.check(&rows)?;
        self.passed.store(rows.len(), Ordering::Relaxed);
        Ok(())
    }

    fn check(&self, rows: &[PgRow]) -> sqlx::Result<()> {
        // A schema without any row lacks the first step, whatever the server is.
        let mut state = State { version: OLDEST_VERSION, encoding: ENCODING.to_owned(), rows: Vec::new() };
        for row in rows {
            (state.version, state.encoding) = (row.try_get(0)?, row.try_get(1)?);
            state.rows.push(read(row, 2)?);
        }
        match state.pending(&self.address, &self.schema)?.first() {
            None => Ok(()),
            Some(name) => Err(Refusal(format!("migration {name} is pending; run: rollbook migrate")).into()),
        }
    }
}

pub(super) fn read(row: &PgRow, at: usize) -> sqlx::Result<Row> {
    let expands: Option<String> = row.try_get(at + 1)?;
    Ok(Row { name: row.try_get(at)?, expands: expands.as_deref() == Some("true") })
}

impl State {
    /// Returns the names of pending migrations.
    ///
    /// # Errors
    /// This Rollbook can't work on the database, whatever is applied.
    pub(crate) fn pending(&self, address: &Address, schema: &str) -> Result<Vec<&'static str>, Refusal> {
        self.check_server(address)?;
        if let Some(newer) = self.rows.iter().find(|row| !is_known(row) && !row.expands) {
            return Err(Refusal(format!(
                "{address}: schema {schema} has migration {}, which this Rollbook does not know and can't work on; \
                 use the Rollbook that applied it, or a newer one",
                newer.name
            )));
        }
        let lacks = |name: &str| self.rows.iter().all(|row| row.name != name);
        Ok(STEPS.iter().map(|step| step.name).filter(|name| lacks(name)).collect())
    }

    /// Returns the names of expanding migrations that this Rollbook does not know.
    pub(crate) fn newer(&self) -> Vec<String> {
        let newer = self.rows.iter().filter(|row| row.expands && !is_known(row));
        let mut names: Vec<String> = newer.map(|row| row.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn check_server(&self, address: &Address) -> Result<(), Refusal> {
        let (version, encoding) = (self.version, &self.encoding);
        if version < OLDEST_VERSION {
            return Err(Refusal(format!(
                "{address}: the server is Postgres {}; the oldest supported version is {}: upgrade the server",
                named(version),
                named(OLDEST_VERSION)
            )));
        }
        if encoding != ENCODING {
            return Err(Refusal(format!(
                "{address}: database {} has the encoding {encoding}, which can't hold every character that Clerk sends; \
                 use one that has {ENCODING}: createdb --template=template0 --encoding={ENCODING} NAME",
                address.database()
            )));
        }
        Ok(())
    }
}

/// Returns whether this Rollbook knows the migration, applied or unfinished.
fn is_known(row: &Row) -> bool {
    let name = row.name.strip_suffix(UNFINISHED).unwrap_or(&row.name);
    STEPS.iter().any(|step| step.name == name)
}

/// Formats a version: major and minor since 10, three numbers before.
fn named(version: i32) -> String {
    let (major, rest) = (version / 10_000, version % 10_000);
    match rest {
        0 if major >= 10 => major.to_string(),
        rest if major >= 10 => format!("{major}.{rest}"),
        rest => format!("{major}.{}.{}", rest / 100, rest % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address::parse("postgres://me@h/app").expect("a URL").0
    }

    fn state(rows: &[(&str, bool)]) -> State {
        let rows = rows.iter().map(|(name, expands)| Row { name: (*name).to_owned(), expands: *expands });
        State { version: OLDEST_VERSION, encoding: ENCODING.to_owned(), rows: rows.collect() }
    }

    fn all(more: &[(&str, bool)]) -> State {
        let known: Vec<(&str, bool)> = STEPS.iter().map(|step| (step.name, step.expands)).collect();
        state(&[&known[..], more].concat())
    }

    #[test]
    fn a_newer_step_is_worked_on_only_if_its_row_says_that_it_expands() {
        let judged = |state: &State| state.pending(&address(), "clerk");
        assert_eq!(judged(&all(&[])), Ok(vec![]));
        let newer = all(&[("0099_later", true), ("0098_later", true)]);
        assert_eq!(judged(&newer), Ok(vec![]));
        assert_eq!(newer.newer(), ["0098_later", "0099_later"]);
        assert_eq!(all(&[]).newer(), [""; 0]);
        for newer in [
            &[("0099_later", false)][..],
            &[("0098_later", true), ("0099_later", false)],
            // Begun by a newer one, and not yet done.
            &[("0099_later (unfinished)", false)],
        ] {
            let Err(Refusal(text)) = judged(&all(newer)) else { panic!("it is worked on") };
            assert!(text.contains("0099_later") && text.contains("newer"), "{text}");
        }
    }

    #[test]
    fn a_step_that_is_not_finished_is_pending() {
        let pending = state(&[("0001_mirror", false), ("0002_whole_of_clerk (unfinished)", false)]);
        let pending = pending.pending(&address(), "clerk").expect("it may go on");
        assert_eq!(pending[0], "0002_whole_of_clerk");
    }

    #[test]
    fn servers_before_the_oldest_supported_version_are_refused_by_their_version() {
        for (version, name) in [(119_999, "11.9999"), (110_022, "11.22"), (90_603, "9.6.3")] {
            let old = State { version, ..all(&[]) };
            let Err(Refusal(text)) = old.pending(&address(), "clerk") else { panic!("{version} is taken") };
            assert!(text.contains(&format!("Postgres {name};")) && text.contains("version is 12:"), "{text}");
        }
        for version in [120_000, 120_022, 150_014, 180_000] {
            assert_eq!(State { version, ..all(&[]) }.pending(&address(), "clerk"), Ok(vec![]), "{version}");
        }
    }

    #[test]
    fn a_database_of_another_encoding_is_refused_by_its_name_and_encoding() {
        for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
            let other = State { encoding: encoding.to_owned(), ..state(&[]) };
            let Err(Refusal(text)) = other.pending(&address(), "clerk") else {
                panic!("{encoding} is taken")
            };
            assert!(
                text.contains(encoding) && text.contains("database app") && text.contains("UTF8"),
                "{text}"
            );
        }
    }
}
