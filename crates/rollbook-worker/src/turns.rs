//! Turns of the background tasks: counted by outcome. A failure is logged at once, and once a minute while it lasts.

use prometheus::{IntCounterVec, Opts, Registry};
use rollbook_core::store::StoreError;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::backoff::Repeat;

/// Counter of turns, by task and outcome.
pub(crate) struct TurnMetrics(IntCounterVec);

impl TurnMetrics {
    /// Registers the counter, at zero for every value of a label.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Turns of a worker's background tasks on the store, by task and outcome.";
        let counter =
            IntCounterVec::new(Opts::new("rollbook_background_turns_total", help), &["task", "outcome"])?;
        registry.register(Box::new(counter.clone()))?;
        for task in [Task::Cascades, Task::Retention] {
            for outcome in ["done", "failed"] {
                counter.with_label_values(&[task.name(), outcome]);
            }
        }
        Ok(Self(counter))
    }
}

/// A background task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Repair of child rows of deleted parents.
    Cascades,
    /// Removal of old ledger entries, and of the content of rows deleted long ago.
    Retention,
}

impl Task {
    const fn name(self) -> &'static str {
        match self {
            Self::Cascades => "cascades",
            Self::Retention => "retention",
        }
    }
}

/// Turns of one task.
pub(crate) struct Turns<'a> {
    task: Task,
    metrics: &'a TurnMetrics,
    failing: Option<Failing>,
}

struct Failing {
    since: Instant,
    repeat: Repeat,
}

impl<'a> Turns<'a> {
    pub(crate) fn new(task: Task, metrics: &'a TurnMetrics) -> Self {
        Self { task, metrics, failing: None }
    }

    /// Records the outcome of a turn. Returns its result if it succeeded.
    pub(crate) fn record<T>(&mut self, turn: Result<T, StoreError>) -> Option<T> {
        let count = |outcome| self.metrics.0.with_label_values(&[self.task.name(), outcome]).inc();
        match turn {
            Ok(done) => {
                count("done");
                if let Some(failing) = self.failing.take() {
                    let outage_seconds = failing.since.elapsed().as_secs();
                    info!(task = self.task.name(), outage_seconds, "the background task works again");
                }
                Some(done)
            }
            Err(error) => {
                count("failed");
                let new = || Failing { since: Instant::now(), repeat: Repeat::default() };
                let failing = self.failing.get_or_insert_with(new);
                if failing.repeat.is_due() {
                    let outage_seconds = failing.since.elapsed().as_secs();
                    let message = match self.task {
                        Task::Cascades => {
                            "child rows of deleted parents cannot be repaired now: deliveries are applied, and the repair is retried"
                        }
                        Task::Retention => {
                            "retention fails: old data stays for longer; deliveries are applied, and retention is retried"
                        }
                    };
                    warn!(task = self.task.name(), %error, outage_seconds, "{message}");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    /// Counts warnings, and lines of less weight.
    #[derive(Clone, Default)]
    struct Lines(Arc<[AtomicUsize; 2]>);

    impl Lines {
        fn counts(&self) -> [usize; 2] {
            [0, 1].map(|number| self.0[number].load(Ordering::Relaxed))
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let number = usize::from(*event.metadata().level() != Level::WARN);
            self.0[number].fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_logged_at_once_and_once_a_minute_until_a_turn_succeeds() {
        let lines = Lines::default();
        let _lines = tracing::subscriber::set_default(lines.clone());
        let metrics = TurnMetrics::new(&Registry::new()).expect("metrics");
        let mut turns = Turns::new(Task::Cascades, &metrics);
        assert_eq!(turns.record(Ok(7)), Some(7));
        for _ in 0..=36 {
            assert_eq!(turns.record::<()>(Err(StoreError::Deployment("no right".to_owned()))), None);
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        assert_eq!(lines.counts(), [4, 0], "at the beginning, and after one, two and three minutes");
        turns.record(Ok(()));
        turns.record(Ok(()));
        assert_eq!(lines.counts(), [4, 1], "the end of the failure is logged once");
        turns.record::<()>(Err(StoreError::Deployment("no right".to_owned())));
        assert_eq!(lines.counts(), [5, 1], "a new failure is logged at once");
        let counted = |outcome| metrics.0.with_label_values(&["cascades", outcome]).get();
        assert_eq!((counted("done"), counted("failed")), (3, 38));
    }
}
