//! What a Postgres error means: whose fault it is, and whether waiting helps.
//!
//! Postgres's messages and details quote values (`invalid input syntax for type json`, `Key (email)=(…)`),
//! so a text here is made of the SQLSTATE, our own words and the names of tables, columns and constraints.
//! One exception: a wrong name or a missing right in a statement of our own is told in Postgres's words,
//! which can only quote identifiers then, since all values are bound. In somebody's trigger that does not
//! hold. Another one: while a connection is made there are no values yet, so the server's words are repeated.
//!
//! Whether one row caused an error is decided in [`crate::blame`]. What may be one row's or everyone's is
//! [`Fault::Ambiguous`]: the worker finds out by leaving rows out.

mod own;

use std::io::ErrorKind;
use std::time::Duration;

use rollbook_core::store::{SlowCause, StoreError};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub(crate) use self::own::{NotWritten, ReadOnly, Undone};
use crate::blame::{self, Blame};
use crate::hosts::NoConnection;
use crate::place::Place;
use crate::tls;

/// An error, judged. The text names no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The values of a statement are refused.
    #[error("{0}")]
    Data(String),
    /// Away, busy, full: later it may go.
    #[error("{0}")]
    Unavailable(String),
    /// Rights, login, schema: a person must fix it.
    #[error("{0}")]
    Deployment(String),
    /// A time limit was reached: with less to do it may go.
    #[error("{1}")]
    Slow(SlowCause, String),
    /// One row may be to blame. If none is, it is this one.
    #[error("{0}")]
    Ambiguous(Box<Self>),
}

impl From<Fault> for StoreError {
    /// For a call that can't be made smaller: nobody finds out whether one row is to blame.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Data(text) => Self::Event(text),
            Fault::Unavailable(text) | Fault::Slow(_, text) => Self::Dependency(text),
            Fault::Deployment(text) => Self::Deployment(text),
            Fault::Ambiguous(inner) => (*inner).into(),
        }
    }
}

impl Fault {
    /// The error itself, for work that is nobody's rows.
    pub(crate) fn innermost(self) -> Self {
        if let Self::Ambiguous(inner) = self { inner.innermost() } else { self }
    }

    /// For a batch, which can be made smaller.
    pub(crate) fn of_batch(self) -> StoreError {
        match self {
            Self::Slow(cause, detail) => StoreError::Slow { cause, detail },
            Self::Ambiguous(inner) => StoreError::Ambiguous(Box::new((*inner).into())),
            other => other.into(),
        }
    }
}

/// Why the same transaction may be tried again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It lost against another one.
    Conflict,
    /// The connection is dead, what is prepared on it has become stale, or it leads to the wrong server.
    Connection,
}

/// Whether, and why, to try again.
pub(crate) fn again(error: &sqlx::Error) -> Option<Again> {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => Some(Again::Connection),
        sqlx::Error::Database(_) => {
            let error = database_error(error)?;
            if blame::is_raised(error) {
                return matches!(error.code(), "40001" | "40P01").then_some(Again::Conflict);
            }
            let ends = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
            if ends { Some(Again::Connection) } else { again_after(error.code()) }
        }
        _ => ReadOnly::is(error).then_some(Again::Connection),
    }
}

fn again_after(state: &str) -> Option<Again> {
    match state {
        "40001" | "40P01" => Some(Again::Conflict),
        // Prepared statements that are not there, are there already, or have become stale. And a server that has
        // become read-only: it keeps its sessions.
        "26000" | "42P05" | "0A000" | "25006" => Some(Again::Connection),
        // A pooler may say so without ending the connection to it.
        _ if state.starts_with("08") || state.starts_with("57P0") => Some(Again::Connection),
        _ => None,
    }
}

/// Whether the error says nothing against the connection: once rolled back, it is as good as before. Of an
/// error that is not known here nothing is believed: a new connection costs little, and a session on the wrong
/// server would fail all that comes after.
pub(crate) fn spares_connection(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| {
        let is_known =
            data(error.code()).is_some() || matches!(blame::of(error), Blame::Row | Blame::Time(_));
        error.severity() == PgSeverity::Error && is_known
    })
}

/// The server's own error, where it is one.
pub(crate) fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Judges what came of a call that got no connection.
pub(crate) fn no_connection(place: &Place, none: &NoConnection) -> Fault {
    match none {
        NoConnection::Busy => Fault::Unavailable(format!(
            "{place}: all connections are in use (at most database_connections_max at once)"
        )),
        NoConnection::Slow => Fault::Unavailable(format!(
            "{place}: no connection within database_connect_timeout: are host and port right, is it reachable?"
        )),
        NoConnection::Refused(error) => {
            let words = database_error(error).map(blame::words).unwrap_or_default();
            let say = |text: String| {
                if words.is_empty() { text } else { format!("{text}; the server says: {words}") }
            };
            match judge(place, error) {
                Fault::Deployment(text) => Fault::Deployment(say(text)),
                Fault::Ambiguous(inner) => Fault::Unavailable(say(inner.to_string())),
                Fault::Data(text) | Fault::Unavailable(text) | Fault::Slow(_, text) => {
                    Fault::Unavailable(say(text))
                }
            }
        }
    }
}

/// What is said of a call that took too long as a whole.
pub(crate) fn no_answer(place: &Place, limit: Duration) -> Fault {
    Fault::Slow(SlowCause::Call, format!("{place}: no answer within {limit:?}"))
}

/// Judges an error of a connection or a statement.
pub(crate) fn judge(place: &Place, error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(_) => match database_error(error) {
            Some(error) => judge_state(place, error),
            None => Fault::Unavailable(format!("{place}: an error without a state")),
        },
        // A certificate that is refused; the text is rustls's.
        sqlx::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            Fault::Deployment(format!("{place}: {}", tls::failed(error)))
        }
        sqlx::Error::Io(error) => Fault::Unavailable(format!("{place}: {}", io(error))),
        sqlx::Error::Tls(error) => Fault::Deployment(format!("{place}: {}", tls::failed(&**error))),
        sqlx::Error::Protocol(_) => {
            Fault::Unavailable(format!("{place}: it does not answer as Postgres does: is the port right?"))
        }
        _ if ReadOnly::is(error) => Fault::Unavailable(format!("{place}: {}", unavailable("25006"))),
        sqlx::Error::Encode(error) => Fault::Data(if error.is::<NotWritten>() || error.is::<Undone>() {
            error.to_string()
        } else {
            "a value is too large for one statement".to_owned()
        }),
        sqlx::Error::ColumnDecode { index, .. } => Fault::Deployment(format!(
            "{place}: a column (the one at {index}) is not as Rollbook's migrations made it"
        )),
        sqlx::Error::Configuration(_) => {
            Fault::Deployment(format!("{place}: the parameters of the URL can't be used"))
        }
        _ => Fault::Deployment(format!("{place}: the schema is not as Rollbook's migrations made it")),
    }
}

/// Judges an error of work on rows, in which a team's triggers run. What one of them may have done to the session for one
/// row, an outage may have done too: [`Fault::Ambiguous`].
pub(crate) fn judge_rows(place: &Place, error: &sqlx::Error) -> Fault {
    let may_be_of_a_row = match error {
        sqlx::Error::Database(_) => database_error(error).is_some_and(blame::may_be_of_a_row),
        sqlx::Error::Io(error) => error.kind() != ErrorKind::InvalidData,
        sqlx::Error::Protocol(_) => true,
        _ => ReadOnly::is(error),
    };
    match judge(place, error) {
        fault @ (Fault::Unavailable(_) | Fault::Deployment(_)) if may_be_of_a_row => {
            Fault::Ambiguous(Box::new(fault))
        }
        other => other,
    }
}

fn io(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused: is it running, and is this its port?".to_owned(),
        ErrorKind::NotFound => "there is no such socket: is it running?".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "the connection broke".to_owned()
        }
        _ => format!("{error}: is the address right, is it reachable?"),
    }
}

/// The names in an error that are nobody's data.
struct Named<'a>(&'a PgDatabaseError);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SQLSTATE {}", self.0.code())?;
        let names =
            [("table", self.0.table()), ("column", self.0.column()), ("constraint", self.0.constraint())];
        for (what, name) in names {
            if let Some(name) = name {
                write!(f, ", {what} {name}")?;
            }
        }
        Ok(())
    }
}

fn judge_state(place: &Place, error: &PgDatabaseError) -> Fault {
    let (state, named, blame) = (error.code(), Named(error), blame::of(error));
    // What a session begins with: whatever else is wrong there has states of its own.
    if error.severity() == PgSeverity::Fatal && matches!(state, "42601" | "42704" | "22023") {
        return Fault::Deployment(format!(
            "{place}: the server refuses a setting of the session: see options in the URL ({named})"
        ));
    }
    let inside = blame::function(error).map_or_else(String::new, |function| format!("; in {function}"));
    let what = match blame {
        // A time limit inside a trigger has no meaning of its own.
        Blame::Time(_) => None,
        Blame::Row => Some(data(state).unwrap_or("a trigger or function of the table fails for the row")),
        Blame::RowOrAll | Blame::Nobody => data(state),
    };
    if let Some(what) = what {
        return Fault::Data(format!("{what} ({named}){inside}"));
    }
    if let Blame::Time(cause) = blame {
        return Fault::Slow(cause, format!("{place}: {} ({named}){inside}", unavailable(state)));
    }
    let policy = (state == "42501" && blame == Blame::RowOrAll)
        // The words name the policy and the table, and no value; the error has no field for the table.
        .then(|| format!("a row-level security policy refuses the row: {}", blame::words(error)));
    let fault = match policy.or_else(|| deployment(place, state, own_words(error))) {
        Some(what) => Fault::Deployment(format!("{place}: {what} ({named}){inside}")),
        None => Fault::Unavailable(format!("{place}: {} ({named}){inside}", unavailable(state))),
    };
    if blame == Blame::RowOrAll { Fault::Ambiguous(Box::new(fault)) } else { fault }
}

/// Postgres's own words, where they are about one of our statements and not about what a trigger does.
fn own_words(error: &PgDatabaseError) -> Option<&str> {
    let is_ours = error.r#where().is_none() && error.severity() == PgSeverity::Error;
    is_ours.then(|| error.message())
}

/// What is wrong with the values, if they are to blame.
fn data(state: &str) -> Option<&'static str> {
    Some(match state {
        "22003" => "a number is out of range",
        "22008" => "a time is out of range",
        "22P02" | "22P05" | "22021" | "22030" | "22032" => "text or JSON that Postgres can't hold",
        "23502" => "a value is missing",
        "23503" => "a foreign key's row is missing; a mirror must have no foreign keys",
        "23505" => "a value is there already that is declared unique; in a mirror only ids are",
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

/// What is wrong with the deployment, if it is to blame, and the fix.
fn deployment(place: &Place, state: &str, words: Option<&str>) -> Option<String> {
    let said = |otherwise: &str| words.unwrap_or(otherwise).to_owned();
    Some(match state {
        "28P01" | "28000" => format!(
            "user {} is refused: check user, password and sslmode in the URL, and pg_hba.conf on the server",
            place.user()
        ),
        "3D000" => format!(
            "there is no database {name}: make it (createdb {name}) or name another in the URL",
            name = place.database()
        ),
        "42501" => format!(
            "{}: user {} lacks a right; grant it: the GRANT statements are in migrations/README.md, chapter Roles on Postgres",
            said("permission denied"),
            place.user()
        ),
        "42P01" | "42703" | "3F000" => format!("{}; run: rollbook migrate", said("a table is missing")),
        "42P07" | "42723" => format!(
            "{}: the schema holds tables of somebody else; choose another (schema)",
            said("a table is there already")
        ),
        "26000" | "42P05" => "a prepared statement is lost: behind a PgBouncer in transaction mode, set \
                              pgbouncer = yes"
            .to_owned(),
        "XX001" | "XX002" => "its data is corrupted: see the server's log".to_owned(),
        _ => match state.get(..2)? {
            "28" | "3D" | "3F" | "42" | "0A" => said("the statement is refused"),
            _ => return None,
        },
    })
}

fn unavailable(state: &str) -> &'static str {
    match state {
        "57014" => "a statement took longer than statement_timeout, or was cancelled",
        "55P03" => {
            "a lock was not free within half of statement_timeout: another session holds the rows or the table"
        }
        "57P01" | "57P02" | "57P03" => "it is starting up or shutting down",
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
        _ if state.starts_with("57") => "it was told to stop this",
        _ if state.starts_with("58") => "its disk or its system fails: see the server's log",
        _ => "it fails: see the server's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_values_are_the_events_fault() {
        for state in
            ["22003", "22P02", "22P05", "22008", "21000", "23505", "23502", "54001", "54000", "P0001"]
        {
            assert!(data(state).is_some(), "{state}");
        }
    }

    #[test]
    fn a_session_that_is_the_wrong_one_is_tried_again_on_another() {
        for state in
            ["25006", "57P01", "57P02", "57P03", "57P04", "57P05", "08006", "08P01", "0A000", "26000"]
        {
            assert_eq!(again_after(state), Some(Again::Connection), "{state}");
        }
        for state in ["23505", "42P01", "57014", "55P03", "53100", "XX000"] {
            assert_eq!(again_after(state), None, "{state}");
        }
    }

    #[test]
    fn what_a_person_must_mend_is_told_from_what_passes() {
        let (place, _) = Place::parse("postgres://me@h/app").expect("a URL");
        for state in ["28P01", "3D000", "3F000", "42P01", "42501", "42703", "0A000", "26000", "XX001"] {
            assert!(data(state).is_none() && deployment(&place, state, None).is_some(), "{state}");
        }
        let passing = [
            "08006", "57P01", "57P03", "53300", "53100", "25006", "40001", "40P01", "55P03", "57014", "XX000",
        ];
        for state in passing {
            assert!(data(state).is_none() && deployment(&place, state, None).is_none(), "{state}");
        }
    }
}
