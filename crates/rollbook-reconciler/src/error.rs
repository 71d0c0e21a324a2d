//! Reasons why a run ends early.

use std::time::Duration;

use rollbook_core::source::SourceError;
use rollbook_core::store::StoreError;

/// Reason why a run ended early. Nothing is deleted because of it. Texts contain no key, id or body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// Clerk's API gave no usable answer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store refused or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key belongs to another instance than the rows. Everything would look deleted.
    #[error(
        "the secret key belongs to the instance {found}, but {known_by} {expected}. Nothing was read. Use a key of \
         that instance"
    )]
    WrongInstance {
        /// Instance of the key.
        found: String,
        /// Instance of the rows.
        expected: String,
        /// Source of the expected instance, as the beginning of a sentence.
        known_by: &'static str,
    },
    /// Rows of several instances are in the store, so that a missing object proves nothing about a row.
    #[error(
        "the rows of the store come from several Clerk instances: {}. Nothing was read. Fix: set CLERK_INSTANCE_ID to \
         the instance that this store is for, for the workers too. A reconciliation then deletes the rows of the others",
        .0.join(", ")
    )]
    ManyInstances(Vec<String>),
    /// None of the sampled users and organizations exists at Clerk.
    #[error(
        "none of {0} sampled users and organizations of the store exists in the instance of the secret key, so the key \
         belongs to another instance. Nothing was changed. Use a key of the rows' instance; if the rows are to go, set \
         CLERK_INSTANCE_ID to this instance"
    )]
    ForeignRows(usize),
    /// A list contradicts another answer of Clerk, again and again.
    #[error("Clerk's list of {table} is not reliable now: {detail}. Nothing was deleted. Try again later")]
    Contradiction {
        /// Table of the resource.
        table: &'static str,
        /// Description of the contradiction.
        detail: &'static str,
    },
    /// Lists that could not be read. The run read the others.
    #[error("the run could not read every list: {0}. The other lists were read")]
    Lists(String),
    /// Another process is running a reconciliation.
    #[error("another process is running a reconciliation. Its lock ends {0:?} after its last sign of life")]
    Busy(Duration),
    /// The process lost the lock to another one.
    #[error("this process lost the lock of the run to another process, which continues it")]
    LockLost,
    /// No run has the id.
    #[error("there is no run with this id. List them: rollbook reconcile status")]
    UnknownRun,
    /// There is no run to go on with, or nothing of it waits.
    #[error("{0}")]
    NoSuchRun(String),
    /// The process was asked to stop.
    #[error("stopped by a signal before its end")]
    Stopped,
}

impl ReconcileError {
    /// Returns the error of a run in which these lists failed, by table. `None` if none did.
    pub(crate) fn of_lists(failed: Vec<(&'static str, Self)>) -> Option<Self> {
        match <[_; 1]>::try_from(failed) {
            // It names the list.
            Ok([(_, error @ Self::Contradiction { .. })]) => Some(error),
            Ok([(table, error)]) => Some(Self::Lists(format!("{table}: {error}"))),
            Err(failed) if failed.is_empty() => None,
            Err(failed) => {
                let lines: Vec<String> =
                    failed.iter().map(|(table, error)| format!("{table}: {error}")).collect();
                Some(Self::Lists(lines.join("; ")))
            }
        }
    }

    /// Whether a later try may succeed without manual action.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Source(
                SourceError::Refused(_)
                | SourceError::NotEnabled(_)
                | SourceError::Unsupported(_)
                | SourceError::TooLarge(_),
            )
            | Self::Store(StoreError::Deployment(_) | StoreError::Unreadable(_) | StoreError::Broken(_))
            | Self::WrongInstance { .. }
            | Self::ManyInstances(_)
            | Self::ForeignRows(_)
            | Self::UnknownRun
            | Self::NoSuchRun(_) => false,
            Self::Source(_)
            | Self::Store(_)
            | Self::Contradiction { .. }
            | Self::Lists(_)
            | Self::Busy(_)
            | Self::LockLost
            | Self::Stopped => true,
        }
    }
}
