//! Rights that a role needs on Rollbook's tables, and the statements that grant the missing ones.
//!
//! Each question here is a plain text without a prepared statement: at a pooler that no setting names, a prepared statement
//! may be another client's, and its rows would be reported as missing rights.

use std::fmt::Write as _;

use rollbook_core::catalog::RESOURCES;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::fault::Fault;
use crate::transaction::{Database, Session, Work};

/// Rights on a table that keeps its rows, and on one that loses rows again.
const WRITES: &[&str] = &["SELECT", "INSERT", "UPDATE"];
const DELETES: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Tables of the worker that are not in the catalog. They lose rows again, like those of [`RECORDS`].
const OWN: [&str; 5] = ["deliveries", "rollbook_cascades", "changes_pending", "changes", "changes_state"];

/// Tables of the reconciler. A worker applies deliveries without them.
const RECORDS: [&str; 4] = ["reconcile_runs", "reconcile_held", "reconcile_locks", "reconcile_walks"];

/// Tables of the forwarder. A worker applies deliveries without them.
const FORWARDS: [&str; 2] = ["forwards", "forward_changes"];

/// The script that grants everything.
pub(crate) const SCRIPT: &str = "ops/postgres/roles.sh grants all of it, and may be run again";

/// Adds the statements that grant a worker's rights to an error, if the role lacks them. The words of the error stay. Such a
/// role never needs to own or to create anything.
pub(crate) async fn with_grants(database: &Database, schema: &str, fault: Fault) -> Fault {
    let Fault::Deployment(text) = &fault else { return fault };
    match database.run(&AskWithoutRights { schema }).await {
        Ok(grants) if !grants.is_empty() => Fault::Deployment(format!(
            "{text}. Fix, as the owner of the tables or a superuser: {} ({SCRIPT})",
            grants.join("; ")
        )),
        _ => fault,
    }
}

/// A table, and the rights that a role needs on it.
pub(crate) type Needed = (&'static str, &'static [&'static str]);

/// Returns what a worker needs to apply deliveries.
pub(crate) fn of_a_worker() -> Vec<Needed> {
    RESOURCES.iter().map(|of| (of.table, WRITES)).chain(OWN.map(|table| (table, DELETES))).collect()
}

/// Returns what a reconciler needs in addition.
pub(crate) fn of_records() -> Vec<Needed> {
    RECORDS.map(|table| (table, DELETES)).to_vec()
}

/// Returns what a forwarder needs in addition.
pub(crate) fn of_forwards() -> Vec<Needed> {
    FORWARDS.map(|table| (table, DELETES)).to_vec()
}

/// Returns the SELECT of the needed rights that this role lacks, by the names of the tables. The schema's name is validated.
pub(crate) fn missing(schema: &str, needed: &[Needed]) -> String {
    let values = values(needed);
    format!(
        "SELECT format('%I.%I', '{schema}', wanted), privilege, quote_ident(current_user)
           FROM (VALUES {values}) AS needed (wanted, privilege)
          WHERE NOT has_table_privilege(format('%I.%I', '{schema}', wanted), privilege)"
    )
}

/// As [`missing`], for a role that may not use the schema, and so can't name its tables. A table that does not exist
/// counts as granted.
fn missing_by_catalog(schema: &str, needed: &[Needed]) -> String {
    let values = values(needed);
    format!(
        "SELECT format('%I.%I', '{schema}', wanted), privilege, quote_ident(current_user)
           FROM (VALUES {values}) AS needed (wanted, privilege)
           JOIN pg_catalog.pg_class AS tables ON tables.relname = wanted
           JOIN pg_catalog.pg_namespace AS spaces ON spaces.oid = tables.relnamespace AND spaces.nspname = '{schema}'
          WHERE NOT has_table_privilege(tables.oid, privilege)"
    )
}

fn values(needed: &[Needed]) -> String {
    let each =
        |(table, rights): &Needed| rights.iter().map(|right| format!("('{table}', '{right}')")).collect();
    needed.iter().flat_map(|one| -> Vec<String> { each(one) }).collect::<Vec<_>>().join(", ")
}

/// A right on a table that a role lacks. Names are as SQL writes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lacking {
    table: String,
    right: String,
    role: String,
}

impl Lacking {
    fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { table: row.try_get(0)?, right: row.try_get(1)?, role: plain(row.try_get(2)?) })
    }
}

/// Returns the statements that grant exactly these rights, separated by semicolons.
pub(crate) fn grants(lacking: &[Lacking]) -> String {
    let mut of_tables: Vec<(&str, Vec<&str>)> = Vec::new();
    for Lacking { table, right, .. } in lacking {
        match of_tables.iter_mut().find(|(known, _)| known == table) {
            Some((_, rights)) => rights.push(right),
            None => of_tables.push((table, vec![right])),
        }
    }
    let mut grants: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for (table, rights) in of_tables {
        match grants.iter_mut().find(|(known, _)| *known == rights) {
            Some((_, tables)) => tables.push(table),
            None => grants.push((rights, vec![table])),
        }
    }
    let role = lacking.first().map_or("", |one| &*one.role);
    let mut text = String::new();
    for (rights, tables) in grants {
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a String can't fail.
        let _ = write!(text, "{separator}GRANT {} ON {} TO {role}", rights.join(", "), tables.join(", "));
    }
    text
}

/// Reads the rights that the role lacks, by a SELECT of [`missing`], on a server that accepts writes.
pub(crate) struct Ask<'a> {
    pub(crate) sql: &'a str,
}

impl Work for Ask<'_> {
    type Output = Vec<Lacking>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<Lacking>> {
        session.must_be_writable().await?;
        session.ask(self.sql).await?.iter().map(Lacking::read).collect()
    }
}

/// Reads the statements that grant all that a role of a worker lacks, for a role that may not even read which migrations
/// there are.
pub(crate) struct AskWithoutRights<'a> {
    pub(crate) schema: &'a str,
}

impl Work for AskWithoutRights<'_> {
    type Output = Vec<String>;

    const GUARDED: bool = false;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        let schema = self.schema;
        let usage = format!(
            "SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, current_user) FROM pg_catalog.pg_namespace
              WHERE nspname = '{schema}' AND NOT has_schema_privilege(oid, 'USAGE')"
        );
        let usage = session.ask(&usage).await?;
        let mut statements: Vec<String> =
            usage.iter().map(|row| row.try_get(0).map(plain)).collect::<sqlx::Result<_>>()?;
        let mut needed = [of_a_worker(), of_records(), of_forwards()].concat();
        needed.push(("rollbook_migrations", &["SELECT"]));
        let rows = session.ask(&missing_by_catalog(schema, &needed)).await?;
        let lacking: Vec<Lacking> = rows.iter().map(Lacking::read).collect::<sqlx::Result<_>>()?;
        let all: usize = needed.iter().map(|(_, rights)| rights.len()).sum();
        match lacking.first() {
            None => {}
            // No right was ever granted: as the script of the roles does it.
            Some(first) if lacking.len() == all => statements.push(format!(
                "GRANT {} ON ALL TABLES IN SCHEMA {schema} TO {}",
                DELETES.join(", "),
                first.role
            )),
            Some(_) => statements.push(grants(&lacking)),
        }
        Ok(statements)
    }
}

/// Returns a name for a log line: a name may contain any character, a log line may not.
pub(crate) fn plain(name: String) -> String {
    if name.contains(char::is_control) {
        return name.chars().map(|each| if each.is_control() { ' ' } else { each }).collect();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_grant_exactly_what_is_missing_and_one_serves_all_tables_with_the_same_rights() {
        let lacking = |table: &str, right: &str| Lacking {
            table: format!("clerk.{table}"),
            right: right.to_owned(),
            role: "\"my worker\"".to_owned(),
        };
        assert_eq!(
            grants(&[
                lacking("users", "INSERT"),
                lacking("users", "UPDATE"),
                lacking("deliveries", "DELETE"),
                lacking("sessions", "INSERT"),
                lacking("sessions", "UPDATE"),
            ]),
            "GRANT INSERT, UPDATE ON clerk.users, clerk.sessions TO \"my worker\"; GRANT DELETE ON clerk.deliveries TO \
             \"my worker\""
        );
        assert_eq!(grants(&[]), "");
    }
}
