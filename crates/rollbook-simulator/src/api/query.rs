//! Reads the parameters of a request by Clerk's rules.

use super::answer::Problem;
use super::objects::{Filter, Ids, Order, Query};
use super::route::{Route, Target};

/// Number of objects of a page if the request does not say, or says more than [`LIMIT_MAX`].
pub const LIMIT_DEFAULT: usize = 10;
/// Maximum number of objects of a page.
pub const LIMIT_MAX: usize = 500;
/// Maximum number of ids in one filter.
pub const IDS_MAX: usize = 100;

/// Parameters of a request, decoded, in their order.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(pairs.map(|(name, value)| (plain(&name), value.into_owned())).collect())
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn is_true(&self, name: &str) -> bool {
        self.first(name) == Some("true")
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Problem> {
        let number = |text: &str| text.parse().map_err(|_| Problem::parameter(name, "must be an integer"));
        self.first(name).map(number).transpose()
    }

    fn ids(&self, name: &str) -> Result<Ids, Problem> {
        let mut ids = Ids::default();
        let values: Vec<&str> = self.all(name).collect();
        if values.len() > IDS_MAX {
            return Err(Problem::parameter(name, "must have at most 100 values"));
        }
        for value in values {
            match value.strip_prefix('-') {
                Some(id) => ids.excluded.push(id.to_owned()),
                None => ids.included.push(value.strip_prefix('+').unwrap_or(value).to_owned()),
            }
        }
        Ok(ids)
    }
}

/// Returns the name of a parameter without the brackets that some clients append to a repeated one.
fn plain(name: &str) -> String {
    name.strip_suffix("[]").unwrap_or(name).to_owned()
}

impl Query {
    /// Reads the parameters of a request for this route.
    pub(super) fn read(route: &Route, parameters: &Parameters) -> Result<Self, Problem> {
        if let Some((name, _)) = parameters.0.iter().find(|(name, _)| !route.takes(name)) {
            return Err(Problem::NotSimulated(format!("parameter {name:?} of {}", route.template)));
        }
        let order = match parameters.first("order_by") {
            Some(text) => order(route, text)?,
            None => Order { key: "created_at".to_owned(), descending: true },
        };
        let offset = parameters.number("offset")?.unwrap_or(0);
        let offset =
            u64::try_from(offset).map_err(|_| Problem::parameter("offset", "must not be negative"))?;
        let after = parameters.first("starting_after").map(str::to_owned);
        if after.is_some() && order.key != "created_at" {
            return Err(Problem::parameter("starting_after", "requires ordering by created_at"));
        }
        if after.is_some() && offset != 0 {
            return Err(Problem::parameter("starting_after", "can't be combined with offset"));
        }
        Ok(Self {
            filter: filter(route, parameters)?,
            order,
            offset,
            after,
            limit: limit(parameters)?,
            with_members_count: parameters.is_true("include_members_count"),
        })
    }
}

/// Returns the number of objects of a page. Above the maximum, Clerk silently sends the default.
fn limit(parameters: &Parameters) -> Result<usize, Problem> {
    let limit = parameters.number("limit")?.map_or(Ok(LIMIT_DEFAULT), usize::try_from).unwrap_or(0);
    match limit {
        0 => Err(Problem::parameter("limit", "must be at least 1")),
        1..=LIMIT_MAX => Ok(limit),
        _ => Ok(LIMIT_DEFAULT),
    }
}

fn order(route: &Route, text: &str) -> Result<Order, Problem> {
    let (key, descending) = match text.strip_prefix('-') {
        Some(key) => (key, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    if !route.order_keys().contains(&key) {
        return Err(Problem::parameter("order_by", "is not an order of this list"));
    }
    Ok(Order { key: key.to_owned(), descending })
}

fn filter(route: &Route, parameters: &Parameters) -> Result<Filter, Problem> {
    let mut filter = Filter {
        created_before: parameters.number("created_at_before")?,
        created_after: parameters.number("created_at_after")?,
        statuses: parameters.all("status").map(str::to_owned).collect(),
        is_paid: matches!(route.target, Target::List { table: "subscription_items", .. })
            && !parameters.is_true("include_free"),
        ..Filter::default()
    };
    match &route.target {
        Target::List { table: "users", .. } | Target::Count(_) => {
            filter.ids = parameters.ids("user_id")?;
            let organizations = parameters.ids("organization_id")?.included;
            filter.members_of = (!organizations.is_empty()).then_some(organizations);
        }
        Target::List { table: "organizations", .. } => filter.ids = parameters.ids("organization_id")?,
        Target::List { table: "organization_domains", organization: None, .. } => {
            filter.organization = parameters.first("organization_id").map(str::to_owned);
        }
        Target::List { organization, .. } => {
            filter.users = parameters.ids("user_id")?;
            filter.organization.clone_from(organization);
        }
        Target::Instance | Target::One { .. } => {}
    }
    Ok(filter)
}
