//! Words for the SQLSTATEs that are known here. None quotes a value.

use crate::address::Address;
use crate::pooler;

/// Returns what is wrong with the values, if they are the cause.
pub(super) fn data(state: &str) -> Option<&'static str> {
    Some(match state {
        "22003" => "a number is out of range",
        "22008" => "a time is out of range",
        "22P02" | "22P05" | "22021" | "22030" | "22032" => "text or JSON that Postgres can't hold",
        "23502" => "a value is missing",
        "23503" => "the row that a foreign key names is missing; Rollbook's tables must have no foreign keys",
        "23505" => "the value exists already in a column that is declared unique; only ids are unique here",
        "23514" => "a check fails",
        "54001" => "nested too deeply",
        "54000" => "a value is too large for an index",
        _ => match state.get(..2)? {
            "21" | "22" => "a value is refused",
            "23" | "27" | "44" => "a constraint is broken",
            "54" => "a value is too large",
            "P0" => "a trigger refuses the row",
            _ => return None,
        },
    })
}

/// Returns what is wrong with the deployment, if it is the cause, and the fix.
pub(super) fn deployment(address: &Address, state: &str, words: Option<&str>) -> Option<String> {
    let said = |otherwise: &str| words.unwrap_or(otherwise).to_owned();
    Some(match state {
        "28P01" | "28000" => format!(
            "user {} is refused: check user, password and sslmode in the URL, and pg_hba.conf on the server",
            address.user()
        ),
        "3D000" => format!(
            "database {name} does not exist: create it (createdb {name}) or name another in the URL",
            name = address.database()
        ),
        "42501" => format!(
            "{}: user {} lacks a right; grant it: the GRANT statements are in migrations/README.md, chapter Roles on Postgres",
            said("permission denied"),
            address.user()
        ),
        "42P01" | "42703" | "3F000" => format!("{}; run: rollbook migrate", said("a table is missing")),
        "42P07" | "42723" => format!(
            "{}: the schema holds tables of another program; choose another schema (setting schema)",
            said("a table exists already")
        ),
        "26000" | "42P05" => format!(
            "a prepared statement is lost, or is another client's: a pooler in transaction mode stands before the server; {}",
            pooler::FIX
        ),
        "XX001" | "XX002" => "its data is corrupted: see the server's log".to_owned(),
        _ => match state.get(..2)? {
            "28" | "3D" | "3F" | "42" | "0A" => said("the statement is refused"),
            _ => return None,
        },
    })
}

/// A function raised a state that the server would use about itself or the connection.
pub(super) const RAISED: &str = "a trigger or function of the table fails";

/// Returns the words for a state of the server or the connection.
pub(super) fn unavailable(state: &str) -> &'static str {
    match state {
        "57014" => "a statement took longer than statement_timeout, or was cancelled",
        "55P03" => {
            "a lock was not free within half of statement_timeout: another session holds the rows or the table"
        }
        "57P01" => {
            "the session was terminated: the server shuts down, or an administrator or a trigger called \
             pg_terminate_backend"
        }
        "57P02" | "57P03" => "it is starting up or shutting down",
        "40001" | "40P01" => "other sessions write the same rows in another order",
        "25006" => {
            "the session is read-only: a standby, a full server, or default_transaction_read_only is set for the role, the \
             database or the server"
        }
        "25P03" => "the connection was idle in a transaction for longer than statement_timeout",
        "53100" => "its disk is full",
        "53200" => "it is out of memory",
        "53300" => "it has no connection left (max_connections)",
        "08P01" => "the connection is refused: by a pooler before it, if there is one",
        _ if state.starts_with("53") => "it lacks resources",
        _ if state.starts_with("08") => "the connection broke",
        _ if state.starts_with("57") => "the server stopped the statement",
        _ if state.starts_with("58") => "its disk or its system fails: see the server's log",
        _ => "it fails: see the server's log",
    }
}
