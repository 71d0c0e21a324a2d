//! Error answers: problem documents of RFC 9457.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use rollbook_core::store::{ChangesError, Generation, Position, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_operator::changes::generation_name;
use rollbook_session::Refusal;
use serde_json::{Value, json};

/// Seconds after which a client should try again when the store does not answer, or too many readers wait.
const RETRY_AFTER_SECONDS: &str = "5";

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    /// Last part of `type`; programs distinguish problems by it.
    name: &'static str,
    title: &'static str,
    detail: String,
    /// Name and value of one more member.
    member: Option<(&'static str, Value)>,
    header: Option<(HeaderName, &'static str)>,
}

impl Problem {
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { status, name, title, detail: detail.into(), member: None, header: None }))
    }

    fn with_member(mut self, key: &'static str, value: Value) -> Self {
        self.0.member = Some((key, value));
        self
    }

    fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// A parameter is not valid. The detail says what is accepted.
    pub(crate) fn parameter(name: &str, detail: &str) -> Self {
        let detail = format!("{name}: {detail}");
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", "A parameter is not valid", detail)
            .with_member("parameter", json!(name))
    }

    /// The request has no valid token.
    pub(crate) fn unauthorized(has_token: bool) -> Self {
        let (detail, challenge) = if has_token {
            ("the token is not one of api_tokens", r#"Bearer realm="rollbook", error="invalid_token""#)
        } else {
            ("send a token of api_tokens: Authorization: Bearer TOKEN", r#"Bearer realm="rollbook""#)
        };
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is required", detail)
            .with_header(WWW_AUTHENTICATE, challenge)
    }

    /// The request has no valid session token. Neither the detail nor the reason contains a part of it.
    pub(crate) fn session_required(refusal: Refusal) -> Self {
        let challenge = match refusal {
            Refusal::TokenMissing => r#"Bearer realm="rollbook""#,
            _ => r#"Bearer realm="rollbook", error="invalid_token""#,
        };
        let title = "A valid session token is required";
        Self::new(StatusCode::UNAUTHORIZED, "session-required", title, refusal.to_string())
            .with_member("reason", json!(refusal.name()))
            .with_header(WWW_AUTHENTICATE, challenge)
    }

    /// The session lacks a permission in its active organization, or has no active organization.
    pub(crate) fn permission_denied(permission: &str) -> Self {
        let detail = format!("the permission {permission} is required in the session's active organization");
        Self::new(StatusCode::FORBIDDEN, "permission-denied", "The session lacks a permission", detail)
            .with_member("permission", json!(permission))
    }

    /// Somebody acts as the user, and the question demands a session of the user's own.
    pub(crate) fn impersonated() -> Self {
        let detail =
            "somebody else acts as the user of this session (act); the user's own session is required";
        Self::new(StatusCode::FORBIDDEN, "impersonated", "The session is impersonated", detail)
    }

    /// The session has another role in its active organization, or has no active organization.
    pub(crate) fn role_denied(role: &str) -> Self {
        let detail = format!("the role {role} is required in the session's active organization");
        Self::new(StatusCode::FORBIDDEN, "role-denied", "The session has another role", detail)
            .with_member("role", json!(role))
    }

    /// Another organization is active in the session, or none.
    pub(crate) fn organization_not_active() -> Self {
        let title = "The organization is not the session's active one";
        let detail =
            "the session's active organization is another one, or none; the client must switch to it";
        Self::new(StatusCode::FORBIDDEN, "organization-not-active", title, detail)
    }

    /// No current row has the id. `found` says what the mirror has instead.
    /// `as_of` is the time at which this was so at Clerk, if it is known.
    pub(crate) fn no_such_row(found: &str, as_of: Option<Timestamp>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-such-row", "No current row has this id", found)
            .with_member("as_of", json!(as_of.map(|at| at.to_string())))
    }

    /// No keys are configured.
    pub(crate) fn sessions_off() -> Self {
        let detail = "no session token can be verified: set clerk_issuer, and clerk_jwt_key unless the keys are fetched";
        let title = "Session tokens are not configured";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "sessions-off", title, detail)
    }

    /// Keys are configured, and none could be fetched yet.
    pub(crate) fn keys_unavailable() -> Self {
        Self::unavailable(
            "keys-unavailable",
            "The keys of session tokens are not known yet",
            "the JWKS could not be fetched since the start; the log of this process has the reason",
        )
    }

    /// `max_age` is given, and there is no key for Clerk's API.
    pub(crate) fn clerk_key_missing() -> Self {
        let detail = "max_age reads Clerk's API: set CLERK_SECRET_KEY, or leave max_age out";
        let title = "No key for Clerk's API is configured";
        Self::new(StatusCode::CONFLICT, "clerk-key-missing", title, detail)
    }

    /// Clerk's API gave no usable answer.
    pub(crate) fn clerk_unavailable() -> Self {
        Self::unavailable(
            "clerk-unavailable",
            "The row could not be read at Clerk now",
            "the log of this process has the reason; without max_age the answer is the mirror's",
        )
    }

    /// As many readings of Clerk's API as are allowed are under way.
    pub(crate) fn too_many_refreshes(max: usize) -> Self {
        Self::unavailable(
            "too-many-refreshes",
            "Too many rows are being read at Clerk",
            format!("{max} readings of Clerk's API are under way or wait in this process"),
        )
    }

    /// No such path.
    pub(crate) fn not_found() -> Self {
        let detail = "the paths are in /v1/openapi.json";
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such path", detail)
    }

    /// The path has another method.
    pub(crate) fn method_not_allowed() -> Self {
        let title = "The path does not have this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title, "use GET or HEAD")
    }

    /// As many readers as are allowed are waiting.
    pub(crate) fn too_many_readers(max: usize) -> Self {
        Self::unavailable(
            "too-many-readers",
            "Too many readers wait for changes",
            format!("{max} streams and waiting requests are open in this process"),
        )
    }

    /// The schema does not record changes.
    pub(crate) fn feed_off() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "feed-off",
            "No changes are recorded",
            "the schema of the store records no changes: set changes to yes, then run rollbook migrate",
        )
    }

    /// The feed is another one than that of the position.
    pub(crate) fn feed_changed(now: Generation) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "feed-changed",
            "The feed is another one",
            "the store was restored, or the feed was made anew, so the same positions now belong to other changes: read the rows anew, then \
             go on from there with the new feed",
        )
        .with_member("feed", json!(generation_name(now)))
    }

    fn unavailable(name: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, title, detail)
            .with_header(RETRY_AFTER, RETRY_AFTER_SECONDS)
    }

    fn position(error: &ChangesError, status: StatusCode, member: (&'static str, Position)) -> Self {
        let (name, title) = if status == StatusCode::GONE {
            ("position-removed", "Changes after the position were removed")
        } else {
            ("position-ahead", "The position is after the last change")
        };
        let (key, position) = member;
        Self::new(status, name, title, error.to_string()).with_member(key, json!(position))
    }

    pub(crate) fn document(&self) -> Value {
        let Parts { status, name, title, detail, member, .. } = &*self.0;
        let kind = format!("urn:rollbook:problem:{name}");
        let mut document =
            json!({ "type": kind, "title": title, "status": status.as_u16(), "detail": detail });
        if let Some((key, value)) = member {
            document[key] = value.clone();
        }
        document
    }
}

impl From<ChangesError> for Problem {
    /// The text of a store's error stays in the log: it may name a host.
    fn from(error: ChangesError) -> Self {
        match error {
            ChangesError::Removed { oldest, .. } => {
                Self::position(&error, StatusCode::GONE, ("oldest", oldest))
            }
            ChangesError::Ahead { last, .. } => Self::position(&error, StatusCode::CONFLICT, ("last", last)),
            ChangesError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    /// The text of a store's error stays in the log: it may name a host.
    fn from(_: StoreError) -> Self {
        Self::unavailable(
            "store-unavailable",
            "The store can't answer now",
            "the log of this process has the reason",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.document().to_string()));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.0.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
