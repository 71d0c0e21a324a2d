//! Port for the set-up of a queue or a store: its state, its pending steps, and its creation or removal.

use std::sync::Arc;

use async_trait::async_trait;

use crate::time::Timestamp;
use crate::weakness::Weakness;

/// Says whether work that takes long is to stop.
pub type Stopped = Arc<dyn Fn() -> bool + Send + Sync>;

/// Steps of the schema that a backend lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The names of the steps, in their order; none where there is a refusal.
    pub names: Vec<&'static str>,
    /// Reason why this Rollbook must not use the backend even after all steps. Waiting does not help.
    pub refusal: Option<String>,
    /// Names of steps of a newer Rollbook that this one works with although it does not know them: they only add.
    pub newer: Vec<String>,
}

/// Reason why the pending steps of a backend are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PendingError {
    /// The backend can't be reached or read, as far as is known.
    #[error("{0}")]
    Unavailable(String),
    /// Manual action is needed, such as a right to grant: the text says which.
    #[error("{0}")]
    Manual(String),
}

impl From<String> for PendingError {
    fn from(why: String) -> Self {
        Self::Unavailable(why)
    }
}

/// A queue or a store as a place that can be set up. It need not exist.
///
/// Errors are for an operator: they name the place, and hold no password.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Place and kind of the backend, without user and password.
    fn describe(&self) -> String;

    /// Checks the settings without a connection.
    ///
    /// # Errors
    /// The problem of the settings.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The steps that are pending. Makes nothing. A backend without a schema lacks none.
    ///
    /// # Errors
    /// The backend can't be asked.
    async fn pending(&self) -> Result<Pending, PendingError> {
        Ok(Pending::default())
    }

    /// Applies pending steps, creates what does not exist, and returns the names of the steps. A stop may be
    /// ignored; where it is not, nothing is changed.
    ///
    /// # Errors
    /// The backend can't be asked, or refuses a step.
    async fn migrate(&self, _stopped: Stopped) -> Result<Vec<&'static str>, String> {
        Ok(Vec::new())
    }

    /// Returns whether it exists, even if empty. Makes nothing.
    ///
    /// # Errors
    /// The backend can't be asked.
    async fn exists(&self) -> Result<bool, String>;

    /// Identity of the data: equal in every process that uses it, whatever name its settings give the place, and
    /// another for other data. `None` where nothing identifies it, such as a queue that was never set up.
    ///
    /// # Errors
    /// The backend can't be asked.
    async fn identity(&self) -> Result<Option<String>, String> {
        Ok(None)
    }

    /// Time of the server's clock; `None` where there is no server.
    async fn server_time(&self) -> Option<Result<Timestamp, String>> {
        None
    }

    /// Weaknesses of the rights in it: everything works, and others may do what they should not.
    ///
    /// # Errors
    /// The backend can't be asked.
    async fn weaknesses(&self) -> Result<Vec<Weakness>, String> {
        Ok(Vec::new())
    }

    /// Rewrites the file, so that the file and its log hold nothing that was removed. `false` where there is no file.
    ///
    /// # Errors
    /// The rewrite failed: removed data may still be in the file or its log.
    fn rewrite(&self) -> Result<bool, String> {
        Ok(false)
    }

    /// Removes it from its server, with all its content. A file stays.
    ///
    /// # Errors
    /// Part of it may still be there.
    async fn remove(&self) -> Result<(), String> {
        Ok(())
    }
}
