//! Stores under the API. The store on Postgres is written by another process's store: its readers wait for notifications.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock as _;
use rollbook_postgres::{PostgresSettings, PostgresStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::servers::postgres::PostgresServer;
use tokio::sync::OnceCell;

const SCHEMA: &str = "mirror_2";

/// Kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Memory,
    Postgres,
}

/// Makes each test once for each kind of store.
#[macro_export]
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::engine::Engine::Memory).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::engine::Engine::Postgres).await;
            })*
        }
    };
}

/// A store under the API.
pub(crate) struct Backing {
    /// Store of the process that writes.
    pub(crate) writer: Arc<dyn FullStore>,
    /// Store of the process with the API.
    pub(crate) reader: Arc<dyn FullStore>,
    clock: Arc<ManualClock>,
    database: Option<String>,
}

/// Returns the server of this process.
async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(|| PostgresServer::start_with(&[("fsync", "off")])).await
}

/// Returns the settings of a database on a server.
pub(crate) fn settings(server: &PostgresServer, database: &str) -> PostgresSettings {
    PostgresSettings {
        url: server.url(database),
        schema: SCHEMA.to_owned(),
        changes: true,
        pgbouncer: false,
        connections_max: 8,
        statement_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(5),
    }
}

impl Engine {
    pub(crate) async fn open(self, clock: Arc<ManualClock>) -> Backing {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if self == Self::Memory {
            let store = Arc::new(MemoryStore::new(clock.clone()));
            return Backing { writer: store.clone(), reader: store, clock, database: None };
        }
        let database = format!("app_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let server = server().await;
        server.create_database(&database).await;
        let backing = Backing::on(server, &database, clock).await;
        Backing { database: Some(database), ..backing }
    }
}

impl Backing {
    /// Makes the tables in a database of this server.
    pub(crate) async fn on(server: &PostgresServer, database: &str, clock: Arc<ManualClock>) -> Self {
        let settings = settings(server, database);
        apply_migrations(&settings).await.expect("the migrations apply");
        let open =
            || Arc::new(PostgresStore::new(settings.clone(), clock.clone()).expect("the settings are right"));
        Self { writer: open(), reader: open(), clock, database: None }
    }

    /// Applies a change, and gives its line a position.
    pub(crate) async fn apply(&self, change: Change) {
        self.writer.apply_many(&[change]).await.expect("the store applies");
        while self.writer.sequence().await.expect("it gives positions").has_more {}
        if let Some(database) = &self.database {
            // Lines have the server's time. The tests' times are those of their clock.
            let sql = format!(
                "UPDATE {SCHEMA}.changes SET at = 'epoch'::timestamptz + {} * interval '1 millisecond'
                 WHERE position = (SELECT last_position FROM {SCHEMA}.changes_state)",
                self.clock.now().as_millis()
            );
            server().await.psql(database, &sql).await;
        }
    }
}
