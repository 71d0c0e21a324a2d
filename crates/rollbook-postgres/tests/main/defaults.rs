//! Defaults of a database or a role change nothing for the store: a session sets what it relies on.

use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::Change;
use rollbook_core::store::{Ledger as _, RowView, Rows as _, Store as _};
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};
use rollbook_testkit::memory::store::MemoryStore;

use crate::world::{World, clock};

/// Defaults of a database that change how statements are read, or how values are shown.
const DEFAULTS: [&str; 14] = [
    "standard_conforming_strings = off",
    "backslash_quote = off",
    "escape_string_warning = on",
    "DateStyle = 'German, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Pacific/Apia'",
    "bytea_output = 'escape'",
    "client_encoding = 'LATIN1'",
    "extra_float_digits = -15",
    "search_path = ''",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "transform_null_equals = on",
    "array_nulls = off",
];

/// Rows, deletions, child rows, and text that is not ASCII.
fn changes() -> Vec<Change> {
    let named = |id: &str, at: i64| {
        let mut data = user(id, START + at);
        data["first_name"] = "Zoë \\ 李 ' \\x".into();
        data["public_metadata"] = serde_json::json!({"path": "C:\\new", "quote": "'"});
        event("user.updated", START + at, &data)
    };
    let member = membership("orgmem_1", "org_1", "user_1", START + 3);
    [
        ("m1", named("user_1", 1)),
        ("m2", event("organization.updated", START + 2, &organization("org_1", START + 2))),
        ("m3", event("organizationMembership.created", START + 3, &member)),
        ("m4", named("user_2", 4)),
        ("m5", event("user.deleted", START + 5, &deleted("user", "user_1"))),
        ("m6", event("organization.deleted", START + 6, &deleted("organization", "org_1"))),
        ("m7", named("user_1", 7)),
    ]
    .iter()
    .map(|(id, body)| change_of(id, body))
    .collect()
}

fn content(mut rows: Vec<RowView>) -> Vec<RowView> {
    for row in &mut rows {
        row.columns.retain(|name, _| !name.starts_with("synced_"));
    }
    rows
}

async fn assert_equal_to_the_model(world: &World, what: &str) {
    let (store, model) = (world.store(), MemoryStore::new(clock()));
    for change in changes() {
        let change = std::slice::from_ref(&change);
        let applied = store.apply_many(change).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(Ok(applied), model.apply_many(change).await, "{what}");
    }
    for resource in RESOURCES {
        let rows = store.rows(resource, None, 100).await.expect("the store lists rows");
        assert_eq!(content(rows), content(model.rows_of(resource)), "{what}");
    }
    let lines = store.deliveries("user_1", 10).await.expect("the store reads its ledger");
    assert_eq!(Ok(lines.len()), model.deliveries("user_1", 10).await.map(|lines| lines.len()), "{what}");
    assert_eq!(store.ping().await, Ok(()), "{what}");
}

#[tokio::test]
async fn no_default_of_the_database_changes_what_is_stored() {
    for default in DEFAULTS {
        let world = World::empty().await;
        world.psql(&format!("ALTER DATABASE {} SET {default}", world.database)).await;
        rollbook_postgres::apply_migrations(&world.settings)
            .await
            .unwrap_or_else(|error| panic!("{default}: {error}"));
        assert_equal_to_the_model(&world, default).await;
    }
}
