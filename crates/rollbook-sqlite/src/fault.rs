//! Classification of SQLite errors: their cause, and whether waiting helps.

use rollbook_core::queue::QueueError;
use rollbook_core::store::{StoreError, UnknownOutcome};
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// Classified SQLite error. The text names no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The values of a statement are refused.
    #[error("{0}")]
    Data(String),
    /// The file is busy or memory is short: a later attempt may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// A statement fails: the schema is not Rollbook's, or a trigger of the team's is broken (it names a
    /// missing table). The fault concerns one table or all.
    #[error("{0}")]
    Statement(String),
    /// The disk is full, and nothing was written.
    #[error("{0}")]
    OutOfSpace(String),
    /// A right or a table is missing, or the file is not a database of Rollbook's.
    #[error("{0}")]
    Deployment(String),
    /// The file holds a value that this version of Rollbook does not write.
    #[error("{0}")]
    Unreadable(String),
    /// The disk failed: the state of the file is unknown until it is opened again.
    #[error("{0}")]
    Broken(String),
}

/// A row does not hold what a statement should have written, although the statement reported no error.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum NotKept {
    /// The row was written, and does not show what was written.
    #[error("a trigger of the table undoes the change")]
    Undone,
    /// The ledger entry of a delivery is missing: a trigger left it out (`RAISE(IGNORE)`) or removed it.
    #[error("a trigger of the table deliveries keeps the ledger entry from being written")]
    LedgerSkipped,
    /// The ledger entry of a delivery does not have the subject and the outcome that were written.
    #[error("a trigger of the table deliveries changes the ledger entry")]
    LedgerChanged,
}

impl From<NotKept> for rusqlite::Error {
    fn from(error: NotKept) -> Self {
        Self::ToSqlConversionFailure(Box::new(error))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::ToSqlConversionFailure(own) = &error
            && own.is::<NotKept>()
        {
            return Self::Data(own.to_string());
        }
        if let rusqlite::Error::FromSqlConversionFailure(_, _, own) = &error
            && own.is::<UnknownOutcome>()
        {
            return Self::Unreadable(own.to_string());
        }
        if let rusqlite::Error::IntegralValueOutOfRange(_, number) = error {
            return Self::Unreadable(format!(
                "a count or a number of attempts is {number}, which Rollbook does not write. Fix: correct what another \
                 program wrote, or restore a backup"
            ));
        }
        if matches!(error, rusqlite::Error::StatementChangedRows(0)) {
            return Self::Data("a trigger of the table keeps the row from being written".to_owned());
        }
        let rusqlite::Error::SqliteFailure(failure, text) = &error else {
            // Other errors come from a column of another type: the schema is not Rollbook's.
            return Self::Deployment(error.to_string());
        };
        let text = text.clone().unwrap_or_else(|| failure.to_string());
        match failure.code {
            // The text of a team's trigger may contain values.
            ErrorCode::ConstraintViolation if failure.extended_code == ffi::SQLITE_CONSTRAINT_TRIGGER => {
                Self::Data("a trigger refuses the row".to_owned())
            }
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Self::Data(text),
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted => Self::Unavailable(text),
            ErrorCode::DiskFull => Self::OutOfSpace(text),
            // The shared-memory file could not grow: the disk is full, nothing was written.
            ErrorCode::SystemIoFailure if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
                Self::OutOfSpace(text)
            }
            ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                Self::Broken(text)
            }
            ErrorCode::Unknown => Self::Statement(without_values(&text)),
            _ => Self::Deployment(text),
        }
    }
}

/// Returns the text of a statement's error if it contains only identifiers. Functions in a trigger may quote values.
fn without_values(text: &str) -> String {
    let names_only = ["no such ", "there is already ", "table ", "near "];
    if names_only.iter().any(|beginning| text.starts_with(beginning)) {
        text.to_owned()
    } else {
        "a statement fails: check that the schema is as Rollbook's migrations made it, and the triggers on its tables".to_owned()
    }
}

impl Fault {
    /// Converts to the error of a batch. A batch can leave out changes.
    pub(crate) fn of_batch(self) -> StoreError {
        match self {
            Self::Statement(text) => StoreError::Ambiguous(Box::new(StoreError::Deployment(text))),
            other => other.into(),
        }
    }
}

impl From<Fault> for QueueError {
    fn from(fault: Fault) -> Self {
        match fault {
            // A queue's statements hold no values that could be refused: the schema is not Rollbook's.
            Fault::Data(text)
            | Fault::Statement(text)
            | Fault::Deployment(text)
            | Fault::Unreadable(text) => Self::Deployment(text),
            Fault::Unavailable(text) => Self::Unavailable(text),
            Fault::OutOfSpace(text) => Self::OutOfSpace(text),
            Fault::Broken(text) => Self::Broken(text),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Data(text) => Self::Event(text),
            Fault::Statement(text) | Fault::Deployment(text) => Self::Deployment(text),
            Fault::Unreadable(text) => Self::Unreadable(text),
            Fault::Unavailable(text) | Fault::OutOfSpace(text) => Self::Unavailable(text),
            Fault::Broken(text) => Self::Broken(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(extended_code: i32) -> Fault {
        rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), None).into()
    }

    #[test]
    fn a_full_disk_and_a_lock_are_temporary() {
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_NOMEM] {
            assert!(matches!(fault_of(code), Fault::Unavailable(_)), "{code}");
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert!(matches!(QueueError::from(fault_of(code)), QueueError::OutOfSpace(_)), "{code}");
            assert!(matches!(StoreError::from(fault_of(code)), StoreError::Unavailable(_)), "{code}");
        }
    }

    #[test]
    fn an_io_error_or_a_corrupt_file_ends_the_process() {
        let codes = [ffi::SQLITE_IOERR, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB];
        for code in codes {
            assert!(matches!(fault_of(code), Fault::Broken(_)), "{code}");
        }
    }

    #[test]
    fn the_text_of_a_trigger_is_not_repeated() {
        let connection = rusqlite::Connection::open_in_memory().expect("a database");
        connection
            .execute_batch(
                "CREATE TABLE users (email TEXT); CREATE TRIGGER no BEFORE INSERT ON users
                 BEGIN SELECT RAISE(ABORT, 'no ines@example.com'); END",
            )
            .expect("a trigger");
        let error = connection.execute("INSERT INTO users VALUES ('ines@example.com')", []).unwrap_err();
        assert_eq!(Fault::from(error), Fault::Data("a trigger refuses the row".to_owned()));
    }

    #[test]
    fn refused_values_are_a_fault_of_the_event_and_missing_rights_are_not() {
        assert!(matches!(fault_of(ffi::SQLITE_CONSTRAINT_NOTNULL), Fault::Data(_)));
        for code in [ffi::SQLITE_READONLY, ffi::SQLITE_PERM, ffi::SQLITE_CANTOPEN] {
            assert!(matches!(fault_of(code), Fault::Deployment(_)), "{code}");
        }
        assert!(matches!(fault_of(ffi::SQLITE_ERROR), Fault::Statement(_)));
    }
}
