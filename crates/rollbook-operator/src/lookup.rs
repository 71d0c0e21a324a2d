//! Subjects that a text names: by id, address, slug, external id or username.
//!
//! Constraints:
//!
//! * Exact values are found by an index. No index has a user's secondary addresses, usernames, and values in another case:
//!   for them whole tables are read in steps, within a time limit that the caller chooses.
//! * The result has ids only, no address and no name.

use std::collections::BTreeMap;
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, RESOURCES, Resource, USERS};
use rollbook_core::store::{RowView, Rows, StoreError};
use serde::Serialize;
use serde_json::Value;

use crate::erase::addresses::{listed, plain};
use crate::resource_of_id;

/// Maximum number of rows that are read for one column or one search of a table.
pub const CANDIDATES_MAX: usize = 1_000;
/// Time limit of a search for a reader who waits.
pub const SEARCH_FOR: Duration = Duration::from_secs(10);
/// Forms of a name that a command accepts.
pub const ACCEPTED: &str = "an id of Clerk's (user_…, org_…, orgmem_…, …), an e-mail address or a phone number with its \
                            country code, the slug of an organization, or the external id or username of a user";

/// Digits of a phone number: E.164 allows 15 at most, and the shortest ones in use have 7.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Way in which a text names a subject. The order is that of certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedBy {
    /// The text is the id of the row.
    Id,
    /// The text is the slug of the organization.
    Slug,
    /// The text is the external id of the user.
    ExternalId,
    /// The text is the username of the user.
    Username,
    /// The text is the primary address or phone number of the user.
    PrimaryAddress,
    /// The text is a verified address or phone number of the user.
    VerifiedAddress,
    /// The text is the address of an invitation or a waitlist entry.
    InvitedAddress,
    /// The user lists the address and has not verified it: it may belong to another person.
    UnverifiedAddress,
}

impl NamedBy {
    /// Returns the way as text.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Slug => "slug",
            Self::ExternalId => "external id",
            Self::Username => "username",
            Self::PrimaryAddress => "primary address",
            Self::VerifiedAddress => "verified address",
            Self::InvitedAddress => "invited address",
            Self::UnverifiedAddress => "listed, not verified",
        }
    }
}

/// A subject that a text names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// Kind of the subject. The JSON has the name of its table.
    #[serde(rename = "table")]
    pub resource: &'static Resource,
    /// Id of the subject.
    pub id: String,
    /// Way in which the text names it.
    pub by: NamedBy,
    /// Whether the row is deleted.
    pub is_deleted: bool,
}

/// Result of a lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lookup {
    /// Subjects, the most certain ones first.
    pub matches: Vec<Match>,
    /// Whether the search ended early: there may be more.
    pub is_cut_short: bool,
}

impl Lookup {
    /// Returns the one subject that is meant, if there is only one and the search was complete.
    pub fn only(&self) -> Option<&Match> {
        self.best().filter(|_| !self.is_cut_short)
    }

    /// Returns the one subject that is meant, as far as the search went.
    ///
    /// Invitations and waitlist entries with the address of a user are about the same person: they do not count as others if
    /// exactly one user has proved the address. A user who only lists an address is never meant alone: anyone can list it.
    pub fn best(&self) -> Option<&Match> {
        let mut others = self.matches.iter().filter(|found| found.by != NamedBy::InvitedAddress);
        match (others.next(), others.next()) {
            (Some(one), None) if one.by != NamedBy::UnverifiedAddress => Some(one),
            (None, _) if self.matches.len() == 1 => self.matches.first(),
            _ => None,
        }
    }
}

/// Returns whether a text has the form of an e-mail address or a phone number.
pub fn is_address(text: &str) -> bool {
    text.contains('@') || is_phone_number(text)
}

/// Returns whether a text has the form of a phone number with its country code.
pub fn is_phone_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    DIGITS.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the kind of an id: by its prefix, or by the table that has a row with it. `None` if neither shows it.
///
/// # Errors
/// The store cannot be read.
pub async fn kind_of(store: &dyn Rows, id: &str) -> Result<Option<&'static Resource>, StoreError> {
    if let Some(resource) = resource_of_id(id) {
        return Ok(Some(resource));
    }
    Ok(row_of(store, id).await?.map(|(resource, _)| resource))
}

/// Returns the row with this id, from any table.
pub(crate) async fn row_of(
    store: &dyn Rows,
    id: &str,
) -> Result<Option<(&'static Resource, RowView)>, StoreError> {
    for resource in RESOURCES {
        if let Some(row) = store.get(resource, id).await? {
            return Ok(Some((resource, row)));
        }
    }
    Ok(None)
}

/// Finds the subjects that a text names. With a time limit, the search of whole tables may end early.
///
/// # Errors
/// The store cannot be read.
pub async fn find(store: &dyn Rows, text: &str, search_for: Option<Duration>) -> Result<Lookup, StoreError> {
    let mut search = Search { store, text: plain(text), found: BTreeMap::new(), is_cut_short: false };
    search.by_indexes(text.trim()).await?;
    match search_for {
        None => search.by_content().await?,
        Some(limit) => match tokio::time::timeout(limit, search.by_content()).await {
            Ok(searched) => searched?,
            Err(_) => search.is_cut_short = true,
        },
    }
    let Search { found, is_cut_short, .. } = search;
    let mut matches: Vec<Match> = found.into_values().collect();
    matches.sort_by_key(|found| found.by);
    Ok(Lookup { matches, is_cut_short })
}

struct Search<'a> {
    store: &'a dyn Rows,
    /// The text in lower case.
    text: String,
    found: BTreeMap<(usize, String), Match>,
    is_cut_short: bool,
}

impl Search<'_> {
    /// Finds exact values by their indexes: as written, and in lower case as Clerk writes addresses and slugs.
    async fn by_indexes(&mut self, text: &str) -> Result<(), StoreError> {
        let lower = self.text.clone();
        let mut values = vec![text];
        values.extend((lower != text).then_some(lower.as_str()));
        let is_address = is_address(text);
        for value in values {
            if !is_address {
                self.in_column(&ORGANIZATIONS, "slug", value).await?;
                continue;
            }
            self.in_column(&USERS, "primary_email_address", value).await?;
            for resource in RESOURCES {
                for column in resource.addresses {
                    self.in_column(resource, column, value).await?;
                }
            }
        }
        self.in_column(&USERS, "external_id", text).await
    }

    async fn in_column(
        &mut self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
    ) -> Result<(), StoreError> {
        let rows = self.store.rows_where(resource, column, value, CANDIDATES_MAX).await?;
        self.is_cut_short |= rows.len() == CANDIDATES_MAX;
        for row in &rows {
            self.examine(resource, row, value);
        }
        Ok(())
    }

    /// Finds what no index has: reads whole tables.
    async fn by_content(&mut self) -> Result<(), StoreError> {
        let is_address = is_address(&self.text);
        for resource in RESOURCES {
            let has_names = if is_address {
                *resource == USERS || !resource.addresses.is_empty()
            } else {
                *resource == USERS || *resource == ORGANIZATIONS
            };
            if !has_names {
                continue;
            }
            let texts = [self.text.clone()];
            let ids = self.store.ids_holding(resource, &texts, CANDIDATES_MAX, &|_| ()).await?;
            self.is_cut_short |= ids.len() >= CANDIDATES_MAX;
            for id in ids {
                if let Some(row) = self.store.get(resource, &id).await? {
                    self.examine(resource, &row, "");
                }
            }
        }
        Ok(())
    }

    /// Notes a row if the text names it. `exact` is the text as it was written.
    fn examine(&mut self, resource: &'static Resource, row: &RowView, exact: &str) {
        let column = |name: &str| row.columns.get(name).and_then(Value::as_str).unwrap_or_default();
        let has = |name: &str| plain(column(name)) == self.text;
        let by = if *resource == ORGANIZATIONS {
            has("slug").then_some(NamedBy::Slug)
        } else if *resource == USERS {
            // An external id belongs to the team: its case counts.
            let by_external_id = !exact.is_empty() && column("external_id") == exact;
            self.by_of_user(row, by_external_id, &has)
        } else {
            resource.addresses.iter().any(|name| has(name)).then_some(NamedBy::InvitedAddress)
        };
        let Some(by) = by else { return };
        let key = (resource.number, row.id.clone());
        let found = Match { resource, id: row.id.clone(), by, is_deleted: row.is_deleted() };
        let known = self.found.entry(key).or_insert(found);
        known.by = known.by.min(by);
    }

    fn by_of_user(
        &self,
        row: &RowView,
        by_external_id: bool,
        has: &impl Fn(&str) -> bool,
    ) -> Option<NamedBy> {
        if by_external_id {
            return Some(NamedBy::ExternalId);
        }
        if has("username") {
            return Some(NamedBy::Username);
        }
        if has("primary_email_address") || has("primary_phone_number") {
            return Some(NamedBy::PrimaryAddress);
        }
        let data = row.columns.get("data").unwrap_or(&Value::Null);
        let of_text = listed(data).filter(|(address, _)| *address == self.text);
        let is_verified = of_text.map(|(_, is_verified)| is_verified).max()?;
        Some(if is_verified { NamedBy::VerifiedAddress } else { NamedBy::UnverifiedAddress })
    }
}

/// Way in which a question named its subject, if not by the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Way in which the text names the subject.
    pub by: NamedBy,
    /// Other subjects that the text names.
    pub also: Vec<Match>,
    /// Whether the search ended early: there may be more.
    pub is_cut_short: bool,
}

impl Named {
    /// Describes how a lookup found one of its matches.
    pub fn of(lookup: &Lookup, subject: &Match) -> Self {
        let also = lookup.matches.iter().filter(|other| *other != subject).cloned().collect();
        Self { by: subject.by, also, is_cut_short: lookup.is_cut_short }
    }
}

#[cfg(test)]
mod tests;
