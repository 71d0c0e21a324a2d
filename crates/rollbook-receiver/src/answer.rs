//! All HTTP responses of the receiver's contract.
//!
//! A refusal names the rule that failed in a fixed text, and reveals nothing about the queue, the secrets or
//! the body.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use rollbook_core::queue::Enqueued;
use rollbook_core::signature::VerifyError;

use crate::metrics::outcome;
use crate::paths::WebhookPaths;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Reason for which a request is not answered 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Method not allowed on this path; the value lists the allowed ones.
    Method(&'static str),
    /// The body exceeds the length limit.
    TooLarge,
    /// The body arrived too slowly.
    TooSlow,
    /// The body ended early, or its chunks are malformed.
    Incomplete,
    /// The memory budget for bodies is used up.
    NoBodyBudget,
    /// The delivery failed verification.
    Unverified(VerifyError),
    /// The maximum number of deliveries already wait for the queue.
    TooManyWaiting,
    /// The queue holds the maximum number of messages.
    QueueFull,
    /// The queue's memory or disk is full.
    QueueNoRoom,
    /// The queue failed or did not answer in time.
    QueueUnavailable,
    /// The process is stopping.
    Stopping,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Incomplete | Self::Unverified(_) => StatusCode::BAD_REQUEST,
            Self::NoBodyBudget
            | Self::TooManyWaiting
            | Self::QueueFull
            | Self::QueueNoRoom
            | Self::QueueUnavailable
            | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn body(self) -> Bytes {
        let text = match self {
            Self::Method(_) => "method not allowed",
            Self::TooLarge => "body too large",
            Self::TooSlow => "body too slow",
            Self::Incomplete => "body not whole",
            Self::Unverified(error) => return Bytes::from(format!(r#"{{"error":"{error}"}}"#)),
            Self::NoBodyBudget | Self::TooManyWaiting => "too many deliveries at once",
            Self::QueueFull => "queue full",
            Self::QueueNoRoom => "queue has no room",
            Self::QueueUnavailable => "queue unavailable",
            Self::Stopping => "stopping",
        };
        Bytes::from(format!(r#"{{"error":"{text}"}}"#))
    }

    /// Outcome label under which the refused delivery is counted.
    pub(crate) const fn outcome(self) -> &'static str {
        match self {
            // The first is never counted as a delivery; the match must be total.
            Self::Method(_) | Self::Incomplete => outcome::TORN,
            Self::TooLarge => outcome::TOO_LARGE,
            Self::TooSlow => outcome::TOO_SLOW,
            Self::Unverified(error) => error.label(),
            Self::NoBodyBudget | Self::TooManyWaiting => outcome::OVERLOADED,
            Self::QueueFull => outcome::QUEUE_FULL,
            Self::QueueNoRoom => outcome::QUEUE_NO_ROOM,
            Self::QueueUnavailable | Self::Stopping => outcome::QUEUE_UNAVAILABLE,
        }
    }

    /// Builds the response. Every 503 asks for the pause of Svix's own first retry: Svix ignores a longer
    /// one.
    pub(crate) fn answer(self) -> Answer {
        let mut answer = json(self.status(), self.body());
        if let Self::Method(allowed) = self {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}

/// Outcome label under which a durable delivery is counted.
pub(crate) const fn outcome_of(enqueued: Enqueued) -> &'static str {
    match enqueued {
        Enqueued::Queued => outcome::QUEUED,
        Enqueued::Duplicate => outcome::DUPLICATE,
    }
}

/// Response to a durable delivery.
pub(crate) fn durable(enqueued: Enqueued) -> Answer {
    json(
        StatusCode::OK,
        Bytes::from_static(match enqueued {
            Enqueued::Queued => br#"{"status":"queued"}"#,
            Enqueued::Duplicate => br#"{"status":"duplicate"}"#,
        }),
    )
}

/// Response to a request with another path. Paths have no character that JSON would escape.
pub(crate) fn not_found(paths: &WebhookPaths) -> Answer {
    let body = format!(r#"{{"error":"not found; deliveries are accepted at {paths}"}}"#);
    json(StatusCode::NOT_FOUND, Bytes::from(body))
}

/// Response to a successful health check.
pub(crate) fn healthy() -> Answer {
    json(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#))
}

/// Closes the connection after this response: the rest of the request is not worth reading.
pub(crate) fn and_close(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals() -> Vec<Refusal> {
        let verify_errors = [
            VerifyError::MissingHeader("svix-id"),
            VerifyError::RepeatedHeader("svix-id"),
            VerifyError::MixedHeaders,
            VerifyError::MalformedId,
            VerifyError::MalformedTimestamp,
            VerifyError::MalformedSignature,
            VerifyError::TooOld,
            VerifyError::TooNew,
            VerifyError::NoMatch,
        ];
        let mut all = vec![
            Refusal::Method("POST"),
            Refusal::TooLarge,
            Refusal::TooSlow,
            Refusal::Incomplete,
            Refusal::NoBodyBudget,
            Refusal::TooManyWaiting,
            Refusal::QueueFull,
            Refusal::QueueNoRoom,
            Refusal::QueueUnavailable,
            Refusal::Stopping,
        ];
        all.extend(verify_errors.map(Refusal::Unverified));
        all
    }

    #[test]
    fn every_refusal_is_json_with_one_text_and_has_a_known_outcome() {
        for refusal in refusals() {
            let body: serde_json::Value = serde_json::from_slice(&refusal.body()).unwrap();
            assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{refusal:?}");
            assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{refusal:?}");
            let known = outcome::ALL.into_iter().chain(VerifyError::LABELS).any(|l| l == refusal.outcome());
            assert!(known, "{refusal:?}");
        }
    }

    #[test]
    fn only_a_503_asks_for_a_pause_and_nothing_ever_disables_the_endpoint() {
        for refusal in refusals() {
            let answer = refusal.answer();
            let unavailable = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), unavailable, "{refusal:?}");
            assert_ne!(answer.status(), StatusCode::GONE);
            assert!(answer.status().is_client_error() || unavailable);
        }
    }
}
