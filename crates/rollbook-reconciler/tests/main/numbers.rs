//! Numbers that an engine writes in another form than Clerk.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::USERS;
use rollbook_core::store::{FullStore, RunState};
use rollbook_core::time::Timestamp;
use rollbook_reconciler::ResourceProgress;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::START;
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::{Value, json};

use super::world::{World, user_object};

const NUMBERS: &str = r#"{"a":1e5,"b":1.50,"c":-0,"d":1E+2,"e":1e-3,"f":123456789012345678901234567890,"g":0.10,
    "h":1e999,"i":-0.0,"k":[{"z":1e21}]}"#;

/// Runs again and again, while only what is not compared changes at Clerk.
async fn assert_written_once(world: &World) {
    let numbers: Value = serde_json::from_str(NUMBERS).expect("JSON");
    for number in 0..3 {
        let mut user = user_object(0);
        user["public_metadata"] = numbers.clone();
        user["last_active_at"] = json!(START + number);
        world.clerk.change(|objects| objects.put(&USERS, &user));
        let report = world.run().await.expect("a run");
        let found = (
            report.state,
            report.progress.sum(ResourceProgress::drifted),
            report.progress.sum(|of| of.written),
        );
        let written = u64::from(number == 0);
        assert_eq!(found, (RunState::Complete, written, written), "run {number}");
        world.pass(3600);
    }
}

#[tokio::test]
async fn a_run_after_another_writes_nothing_on_postgres_whatever_the_form_of_numbers() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    let settings = rollbook_postgres::PostgresSettings {
        url: server.url("postgres"),
        schema: "mirror".to_owned(),
        changes: false,
        pgbouncer: false,
        connections_max: 4,
        statement_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
    };
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START + 86_400_000)));
    rollbook_postgres::apply_migrations(&settings).await.expect("the migrations apply");
    let store = rollbook_postgres::PostgresStore::new(settings, clock.clone()).expect("settings");
    let store: Arc<dyn FullStore> = Arc::new(store);
    assert_written_once(&World::over(store, clock)).await;
}

#[tokio::test]
async fn a_run_after_another_writes_nothing_in_memory_whatever_the_form_of_numbers() {
    assert_written_once(&World::new()).await;
}
