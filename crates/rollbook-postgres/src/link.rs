//! What was found when connections to one database were made.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rollbook_core::protection::Protection;

/// The parameters of a URL that have no effect here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// Names that belong to other libraries.
    pub(crate) names: Vec<&'static str>,
    /// The numbers, from one, of those that are not known.
    pub(crate) numbers: Vec<usize>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// All are in use, for longer than a call may wait.
    Busy,
    /// No server has answered in time.
    Slow,
    /// The server, or the way to it, has refused.
    Refused(sqlx::Error),
}

/// What was found when connections were made.
#[derive(Debug, Default)]
pub(crate) struct Link {
    last: Mutex<Option<Protection>>,
    to_log: Mutex<Option<Ignored>>,
}

impl Link {
    /// Logs these with the first connection.
    pub(crate) fn log_once(&self, ignored: Ignored) {
        *lock(&self.to_log) = Some(ignored);
    }

    /// How the latest connection is protected; `None` before the first.
    pub(crate) fn protection(&self) -> Option<Protection> {
        *lock(&self.last)
    }

    /// Takes note of a new connection.
    pub(crate) fn connected(&self, protection: Protection) {
        *lock(&self.last) = Some(protection);
        if let Some(ignored) = lock(&self.to_log).take() {
            ignored.log();
        }
    }
}

impl Ignored {
    fn log(&self) {
        if !self.names.is_empty() {
            tracing::info!(
                parameters = self.names.join(", "),
                "parameters of the Postgres URL that belong to other libraries have no effect here"
            );
        }
        if !self.numbers.is_empty() {
            let numbers: Vec<String> = self.numbers.iter().map(usize::to_string).collect();
            tracing::warn!(
                numbers = numbers.join(", "),
                "parameters of the Postgres URL are not known and have no effect; they are counted from 1 and not \
                 named, since a name could be part of a password"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
