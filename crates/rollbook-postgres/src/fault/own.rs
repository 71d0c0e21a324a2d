//! Errors of our own that end a transaction, like an error of the server.

/// A row does not hold what a statement should have written, although the statement reported no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotKept {
    /// The statement left out the row: a trigger returned null.
    #[error("a trigger of the table keeps the row from being written")]
    Skipped,
    /// The statement could not lock the row: a row-level security policy hides it from changes.
    #[error("a row-level security policy of the table keeps the row from being changed")]
    Hidden,
    /// The row was written, and a trigger changed it afterwards.
    #[error("a trigger of the table undoes the change")]
    Undone,
    /// The ledger entry of a delivery is missing: a trigger left it out or removed it.
    #[error("a trigger of the table deliveries keeps the ledger entry from being written")]
    LedgerSkipped,
    /// The ledger entry of a delivery was written with another id, subject or outcome: a trigger changed it.
    #[error("a trigger of the table deliveries changes the ledger entry")]
    LedgerChanged,
}

impl NotKept {
    /// The reason, from how many of the rows could be locked and how many were written.
    pub(crate) fn of(rows: usize, locked: usize, written: usize) -> Self {
        match (locked < rows, written < rows) {
            (true, _) => Self::Hidden,
            (false, true) => Self::Skipped,
            (false, false) => Self::Undone,
        }
    }
}

impl From<NotKept> for sqlx::Error {
    fn from(error: NotKept) -> Self {
        Self::Encode(Box::new(error))
    }
}

/// A column or a count holds a value that this version of Rollbook does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} holds a value that this version of Rollbook does not write. Fix: upgrade this Rollbook if a newer version wrote \
     it, else correct what another program wrote"
)]
pub(crate) struct Unreadable(pub(crate) &'static str);

impl From<Unreadable> for sqlx::Error {
    fn from(error: Unreadable) -> Self {
        Self::Decode(Box::new(error))
    }
}

/// The session is read-only.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the session is read-only")]
pub(crate) struct ReadOnly;

impl ReadOnly {
    /// Returns whether the error is this one.
    pub(crate) fn is(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::Encode(error) if error.is::<Self>())
    }
}

impl From<ReadOnly> for sqlx::Error {
    fn from(error: ReadOnly) -> Self {
        Self::Encode(Box::new(error))
    }
}
