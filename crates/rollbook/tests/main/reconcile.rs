//! `reconcile`, `resync` and `ready` against a simulated API of Clerk.

mod deployment;
mod kills;
mod special;
mod stage;
mod table;
mod truth;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_simulator::api::{ApiSettings, ClerkApi, Controls, Fault};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::state::ClerkState;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::synthetic::{Synthetic, SyntheticSettings};
use serde_json::Value;

use crate::servers::{BINARY, Ran, run};

/// Invented key of a production instance, with its rate limit.
const KEY: &str = "sk_live_aW52ZW50ZWQtZm9yLXRlc3Rz";

/// Clerk with some hundred objects, and a home with its key.
struct Stage {
    _api: ClerkApi,
    controls: Controls,
    state: Arc<Mutex<ClerkState>>,
    home: Home,
}

impl Stage {
    async fn new() -> Self {
        let settings =
            HistorySettings { users: 120, organizations: 12, changes: 600, ..HistorySettings::default() };
        let state = Arc::new(Mutex::new(History::generate(&settings).state()));
        let api = ClerkApi::start(state.clone(), api_settings()).await.expect("a port");
        let home = home(&api);
        Self { controls: api.controls(), _api: api, state, home }
    }

    async fn embedded() -> Self {
        let stage = Self::new().await;
        stage.home.migrate();
        stage
    }

    /// Runs a command in the background of the API, which this thread must not block.
    fn run(&self, arguments: &[&str]) -> Ran {
        tokio::task::block_in_place(|| without_key(run(&self.home, arguments)))
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.run(&[arguments, &["--output", "json"]].concat()).ended(code);
        serde_json::from_str(&ran.out).unwrap_or_else(|why| panic!("{why}\n{}\n{}", ran.out, ran.err))
    }

    fn users(&self) -> Vec<String> {
        self.state.lock().expect("no panic").ids("users")
    }

    /// Makes the rows older than those that a run leaves alone because Clerk's answer may be older.
    fn age_rows(&self) {
        let store = rusqlite::Connection::open(self.home.data().join("store.db")).expect("a file");
        for table in ["users", "organization_memberships"] {
            let aged =
                store.execute(&format!("UPDATE {table} SET synced_at = '2026-01-01T00:00:00.000Z'"), []);
            assert!(aged.expect("the table takes it") > 0);
        }
    }

    fn remove_users(&self, number: usize) -> Vec<String> {
        let ids: Vec<String> = self.users().into_iter().take(number).collect();
        let mut state = self.state.lock().expect("no panic");
        assert!(ids.iter().all(|id| state.remove("users", id)));
        ids
    }
}

fn api_settings() -> ApiSettings {
    let (key, environment) = (KEY.to_owned(), "production".to_owned());
    ApiSettings { key, environment, ..ApiSettings::new(Arc::new(WallClock)) }
}

fn home(api: &ClerkApi) -> Home {
    Home::new(BINARY).with("CLERK_SECRET_KEY", KEY).with("CLERK_API_URL", api.url())
}

/// The key is in no output.
fn without_key(ran: Ran) -> Ran {
    let key = KEY.trim_start_matches("sk_live_");
    assert!(!ran.out.contains(key) && !ran.err.contains(key), "the key is printed");
    ran
}

/// Resources of a run that it repairs. Subscription items are only counted.
fn repaired(run: &Value) -> impl Iterator<Item = &Value> {
    let resources = run["resources"].as_array().expect("resources").iter();
    resources.filter(|of| of["resource"] != "subscription_items")
}

fn sum(run: &Value, key: &str) -> u64 {
    repaired(run).map(|of| of[key].as_u64().expect("a number")).sum()
}

fn drift(run: &Value) -> u64 {
    let of =
        |of: &Value| of["drift"].as_object().expect("kinds").values().filter_map(Value::as_u64).sum::<u64>();
    repaired(run).map(of).sum()
}

/// The first run is the backfill, and the second one writes nothing.
fn backfills(stage: &Stage) {
    let dry = stage.json(&["reconcile", "--dry-run"], 0);
    assert!(drift(&dry) > 120 && sum(&dry, "written") == 0, "{dry:#}");
    let first = stage.json(&["reconcile"], 0);
    assert_eq!((first["state"].as_str(), drift(&first)), (Some("complete"), drift(&dry)), "{first:#}");
    assert_eq!(sum(&first, "written"), drift(&first), "{first:#}");
    let second = stage.json(&["reconcile"], 0);
    assert_eq!((drift(&second), sum(&second, "written")), (0, 0), "{second:#}");
    assert_eq!(sum(&second, "read"), sum(&first, "read"));
    let text = stage.run(&["reconcile", "--only", "users"]).ended(0).out;
    assert!(text.contains("complete: ") && text.contains("nothing differs"), "{text}");
    stage.run(&["ready"]).ended(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_run_fills_an_empty_sqlite_and_the_second_writes_nothing() {
    let stage = Stage::embedded().await;
    let not_ready = stage.run(&["ready"]).ended(1);
    assert!(not_ready.out.contains("users: never reconciled. Fix: rollbook reconcile"), "{}", not_ready.out);
    backfills(&stage);
    let id = &stage.users()[0];
    let story = stage.run(&["explain", id]).ended(0).out;
    assert!(story.contains("found the row missing and inserted it."), "{story}");
    assert!(
        story.contains("reconcile.missing") && story.contains("No later delivery has changed"),
        "{story}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_run_fills_an_empty_postgres_and_the_second_writes_nothing() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let mut stage = Stage::new().await;
    stage.home = stage.home.with("DATABASE_URL", postgres.url("app"));
    let refused = stage.run(&["reconcile"]).ended(1);
    assert!(refused.err.contains("rollbook migrate"), "{}", refused.err);
    stage.home.migrate();
    backfills(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_that_the_brake_holds_end_the_run_with_1_until_they_are_approved() {
    let stage = Stage::embedded().await;
    stage.run(&["reconcile"]).ended(0);
    let removed = stage.remove_users(21);
    let young = stage.json(&["reconcile"], 0);
    assert_eq!(
        (drift(&young), stage.json(&["reconcile", "status"], 0)["waiting"].to_string().as_str()),
        (0, "[]")
    );
    stage.age_rows();
    stage.run(&["reconcile", "--dry-run"]).ended(1);
    let held = stage.json(&["reconcile"], 1);
    assert_eq!(held["state"], "held");
    let id = held["run"].as_str().expect("an id");
    let status = stage.json(&["reconcile", "status"], 0);
    let waiting = &status["waiting"].as_array().expect("a list").iter().find(|of| of["resource"] == "users");
    let waiting = waiting.expect("users wait");
    assert_eq!((waiting["count"].as_u64(), waiting["kind"].as_str()), (Some(21), Some("not_deleted")));
    let fix = format!("rollbook reconcile approve {id}");
    assert_eq!(waiting["fix"], fix.as_str());
    let text = stage.run(&["reconcile", "status"]).ended(0).out;
    assert!(text.contains(&fix) && text.contains("and 1 more"), "{text}");
    let story = stage.run(&["explain", &removed[0]]).ended(0).out;
    assert!(story.contains(&fix) && story.contains("Its deletion from users is held"), "{story}");
    assert!(stage.run(&["ready"]).ended(1).out.contains("wait for you"));
    let doctor = stage.run(&["doctor"]);
    assert!(doctor.out.contains("objects wait for you"), "{}", doctor.out);

    let approved = stage.json(&["reconcile", "approve", id], 0);
    assert!(approved["deleted"].as_u64() >= Some(21) && approved["refused"] == 0, "{approved}");
    let again = stage.run(&["reconcile", "approve", id]).ended(1);
    assert!(again.err.contains("no deletion of this run waits"), "{}", again.err);
    let last = stage.json(&["reconcile"], 0);
    assert_eq!((last["state"].as_str(), drift(&last)), (Some("complete"), 0), "{last:#}");
    let story = stage.run(&["explain", &removed[0]]).ended(0).out;
    assert!(story.contains("a read of it alone proved it. It deleted the row."), "{story}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resync_repairs_one_row_now_and_says_what_it_cannot_read() {
    let stage = Stage::embedded().await;
    let id = stage.users()[0].clone();
    let outcome = |value: Value| value[0]["outcome"].as_str().expect("an outcome").to_owned();
    assert_eq!(outcome(stage.json(&["resync", &id], 0)), "inserted");
    assert_eq!(outcome(stage.json(&["resync", &id], 0)), "unchanged");
    stage.state.lock().expect("no panic").remove("users", &id);
    assert_eq!(outcome(stage.json(&["resync", &id], 1)), "unproven", "the row was written a moment ago");
    stage.run(&["reconcile"]).ended(0);
    stage.age_rows();
    assert_eq!(outcome(stage.json(&["resync", &id], 0)), "deleted");
    assert_eq!(outcome(stage.json(&["resync", &id], 0)), "absent");
    let unknown = stage.run(&["resync", "role_unheard_of"]).ended(3);
    assert!(unknown.out.contains("no row has this id"), "{}", unknown.out);
    assert!(unknown.err.contains("nothing is known of this id; nothing was changed"), "{}", unknown.err);
    let unknown = stage.run(&["reconcile", "approve", "run_unheard_of"]).ended(3);
    assert!(unknown.err.contains("there is no run with this id"), "{}", unknown.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_instance_and_a_refused_key_change_nothing_and_are_named() {
    let stage = Stage::embedded().await;
    stage.run(&["reconcile", "--only", "users"]).ended(0);
    stage.controls.set_instance_id(Some("ins_another"));
    for command in [&["reconcile"][..], &["reconcile", "--dry-run"], &["resync", "user_1"]] {
        let ran = stage.run(command).ended(1);
        assert!(ran.err.contains("belongs to the instance ins_another"), "{command:?}: {}", ran.err);
    }
    let doctor = stage.run(&["doctor"]).ended(1).out;
    let line = doctor.lines().find(|line| line.starts_with("clerk_instance")).expect("a line");
    assert!(line.contains("failed") && line.contains("ins_another"), "{line}");
    stage.controls.set_instance_id(None);

    stage.controls.inject(Fault::Unauthorized, 2);
    let failed = stage.json(&["reconcile"], 1);
    assert_eq!((failed["state"].as_str(), failed["run"].is_string()), (Some("failed"), true));
    assert!(failed["fix"].as_str().is_some_and(|fix| fix.contains("--resume")), "{failed}");
    assert!(failed["error"].as_str().expect("a text").contains("401"), "{failed}");
    let line = stage.run(&["doctor"]).ended(1).out;
    assert!(line.lines().any(|line| line.starts_with("clerk_key") && line.contains("failed")), "{line}");
    stage.run(&["reconcile"]).ended(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_the_commands_say_what_to_set_and_doctor_does_not_fail() {
    let home = Home::new(BINARY);
    home.migrate();
    for command in [&["reconcile"][..], &["reconcile", "approve", "run_1"], &["resync", "user_1"]] {
        let ran = tokio::task::block_in_place(|| run(&home, command)).ended(2);
        assert!(ran.err.contains("CLERK_SECRET_KEY") && ran.err.contains("sk_live_"), "{}", ran.err);
    }
    let status = tokio::task::block_in_place(|| run(&home, &["reconcile", "status"])).ended(0).out;
    assert!(status.contains("No reconciliation has run yet"), "{status}");
    let doctor = tokio::task::block_in_place(|| run(&home, &["doctor"])).ended(0).out;
    let line = doctor.lines().find(|line| line.starts_with("clerk_key")).expect("a line");
    assert!(line.contains("skipped") && line.contains("CLERK_SECRET_KEY is not set"), "{line}");
    let wrong = home.with("CLERK_SECRET_KEY", "pk_live_bm90LXByaW50ZWQ");
    let ran = tokio::task::block_in_place(|| run(&wrong, &["reconcile"])).ended(2);
    assert!(ran.err.contains("publishable") && !ran.err.contains("bm90LXByaW50ZWQ"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_killed_goes_on_with_resume_and_two_processes_do_not_run_at_once() {
    let objects =
        SyntheticSettings { users: 40_000, organizations: 0, memberships: 0, ..SyntheticSettings::default() };
    let slow = ApiSettings { latency: Duration::from_millis(300), ..api_settings() };
    let api = ClerkApi::start(Arc::new(Synthetic::new(objects)), slow).await.expect("a port");
    // A slow pace, so that the run is still under way when its first position is saved.
    let home = home(&api).with("ROLLBOOK_API_BUDGET", "0.02");
    home.migrate();
    let mut process = home.start(&["reconcile"]);
    let status = || {
        let ran =
            tokio::task::block_in_place(|| run(&home, &["reconcile", "status", "--output", "json"])).ended(0);
        serde_json::from_str::<Value>(&ran.out).expect("JSON")
    };
    until("some users are read", || {
        let read = status()["runs"].get(0).map_or(0, |run| sum(run, "read"));
        async move { read > 1_000 }
    })
    .await;
    let second = tokio::task::block_in_place(|| run(&home, &["reconcile"])).ended(1);
    assert!(second.err.contains("another process is running a reconciliation"), "{}", second.err);
    process.kill();
    let killed = status()["runs"][0].clone();
    assert!(killed["state"] == "running" && sum(&killed, "read") < 40_000, "{killed:#}");
    api.controls().set_latency(Duration::ZERO);
    // As if the minute for which the killed process holds its lock had passed.
    let database = rusqlite::Connection::open(home.data().join("store.db")).expect("a file");
    database.execute("DELETE FROM reconcile_locks", []).expect("the lock is removed");
    let faster = home.with("ROLLBOOK_API_BUDGET", "1");
    let ran =
        tokio::task::block_in_place(|| run(&faster, &["reconcile", "--resume", "--output", "json"])).ended(0);
    let done: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((done["run"].as_str(), done["state"].as_str()), (killed["run"].as_str(), Some("complete")));
    let users: u64 = database.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).expect("a count");
    assert_eq!(users, 40_000);
    let resumed = tokio::task::block_in_place(|| run(&faster, &["reconcile", "--resume"])).ended(1);
    assert!(resumed.err.contains("there is no unfinished run"), "{}", resumed.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_backfills_by_itself_shows_it_as_metrics_and_never_logs_the_key() {
    let stage = Stage::new().await;
    let mut serving = stage.home.start_ready(&["serve"]).await;
    let home = &stage.home;
    until("the run is complete", || async {
        home.metric("rollbook_reconcile_last_success_timestamp_seconds").await > Some(0.0)
    })
    .await;
    assert!(home.metric_with("rollbook_reconcile_drift", "missing").await > Some(120.0));
    assert!(home.metric_with("rollbook_reconcile_requests_total", "code=\"200\"").await > Some(0.0));
    assert_eq!(home.metric("rollbook_reconcile_held").await, Some(0.0));
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", home.log());
    assert!(home.log().contains("reconciliation done"), "{}", home.log());
    assert!(!home.log().contains(KEY.trim_start_matches("sk_live_")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_key_does_not_end_serve_and_is_logged_once() {
    let stage = Stage::new().await;
    stage.controls.inject(Fault::Unauthorized, u64::MAX);
    let mut serving = stage.home.start_ready(&["serve"]).await;
    let home = &stage.home;
    until("the key is refused", || async {
        home.metric_with("rollbook_reconcile_requests_total", "code=\"401\"").await > Some(0.0)
    })
    .await;
    until("it is logged", || async { home.log().contains("reconciliation failed") }).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", home.log());
}
