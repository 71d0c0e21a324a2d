//! The server changes while the store has connections to it: a failover, a restart, a standby among the
//! hosts.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::store::{Rows as _, Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, PostgresStore, apply_migrations};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::proxy::{Break, Fault, FaultProxy};
use tokio::task::JoinSet;

use crate::world::{END_OURS, OURS, World, is_outage, open, settings, user_change};

const CONNECTIONS: usize = 4;

/// A primary to be replaced, its replacement, and an address that leads to either.
struct Pair {
    old: World,
    new: World,
    proxy: FaultProxy,
}

impl Pair {
    async fn start() -> Self {
        let new = World::new().await;
        let old = World::alone(&new.database).await;
        let proxy = FaultProxy::start(old.server.port());
        Self { old, new, proxy }
    }

    /// Returns a store that connects to the address.
    fn store(&self) -> Arc<PostgresStore> {
        let url = self.proxy.url(&self.old.settings.url);
        open(&PostgresSettings { url, ..self.old.settings.clone() })
    }

    /// Makes the old primary read-only, as a demoted one or one with a nearly full disk. Its sessions stay.
    async fn demote(&self) {
        self.old.psql("ALTER SYSTEM SET default_transaction_read_only = on").await;
        self.old.psql("SELECT pg_reload_conf()").await;
        until("it is read-only", || async {
            self.old.psql("SHOW default_transaction_read_only").await == "on\n"
        })
        .await;
    }

    /// From now on the address leads to the new primary.
    fn promote(&self) {
        self.proxy.set_target(self.new.server.port());
    }

    /// Returns the settings of a URL that names the hosts at these ports.
    fn hosts(&self, ports: [u16; 2]) -> PostgresSettings {
        let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
        let one = format!("127.0.0.1:{}", self.new.server.port());
        let url = self.new.settings.url.replace(&one, &hosts);
        PostgresSettings { url, ..self.new.settings.clone() }
    }
}

/// Applies a user in each of several concurrent calls. None may fail.
async fn apply_at_once(store: &Arc<PostgresStore>, name: &'static str) {
    let mut calls = JoinSet::new();
    for number in 0..CONNECTIONS {
        let store = Arc::clone(store);
        calls.spawn(async move { store.apply_many(&[user_change(&format!("{name}_{number}"), 0)]).await });
    }
    for result in calls.join_all().await {
        assert!(result.is_ok(), "{name}: {result:?}");
    }
}

async fn users(world: &World) -> usize {
    let count = world.psql("SELECT count(*) FROM mirror_2.users WHERE id LIKE 'user%'").await;
    count.trim().parse().expect("a number")
}

#[tokio::test]
async fn after_a_failover_the_next_calls_are_applied_on_the_new_primary() {
    let pair = Pair::start().await;
    let store = pair.store();
    pair.old.fill(&store, CONNECTIONS).await;
    pair.demote().await;
    pair.promote();
    apply_at_once(&store, "user").await;
    assert_eq!((users(&pair.old).await, users(&pair.new).await), (0, CONNECTIONS));
}

#[tokio::test]
async fn a_read_only_server_counts_as_unreachable_and_its_sessions_are_closed() {
    let pair = Pair::start().await;
    let store = pair.store();
    pair.old.fill(&store, CONNECTIONS).await;
    pair.demote().await;
    for result in [store.ping().await, store.apply_many(&[user_change("user_1", 0)]).await.map(drop)] {
        let Err(StoreError::Unavailable(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("the session is read-only"), "{text}");
    }
    until("no session is left", || async { pair.old.psql(OURS).await == "0\n" }).await;
    assert!(store.get(&rollbook_core::catalog::USERS, "fill_0").await.is_ok(), "what only reads goes on");
    pair.promote();
    assert_eq!(store.ping().await, Ok(()));
    apply_at_once(&store, "user").await;
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_used() {
    let pair = Pair::start().await;
    let (old, new) = (pair.old.server.port(), pair.new.server.port());
    let store = open(&pair.hosts([old, new]));
    // The first host is used while it takes writes.
    pair.old.fill(&store, CONNECTIONS).await;
    pair.demote().await;
    apply_at_once(&store, "user").await;
    assert_eq!((users(&pair.old).await, users(&pair.new).await), (0, CONNECTIONS));
    // A new store finds it at once.
    apply_at_once(&open(&pair.hosts([old, new])), "user_again").await;
    assert_eq!(pair.old.psql(OURS).await, "0\n");

    let none = open(&pair.hosts([old, old])).ping().await.expect_err("all are read-only");
    assert!(is_outage(&none) && none.to_string().contains("the session is read-only"), "{none}");
}

#[tokio::test]
async fn a_host_that_does_not_answer_leaves_the_others_their_time() {
    let pair = Pair::start().await;
    let new = pair.new.server.port();
    let settings =
        PostgresSettings { connect_timeout: Duration::from_secs(12), ..pair.hosts([pair.proxy.port(), new]) };
    pair.proxy.fail_both(Fault::after(0, Break::BlackHole));
    let store = open(&settings);
    apply_at_once(&store, "user").await;
    // The one that served last is asked first.
    let asked = pair.proxy.accepted();
    pair.new.psql(END_OURS).await;
    apply_at_once(&store, "user_again").await;
    assert_eq!(pair.proxy.accepted(), asked);
    // A host that no longer listens takes no time.
    apply_at_once(&open(&pair.hosts([1, new])), "user_too").await;
    assert_eq!(users(&pair.new).await, 3 * CONNECTIONS);
}

#[tokio::test]
async fn a_restart_between_two_calls_is_not_noticed() {
    let mut server = PostgresServer::start_with(&[("fsync", "off")]).await;
    server.create_database("app").await;
    let settings = settings(server.url("app"));
    apply_migrations(&settings).await.expect("the migrations apply");
    let store = open(&settings);
    apply_at_once(&store, "user").await;
    server.kill();
    server.restart().await;
    apply_at_once(&store, "user_again").await;
}
