//! Deletions: by proof only, behind the brake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS, WAITLIST_ENTRIES};
use rollbook_core::drift::Drift;
use rollbook_core::store::{HeldKey, HeldState, RunState};
use rollbook_reconciler::{ABSENCE_MARGIN, Approved, Progress, ReconcileError, RunReport};
use rollbook_testkit::events::deleted;
use rollbook_testkit::memory::clerk::{ClerkFault, MemoryClerk};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::{World, at, user_id, user_object};

/// A store that has all users, of which the first `gone` do not exist at Clerk any more.
async fn with_gone_users(users: usize, gone: usize) -> World {
    let world = World::new();
    world.populate(users, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| (0..gone).for_each(|number| objects.remove(&USERS, &user_id(number))));
    world
}

async fn approve(world: &World, report: &RunReport) -> Result<Approved, ReconcileError> {
    world.reconciler().approve(&report.run, &CancellationToken::new()).await
}

#[tokio::test]
async fn a_row_that_clerk_proves_absent_is_deleted_and_the_ledger_says_so() {
    let world = with_gone_users(130, 7).await;
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Complete);
    assert_eq!(world.living(&USERS).await.len(), 123);
    world.assert_equal().await;
    let lines = world.store.deliveries(&user_id(0), 10).await.expect("the ledger");
    assert_eq!(lines.last().map(|line| line.event_type.as_str()), Some("reconcile.not_deleted"));
}

#[tokio::test]
async fn the_last_rows_and_the_first_rows_of_a_list_are_proved_too() {
    let world = World::new();
    world.populate(100, 60, 60);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| {
        for number in [0, 59] {
            objects.remove(&ORGANIZATION_MEMBERSHIPS, &format!("orgmem_{number:04}"));
        }
        for number in [0, 49, 50, 99] {
            objects.remove(&USERS, &user_id(number));
        }
    });
    world.run().await.expect("a run");
    assert_eq!(world.living(&USERS).await.len(), 96);
    assert_eq!(world.difference().await.filter(|text| !text.contains("memberships")), None);
}

#[tokio::test]
async fn twenty_deletions_are_let_through_and_twenty_one_are_all_held() {
    let world = with_gone_users(60, 20).await;
    assert_eq!(world.run().await.expect("a run").state, RunState::Complete);
    assert_eq!(world.living(&USERS).await.len(), 40);

    let world = with_gone_users(60, 21).await;
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Held);
    assert_eq!(world.living(&USERS).await.len(), 60, "none of them is deleted");
    let held = world.store.held(&report.run, HeldState::Waiting, None, 100).await.expect("held");
    assert_eq!((held.len(), held[0].kind), (21, Drift::NotDeleted));
    let freshness = world.store.freshness().await.expect("freshness");
    assert_eq!(freshness.iter().find(|of| of.table == "users").map(|of| of.drift), Some(21));
}

#[tokio::test]
async fn an_approval_lets_exactly_the_held_rows_through_once_and_confirms_each_again() {
    let world = with_gone_users(60, 25).await;
    let report = world.run().await.expect("a run");
    // One of them is back, and one more is gone, which nobody has approved.
    world.clerk.change(|objects| {
        objects.put(&USERS, &user_object(3));
        objects.remove(&USERS, &user_id(59));
    });
    let approved = approve(&world, &report).await.expect("an approval");
    assert_eq!(approved, Approved { deleted: 24, alive: 1, ..Approved::default() });
    let living = world.living(&USERS).await;
    assert_eq!((living.len(), living.contains(&user_id(3)), living.contains(&user_id(59))), (36, true, true));
    let run = world.store.run(&report.run).await.expect("the store").expect("the run");
    assert_eq!(run.state, RunState::Complete);
    assert!(matches!(approve(&world, &report).await, Err(ReconcileError::NoSuchRun(_))), "only once");
}

#[tokio::test]
async fn a_later_run_takes_the_place_of_a_held_one() {
    let world = with_gone_users(60, 25).await;
    let first = world.run().await.expect("a run");
    world.pass(3600);
    let second = world.run().await.expect("a run");
    assert!(matches!(approve(&world, &first).await, Err(ReconcileError::NoSuchRun(_))));
    assert_eq!(approve(&world, &second).await.expect("an approval").deleted, 25);
}

#[tokio::test(start_paused = true)]
async fn a_point_read_that_gives_no_answer_deletes_nothing() {
    for fault in [ClerkFault::Refused, ClerkFault::Unavailable, ClerkFault::Unreadable] {
        let world = with_gone_users(60, 5).await;
        // Pages come first: three of users, with those that cut the list; every later call fails.
        let through = std::iter::repeat_n(None, 1);
        world.clerk.fail(through.chain(std::iter::repeat_n(Some(fault), 5_000)));
        world.run().await.expect_err("an error");
        assert_eq!(world.living(&USERS).await.len(), 60, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn empty_pages_without_an_error_delete_nothing() {
    let world = with_gone_users(60, 0).await;
    world.clerk.fail(std::iter::repeat_n(Some(ClerkFault::EmptyPage), 5_000));
    let error = world.run().await.expect_err("an error");
    assert!(matches!(error, ReconcileError::Contradiction { .. }), "{error}");
    assert_eq!(world.living(&USERS).await.len(), 60);
}

#[tokio::test]
async fn a_row_deleted_here_and_alive_at_clerk_is_held_and_never_revived_by_a_run() {
    let world = with_gone_users(10, 0).await;
    world.webhook("msg_1", "user.deleted", at(50), &deleted("user", &user_id(4))).await;
    for _ in 0..2 {
        let report = world.run().await.expect("a run");
        assert_eq!(report.state, RunState::Held);
        assert_eq!(world.living(&USERS).await.len(), 9);
        let counts = world.store.count_held(None).await.expect("counts");
        let waiting: Vec<_> = counts.iter().filter(|of| of.state == HeldState::Waiting).collect();
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        assert_eq!((waiting[0].kind, waiting[0].count), (Drift::WronglyDeleted, 1));
        assert!(matches!(approve(&world, &report).await, Err(ReconcileError::NoSuchRun(_))));
        world.pass(3600);
    }
}

#[tokio::test]
async fn a_deletion_that_overtakes_the_page_is_not_called_wrong() {
    let world = with_gone_users(10, 0).await;
    let now = world.now();
    world.webhook("msg_1", "user.deleted", now, &deleted("user", &user_id(4))).await;
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Complete, "the webhook may be newer than the page");
}

#[tokio::test]
async fn children_of_a_deleted_parent_are_not_examined_one_by_one() {
    let world = World::new();
    world.populate(10, 1, 10);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| {
        objects.remove(&ORGANIZATIONS, "org_0000");
        (0..10).for_each(|number| objects.remove(&ORGANIZATION_MEMBERSHIPS, &format!("orgmem_{number:04}")));
    });
    let (_, before) = world.clerk.calls();
    world.run().await.expect("a run");
    assert_eq!(world.living(&ORGANIZATION_MEMBERSHIPS).await.len(), 0);
    assert_eq!(world.clerk.calls().1 - before, 2, "two point reads, of the organization");
    world.assert_equal().await;
}

#[tokio::test]
async fn a_row_without_a_creation_time_is_proved_by_its_id() {
    let world = World::new();
    world.populate(10, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    let mut entry = json!({"id": "wle_1", "email_address": "a@b.example", "status": "pending"});
    world.webhook("msg_1", "waitlistEntry.created", at(1), &entry).await;
    entry["id"] = json!("user_9999");
    world.webhook("msg_2", "user.created", at(1), &entry).await;
    world.pass(3600);
    world.run().await.expect("a run");
    assert!(!world.living(&USERS).await.contains(&"user_9999".to_owned()), "Clerk has no such user");
    assert_eq!(world.living(&WAITLIST_ENTRIES).await.len(), 0, "nor such an entry");
}

#[tokio::test]
async fn a_clock_that_is_off_within_the_tolerance_deletes_no_living_user_and_misses_no_deleted_one() {
    for seconds in [-299, 299] {
        let world = World::with_clerk_ahead(seconds);
        world.populate(60, 10, 40);
        world.run().await.expect("a run");
        world.assert_equal().await;
        world.pass(3600);
        world.clerk.change(|objects| (0..5).for_each(|number| objects.remove(&USERS, &user_id(number))));
        world.clerk.change(|objects| {
            for number in [0, 1, 2, 3, 4] {
                objects.remove(&ORGANIZATION_MEMBERSHIPS, &format!("orgmem_{number:04}"));
            }
        });
        assert_eq!(world.run().await.expect("a run").state, RunState::Complete, "{seconds}");
        assert_eq!(world.living(&USERS).await.len(), 55, "{seconds}");
        world.assert_equal().await;
    }
}

#[tokio::test]
async fn a_row_that_was_written_within_the_margin_is_left_to_a_later_run() {
    let world = with_gone_users(10, 0).await;
    // Clerk's answers come from a copy of its database that is behind: they lack the user.
    world.webhook("msg_1", "user.created", world.now() - 1_500, &user_object(77)).await;
    world.clock.advance(ABSENCE_MARGIN);
    world.run().await.expect("a run");
    assert_eq!(world.living(&USERS).await.len(), 11, "written exactly the margin before the run");
    world.pass(1);
    world.run().await.expect("a run");
    assert_eq!(world.living(&USERS).await.len(), 10, "Clerk lacks it still");
    world.assert_equal().await;
}

#[tokio::test]
async fn a_proof_that_is_no_longer_true_when_the_walk_ends_deletes_nothing() {
    let world = with_gone_users(130, 10).await;
    let (clerk, fetches) = (world.clerk.clone(), AtomicU64::new(0));
    // At the second point read of a row, an incident at Clerk is over.
    let source = Scripted::new(&world.clerk, move |request| {
        if matches!(request, Request::Fetch(_)) && fetches.fetch_add(1, Ordering::Relaxed) == 1 {
            clerk.change(|objects| (0..10).for_each(|number| objects.put(&USERS, &user_object(number))));
        }
        async { Ok(()) }.boxed()
    });
    let report = world.run_from(source, &CancellationToken::new()).await.expect("a run");
    assert_eq!((report.state, world.living(&USERS).await.len()), (RunState::Complete, 130));
}

#[tokio::test]
async fn rows_that_webhooks_write_after_their_proof_outlive_the_resumed_run() {
    let mut world = with_gone_users(130, 10).await;
    world.settings.save_every = Duration::ZERO;
    let (stop, has_proof) = (CancellationToken::new(), AtomicBool::new(false));
    let token = stop.clone();
    let source = Scripted::new(&world.clerk, move |request| {
        if matches!(request, Request::Fetch(_)) {
            has_proof.store(true, Ordering::Relaxed);
        } else if has_proof.load(Ordering::Relaxed) {
            token.cancel();
        }
        async { Ok(()) }.boxed()
    });
    let run = world.run_from(source, &stop).await;
    assert!(matches!(run, Err(ReconcileError::Stopped)), "{run:?}");
    let id = world.store.runs(1).await.expect("runs").remove(0).id;
    let collected = world.store.held(&id, HeldState::Collected, None, 100).await.expect("held");
    assert_eq!(collected.len(), 10);
    world.pass(3600);
    for number in 0..10 {
        let mut user = user_object(number);
        user["updated_at"] = json!(world.now());
        world.webhook(&format!("msg_{number}"), "user.updated", world.now(), &user).await;
    }
    // Clerk's answers are behind still.
    world.resume().await.expect("a run");
    assert_eq!(world.living(&USERS).await.len(), 130);
    world.pass(3600);
    world.run().await.expect("a run");
    assert_eq!(world.living(&USERS).await.len(), 120, "the next run has its own proof");
}

#[tokio::test]
async fn the_brake_counts_what_a_killed_run_had_settled() {
    let world = with_gone_users(300, 115).await;
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Held);
    // As after a kill in the middle of the settlement, before the progress was saved.
    let mut run = world.store.run(&report.run).await.expect("the store").expect("the run");
    let mut progress = Progress::parse(&run.progress).expect("a progress");
    for of in progress.resources.iter_mut().filter(|of| of.table == "users") {
        (of.held, of.is_done) = (0, false);
    }
    (run.state, run.finished_at, run.progress) = (RunState::Running, None, progress.to_text());
    world.store.save_run(&run).await.expect("the store records");
    let held = world.store.held(&run.id, HeldState::Waiting, None, 1000).await.expect("held");
    let keys: Vec<HeldKey> = held.into_iter().skip(100).map(|held| held.key).collect();
    world.store.settle_held(&run.id, &keys, HeldState::Collected).await.expect("the store records");
    let resumed = world.resume().await.expect("a run");
    assert_eq!((resumed.state, resumed.progress.sum(|of| of.held)), (RunState::Held, 115));
    assert_eq!(world.living(&USERS).await.len(), 300);
}

#[tokio::test]
async fn living_rows_that_a_list_leaves_out_delay_no_other_resource() {
    let world = World::new();
    world.populate(1_500, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    let listed = Arc::new(MemoryClerk::new(world.clock.clone()));
    listed.change(|objects| {
        (1_400..1_500).for_each(|number| objects.put(&USERS, &user_object(number)));
        objects.put(&WAITLIST_ENTRIES, &json!({ "id": "wle_1", "created_at": at(1), "updated_at": at(1) }));
    });
    let source = Scripted::with_lists_of(&listed, &world.clerk);
    let report = world.run_from(source, &CancellationToken::new()).await.expect("a run");
    let users = report.progress.resources.iter().find(|of| of.table == "users").expect("users");
    assert_eq!((users.alive, users.unproven), (1_100, 300), "the point reads are bounded");
    assert_eq!(world.living(&USERS).await.len(), 1_500);
    assert_eq!(world.living(&WAITLIST_ENTRIES).await.len(), 1);
}
