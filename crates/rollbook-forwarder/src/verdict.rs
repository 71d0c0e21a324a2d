//! Judges of answers: whether a change was delivered, and when it is tried again.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use rollbook_core::time::Timestamp;

/// Maximum time for which `Retry-After` is obeyed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// Result of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint answered 2xx.
    Accepted,
    /// The endpoint answered 410: it wants no more.
    Gone,
    /// The endpoint answered something else.
    Refused {
        /// Status.
        status: u16,
        /// Time for which the endpoint asks for no requests, at most [`RETRY_AFTER_MAX`].
        pause: Option<Duration>,
    },
    /// There was no answer in time.
    TimedOut,
    /// No connection could be made, or it broke. The text names host and port.
    Unreachable(String),
    /// Nothing was sent: the store could not read the row.
    Unreadable,
    /// Nothing was sent: there was no room for the row in memory. No attempt counts.
    Postponed,
}

impl Verdict {
    /// Judges an answer.
    pub fn of(status: StatusCode, retry_after: Option<&str>, now: Timestamp) -> Self {
        match status {
            status if status.is_success() => Self::Accepted,
            StatusCode::GONE => Self::Gone,
            _ => {
                let asks = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                let pause = retry_after.filter(|_| asks).and_then(|text| pause(text, now));
                Self::Refused { status: status.as_u16(), pause }
            }
        }
    }

    /// All outcomes, as labels of the metric.
    pub(crate) const OUTCOMES: [&'static str; 7] =
        ["delivered", "refused", "limited", "timeout", "unreachable", "gone", "unreadable"];

    /// Returns the label of the metric; `None` if nothing was attempted.
    pub(crate) const fn outcome(&self) -> Option<&'static str> {
        Some(match self {
            Self::Accepted => "delivered",
            Self::Gone => "gone",
            Self::Refused { status: 429, .. } => "limited",
            Self::Refused { .. } => "refused",
            Self::TimedOut => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Unreadable => "unreadable",
            Self::Postponed => return None,
        })
    }

    /// Returns the status of the answer, 200 for any 2xx; 0 if there was none.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::Accepted => 200,
            Self::Gone => 410,
            Self::Refused { status, .. } => *status,
            Self::TimedOut | Self::Unreachable(_) | Self::Unreadable | Self::Postponed => 0,
        }
    }

    /// Returns the failure in words.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Accepted => "the endpoint accepted it".to_owned(),
            Self::Gone => "the endpoint answered 410".to_owned(),
            Self::Refused { status: status @ 300..=399, .. } => {
                format!("the endpoint answered {status}, and redirects are not followed")
            }
            Self::Refused { status, .. } => format!("the endpoint answered {status}"),
            Self::TimedOut => "the endpoint did not answer in time".to_owned(),
            Self::Unreachable(why) => why.clone(),
            Self::Unreadable => "the store could not read the row for expand".to_owned(),
            Self::Postponed => "there was no room for the row".to_owned(),
        }
    }
}

/// Reads `Retry-After`: seconds, or a date.
fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let at = Timestamp::from_millis(i64::try_from(at.as_millis()).ok()?);
    Some(at.since(now).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_785_312_000_000);

    fn of(status: u16, retry_after: Option<&str>) -> Verdict {
        Verdict::of(StatusCode::from_u16(status).expect("a status"), retry_after, NOW)
    }

    #[test]
    fn answers_from_200_to_299_deliver_410_stops_and_all_others_fail() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(of(status, Some("60")), Verdict::Accepted, "{status}");
        }
        assert_eq!(of(410, None), Verdict::Gone);
        for status in [300, 301, 302, 307, 308, 400, 401, 404, 409, 411, 422, 500, 502, 504, 599] {
            assert_eq!(of(status, Some("60")), Verdict::Refused { status, pause: None }, "{status}");
        }
        assert!(of(302, None).reason().contains("redirects are not followed"));
        assert_eq!(of(500, None).reason(), "the endpoint answered 500");
    }

    #[test]
    fn retry_after_of_429_and_503_is_seconds_or_a_date_at_most_an_hour() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("3601", Some(3_600)),
            ("99999999999999999999999", Some(3_600)),
            ("Wed, 29 Jul 2026 08:02:00 GMT", Some(120)),
            ("Wed, 29 Jul 2026 07:00:00 GMT", Some(0)),
            ("Tue, 29 Jul 2036 07:00:00 GMT", Some(3_600)),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("", None),
        ] {
            let pause = seconds.map(Duration::from_secs);
            for status in [429, 503] {
                assert_eq!(of(status, Some(text)), Verdict::Refused { status, pause }, "{text}");
            }
        }
    }
}
