//! Rows for the team's own services, with a service token: users, organizations, and the memberships between them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::store::{Member, MembersOf, RowText};
use rollbook_core::time::Timestamp;
use rollbook_http::Connection;
use serde_json::{Map, json};

use crate::context::Aged;
use crate::feed::ROW_BYTES_MAX;
use crate::problem::Problem;
use crate::query::{self, single};
use crate::shared::{Shared, json as answer};
use crate::tokens::TokenDigest;

/// Least `max_age`. Requests within it share one reading of Clerk's API.
pub const MAX_AGE_MIN: Duration = Duration::from_secs(1);
/// Greatest `max_age`.
pub const MAX_AGE_MAX: Duration = Duration::from_secs(86_400);
/// Maximum number of memberships of a page.
pub const MEMBERS_MAX: usize = 100;
/// Memberships of a page if the request does not say.
const MEMBERS: usize = 50;
/// Maximum length of an id.
const ID_LENGTH_MAX: usize = 255;

type Id = Result<Path<String>, PathRejection>;

/// Parts of a request for rows.
type Asked = (State<Arc<Shared>>, Extension<Arc<Connection>>, Id, RawQuery, HeaderMap);

/// Kind of a row.
#[derive(Clone, Copy)]
struct Kind {
    resource: &'static Resource,
    /// Beginning of each id.
    prefix: &'static str,
}

const USER: Kind = Kind { resource: &USERS, prefix: "user_" };
const ORGANIZATION: Kind = Kind { resource: &ORGANIZATIONS, prefix: "org_" };

impl Kind {
    /// Returns the id of a path, if it can be one of this kind.
    fn id(self, id: Id) -> Result<String, Problem> {
        let id = id.ok().map(|Path(id)| id).filter(|id| id.starts_with(self.prefix) && is_id(id));
        id.ok_or_else(|| Problem::no_such_row(&format!("ids of this kind begin with {}", self.prefix), None))
    }
}

fn is_id(text: &str) -> bool {
    text.len() <= ID_LENGTH_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Checks the service token, and keeps the connection.
fn admit(api: &Shared, connection: &Connection, headers: &HeaderMap) -> Result<TokenDigest, Problem> {
    let token = api.check_token(headers)?;
    connection.authenticated();
    connection.answer_begins();
    Ok(token)
}

/// State of an id in the mirror.
enum Found {
    Current(RowText),
    Deleted(Timestamp),
    /// A placeholder row, or one that was erased: nothing says when it was as at Clerk.
    Empty,
    Nothing,
}

impl Found {
    fn of(row: Option<RowText>) -> Self {
        match row {
            None => Self::Nothing,
            Some(row) if row.is_deleted() => row.synced_at().map_or(Self::Empty, Self::Deleted),
            Some(row) if !row.has_content() => Self::Empty,
            Some(row) => Self::Current(row),
        }
    }

    /// Returns the time at which the row was known to be as at Clerk.
    fn as_of(&self) -> Option<Timestamp> {
        match self {
            Self::Current(row) => row.synced_at(),
            Self::Deleted(at) => Some(*at),
            Self::Empty | Self::Nothing => None,
        }
    }
}

/// Answers with one row, which is read at Clerk first if the mirror's is older than `max_age`.
async fn one(
    api: &Shared,
    token: TokenDigest,
    kind: Kind,
    id: Id,
    query: RawQuery,
) -> Result<Response, Problem> {
    let [max_age] = query::values(&query.0.unwrap_or_default(), ["max_age"])?;
    let max_age = single("max_age", max_age)?
        .map(|text| query::duration("max_age", &text, "10s", MAX_AGE_MIN, MAX_AGE_MAX))
        .transpose()?;
    let (resource, id) = (kind.resource, kind.id(id)?);
    let began_at = api.now();
    let read = async || Ok::<_, Problem>(Found::of(api.read(api.ports.rows.get_text(resource, &id)).await?));
    let confirmed = || api.refreshes.as_ref().and_then(|refreshes| refreshes.read_at(resource, &id));
    let mut found = read().await?;
    if let Some(max_age) = max_age {
        let refreshes = api.refreshes.as_ref().ok_or_else(Problem::clerk_key_missing)?;
        let since = began_at.minus(max_age);
        if found.as_of().max(confirmed()).is_none_or(|at| at < since) {
            let outcome = refreshes.refresh(resource, &id, since).await;
            api.check_again(token)?;
            outcome?;
            found = read().await?;
        }
    }
    let as_of = found.as_of().max(confirmed());
    let nothing = |text: &str| Err(Problem::no_such_row(text, as_of));
    match found {
        Found::Current(row) => Ok(answer(&Aged::at(row.into_json(), as_of, api.now()))),
        Found::Deleted(_) => nothing("the row is deleted"),
        Found::Empty => nothing("the row has no content: a placeholder, or erased"),
        Found::Nothing => nothing("the mirror has no such row; max_age reads it at Clerk"),
    }
}

/// Answers with a page of memberships, each with the row of its other side.
async fn page(api: &Shared, of: MembersOf<'_>, query: RawQuery) -> Result<Response, Problem> {
    let [after, limit] = query::values(&query.0.unwrap_or_default(), ["after", "limit"])?;
    let after = single("after", after)?;
    if after.as_deref().is_some_and(|after| after.is_empty() || !is_id(after)) {
        return Err(Problem::parameter("after", "write next of the page before"));
    }
    let limit =
        single("limit", limit)?.map_or(Ok(MEMBERS), |text| query::number("limit", &text, MEMBERS_MAX, ""))?;
    let now = api.now();
    let members = api.read(api.ports.access.members(of, after.as_deref(), limit)).await?;
    let is_full = members.len() == limit;
    let (list, side) = match of {
        MembersOf::Organization(_) => ("members", "user"),
        MembersOf::User(_) => ("organizations", "organization"),
    };
    let (mut shown, mut next, mut bytes) = (Vec::new(), None, 0);
    let count = members.len();
    for Member { membership, other } in members {
        let id = membership.columns.get(of.columns().1).cloned().unwrap_or_default();
        let entry = Map::from_iter([
            ("membership".to_owned(), json!(Aged::of(membership, now))),
            (side.to_owned(), json!(other.map(|row| Aged::of(row, now)))),
        ]);
        bytes += json!(entry).to_string().len();
        shown.push(entry);
        // The row that reaches the limit of bytes is the last of its page.
        let is_cut = bytes >= ROW_BYTES_MAX && shown.len() < count;
        if is_cut || (is_full && shown.len() == count) {
            next = Some(id);
            break;
        }
    }
    let document = Map::from_iter([
        ("as_of".to_owned(), json!(now.to_string())),
        (list.to_owned(), json!(shown)),
        ("next".to_owned(), json!(next)),
    ]);
    Ok(answer(&document))
}

pub(crate) async fn user(
    (State(api), Extension(connection), id, query, headers): Asked,
) -> Result<Response, Problem> {
    let token = admit(&api, &connection, &headers)?;
    one(&api, token, USER, id, query).await
}

pub(crate) async fn organization(
    (State(api), Extension(connection), id, query, headers): Asked,
) -> Result<Response, Problem> {
    let token = admit(&api, &connection, &headers)?;
    one(&api, token, ORGANIZATION, id, query).await
}

pub(crate) async fn organizations_of_user(
    (State(api), Extension(connection), id, query, headers): Asked,
) -> Result<Response, Problem> {
    admit(&api, &connection, &headers)?;
    page(&api, MembersOf::User(&USER.id(id)?), query).await
}

pub(crate) async fn members_of_organization(
    (State(api), Extension(connection), id, query, headers): Asked,
) -> Result<Response, Problem> {
    admit(&api, &connection, &headers)?;
    page(&api, MembersOf::Organization(&ORGANIZATION.id(id)?), query).await
}
