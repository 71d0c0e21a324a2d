//! Random histories through two concurrent workers, compared with an oracle that shares no code with the
//! merge: the state of the simulated Clerk. One worker goes through a `PgBouncer`, the other through a
//! network that loses the answers of commits. Workers are killed, the bouncer too; one table has a slow
//! trigger, one row is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Producer as _;
use rollbook_core::retry::{Reason, RetryPolicy};
use rollbook_core::store::Rows as _;
use rollbook_core::time::Clock as _;
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::truth::Comparison;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::process::until;
use rollbook_testkit::queues::all_of;
use rollbook_testkit::servers::pgbouncer::PgBouncer;
use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
use rollbook_worker::{Settings, Worker};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::{World, settings};

const CHANGES: usize = 900;
/// Number of parts in which the history is sent, with a fault in each.
const PARTS: usize = 6;

/// Refused row: the id of a membership, and the messages about it.
struct Refused {
    subject: String,
    messages: BTreeSet<MessageId>,
}

impl Refused {
    fn choose(history: &History) -> Self {
        let memberships: Vec<(String, &MessageId)> = history
            .events
            .iter()
            .filter(|event| event.event_type.starts_with("organizationMembership."))
            .map(|event| {
                let body: serde_json::Value = serde_json::from_slice(&event.body).expect("an event is JSON");
                (body["data"]["id"].as_str().expect("a subject").to_owned(), &event.id)
            })
            .collect();
        let subject = memberships[memberships.len() / 2].0.clone();
        let about = memberships.iter().filter(|(id, _)| *id == subject);
        Self { messages: about.map(|(_, message)| (*message).clone()).collect(), subject }
    }
}

/// Returns the number of subjects that would be wrong if the event that arrives last won.
fn wrong_by_arrival(history: &History, order: &[usize]) -> usize {
    let subject = |event: usize| {
        let body: serde_json::Value = serde_json::from_slice(&history.events[event].body).expect("JSON");
        body["data"]["id"].as_str().map(str::to_owned)
    };
    let (mut last, mut latest) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    for event in order {
        last.insert(subject(*event), *event);
        let latest = latest.entry(subject(*event)).or_insert(*event);
        *latest = (*latest).max(*event);
    }
    last.iter().filter(|(subject, event)| latest[*subject] != **event).count()
}

/// A worker on this store: dropping it is a crash.
fn worker(queue: &Arc<MemoryQueue>, store: &PostgresSettings) -> JoinSet<()> {
    let store = PostgresStore::new(store.clone(), Arc::new(WallClock)).expect("the settings are right");
    let settings = Settings {
        lease_for: Duration::from_secs(6),
        lease_wait: Duration::from_millis(50),
        gate_backoff: Duration::from_millis(50),
        gate_backoff_max: Duration::from_millis(500),
        retry: RetryPolicy {
            backoff: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
            attempts_max: 12,
        },
        ..Settings::default()
    };
    let queue = Arc::clone(queue);
    let worker = Worker::new(settings, queue, Arc::new(store), Arc::new(WallClock), &Registry::new());
    let running = worker.expect("a fresh registry").run(CancellationToken::new());
    let mut process = JoinSet::new();
    process.spawn(async move { running.await.expect("no storage breaks") });
    process
}

async fn enqueue(queue: &MemoryQueue, history: &History, part: &[usize]) {
    for number in part {
        let event = &history.events[*number];
        let (id, body) = (event.id.clone(), event.body.clone());
        let delivery = Delivery { id, received_at: WallClock.now(), traceparent: None, body };
        all_of(queue.enqueue_many(&[delivery]).await).expect("there is room");
    }
}

async fn compare(store: &PostgresStore, history: &History) -> Comparison {
    let mut rows = Vec::new();
    for resource in RESOURCES {
        let all = store.rows(resource, None, 1_000_000).await.expect("the store lists rows");
        rows.extend(all.into_iter().map(|row| (resource.table, row)));
    }
    history.truth.compare(rows.into_iter())
}

/// The trigger's `pg_sleep` is the fault that is tested: a slow trigger. Nothing waits by it.
async fn make_trouble(world: &World, refused: &Refused) {
    world
        .psql(&format!(
            "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON mirror_2.users FOR EACH ROW
             EXECUTE FUNCTION public.slow();
             CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'PT402'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON mirror_2.organization_memberships FOR EACH ROW
             WHEN (NEW.id = '{}') EXECUTE FUNCTION public.refuse()",
            refused.subject
        ))
        .await;
}

/// Every fifth commit reaches the server, and its answer is lost.
fn lose_commits(proxy: &FaultProxy) {
    let is_commit = |chunk: &[u8]| chunk.windows(6).any(|word| word == b"COMMIT");
    let judge = move |chunk: &[u8]| (is_commit(chunk) && fastrand::u8(..5) == 0).then_some(Break::LoseAnswer);
    proxy.fail(Direction::ToServer, Fault::when(judge));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_with_faults_end_in_the_state_of_the_simulated_clerk() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let of = HistorySettings {
        seed,
        users: 60,
        organizations: 12,
        changes: CHANGES,
        ..HistorySettings::default()
    };
    let history = History::generate(&of);
    let order = history.schedule(seed, 250);
    let refused = Refused::choose(&history);
    let world = World::new().await;
    make_trouble(&world, &refused).await;
    let mut bouncer = PgBouncer::start(world.server).await;
    let proxy = FaultProxy::start(world.server.port());
    let timeout = Duration::from_secs(1);
    let through_bouncer = PostgresSettings {
        pgbouncer: true,
        statement_timeout: timeout,
        ..settings(bouncer.url(&world.database))
    };
    let through_proxy =
        PostgresSettings { statement_timeout: timeout, ..settings(proxy.url(&world.settings.url)) };
    lose_commits(&proxy);

    let queue = Arc::new(MemoryQueue::new(1_000_000, Arc::new(WallClock)));
    let waiting = || queue.message_ids().len();
    let mut workers = [worker(&queue, &through_bouncer), worker(&queue, &through_proxy)];
    for (number, part) in order.chunks(order.len().div_ceil(PARTS)).enumerate() {
        enqueue(&queue, &history, part).await;
        let before = waiting();
        until("the workers get on", || std::future::ready(waiting() < before.div_ceil(2) + 1)).await;
        let (killed, way) = [(0, &through_bouncer), (1, &through_proxy)][number % 2];
        workers[killed].abort_all();
        if number % 3 == 2 {
            bouncer.kill();
            bouncer.restart().await;
        }
        workers[killed] = worker(&queue, way);
    }
    until("everything is applied or a dead letter", || std::future::ready(waiting() == 0)).await;
    let store = world.store();
    until("what is left of cascades is worked off", || async {
        let left = store.cascades(None, 0).await.expect("the store answers");
        (left.parents, left.rows) == (0, 0)
    })
    .await;
    drop(workers);
    assert!(proxy.broken() >= 3, "seed {seed}: answers of commits were lost: {}", proxy.broken());
    assert!(wrong_by_arrival(&history, &order) >= 20, "seed {seed}: the order of arrival matters");
    verdict(&world, &queue, &history, &refused, seed).await;
}

/// Asserts that everything but the refused row is right. As a control, a wrong row must be detected.
async fn verdict(world: &World, queue: &MemoryQueue, history: &History, refused: &Refused, seed: u64) {
    let dead: BTreeSet<MessageId> = queue.dead().iter().map(|letter| letter.id.clone()).collect();
    let reasons: BTreeSet<Reason> = queue.dead().iter().map(|letter| letter.failure.reason).collect();
    assert_eq!(dead, refused.messages, "seed {seed}: the refused row's messages and no others: {reasons:?}");
    assert_eq!(reasons, BTreeSet::from([Reason::StoreRefused]), "seed {seed}");
    let store = world.store();
    let comparison = compare(&store, history).await;
    let missing = vec![("organization_memberships", refused.subject.clone())];
    assert_eq!((&comparison.missing, comparison.unexpected.len()), (&missing, 0), "seed {seed}");
    assert_eq!(comparison.different, [], "seed {seed}");

    world.psql("DROP TRIGGER slow ON mirror_2.users").await;
    let outdate = "UPDATE mirror_2.users SET first_name = 'of an older event'
                   WHERE id = (SELECT min(id) FROM mirror_2.users WHERE deleted_at IS NULL)";
    world.psql(outdate).await;
    assert_eq!(compare(&store, history).await.different.len(), 1, "seed {seed}");
}
