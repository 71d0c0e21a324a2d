//! The search for the rows that name an address, and for the other users who have it.
//!
//! People type addresses in other upper and lower case than Clerk writes them, and no index holds a user's secondary
//! addresses. So each address is looked for once by reading whole tables, in steps; the index of a column finds what
//! came since then.

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::{RESOURCES, Resource, USERS};
use rollbook_core::store::{RowView, Store, StoreError};
use serde_json::Value;

use super::addresses::{Doubt, of_other, plain};
use super::person::{Key, ROWS_MAX};

/// The column of a user's row with their primary e-mail address.
const PRIMARY: &str = "primary_email_address";

/// What was found so far. All addresses are in lower case.
#[derive(Default)]
pub(super) struct Search {
    /// The addresses that other users have.
    of_others: BTreeMap<String, Doubt>,
    /// The addresses that the other users' rows were read for.
    asked_of_users: BTreeSet<String>,
    /// The rows that name an address, by address.
    naming: BTreeMap<String, BTreeSet<Key>>,
    /// The addresses that these tables were read for.
    asked_of_rows: BTreeSet<String>,
}

impl Search {
    /// Which of these addresses other users have, and how. Deleted users have none.
    pub(super) async fn users(
        &mut self,
        store: &dyn Store,
        addresses: &BTreeSet<String>,
        is_theirs: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Doubt>, StoreError> {
        let new: Vec<String> = addresses.difference(&self.asked_of_users).cloned().collect();
        for id in store.ids_holding(&USERS, &new, ROWS_MAX).await? {
            if is_theirs(&id) {
                continue;
            }
            let Some(row) = store.get(&USERS, &id).await?.filter(|row| !row.is_deleted()) else { continue };
            let primary = row.columns.get(PRIMARY).and_then(Value::as_str);
            let data = row.columns.get("data").unwrap_or(&Value::Null);
            self.of_others.extend(of_other(data, primary, &new));
        }
        self.asked_of_users.extend(new);
        Ok(self.of_others.clone())
    }

    /// Finds the rows that name one of these addresses.
    pub(super) async fn rows<'a>(
        &mut self,
        store: &dyn Store,
        addresses: impl Iterator<Item = &'a String>,
    ) -> Result<(), StoreError> {
        let known: BTreeSet<String> = addresses.cloned().collect();
        let new: Vec<String> = known.difference(&self.asked_of_rows).cloned().collect();
        for resource in RESOURCES.into_iter().filter(|resource| !resource.addresses.is_empty()) {
            for row in rows_naming(store, resource, resource.addresses, &new).await? {
                self.note(resource, &row);
            }
            for column in resource.addresses {
                for address in &known {
                    for row in store.rows_where(resource, column, address, ROWS_MAX).await? {
                        self.note(resource, &row);
                    }
                }
            }
        }
        self.asked_of_rows.extend(new);
        Ok(())
    }

    /// The rows that name one of these addresses, as far as they were found.
    pub(super) fn naming<'a>(&self, addresses: impl Iterator<Item = &'a String>) -> BTreeSet<Key> {
        addresses.filter_map(|address| self.naming.get(address)).flatten().cloned().collect()
    }

    fn note(&mut self, resource: &'static Resource, row: &RowView) {
        for address in addresses_in(row, resource.addresses) {
            self.naming.entry(address).or_default().insert((resource.table, row.id.clone()));
        }
    }
}

/// The rows of a table that have one of these addresses in one of these columns, in any upper and lower case. Reads the
/// whole table.
pub(super) async fn rows_naming(
    store: &dyn Store,
    resource: &'static Resource,
    columns: &[&'static str],
    addresses: &[String],
) -> Result<Vec<RowView>, StoreError> {
    let mut rows = Vec::new();
    for id in store.ids_holding(resource, addresses, ROWS_MAX).await? {
        let row = store.get(resource, &id).await?;
        rows.extend(row.filter(|row| addresses_in(row, columns).any(|address| addresses.contains(&address))));
    }
    Ok(rows)
}

/// The addresses in these columns of a row, in lower case.
fn addresses_in(row: &RowView, columns: &[&'static str]) -> impl Iterator<Item = String> {
    columns.iter().filter_map(|column| row.columns.get(*column)?.as_str()).map(plain)
}
