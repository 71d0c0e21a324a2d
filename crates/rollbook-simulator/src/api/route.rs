//! Paths of the API: what each one reads, and which parameters it takes.

/// Parameters of every list.
const PAGING: [&str; 2] = ["limit", "offset"];

/// Meaning of a request's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Path with `{id}` in place of ids, for counts and faults.
    pub(super) template: String,
    pub(super) target: Target,
    /// Parameters beyond [`PAGING`] that the simulator knows.
    filters: &'static [&'static str],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Instance,
    Count(&'static str),
    List {
        table: &'static str,
        /// Id of the organization that the list belongs to.
        organization: Option<String>,
        /// Whether the list is a bare array.
        is_bare: bool,
    },
    One {
        table: &'static str,
        id: String,
        /// Id of the organization that the object must belong to.
        organization: Option<String>,
    },
}

const USER_FILTERS: &[&str] =
    &["user_id", "organization_id", "created_at_before", "created_at_after", "starting_after"];
const ORGANIZATION_FILTERS: &[&str] = &["organization_id", "include_members_count"];
const MEMBER_FILTERS: &[&str] = &["user_id", "created_at_before", "created_at_after"];

impl Route {
    /// Returns the meaning of a path, which begins with `/v1`.
    pub(super) fn find(path: &str) -> Option<Self> {
        let segments: Vec<String> = path.strip_prefix("/v1/")?.split('/').map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["instance"] => Some(Self::new("/instance", Target::Instance, &[])),
            ["users", "count"] => Some(Self::new("/users/count", Target::Count("users"), USER_FILTERS)),
            ["users"] => Some(Self::list("/users", "users", None, USER_FILTERS)),
            ["organizations"] => {
                Some(Self::list("/organizations", "organizations", None, ORGANIZATION_FILTERS))
            }
            ["organizations", id, "memberships"] => {
                let template = "/organizations/{id}/memberships";
                Some(Self::list(template, "organization_memberships", Some(id), MEMBER_FILTERS))
            }
            ["organizations", id, "domains"] => {
                Some(Self::list("/organizations/{id}/domains", "organization_domains", Some(id), &[]))
            }
            ["organizations", id, "invitations"] => {
                let template = "/organizations/{id}/invitations";
                Some(Self::list(template, "organization_invitations", Some(id), &["status"]))
            }
            ["organizations", organization, "invitations", id] => {
                let template = "/organizations/{id}/invitations/{id}";
                Some(Self::one(template, "organization_invitations", id, Some(organization)))
            }
            ["users", id] => Some(Self::one("/users/{id}", "users", id, None)),
            ["organizations", id] => Some(Self::one("/organizations/{id}", "organizations", id, None)),
            ["organization_roles", id] => Some(Self::one("/organization_roles/{id}", "roles", id, None)),
            ["organization_permissions", id] => {
                Some(Self::one("/organization_permissions/{id}", "permissions", id, None))
            }
            _ => Self::list_of_instance(&segments),
        }
    }

    /// Returns the meaning of the path of a list of the whole instance.
    fn list_of_instance(segments: &[&str]) -> Option<Self> {
        let (template, table, filters): (_, _, &[&str]) = match segments {
            ["organization_memberships"] => ("/organization_memberships", "organization_memberships", &[]),
            ["organization_invitations"] => {
                ("/organization_invitations", "organization_invitations", &["status"])
            }
            ["organization_domains"] => {
                ("/organization_domains", "organization_domains", &["organization_id"])
            }
            ["organization_roles"] => ("/organization_roles", "roles", &[]),
            ["organization_permissions"] => ("/organization_permissions", "permissions", &[]),
            ["waitlist_entries"] => ("/waitlist_entries", "waitlist_entries", &["status"]),
            ["billing", "subscription_items"] => (
                "/billing/subscription_items",
                "subscription_items",
                &["status", "include_free", "paginated"],
            ),
            _ => return None,
        };
        Some(Self::list(template, table, None, filters))
    }

    fn new(template: &str, target: Target, filters: &'static [&'static str]) -> Self {
        Self { template: template.to_owned(), target, filters }
    }

    fn list(
        template: &str,
        table: &'static str,
        organization: Option<&str>,
        filters: &'static [&'static str],
    ) -> Self {
        let organization = organization.map(str::to_owned);
        Self::new(template, Target::List { table, organization, is_bare: table == "users" }, filters)
    }

    fn one(template: &str, table: &'static str, id: &str, organization: Option<&str>) -> Self {
        let organization = organization.map(str::to_owned);
        Self::new(
            template,
            Target::One { table, id: id.to_owned(), organization },
            &["include_members_count"],
        )
    }

    /// Returns whether the simulator knows a parameter of this path.
    pub(super) fn takes(&self, parameter: &str) -> bool {
        let takes = match parameter {
            "order_by" => !self.order_keys().is_empty(),
            _ => matches!(self.target, Target::List { .. }) && PAGING.contains(&parameter),
        };
        takes || self.filters.contains(&parameter)
    }

    /// Keys that this list can be ordered by. A list without any has the newest first.
    pub(super) fn order_keys(&self) -> &'static [&'static str] {
        match &self.target {
            Target::List { table: "users", .. } => &[
                "created_at",
                "updated_at",
                "first_name",
                "last_name",
                "username",
                "last_active_at",
                "last_sign_in_at",
            ],
            Target::List { table: "organizations", .. }
            | Target::List { table: "organization_domains", organization: None, .. } => {
                &["created_at", "name"]
            }
            Target::List { table: "organization_domains" | "subscription_items", .. } => &[],
            Target::List { table: "roles" | "permissions", .. } => &["created_at", "name", "key"],
            Target::List { table: "organization_invitations" | "waitlist_entries", .. } => {
                &["created_at", "email_address"]
            }
            Target::List { .. } => &["created_at"],
            _ => &[],
        }
    }
}

/// Decodes a segment of a path. Unlike in a query, `+` stands for itself.
fn decoded(segment: &str) -> String {
    let text = format!("={}", segment.replace('+', "%2B"));
    form_urlencoded::parse(text.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}
