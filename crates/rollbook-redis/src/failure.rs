//! Failure of a call to one server.

use rollbook_core::queue::QueueError;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: QueueError,
    pub(crate) kind: FailureKind,
}

/// Kind of a failure, which decides the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The server is unreachable or does not answer.
    Unreachable,
    /// The connection must not be reused: it broke, or leads to the wrong server.
    Connection,
    /// Another node of the cluster owns the keys.
    Moved,
    Refused,
}

impl Failure {
    pub(crate) const fn refused(error: QueueError) -> Self {
        Self { error, kind: FailureKind::Refused }
    }

    pub(crate) const fn unreachable(error: QueueError) -> Self {
        Self { error, kind: FailureKind::Unreachable }
    }
}
