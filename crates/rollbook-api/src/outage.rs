//! Log of an outage of the store: once when it begins, not for each request, and once when it is over.

use std::sync::atomic::{AtomicBool, Ordering};

use rollbook_core::store::StoreError;

/// Whether calls of one kind fail. A role may lack rights on some tables only, so each kind has its own.
pub(crate) struct Outage {
    what: &'static str,
    is_failing: AtomicBool,
}

impl Outage {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, is_failing: AtomicBool::new(false) }
    }

    /// Logs the first failure, and the first success after it.
    pub(crate) fn log(&self, error: Option<&StoreError>) {
        let was_failing = self.is_failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_failing => {
                tracing::warn!(%error, "api can't read {} in the store", self.what);
            }
            None if was_failing => tracing::info!("api reads {} in the store again", self.what),
            _ => {}
        }
    }
}
