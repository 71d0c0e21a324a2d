//! How far the demo is: one line that moves on a terminal, a few plain ones elsewhere.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rollbook_core::queue::QueueAdmin;
use rollbook_operator::words::thousands;

use super::Running;
use super::counts;
use crate::progress::ProgressLine;

/// Tells how far it is, on standard error.
pub(crate) struct Progress {
    total: usize,
    received: Arc<AtomicU64>,
    queue: Arc<dyn QueueAdmin>,
    registry: prometheus::Registry,
    line: ProgressLine,
}

impl Progress {
    /// Tells of `total` deliveries, of which `received` are acknowledged.
    pub(crate) fn new(total: usize, received: Arc<AtomicU64>, running: &Running) -> Self {
        let (queue, registry) = (running.queue.admin.clone(), running.registry.clone());
        Self { total, received, queue, registry, line: ProgressLine::new() }
    }

    /// Tells while something is done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut ticks = tokio::time::interval(self.line.interval());
        ticks.tick().await;
        loop {
            tokio::select! {
                done = work.as_mut() => return done,
                _ = ticks.tick() => self.tell().await,
            }
        }
    }

    /// Ends the line that moves.
    pub(crate) fn end(&self) {
        self.line.end();
    }

    async fn tell(&mut self) {
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
