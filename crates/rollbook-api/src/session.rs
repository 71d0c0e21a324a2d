//! `GET /v1/session`: who the bearer of a session token is, by the token's claims, and what the token weighs.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use rollbook_core::time::Timestamp;
use rollbook_http::Connection;
use rollbook_session::limits::{CLAIMS_BYTES_ADVISED, COOKIE_BYTES_MAX};
use rollbook_session::{Session, Verdict, Version, weigh};
use serde::Serialize;

use crate::problem::Problem;
use crate::query;
use crate::shared::{Shared, json};

/// Claims of a session.
#[derive(Serialize)]
pub(crate) struct SessionView<'s> {
    user_id: &'s str,
    session_id: &'s str,
    issuer: &'s str,
    authorized_party: Option<&'s str>,
    issued_at: Option<String>,
    expires_at: String,
    version: u8,
    organization: Option<OrganizationView<'s>>,
    features: Scopes<'s>,
    plans: Scopes<'s>,
    factor_ages: Option<FactorAges>,
    actor: Option<ActorView<'s>>,
}

#[derive(Serialize)]
struct OrganizationView<'s> {
    id: &'s str,
    slug: Option<&'s str>,
    role: &'s str,
    permissions: Vec<&'s str>,
}

#[derive(Serialize)]
struct Scopes<'s> {
    organization: Vec<&'s str>,
    user: Vec<&'s str>,
}

/// Minutes since each factor was verified; null if it never was.
#[derive(Serialize)]
struct FactorAges {
    first: Option<u32>,
    second: Option<u32>,
}

#[derive(Serialize)]
struct ActorView<'s> {
    user_id: &'s str,
    session_id: Option<&'s str>,
}

/// Weights of a token.
#[derive(Serialize)]
struct TokenView {
    bytes: usize,
    cookie_bytes: usize,
    custom_bytes: usize,
    level: &'static str,
    /// Claims to remove, the heaviest first.
    heaviest: Vec<String>,
    detail: Option<String>,
    claims: Vec<ClaimView>,
}

#[derive(Serialize)]
struct ClaimView {
    name: String,
    bytes: usize,
    is_custom: bool,
}

#[derive(Serialize)]
struct Answer<'s> {
    as_of: Option<String>,
    session: SessionView<'s>,
    token: TokenView,
}

fn time(seconds: i64) -> String {
    Timestamp::from_seconds(seconds).to_string()
}

/// Returns the time of the claims: a token says what was true when it was issued.
pub(crate) fn as_of(session: &Session) -> Option<String> {
    session.issued_at().or(session.not_before()).map(time)
}

impl<'s> SessionView<'s> {
    pub(crate) fn of(session: &'s Session) -> Self {
        Self {
            user_id: session.user_id(),
            session_id: session.session_id(),
            issuer: session.issuer(),
            authorized_party: session.authorized_party(),
            issued_at: session.issued_at().map(time),
            expires_at: time(session.expires_at()),
            version: match session.version() {
                Version::V1 => 1,
                Version::V2 => 2,
            },
            organization: session.organization().map(|organization| OrganizationView {
                id: organization.id(),
                slug: organization.slug(),
                role: organization.role(),
                permissions: organization.permissions().collect(),
            }),
            features: Scopes {
                organization: session.organization_features().collect(),
                user: session.user_features().collect(),
            },
            plans: Scopes {
                organization: session.organization_plans().collect(),
                user: session.user_plans().collect(),
            },
            factor_ages: session
                .factor_ages()
                .map(|ages| FactorAges { first: ages.first, second: ages.second }),
            actor: session
                .actor()
                .map(|actor| ActorView { user_id: actor.user_id(), session_id: actor.session_id() }),
        }
    }
}

impl TokenView {
    fn of(token: &str) -> Result<Self, Problem> {
        let weights = weigh(token).map_err(Problem::session_required)?;
        let (level, heaviest, detail) = match weights.verdict() {
            Verdict::Fits => ("ok", Vec::new(), None),
            Verdict::Heavy(claims) => {
                let detail = format!(
                    "custom claims, or one claim, exceed {CLAIMS_BYTES_ADVISED} bytes; read the data from /v1/context instead"
                );
                ("warning", claims, Some(detail))
            }
            Verdict::TooLarge(claims) => {
                let detail = format!(
                    "the cookie exceeds {COOKIE_BYTES_MAX} bytes: browsers drop it, and the user cannot sign in"
                );
                ("error", claims, Some(detail))
            }
        };
        Ok(Self {
            bytes: weights.token,
            cookie_bytes: weights.cookie,
            custom_bytes: weights.custom_bytes(),
            level,
            heaviest,
            detail,
            claims: weights
                .claims
                .into_iter()
                .map(|claim| ClaimView { name: claim.name, bytes: claim.bytes, is_custom: claim.is_custom })
                .collect(),
        })
    }
}

pub(crate) async fn session(
    State(api): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Problem> {
    let (session, token) = api.session(request.headers()).await?;
    connection.authenticated();
    connection.answer_begins();
    let [] = query::values(request.uri().query().unwrap_or_default(), [])?;
    let token = TokenView::of(token)?;
    Ok(json(&Answer { as_of: as_of(&session), session: SessionView::of(&session), token }))
}
