//! A long start: the ports answer, systemd is notified, and a signal ends it.

use std::os::unix::net::UnixDatagram;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::source::RECONCILED;
use rollbook_testkit::process::{DEADLINE, Home, until};

const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");

/// A home with a store that lacks the last step, and a process that keeps the file's lock: the start can't
/// apply the step.
fn held_up() -> (Home, rusqlite::Connection) {
    let home = Home::new(BINARY);
    home.migrate();
    let store = rusqlite::Connection::open(home.data().join("store.db")).expect("the file opens");
    let version: i64 = store.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version");
    let indexes = RECONCILED.map(|resource| format!("DROP INDEX {}_living", resource.table)).join("; ");
    let triggers = RESOURCES.map(|resource| {
        let name = format!("rollbook_changes_{}", resource.table);
        format!("DROP TRIGGER {name}_insert; DROP TRIGGER {name}_update")
    });
    let triggers = triggers.join("; ");
    store
        .execute_batch(&format!(
            "DROP VIEW freshness; DROP TABLE reconcile_runs; DROP TABLE reconcile_held; DROP TABLE reconcile_locks;
             DROP TABLE reconcile_walks; {indexes}; {triggers}; DROP TABLE changes; DROP TABLE changes_state;
             DROP TABLE forwards; DROP TABLE forward_changes;
             DELETE FROM rollbook_migrations WHERE name IN ('0010_reconcile', '0012_changes', '0013_forwards',
                 '0016_generations', '0017_line_times');
             PRAGMA user_version = {}; BEGIN IMMEDIATE",
            version - 5
        ))
        .expect("the lock");
    (home, store)
}

fn send(home: &Home) -> String {
    let url = format!("http://{}/webhooks/clerk", home.listen);
    let sent = home.command(&["send", "user.created", "--url", &url, "--output", "json"]).output();
    String::from_utf8(sent.expect("the binary starts").stdout).expect("JSON")
}

async fn readiness(home: &Home) -> (u16, String) {
    home.ops_get("/readyz").await.map_or((0, String::new()), |answer| (answer.status, answer.body))
}

#[tokio::test]
async fn while_a_file_is_migrated_deliveries_get_503_health_says_why_and_systemd_gives_more_time() {
    let (home, store) = held_up();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(DEADLINE)).expect("a setting");
    let hear = || {
        let mut buffer = [0; 512];
        let length = systemd.recv(&mut buffer).expect("a message comes in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let home = home.with("NOTIFY_SOCKET", path.to_str().expect("a plain path"));
    let _rollbook = home.start(&["serve"]);
    until("readiness says that it migrates", || async {
        let (status, body) = readiness(&home).await;
        status == 503
            && body.contains(
                "migrating the store (0010_reconcile, 0012_changes, 0013_forwards, 0016_generations, 0017_line_times)",
            )
    })
    .await;
    assert_eq!(home.ops_get("/livez").await.map(|answer| answer.status), Some(200));
    assert_eq!(home.metric_with("rollbook_up", "start").await, Some(0.0));
    let answer = send(&home);
    assert!(answer.contains("503"), "{answer}");
    let asked = hear();
    assert!(asked.contains("EXTEND_TIMEOUT_USEC=120000000") && asked.contains("STATUS=migrating"), "{asked}");
    assert!(home.log().contains("not ready yet: migrating the store"), "{}", home.log());

    store.execute_batch("ROLLBACK").expect("the lock is free");
    until("it is ready", || async { readiness(&home).await.0 == 200 }).await;
    let answer = send(&home);
    assert!(answer.contains("200"), "{answer}");
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
    while hear() != "READY=1" {}
}

#[tokio::test]
async fn a_signal_ends_a_start_that_migrates_and_leaves_the_file_as_it_was() {
    let (home, store) = held_up();
    let mut rollbook = home.start(&["serve"]);
    until("it migrates", || async { home.log().contains("not ready yet: migrating the store") }).await;
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());
    store.execute_batch("ROLLBACK").expect("the lock is free");
    let found = "SELECT count(*) FROM sqlite_schema WHERE name = 'reconcile_runs'";
    assert_eq!(store.query_row(found, [], |row| row.get::<_, i64>(0)), Ok(0));
}
