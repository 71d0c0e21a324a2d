//! Faults of the network between the store and Postgres: dropped connections, lost packets, resets at any
//! byte. And a server that is stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rollbook_core::change::Change;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{Ledger as _, Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_testkit::process::{DEADLINE, until};
use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::world::{World, is_outage, open, user_change};

const CONNECTIONS: usize = 4;
/// Age from which an idle connection is checked.
const IDLE: Duration = Duration::from_millis(1_100);
/// Time limit of a connection and of a statement, for tests that wait for both.
const SHORT: Duration = Duration::from_secs(2);

/// A database with a proxy before its server, in which each write of a user's row leaves a line in `fired`.
struct Network {
    world: World,
    proxy: FaultProxy,
    settings: PostgresSettings,
}

impl Network {
    async fn start() -> Self {
        let world = World::new().await;
        world
            .psql(
                "CREATE TABLE fired (id text);
                 CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.fired VALUES (NEW.id); RETURN NEW; END $$;
                 CREATE TRIGGER note AFTER INSERT OR UPDATE ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION note()",
            )
            .await;
        let proxy = FaultProxy::start(world.server.port());
        let url = proxy.url(&world.settings.url);
        let max = u32::try_from(CONNECTIONS).expect("few");
        let settings = PostgresSettings { url, connections_max: max, ..world.settings.clone() };
        Self { world, proxy, settings }
    }

    /// Returns a store with short time limits.
    fn impatient(&self) -> Arc<PostgresStore> {
        open(&PostgresSettings { statement_timeout: SHORT, connect_timeout: SHORT, ..self.settings.clone() })
    }

    /// Returns the ids that a statement selects, with repetitions.
    async fn ids(&self, sql: &str) -> Vec<String> {
        self.world.psql(sql).await.lines().map(str::to_owned).collect()
    }

    async fn fired(&self, id: &str) -> usize {
        self.ids(&format!("SELECT id FROM fired WHERE id = '{id}'")).await.len()
    }
}

/// Number of connections that this process has to a port of 127.0.0.1.
fn connections_to(port: u16) -> usize {
    let files = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let sockets: BTreeSet<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    // The table lists the connections of all processes.
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    let remote = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let to_port = rows.filter(|fields| fields[2].ends_with(&remote));
    to_port.filter(|fields| sockets.contains(&format!("socket:[{}]", fields[9]))).count()
}

/// Applies one user in each of `count` calls at once.
async fn apply_at_once(store: &Arc<PostgresStore>, name: &str, count: usize) -> Vec<Result<(), StoreError>> {
    let mut calls = JoinSet::new();
    for number in 0..count {
        let (store, change) = (Arc::clone(store), user_change(&format!("{name}_{number}"), 0));
        calls.spawn(async move { store.apply_many(&[change]).await.map(drop) });
    }
    calls.join_all().await
}

#[tokio::test]
async fn idle_connections_that_the_network_dropped_cause_no_error() {
    let network = Network::start().await;
    let store = open(&network.settings);
    network.world.fill(&store, CONNECTIONS).await;
    // The server's clock decides.
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'idle'
            AND state_change < clock_timestamp() - interval '{} ms'",
        IDLE.as_millis()
    );
    until("all connections are idle for long enough", || async {
        network.world.psql(&idle).await.trim().parse::<usize>().is_ok_and(|count| count >= CONNECTIONS)
    })
    .await;
    network.proxy.forget();
    let started = Instant::now();
    let results = apply_at_once(&store, "user", CONNECTIONS).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(started.elapsed() < network.settings.connect_timeout, "they waited for a time-out of a call");
}

#[tokio::test]
async fn busy_connections_that_the_network_forgets_cost_one_call_and_no_other() {
    let network = Network::start().await;
    let settings =
        PostgresSettings { statement_timeout: SHORT, connect_timeout: 2 * SHORT, ..network.settings.clone() };
    let store = open(&settings);
    network.world.fill(&store, CONNECTIONS).await;
    network.proxy.forget();
    // Too young to be checked, unless the machine is slow.
    if let Err(error) = store.apply_many(&[user_change("user_1", 0)]).await {
        assert!(is_outage(&error) && error.to_string().contains("no answer within 10s"), "{error}");
    }
    let results = apply_at_once(&store, "user", CONNECTIONS).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn a_commit_with_a_lost_answer_is_made_once_and_reported_as_done() {
    let network = Network::start().await;
    let store = open(&network.settings);
    assert!(store.apply_many(&[user_change("user_1", 0)]).await.is_ok());
    let lose_one = || {
        let lost = AtomicBool::new(false);
        let is_commit = |chunk: &[u8]| chunk.windows(6).any(|word| word == b"COMMIT");
        Fault::when(move |chunk| {
            (is_commit(chunk) && !lost.swap(true, Ordering::Relaxed)).then_some(Break::LoseAnswer)
        })
    };
    network.proxy.fail(Direction::ToServer, lose_one());
    assert!(store.apply_many(&[user_change("user_2", 0)]).await.is_ok());
    // On a connection that was not used before, the caller gets the error and repeats the call.
    network.proxy.fail(Direction::ToServer, lose_one());
    let store = open(&network.settings);
    let error = store.apply_many(&[user_change("user_3", 0)]).await.expect_err("the answer is lost");
    assert!(is_outage(&error) && error.to_string().contains("the connection broke"), "{error}");
    assert!(store.apply_many(&[user_change("user_3", 0)]).await.is_ok());
    assert_eq!(network.proxy.broken(), 2);

    for id in ["user_2", "user_3"] {
        assert_eq!(network.fired(id).await, 1, "{id}");
        let line = store.delivery(&MessageId::new(format!("msg_{id}_0"))).await;
        assert!(line.expect("the ledger answers").is_some());
    }
    // Control: a second write would be detected.
    network.world.psql("UPDATE mirror_2.users SET username = username WHERE id = 'user_2'").await;
    assert_eq!(network.fired("user_2").await, 2);
}

const WORKERS: usize = 4;
const BATCHES: usize = 30;
const BATCH: usize = 4;
/// Maximum bytes in each direction after which a connection breaks: some batches, or less.
const BYTES_MAX: u64 = 40_000;

/// Result of a run through a network that resets connections.
#[derive(Debug, PartialEq, Eq)]
struct Audit {
    /// Number of users that were reported as applied and are missing.
    lost: usize,
    /// Number of users that exist and were never sent.
    unexpected: usize,
    /// Number of writes of rows beyond the first of each.
    doubled: usize,
}

/// Applies batches through connections that are reset at random bytes, each until it is reported as done. A
/// client that is `hasty` takes a failure for that, too.
async fn reset_at_random(hasty: bool) -> Audit {
    let network = Network::start().await;
    let store = open(&network.settings);
    network.world.fill(&store, CONNECTIONS).await;
    network.proxy.fail_both(Fault::within(BYTES_MAX, Break::Reset));
    let failures = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (store, failures) = (Arc::clone(&store), Arc::clone(&failures));
        workers.spawn(async move {
            let mut done = Vec::new();
            for batch in 0..BATCHES {
                let users: Vec<String> =
                    (0..BATCH).map(|number| format!("user_{worker}_{batch}_{number}")).collect();
                let changes: Vec<Change> = users.iter().map(|id| user_change(id, 0)).collect();
                let started = Instant::now();
                while let Err(error) = store.apply_many(&changes).await {
                    assert!(is_outage(&error), "an outage is blamed on: {error}");
                    assert!(started.elapsed() < DEADLINE, "{error}");
                    failures.fetch_add(1, Ordering::Relaxed);
                    if hasty {
                        break;
                    }
                }
                done.extend(users);
            }
            done
        });
    }
    let done: BTreeSet<String> = workers.join_all().await.concat().into_iter().collect();
    assert!(network.proxy.broken() > BATCHES, "{} resets in all", network.proxy.broken());
    assert!(failures.load(Ordering::Relaxed) > 0, "no reset reached a caller");
    network.proxy.heal();

    let rows = network.ids("SELECT id FROM mirror_2.users WHERE id LIKE 'user%'").await;
    let rows: BTreeSet<String> = rows.into_iter().collect();
    let fired = network.ids("SELECT id FROM fired WHERE id LIKE 'user%'").await;
    let ledger =
        network.ids("SELECT subject_id FROM mirror_2.deliveries WHERE subject_id LIKE 'user%'").await;
    let ledger: BTreeSet<String> = ledger.into_iter().collect();
    assert_eq!(rows, ledger, "rows and ledger are one transaction");
    Audit {
        lost: done.difference(&rows).count(),
        unexpected: rows.difference(&done).count(),
        doubled: fired.len() - rows.len(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_at_random_bytes_of_either_direction_lose_nothing_and_write_nothing_twice() {
    assert_eq!(reset_at_random(false).await, Audit { lost: 0, unexpected: 0, doubled: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_of_resets_sees_the_loss_of_a_client_that_takes_a_failure_for_an_answer() {
    let audit = reset_at_random(true).await;
    assert!(audit.lost > 0 && audit.unexpected == 0, "{audit:?}");
}

/// Calls during an outage in which nothing answers and nothing is refused: each ends in time and blames no
/// message, and the number of connections stays within its limit.
async fn assert_bounded(store: &Arc<PostgresStore>, port: u16) {
    // For a wait for a connection, and a new one, and a statement.
    let limit = 3 * SHORT;
    for round in 0..2 {
        let (store, started) = (Arc::clone(store), Instant::now());
        let mut calls = JoinSet::new();
        for number in 0..3 * CONNECTIONS {
            let store = Arc::clone(&store);
            let change = user_change(&format!("outage_{round}_{number}"), 0);
            calls.spawn(async move { store.apply_many(&[change]).await });
        }
        let (mut open_most, mut samples) = (0, interval(Duration::from_millis(20)));
        while !calls.is_empty() {
            tokio::select! {
                Some(result) = calls.join_next() => {
                    let error = result.expect("a call").expect_err("nothing answers");
                    assert!(is_outage(&error), "{error}");
                }
                _ = samples.tick() => open_most = open_most.max(connections_to(port)),
            }
        }
        assert!((1..=CONNECTIONS).contains(&open_most), "{open_most} connections at once");
        assert!(started.elapsed() < 4 * limit, "{:?}", started.elapsed());
    }
}

/// Asserts that all connections can be used again: none is held by a call that was given up.
async fn assert_recovers(store: &Arc<PostgresStore>, world: &World) {
    until("it answers again", || async { store.ping().await.is_ok() }).await;
    world.fill(store, CONNECTIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_without_a_reset_ends_calls_in_time_and_holds_no_connection() {
    let network = Network::start().await;
    let store = network.impatient();
    network.world.fill(&store, CONNECTIONS).await;
    network.proxy.fail_both(Fault::after(0, Break::BlackHole));
    assert_bounded(&store, network.proxy.port()).await;
    network.proxy.heal();
    assert_recovers(&store, &network.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_ends_calls_in_time_and_is_used_when_it_goes_on() {
    let world = World::alone("app").await;
    let max = u32::try_from(CONNECTIONS).expect("few");
    let store = open(&PostgresSettings {
        connections_max: max,
        statement_timeout: SHORT,
        connect_timeout: SHORT,
        ..world.settings.clone()
    });
    world.fill(&store, CONNECTIONS).await;
    world.server.signal("STOP");
    assert_bounded(&store, world.server.port()).await;
    world.server.signal("CONT");
    let started = Instant::now();
    assert_recovers(&store, &world).await;
    println!("used again {:?} after it went on", started.elapsed());
}
