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

#[tokio::test]
async fn a_variable_that_is_probably_meant_is_named_at_the_start_in_config_and_by_doctor() {
    let home = Home::new(BINARY)
        .with("DATABASE_URI", "postgres://me:ImASecret@h/x")
        .with("CLERK_API_KEY", "ImASecretToo");
    let hints = [
        "DATABASE_URI is set, and Rollbook does not read it: did you mean DATABASE_URL?",
        "did you mean CLERK_SECRET_KEY?",
    ];
    let _serving = home.start_ready(&["serve"]).await;
    let output = |command: &str| {
        let ran = home.command(&[command]).output().expect("the binary starts");
        format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
    };
    for shown in [home.log(), output("config"), output("doctor")] {
        assert!(hints.iter().all(|hint| shown.contains(hint)), "{shown}");
        assert!(!shown.contains("ImASecret"), "{shown}");
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_a_configuration_is_said_at_once_before_a_port_is_bound() {
    let refused = |home: &Home, command: &str| {
        let ran = home.command(&[command]).output().expect("the binary starts");
        assert_eq!(ran.status.code(), Some(2), "{ran:?}");
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    let urls = Home::new(BINARY)
        .without("CLERK_WEBHOOK_SIGNING_SECRET")
        .with("CLERK_WEBHOOK_SECRET", "whsec_ImASecret")
        .with("ROLLBOOK_QUEUE_URL", "redis://h:none")
        .with("DATABASE_URL", "postgres://h/x?sslmode=maybe")
        .with("ROLLBOOK_LEASE_FOR", "4s");
    let text = refused(&urls, "serve");
    for part in ["is not set (CLERK_WEBHOOK_SECRET is)", "queue_url (", "sslmode", "lease_for ("] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("ImASecret"), "{text}");
    let of_a_worker = refused(&urls, "work");
    assert!(!of_a_worker.contains("SIGNING_SECRET") && of_a_worker.contains("queue_url ("), "{of_a_worker}");
    let of_a_receiver = refused(&urls, "receive");
    assert!(!of_a_receiver.contains("sslmode") && of_a_receiver.contains("queue_url ("), "{of_a_receiver}");
    let values = Home::new(BINARY)
        .without("CLERK_WEBHOOK_SIGNING_SECRET")
        .with("ROLLBOOK_LANES", "0")
        .with("ROLLBOOK_FOO", "x");
    for part in ["CLERK_WEBHOOK_SIGNING_SECRET: is not set", "lanes (", "ROLLBOOK_FOO"] {
        assert!(refused(&values, "serve").contains(part), "{part}");
    }
}

#[tokio::test]
async fn every_port_that_another_process_has_is_named_at_once_with_its_flag() {
    let home = Home::new(BINARY);
    let _serving = home.start_ready(&["serve"]).await;
    let second = home.command(&["serve"]).output().expect("the binary starts");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let text = String::from_utf8_lossy(&second.stderr);
    for part in [
        home.listen.to_string(),
        home.ops.to_string(),
        "--listen HOST:PORT".into(),
        "--ops-listen HOST:PORT".into(),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_file_that_is_removed_under_a_running_process_takes_nothing_and_all_that_one_asks_say_so() {
    for (file, part, status) in [("queue.db", "queue", 503), ("store.db", "store", 200)] {
        let home = Home::new(BINARY);
        let mut serving = home.start_ready(&["serve"]).await;
        let elsewhere = home.path(file);
        std::fs::rename(home.data().join(file), &elsewhere).expect("it moves");
        let answer = send(&home);
        assert!(answer.contains(&format!("\"status\": {status}")), "a receiver needs no store: {answer}");
        let shown =
            |text: &str| text.contains("was removed while this process has it open") && text.contains(file);
        until("the health shows it", || async {
            home.ops_get("/readyz").await.is_some_and(|answer| shown(&answer.body))
        })
        .await;
        assert_eq!(home.metric_with("rollbook_up", &format!("part=\"{part}\"")).await, Some(0.0));
        let doctor = home.command(&["doctor"]).output().expect("the binary starts");
        let report = String::from_utf8_lossy(&doctor.stdout);
        let line =
            |check: &str| report.lines().find(|line| line.starts_with(check)).unwrap_or_default().to_owned();
        assert!(line("process").contains("was removed"), "{report}");
        assert!(
            line(part).contains(" warning ") && line(part).contains("it was removed or moved"),
            "{report}"
        );
        until("the log names it", || async { shown(&home.log()) }).await;
        // Back in its place, it is complete, and what waited is applied.
        std::fs::rename(&elsewhere, home.data().join(file)).expect("it moves back");
        until("it is well again", || async {
            send(&home).contains("\"status\": 200")
                && home.ops_get("/readyz").await.is_some_and(|answer| answer.status == 200)
        })
        .await;
        serving.signal("TERM");
        assert!(serving.exit().await.success(), "{}", home.log());
    }
}
