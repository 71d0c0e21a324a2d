//! Large cascades, and child rows that were left wrong.

use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, USERS};
use rollbook_core::store::{RetentionLimits, Rows as _, Store as _};
use rollbook_core::time::Timestamp;
use rollbook_testkit::events::{START, change_of, deleted, event, membership};
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use super::{MEMBERS, World, joined, organization_deleted, work_off};

#[tokio::test]
async fn a_large_cascade_is_recorded_with_the_delivery_and_repaired_in_steps_by_any_worker() {
    let world = World::new();
    world.members("org_1", MEMBERS);
    world.apply(&[organization_deleted("org_1", 5)]).await;
    assert_eq!((world.lines(), world.members_where("deleted_at IS NOT NULL")), (1, 0));
    tokio::time::timeout(Duration::from_secs(60), world.store.cascade_pending())
        .await
        .expect("the worker is woken");
    // A worker died meanwhile: another one takes the entry over.
    let done = work_off(&world.other()).await;
    assert_eq!((done.rows, done.parents_left, done.rows_left), (u64::from(MEMBERS), 0, 0));
    assert_eq!((world.members_where("deleted_at IS NULL"), world.lines()), (0, 0));
}

/// Exactly as many rows as are repaired with the delivery, and one more.
#[tokio::test]
async fn a_thousand_child_rows_are_repaired_with_their_batch_and_one_more_is_recorded() {
    let world = World::new();
    world.members("org_1", 600);
    world.members("org_2", 400);
    world.apply(&[organization_deleted("org_1", 5), organization_deleted("org_2", 5)]).await;
    assert_eq!((world.members_where("deleted_at IS NULL"), world.lines()), (0, 0));
    world.members("org_3", 600);
    world.members("org_4", 401);
    world.apply(&[organization_deleted("org_3", 5), organization_deleted("org_4", 5)]).await;
    assert_eq!((world.members_where("deleted_at IS NULL"), world.lines()), (401, 1));
    assert_eq!(work_off(&world.store).await.rows, 401);
    assert_eq!((world.members_where("deleted_at IS NULL"), world.lines()), (0, 0));
}

/// A worker is killed in a turn: its committed steps stay, and the rest is due when its hold ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascade_of_a_killed_worker_is_finished_by_another_after_its_hold() {
    let world = World::new();
    world.members("org_1", 20_000);
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let killed = world.other();
    let mut working = JoinSet::new();
    working.spawn(async move { killed.cascade().await });
    until("a step is committed", || async { world.members_where("deleted_at IS NOT NULL") > 0 }).await;
    working.shutdown().await;
    let rest = world.members_where("deleted_at IS NULL");
    assert!(rest > 0, "it was killed half-way");
    let other = world.other();
    let held = other.cascade().await.expect("a turn");
    assert_eq!(held.rows, 0, "its hold is still on it");
    let wait = held.due_in.expect("it ends");
    assert!(wait <= Duration::from_secs(10), "{wait:?}");
    world.clock.advance(wait);
    assert_eq!((work_off(&other).await.rows, world.lines()), (rest, 0));
    assert_eq!(world.members_where("deleted_at IS NULL"), 0);
}

/// The clock was an hour ahead when the entry was taken.
#[tokio::test]
async fn an_entry_from_a_clock_that_was_ahead_is_due() {
    let world = World::new();
    world.members("org_1", MEMBERS);
    world.apply(&[organization_deleted("org_1", 5)]).await;
    world.sql("UPDATE rollbook_cascades SET next_try_at = '2026-07-29T09:00:00.000Z'");
    assert_eq!(work_off(&world.store).await.rows, u64::from(MEMBERS));
}

#[tokio::test]
async fn a_later_deletion_while_a_cascade_is_pending_is_not_lost() {
    let world = World::new();
    world.members("org_1", MEMBERS);
    for at in [5, 9] {
        world.apply(&[organization_deleted("org_1", at)]).await;
    }
    work_off(&world.store).await;
    let later = Timestamp::from_millis(START + 9);
    assert_eq!(world.members_where(&format!("deleted_at IS NOT '{later}'")), 0);
    assert_eq!(world.lines(), 0);
}

/// Each step is committed, and another connection, as a second process has it, finds the file's lock free in
/// between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_applied_between_the_steps_of_a_large_cascade() {
    let world = World::new();
    world.members("org_1", 20_000);
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let store = world.other();
    let mut working = JoinSet::new();
    working.spawn(async move { work_off(&store).await });
    let mut seen = Vec::new();
    for number in 0.. {
        world.apply(&[joined(number, "org_2")]).await;
        seen.push(world.members_where("deleted_at IS NOT NULL AND organization_id = 'org_1'"));
        if world.lines() == 0 {
            break;
        }
    }
    let done = working.join_next().await.expect("it works").expect("no panic");
    assert_eq!(done.rows, 20_000);
    assert!(
        seen.iter().any(|done| (1..20_000).contains(done)),
        "a delivery was applied in between: {seen:?}"
    );
}

#[tokio::test]
async fn retention_of_a_parent_with_many_rows_leaves_them_to_the_steps() {
    let world = World::new();
    let lives = event("organization.created", START, &rollbook_testkit::events::organization("org_1", START));
    world.apply(&[change_of("msg_lives", &lives)]).await;
    world.members("org_1", MEMBERS);
    world.apply(&[organization_deleted("org_1", 5)]).await;
    work_off(&world.store).await;
    let due = RetentionLimits {
        ledger_before: None,
        deleted_before: Some(Timestamp::from_millis(START + 1_000)),
        limit: 1_000,
    };
    assert_eq!(world.store.retain(&due).await.expect("the store tidies").rows, 1);
    assert_eq!((world.lines(), world.members_where("data IS NOT NULL")), (1, u64::from(MEMBERS)));
    assert_eq!(work_off(&world.store).await.rows, u64::from(MEMBERS));
    assert_eq!((world.lines(), world.members_where("data IS NOT NULL OR role IS NOT NULL")), (0, 0));
}

/// An earlier build or a former trigger has left a child row with content under a parent without content.
#[tokio::test]
async fn a_child_with_content_under_a_parent_erased_by_retention_loses_it_with_any_delivery() {
    let left = |id: &str| {
        let data = membership(id, "org_1", "user_1", START);
        change_of("msg_left", &event("organizationMembership.deleted", START + 3, &data))
    };
    let gone = || change_of("msg_gone", &event("user.deleted", START + 5, &deleted("user", "user_1")));
    for again in [joined(1, "org_1"), left("orgmem_1"), gone()] {
        let world = World::new();
        world.apply(&[joined(1, "org_1"), gone()]).await;
        world.sql(&format!(
            "UPDATE users SET version_hash = x'ff', version_updated_at = {max}, version_event_at = {max}",
            max = i64::MAX
        ));
        assert_eq!(world.members_where("data IS NOT NULL"), 1);
        world.apply(&[again]).await;
        assert_eq!(world.members_where("data IS NOT NULL"), 0);
        let row =
            world.store.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await.expect("it reads").expect("a row");
        assert!(row.columns["role"].is_null() && row.columns["user_id"] == "user_1");
        assert!(world.store.get(&USERS, "user_1").await.expect("it reads").is_some());
    }
}

/// A delivery without news does not scan the rows of a large parent in its transaction.
#[tokio::test]
async fn a_repeated_deletion_leaves_the_rows_of_a_large_parent_to_a_later_check() {
    let world = World::new();
    world.members("org_1", 10_001);
    world.apply(&[organization_deleted("org_1", 5)]).await;
    work_off(&world.store).await;
    world.sql(
        "UPDATE organization_memberships SET deleted_at = NULL, version_parents_deleted_at = NULL
         WHERE id = 'orgmem_org_1_77'",
    );
    world.apply(&[organization_deleted("org_1", 5)]).await;
    assert_eq!((world.lines(), world.members_where("deleted_at IS NULL")), (1, 1));
    assert_eq!(work_off(&world.store).await.rows, 1);
    assert_eq!((world.lines(), world.members_where("deleted_at IS NULL")), (0, 0));
}

/// A child row that was deleted by itself always shows its own deletion: writing its parents' deletion would
/// change nothing.
#[tokio::test]
async fn a_write_that_changes_nothing_visible_runs_no_trigger_of_a_deleted_child() {
    let world = World::new();
    let data = membership("orgmem_1", "org_1", "user_1", START);
    let left = change_of("msg_left", &event("organizationMembership.deleted", START + 3, &data));
    world.apply(&[joined(1, "org_1"), left]).await;
    world.trigger("1", "RAISE(ABORT, 'nothing changes')");
    for at in [5, 9] {
        world.apply(&[organization_deleted("org_1", at)]).await;
    }
    assert_eq!(world.lines(), 0);
}
