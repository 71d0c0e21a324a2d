//! Clock skew: how far the senders' clocks are ahead of the local clock, measured at deliveries.
//!
//! Deliveries refused only for their timestamp count too: a receiver with a wrong clock accepts no others. A
//! measurement is shown for [`SHOWN_FOR`], then removed: a clock corrected meanwhile must not look wrong
//! until the next delivery.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::Gauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tokio::time::Instant;

/// Time for which a measurement is shown. Svix sends a refused delivery again after 5 s and after 5 minutes, so a clock
/// that stays wrong is measured again in this time.
const SHOWN_FOR: Duration = Duration::from_secs(15 * 60);
/// Time for which an accepted delivery takes precedence over deliveries refused for their timestamp. Anyone
/// who captured a delivery can replay it, whereas a wrong clock accepts none.
const ACCEPTED_PREFERRED_FOR: Duration = Duration::from_secs(60);

/// Skew at the last delivery with a valid signature. Clones share the value.
#[derive(Clone)]
pub(crate) struct Skew {
    gauge: Gauge,
    measured: Arc<Mutex<Option<Measured>>>,
}

#[derive(Clone, Copy)]
struct Measured {
    at: Instant,
    ahead_seconds: f64,
    was_accepted: bool,
}

impl Skew {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let help = "How far the clock of the last sender with a valid signature was ahead of the local clock; absent if that \
                    was more than 15 minutes ago.";
        Ok(Self { gauge: Gauge::new("rollbook_clock_skew_seconds", help)?, measured: Arc::default() })
    }

    /// Records an accepted delivery.
    pub(crate) fn accepted(&self, ahead_seconds: f64) {
        self.note(Measured { at: Instant::now(), ahead_seconds, was_accepted: true });
    }

    /// Records a delivery that was refused only for its timestamp.
    pub(crate) fn refused(&self, ahead_seconds: f64) {
        self.note(Measured { at: Instant::now(), ahead_seconds, was_accepted: false });
    }

    fn note(&self, new: Measured) {
        let mut measured = self.measured();
        let is_preferred = |known: Measured| {
            known.was_accepted && new.at.saturating_duration_since(known.at) < ACCEPTED_PREFERRED_FOR
        };
        if new.was_accepted || !measured.is_some_and(is_preferred) {
            *measured = Some(new);
        }
    }

    fn shown(&self, now: Instant) -> Option<f64> {
        let measured = (*self.measured())?;
        (now.saturating_duration_since(measured.at) < SHOWN_FOR).then_some(measured.ahead_seconds)
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

    fn measured(at: Instant, ahead_seconds: f64, was_accepted: bool) -> Measured {
        Measured { at, ahead_seconds, was_accepted }
    }

    #[test]
    fn a_measurement_is_shown_for_15_minutes_and_then_removed() {
        let (skew, now) = (Skew::new().expect("a name"), Instant::now());
        assert!(skew.collect().is_empty(), "nothing is known before the first delivery");
        skew.note(measured(now, -90.0, true));
        assert_eq!(skew.shown(now + SHOWN_FOR.saturating_sub(TICK)), Some(-90.0));
        assert_eq!(skew.shown(now + SHOWN_FOR), None);
    }

    #[test]
    fn a_refused_delivery_counts_unless_one_was_accepted_within_a_minute() {
        let (skew, now) = (Skew::new().expect("a name"), Instant::now());
        skew.note(measured(now, -600.0, false));
        assert_eq!(skew.shown(now), Some(-600.0), "no better measurement exists");
        skew.note(measured(now, 1.0, true));
        skew.note(measured(now + ACCEPTED_PREFERRED_FOR.saturating_sub(TICK), -86_400.0, false));
        assert_eq!(skew.shown(now), Some(1.0), "a replayed delivery of yesterday does not count");
        skew.note(measured(now + ACCEPTED_PREFERRED_FOR, -700.0, false));
        assert_eq!(skew.shown(now + ACCEPTED_PREFERRED_FOR), Some(-700.0), "the clock became wrong since");
    }
}
