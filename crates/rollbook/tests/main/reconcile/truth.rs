//! Comparison of the rows of a store with the objects of a simulated Clerk, without any rule of the reconciler.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use rollbook_core::catalog::Resource;
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{FullStore, RowView};
use rollbook_simulator::api::{Filter, Objects as _, Order, Query};
use rollbook_simulator::state::ClerkState;
use serde_json::{Map, Value};

/// More than the rows of any test.
const ROWS_MAX: usize = 100_000;

/// Copies of other objects within an object, and numbers of them: Clerk changes these without an event.
const COPIES: [&str; 7] = [
    "organization",
    "public_user_data",
    "public_organization_data",
    "members_count",
    "pending_invitations_count",
    "missing_member_with_elevated_permissions",
    "last_active_at",
];

/// Ids of rows that are not as Clerk's objects are, each with its table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Deleted here, and alive at Clerk. No fault may ever cause one.
    pub(super) wrongly_deleted: Vec<String>,
    /// At Clerk, and without a row.
    pub(super) missing: Vec<String>,
    /// Alive here, and not at Clerk.
    pub(super) not_deleted: Vec<String>,
    /// With another content than at Clerk.
    pub(super) differing: Vec<String>,
}

impl Differences {
    /// Compares the rows of every resource that a reconciliation repairs.
    pub(super) async fn of(clerk: &Mutex<ClerkState>, store: &dyn FullStore) -> Self {
        let mut found = Self::default();
        for resource in RECONCILED {
            let rows = store.rows(resource, None, ROWS_MAX).await.expect("the store lists its rows");
            found.add(resource, objects(clerk, resource), rows);
        }
        found
    }

    fn add(
        &mut self,
        resource: &Resource,
        mut objects: BTreeMap<String, Map<String, Value>>,
        rows: Vec<RowView>,
    ) {
        let name = |id: &str| format!("{} {id}", resource.table);
        for row in rows {
            match objects.remove(&row.id) {
                Some(_) if row.is_deleted() => self.wrongly_deleted.push(name(&row.id)),
                Some(ref object) if !is_same(resource, object.clone(), &row.columns["data"]) => {
                    self.differing.push(name(&row.id));
                }
                Some(_) => {}
                None if row.is_deleted() => {}
                None => self.not_deleted.push(name(&row.id)),
            }
        }
        self.missing.extend(objects.keys().map(|id| name(id)));
    }

    pub(super) fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#?}")
    }
}

/// Objects of a resource at Clerk, as its lists show them.
fn objects(clerk: &Mutex<ClerkState>, resource: &Resource) -> BTreeMap<String, Map<String, Value>> {
    let order = Order { key: "created_at".to_owned(), descending: false };
    let query = Query {
        filter: Filter::default(),
        order,
        offset: 0,
        after: None,
        limit: ROWS_MAX,
        with_members_count: true,
    };
    let listing = clerk.list(resource.table, &query).expect("there is no cursor");
    let objects = listing.objects.iter().map(|text| {
        let object: Map<String, Value> = serde_json::from_str(text).expect("an object");
        (object["id"].as_str().expect("an id").to_owned(), object)
    });
    objects.collect()
}

fn is_same(resource: &Resource, mut object: Map<String, Value>, data: &Value) -> bool {
    // Values that grant access are stored nowhere.
    for path in resource.secrets {
        match path {
            [name] => drop(object.remove(*name)),
            [outer, name] => {
                let mut stored = data[outer].clone();
                for part in [object.get_mut(*outer), Some(&mut stored)].into_iter().flatten() {
                    part.as_object_mut().map(|part| part.remove(*name));
                }
                assert_eq!(object.get(*outer), Some(&stored), "{resource:?}");
                object.remove(*outer);
            }
            _ => panic!("a deeper path: {path:?}"),
        }
    }
    let compared = object.iter().filter(|(key, _)| !COPIES.contains(&key.as_str()));
    compared.into_iter().all(|(key, value)| data.get(key) == Some(value))
}
