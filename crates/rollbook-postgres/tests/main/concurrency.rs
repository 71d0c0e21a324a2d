//! Many concurrent workers, and the cost of a redelivery.

use std::sync::Arc;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{RowView, Rows as _, Store as _};
use rollbook_postgres::PostgresSettings;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use crate::world::{World, clock, open, user_change};

const WORKERS: usize = 10;
const BATCHES: usize = 25;
const BATCH: usize = 60;

/// Returns a change of one of few subjects: most batches share some of them.
fn change(random: &mut fastrand::Rng) -> Change {
    let (subject, at) = (random.u32(..30), random.i64(0..200));
    let (updated_at, event_at) = (START + at, START + at + random.i64(0..3));
    let id = format!("msg_{subject}_{at}_{event_at}");
    let [user_id, organization_id] = ["user", "org"].map(|object| format!("{object}_{subject}"));
    let body = match subject % 3 {
        0 if at == 199 => event("user.deleted", event_at, &deleted("user", &user_id)),
        0 => event("user.updated", event_at, &user(&user_id, updated_at)),
        1 => event("organization.updated", event_at, &organization(&organization_id, updated_at)),
        _ => {
            let data = membership(&format!("orgmem_{subject}"), &organization_id, &user_id, updated_at);
            event("organizationMembership.updated", event_at, &data)
        }
    };
    change_of(&id, &body)
}

/// Returns the number of deadlocks that the server has found in this database.
fn deadlocks(world: &World) -> usize {
    let found = format!("{}: ERROR:  deadlock detected", world.database);
    world.server.log().lines().filter(|line| line.starts_with(&found)).count()
}

/// Removes the columns about the time and source of a write.
fn content(mut rows: Vec<RowView>) -> Vec<RowView> {
    for row in &mut rows {
        row.columns.retain(|name, _| !name.starts_with("synced_"));
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_connections_of_random_batches_end_in_the_fold_without_a_deadlock() {
    let world = World::new().await;
    let settings = PostgresSettings { connections_max: 10, ..world.settings.clone() };
    let store = open(&settings);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let truth = MemoryStore::new(clock());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let batches: Vec<Vec<Change>> =
            (0..BATCHES).map(|_| (0..BATCH).map(|_| change(&mut random)).collect()).collect();
        truth.apply_many(&batches.concat()).await.expect("the model applies them");
        let store = Arc::clone(&store);
        workers.spawn(async move {
            for batch in batches {
                store.apply_many(&batch).await.expect("the store applies them");
            }
        });
    }
    workers.join_all().await;
    for resource in RESOURCES {
        let rows = store.rows(resource, None, 1000).await.expect("the store lists rows");
        assert_eq!(content(rows), content(truth.rows_of(resource)));
    }
    assert_eq!(deadlocks(&world), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_has_one_winner_and_the_others_are_reported_as_stale() {
    let world = World::new().await;
    for round in 0..10 {
        let mut workers = JoinSet::new();
        let id = format!("user_{round}");
        for at in 0..8 {
            let (store, change) = (world.store(), user_change(&id, at));
            workers.spawn(async move { store.apply_many(&[change]).await.expect("an answer")[0] });
        }
        let outcomes = workers.join_all().await;
        let inserted = outcomes.iter().filter(|outcome| **outcome == Applied::Inserted).count();
        assert_eq!(inserted, 1, "{outcomes:?}");
        let all = [Applied::Inserted, Applied::Updated, Applied::Stale];
        assert!(outcomes.iter().all(|outcome| all.contains(outcome)), "{outcomes:?}");
        let last = change_of("again", &event("user.updated", START + 7, &user(&id, START + 7)));
        assert_eq!(world.store().apply_many(&[last]).await, Ok(vec![Applied::Unchanged]));
    }
}

#[tokio::test]
async fn a_deadlock_with_another_clients_session_is_retried() {
    let world = World::new().await;
    // A waiting session checks for a deadlock once; by then the other one must wait too.
    world.psql(&format!("ALTER DATABASE {} SET deadlock_timeout = '3s'", world.database)).await;
    let store = world.store();
    let both = |at| [user_change("user_1", at), user_change("user_2", at)];
    assert!(store.apply_many(&both(0)).await.is_ok());
    // In the other order, with a long deadlock_timeout: so the server cancels the store's transaction.
    let mut other = world.session().await;
    other.run("SET deadlock_timeout = '60s'; BEGIN; UPDATE mirror_2.users SET locked = true WHERE id = 'user_2'").await;
    let closing_the_circle = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND datname = current_database()";
        until("the store waits for the other's row", || async { world.psql(waiting).await == "1\n" }).await;
        other.run("UPDATE mirror_2.users SET locked = true WHERE id = 'user_1'; COMMIT").await;
    };
    let ours = both(1);
    let (outcomes, ()) = tokio::join!(store.apply_many(&ours), closing_the_circle);
    assert_eq!(outcomes, Ok(vec![Applied::Updated; 2]));
    assert_eq!(deadlocks(&world), 1);
}

#[tokio::test]
async fn a_redelivery_writes_no_row_version_and_locks_no_row() {
    let world = World::new().await;
    let store = world.store();
    let mut changes: Vec<Change> = (0..50).map(|number| user_change(&format!("user_{number}"), 5)).collect();
    let gone = event("user.deleted", START + 9, &deleted("user", "user_7"));
    changes.push(change_of("msg_gone", &gone));
    store.apply_many(&changes).await.expect("the store applies them");
    // Position of each row version, its creator, and its last locker.
    let versions = "SELECT md5(string_agg(concat_ws(' ', id, ctid, xmin, xmax), ',' ORDER BY id))
                    FROM mirror_2.users UNION ALL
                    SELECT md5(string_agg(concat_ws(' ', svix_id, ctid, xmin, xmax), ',' ORDER BY svix_id))
                    FROM mirror_2.deliveries";
    let before = world.psql(versions).await;
    assert_eq!(before.lines().count(), 2);
    let older = user_change("user_1", 4);
    let mut again = changes.clone();
    again.reverse();
    let outcomes = store.apply_many(&again).await.expect("the store applies them");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Applied::Stale | Applied::Unchanged)));
    assert_eq!(world.psql(versions).await, before);
    // A new delivery gets a ledger entry; the rows do not change.
    assert_eq!(store.apply_many(&[older]).await, Ok(vec![Applied::Stale]));
    let after = world.psql(versions).await;
    assert_eq!(after.lines().next(), before.lines().next());
    assert_ne!(after.lines().nth(1), before.lines().nth(1));
}
