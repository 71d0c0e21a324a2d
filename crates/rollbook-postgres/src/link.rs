//! State shared by the connections to one database, and the reasons why there is none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rollbook_core::protection::Protection;

use crate::pooler;

/// Parameters of a URL that have no effect here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignored {
    /// Names that belong to other libraries.
    pub(crate) names: Vec<&'static str>,
    /// Positions, from one, of unknown parameters.
    pub(crate) numbers: Vec<usize>,
    /// Sign of a pooler that no setting names.
    pub(crate) pooler: Option<&'static str>,
}

/// Reason why a call got no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// All connections are in use, for longer than a call may wait.
    Busy,
    /// No server answered in time.
    Slow,
    /// The server or the network refused the connection.
    Refused(sqlx::Error),
}

/// State shared by the connections to one database.
#[derive(Debug, Default)]
pub(crate) struct Link {
    last: Mutex<Option<Protection>>,
    /// Whether the server refused the settings of a session.
    refused_settings: AtomicBool,
    to_log: Mutex<Option<Ignored>>,
}

impl Link {
    /// Logs ignored parameters with the first connection.
    pub(crate) fn log_once(&self, ignored: Ignored) {
        *lock(&self.to_log) = Some(ignored);
    }

    /// Returns the protection of the latest connection; `None` before the first.
    pub(crate) fn protection(&self) -> Option<Protection> {
        *lock(&self.last)
    }

    /// Records that the server refused the settings of a session.
    pub(crate) fn refused_settings(&self) {
        self.refused_settings.store(true, Ordering::Relaxed);
    }

    /// Returns whether the server refused the settings of a session.
    pub(crate) fn has_refused_settings(&self) -> bool {
        self.refused_settings.load(Ordering::Relaxed)
    }

    /// Records the protection of a new connection.
    pub(crate) fn connected(&self, protection: Protection) {
        *lock(&self.last) = Some(protection);
        if let Some(ignored) = lock(&self.to_log).take() {
            ignored.log();
        }
    }
}

impl Ignored {
    fn log(&self) {
        if let Some(sign) = self.pooler {
            tracing::warn!(
                "the URL of Postgres may lead to a pooler: {sign}. If it pools transactions, {}",
                pooler::FIX
            );
        }
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
                "parameters of the Postgres URL are unknown and have no effect; they are counted from 1 and not \
                 named, because a name could be part of a password"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
