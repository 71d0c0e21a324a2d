//! Shared test support: a server for each test process, a database for each test, changes to apply.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::store::{Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_postgres::{PostgresSettings, PostgresStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, event, user};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

/// Value that no error text may contain.
pub(crate) const SECRET: &str = "ImASecret";

/// Returns the server of this process. A crash of it loses nothing that the kernel has, with or without
/// `fsync`.
pub(crate) async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    let settings = [("fsync", "off"), ("log_line_prefix", "%d: ")];
    SERVER.get_or_init(|| PostgresServer::start_with(&settings)).await
}

/// Password of a role that a test creates.
pub(crate) const ROLE_PASSWORD: &str = "ImAPassword";

/// Counts the sessions of stores in this database.
pub(crate) const OURS: &str = "SELECT count(*) FROM pg_stat_activity
                               WHERE application_name = 'rollbook' AND datname = current_database()";

/// Ends these sessions and counts them.
pub(crate) const END_OURS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                                   WHERE application_name = 'rollbook' AND datname = current_database()";

pub(crate) fn settings(url: String) -> PostgresSettings {
    PostgresSettings {
        url,
        schema: "mirror_2".to_owned(),
        changes: true,
        pgbouncer: false,
        connections_max: 8,
        statement_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
    }
}

/// Separate database with the tables.
pub(crate) struct World {
    pub(crate) server: &'static PostgresServer,
    pub(crate) database: String,
    pub(crate) settings: PostgresSettings,
}

impl World {
    /// Creates a database with tables.
    pub(crate) async fn new() -> Self {
        let world = Self::empty().await;
        apply_migrations(&world.settings).await.expect("the migrations apply");
        world
    }

    /// Creates a database without tables.
    pub(crate) async fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let database = format!("app_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::empty_on(server().await, database).await
    }

    /// Creates a database with the tables on a separate server, which runs as long as the test's process.
    pub(crate) async fn alone(database: &str) -> Self {
        let server = Box::leak(Box::new(PostgresServer::start_with(&[("fsync", "off")]).await));
        let world = Self::empty_on(server, database.to_owned()).await;
        apply_migrations(&world.settings).await.expect("the migrations apply");
        world
    }

    /// Creates a database with the tables of an owner who is not a superuser. The settings are those of a
    /// worker with the documented rights.
    pub(crate) async fn with_roles() -> (Self, PostgresSettings) {
        let mut world = Self::empty().await;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ops/postgres/roles.sh");
        let (owner, worker) = (format!("owner_{}", world.database), format!("worker_{}", world.database));
        let mut command = Command::new("sh");
        command
            .arg(script)
            .envs(world.server.environment())
            .env("POSTGRES_DB", &world.database)
            .env("ROLLBOOK_SCHEMA", &world.settings.schema)
            .envs([("ROLLBOOK_OWNER", &owner), ("ROLLBOOK_WORKER", &worker)])
            .envs([("ROLLBOOK_OWNER_PASSWORD", "It's mine"), ("ROLLBOOK_WORKER_PASSWORD", ROLE_PASSWORD)]);
        // Twice: the script may be run again.
        for _ in 0..2 {
            let ran = command.output().expect("a shell");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        }
        let owner = world.with_user(&owner, "It%27s%20mine");
        apply_migrations(&owner).await.expect("the owner may migrate");
        world.settings = world.with_user(&worker, ROLE_PASSWORD);
        (world, owner)
    }

    async fn empty_on(server: &'static PostgresServer, database: String) -> Self {
        server.create_database(&database).await;
        let settings = settings(server.url(&database));
        Self { server, database, settings }
    }

    pub(crate) fn store(&self) -> Arc<PostgresStore> {
        open(&self.settings)
    }

    pub(crate) async fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql).await
    }

    /// Opens another client's session, which keeps its locks until it is released.
    pub(crate) async fn session(&self) -> Session {
        Session(PgConnection::connect(&self.settings.url).await.expect("a connection"))
    }

    /// Opens another client's session with these settings.
    pub(crate) async fn session_as(settings: &PostgresSettings) -> Session {
        Session(PgConnection::connect(&settings.url).await.expect("a connection"))
    }

    /// Makes the store keep at least this many idle connections.
    pub(crate) async fn fill(&self, store: &Arc<PostgresStore>, connections: usize) {
        let mut holder = self.session().await;
        holder.run("BEGIN; LOCK TABLE mirror_2.users").await;
        let mut calls = JoinSet::new();
        for number in 0..connections {
            let (store, change) = (Arc::clone(store), user_change(&format!("fill_{number}"), 0));
            // Each call is repeated until it gets the lock, however slow the machine and however short the
            // store's time limits.
            calls.spawn(
                async move { while store.apply_many(std::slice::from_ref(&change)).await.is_err() {} },
            );
        }
        let waiting = format!("{OURS} AND wait_event_type = 'Lock'");
        until("each call has a connection", || async {
            self.psql(&waiting).await == format!("{connections}\n")
        })
        .await;
        holder.run("COMMIT").await;
        calls.join_all().await;
    }

    /// Returns the settings with another user and this password.
    pub(crate) fn with_user(&self, user: &str, password: &str) -> PostgresSettings {
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/{}", self.server.port(), self.database);
        PostgresSettings { url, ..self.settings.clone() }
    }
}

/// See [`World::session`].
pub(crate) struct Session(PgConnection);

impl Session {
    pub(crate) async fn run(&mut self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.0).await.expect("it may do this");
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(START + 1_000_000)))
}

pub(crate) fn open(settings: &PostgresSettings) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::new(settings.clone(), clock()).expect("the settings are right"))
}

/// Returns a user's update at this time after the start, with a distinct message id.
pub(crate) fn user_change(id: &str, at: i64) -> Change {
    change_of(&format!("msg_{id}_{at}"), &event("user.updated", START + at, &user(id, START + at)))
}

/// Returns a user with this value for this key.
pub(crate) fn user_with(id: &str, key: &str, value: &Value) -> Change {
    let mut data = user(id, START);
    data[key] = value.clone();
    change_of(&format!("msg_{id}"), &event("user.updated", START, &data))
}

/// Returns whether the error says that the store is unreachable and blames no message.
pub(crate) fn is_outage(error: &StoreError) -> bool {
    matches!(error.innermost(), StoreError::Unavailable(_) | StoreError::Slow { .. })
}
