//! `/v1/authorize`: one question of a proxy (nginx `auth_request`, `forward_auth` of Caddy and Traefik): may the bearer of
//! this session token do this? 204 with headers that say who it is, 401 or 403.
//!
//! The answer comes from the token's claims alone. All four headers are always there, empty where there is no value: a proxy
//! that copies them replaces what the client has sent.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use rollbook_http::Connection;
use rollbook_session::limits::NAME_BYTES_MAX;
use rollbook_session::{Organization, Refusal, Session};

use crate::problem::Problem;
use crate::query::{self, single};
use crate::shared::Shared;

/// Maximum number of permissions in one question.
const PERMISSIONS_MAX: usize = 16;
/// Maximum length of the header with all permissions. A longer list is left out. With it and the longest ids and role the
/// whole head of the answer fits 4 KiB: the default of nginx (`proxy_buffer_size`), which answers 500 to a longer one.
const PERMISSIONS_BYTES_MAX: usize = 3072;
/// Beginning of Clerk's own permissions, which are in no session token.
const SYSTEM: &str = "org:sys_";
/// Value of `impersonation`.
const REFUSED: &str = "refused";

/// Conditions of a question: all must hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checks {
    permissions: Vec<String>,
    role: Option<String>,
    organization: Option<String>,
    /// Whether a session must be the user's own.
    refuses_impersonation: bool,
}

impl Checks {
    fn parse(query: &str) -> Result<Self, Problem> {
        let names = ["permission", "role", "organization", "impersonation"];
        let [permissions, role, organization, impersonation] = query::values(query, names)?;
        if permissions.len() > PERMISSIONS_MAX {
            let accepted = format!("write at most {PERMISSIONS_MAX} of them");
            return Err(Problem::parameter("permission", &accepted));
        }
        for permission in &permissions {
            check_permission(permission)?;
        }
        let [role, organization] = [single("role", role)?, single("organization", organization)?];
        if role.as_deref().is_some_and(|role| !is_name(role) || !role.starts_with("org:")) {
            return Err(Problem::parameter("role", "write a role, such as org:admin"));
        }
        if organization.as_deref().is_some_and(|id| !is_name(id)) {
            return Err(Problem::parameter(
                "organization",
                "write the id of an organization, such as org_2b…",
            ));
        }
        let impersonation = single("impersonation", impersonation)?;
        if impersonation.as_deref().is_some_and(|word| word != REFUSED) {
            return Err(Problem::parameter("impersonation", "write refused, or leave it out"));
        }
        Ok(Self { permissions, role, organization, refuses_impersonation: impersonation.is_some() })
    }

    /// Checks a session.
    fn check(&self, session: &Session) -> Result<(), Problem> {
        if self.refuses_impersonation && session.actor().is_some() {
            return Err(Problem::impersonated());
        }
        let organization = session.organization().map(Organization::id);
        if self.organization.is_some() && organization != self.organization.as_deref() {
            return Err(Problem::organization_not_active());
        }
        if let Some(role) = self.role.as_deref().filter(|role| !session.has_role(role)) {
            return Err(Problem::role_denied(role));
        }
        match self.permissions.iter().find(|permission| !session.has_permission(permission)) {
            Some(permission) => Err(Problem::permission_denied(permission)),
            None => Ok(()),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b",\"\\".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Refuses what no token can have: such a check would deny everybody.
fn check_permission(permission: &str) -> Result<(), Problem> {
    if permission.starts_with(SYSTEM) {
        let why = "Clerk's system permissions (org:sys_…) are in no session token; check a role, or a permission of your own";
        return Err(Problem::parameter("permission", why));
    }
    let parts: Vec<&str> = permission.split(':').collect();
    let is_key = matches!(parts[..], ["org", feature, name] if !feature.is_empty() && !name.is_empty());
    if is_key && is_name(permission) {
        return Ok(());
    }
    Err(Problem::parameter("permission", "write a permission, such as org:tasks:delete"))
}

/// Returns the headers that say who it is.
fn headers(session: &Session) -> Result<HeaderMap, Problem> {
    let organization = session.organization();
    let permissions: Vec<&str> = organization.iter().flat_map(|of| of.permissions()).collect();
    let mut permissions = permissions.join(",");
    if permissions.len() > PERMISSIONS_BYTES_MAX {
        permissions.clear();
    }
    let values = [
        ("x-user-id", session.user_id(), "sub"),
        ("x-organization-id", organization.map_or("", Organization::id), "o.id"),
        ("x-organization-role", organization.map_or("", Organization::role), "o.rol"),
        ("x-organization-permissions", permissions.as_str(), "permissions"),
    ];
    let mut headers = HeaderMap::new();
    for (name, value, claim) in values {
        // The library refuses ids, roles and permissions with characters that a header can't carry.
        let value = HeaderValue::from_str(value)
            .map_err(|_| Problem::session_required(Refusal::ClaimInvalid(claim)))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(headers)
}

pub(crate) async fn authorize(
    State(api): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Problem> {
    let checks = Checks::parse(request.uri().query().unwrap_or_default())?;
    let (session, _) = api.session(request.headers()).await?;
    connection.authenticated();
    connection.answer_begins();
    checks.check(&session)?;
    Ok((StatusCode::NO_CONTENT, headers(&session)?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_can_not_be_meant_is_refused_and_never_passes_for_none() {
        let parse = |query: &str| Checks::parse(query);
        assert!(parse("").is_ok_and(|checks| checks == Checks::default()), "signed in is enough");
        let all = parse("permission=org:a:b&permission=org%3Ac%3Ad&role=org:admin&organization=org_1");
        let expected = Checks {
            permissions: vec!["org:a:b".to_owned(), "org:c:d".to_owned()],
            role: Some("org:admin".to_owned()),
            organization: Some("org_1".to_owned()),
            refuses_impersonation: false,
        };
        assert!(all.is_ok_and(|checks| checks == expected));
        assert!(parse("impersonation=refused").is_ok_and(|checks| checks.refuses_impersonation));
        let most = ["permission=org:a:b"; PERMISSIONS_MAX].join("&");
        assert!(parse(&most).is_ok());
        let long = format!("organization={}", "o".repeat(NAME_BYTES_MAX + 1));
        for (query, parameter) in [
            ("permission=", "permission"),
            ("permission=tasks:delete", "permission"),
            ("permission=org:tasks", "permission"),
            ("permission=org::delete", "permission"),
            ("permission=org:a:b:c", "permission"),
            ("permission=org:a:b,org:c:d", "permission"),
            ("permission=org:sys_memberships:manage", "permission"),
            ("permision=org:a:b", "permision"),
            ("organization=", "organization"),
            ("organization=org%201", "organization"),
            ("organization=org_1&organization=org_2", "organization"),
            (long.as_str(), "organization"),
            ("role=admin", "role"),
            ("role=", "role"),
            ("impersonation=", "impersonation"),
            ("impersonation=allowed", "impersonation"),
            ("impersonation=refused&impersonation=refused", "impersonation"),
            (&format!("{most}&permission=org:a:b"), "permission"),
        ] {
            let problem = parse(query).expect_err(query);
            assert_eq!(problem.document()["parameter"], parameter, "{query}");
        }
    }
}
