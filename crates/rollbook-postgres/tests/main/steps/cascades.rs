//! Large cascades.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::ORGANIZATION_MEMBERSHIPS;
use rollbook_core::store::{Rows as _, Store as _};
use rollbook_testkit::events::{START, change_of, deleted, event, membership};
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use super::{
    MEMBERS, count, impatient, joined, lines, make_due, members, organization_deleted, slow_row, trigger,
    work_off,
};
use crate::world::{World, open, user_change};

#[tokio::test]
async fn a_large_cascade_is_recorded_durably_and_processed_in_steps_concurrently_with_deliveries() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", MEMBERS).await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    assert_eq!(lines(&world).await, "children|1\n");
    tokio::time::timeout(Duration::from_secs(60), store.cascade_pending())
        .await
        .expect("the worker is woken");
    // A worker that has died since: another one takes it over.
    let other = world.store();
    let done = work_off(&*other).await;
    assert_eq!((done.rows, done.parents_left, done.rows_left), (u64::from(MEMBERS), 0, 0));
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
    assert_eq!(lines(&world).await, "");
}

/// A worker is killed in a turn: what its steps have committed stays, and another one goes on within ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_has_begun_is_finished_by_another_within_ten_seconds() {
    let world = World::new().await;
    let killed = world.store();
    members(&world, "org_1", MEMBERS).await;
    // The lock of a row of the second step keeps it from its end.
    let mut holder = world.session().await;
    let last =
        "BEGIN; SELECT FROM mirror_2.organization_memberships WHERE id = 'orgmem_org_1_999' FOR UPDATE";
    killed.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    holder.run(last).await;
    let mut working = JoinSet::new();
    working.spawn(async move { killed.cascade().await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    until("a step waits", || async { world.psql(waits).await == "1\n" }).await;
    working.shutdown().await;
    let other = world.store();
    let held = other.cascade().await.expect("a turn");
    assert_eq!((held.rows, held.parents_left), (0, 1), "its hold is still on it");
    assert!(held.due_in.is_some_and(|wait| wait <= Duration::from_secs(10)), "{:?}", held.due_in);
    until("its statement has ended", || async { world.psql(waits).await == "0\n" }).await;
    holder.run("COMMIT").await;
    make_due(&world).await;
    assert_eq!(work_off(&*other).await.parents_left, 0);
    assert_eq!((count(&world, "deleted_at IS NULL").await, lines(&world).await.as_str()), (0, ""));
}

/// Each row takes 20 ms, so that 2,500 take 50 s: many times the second that a statement may take.
#[tokio::test]
async fn a_cascade_that_outlasts_every_time_limit_goes_in_smaller_steps_to_its_end() {
    let world = World::new().await;
    let store = open(&impatient(&world, Duration::from_secs(1)));
    members(&world, "org_1", 1_200).await;
    trigger(&world, "organization_memberships", &slow_row(0.02)).await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let mut turns = 0;
    while store.cascade().await.expect("it is worked off").parents_left > 0 {
        turns += 1;
        if turns == 1 {
            // In between anybody can be applied.
            assert!(count(&world, "deleted_at IS NOT NULL").await > 0, "what is done is committed");
            store.apply_many(&[user_change("user_x", 0)]).await.expect("nobody waits for it");
        }
    }
    assert!(turns >= 1, "it took more than one turn");
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

/// An application's foreign key to a member takes a lock that says only that the member's id stays.
#[tokio::test]
async fn who_refers_to_a_member_does_not_hold_up_its_deletion() {
    let world = World::new().await;
    let store = open(&impatient(&world, Duration::from_secs(2)));
    members(&world, "org_1", 5).await;
    let mut holder = world.session().await;
    holder.run("BEGIN; SELECT FROM mirror_2.organization_memberships FOR KEY SHARE").await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    assert_eq!((count(&world, "deleted_at IS NULL").await, lines(&world).await.as_str()), (0, ""));
    holder.run("COMMIT").await;
}

/// A later deletion comes while a step of the cascade is under way: it does not wait for the step, and is not
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_recorded_during_a_step_waits_for_nothing_and_is_not_lost() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", MEMBERS).await;
    let waits = "PERFORM pg_advisory_xact_lock_shared(7);";
    trigger(&world, "organization_memberships", waits).await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let mut holder = world.session().await;
    holder.run("SELECT pg_advisory_lock(7)").await;
    let mut working = JoinSet::new();
    working.spawn({
        let store = Arc::clone(&store);
        async move { store.cascade().await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()";
    until("a step is under way", || async { world.psql(waiting).await == "1\n" }).await;
    store.apply_many(&[organization_deleted("org_1", 9)]).await.expect("the store applies it");
    holder.run("SELECT pg_advisory_unlock(7)").await;
    working.join_next().await.expect("it works").expect("no panic").expect("a turn");
    make_due(&world).await;
    work_off(&*store).await;
    let ends = "SELECT count(*), extract(milliseconds FROM deleted_at)::int % 1000
                FROM mirror_2.organization_memberships GROUP BY 2";
    assert_eq!(world.psql(ends).await, format!("{MEMBERS}|24\n"));
    assert_eq!(lines(&world).await, "");
}

/// The worker that erased the parent by retention died before the child rows, and a delivery of the child is
/// repeated.
#[tokio::test]
async fn a_child_with_content_under_a_parent_that_age_erased_loses_it_when_it_comes_again() {
    let world = World::new().await;
    let store = world.store();
    let gone = change_of("msg_gone", &event("user.deleted", START + 5, &deleted("user", "user_1")));
    store.apply_many(&[joined(1, "org_1"), gone]).await.expect("the store applies them");
    world
        .psql(
            "UPDATE mirror_2.users SET version_hash = '\\xff', version_updated_at = 9223372036854775807,
                    version_event_at = 9223372036854775807",
        )
        .await;
    store.apply_many(&[joined(1, "org_1")]).await.expect("it comes again");
    assert_eq!(count(&world, "data IS NOT NULL").await, 0);
}

/// A child that was deleted by itself shows that for good: its parents' deletion would be written for
/// nothing.
#[tokio::test]
async fn a_write_that_changes_nothing_visible_runs_no_trigger_of_a_deleted_child() {
    let world = World::new().await;
    let store = world.store();
    let data = membership("orgmem_1", "org_1", "user_1", START);
    let left = change_of("msg_left", &event("organizationMembership.deleted", START + 3, &data));
    store.apply_many(&[joined(1, "org_1"), left]).await.expect("the store applies them");
    let before = store.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await;
    trigger(&world, "organization_memberships", "RAISE EXCEPTION 'nothing changes';").await;
    for at in [5, 9] {
        store.apply_many(&[organization_deleted("org_1", at)]).await.expect("the store applies it");
    }
    assert_eq!(store.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await, before);
    assert_eq!(lines(&world).await, "");
}
