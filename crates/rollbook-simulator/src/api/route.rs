//! Paths of the API: what each one reads, and which parameters it takes.

/// Parameters of every list.
const PAGING: [&str; 2] = ["limit", "offset"];

/// Meaning of a request's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Path with `{id}` in place of ids, for counts and faults.
    pub(super) template: &'static str,
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

/// Paths of lists: the table that each one reads, and its filters. An id is that of the organization.
const LISTS: [(&str, &str, &[&str]); 12] = [
    ("/users", "users", USER_FILTERS),
    ("/organizations", "organizations", ORGANIZATION_FILTERS),
    ("/organizations/{id}/memberships", "organization_memberships", MEMBER_FILTERS),
    ("/organizations/{id}/domains", "organization_domains", &[]),
    ("/organizations/{id}/invitations", "organization_invitations", &["status"]),
    ("/organization_memberships", "organization_memberships", &[]),
    ("/organization_invitations", "organization_invitations", &["status"]),
    ("/organization_domains", "organization_domains", &["organization_id"]),
    ("/organization_roles", "roles", &[]),
    ("/organization_permissions", "permissions", &[]),
    ("/waitlist_entries", "waitlist_entries", &["status"]),
    ("/billing/subscription_items", "subscription_items", &["status", "include_free", "paginated"]),
];

/// Paths of single objects and their tables. The last id is that of the object; one before it is its organization's.
const OBJECTS: [(&str, &str); 5] = [
    ("/users/{id}", "users"),
    ("/organizations/{id}", "organizations"),
    ("/organizations/{id}/invitations/{id}", "organization_invitations"),
    ("/organization_roles/{id}", "roles"),
    ("/organization_permissions/{id}", "permissions"),
];

impl Route {
    /// Returns the meaning of a path, which begins with `/v1`.
    pub(super) fn find(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v1")?;
        let of = |template, target, filters| Some(Self { template, target, filters });
        if ids_of(path, "/instance").is_some() {
            return of("/instance", Target::Instance, &[]);
        }
        if ids_of(path, "/users/count").is_some() {
            return of("/users/count", Target::Count("users"), USER_FILTERS);
        }
        for (template, table, filters) in LISTS {
            if let Some(mut ids) = ids_of(path, template) {
                return of(template, Target::List { table, organization: ids.pop() }, filters);
            }
        }
        OBJECTS.into_iter().find_map(|(template, table)| {
            let mut ids = ids_of(path, template)?;
            let target = Target::One { table, id: ids.pop()?, organization: ids.pop() };
            of(template, target, &["include_members_count"])
        })
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

/// Returns the ids in a path, decoded; `None` if it does not have the form of the template.
fn ids_of(path: &str, template: &str) -> Option<Vec<String>> {
    let (mut segments, mut ids) = (path.split('/').map(decoded), Vec::new());
    for part in template.split('/') {
        let segment = segments.next()?;
        if part == "{id}" {
            ids.push(segment);
        } else if part != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(ids)
}

/// Decodes a segment of a path. Unlike in a query, `+` stands for itself.
fn decoded(segment: &str) -> String {
    let text = format!("={}", segment.replace('+', "%2B"));
    form_urlencoded::parse(text.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}
