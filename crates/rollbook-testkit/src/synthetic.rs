//! A large instance behind the simulated Clerk API: every object is computed from its number, so that a million users cost no memory.
//!
//! Users, organizations and memberships are numbered from zero in the order of their creation. Membership `n`
//! is of user `n` in organization `n % organizations`. The other tables are empty.

use std::fmt::Write as _;

use rollbook_simulator::api::{Filter, Listing, Objects, Query, UnknownCursor};
use rollbook_simulator::history::INSTANCE_ID;
use rollbook_simulator::samples;
use serde_json::{Value, json};

/// Number of digits of an id, as many as Clerk's ids have characters.
const DIGITS: usize = 27;
/// Text in a template in place of a number.
const NUMBER: &str = "#number#";
/// Text in a template in place of a membership's organization.
const ORGANIZATION: &str = "#organization#";
/// Text in a template in place of the time of creation, with its quotation marks.
const CREATED_AT: &str = "\"#created_at#\"";

/// Size of a synthetic instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticSettings {
    /// Number of users.
    pub users: u64,
    /// Number of organizations. At least one if there are memberships.
    pub organizations: u64,
    /// Number of memberships, at most the number of users.
    pub memberships: u64,
    /// Time of creation of the first object of each table, in milliseconds.
    pub start_millis: i64,
    /// Number of successive objects of a table that are created in the same millisecond. The next ones are
    /// created a millisecond later. At least one.
    pub ties: u64,
    /// Size of the private metadata of each user, in bytes.
    pub user_metadata: usize,
}

impl Default for SyntheticSettings {
    fn default() -> Self {
        Self {
            users: 1_000_000,
            organizations: 50_000,
            memberships: 1_000_000,
            start_millis: 1_700_000_000_000,
            ties: 3,
            user_metadata: 0,
        }
    }
}

/// A synthetic instance.
pub struct Synthetic {
    settings: SyntheticSettings,
    user: Template,
    organization: Template,
    membership: Template,
}

impl Synthetic {
    /// Creates an instance.
    pub fn new(settings: SyntheticSettings) -> Self {
        Self {
            settings: SyntheticSettings {
                ties: settings.ties.max(1),
                organizations: settings.organizations.max(u64::from(settings.memberships > 0)),
                memberships: settings.memberships.min(settings.users),
                ..settings
            },
            user: Template::new(&user(settings.user_metadata)),
            organization: Template::new(&organization()),
            membership: Template::new(&membership()),
        }
    }

    /// Returns the id of a user.
    pub fn user_id(number: u64) -> String {
        format!("user_{number:0DIGITS$}")
    }

    /// Returns the id of an organization.
    pub fn organization_id(number: u64) -> String {
        format!("org_{number:0DIGITS$}")
    }

    /// Returns the id of a membership.
    pub fn membership_id(number: u64) -> String {
        format!("orgmem_{number:0DIGITS$}")
    }

    /// Returns the template, the prefix of ids and the number of objects of a table.
    fn table(&self, table: &str) -> Option<(&Template, &'static str, u64)> {
        let settings = &self.settings;
        match table {
            "users" => Some((&self.user, "user_", settings.users)),
            "organizations" => Some((&self.organization, "org_", settings.organizations)),
            "organization_memberships" => Some((&self.membership, "orgmem_", settings.memberships)),
            _ => None,
        }
    }

    fn object(&self, template: &Template, table: &str, number: u64, with_members_count: bool) -> String {
        let created_at = self.settings.start_millis + i64::try_from(number / self.settings.ties).unwrap_or(0);
        let mut object = template.render(number, number % self.settings.organizations.max(1), created_at);
        if with_members_count && table == "organizations" {
            object.pop();
            // Writing to a text can't fail.
            let _ = write!(object, ",\"members_count\":{}}}", self.members(number));
        }
        object
    }

    /// Counts the memberships of an organization.
    fn members(&self, organization: u64) -> u64 {
        let (members, organizations) = (self.settings.memberships, self.settings.organizations.max(1));
        members / organizations + u64::from(organization < members % organizations)
    }

    /// Returns the first number of an object that is created at this time or later.
    fn first_since(&self, millis: i64) -> u64 {
        let since = millis.saturating_sub(self.settings.start_millis).max(0);
        u64::try_from(since).unwrap_or(0).saturating_mul(self.settings.ties)
    }

    /// Returns the numbers that pass the filter of times: the first, and the first that is too great.
    fn window(&self, filter: &Filter, count: u64) -> (u64, u64) {
        let from = filter.created_after.map_or(0, |time| self.first_since(time.saturating_add(1))).min(count);
        let to = filter.created_before.map_or(count, |time| self.first_since(time).min(count));
        (from, to.max(from))
    }

    /// Returns the numbers of the objects that the filter names, in ascending order. `None` if it names none.
    fn named(&self, table: &str, prefix: &str, filter: &Filter, count: u64) -> Option<Vec<u64>> {
        let numbers = |prefix: &str, ids: &[String]| {
            let mut numbers: Vec<u64> = ids.iter().filter_map(|id| number_of(prefix, id)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let of_organization = filter.organization.as_deref().filter(|_| table == "organization_memberships");
        if !filter.ids.included.is_empty() {
            return Some(numbers(prefix, &filter.ids.included));
        }
        if !filter.users.included.is_empty() {
            let organization = of_organization.and_then(|id| number_of("org_", id));
            let mut numbers = numbers("user_", &filter.users.included);
            numbers.retain(|number| organization.is_none_or(|id| number % self.settings.organizations == id));
            return Some(numbers);
        }
        let organization = number_of("org_", of_organization?)?;
        let step = usize::try_from(self.settings.organizations).unwrap_or(usize::MAX);
        Some((organization..count).step_by(step).collect())
    }
}

impl Objects for Synthetic {
    fn instance_id(&self) -> String {
        INSTANCE_ID.to_owned()
    }

    fn list(&self, table: &'static str, query: &Query) -> Result<Listing, UnknownCursor> {
        let Some((template, prefix, count)) = self.table(table) else { return Ok(Listing::default()) };
        let (from, to) = self.window(&query.filter, count);
        let cursor =
            query.after.as_deref().map(|id| number_of(prefix, id).ok_or(UnknownCursor)).transpose()?;
        let numbers = match self.named(table, prefix, &query.filter, count) {
            Some(mut numbers) => {
                numbers.retain(|number| (from..to).contains(number));
                Numbers::Named(numbers)
            }
            None => Numbers::Window(from, to),
        };
        let total = numbers.len();
        // Number of objects before the page.
        let start = match cursor {
            None => query.offset.min(total),
            Some(cursor) if query.order.descending => total - numbers.below(cursor),
            Some(cursor) => numbers.below(cursor.saturating_add(1)),
        };
        let end = start.saturating_add(u64::try_from(query.limit).unwrap_or(u64::MAX)).min(total);
        let place = |index| if query.order.descending { total - 1 - index } else { index };
        let render = |number| self.object(template, table, number, query.with_members_count);
        let objects = (start..end).map(|index| render(numbers.at(place(index)))).collect();
        Ok(Listing { objects, total })
    }

    fn get(&self, table: &'static str, id: &str, with_members_count: bool) -> Option<String> {
        let (template, prefix, count) = self.table(table)?;
        let number = number_of(prefix, id).filter(|number| *number < count)?;
        Some(self.object(template, table, number, with_members_count))
    }
}

/// Numbers of the objects of a list, in ascending order.
enum Numbers {
    Window(u64, u64),
    Named(Vec<u64>),
}

impl Numbers {
    fn len(&self) -> u64 {
        match self {
            Self::Window(from, to) => to - from,
            Self::Named(numbers) => u64::try_from(numbers.len()).unwrap_or(u64::MAX),
        }
    }

    /// Counts the numbers less than `number`.
    fn below(&self, number: u64) -> u64 {
        match self {
            Self::Window(from, to) => number.clamp(*from, *to) - from,
            Self::Named(numbers) => {
                u64::try_from(numbers.partition_point(|one| *one < number)).unwrap_or(u64::MAX)
            }
        }
    }

    fn at(&self, place: u64) -> u64 {
        match self {
            Self::Window(from, _) => from + place,
            Self::Named(numbers) => {
                usize::try_from(place).ok().and_then(|at| numbers.get(at)).copied().unwrap_or(0)
            }
        }
    }
}

/// Returns the number in an id.
fn number_of(prefix: &str, id: &str) -> Option<u64> {
    id.strip_prefix(prefix).filter(|digits| digits.len() == DIGITS)?.parse().ok()
}

/// JSON text of an object, cut at the places that differ.
struct Template(Vec<Piece>);

#[derive(Clone)]
enum Piece {
    Text(String),
    Number,
    Organization,
    CreatedAt,
}

impl Template {
    fn new(object: &Value) -> Self {
        let text = object.to_string();
        let mut rest = text.as_str();
        let mut pieces = Vec::new();
        let markers =
            [(NUMBER, Piece::Number), (ORGANIZATION, Piece::Organization), (CREATED_AT, Piece::CreatedAt)];
        while let Some((at, marker, piece)) = markers
            .iter()
            .filter_map(|(marker, piece)| rest.find(marker).map(|at| (at, *marker, piece)))
            .min_by_key(|(at, ..)| *at)
        {
            pieces.push(Piece::Text(rest[..at].to_owned()));
            pieces.push(piece.clone());
            rest = &rest[at + marker.len()..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Self(pieces)
    }

    fn render(&self, number: u64, organization: u64, created_at: i64) -> String {
        let mut text = String::with_capacity(2048);
        for piece in &self.0 {
            // Writing to a text can't fail.
            let _ = match piece {
                Piece::Text(piece) => text.write_str(piece),
                Piece::Number => write!(text, "{number:0DIGITS$}"),
                Piece::Organization => write!(text, "{organization:0DIGITS$}"),
                Piece::CreatedAt => write!(text, "{created_at}"),
            };
        }
        text
    }
}

fn sample(event_type: &str) -> Value {
    let event: Value =
        samples::sample(event_type).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    event["data"].clone()
}

/// Replaces what the objects of a table do not share.
fn differing(mut object: Value, prefix: &str) -> Value {
    object["id"] = format!("{prefix}{NUMBER}").into();
    for key in ["created_at", "updated_at"] {
        object[key] = CREATED_AT.trim_matches('"').into();
    }
    object
}

fn user(metadata: usize) -> Value {
    let mut user = differing(sample("user.created"), "user_");
    if metadata > 0 {
        user["private_metadata"] = json!({ "notes": "x".repeat(metadata) });
    }
    let address = json!(format!("idn_{NUMBER}"));
    user["primary_email_address_id"] = address.clone();
    user["email_addresses"][0]["id"] = address;
    user["email_addresses"][0]["email_address"] = format!("person-{NUMBER}@mail.example").into();
    user["external_id"] = format!("crm-{NUMBER}").into();
    user
}

fn organization() -> Value {
    let mut organization = differing(sample("organization.created"), "org_");
    organization["name"] = format!("Studio {NUMBER}").into();
    organization["slug"] = format!("studio-{NUMBER}").into();
    organization
}

fn membership() -> Value {
    let mut membership = differing(sample("organizationMembership.created"), "orgmem_");
    membership["organization"]["id"] = format!("org_{ORGANIZATION}").into();
    membership["public_user_data"]["user_id"] = format!("user_{NUMBER}").into();
    membership["public_user_data"]["identifier"] = format!("person-{NUMBER}@mail.example").into();
    membership
}
