//! Answers in Clerk's forms.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use serde_json::json;

use super::objects::Listing;

/// Reason why a request gets an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    NoKey,
    WrongKey,
    NoSuchObject,
    Parameter {
        name: String,
        reason: &'static str,
    },
    TooManyRequests {
        retry_after: Option<u64>,
    },
    Forbidden,
    Server(u16),
    /// Clerk has it, but the simulator does not.
    NotSimulated(String),
}

impl Problem {
    pub(super) fn parameter(name: &str, reason: &'static str) -> Self {
        Self::Parameter { name: name.to_owned(), reason }
    }

    /// Returns status, code and message.
    fn parts(&self) -> (u16, &'static str, String) {
        match self {
            Self::NoKey => {
                (401, "authorization_header_format_invalid", "Invalid Authorization header".into())
            }
            Self::WrongKey => (401, "clerk_key_invalid", "The provided Clerk Secret Key is invalid.".into()),
            Self::NoSuchObject => (404, "resource_not_found", "not found".into()),
            Self::Parameter { name, reason } => (422, "form_param_value_invalid", format!("{name} {reason}")),
            Self::TooManyRequests { .. } => {
                (429, "too_many_requests", "Too many requests. Please try again in a bit.".into())
            }
            Self::Forbidden => (403, "organization_not_enabled_in_instance", "access denied".into()),
            Self::Server(status) => {
                (*status, "internal_clerk_error", "Oops, an unexpected error occurred".into())
            }
            Self::NotSimulated(what) => (501, "not_simulated", format!("the simulator does not have {what}")),
        }
    }

    /// Returns the answer. `trace` distinguishes it from other errors.
    pub(super) fn answer(&self, trace: u64) -> Response<ApiBody> {
        let (status, code, message) = self.parts();
        let mut error = json!({ "message": message, "long_message": message, "code": code });
        if let Self::Parameter { name, .. } = self {
            error["meta"] = json!({ "param_name": name });
        }
        let body = json!({ "errors": [error], "clerk_trace_id": format!("{trace:032x}") });
        let mut answer = json_answer(status, body.to_string());
        if let Self::TooManyRequests { retry_after: Some(seconds) } = self {
            answer.headers_mut().insert(RETRY_AFTER, (*seconds).into());
        }
        answer
    }
}

pub(super) fn json_answer(status: u16, body: String) -> Response<ApiBody> {
    let mut answer = Response::new(ApiBody::whole(body));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    answer
}

/// Returns a list as Clerk sends it: a bare array, or an object with the total.
pub(super) fn list(listing: &Listing, is_bare: bool) -> String {
    let objects = listing.objects.join(",");
    if is_bare {
        format!("[{objects}]")
    } else {
        format!(r#"{{"data":[{objects}],"total_count":{}}}"#, listing.total)
    }
}

/// Body of an answer: complete, or cut off in the middle.
pub(super) struct ApiBody {
    rest: Option<Bytes>,
    /// Number of bytes that are announced. More than there are if the body is cut off.
    announced: u64,
    is_cut: bool,
    has_paused: bool,
}

impl ApiBody {
    fn whole(body: String) -> Self {
        let announced = u64::try_from(body.len()).unwrap_or(u64::MAX);
        Self { rest: Some(body.into()), announced, is_cut: false, has_paused: false }
    }

    /// Cuts the second half off. The connection then breaks.
    pub(super) fn cut(&mut self) {
        if let Some(body) = &mut self.rest {
            body.truncate(body.len() / 2);
        }
        self.is_cut = true;
    }
}

/// The connection breaks before the body is complete.
#[derive(Debug, thiserror::Error)]
#[error("the body is cut off")]
pub(super) struct CutOff;

impl Body for ApiBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if let Some(bytes) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if !self.is_cut {
            return Poll::Ready(None);
        }
        // A pause lets hyper send the first half before the error closes the connection.
        if !std::mem::replace(&mut self.has_paused, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(CutOff)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && !self.is_cut
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}
