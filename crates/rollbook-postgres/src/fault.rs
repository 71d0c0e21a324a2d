//! Meaning of a Postgres error: its cause, and whether waiting helps.
//!
//! Postgres's messages and details quote values (`invalid input syntax for type json`, `Key (email)=(…)`),
//! so a text here is made of the SQLSTATE, our own words and the names of tables, columns and constraints.
//! One exception: a wrong name or a missing right in a statement of our own is reported in Postgres's words,
//! which can only quote identifiers then, since all values are bound. In a trigger that does not
//! hold. Another one: while a connection is made there are no values yet, so the server's words are repeated.
//!
//! [`crate::blame`] decides whether one row caused an error. If one row or all rows may be the cause, the
//! fault is [`Fault::Ambiguous`]: the worker leaves rows out to find the one.

mod own;
mod states;

use std::io::ErrorKind;
use std::time::Duration;

use rollbook_core::store::{SlowCause, StoreError, UnknownOutcome};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub(crate) use self::own::{NotKept, ReadOnly, Unreadable};
use self::states::{RAISED, data, deployment, unavailable};
use crate::address::Address;
use crate::blame::{self, Blame};
use crate::link::NoConnection;
use crate::{pooler, tls};

/// Meaning of an error. The text quotes no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The values of a statement are refused.
    #[error("{0}")]
    Data(String),
    /// The server is unreachable, busy or full: a later attempt may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// Rights, login or schema are wrong: manual action is needed.
    #[error("{0}")]
    Deployment(String),
    /// The database holds a value that this version of Rollbook does not write.
    #[error("{0}")]
    Unreadable(String),
    /// A time limit was reached: a smaller batch may succeed.
    #[error("{1}")]
    Slow(SlowCause, String),
    /// One row may be the cause. If none is, this is the fault.
    #[error("{0}")]
    Ambiguous(Box<Self>),
}

impl From<Fault> for StoreError {
    /// For a call that can't be made smaller: whether one row is the cause stays unknown.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Data(text) => Self::Event(text),
            Fault::Unavailable(text) | Fault::Slow(_, text) => Self::Unavailable(text),
            Fault::Deployment(text) => Self::Deployment(text),
            Fault::Unreadable(text) => Self::Unreadable(text),
            Fault::Ambiguous(inner) => (*inner).into(),
        }
    }
}

impl Fault {
    /// Returns the inner fault, for work that is not about single rows.
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

/// Reason to retry the same transaction at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// A conflict with another transaction.
    Conflict,
    /// The connection is broken, its prepared statements are stale, or it leads to the wrong server.
    Connection,
}

/// Returns the reason to retry, if there is one.
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
        // Prepared statements that are missing, duplicate or stale; and a server that has become read-only,
        // which keeps its sessions.
        "26000" | "42P05" | "0A000" | "25006" => Some(Again::Connection),
        // A pooler may report this without closing the connection to it.
        _ if state.starts_with("08") || state.starts_with("57P0") => Some(Again::Connection),
        _ => None,
    }
}

/// Returns whether the connection can be used again after a rollback. After an unknown error it is closed: a
/// new connection costs little, and a session on the wrong server would fail every later call.
pub(crate) fn spares_connection(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| {
        let is_known =
            data(error.code()).is_some() || matches!(blame::of(error), Blame::Row | Blame::Time(_));
        error.severity() == PgSeverity::Error && is_known
    })
}

/// Returns the error of the server, if it is one.
pub(crate) fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Judges the failure to get a connection.
pub(crate) fn no_connection(address: &Address, none: &NoConnection) -> Fault {
    match none {
        NoConnection::Busy => Fault::Unavailable(format!(
            "{address}: all connections are in use (at most database_connections_max at once)"
        )),
        NoConnection::Slow => Fault::Unavailable(format!(
            "{address}: no connection within database_connect_timeout: check host and port, and that it is reachable"
        )),
        NoConnection::Refused(error) => {
            let words = database_error(error).map(blame::words).unwrap_or_default();
            let say = |text: String| {
                if words.is_empty() { text } else { format!("{text}; the server says: {words}") }
            };
            match judge(address, error) {
                Fault::Deployment(text) => Fault::Deployment(say(text)),
                Fault::Ambiguous(inner) => Fault::Unavailable(say(inner.to_string())),
                Fault::Data(text)
                | Fault::Unavailable(text)
                | Fault::Unreadable(text)
                | Fault::Slow(_, text) => Fault::Unavailable(say(text)),
            }
        }
    }
}

/// The fault of a call that took too long as a whole.
pub(crate) fn no_answer(address: &Address, limit: Duration) -> Fault {
    Fault::Slow(SlowCause::Call, format!("{address}: no answer within {limit:?}"))
}

/// Judges an error of a connection or a statement.
pub(crate) fn judge(address: &Address, error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(_) => match database_error(error) {
            Some(error) => judge_state(address, error),
            None => Fault::Unavailable(format!("{address}: an error without a state")),
        },
        // A refused certificate; the text is from rustls.
        sqlx::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            Fault::Deployment(format!("{address}: {}", tls::failed(error)))
        }
        sqlx::Error::Io(error) => Fault::Unavailable(format!("{address}: {}", io(error))),
        sqlx::Error::Tls(error) => Fault::Deployment(format!("{address}: {}", tls::failed(&**error))),
        sqlx::Error::Protocol(_) => {
            Fault::Unavailable(format!("{address}: it does not answer as Postgres does: check the port"))
        }
        _ if ReadOnly::is(error) => Fault::Unavailable(format!("{address}: {}", unavailable("25006"))),
        sqlx::Error::Encode(error) => Fault::Data(if error.is::<NotKept>() {
            error.to_string()
        } else {
            "a value is too large for one statement".to_owned()
        }),
        sqlx::Error::Decode(error) if error.is::<UnknownOutcome>() => Fault::Unreadable(error.to_string()),
        sqlx::Error::Decode(error) if error.is::<Unreadable>() => {
            Fault::Unreadable(format!("{address}: {error}"))
        }
        // A statement of another client: its answer has other columns.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnIndexOutOfBounds { .. }
            if address.pooler_sign().is_some() =>
        {
            Fault::Deployment(of_another_client(address, address.pooler_sign().unwrap_or_default()))
        }
        sqlx::Error::ColumnDecode { index, .. } => Fault::Deployment(format!(
            "{address}: a column (the one at {index}) is not as Rollbook's migrations made it"
        )),
        sqlx::Error::Configuration(_) => {
            Fault::Deployment(format!("{address}: the parameters of the URL can't be used"))
        }
        _ => Fault::Deployment(format!("{address}: the schema is not as Rollbook's migrations made it")),
    }
}

/// Text for an answer to a statement of another client.
fn of_another_client(address: &Address, sign: &str) -> String {
    format!(
        "{address}: a prepared statement is another client's, so the answer does not fit: {sign}; {}",
        pooler::FIX
    )
}

/// Judges an error of work on rows, in which a team's triggers run. What a trigger may have done to the
/// session for one row, an outage may have done too: [`Fault::Ambiguous`]. The caller checks the rights and
/// the server first, so the text is about the trigger.
pub(crate) fn judge_rows(address: &Address, error: &sqlx::Error) -> Fault {
    if let Some(error) = database_error(error).filter(|error| blame::is_missing_right(error)) {
        return Fault::Ambiguous(Box::new(Fault::Deployment(format!(
            "{address}: {} ({}), although user {} has the rights that Rollbook needs: a trigger of the table changes the \
             role (SET ROLE), or a default or an index of the table needs a right of its own",
            own_words(error).unwrap_or("permission denied"),
            Named(error),
            address.user(),
        ))));
    }
    let may_be_of_a_row = match error {
        sqlx::Error::Database(_) => database_error(error).is_some_and(blame::may_be_of_a_row),
        sqlx::Error::Io(error) => error.kind() != ErrorKind::InvalidData,
        sqlx::Error::Protocol(_) => true,
        _ => ReadOnly::is(error),
    };
    match judge(address, error) {
        fault @ (Fault::Unavailable(_) | Fault::Deployment(_)) if may_be_of_a_row => {
            Fault::Ambiguous(Box::new(fault))
        }
        other => other,
    }
}

fn io(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "connection refused: check that it runs, and that this is its port".to_owned()
        }
        ErrorKind::NotFound => "there is no such socket: check that it runs".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "the connection broke".to_owned()
        }
        _ => format!("{error}: check the address, and that it is reachable"),
    }
}

/// Names in an error, without data.
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

fn judge_state(address: &Address, error: &PgDatabaseError) -> Fault {
    let (state, named, blame) = (error.code(), Named(error), blame::of(error));
    // Settings at the start of a session: other faults there have states of their own.
    if error.severity() == PgSeverity::Fatal && matches!(state, "42601" | "42704" | "22023") {
        return Fault::Deployment(format!(
            "{address}: the server refuses a setting of the session: see options in the URL ({named})"
        ));
    }
    if let (PgSeverity::Error, "08P01", Some(sign)) = (error.severity(), state, address.pooler_sign()) {
        return Fault::Deployment(format!("{} ({named})", of_another_client(address, sign)));
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
        return Fault::Slow(cause, format!("{address}: {} ({named}){inside}", unavailable(state)));
    }
    let policy = (state == "42501" && blame == Blame::RowOrAll)
        // The words name the policy and the table, and no value; the error has no field for the table.
        .then(|| format!("a row-level security policy refuses the row: {}", blame::words(error)));
    let fault = if let Some(what) = policy.or_else(|| deployment(address, state, own_words(error))) {
        Fault::Deployment(format!("{address}: {what} ({named}){inside}"))
    } else {
        let what = if blame::is_state_of_a_function(error) { RAISED } else { unavailable(state) };
        Fault::Unavailable(format!("{address}: {what} ({named}){inside}"))
    };
    if blame == Blame::RowOrAll { Fault::Ambiguous(Box::new(fault)) } else { fault }
}

/// Returns the words of Postgres, if they are about one of our statements and not about a trigger.
fn own_words(error: &PgDatabaseError) -> Option<&str> {
    let is_ours = error.r#where().is_none() && error.severity() == PgSeverity::Error;
    is_ours.then(|| error.message())
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
    fn faults_of_the_deployment_are_distinguished_from_temporary_ones() {
        let (address, _) = Address::parse("postgres://me@h/app").expect("a URL");
        for state in ["28P01", "3D000", "3F000", "42P01", "42501", "42703", "0A000", "26000", "XX001"] {
            assert!(data(state).is_none() && deployment(&address, state, None).is_some(), "{state}");
        }
        let passing = [
            "08006", "57P01", "57P03", "53300", "53100", "25006", "40001", "40P01", "55P03", "57014", "XX000",
        ];
        for state in passing {
            assert!(data(state).is_none() && deployment(&address, state, None).is_none(), "{state}");
        }
    }
}
