//! Errors of our own that end a transaction as one of the server's does.

/// Why a row that is locked is not written: nothing but a trigger can keep it from being so.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a trigger of the table keeps the row from being written")]
pub(crate) struct NotWritten;

impl From<NotWritten> for sqlx::Error {
    fn from(error: NotWritten) -> Self {
        Self::Encode(Box::new(error))
    }
}

/// A row was written, and does not show what was written.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a trigger of the table undoes the change")]
pub(crate) struct Undone;

impl From<Undone> for sqlx::Error {
    fn from(error: Undone) -> Self {
        Self::Encode(Box::new(error))
    }
}

/// The session takes no writes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the session is read-only")]
pub(crate) struct ReadOnly;

impl ReadOnly {
    /// Whether the error is this one.
    pub(crate) fn is(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::Encode(error) if error.is::<Self>())
    }
}

impl From<ReadOnly> for sqlx::Error {
    fn from(error: ReadOnly) -> Self {
        Self::Encode(Box::new(error))
    }
}
