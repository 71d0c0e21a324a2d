//! Lists and point reads of each resource.

use rollbook_core::catalog::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, PERMISSIONS,
    ROLES, Resource, SUBSCRIPTION_ITEMS, USERS, WAITLIST_ENTRIES,
};
use rollbook_core::source::SourceError;

use crate::request::Request;

/// Order of every list that allows it: new objects are appended, so that the pages before do not move.
pub(crate) const ASCENDING: (&str, &str) = ("order_by", "+created_at");

/// Asks for `members_count`, which the webhooks' organizations have too.
pub(crate) const MEMBERS_COUNT: (&str, &str) = ("include_members_count", "true");

/// Endpoint that lists a resource.
pub(crate) struct Endpoint {
    resource: &'static Resource,
    path: &'static str,
    /// Parameters that every request to the list has.
    parameters: &'static [(&'static str, &'static str)],
}

const fn list(resource: &'static Resource, path: &'static str) -> Endpoint {
    Endpoint { resource, path, parameters: &[ASCENDING] }
}

static ENDPOINTS: [Endpoint; 9] = [
    Endpoint { resource: &ORGANIZATIONS, path: "/organizations", parameters: &[ASCENDING, MEMBERS_COUNT] },
    list(&USERS, "/users"),
    list(&ORGANIZATION_MEMBERSHIPS, "/organization_memberships"),
    list(&ORGANIZATION_INVITATIONS, "/organization_invitations"),
    list(&ORGANIZATION_DOMAINS, "/organization_domains"),
    list(&ROLES, "/organization_roles"),
    list(&PERMISSIONS, "/organization_permissions"),
    list(&WAITLIST_ENTRIES, "/waitlist_entries"),
    // This list has one order, the newest first. Without `include_free` items of free plans would look absent.
    Endpoint {
        resource: &SUBSCRIPTION_ITEMS,
        path: "/billing/subscription_items",
        parameters: &[("paginated", "true"), ("include_free", "true")],
    },
];

impl Endpoint {
    /// Returns the endpoint that lists this resource.
    pub(crate) fn of(resource: &Resource) -> Result<&'static Self, SourceError> {
        let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.resource.number == resource.number);
        endpoint.ok_or(SourceError::Unsupported("Clerk has no list of this resource for the whole instance"))
    }

    /// Returns a request for the list.
    pub(crate) fn list(&self) -> Request {
        self.parameters
            .iter()
            .fold(Request::new(self.path), |request, (name, value)| request.query(name, value))
    }
}
