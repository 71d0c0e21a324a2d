//! All events of `rollbook send`, sent by the real binary: they form one story, and its rows join.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollbook_core::catalog::{ORGANIZATIONS, RESOURCES, Resource, SUBSCRIPTION_ITEMS, SUBSCRIPTIONS, USERS};
use rollbook_core::store::{FullStore, RowView};
use rollbook_sqlite::SqliteStore;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::Value;

use crate::crashes::BINARY;
use crate::rows::postgres;

/// References between rows that the catalog does not have as parents: table, column, table.
const OTHER_REFERENCES: [(&Resource, &str, &Resource); 2] =
    [(&ORGANIZATIONS, "created_by", &USERS), (&SUBSCRIPTION_ITEMS, "subscription_id", &SUBSCRIPTIONS)];

/// Sends every event that `--list` names, and waits until all are applied.
async fn send_all(home: &Home, reversed: bool) {
    let listed = home.command(&["send", "--list"]).output().expect("it runs").stdout;
    let listed = String::from_utf8(listed).expect("text");
    let mut types: Vec<&str> = listed.lines().collect();
    if reversed {
        types.reverse();
    }
    for event_type in &types {
        let sent = home.command(&["send", event_type]).output().expect("it runs");
        assert!(sent.status.success(), "{event_type}: {}", String::from_utf8_lossy(&sent.stderr));
    }
    let count = f64::from(u32::try_from(types.len()).expect("a small number"));
    until("all are applied", || async { home.metric("rollbook_applied_total").await == Some(count) }).await;
}

async fn assert_rows_join(store: &dyn FullStore) {
    let mut living: BTreeMap<&str, BTreeMap<String, RowView>> = BTreeMap::new();
    let mut deleted = BTreeSet::new();
    for resource in RESOURCES {
        for row in store.rows(resource, None, 1_000).await.expect("rows") {
            if row.is_deleted() {
                deleted.insert(row.id);
            } else {
                living.entry(resource.table).or_default().insert(row.id.clone(), row);
            }
        }
    }
    let of_catalog = RESOURCES
        .into_iter()
        .flat_map(|from| from.links.iter().map(move |link| (from, link.column, link.parent)));
    let mut joined = BTreeSet::new();
    for (from, column, to) in of_catalog.chain(OTHER_REFERENCES) {
        for (id, row) in living.get(from.table).into_iter().flatten() {
            let Some(parent) = row.columns[column].as_str() else { continue };
            assert!(living[to.table].contains_key(parent), "{} {id}: no row {column} = {parent}", from.table);
            joined.insert(format!("{} {column}", from.table));
        }
    }
    for reference in [
        "organization_domains organization_id",
        "organization_invitations organization_id",
        "organization_invitations user_id",
        "organization_memberships organization_id",
        "organization_memberships user_id",
        "organizations created_by",
        "payment_attempts organization_id",
        "sessions user_id",
        "subscription_items organization_id",
        "subscription_items subscription_id",
        "subscriptions organization_id",
    ] {
        assert!(joined.contains(reference), "{reference} joins nothing: {joined:?}");
    }
    // Nothing of the story is deleted, and each table has a row.
    let tables: BTreeSet<&str> = RESOURCES.into_iter().map(|resource| resource.table).collect();
    assert_eq!(living.keys().copied().collect::<BTreeSet<_>>(), tables);
    assert!(!deleted.is_empty() && deleted.iter().all(|id| id.ends_with("_sample_deleted")), "{deleted:?}");
    let membership = &living["organization_memberships"]["orgmem_sample"].columns;
    assert_eq!([&membership["user_id"], &membership["organization_id"]], ["user_sample", "org_sample"]);
    let ids = living.values().flat_map(BTreeMap::keys);
    assert!(ids.clone().all(|id| id.contains("_sample")), "{:?}", ids.collect::<Vec<_>>());
    let address: &Value = &living["users"]["user_sample"].columns["primary_email_address"];
    assert!(address.as_str().is_some_and(|address| address.ends_with(".example")), "{address}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_events_of_send_leave_joined_rows_on_sqlite() {
    let home = Home::new(BINARY);
    let mut serving = home.start_ready(&["serve"]).await;
    send_all(&home, false).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", home.log());
    let store = SqliteStore::open(&home.data().join("store.db"), Arc::new(WallClock)).expect("it opens");
    assert_rows_join(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_events_of_send_leave_joined_rows_on_postgres_in_any_order() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    server.create_database("app").await;
    let home = Home::new(BINARY).with("DATABASE_URL", server.url("app"));
    let _serving = home.start_ready(&["serve", "--migrate"]).await;
    send_all(&home, true).await;
    assert_rows_join(&postgres(server.url("app"))).await;
    let members = "SELECT organization_id || ' ' || user_id FROM clerk.current_members";
    assert_eq!(server.psql("app", members).await.trim(), "org_sample user_sample");
}
