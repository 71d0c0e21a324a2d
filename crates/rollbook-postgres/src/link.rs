//! State shared by the connections to one database, and the reasons why there is none.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rollbook_core::lock::lock;
use rollbook_core::protection::Protection;

/// Parameters of a URL that have no effect here, and the sign of a pooler.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Names of parameters that belong to other libraries.
    pub names: Vec<&'static str>,
    /// Names of parameters with a value that is not known here.
    pub wrong_values: Vec<&'static str>,
    /// Positions, from one, of unknown parameters: a name could be part of a password.
    pub numbers: Vec<usize>,
    /// Sign of a pooler that no setting names.
    pub pooler: Option<&'static str>,
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
}

impl Link {
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
    }
}
