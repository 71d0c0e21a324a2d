//! The session that a verified token proves.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::grants::{Grants, Permissions};
use crate::json::{Member, Object};
use crate::refusal::Refusal;

/// Version of a token's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Claims before April 2025: `org_id`, `org_role`, `org_permissions`. Tokens have no plans and features.
    V1,
    /// Claims since April 2025: `v: 2`, with the organization in `o`.
    V2,
}

/// A signed-in user, as a verified session token describes.
///
/// The values are those of the time when the token was issued, at most about a minute ago. A change of role or
/// permissions since then is in the next token.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the id of the session is one of several ids")]
pub struct Session {
    pub(crate) version: Version,
    pub(crate) user_id: String,
    pub(crate) session_id: String,
    pub(crate) token_id: Option<String>,
    pub(crate) issuer: String,
    pub(crate) authorized_party: Option<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires_at: i64,
    pub(crate) not_before: Option<i64>,
    pub(crate) issued_at: Option<i64>,
    pub(crate) is_pending: bool,
    pub(crate) organization: Option<Organization>,
    pub(crate) features: Grants,
    pub(crate) plans: Grants,
    pub(crate) factor_ages: Option<FactorAges>,
    pub(crate) actor: Option<Actor>,
    pub(crate) claims: String,
}

/// The session's active organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    pub(crate) id: String,
    pub(crate) slug: Option<String>,
    pub(crate) role: String,
    pub(crate) permissions: Permissions,
}

/// The person or system that impersonates the user (`act`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub(crate) user_id: String,
    pub(crate) session_id: Option<String>,
    pub(crate) issuer: Option<String>,
}

/// Minutes between the last verification of a factor and the issue of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactorAges {
    /// Age of the first factor. `None`: it was never verified.
    pub first: Option<u32>,
    /// Age of the second factor. `None`: it was never verified, or the user has none.
    pub second: Option<u32>,
}

/// The session lacks a permission, as [`Session::require`] found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the permission {permission} is required in the active organization")]
pub struct Denied {
    /// The required permission.
    pub permission: String,
}

impl Session {
    /// Version of the claims.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Id of the user (`sub`), such as `user_2x…`.
    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// Id of the session (`sid`), such as `sess_2x…`.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// Id of the token (`jti`). Tokens with claims of version 1 have none.
    pub fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }

    /// The instance's Frontend API URL (`iss`).
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Origin of the application to which the token was issued (`azp`).
    pub fn authorized_party(&self) -> Option<&str> {
        self.authorized_party.as_deref()
    }

    /// Audiences (`aud`); none unless you added the claim.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Expiry (`exp`), in seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Beginning of the validity (`nbf`), in seconds since 1970.
    pub fn not_before(&self) -> Option<i64> {
        self.not_before
    }

    /// Time of issue (`iat`), in seconds since 1970.
    pub fn issued_at(&self) -> Option<i64> {
        self.issued_at
    }

    /// Reports whether the session has unfinished tasks. Such a session exists only if the policy accepts it
    /// ([`Policy::accept_pending`](crate::Policy::accept_pending)).
    pub fn is_pending(&self) -> bool {
        self.is_pending
    }

    /// The active organization; `None` in the personal workspace.
    pub fn organization(&self) -> Option<&Organization> {
        self.organization.as_ref()
    }

    /// The impersonator, if the session is impersonated.
    pub fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// Ages of the verified factors (`fva`), for actions that demand a recent verification.
    pub fn factor_ages(&self) -> Option<FactorAges> {
        self.factor_ages
    }

    /// Reports whether the user has a permission in the active organization, such as `org:tasks:delete`.
    ///
    /// No token contains Clerk's system permissions (`org:sys_…`): check the role, or define a permission of your
    /// own.
    pub fn has_permission(&self, permission: &str) -> bool {
        self.organization.as_ref().is_some_and(|organization| organization.has_permission(permission))
    }

    /// Returns an error unless the user has a permission in the active organization.
    ///
    /// # Errors
    /// [`Denied`]. With the feature `axum` it is an answer with status 403.
    pub fn require(&self, permission: &str) -> Result<&Organization, Denied> {
        let organization = self.organization.as_ref().filter(|found| found.has_permission(permission));
        organization.ok_or_else(|| Denied { permission: permission.to_owned() })
    }

    /// Reports whether the user has a role in the active organization, such as `org:admin`.
    pub fn has_role(&self, role: &str) -> bool {
        self.organization.as_ref().is_some_and(|organization| organization.role == role)
    }

    /// Reports whether a feature is active: for the organization or the user (`dashboard`), or for one of them
    /// (`org:dashboard`, `user:dashboard`).
    pub fn has_feature(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// Reports whether a plan is active: of the organization or the user (`pro`), or of one of them (`org:pro`,
    /// `user:pro`).
    pub fn has_plan(&self, plan: &str) -> bool {
        self.plans.contains(plan)
    }

    /// Features of the active organization.
    pub fn organization_features(&self) -> impl Iterator<Item = &str> {
        self.features.organization()
    }

    /// Features of the user.
    pub fn user_features(&self) -> impl Iterator<Item = &str> {
        self.features.user()
    }

    /// Plans of the active organization.
    pub fn organization_plans(&self) -> impl Iterator<Item = &str> {
        self.plans.organization()
    }

    /// Plans of the user.
    pub fn user_plans(&self) -> impl Iterator<Item = &str> {
        self.plans.user()
    }

    /// Parses any claim, such as one that you added to the session token. Returns `None` if it is absent.
    ///
    /// # Errors
    /// The error of `serde_json`, if the claim is not a `T`. It can quote the value.
    pub fn claim<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, serde_json::Error> {
        let claims = Object::read(&self.claims, Refusal::ClaimsMalformed).ok();
        let raw = claims.and_then(|claims| claims.get(name).map(Member::raw));
        raw.map(serde_json::from_str).transpose()
    }

    /// All claims as JSON text. They can contain personal data.
    pub fn claims_json(&self) -> &str {
        &self.claims
    }
}

impl Organization {
    /// Id of the organization, such as `org_2x…`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Slug; `None` if the instance does not use slugs.
    pub fn slug(&self) -> Option<&str> {
        self.slug.as_deref()
    }

    /// The user's role, with its prefix: `org:admin`.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The user's permissions, such as `org:tasks:delete`. Clerk's system permissions are never among them.
    pub fn permissions(&self) -> impl Iterator<Item = &str> {
        self.permissions.iter()
    }

    /// Reports whether the user has a permission, such as `org:tasks:delete`.
    pub fn has_permission(&self, permission: &str) -> bool {
        self.permissions().any(|known| known == permission)
    }
}

impl Actor {
    /// Id of the impersonator (`sub`).
    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// Session of the impersonator (`sid`).
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }

    /// Issuer of the impersonator's identity (`iss`), such as the dashboard.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }
}

/// Ids and expiry only: other claims can contain personal data.
impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("user_id", &self.user_id)
            .field("session_id", &self.session_id)
            .field("organization_id", &self.organization.as_ref().map(Organization::id))
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
