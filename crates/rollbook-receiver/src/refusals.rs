//! What the log says of deliveries that are refused as not genuine or not fresh: a line when it begins
//! and one a minute while it lasts, so that a wrong secret is seen and whoever forges fills no disk.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollbook_core::signature::VerifyError;
use rollbook_core::time::Timestamp;
use tracing::warn;

/// Between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// Counts refusals until a line about them is due.
#[derive(Default)]
pub(crate) struct Refusals {
    signature: Mutex<Tally>,
    time: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    told_at: Option<Timestamp>,
    untold: u64,
}

impl Refusals {
    /// Takes note of one, and tells the log where that is due. What lacks the headers of a delivery is a
    /// stranger's noise, and only counted in the metrics.
    pub(crate) fn note(&self, error: VerifyError, now: Timestamp) {
        let (tally, mend) = match error {
            VerifyError::NoMatch => {
                (&self.signature, "is the signing secret this endpoint's? rollbook doctor looks at it")
            }
            VerifyError::TooOld | VerifyError::TooNew => {
                (&self.time, "is the clock right? rollbook doctor looks at it")
            }
            _ => return,
        };
        let due = tally.lock().unwrap_or_else(PoisonError::into_inner).note(now);
        if let Some(refused) = due {
            warn!(refused, why = %error, mend, "deliveries are answered 400");
        }
    }
}

impl Tally {
    /// How many a line has to tell of, where one is due. A clock that was set back brings it forward.
    fn note(&mut self, now: Timestamp) -> Option<u64> {
        self.untold = self.untold.saturating_add(1);
        let quiet = self.told_at.is_some_and(|told_at| now >= told_at && now < told_at.plus(PAUSE));
        if quiet {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_a_minute_later_with_their_number() {
        let mut tally = Tally::default();
        let at = |seconds: i64| Timestamp::from_millis(1_785_312_000_000 + seconds * 1000);
        let told: Vec<_> = [0, 1, 59, 60, 61, 120].into_iter().map(|second| tally.note(at(second))).collect();
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
        assert_eq!(tally.note(at(-3600)), Some(1), "a clock that was set back silences nothing");
    }
}
