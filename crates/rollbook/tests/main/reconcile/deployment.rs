//! Reconciliation in a deployment that is not set up for it: a role without rights, a store that is unreachable.

use rollbook_simulator::api::{ClerkApi, Fault};
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::postgres::PostgresServer;

use super::stage::history;
use super::{KEY, api_settings, home};
use crate::servers::{BINARY, Ran, run};

/// A role with the rights of a worker from before the reconciliation.
const ROLE: &str = "CREATE ROLE worker LOGIN PASSWORD 'ImAPassword'; GRANT USAGE ON SCHEMA clerk TO worker;
    GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA clerk TO worker;
    GRANT DELETE ON clerk.deliveries, clerk.rollbook_cascades, clerk.changes_pending, clerk.changes, clerk.changes_state TO worker;
    REVOKE ALL ON clerk.reconcile_runs, clerk.reconcile_held, clerk.reconcile_locks, clerk.reconcile_walks FROM worker";
const GRANT: &str = "GRANT SELECT, INSERT, UPDATE, DELETE
    ON clerk.reconcile_runs, clerk.reconcile_held, clerk.reconcile_locks, clerk.reconcile_walks TO worker";

fn ran(home: &Home, arguments: &[&str]) -> Ran {
    tokio::task::block_in_place(|| run(home, arguments))
}

async fn applies(home: &Home) {
    let before = home.metric("rollbook_applied_total").await.unwrap_or_default();
    let url = format!("http://{}/webhooks/clerk", home.listen);
    ran(home, &["send", "user.created", "--url", &url]).ended(0);
    until("the delivery is applied", || async { home.metric("rollbook_applied_total").await > Some(before) })
        .await;
}

fn line<'a>(doctor: &'a str, check: &str) -> &'a str {
    doctor
        .lines()
        .find(|line| line.split_whitespace().next() == Some(check))
        .unwrap_or_else(|| panic!("{doctor}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_rights_on_the_records_of_runs_applies_deliveries_with_and_without_a_key() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    Home::new(BINARY).with("DATABASE_URL", postgres.url("app")).migrate();
    postgres.psql("app", ROLE).await;
    let url = format!("postgres://worker:ImAPassword@127.0.0.1:{}/app", postgres.port());

    let without_key = Home::new(BINARY).with("DATABASE_URL", url.clone());
    let mut serving = without_key.start_ready(&["serve"]).await;
    applies(&without_key).await;
    let doctor = ran(&without_key, &["doctor"]).out;
    assert!(line(&doctor, "store").contains(" ok "), "{doctor}");
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", without_key.log());
    assert!(!without_key.log().contains("reconcile_"), "{}", without_key.log());

    let clerk = std::sync::Arc::new(std::sync::Mutex::new(history().state()));
    let api = ClerkApi::start(clerk, api_settings()).await.expect("a port");
    let with_key = home(&api).with("DATABASE_URL", url);
    let _serving = with_key.start_ready(&["serve"]).await;
    until("the missing rights are logged", || async { with_key.log().contains("reconciliation failed") })
        .await;
    let log = with_key.log();
    assert!(
        log.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON clerk.reconcile_runs, clerk.reconcile_held"),
        "{log}"
    );
    applies(&with_key).await;
    let doctor = ran(&with_key, &["doctor"]).ended(1).out;
    let found = line(&doctor, "reconcile");
    assert!(found.contains("failed") && found.contains("reconcile_walks"), "{found}");
    assert!(line(&doctor, "store").contains(" ok "), "{doctor}");
    assert_eq!(with_key.log().matches("reconciliation failed").count(), 1, "{}", with_key.log());

    postgres.psql("app", GRANT).await;
    until("the backfill begins by itself", || async {
        with_key.metric_with("rollbook_reconcile_requests_total", "code=\"200\"").await > Some(0.0)
    })
    .await;
}

/// No text ends a sentence twice, or a question with another sentence's mark.
fn is_punctuated(text: &str) -> bool {
    ["?.", "..", "?;", ".;", "?,", ".:"].iter().all(|marks| !text.contains(marks))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_store_is_named_and_nothing_is_to_be_resumed_that_never_began() {
    let unreachable = format!("postgres://worker:ImAPassword@127.0.0.1:{}/app", free_port());
    let home = Home::new(BINARY)
        .with("DATABASE_URL", unreachable)
        .with("CLERK_SECRET_KEY", KEY)
        .with("ROLLBOOK_DATABASE_CONNECT_TIMEOUT", "1s");
    for command in [&["reconcile"][..], &["reconcile", "--resume"], &["reconcile", "approve", "run_1"]] {
        let error = ran(&home, command).ended(1).err;
        assert!(error.contains("connection refused: check that it runs"), "{error}");
        assert!(error.trim_end().ends_with(". Fix: run the same command again"), "{error}");
        assert!(is_punctuated(&error) && !error.contains("--resume"), "{error}");
    }
    for command in [&["reconcile", "status"][..], &["ready"], &["explain", "user_1"]] {
        let ran = ran(&home, command).ended(1);
        let text = format!("{}{}", ran.out, ran.err);
        assert!(text.contains("connection refused") && is_punctuated(&text), "{command:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_a_signal_stops_says_how_to_go_on_and_goes_on() {
    let clerk = std::sync::Arc::new(std::sync::Mutex::new(history().state()));
    let api = ClerkApi::start(clerk, api_settings()).await.expect("a port");
    let home = home(&api);
    home.migrate();
    // Each answer takes a while, so that the run is under way when the signal comes.
    api.controls().set_latency(std::time::Duration::from_millis(200));
    let mut process = home.start(&["reconcile"]);
    until("users are read", || std::future::ready(api.controls().requests_to("/users") > 0)).await;
    process.signal("TERM");
    assert_eq!(process.exit().await.code(), Some(1));
    let log = home.log();
    let fix = "stopped by a signal before its end. Fix: nothing was deleted because of it; go on with: rollbook reconcile --resume";
    assert!(log.contains(fix), "{log}");
    api.controls().set_latency(std::time::Duration::ZERO);
    ran(&home, &["reconcile", "--resume"]).ended(0);

    // A run that Clerk refuses has failed, and goes on in the same way.
    api.controls().inject_on("/organizations", Fault::ServerError(403), 1);
    let failed = ran(&home, &["reconcile", "--output", "json"]).ended(1);
    let error = &failed.err;
    assert!(error.contains("GET /organizations: 403") && is_punctuated(error), "{error}");
    assert!(error.contains("then go on with the others: rollbook reconcile --resume"), "{error}");
    let reached: serde_json::Value = serde_json::from_str(&failed.out).expect("JSON");
    assert_eq!((&reached["state"], &reached["resources"][1]["done"]), (&"failed".into(), &true.into()));
    let run = reached["run"].as_str().expect("an id").to_owned();
    let resumed = ran(&home, &["reconcile", "--resume", "--output", "json"]).ended(0).out;
    let resumed: serde_json::Value = serde_json::from_str(&resumed).expect("JSON");
    assert_eq!((resumed["run"].as_str(), &resumed["state"]), (Some(run.as_str()), &"complete".into()));
    assert!(ran(&home, &["reconcile", "--resume"]).ended(1).err.contains("there is no unfinished run"));

    // So does one that was refused before it read anything.
    api.controls().inject(Fault::ServerError(403), 1);
    let error = ran(&home, &["reconcile"]).ended(1).err;
    assert!(
        error.contains("GET /instance: 403") && error.contains("--resume") && is_punctuated(&error),
        "{error}"
    );
    ran(&home, &["reconcile", "--resume"]).ended(0);
}
