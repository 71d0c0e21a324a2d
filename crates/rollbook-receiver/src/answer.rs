//! What the receiver says: every answer of the contract, in one place.
//!
//! A refusal tells its client which rule failed, in a fixed text, and nothing of the queue, the
//! secrets or the body.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use rollbook_core::queue::Enqueued;
use rollbook_core::signature::VerifyError;

use crate::metrics::outcome;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a request gets no 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such path.
    NotFound,
    /// The path has no such method; these it has.
    Method(&'static str),
    /// The body is too long.
    TooLarge,
    /// The body took too long.
    TooSlow,
    /// The body broke off, or its chunks are malformed.
    Torn,
    /// The bodies that are held leave no room for this one.
    NoRoom,
    /// The delivery is not genuine, or not fresh.
    NotGenuine(VerifyError),
    /// As many deliveries wait for the queue as may.
    TooManyWaiting,
    /// As many messages wait as may.
    QueueFull,
    /// No memory or no disk space is left where the queue is kept.
    QueueNoRoom,
    /// The queue failed, or did not answer in time.
    QueueUnavailable,
    /// The process is stopping.
    Stopping,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Torn | Self::NotGenuine(_) => StatusCode::BAD_REQUEST,
            Self::NoRoom
            | Self::TooManyWaiting
            | Self::QueueFull
            | Self::QueueNoRoom
            | Self::QueueUnavailable
            | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn body(self) -> Bytes {
        let text = match self {
            Self::NotFound => "not found",
            Self::Method(_) => "method not allowed",
            Self::TooLarge => "body too large",
            Self::TooSlow => "body too slow",
            Self::Torn => "body not whole",
            Self::NotGenuine(error) => return Bytes::from(format!(r#"{{"error":"{error}"}}"#)),
            Self::NoRoom | Self::TooManyWaiting => "too many deliveries at once",
            Self::QueueFull => "queue full",
            Self::QueueNoRoom => "queue has no room",
            Self::QueueUnavailable => "queue unavailable",
            Self::Stopping => "stopping",
        };
        Bytes::from(format!(r#"{{"error":"{text}"}}"#))
    }

    /// How a delivery that is refused so is counted.
    pub(crate) const fn outcome(self) -> &'static str {
        match self {
            // Not deliveries, and never counted as one; the match must be total.
            Self::NotFound | Self::Method(_) | Self::Torn => outcome::TORN,
            Self::TooLarge => outcome::TOO_LARGE,
            Self::TooSlow => outcome::TOO_SLOW,
            Self::NotGenuine(error) => error.label(),
            Self::NoRoom | Self::TooManyWaiting => outcome::OVERLOADED,
            Self::QueueFull => outcome::QUEUE_FULL,
            Self::QueueNoRoom => outcome::QUEUE_NO_ROOM,
            Self::QueueUnavailable | Self::Stopping => outcome::QUEUE_UNAVAILABLE,
        }
    }

    /// The answer. Every 503 asks for a pause of Svix's own first step: a longer one it would ignore.
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

/// How a delivery that is durable is counted.
pub(crate) const fn outcome_of(enqueued: Enqueued) -> &'static str {
    match enqueued {
        Enqueued::Queued => outcome::QUEUED,
        Enqueued::Duplicate => outcome::DUPLICATE,
    }
}

/// The answer to a delivery that is durable.
pub(crate) fn durable(enqueued: Enqueued) -> Answer {
    json(
        StatusCode::OK,
        Bytes::from_static(match enqueued {
            Enqueued::Queued => br#"{"status":"queued"}"#,
            Enqueued::Duplicate => br#"{"status":"duplicate"}"#,
        }),
    )
}

/// The answer to a health check that passes.
pub(crate) fn healthy() -> Answer {
    json(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#))
}

/// Ends the connection after this answer: what is left of the request is not worth reading.
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
            Refusal::NotFound,
            Refusal::Method("POST"),
            Refusal::TooLarge,
            Refusal::TooSlow,
            Refusal::Torn,
            Refusal::NoRoom,
            Refusal::TooManyWaiting,
            Refusal::QueueFull,
            Refusal::QueueNoRoom,
            Refusal::QueueUnavailable,
            Refusal::Stopping,
        ];
        all.extend(verify_errors.map(Refusal::NotGenuine));
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
