//! Reasons for which the receiver refuses a request.

use hyper::StatusCode;
use rollbook_core::signature::VerifyError;

/// Refused request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// A request to the webhook path that failed verification.
    Unverified(VerifyError),
    /// A request with a delivery's headers to an unknown path.
    Path,
    /// Bytes that hyper could not parse as a request, and the status of its response.
    Unreadable(StatusCode),
    /// A body longer than this limit, in bytes.
    BodyTooLarge(usize),
    /// A body that arrived too slowly.
    BodyTooSlow,
    /// A body that broke off, or has malformed chunks.
    BodyTorn,
    /// A request to the webhook path with another method than POST.
    Method,
}

/// Refusal reason; the label of a metric, from a closed list.
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

    pub(crate) const fn of(refused: Refused) -> Self {
        match refused {
            Refused::Unverified(VerifyError::NoMatch) => Self::Signature,
            Refused::Unverified(VerifyError::TooOld | VerifyError::TooNew) => Self::Timestamp,
            Refused::Unverified(VerifyError::MissingHeader(_)) => Self::MissingHeaders,
            Refused::Unverified(VerifyError::MixedHeaders) => Self::MixedHeaders,
            Refused::Unverified(_) => Self::MalformedHeaders,
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
