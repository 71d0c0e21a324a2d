//! Refused requests that are, or may be, deliveries: counted by reason, and logged.
//!
//! A wrong secret, a proxy that strips headers, a wrong URL or a body over the limit refuse genuine
//! deliveries permanently, and Svix gives up after 27 h 35 min. Each reason therefore has its own count and
//! log line: one when it starts and one per minute while it lasts, so that an attacker can't fill the disk
//! with log lines.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollbook_core::signature::VerifyError;
use rollbook_core::time::Timestamp;
use tracing::warn;

use crate::metrics::Metrics;
use crate::paths::WebhookPaths;
use crate::reason::{Reason, Refused};

/// Minimum interval between two log lines of one reason.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Counts refusals and logs them at a limited rate.
pub(crate) struct Refusals {
    metrics: Arc<Metrics>,
    paths: WebhookPaths,
    /// One tally per reason, in the order of [`Reason::ALL`].
    tallies: [Mutex<Tally>; Reason::ALL.len()],
}

#[derive(Default)]
struct Tally {
    logged_at: Option<Timestamp>,
    unlogged: u64,
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>, paths: WebhookPaths) -> Self {
        Self { metrics, paths, tallies: Default::default() }
    }

    /// Counts one refusal, and logs a line if one is due.
    pub(crate) fn note(&self, refused: Refused, now: Timestamp) {
        let reason = Reason::of(refused);
        self.metrics.refusal(reason);
        let due = self.tallies[reason as usize].lock().unwrap_or_else(PoisonError::into_inner).note(now);
        if let Some(count) = due {
            log(refused, count, &self.paths);
        }
    }
}

fn log(refused: Refused, count: u64, paths: &WebhookPaths) {
    match refused {
        Refused::Unverified(why) => {
            warn!(refused = count, %why, fix = fix(why), "deliveries are answered 400");
        }
        Refused::Path => warn!(
            refused = count,
            accepted = %paths,
            fix = "correct the path in the endpoint's URL in Clerk's dashboard or in the proxy that rewrites it, or set \
                   webhook_path (ROLLBOOK_WEBHOOK_PATH)",
            "requests with svix-* headers to an unknown path are answered 404"
        ),
        Refused::Unreadable(status) => warn!(
            refused = count,
            status = status.as_u16(),
            fix = "a sender must speak HTTP/1.1 without TLS here, with less than 16 KiB and 100 lines of headers",
            "received bytes that are not a valid HTTP/1.1 request"
        ),
        Refused::BodyTooLarge(limit) => warn!(
            refused = count,
            limit,
            fix = "raise body_max (ROLLBOOK_BODY_MAX) if these are Clerk's deliveries",
            "bodies over the limit are answered 413"
        ),
        Refused::BodyTooSlow => warn!(
            refused = count,
            fix = "check the proxy and the network for delays; see body_timeout and body_rate_min",
            "bodies that arrive too slowly are answered 408"
        ),
        Refused::BodyTorn => warn!(
            refused = count,
            fix = "look for a proxy that cuts or re-chunks bodies, or that has a shorter timeout than body_timeout",
            "bodies that break off or have malformed chunks are answered 400"
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
        VerifyError::NoMatch => "compare the signing secret with this endpoint's in Clerk's dashboard",
        VerifyError::TooOld | VerifyError::TooNew => {
            "check the clock of this machine; rollbook doctor checks it"
        }
        VerifyError::MixedHeaders => {
            "a proxy or the endpoint's custom headers add a webhook-* header to the svix-* ones: remove it"
        }
        _ => "if these are Clerk's deliveries, a proxy or gateway strips or changes their svix-* headers",
    }
}

impl Tally {
    /// Returns the number of refusals to include in the next log line, if one is due. A line is also due
    /// after the clock was set back.
    fn note(&mut self, now: Timestamp) -> Option<u64> {
        self.unlogged = self.unlogged.saturating_add(1);
        let quiet =
            self.logged_at.is_some_and(|logged_at| now >= logged_at && now < logged_at.plus(LOG_INTERVAL));
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
    fn every_reason_has_its_own_index_in_the_list() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.label());
        }
    }

    #[test]
    fn the_first_refusal_is_logged_at_once_and_the_others_a_minute_later_with_their_number() {
        let mut tally = Tally::default();
        let at = |seconds: i64| Timestamp::from_millis(1_785_312_000_000 + seconds * 1000);
        let logged: Vec<_> =
            [0, 1, 59, 60, 61, 120].into_iter().map(|second| tally.note(at(second))).collect();
        assert_eq!(logged, [Some(1), None, None, Some(3), None, Some(2)]);
        assert_eq!(tally.note(at(-3600)), Some(1), "a clock that was set back does not stop the log");
    }
}
