//! Log lines about requests that are refused: one when a kind of refusal begins and one a minute while it lasts, so
//! that a wrong secret, a proxy that strips headers or a wrong URL is seen, and whoever forges fills no disk.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use rollbook_core::signature::VerifyError;
use rollbook_core::time::Timestamp;
use tracing::warn;

/// Between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// What was refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// A request to the webhook path that is not a genuine, fresh delivery.
    NotGenuine(VerifyError),
    /// A request with a delivery's headers, to a path that is not served.
    Path,
    /// Bytes that hyper could not read as a request, and the status that it answered.
    Unreadable(StatusCode),
}

/// Counts refusals until a line about them is due.
#[derive(Default)]
pub(crate) struct Refusals {
    signature: Mutex<Tally>,
    time: Mutex<Tally>,
    headers: Mutex<Tally>,
    path: Mutex<Tally>,
    unreadable: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    told_at: Option<Timestamp>,
    untold: u64,
}

impl Refusals {
    /// Counts one refusal, and logs a line where that is due.
    pub(crate) fn note(&self, refused: Refused, now: Timestamp) {
        let tally = match refused {
            Refused::NotGenuine(VerifyError::NoMatch) => &self.signature,
            Refused::NotGenuine(VerifyError::TooOld | VerifyError::TooNew) => &self.time,
            Refused::NotGenuine(_) => &self.headers,
            Refused::Path => &self.path,
            Refused::Unreadable(_) => &self.unreadable,
        };
        let due = tally.lock().unwrap_or_else(PoisonError::into_inner).note(now);
        if let Some(count) = due {
            log(refused, count);
        }
    }
}

fn log(refused: Refused, count: u64) {
    match refused {
        Refused::NotGenuine(why) => {
            let fix = match why {
                VerifyError::NoMatch => "is the signing secret this endpoint's? rollbook doctor looks at it",
                VerifyError::TooOld | VerifyError::TooNew => {
                    "is the clock right? rollbook doctor looks at it"
                }
                _ => {
                    "if these are Clerk's deliveries, a proxy or gateway strips or changes their svix-* headers"
                }
            };
            warn!(refused = count, %why, fix, "deliveries are answered 400");
        }
        Refused::Path => warn!(
            refused = count,
            fix = "correct the path in the endpoint's URL in Clerk's dashboard, or in the proxy that rewrites it",
            "requests with svix-* headers come to a path that is not served and are answered 404"
        ),
        Refused::Unreadable(status) => warn!(
            refused = count,
            status = status.as_u16(),
            fix = "a sender must speak HTTP/1.1 without TLS here, with less than 16 KiB and 100 lines of headers",
            "received bytes that are not a readable HTTP/1.1 request"
        ),
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
