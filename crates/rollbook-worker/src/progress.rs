//! Whether the lanes make progress: what a liveness check asks.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus::Gauge;
use rollbook_core::time::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;

/// How often a lane that waits on purpose says so: often enough for any sensible liveness limit.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// When the lanes were last seen alive. Clones show the same.
#[derive(Clone)]
pub struct Progress(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    /// One for each lane, in milliseconds.
    beats: Vec<AtomicI64>,
    gauge: Gauge,
}

impl Progress {
    pub(crate) fn new(lanes: usize, clock: Arc<dyn Clock>, gauge: Gauge) -> Self {
        let born_at = clock.now().as_millis();
        let beats = (0..lanes).map(|_| AtomicI64::new(born_at)).collect();
        let progress = Self(Arc::new(Inner { clock, beats, gauge }));
        progress.show();
        progress
    }

    /// The last moment at which every lane was seen alive: working, idle, or waiting on purpose for
    /// the store or the queue. It stands still while any lane hangs in a call.
    pub fn last(&self) -> Timestamp {
        let beats = self.0.beats.iter().map(|beat| beat.load(Ordering::Relaxed));
        Timestamp::from_millis(beats.min().unwrap_or_default())
    }

    fn beat(&self, lane: usize) {
        self.0.beats[lane].store(self.0.clock.now().as_millis(), Ordering::Relaxed);
        self.show();
    }

    fn show(&self) {
        self.0.gauge.set(self.last().since(Timestamp::default()).as_secs_f64());
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress({})", self.last())
    }
}

/// One lane's side of it, with the wish to stop: every wait that is not a call of a port goes through
/// here, so that it notices stop at once and does not look like a standstill.
pub(crate) struct Pulse {
    pub(crate) lane: usize,
    progress: Progress,
    stop: CancellationToken,
}

impl Pulse {
    pub(crate) fn new(lane: usize, progress: Progress, stop: CancellationToken) -> Self {
        Self { lane, progress, stop }
    }

    pub(crate) fn beat(&self) {
        self.progress.beat(self.lane);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for `event`; `None` once it is time to stop. `event` is dropped then: it must be a wait
    /// that may be given up.
    pub(crate) async fn wait_for<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        let mut event = pin!(event);
        loop {
            self.beat();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                value = &mut event => return Some(value),
                () = tokio::time::sleep(BEAT_EVERY) => {}
            }
        }
    }
}
