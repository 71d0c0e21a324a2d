//! `GET /v1/context`: the session of a token, with what the mirror knows about its user and active organization.
//!
//! The caller has a session token only, which browsers have too: no private metadata is in the answer.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use rollbook_core::store::RowView;
use rollbook_core::time::Timestamp;
use rollbook_http::Connection;
use rollbook_session::Organization;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::query;
use crate::session::SessionView;
use crate::shared::{Shared, json};

/// Columns that only a service token shows: `data` contains the private metadata too.
const PRIVATE: [&str; 2] = ["data", "private_metadata"];

/// A row, with the time at which it was known to be as Clerk shows it.
#[derive(Serialize)]
pub(crate) struct Aged<R = Map<String, Value>> {
    as_of: Option<String>,
    age_seconds: Option<u64>,
    row: R,
}

impl<R> Aged<R> {
    pub(crate) fn at(row: R, at: Option<Timestamp>, now: Timestamp) -> Self {
        Self { as_of: at.map(|at| at.to_string()), age_seconds: at.map(|at| now.since(at).as_secs()), row }
    }
}

impl Aged {
    /// `as_of` is the time at which Rollbook wrote the row.
    pub(crate) fn of(row: RowView, now: Timestamp) -> Self {
        let at = synced_at(&row);
        Self::at(row.columns, at, now)
    }

    fn public(mut row: RowView, now: Timestamp) -> Self {
        for column in PRIVATE {
            row.columns.remove(column);
        }
        Self::of(row, now)
    }
}

/// Returns the time at which Rollbook last wrote a row.
fn synced_at(row: &RowView) -> Option<Timestamp> {
    Timestamp::parse(row.columns.get("synced_at")?.as_str()?)
}

#[derive(Serialize)]
struct Answer<'s> {
    /// Time at which the mirror was read.
    as_of: String,
    session: SessionView<'s>,
    user: Option<Aged>,
    organization: Option<Aged>,
    membership: Option<Aged>,
    subscription: Option<Aged>,
    items: Vec<Aged>,
}

pub(crate) async fn context(
    State(api): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Problem> {
    let (session, _) = api.session(request.headers()).await?;
    connection.authenticated();
    connection.answer_begins();
    let [] = query::values(request.uri().query().unwrap_or_default(), [])?;
    let organization = session.organization().map(Organization::id);
    let now = api.now();
    let rows = api.read(api.ports.access.context(session.user_id(), organization)).await?;
    let aged = |row: Option<RowView>| row.map(|row| Aged::public(row, now));
    Ok(json(&Answer {
        as_of: now.to_string(),
        session: SessionView::of(&session),
        user: aged(rows.user),
        organization: aged(rows.organization),
        membership: aged(rows.membership),
        subscription: aged(rows.subscription),
        items: rows.items.into_iter().map(|row| Aged::public(row, now)).collect(),
    }))
}
