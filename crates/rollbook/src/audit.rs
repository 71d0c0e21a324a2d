//! The audit of the queue: at the start of a worker, every hour, and after a server of the queue has restarted.
//!
//! Redis can load half of a script's writes after a kill: a write to its log that the kill has torn counts with the writes after
//! it once Redis restarts again (decision 0381). The messages of such a lease or settlement are found by the audit only.
//!
//! The audit works in short steps between deliveries and leases, and repairs what the bodies prove. Several workers may
//! run it at once.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, Registry, register_int_counter_vec_with_registry};
use rollbook_core::queue::{Audit, QueueAdmin};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pause between two audits.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Minimum pause before an audit because of a restart: a server may restart again and again.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// Pause after an audit that the queue did not answer.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);

const STRANDED: &str = "stranded";
const DANGLING: &str = "dangling";
const COUNTS: &str = "counts";

/// Audit of a queue.
pub(crate) struct QueueAudit {
    queue: Arc<dyn QueueAdmin>,
    repaired: IntCounterVec,
}

impl QueueAudit {
    /// Registers the metrics, at zero.
    pub(crate) fn new(queue: Arc<dyn QueueAdmin>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let help =
            "What the audit of the queue repaired: stranded messages, dangling index entries, wrong counts.";
        let name = "rollbook_queue_audit_repaired_total";
        let repaired = register_int_counter_vec_with_registry!(name, help, &["kind"], registry)?;
        for kind in [STRANDED, DANGLING, COUNTS] {
            repaired.with_label_values(&[kind]);
        }
        Ok(Self { queue, repaired })
    }

    /// Audits at once, then every hour and after a restart, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            let Some(audited) = stop.run_until_cancelled(self.queue.audit(true)).await else { return };
            let pause = match audited {
                Ok(audit) => {
                    is_failing = false;
                    self.report(&audit);
                    INTERVAL
                }
                Err(error) => {
                    if !is_failing {
                        warn!(%error, "the queue could not be audited; nothing waits for it, and it is tried again");
                    }
                    is_failing = true;
                    TRY_AGAIN_AFTER
                }
            };
            // Random, so that workers that started together do not audit together.
            let pause = pause.mul_f64(1.0 - fastrand::f64() / 4.0);
            if stop.run_until_cancelled(until_next(pause, self.queue.restarted())).await.is_none() {
                return;
            }
        }
    }

    fn report(&self, audit: &Audit) {
        let counts = u64::try_from(audit.notes.len()).unwrap_or(u64::MAX);
        for (kind, count) in [(STRANDED, audit.stranded), (DANGLING, audit.dangling), (COUNTS, counts)] {
            self.repaired.with_label_values(&[kind]).inc_by(count);
        }
        let Audit { messages, stranded, dangling, notes } = audit;
        if audit.is_clean() {
            info!(messages, "the queue was audited: every message can be found");
        } else {
            warn!(
                messages,
                stranded,
                dangling,
                counts = notes.join("; "),
                "the queue was damaged and is repaired: stranded messages are due again, dangling index entries are removed"
            );
        }
    }
}

/// Waits for the next audit: for `pause`, or until a server has restarted.
async fn until_next(pause: Duration, restarted: impl Future<Output = ()>) {
    let after_restart = async {
        tokio::time::sleep(RESTART_PAUSE).await;
        restarted.await;
    };
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = after_restart => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rollbook_core::queue::QueueError;
    use rollbook_core::time::Timestamp;
    use rollbook_testkit::clock::ManualClock;
    use rollbook_testkit::faults::{Fault, FaultyAdmin};
    use rollbook_testkit::memory::queue::MemoryQueue;
    use tokio::sync::Notify;

    use super::*;

    /// Returns the number of audits that began within a time.
    async fn begun_within(time: Duration, fails: usize) -> usize {
        let begun = Arc::new(AtomicUsize::new(0));
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
        let counted = Arc::clone(&begun);
        let queue = FaultyAdmin::new(Arc::new(MemoryQueue::new(10, clock)), move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) < fails {
                Fault::Fail(QueueError::Unavailable("it restarts".to_owned()))
            } else {
                Fault::None
            }
        });
        let stop = CancellationToken::new();
        let audit = QueueAudit::new(Arc::new(queue), &Registry::new()).expect("free names");
        let end = async {
            tokio::time::sleep(time).await;
            stop.cancel();
        };
        tokio::join!(audit.run(stop.clone()), end);
        begun.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_audited_at_the_start_and_every_hour_until_the_stop() {
        assert_eq!(begun_within(Duration::from_millis(1), 0).await, 1);
        let in_a_day = begun_within(INTERVAL * 24, 0).await;
        assert!((24..=33).contains(&in_a_day), "{in_a_day}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_that_could_not_be_done_is_tried_again_soon() {
        assert!(begun_within(TRY_AGAIN_AFTER * 4, 3).await >= 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_causes_an_audit_and_many_restarts_cause_few() {
        let begun = tokio::time::Instant::now();
        let restarted = Notify::new();
        // The first has happened during the audit before.
        restarted.notify_one();
        until_next(INTERVAL, restarted.notified()).await;
        assert_eq!(begun.elapsed(), RESTART_PAUSE);
        let restarts = async {
            tokio::time::sleep(RESTART_PAUSE * 3).await;
            restarted.notify_one();
        };
        tokio::join!(until_next(INTERVAL, restarted.notified()), restarts);
        assert_eq!(begun.elapsed(), RESTART_PAUSE * 4, "at once");
        until_next(INTERVAL, restarted.notified()).await;
        assert_eq!(begun.elapsed(), RESTART_PAUSE * 4 + INTERVAL);
    }

    #[test]
    fn what_was_repaired_is_counted_by_kind() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
        let audit =
            QueueAudit::new(Arc::new(MemoryQueue::new(10, clock)), &Registry::new()).expect("free names");
        let notes = vec!["one".to_owned(), "two".to_owned()];
        audit.report(&Audit { messages: 9, stranded: 4, dangling: 3, notes });
        let counted =
            [STRANDED, DANGLING, COUNTS].map(|kind| audit.repaired.with_label_values(&[kind]).get());
        assert_eq!(counted, [4, 3, 2]);
    }
}
