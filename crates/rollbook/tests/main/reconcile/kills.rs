//! The real binary, killed with `kill -9` in every phase of a run, and resumed. A trigger or a lock holds the run in
//! a phase until it is killed there.

use std::sync::{Arc, Mutex};

use rollbook_core::store::FullStore;
use rollbook_simulator::api::{ClerkApi, Controls, Fault};
use rollbook_simulator::state::ClerkState;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::stage::{change_user, history, open_sqlite, postgres};
use super::truth::Differences;
use super::{api_settings, home, without_key};
use crate::servers::run;

/// Makes writes wait while another session has the advisory lock 14.
const WAIT: &str = "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(14); RETURN NEW; END $$";
/// Sessions of Rollbook that wait for a lock.
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rollbook' AND wait_event_type = 'Lock'";

/// Obstacle that holds a run in a phase.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// Requests to this path get no answer.
    Request(&'static str),
    /// Reads of this table wait.
    Reads(&'static str),
    /// Writes of this table wait: the event, the table, and the condition of the trigger.
    Writes(&'static str, &'static str, &'static str),
}

/// Phases of a run, with the number of users that Clerk has deleted before it.
const PHASES: [(&str, Hold, usize); 12] = [
    ("check of the instance", Hold::Request("/instance"), 3),
    ("cut into parts", Hold::Request("/users/count"), 3),
    ("read", Hold::Request("/users"), 3),
    ("read by offset", Hold::Request("/organization_memberships"), 3),
    ("compare", Hold::Reads("users"), 3),
    ("write", Hold::Writes("INSERT OR UPDATE", "users", "NEW.deleted_at IS NULL"), 3),
    ("prove", Hold::Request("/users/{id}"), 3),
    ("collect", Hold::Writes("INSERT", "reconcile_held", "true"), 3),
    ("delete", Hold::Writes("UPDATE", "users", "NEW.deleted_at IS NOT NULL"), 3),
    ("settle", Hold::Writes("UPDATE", "reconcile_held", "NEW.state = 'done'"), 3),
    ("note the walk", Hold::Writes("INSERT OR UPDATE", "reconcile_walks", "true"), 3),
    ("finish", Hold::Writes("UPDATE", "reconcile_runs", "NEW.state <> 'running'"), 3),
];

/// The brake holds more than 20.
const HELD: (&str, Hold, usize) =
    ("hold", Hold::Writes("UPDATE", "reconcile_held", "NEW.state = 'waiting'"), 25);

struct Stage {
    _api: ClerkApi,
    controls: Controls,
    clerk: Arc<Mutex<ClerkState>>,
    home: Home,
    store: Arc<dyn FullStore>,
    changes: usize,
}

impl Stage {
    /// A backfilled store.
    async fn new(with: impl AsyncFnOnce(Home) -> (Home, Arc<dyn FullStore>)) -> Self {
        let clerk = Arc::new(Mutex::new(history().state()));
        let api = ClerkApi::start(clerk.clone(), api_settings()).await.expect("a port");
        let controls = api.controls();
        let (home, store) = with(home(&api).with("ROLLBOOK_API_BUDGET", "1")).await;
        let stage = Self { _api: api, controls, clerk, home, store, changes: 0 };
        stage.run(&["reconcile"], 0);
        assert!(stage.differences().await.are_none());
        stage
    }

    fn run(&self, arguments: &[&str], code: i32) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let ran = tokio::task::block_in_place(|| without_key(run(&self.home, &arguments))).ended(code);
        serde_json::from_str(&ran.out).expect("JSON")
    }

    async fn differences(&self) -> Differences {
        Differences::of(&self.clerk, &*self.store).await
    }

    /// Deletes users, and changes and adds others.
    fn change_clerk(&mut self, deleted: usize) {
        self.changes += 1;
        let now = rollbook_core::time::Clock::now(&WallClock);
        let mut state = self.clerk.lock().expect("no panic");
        let ids = state.ids("users");
        for id in &ids[..deleted] {
            assert!(state.remove("users", id));
        }
        for (number, id) in ids[deleted..deleted + 4].iter().enumerate() {
            change_user(&mut state, id, now);
            let new = format!("user_zzz{:03}{number}", self.changes);
            assert!(state.insert_copy("users", id, &new, now));
        }
    }

    /// Kills a run, and goes on with it until the rows are equal.
    async fn kill(&mut self, mut process: Process, case: &str, deleted: usize, unlock: impl AsyncFnOnce()) {
        process.kill();
        self.controls.clear_faults();
        unlock().await;
        let found = self.differences().await;
        assert!(found.wrongly_deleted.is_empty(), "{case}: {found}");
        let is_held = deleted > 20;
        // Killed before its first record, there is no run to resume.
        let status = self.run(&["reconcile", "status"], 0);
        let is_unfinished = status["runs"][0]["state"] == "running";
        let command = if is_unfinished { &["reconcile", "--resume"][..] } else { &["reconcile"] };
        let ended = self.run(command, i32::from(is_held));
        if is_held {
            let found = self.differences().await;
            assert_eq!(found.not_deleted.len(), deleted, "{case}: {found}");
            self.run(&["reconcile", "approve", ended["run"].as_str().expect("an id")], 0);
        }
        let left = self.differences().await;
        assert!(left.are_none(), "{case}: {left}");
        let again = self.run(&["reconcile"], 0);
        assert_eq!(super::sum(&again, "written"), 0, "{case}: a run straight after another writes nothing");
    }
}

/// A run leaves rows alone that were written a moment ago.
const AGED: &str = "UPDATE clerk.users SET synced_at = '2026-01-01';
    UPDATE clerk.organization_memberships SET synced_at = '2026-01-01'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_killed_in_any_phase_goes_on_and_ends_equal_on_postgres() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    let url = server.url("postgres");
    let open = async |home: Home| {
        let home = home.with("DATABASE_URL", url.clone());
        (home, postgres(&server, "clerk").await)
    };
    let mut stage = Stage::new(open).await;
    server.psql("postgres", WAIT).await;
    for (name, hold, deleted) in PHASES.into_iter().chain([HELD]) {
        stage.change_clerk(deleted);
        server.psql("postgres", AGED).await;
        let mut session = PgConnection::connect(&url).await.expect("a session");
        let mut begin = "BEGIN; SELECT pg_advisory_xact_lock(14)".to_owned();
        match hold {
            Hold::Request(path) => stage.controls.inject_on(path, Fault::Hang, u64::MAX),
            Hold::Reads(table) => begin = format!("BEGIN; LOCK TABLE clerk.{table}"),
            Hold::Writes(event, table, condition) => {
                let trigger = format!(
                    "CREATE TRIGGER waits BEFORE {event} ON clerk.{table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION public.wait()"
                );
                server.psql("postgres", &trigger).await;
            }
        }
        session.execute(sqlx::AssertSqlSafe(begin)).await.expect("the lock is free");
        stage.controls.forget_requests();
        let process = stage.home.start(&["reconcile"]);
        until(name, || async {
            match hold {
                Hold::Request(path) => stage.controls.requests_to(path) > 0,
                _ => server.psql("postgres", WAITING).await.trim() != "0",
            }
        })
        .await;
        let unlock = async || {
            // What the killed process had sent may still be carried out now.
            session.close().await.expect("the session ends");
            until("nothing of the killed run is left", || async {
                let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rollbook' AND state <> 'idle'";
                server.psql("postgres", left).await.trim() == "0"
            })
            .await;
            if let Hold::Writes(_, table, _) = hold {
                server.psql("postgres", &format!("DROP TRIGGER waits ON clerk.{table}")).await;
            }
            // As if the minute for which the killed process holds its lock had passed.
            server.psql("postgres", "DELETE FROM clerk.reconcile_locks").await;
        };
        stage.kill(process, name, deleted, unlock).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_killed_at_any_kind_of_request_goes_on_and_ends_equal_on_sqlite() {
    let mut stage = Stage::new(async |home: Home| {
        home.migrate();
        let store = open_sqlite(&home.data().join("store.db"));
        (home, store)
    })
    .await;
    let file = stage.home.data().join("store.db");
    for path in ["/instance", "/users/count", "/users", "/users/{id}", "/organization_memberships"] {
        stage.change_clerk(3);
        let database = rusqlite::Connection::open(&file).expect("a file");
        // A run leaves rows alone that were written a moment ago.
        database.execute("UPDATE users SET synced_at = '2026-01-01T00:00:00.000Z'", []).expect("older rows");
        drop(database);
        stage.controls.forget_requests();
        stage.controls.inject_on(path, Fault::Hang, u64::MAX);
        let process = stage.home.start(&["reconcile"]);
        until(path, || std::future::ready(stage.controls.requests_to(path) > 0)).await;
        let unlock = async || {
            let database = rusqlite::Connection::open(&file).expect("a file");
            database.busy_timeout(std::time::Duration::from_secs(10)).expect("a time limit");
            database.execute("DELETE FROM reconcile_locks", []).expect("the lock is removed");
        };
        stage.kill(process, path, 3, unlock).await;
    }
}
