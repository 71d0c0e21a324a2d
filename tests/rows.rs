//! Comparison of the rows on Postgres with the data of the simulated Clerk.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::Rows as _;
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_simulator::history::History;
use rollbook_testkit::clock::WallClock;

/// Opens a migrated store.
pub(crate) fn postgres(url: String) -> PostgresStore {
    let settings = PostgresSettings {
        url,
        schema: "clerk".to_owned(),
        changes: true,
        pgbouncer: false,
        connections_max: 2,
        statement_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(5),
    };
    PostgresStore::new(settings, Arc::new(WallClock)).expect("the store opens")
}

pub(crate) async fn equal(url: String, history: &History) -> bool {
    let store = postgres(url);
    let mut rows = Vec::new();
    for resource in RESOURCES {
        let all = store.rows(resource, None, usize::MAX >> 1).await.expect("rows");
        rows.extend(all.into_iter().map(|row| (resource.table, row)));
    }
    history.truth.compare(rows.into_iter()).is_equal()
}
