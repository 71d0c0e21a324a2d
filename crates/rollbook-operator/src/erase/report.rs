//! Result of an erasure, planned or done.

use std::collections::BTreeMap;

use rollbook_core::catalog::Resource;
use serde::Serialize;

use super::Done;
use super::addresses::Rejection;
use super::copies::RemainingCopy;
use super::person::Person;
use super::scan::Found;
use super::search::Key;

/// Data that an erasure would remove, or has removed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Id of the person.
    pub id: String,
    /// Kind of the id.
    #[serde(rename = "table")]
    pub resource: &'static Resource,
    /// Whether this is a plan.
    pub dry_run: bool,
    /// Whether anything with the id was found.
    pub was_known: bool,
    /// Whether the person had a row with content.
    #[serde(skip)]
    pub had_row: bool,
    /// Whether the erasure is complete; `None` for a plan.
    pub complete: Option<bool>,
    /// Work that is left to do, as sentences; `None` for a plan.
    pub left: Option<Vec<String>>,
    /// Number of proved addresses and phone numbers.
    pub addresses: usize,
    /// Addresses that are not proved to be the person's.
    #[serde(rename = "addresses_not_taken")]
    pub rejected_addresses: Vec<RejectedAddress>,
    /// Rows of others that contain those addresses.
    #[serde(rename = "rows_by_address_not_taken")]
    pub rejected_rows: Vec<RowName>,
    /// Rows that are erased by their ids.
    pub subjects: Vec<RowName>,
    /// Number of rows with content, by table.
    pub rows_by_table: BTreeMap<&'static str, u64>,
    /// Messages of the person in the queue.
    pub queue: Found,
    /// Counts of what was removed; `None` for a plan.
    pub removed: Option<Removed>,
    /// Rows of others that stay.
    #[serde(rename = "stays")]
    pub mentions: Mentions,
    /// Copies that were not reached.
    pub not_reached: Vec<RemainingCopy>,
}

/// An address that is not taken as the person's.
#[derive(Debug, Serialize)]
pub struct RejectedAddress {
    /// E-mail address or phone number.
    pub address: String,
    /// Reason of the rejection.
    pub reason: Rejection,
}

/// A row by its table and its id.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct RowName {
    /// Name of the table.
    pub table: &'static str,
    /// Id of the row.
    pub id: String,
}

/// Counts of what an erasure removed.
#[derive(Debug, Serialize)]
pub struct Removed {
    /// Rows without content now.
    pub rows: u64,
    /// Ledger entries removed.
    pub ledger: u64,
    /// Messages that still existed when they were removed.
    pub messages: u64,
    /// Messages that arrived last and are left to the workers.
    #[serde(rename = "messages_still_coming")]
    pub coming: u64,
}

/// Rows of others that contain data of the person.
#[derive(Debug, Default, Serialize)]
pub struct Mentions {
    /// Invitations that the person sent.
    #[serde(rename = "invitations_sent")]
    pub invitations: Vec<String>,
    /// Domains that were verified by an address of the person.
    #[serde(rename = "domains_verified")]
    pub domains: Vec<String>,
    /// Billing rows of the person's organizations that contain the id or an address.
    #[serde(rename = "billing_naming_them")]
    pub billing: Vec<String>,
    /// Number of organizations that the person created. They contain the id only.
    #[serde(rename = "organizations_made")]
    pub organizations: u64,
}

impl Mentions {
    /// Returns whether a row of others contains data of the person.
    const fn any(&self) -> bool {
        let Self { invitations, domains, billing, organizations } = self;
        !invitations.is_empty() || !domains.is_empty() || !billing.is_empty() || *organizations > 0
    }
}

impl Report {
    pub(super) fn new(person: &Person, found: &Found, done: Option<&Done>, mentions: Mentions) -> Self {
        let names = |keys: &mut dyn Iterator<Item = &Key>| {
            keys.map(|(table, id)| RowName { table, id: id.clone() }).collect::<Vec<_>>()
        };
        let mut rows_by_table = BTreeMap::new();
        for (table, _) in &person.rows {
            *rows_by_table.entry(*table).or_default() += 1;
        }
        let rejected = person.addresses.rejected().iter();
        let in_queue = found.all() + found.mentions > 0;
        let is_known = in_queue || !person.rows.is_empty() || mentions.any();
        Self {
            id: person.id.clone(),
            resource: person.resource,
            dry_run: done.is_none(),
            was_known: person.was_known.unwrap_or_default() || is_known,
            had_row: person.rows.contains(&(person.resource.table, person.id.clone())),
            complete: done.map(|done| done.left.is_empty()),
            left: done.map(|done| done.left.clone()),
            addresses: person.addresses.proved().len(),
            rejected_addresses: rejected
                .map(|(address, reason)| RejectedAddress { address: address.clone(), reason: *reason })
                .collect(),
            rejected_rows: names(&mut person.rejected_rows.iter()),
            subjects: names(&mut person.subjects.iter()),
            rows_by_table,
            queue: found.clone(),
            removed: done.map(|done| Removed {
                rows: done.rows,
                ledger: done.ledger,
                messages: done.removed,
                coming: done.coming,
            }),
            mentions,
            not_reached: Vec::new(),
        }
    }
}
