//! Progress of the lanes, for liveness checks.
//!
//! Constraints:
//!
//! * A lane that hangs in a call stops it all: its messages are held up.
//! * An outage does not: a lane that waits for the store or the queue repeats its call, and a
//!   restart would fix nothing.
//! * A lane that waits for another lane makes no progress by itself. If all wait for each other, nothing is
//!   taken though messages are due, and only a restart helps.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus::Gauge;
use rollbook_core::time::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;

/// Interval at which a lane that waits on purpose reports progress: short enough for any sensible liveness limit.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// When the lanes were last seen alive. Clones show the same.
#[derive(Clone)]
pub struct Progress(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    /// One for each lane, in milliseconds.
    beats: Vec<AtomicI64>,
    /// Time at which any lane last did something, or waited for an event from outside or for time to pass.
    acted: AtomicI64,
    gauge: Gauge,
}

impl Progress {
    pub(crate) fn new(lanes: usize, clock: Arc<dyn Clock>, gauge: Gauge) -> Self {
        let born_at = clock.now().as_millis();
        let beats = (0..lanes).map(|_| AtomicI64::new(born_at)).collect();
        let progress = Self(Arc::new(Inner { clock, beats, acted: AtomicI64::new(born_at), gauge }));
        progress.show();
        progress
    }

    /// Returns the latest time at which every lane was alive: working, idle, or waiting on purpose for the
    /// store or the queue. The time does not advance while any lane hangs in a call, or while all lanes wait
    /// for each other.
    pub fn last(&self) -> Timestamp {
        let acted = self.0.acted.load(Ordering::Relaxed);
        let beats = self.0.beats.iter().map(|beat| beat.load(Ordering::Relaxed));
        Timestamp::from_millis(beats.fold(acted, i64::min))
    }

    fn beat(&self, lane: usize, acts: bool) {
        let now = self.0.clock.now().as_millis();
        self.0.beats[lane].store(now, Ordering::Relaxed);
        if acts {
            self.0.acted.store(now, Ordering::Relaxed);
        }
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

/// Progress of one lane, and the request to stop. Every wait that is not a call of a port goes through this
/// type, so that it notices the stop at once and does not count as a standstill.
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
        self.progress.beat(self.lane, true);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for `event`, from outside or of time; `None` after a request to stop. `event` is
    /// dropped then: it must be a wait that may be given up.
    pub(crate) async fn wait_for<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        self.wait(event, true).await
    }

    /// Waits for an `event` of another lane: that lane must make the progress.
    pub(crate) async fn wait_for_another<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        self.wait(event, false).await
    }

    async fn wait<T>(&self, event: impl Future<Output = T>, acts: bool) -> Option<T> {
        let mut event = pin!(event);
        loop {
            self.progress.beat(self.lane, acts);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                value = &mut event => return Some(value),
                () = tokio::time::sleep(BEAT_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Moves with tokio's time.
    struct PausedClock(Instant);

    impl Clock for PausedClock {
        fn now(&self) -> Timestamp {
            Timestamp::default().plus(self.0.elapsed())
        }
    }

    /// Two lanes, and how far their progress is behind after a long time of these waits.
    async fn behind<A, B>(waits: impl FnOnce(Pulse, Pulse) -> (A, B)) -> Duration
    where
        A: Future<Output = Option<()>>,
        B: Future<Output = Option<()>>,
    {
        let clock = Arc::new(PausedClock(Instant::now()));
        let gauge = Gauge::new("progress", "For the test.").expect("a name");
        let progress = Progress::new(2, clock.clone(), gauge);
        let lane = |number| Pulse::new(number, progress.clone(), CancellationToken::new());
        let (one, other) = waits(lane(0), lane(1));
        tokio::select! {
            _ = one => panic!("it never comes"),
            _ = other => panic!("it never comes"),
            () = sleep(LONG) => clock.now().since(progress.last()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_stands_still_while_all_lanes_wait_for_each_other() {
        let behind = behind(|one, other| {
            let one = async move { one.wait_for_another(pending()).await };
            (one, async move { other.wait_for_another(pending()).await })
        });
        assert_eq!(behind.await, LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_goes_on_while_one_lane_waits_for_something_outside_and_the_others_for_it() {
        let behind = behind(|one, other| {
            let one = async move { one.wait_for(pending()).await };
            (one, async move { other.wait_for_another(pending()).await })
        });
        assert!(behind.await <= BEAT_EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_stands_still_while_one_lane_hangs_and_the_others_wait_for_it_or_not() {
        let behind = behind(|_, other| {
            let hangs = pending();
            (hangs, async move { other.wait_for(pending()).await })
        });
        assert_eq!(behind.await, LONG);
    }
}
