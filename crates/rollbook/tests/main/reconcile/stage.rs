//! A simulated Clerk over HTTP, the real client, and a real store.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rollbook_clerk::{ApiUrl, ClerkApi as Client, ClerkSettings, SecretKey};
use rollbook_core::retry::RetryPolicy;
use rollbook_core::source::Source;
use rollbook_core::store::FullStore;
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_reconciler::{Ports, ReconcileError, Reconciler, Resume, RunReport, RunRequest, Settings};
use rollbook_simulator::api::{ClerkApi, Controls};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::state::ClerkState;
use rollbook_sqlite::{Schema, SqliteStore};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::servers::postgres::PostgresServer;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::truth::Differences;
use super::{KEY, api_settings};

/// Time limit of a request where one must hang: the others answer within milliseconds.
const HANG: Duration = Duration::from_millis(500);
/// Number of tries of the client for one request.
pub(super) const TRIES: u64 = 3;

/// A history of some dozens of objects: the table walks them some hundred times.
pub(super) fn history() -> History {
    let settings =
        HistorySettings { users: 60, organizations: 8, changes: 300, ..HistorySettings::default() };
    History::generate(&settings)
}

/// Clerk, the client and the store.
pub(super) struct World {
    _api: ClerkApi,
    url: String,
    pub(super) controls: Controls,
    pub(super) clerk: Arc<Mutex<ClerkState>>,
    pub(super) store: Arc<dyn FullStore>,
    /// Number of changes so far, for new ids and times.
    changes: u32,
}

impl World {
    pub(super) async fn new(store: Arc<dyn FullStore>) -> Self {
        let mut state = history().state();
        for id in state.ids("organization_memberships") {
            for number in 0..2 {
                let at = Timestamp::from_millis(1_785_400_000_000 + number);
                assert!(state.insert_copy("organization_memberships", &id, &format!("{id}_{number}"), at));
            }
        }
        let clerk = Arc::new(Mutex::new(state));
        let api = ClerkApi::start(clerk.clone(), api_settings()).await.expect("a port");
        let (url, controls) = (api.url(), api.controls());
        Self { _api: api, url, controls, clerk, store, changes: 0 }
    }

    /// The real client, with a key.
    pub(super) fn client(&self, key: &str) -> Arc<dyn Source> {
        let key = SecretKey::parse(key).expect("a key");
        let retries = RetryPolicy {
            backoff: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            attempts_max: u32::try_from(TRIES).expect("few"),
        };
        let url = ApiUrl::parse(&self.url).expect("a URL");
        let settings =
            ClerkSettings { url, budget: 1.0, request_timeout: HANG, retries, ..ClerkSettings::new(key) };
        Arc::new(Client::new(settings).expect("a client"))
    }

    /// A reconciler that waits for Clerk and the store as long as `patience`. Pages are small, and each is recorded.
    pub(super) fn reconciler(&self, source: Arc<dyn Source>, patience: Duration) -> Reconciler {
        let ports = Ports {
            source,
            store: self.store.clone(),
            rows: self.store.clone(),
            records: self.store.clone(),
            clock: Arc::new(WallClock),
        };
        let settings = Settings {
            page_size: 20,
            parallel: 3,
            save_every: Duration::ZERO,
            // The rows were written a moment ago.
            absence_margin: Duration::ZERO,
            patience,
            reread_pause: Duration::from_millis(20),
            ..Settings::default()
        };
        Reconciler::new(ports, settings)
    }

    pub(super) async fn run(&self, patience: Duration) -> Result<RunReport, ReconcileError> {
        self.run_with(self.client(KEY), patience).await
    }

    pub(super) async fn run_with(
        &self,
        source: Arc<dyn Source>,
        patience: Duration,
    ) -> Result<RunReport, ReconcileError> {
        // As the schedule of a worker does.
        let request = RunRequest { resume: Resume::IfUnfinished, ..RunRequest::default() };
        let reconciler = self.reconciler(source, patience);
        reconciler.run(&request, &CancellationToken::new(), watch::Sender::default()).await
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ClerkState> {
        self.clerk.lock().expect("no panic")
    }

    pub(super) async fn differences(&self) -> Differences {
        Differences::of(&self.clerk, &*self.store).await
    }

    /// Changes objects at Clerk without any webhook: deletes two users and a membership, changes a user, adds one.
    pub(super) fn change_clerk(&mut self) {
        self.changes += 1;
        let now = WallClock.now();
        let mut state = self.state();
        let ids = state.ids("users");
        for id in &ids[..2] {
            assert!(state.remove("users", id));
        }
        change_user(&mut state, &ids[2], now);
        assert!(state.insert_copy("users", &ids[3], &format!("user_zzz{:04}", self.changes), now));
        let memberships = state.ids("organization_memberships");
        assert!(state.remove("organization_memberships", &memberships[memberships.len() / 2]));
    }
}

/// Gives a user another name at Clerk, at this time.
pub(super) fn change_user(state: &mut ClerkState, id: &str, at: Timestamp) {
    let mut user = state.object("users", id).expect("a user");
    user.insert("first_name".to_owned(), format!("Ines {}", at.as_millis()).into());
    user.insert("updated_at".to_owned(), at.as_millis().into());
    assert!(state.insert("users", user));
}

/// A new store in a file.
pub(super) fn sqlite() -> (TempDir, Arc<dyn FullStore>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db");
    rollbook_sqlite::apply_migrations(&file, Schema::Store).expect("the migrations apply");
    let store = open_sqlite(&file);
    (folder, store)
}

/// The store in this file.
pub(super) fn open_sqlite(file: &Path) -> Arc<dyn FullStore> {
    Arc::new(SqliteStore::open(file, Arc::new(WallClock)).expect("the store opens"))
}

/// Settings of a store in a schema.
pub(super) fn postgres_settings(server: &PostgresServer, schema: &str) -> PostgresSettings {
    PostgresSettings {
        url: server.url("postgres"),
        schema: schema.to_owned(),
        pgbouncer: false,
        connections_max: 8,
        statement_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
        changes: true,
    }
}

/// A new store in a schema of this server.
pub(super) async fn postgres(server: &PostgresServer, schema: &str) -> Arc<dyn FullStore> {
    let settings = postgres_settings(server, schema);
    rollbook_postgres::apply_migrations(&settings).await.expect("the migrations apply");
    Arc::new(PostgresStore::new(settings, Arc::new(WallClock)).expect("the settings are right"))
}
