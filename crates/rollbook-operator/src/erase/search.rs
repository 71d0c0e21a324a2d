//! Search for rows that contain an address, and for other users who have it.
//!
//! People type addresses in another case than Clerk writes them, and no index contains a user's secondary addresses. So
//! whole tables are read once per address, in steps. The index of a column finds rows that arrived since then.

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::{RESOURCES, Resource, USERS};
use rollbook_core::store::{RowView, StoreError};
use serde_json::Value;

use super::addresses::{Rejection, of_other, plain};
use super::{Ports, Progress};

/// Maximum number of rows that are read by one link or one address. The store erases child rows beyond that too; only a
/// queued message about one of them that does not name the person is not found.
pub(super) const ROWS_MAX: usize = 10_000;

/// Name of a table and id of a row.
pub(super) type Key = (&'static str, String);

/// Column of a user's row with the primary e-mail address.
const PRIMARY: &str = "primary_email_address";

/// Results so far. All addresses are in lower case.
#[derive(Default)]
pub(super) struct Search {
    /// Addresses that other users have.
    of_others: BTreeMap<String, Rejection>,
    /// Addresses that were searched in the rows of users.
    searched_users: BTreeSet<String>,
    /// Rows that contain an address, by address.
    containing: BTreeMap<String, BTreeSet<Key>>,
    /// Addresses that were searched in the other tables.
    searched_rows: BTreeSet<String>,
}

impl Search {
    /// Returns which of these addresses other users have, and how. Deleted users have none.
    pub(super) async fn users(
        &mut self,
        ports: Ports<'_>,
        addresses: &BTreeSet<String>,
        is_own: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Rejection>, StoreError> {
        let new: Vec<String> = addresses.difference(&self.searched_users).cloned().collect();
        for id in ids_holding(ports, &USERS, &new).await? {
            if is_own(&id) {
                continue;
            }
            let Some(row) = ports.store.get(&USERS, &id).await?.filter(|row| !row.is_deleted()) else {
                continue;
            };
            let primary = row.columns.get(PRIMARY).and_then(Value::as_str);
            let data = row.columns.get("data").unwrap_or(&Value::Null);
            self.of_others.extend(of_other(data, primary, &new));
        }
        self.searched_users.extend(new);
        Ok(self.of_others.clone())
    }

    /// Searches rows that contain one of these addresses.
    pub(super) async fn rows<'a>(
        &mut self,
        ports: Ports<'_>,
        addresses: impl Iterator<Item = &'a String>,
    ) -> Result<(), StoreError> {
        let known: BTreeSet<String> = addresses.cloned().collect();
        let new: Vec<String> = known.difference(&self.searched_rows).cloned().collect();
        for resource in RESOURCES.into_iter().filter(|resource| !resource.addresses.is_empty()) {
            for row in rows_containing(ports, resource, resource.addresses, &new).await? {
                self.note(resource, &row);
            }
            for column in resource.addresses {
                for address in &known {
                    for row in ports.store.rows_where(resource, column, address, ROWS_MAX).await? {
                        self.note(resource, &row);
                    }
                }
            }
        }
        self.searched_rows.extend(new);
        Ok(())
    }

    /// Returns the rows found so far that contain one of these addresses.
    pub(super) fn containing<'a>(&self, addresses: impl Iterator<Item = &'a String>) -> BTreeSet<Key> {
        addresses.filter_map(|address| self.containing.get(address)).flatten().cloned().collect()
    }

    fn note(&mut self, resource: &'static Resource, row: &RowView) {
        for address in addresses_in(row, resource.addresses) {
            self.containing.entry(address).or_default().insert((resource.table, row.id.clone()));
        }
    }
}

/// Returns the rows of a table that have one of these addresses in one of these columns, in any case. Reads the whole
/// table.
pub(super) async fn rows_containing(
    ports: Ports<'_>,
    resource: &'static Resource,
    columns: &[&'static str],
    addresses: &[String],
) -> Result<Vec<RowView>, StoreError> {
    let mut rows = Vec::new();
    for id in ids_holding(ports, resource, addresses).await? {
        let row = ports.store.get(resource, &id).await?;
        rows.extend(row.filter(|row| addresses_in(row, columns).any(|address| addresses.contains(&address))));
    }
    Ok(rows)
}

/// Returns the ids of rows that may contain one of these addresses. Reports its progress.
async fn ids_holding(
    ports: Ports<'_>,
    resource: &'static Resource,
    addresses: &[String],
) -> Result<Vec<String>, StoreError> {
    let progress = |rows: u64| (ports.progress)(Progress::Searching { table: resource.table, rows });
    ports.store.ids_holding(resource, addresses, ROWS_MAX, &progress).await
}

/// Returns the addresses in these columns of a row, in lower case.
fn addresses_in(row: &RowView, columns: &[&'static str]) -> impl Iterator<Item = String> {
    columns.iter().filter_map(|column| row.columns.get(*column)?.as_str()).map(plain)
}
