//! Rows of the fault table that are about the run as a whole: keys, ids, clocks, a list that moves, and a store that is
//! unreachable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, USERS};
use rollbook_core::source::SourceError;
use rollbook_core::store::{FullStore, RunState};
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_postgres::PostgresStore;
use rollbook_reconciler::ReconcileError;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events::change_of;
use rollbook_testkit::faults::{Fault, FaultyStore};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::postgres::PostgresServer;
use tokio::sync::Notify;

use super::stage::{World, change_user, history, postgres_settings, sqlite};

const PATIENT: Duration = Duration::from_secs(120);

async fn backfilled(store: Arc<dyn FullStore>) -> World {
    let world = World::new(store).await;
    world.run(PATIENT).await.expect("the backfill");
    world
}

/// Runs until the rows are equal to Clerk's objects. What happens during a run may be left to the next one.
async fn converges(world: &World, case: &str) {
    for _ in 0..2 {
        let report = world.run(PATIENT).await.expect("a run");
        assert_eq!(report.state, RunState::Complete, "{case}");
        let found = world.differences().await;
        assert!(found.wrongly_deleted.is_empty(), "{case}: {found}");
    }
    let left = world.differences().await;
    assert!(left.are_none(), "{case}: {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_deleted_created_and_changed_during_the_walk_end_equal() {
    let (_folder, store) = sqlite();
    let mut world = backfilled(store).await;
    world.change_clerk();
    let (clerk, number) = (world.clerk.clone(), AtomicU64::new(0));
    world.controls.after_each_page(move |_| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        // Fewer deletions than the brake holds.
        if !(2..18).contains(&number) {
            return;
        }
        let (mut state, now) = (clerk.lock().expect("no panic"), WallClock.now());
        let users = state.ids("users");
        // The first, a middle and the last object of the list in turn: pages before, at and after the position move.
        let at = [0, users.len() / 2, users.len() - 1][usize::try_from(number % 3).expect("small")];
        state.remove("users", &users[at]);
        if number.is_multiple_of(4) {
            let memberships = state.ids("organization_memberships");
            state.remove("organization_memberships", &memberships[0]);
        }
        state.insert_copy("users", &users[5], &format!("user_new{number:04}"), now);
        change_user(&mut state, &users[7], now);
    });
    let report = world.run(PATIENT).await.expect("a run");
    assert_eq!(report.state, RunState::Complete);
    assert!(world.state().ids("users").iter().filter(|id| id.starts_with("user_new")).count() > 5);
    let found = world.differences().await;
    assert!(found.wrongly_deleted.is_empty(), "{found}");
    converges(&world, "a list that moves").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_the_same_millisecond_fill_several_pages_and_none_is_left_out() {
    let (_folder, store) = sqlite();
    let world = backfilled(store).await;
    let at = Timestamp::from_millis(WallClock.now().as_millis() - 3_600_000);
    {
        let mut state = world.state();
        let (users, members) = (state.ids("users"), state.ids("organization_memberships"));
        for number in 0..70 {
            assert!(state.insert_copy("users", &users[0], &format!("user_tie{number:04}"), at));
            let id = format!("orgmem_tie{number:04}");
            assert!(state.insert_copy("organization_memberships", &members[0], &id, at));
        }
    }
    converges(&world, "ties").await;
    {
        let mut state = world.state();
        for number in [0, 19, 20, 40, 69] {
            assert!(state.remove("users", &format!("user_tie{number:04}")));
            assert!(state.remove("organization_memberships", &format!("orgmem_tie{number:04}")));
        }
    }
    converges(&world, "ties of which some are deleted").await;
    for (resource, id) in [(&USERS, "user_tie0020"), (&ORGANIZATION_MEMBERSHIPS, "orgmem_tie0069")] {
        let row = world.store.get(resource, id).await.expect("the store reads").expect("a row");
        assert!(row.is_deleted(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_ten_minutes_off_ends_the_run_and_changes_nothing() {
    for seconds in [600, -600] {
        let (_folder, store) = sqlite();
        let mut world = backfilled(store).await;
        world.change_clerk();
        world.controls.set_clock_offset_seconds(seconds);
        let error = world.run(PATIENT).await.expect_err("an error");
        assert!(matches!(&error, ReconcileError::Source(SourceError::Clock(_))), "{error}");
        assert!(error.to_string().contains("by NTP"), "{error}");
        let found = world.differences().await;
        assert!(found.wrongly_deleted.is_empty() && !found.are_none(), "{found}");
        world.controls.set_clock_offset_seconds(0);
        converges(&world, "a run with the right clock").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_and_a_key_of_another_instance_change_nothing_and_are_named() {
    let (_folder, store) = sqlite();
    let world = backfilled(store).await;
    let rows = world.differences().await;
    let wrong = world.client("sk_live_YW5vdGhlci1rZXk");
    let error = world.run_with(wrong, PATIENT).await.expect_err("a refusal").to_string();
    assert!(
        error.contains("GET /instance: 401 clerk_key_invalid") && error.contains("CLERK_SECRET_KEY"),
        "{error}"
    );
    // Everybody of the rows' instance looks deleted to this key.
    world.controls.set_instance_id(Some("ins_another"));
    {
        let mut state = world.state();
        for id in state.ids("users") {
            assert!(state.remove("users", &id));
        }
    }
    let error = world.run(PATIENT).await.expect_err("a refusal");
    assert!(matches!(error, ReconcileError::WrongInstance { .. }), "{error}");
    assert!(error.to_string().contains("belongs to the instance ins_another"), "{error}");
    assert_eq!(world.store.runs(1).await.expect("runs")[0].state, RunState::Failed);
    assert!(!world.differences().await.not_deleted.is_empty() && rows.are_none(), "the rows are still there");
}

/// Nothing names the instance yet: the rows came by webhook, and this is the first run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_key_against_production_rows_is_refused_at_the_first_run() {
    let (_folder, store) = sqlite();
    let history = history();
    let events = history.events.iter().enumerate().filter_map(|(number, event)| {
        let event: serde_json::Value = serde_json::from_slice(&event.body).expect("an event");
        let is_user = event["type"].as_str().is_some_and(|name| name.starts_with("user."));
        is_user.then(|| change_of(&format!("msg_{number}"), &event))
    });
    store.apply_many(&events.collect::<Vec<_>>()).await.expect("the store applies them");
    let world = World::new(store).await;
    {
        let mut state = world.state();
        let users = state.ids("users");
        for (number, id) in users.iter().enumerate() {
            assert!(state.insert_copy("users", id, &format!("user_test{number:04}"), WallClock.now()));
            assert!(state.remove("users", id));
        }
    }
    let ids = |rows: Vec<rollbook_core::store::RowView>| -> BTreeSet<String> {
        rows.into_iter().filter(|row| !row.is_deleted()).map(|row| row.id).collect()
    };
    let before = ids(world.store.rows(&USERS, None, 1_000).await.expect("rows"));
    let error = world.run(PATIENT).await.expect_err("a refusal");
    assert!(matches!(error, ReconcileError::ForeignRows(20)), "{error}");
    assert!(before.len() > 20);
    assert_eq!(ids(world.store.rows(&USERS, None, 1_000).await.expect("rows")), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_with_odd_characters_are_kept_and_deleted_only_if_clerk_can_be_asked_for_them() {
    let (_folder, store) = sqlite();
    let world = backfilled(store).await;
    let askable = [
        "user_a?b=1&c=2#d",
        "user_%2F%00",
        "user_'; DROP TABLE users; --",
        "user_é漢🎉",
        "+user_1",
        "-user_1",
    ];
    let unaskable = ["user_a/../b", "..", "user_\\b", "user_\u{7}bell"];
    {
        let (mut state, at) = (world.state(), Timestamp::from_millis(WallClock.now().as_millis() - 60_000));
        let users = state.ids("users");
        for id in askable.iter().chain(&unaskable) {
            assert!(state.insert_copy("users", &users[0], id, at));
        }
    }
    converges(&world, "odd ids").await;
    for id in askable.iter().chain(&unaskable) {
        assert!(world.state().remove("users", id));
    }
    let report = world.run(PATIENT).await.expect("a run");
    assert_eq!(report.state, RunState::Complete);
    assert_eq!(report.progress.sum(|of| of.unproven), unaskable.len() as u64);
    let found = world.differences().await;
    let left: BTreeSet<String> = unaskable.iter().map(|id| format!("users {id}")).collect();
    assert_eq!(found.not_deleted.iter().cloned().collect::<BTreeSet<_>>(), left, "{found}");
    assert!(found.wrongly_deleted.is_empty() && found.missing.is_empty(), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_clerk_beyond_the_patience_is_resumed_and_reads_no_page_twice() {
    let (_folder, store) = sqlite();
    let mut world = backfilled(store).await;
    world.change_clerk();
    world.controls.forget_requests();
    world.controls.inject_on(
        "/organization_memberships",
        rollbook_simulator::api::Fault::ServerError(503),
        u64::MAX,
    );
    let error = world.run(Duration::ZERO).await.expect_err("an outage");
    assert!(matches!(&error, ReconcileError::Source(SourceError::Unavailable(_))), "{error}");
    let pages = world.controls.requests_to("/users");
    world.controls.clear_faults();
    converges(&world, "a resumed run").await;
    // The resumed run does not read users again, and the run after it does.
    assert!(world.controls.requests_to("/users") <= pages * 2, "{pages}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runs_at_once_one_runs_and_the_other_is_refused() {
    let (_folder, store) = sqlite();
    let mut world = backfilled(store).await;
    world.change_clerk();
    let (one, other) = tokio::join!(world.run(PATIENT), world.run(PATIENT));
    let is_busy = |result: &Result<_, ReconcileError>| matches!(result, Err(ReconcileError::Busy(_)));
    assert!(is_busy(&one) != is_busy(&other), "{one:?}\n{other:?}");
    let found = world.differences().await;
    assert!(found.are_none(), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_crashes_during_a_walk_and_comes_back_only_delays_it() {
    // A crash loses nothing that the kernel has, with fsync or without.
    let mut server = PostgresServer::start_with(&[("fsync", "off")]).await;
    let settings = postgres_settings(&server, "clerk");
    rollbook_postgres::apply_migrations(&settings).await.expect("the migrations apply");
    let store = PostgresStore::new(settings, Arc::new(WallClock)).expect("the settings are right");
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let store = FaultyStore::new(Arc::new(store), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Fault::None
    });
    let mut world = backfilled(Arc::new(store)).await;
    // Organizations, then users, then memberships: the crash comes while each of them is read.
    for path in ["/organizations", "/users", "/organization_memberships"] {
        world.change_clerk();
        // The page waits until the server is down, so that its rows can't be read.
        let (reached, gone) = (Arc::new(Notify::new()), std::sync::mpsc::channel::<()>());
        let (notify, is_first) = (reached.clone(), AtomicU64::new(0));
        let receiver = std::sync::Mutex::new(gone.1);
        world.controls.after_each_page(move |request| {
            if request.path == path && is_first.fetch_add(1, Ordering::Relaxed) == 0 {
                notify.notify_one();
                let released = || receiver.lock().expect("no panic").recv();
                tokio::task::block_in_place(released).expect_err("the other end is dropped");
            }
        });
        let outage = async {
            reached.notified().await;
            server.kill();
            let before = calls.load(Ordering::Relaxed);
            drop(gone.0);
            until("a call to the store has failed and is repeated", || {
                std::future::ready(calls.load(Ordering::Relaxed) > before + 1)
            })
            .await;
            server.restart().await;
        };
        let (report, ()) = tokio::join!(world.run(PATIENT), outage);
        assert_eq!(report.expect("a run").state, RunState::Complete, "{path}");
        let found = world.differences().await;
        assert!(found.are_none(), "{path}: {found}");
    }
}
