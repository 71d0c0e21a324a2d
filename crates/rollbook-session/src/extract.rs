//! Extractors for axum 0.8: a handler that takes a [`Session`] runs only for signed-in users.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts, OptionalFromRequestParts};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderName, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::refusal::Refusal;
use crate::session::{Denied, Session};
use crate::verify::Verifier;

/// Answer to a request without a valid session: 401 with a problem document (RFC 9457), of which `code` is
/// [`Refusal::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedOut(pub Refusal);

impl<S> FromRequestParts<S> for Session
where
    Verifier: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = SignedOut;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, SignedOut> {
        authenticate(&Verifier::from_ref(state), &parts.headers).map_err(SignedOut)
    }
}

/// `Option<Session>` is `None` if the request has no token. A token that is refused is an error nevertheless.
impl<S> OptionalFromRequestParts<S> for Session
where
    Verifier: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = SignedOut;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, SignedOut> {
        match authenticate(&Verifier::from_ref(state), &parts.headers) {
            Ok(session) => Ok(Some(session)),
            Err(Refusal::TokenMissing) => Ok(None),
            Err(refusal) => Err(SignedOut(refusal)),
        }
    }
}

impl FromRef<Arc<Verifier>> for Verifier {
    fn from_ref(verifier: &Arc<Verifier>) -> Self {
        Verifier::clone(verifier)
    }
}

fn authenticate(verifier: &Verifier, headers: &HeaderMap) -> Result<Session, Refusal> {
    let values = |name: HeaderName| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    verifier.authenticate(values(AUTHORIZATION), values(COOKIE))
}

impl IntoResponse for SignedOut {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        let challenge = match refusal {
            Refusal::TokenMissing => HeaderValue::from_static("Bearer"),
            _ => HeaderValue::from_static(r#"Bearer error="invalid_token""#),
        };
        let title = "A valid session token is required";
        let mut response = problem(StatusCode::UNAUTHORIZED, refusal.name(), title, &refusal.to_string());
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        response
    }
}

/// 403 with a problem document.
impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let title = "The session lacks a permission";
        problem(StatusCode::FORBIDDEN, "permission_denied", title, &self.to_string())
    }
}

fn problem(status: StatusCode, code: &str, title: &str, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
