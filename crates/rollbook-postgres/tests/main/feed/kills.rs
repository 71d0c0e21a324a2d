//! Concurrent workers, random histories and crashes: every committed change has one line, in order, and no reader misses one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rollbook_core::catalog::USERS;
use rollbook_core::change::Change;
use rollbook_core::store::{
    Changes as _, ChangesQuery, Erasure as _, Position, Store as _, WAITING_COUNTED_MAX,
};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresStore;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};
use rollbook_testkit::feed_audit;
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use super::{assert_feed_is_audited, ids, lines, sequence, workers};
use crate::world::{END_OURS, World, open, user_change};

const WORKERS: usize = 4;
const BATCHES: usize = 20;
const BATCH: usize = 25;

/// A change of one of few subjects: most batches meet on some of them, and parents are deleted.
fn change(random: &mut fastrand::Rng, number: usize) -> Change {
    let (subject, at) = (random.u32(..12), random.i64(0..400));
    let [user_id, organization_id] = ["user", "org"].map(|object| format!("{object}_{subject}"));
    let body = match random.u32(..12) {
        0 if at > 380 => event("user.deleted", START + at, &deleted("user", &user_id)),
        1 if at > 380 => {
            event("organization.deleted", START + at, &deleted("organization", &organization_id))
        }
        0..=4 => {
            let mut data = user(&user_id, START + at);
            data["first_name"] = format!("name {}", at % 5).into();
            event("user.updated", START + at, &data)
        }
        5..=7 => event("organization.updated", START + at, &organization(&organization_id, START + at)),
        _ => {
            let id = format!("orgmem_{subject}");
            let mut data = membership(&id, &organization_id, &user_id, START + at);
            data["role"] = format!("org:role_{}", at % 3).into();
            event("organizationMembership.updated", START + at, &data)
        }
    };
    change_of(&format!("msg_{number}_{}", random.u64(..)), &body)
}

/// Applies batches, each until it is applied: a killed worker's messages go to another one.
async fn work(stores: Vec<Arc<PostgresStore>>, mut random: fastrand::Rng, done: Arc<AtomicUsize>) {
    for number in 0..BATCHES {
        let batch: Vec<Change> = (0..BATCH).map(|_| change(&mut random, number)).collect();
        loop {
            let store = &stores[random.usize(..stores.len())];
            // A worker that is killed drops its connection in the middle of anything.
            let is_killed = random.u32(..4) == 0;
            let limit = Duration::from_millis(if is_killed { random.u64(1..100) } else { 20_000 });
            if let Ok(Ok(_)) = tokio::time::timeout(limit, store.apply_many(&batch)).await {
                break;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Gives positions and works off cascades whenever its process may have left some, and is killed now and then.
async fn sequencer(store: Arc<PostgresStore>, mut random: fastrand::Rng) {
    loop {
        let limit = Duration::from_millis(if random.bool() { random.u64(1..60) } else { 20_000 });
        _ = tokio::time::timeout(limit, store.sequence()).await;
        if random.u32(..10) == 0 {
            _ = tokio::time::timeout(limit, store.cascade()).await;
        }
        store.sequence_pending().await;
    }
}

/// Reads from its position on, forgets all but the position at each failure, and collects what it saw.
async fn reader(store: Arc<PostgresStore>, last: Arc<AtomicBool>) -> Vec<(Position, String)> {
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let is_last = last.load(Ordering::Relaxed);
        let query = ChangesQuery { after, limit: 7, ..ChangesQuery::default() };
        if let Ok(page) = store.changes(&query).await {
            for line in page.lines {
                assert_eq!(line.position, after + 1, "positions are consecutive");
                after = line.position;
                seen.push((line.position, line.subject_id));
            }
            if is_last && after == page.last {
                return seen;
            }
        }
        _ = store.wait_for_change(after, Duration::from_millis(20)).await;
    }
}

/// Runs workers, sequencers and a reader, and `chaos` at the same time, until all is applied. Then compares the feed with the audit.
async fn survives<F: Future<Output = ()>>(world: &World, chaos: impl FnOnce(Arc<AtomicUsize>) -> F) {
    world.psql(&feed_audit::triggers(&world.settings.schema)).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let last = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let (mut applying, mut sequencing) = (JoinSet::new(), JoinSet::new());
    let stores = workers(world, WORKERS);
    for _ in 0..WORKERS {
        applying.spawn(work(stores.clone(), random.fork(), Arc::clone(&done)));
    }
    for store in &stores {
        sequencing.spawn(sequencer(Arc::clone(store), random.fork()));
    }
    let mut reading = JoinSet::new();
    reading.spawn(reader(world.store(), Arc::clone(&last)));
    tokio::join!(chaos(done), async { while applying.join_next().await.is_some() {} });
    sequencing.shutdown().await;
    let store = world.store();
    while store.cascade().await.expect("cascades").due_in.is_some_and(|due_in| due_in.is_zero()) {}
    sequence(&store).await;
    last.store(true, Ordering::Relaxed);
    let read = reading.join_all().await.concat();
    assert_feed_is_audited(world).await;
    let all = lines(&store, 0).await;
    let all: Vec<(Position, String)> = all.into_iter().map(|line| (line.position, line.subject_id)).collect();
    assert_eq!(read, all, "the reader saw every line once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_with_sessions_that_end_at_any_time_record_every_change_once_in_order() {
    let world = World::new().await;
    survives(&world, |done| {
        let world = &world;
        async move {
            // By progress and not by time, so that work goes on however slow the machine is.
            for ends in 1..=WORKERS * BATCHES / 4 {
                let enough = || std::future::ready(done.load(Ordering::Relaxed) >= ends * 4);
                until("some batches are applied", enough).await;
                world.psql(END_OURS).await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_process_that_is_killed_loses_no_change_and_doubles_none() {
    // Postgres restarts all its processes after one of them was killed: every session ends, what is not committed is gone.
    let world = World::alone("feed_kills").await;
    survives(&world, |done| {
        let world = &world;
        async move {
            for kills in 1..=3 {
                let enough =
                    || std::future::ready(done.load(Ordering::Relaxed) >= kills * WORKERS * BATCHES / 5);
                until("some batches are applied", enough).await;
                let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'rollbook' LIMIT 1";
                let pid = world.psql(pid).await;
                let killed = std::process::Command::new("kill").args(["-9", pid.trim()]).status();
                assert!(killed.expect("kill runs").success());
                until("the server answers again", || async { world.store().ping().await.is_ok() }).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_stays_open_holds_up_no_other_change_and_comes_later_in_order() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[user_change("user_1", 0), user_change("user_2", 0)]).await.expect("applied");
    assert_eq!(lines(&store, 0).await.len(), 2);
    // A statement of the owner: its line has a number already.
    let mut open = world.session().await;
    open.run("BEGIN; UPDATE mirror_2.users SET locked = NOT locked WHERE id = 'user_1'").await;
    let mut long = world.session().await;
    long.run(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(), count(*) FROM mirror_2.users",
    )
    .await;
    store.apply_many(&[user_change("user_2", 5), user_change("user_3", 5)]).await.expect("applied");
    assert_eq!(ids(&lines(&store, 2).await), ["user_2", "user_3"]);
    open.run("COMMIT").await;
    store.apply_many(&[user_change("user_1", 9)]).await.expect("applied");
    let later = lines(&store, 4).await;
    assert_eq!(ids(&later), ["user_1", "user_1"]);
    assert_eq!(
        (later[0].origin.as_str(), later[0].changed.as_slice(), later[0].cause.as_deref()),
        ("other", &["locked".to_owned()][..], None)
    );
    assert_eq!((later[1].origin.as_str(), later[1].cause.as_deref()), ("webhook", Some("msg_user_1_9")));
    long.run("ROLLBACK").await;
}

/// A control too: the oldest transaction of the whole server, which some feeds wait for, is that of the other database.
#[tokio::test]
async fn a_transaction_that_stays_open_in_another_database_holds_up_no_change() {
    let (world, other) = (World::new().await, World::empty().await);
    let mut long = other.session().await;
    long.run("BEGIN; CREATE TABLE public.theirs (id int); SELECT pg_current_xact_id()").await;
    let store = world.store();
    store.apply_many(&[user_change("user_1", 0), user_change("user_2", 0)]).await.expect("applied");
    assert_eq!(ids(&lines(&store, 0).await), ["user_1", "user_2"]);
    let is_held_back = format!(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8 <= max(backend_xid::text::int8)
         FROM pg_stat_activity WHERE datname = '{}'",
        other.database
    );
    assert_eq!(world.psql(&is_held_back).await, "t\n", "a feed that waits for it would have nothing yet");
    long.run("ROLLBACK").await;
}

/// Control: what a reader would miss who remembers the number of a bare sequence.
#[tokio::test]
async fn a_reader_of_a_bare_sequence_would_miss_a_change() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    lines(&store, 0).await;
    let mut open = world.session().await;
    open.run("BEGIN; UPDATE mirror_2.users SET locked = NOT locked WHERE id = 'user_1'").await;
    store.apply_many(&[user_change("user_2", 0)]).await.expect("applied");
    let numbers = "SELECT string_agg(number::text || ' ' || subject_id, ', ' ORDER BY number) FROM mirror_2.changes_pending";
    let seen = world.psql(numbers).await;
    open.run("COMMIT").await;
    let (last, _) = seen.split_once(' ').expect("one line is visible");
    let after = format!("SELECT count(*) FROM mirror_2.changes_pending WHERE number > {last}");
    assert_eq!(
        (seen.ends_with("user_2\n"), world.psql(&after).await.as_str()),
        (true, "0\n"),
        "it never sees user_1"
    );
    assert_eq!(ids(&lines(&store, 1).await), ["user_1", "user_2"], "the feed has both");
}

#[tokio::test]
async fn ten_thousand_pending_lines_get_their_positions_in_steps_within_a_short_statement_timeout() {
    let world = World::new().await;
    let mut settings = world.settings.clone();
    settings.statement_timeout = Duration::from_millis(500);
    let store = open(&settings);
    world
        .psql(
            "INSERT INTO mirror_2.changes_pending (resource, subject_id, kind, changed, origin)
             SELECT 'users', 'user_' || n, 'updated', '{data}', 'webhook' FROM generate_series(1, 10000) AS n",
        )
        .await;
    store.apply_many(&[user_change("user_last", 0)]).await.expect("applied");
    assert_eq!(
        store.feed().await.expect("a feed").waiting,
        WAITING_COUNTED_MAX,
        "one more waits than is counted"
    );
    let since = std::time::Instant::now();
    let mut found = lines(&store, 0).await;
    assert_eq!(found.pop().map(|line| line.subject_id).as_deref(), Some("user_last"));
    println!("10,000 lines in {:?}", since.elapsed());
    assert!(found.iter().zip(1..).all(|(line, number)| line.subject_id == format!("user_{number}")));
    assert_eq!(found.len(), 10_000);
}

#[tokio::test]
async fn an_erasure_by_another_process_gets_its_position_at_the_next_look() {
    let world = World::new().await;
    let (worker, operator) = (world.store(), world.store());
    worker.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    sequence(&worker).await;
    operator
        .erase(&[(&USERS, "user_1".to_owned())], Timestamp::from_millis(START + 9))
        .await
        .expect("erased");
    let state = worker.feed().await.expect("a feed");
    assert!(
        state.waiting_for.is_some() && state.waiting == 1,
        "a line waits, and doctor can see it: {state:?}"
    );
    let found = lines(&worker, 1).await;
    assert_eq!((ids(&found), found[0].kind.as_str()), (vec!["user_1"], "erased"));
    let state = worker.feed().await.expect("a feed");
    assert_eq!((state.waiting_for, state.waiting), (None, 0));
}

#[tokio::test]
async fn dead_lines_that_a_long_transaction_keeps_are_not_read_again_and_again() {
    let world = World::new().await;
    let store = world.store();
    let mut long = world.session().await;
    long.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM mirror_2.users").await;
    let insert = "INSERT INTO mirror_2.changes_pending (resource, subject_id, kind, changed, origin)
                  SELECT 'users', 'user_' || n, 'updated', '{data}', 'webhook' FROM generate_series(1, 20000) AS n";
    world.psql(insert).await;
    sequence(&store).await;
    let read =
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE indexrelname = 'changes_pending_pkey'";
    let count = async || world.psql(read).await.trim().parse::<u64>().expect("a number");
    // The server counts what a session has read at the latest when that ends: a store of its own for the steps.
    world.psql(END_OURS).await;
    until("the first steps are counted", || async { count().await >= 20_000 }).await;
    let before = count().await;
    for number in 0..10 {
        store.apply_many(&[user_change(&format!("user_{number}"), 0)]).await.expect("applied");
        sequence(&store).await;
    }
    world.psql(END_OURS).await;
    assert_eq!(lines(&store, 20_000).await.len(), 10);
    world.psql(END_OURS).await;
    let after = count().await;
    assert!(after - before < 10 * 20_000, "{} entries for 10 lines", after - before);
    long.run("ROLLBACK").await;
}
