//! Triggers that affect the session for one row: they end it, or change settings for the statements that
//! follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::Registry;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Producer as _;
use rollbook_core::retry::{Reason, RetryPolicy};
use rollbook_core::store::{Store as _, StoreError};
use rollbook_core::time::Clock as _;
use rollbook_postgres::{PostgresSettings, PostgresStore, apply_migrations};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events::{START, event, organization, user};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::process::until;
use rollbook_testkit::queues::all_of;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::proxy::{Direction, Fault, FaultProxy};
use rollbook_worker::{Settings, Worker};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::{END_OURS, World, open, settings, user_change};

/// Body of a trigger for one row, and whether the statements after it fail.
const SPOILERS: [(&str, bool); 11] = [
    ("PERFORM pg_terminate_backend(pg_backend_pid());", true),
    ("SET LOCAL ROLE nobody_;", true),
    ("SET ROLE nobody_;", true),
    ("SET LOCAL transaction_read_only = on;", true),
    ("SET TRANSACTION READ ONLY;", true),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;", false),
    ("SET search_path = nowhere;", false),
    ("SET session_replication_role = replica;", false),
    ("SET theirs.tenant = 'me';", false),
    ("SET CONSTRAINTS ALL DEFERRED;", false),
    ("PERFORM pg_advisory_lock(7);", false),
];

/// Gives the users a trigger with this body, for the rows that match alone; and one that notes what the
/// session of the others is like.
async fn trigger(world: &World, condition: &str, body: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF {condition} THEN {body} END IF; RETURN NEW; END $$;
         DROP TRIGGER IF EXISTS theirs ON mirror_2.users;
         CREATE TRIGGER theirs BEFORE INSERT OR UPDATE ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION public.theirs();
         CREATE TABLE IF NOT EXISTS public.seen (id text, state text);
         CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.seen SELECT NEW.id, concat_ws(' ', current_user, session_user,
             current_setting('search_path'), current_setting('session_replication_role'),
             current_setting('transaction_read_only'), nullif(current_setting('theirs.tenant', true), ''),
             current_setting('tcp_keepalives_idle'),
             (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')); RETURN NEW; END $$;
         DROP TRIGGER IF EXISTS note ON mirror_2.users;
         CREATE TRIGGER note BEFORE INSERT OR UPDATE ON mirror_2.users FOR EACH ROW
         WHEN (NEW.id LIKE 'user_good%') EXECUTE FUNCTION public.note()"
    );
    world.psql(&sql).await;
}

pub(crate) async fn make_role(world: &World) {
    world
        .psql(
            "DO $$ BEGIN CREATE ROLE nobody_; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        )
        .await;
}

#[tokio::test]
async fn no_row_finds_the_session_as_a_trigger_left_it_for_another_and_the_others_are_applied() {
    let world = World::new().await;
    make_role(&world).await;
    trigger(&world, "NEW.id = 'user_bad'", "").await;
    let store = open(&PostgresSettings { connections_max: 1, ..world.settings.clone() });
    assert!(store.apply_many(&[user_change("user_good", 0)]).await.is_ok());
    let expected = world.psql("SELECT DISTINCT state FROM public.seen").await;
    assert!(expected.contains(" origin off ") && expected.ends_with(" 10 0\n"), "{expected}");
    for (number, (body, fails)) in (1..).zip(SPOILERS) {
        trigger(&world, "NEW.id = 'user_bad'", body).await;
        world.psql("DELETE FROM public.seen").await;
        for changes in [
            &[user_change("user_bad", number), user_change("user_good", 10 * number)][..],
            &[user_change("user_bad", 50 + number)][..],
        ] {
            let result = store.apply_many(changes).await;
            match (&result, fails) {
                (Ok(_), false) | (Err(StoreError::Ambiguous(_)), true) => {}
                // The trigger of a row after it, in the same statement, meets the changed role.
                (Err(StoreError::Event(_)), true) if changes.len() > 1 => {}
                _ => panic!("{body}: {result:?}"),
            }
        }
        world.psql("DELETE FROM public.seen").await;
        let good = store.apply_many(&[user_change("user_good", 10 * number + 1)]).await;
        assert!(good.is_ok(), "{body}: {good:?}");
        assert_eq!(world.psql("SELECT DISTINCT state FROM public.seen").await, expected, "{body}");
        assert_eq!(
            world.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await,
            "0\n",
            "{body}"
        );
    }
}

#[tokio::test]
async fn after_an_error_of_the_commit_itself_nothing_more_is_sent_and_the_session_is_kept() {
    let world = World::new().await;
    world
        .psql(
            "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'PT402'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mirror_2.users DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.id = 'user_bad') EXECUTE FUNCTION public.late()",
        )
        .await;
    let proxy = FaultProxy::start(world.server.port());
    let rollbacks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rollbacks);
    let is_rollback = |chunk: &[u8]| chunk.windows(8).any(|word| word == b"ROLLBACK");
    proxy.fail(
        Direction::ToServer,
        Fault::when(move |chunk| {
            counted.fetch_add(usize::from(is_rollback(chunk)), Ordering::SeqCst);
            None
        }),
    );
    let url = proxy.url(&world.settings.url);
    let store = open(&PostgresSettings { connections_max: 1, url, ..world.settings.clone() });
    assert!(store.apply_many(&[user_change("user_good", 0)]).await.is_ok());
    let connections = proxy.accepted();
    let refused = store.apply_many(&[user_change("user_bad", 0)]).await;
    assert!(matches!(refused, Err(StoreError::Event(_))), "{refused:?}");
    assert!(store.apply_many(&[user_change("user_good", 1)]).await.is_ok());
    assert_eq!((rollbacks.load(Ordering::SeqCst), proxy.accepted()), (0, connections));
    // An error before the COMMIT leaves a transaction to roll back.
    world.psql("ALTER TABLE mirror_2.users ADD CONSTRAINT good CHECK (id <> 'user_worse')").await;
    assert!(store.apply_many(&[user_change("user_worse", 0)]).await.is_err());
    assert!(store.apply_many(&[user_change("user_good", 2)]).await.is_ok());
    assert_eq!((rollbacks.load(Ordering::SeqCst), proxy.accepted()), (1, connections));
}

/// A worker in this process; dropping it is a crash.
fn worker(
    queue: &Arc<MemoryQueue>,
    store: &PostgresSettings,
    batch_max: usize,
    attempts_max: u32,
) -> JoinSet<()> {
    let store = PostgresStore::new(store.clone(), Arc::new(WallClock)).expect("the settings are right");
    let settings = Settings {
        batch_max,
        lease_wait: Duration::from_millis(50),
        gate_backoff: Duration::from_millis(20),
        gate_backoff_max: Duration::from_millis(200),
        retry: RetryPolicy {
            backoff: Duration::from_millis(20),
            backoff_max: Duration::from_millis(100),
            attempts_max,
        },
        ..Settings::default()
    };
    let worker =
        Worker::new(settings, Arc::clone(queue) as _, Arc::new(store), Arc::new(WallClock), &Registry::new());
    let running = worker.expect("a fresh registry").run(CancellationToken::new());
    let mut process = JoinSet::new();
    process.spawn(async move { running.await.expect("no storage breaks") });
    process
}

async fn enqueue(queue: &MemoryQueue, id: &str) {
    let body = if id.starts_with("org") {
        event("organization.updated", START, &organization(id, START))
    } else {
        event("user.updated", START, &user(id, START))
    };
    let (id, body) = (MessageId::new(format!("msg_{id}")), body.to_string().into());
    let delivery = Delivery { id, received_at: WallClock.now(), traceparent: None, body };
    all_of(queue.enqueue_many(&[delivery]).await).expect("there is room");
}

/// Enqueues good messages, each once the one before is gone, until the condition holds.
async fn traffic(queue: &MemoryQueue, mut is_over: impl FnMut() -> bool) {
    for number in 0.. {
        if is_over() {
            return;
        }
        let id = if number % 2 == 0 { format!("org_{number}") } else { format!("user_good_{number}") };
        enqueue(queue, &id).await;
        let message = MessageId::new(format!("msg_{id}"));
        until("a good message is applied", || std::future::ready(!queue.message_ids().contains(&message)))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_for_which_a_trigger_ends_or_spoils_the_session_becomes_a_dead_letter_and_all_others_are_applied()
 {
    const ATTEMPTS: u32 = 2;
    let world = World::new().await;
    make_role(&world).await;
    let of = |(number, (body, _)): (usize, &(&str, bool))| {
        format!("IF NEW.id = 'user_bad_{number}' THEN {body} END IF;")
    };
    let bodies: Vec<String> = SPOILERS.iter().filter(|(_, fails)| *fails).enumerate().map(of).collect();
    trigger(&world, "true", &bodies.concat()).await;
    let queue = Arc::new(MemoryQueue::new(1_000_000, Arc::new(WallClock)));
    for number in 0..100 {
        enqueue(&queue, &format!("user_good_first_{number}")).await;
        if number % 20 == 10 {
            enqueue(&queue, &format!("user_bad_{}", number / 20)).await;
        }
    }
    let _worker = worker(&queue, &world.settings, 100, ATTEMPTS);
    traffic(&queue, || queue.dead().len() == bodies.len()).await;
    until("the others are applied", || std::future::ready(queue.message_ids().is_empty())).await;
    for letter in queue.dead() {
        assert!(letter.id.as_str().starts_with("msg_user_bad"), "{}", letter.id);
        assert_eq!((letter.failure.reason, letter.attempts), (Reason::StoreRefused, ATTEMPTS));
    }
    let attempts = world.psql("SELECT max(attempts), count(*) >= 100 FROM mirror_2.deliveries").await;
    assert_eq!(attempts, "1|t\n", "of no other message was an attempt counted");
    let missing = world.psql("SELECT count(*) FROM mirror_2.users WHERE id LIKE 'user_bad%'").await;
    assert_eq!(missing, "0\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_ended_and_a_server_that_is_killed_and_read_only_blame_no_row() {
    let mut server = PostgresServer::start_with(&[("fsync", "off")]).await;
    server.create_database("app").await;
    let settings = settings(server.url("app"));
    apply_migrations(&settings).await.expect("the migrations apply");
    let queue = Arc::new(MemoryQueue::new(1_000_000, Arc::new(WallClock)));
    // Small batches: each message is soon alone. One attempt: any blame makes a dead letter.
    let _worker = worker(&queue, &settings, 3, 1);
    for round in 0..12 {
        for number in 0..150 {
            enqueue(&queue, &format!("user_{round}_{number}")).await;
            enqueue(&queue, &format!("org_{round}_{number}")).await;
        }
        let before = queue.message_ids().len();
        until("some are applied", || std::future::ready(queue.message_ids().len() + 30 < before)).await;
        match round % 4 {
            0 => {
                server.kill();
                server.restart().await;
            }
            1 => {
                server.psql("app", "ALTER SYSTEM SET default_transaction_read_only = on").await;
                server.psql("app", "SELECT pg_reload_conf()").await;
                until("nothing is applied", || async {
                    server.psql("app", "SHOW default_transaction_read_only").await == "on\n"
                })
                .await;
                server.psql("app", "ALTER SYSTEM RESET default_transaction_read_only").await;
                server.psql("app", "SELECT pg_reload_conf()").await;
            }
            _ => {
                for _ in 0..20 {
                    server.psql("app", END_OURS).await;
                }
            }
        }
    }
    until("all are applied", || std::future::ready(queue.message_ids().is_empty())).await;
    let dead: Vec<String> = queue.dead().into_iter().map(|letter| letter.failure.detail).collect();
    assert!(dead.is_empty(), "{dead:?}");
    assert_eq!(server.psql("app", "SELECT max(attempts) FROM mirror_2.deliveries").await, "1\n");
}
