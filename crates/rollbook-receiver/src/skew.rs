//! How far the clocks of senders are ahead of ours, as the last deliveries showed it.
//!
//! Refused deliveries show it too, where their signature is right and their time is not: a receiver whose clock is wrong
//! takes no others. What was measured is shown for [`HOLDS_FOR`] and then not at all: a clock that was set right
//! meanwhile must not look wrong until the next delivery.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::Gauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tokio::time::Instant;

/// How long a measurement is shown. Svix sends a refused delivery again after 5 minutes at the latest, so a clock that
/// stays wrong is measured again in this time.
const HOLDS_FOR: Duration = Duration::from_secs(15 * 60);
/// How long a delivery that was taken outranks those that are refused for their time. Anyone who has captured a
/// delivery can send it again; a wrong clock takes none.
const TAKEN_OUTRANKS_FOR: Duration = Duration::from_secs(60);

/// The skew of the last delivery whose signature was right. A clone shows the same.
#[derive(Clone)]
pub(crate) struct Skew {
    gauge: Gauge,
    measured: Arc<Mutex<Option<Measured>>>,
}

#[derive(Clone, Copy)]
struct Measured {
    at: Instant,
    ahead_seconds: f64,
    was_taken: bool,
}

impl Skew {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let help = "How far the clock of the last sender with a right signature was ahead of ours; not shown when that was \
                    more than 15 minutes ago.";
        Ok(Self { gauge: Gauge::new("rollbook_clock_skew_seconds", help)?, measured: Arc::default() })
    }

    /// Takes note of a delivery whose time is right.
    pub(crate) fn taken(&self, ahead_seconds: f64) {
        self.note(Measured { at: Instant::now(), ahead_seconds, was_taken: true });
    }

    /// Takes note of a delivery that was refused for nothing but its time.
    pub(crate) fn refused(&self, ahead_seconds: f64) {
        self.note(Measured { at: Instant::now(), ahead_seconds, was_taken: false });
    }

    fn note(&self, new: Measured) {
        let mut measured = self.measured();
        let outranks = |known: Measured| {
            known.was_taken && new.at.saturating_duration_since(known.at) < TAKEN_OUTRANKS_FOR
        };
        if new.was_taken || !measured.is_some_and(outranks) {
            *measured = Some(new);
        }
    }

    fn shown(&self, now: Instant) -> Option<f64> {
        let measured = (*self.measured())?;
        (now.saturating_duration_since(measured.at) < HOLDS_FOR).then_some(measured.ahead_seconds)
    }

    fn measured(&self) -> MutexGuard<'_, Option<Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Skew {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(ahead) = self.shown(Instant::now()) else { return Vec::new() };
        self.gauge.set(ahead);
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn measured(at: Instant, ahead_seconds: f64, was_taken: bool) -> Measured {
        Measured { at, ahead_seconds, was_taken }
    }

    #[test]
    fn a_measurement_is_shown_for_a_quarter_of_an_hour_and_then_not_at_all() {
        let (skew, now) = (Skew::new().expect("a name"), Instant::now());
        assert!(skew.collect().is_empty(), "nothing is known before the first delivery");
        skew.note(measured(now, -90.0, true));
        assert_eq!(skew.shown(now + HOLDS_FOR.saturating_sub(TICK)), Some(-90.0));
        assert_eq!(skew.shown(now + HOLDS_FOR), None);
    }

    #[test]
    fn a_refused_delivery_is_believed_unless_one_was_taken_within_a_minute() {
        let (skew, now) = (Skew::new().expect("a name"), Instant::now());
        skew.note(measured(now, -600.0, false));
        assert_eq!(skew.shown(now), Some(-600.0), "there is nothing better");
        skew.note(measured(now, 1.0, true));
        skew.note(measured(now + TAKEN_OUTRANKS_FOR.saturating_sub(TICK), -86_400.0, false));
        assert_eq!(skew.shown(now), Some(1.0), "a delivery that was captured yesterday");
        skew.note(measured(now + TAKEN_OUTRANKS_FOR, -700.0, false));
        assert_eq!(skew.shown(now + TAKEN_OUTRANKS_FOR), Some(-700.0), "the clock was set wrong since");
    }
}
