//! Progress of the demo: one line that is rewritten on a terminal, a few plain lines elsewhere.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rollbook_core::queue::QueueAdmin;
use rollbook_operator::words::thousands;

use super::Running;
use super::counts;
use crate::progress::ProgressLine;

/// Reports progress on standard error.
pub(crate) struct Progress {
    total: usize,
    received: Arc<AtomicU64>,
    queue: Arc<dyn QueueAdmin>,
    registry: prometheus::Registry,
    line: ProgressLine,
}

impl Progress {
    /// Reports that `received` of `total` deliveries are acknowledged.
    pub(crate) fn new(total: usize, received: Arc<AtomicU64>, running: &Running) -> Self {
        let (queue, registry) = (running.queue.admin.clone(), running.registry.clone());
        Self { total, received, queue, registry, line: ProgressLine::new() }
    }

    /// Reports progress while work is done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut ticks = tokio::time::interval(self.line.interval());
        ticks.tick().await;
        loop {
            tokio::select! {
                done = work.as_mut() => return done,
                _ = ticks.tick() => self.report().await,
            }
        }
    }

    /// Ends the line that is rewritten.
    pub(crate) fn end(&self) {
        self.line.end();
    }

    async fn report(&mut self) {
        let waiting =
            self.queue.stats().await.map_or_else(|_| "?".to_owned(), |stats| thousands(stats.depth()));
        let received = thousands(self.received.load(Ordering::Relaxed));
        let applied: u64 = counts::applied(&self.registry).iter().flat_map(|counts| counts.outcomes).sum();
        let line = format!(
            "received {received} of {} · applied {} · waiting {waiting}",
            thousands(self.total as u64),
            thousands(applied)
        );
        self.line.show(&line);
    }
}
