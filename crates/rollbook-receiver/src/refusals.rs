//! Requests that are, or may be, deliveries and are refused: counted by reason, and logged.
//!
//! A wrong secret, a proxy that strips headers, a wrong URL or a body over the limit refuse genuine deliveries for good,
//! and Svix gives up after 27 h 35 min. So each reason has its own count and its own line: one when it begins and one a
//! minute while it lasts, so that whoever forges fills no disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use rollbook_core::signature::VerifyError;
use rollbook_core::time::Timestamp;
use tracing::warn;

use crate::metrics::Metrics;

/// Between two lines of one reason.
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
    /// A body of more bytes than this limit.
    BodyTooLarge(usize),
    /// A body that came too slowly.
    BodyTooSlow,
    /// A body that broke off, or whose chunks are malformed.
    BodyTorn,
    /// A request to the webhook path with another method than POST.
    Method,
}

/// Why a request is refused: the label of a metric, from a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Signature,
    Timestamp,
    MissingHeaders,
    MixedHeaders,
    MalformedHeaders,
    Path,
    Unreadable,
    HeadTooLarge,
    BodyTooLarge,
    BodyTooSlow,
    BodyTorn,
    Method,
}

impl Reason {
    pub(crate) const ALL: [Self; 12] = [
        Self::Signature,
        Self::Timestamp,
        Self::MissingHeaders,
        Self::MixedHeaders,
        Self::MalformedHeaders,
        Self::Path,
        Self::Unreadable,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::BodyTorn,
        Self::Method,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Timestamp => "timestamp",
            Self::MissingHeaders => "missing_headers",
            Self::MixedHeaders => "mixed_headers",
            Self::MalformedHeaders => "malformed_headers",
            Self::Path => "path",
            Self::Unreadable => "unreadable",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::BodyTorn => "body_torn",
            Self::Method => "method",
        }
    }

    const fn of(refused: Refused) -> Self {
        match refused {
            Refused::NotGenuine(VerifyError::NoMatch) => Self::Signature,
            Refused::NotGenuine(VerifyError::TooOld | VerifyError::TooNew) => Self::Timestamp,
            Refused::NotGenuine(VerifyError::MissingHeader(_)) => Self::MissingHeaders,
            Refused::NotGenuine(VerifyError::MixedHeaders) => Self::MixedHeaders,
            Refused::NotGenuine(_) => Self::MalformedHeaders,
            Refused::Path => Self::Path,
            Refused::Unreadable(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => Self::HeadTooLarge,
            Refused::Unreadable(_) => Self::Unreadable,
            Refused::BodyTooLarge(_) => Self::BodyTooLarge,
            Refused::BodyTooSlow => Self::BodyTooSlow,
            Refused::BodyTorn => Self::BodyTorn,
            Refused::Method => Self::Method,
        }
    }
}

/// Counts refusals, and logs a line where one is due.
pub(crate) struct Refusals {
    metrics: Arc<Metrics>,
    /// One for each of [`Reason::ALL`], in their order.
    tallies: [Mutex<Tally>; Reason::ALL.len()],
}

#[derive(Default)]
struct Tally {
    logged_at: Option<Timestamp>,
    unlogged: u64,
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, tallies: Default::default() }
    }

    /// Counts one refusal, and logs a line where that is due.
    pub(crate) fn note(&self, refused: Refused, now: Timestamp) {
        let reason = Reason::of(refused);
        self.metrics.refusal(reason);
        let due = self.tallies[reason as usize].lock().unwrap_or_else(PoisonError::into_inner).note(now);
        if let Some(count) = due {
            log(refused, count);
        }
    }
}

fn log(refused: Refused, count: u64) {
    match refused {
        Refused::NotGenuine(why) => {
            warn!(refused = count, %why, fix = fix(why), "deliveries are answered 400");
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
        Refused::BodyTooLarge(limit) => warn!(
            refused = count,
            limit,
            fix = "raise body_max (ROLLBOOK_BODY_MAX) if these are Clerk's deliveries",
            "bodies over the limit are answered 413"
        ),
        Refused::BodyTooSlow => warn!(
            refused = count,
            fix = "is a proxy or the network slow? See body_timeout and body_rate_min",
            "bodies that come too slowly are answered 408"
        ),
        Refused::BodyTorn => warn!(
            refused = count,
            fix = "look for a proxy that cuts or re-chunks bodies, or that has a shorter timeout than body_timeout",
            "bodies that break off or whose chunks are malformed are answered 400"
        ),
        Refused::Method => warn!(
            refused = count,
            fix = "if these are deliveries, a redirect turns POST into GET: give Clerk the URL that is redirected to",
            "requests to the webhook path with another method than POST are answered 405"
        ),
    }
}

const fn fix(why: VerifyError) -> &'static str {
    match why {
        VerifyError::NoMatch => "is the signing secret this endpoint's? rollbook doctor looks at it",
        VerifyError::TooOld | VerifyError::TooNew => "is the clock right? rollbook doctor looks at it",
        VerifyError::MixedHeaders => {
            "a proxy or the endpoint's custom headers add a webhook-* header beside the svix-* ones: remove it"
        }
        _ => "if these are Clerk's deliveries, a proxy or gateway strips or changes their svix-* headers",
    }
}

impl Tally {
    /// The number of refusals to include in the next log line, where one is due. A clock that was set back brings it forward.
    fn note(&mut self, now: Timestamp) -> Option<u64> {
        self.unlogged = self.unlogged.saturating_add(1);
        let quiet = self.logged_at.is_some_and(|logged_at| now >= logged_at && now < logged_at.plus(PAUSE));
        if quiet {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_in_the_list_at_its_own_place() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{}", reason.label());
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_a_minute_later_with_their_number() {
        let mut tally = Tally::default();
        let at = |seconds: i64| Timestamp::from_millis(1_785_312_000_000 + seconds * 1000);
        let told: Vec<_> = [0, 1, 59, 60, 61, 120].into_iter().map(|second| tally.note(at(second))).collect();
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
        assert_eq!(tally.note(at(-3600)), Some(1), "a clock that was set back silences nothing");
    }
}
