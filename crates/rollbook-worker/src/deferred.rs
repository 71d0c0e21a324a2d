//! Settlements that a part of the queue did not answer, kept until it does.
//!
//! A queue may have parts (shards, on servers of their own). If one is unreachable, a lane continues with
//! the others, and repeats the unanswered settlements with each of its next ones. A settlement that is kept
//! longer than a lease lasts is dropped: the lease has expired, and the message is leased again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::queue::QueueError;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::batch::Decided;

/// Settlements of a lane that are to be sent again.
#[derive(Debug)]
pub(crate) struct Deferred {
    keep_for: Duration,
    kept: Mutex<Option<(Instant, Decided)>>,
}

impl Deferred {
    pub(crate) fn new(keep_for: Duration) -> Self {
        Self { keep_for, kept: Mutex::new(None) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept().is_none()
    }

    /// Returns the kept outcomes, followed by `decided`.
    pub(crate) fn take(&self, decided: Decided) -> Decided {
        match self.kept().as_mut() {
            None => decided,
            Some((_, kept)) => std::mem::take(kept).and(decided),
        }
    }

    /// Keeps the settlements that were not answered.
    pub(crate) fn put(&self, left: Decided, error: &QueueError, lane: usize) {
        let mut kept = self.kept();
        let is_first = kept.is_none();
        let since = kept.take().map_or_else(Instant::now, |(since, _)| since);
        let messages = left.settlements.len();
        if since.elapsed() >= self.keep_for {
            warn!(
                lane,
                messages,
                %error,
                "settlements were not answered for as long as a lease lasts: these messages are leased again"
            );
            return;
        }
        if is_first {
            warn!(lane, messages, %error, "a part of the queue did not settle: asking again with the next batch");
        }
        *kept = Some((since, left));
    }

    /// Takes note that everything is settled.
    pub(crate) fn clear(&self, lane: usize) {
        if let Some((since, _)) = self.kept().take() {
            info!(lane, seconds = since.elapsed().as_secs_f64(), "all of the queue settles again");
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<(Instant, Decided)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
