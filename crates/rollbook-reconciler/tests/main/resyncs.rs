//! Fresh readings of single subjects.

use std::time::Duration;

use futures_util::FutureExt as _;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS, WAITLIST_ENTRIES};
use rollbook_core::source::SourceError;
use rollbook_reconciler::{INSTANCE_CHECKED_FOR, ReconcileError, ResyncOutcome, Resynced};
use rollbook_testkit::events::{change_of, deleted, event};
use rollbook_testkit::memory::clerk::ClerkFault;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::{World, at, user_id, user_object};

async fn resync(world: &World, ids: &[&str], force: bool) -> Vec<ResyncOutcome> {
    let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let results = world.reconciler().resync(&ids, force, &CancellationToken::new()).await.expect("a resync");
    results.into_iter().map(|Resynced { outcome, .. }| outcome).collect()
}

#[tokio::test]
async fn each_case_has_its_outcome() {
    let world = World::new();
    world.populate(3, 1, 0);
    assert_eq!(resync(&world, &["user_0000", "org_0000"], false).await, [ResyncOutcome::Inserted; 2]);
    assert_eq!(resync(&world, &["user_0000"], false).await, [ResyncOutcome::Unchanged]);
    let mut changed = user_object(0);
    changed["first_name"] = json!("Ada");
    world.clerk.change(|objects| objects.put(&USERS, &changed));
    world.pass(60);
    assert_eq!(resync(&world, &["user_0000"], false).await, [ResyncOutcome::Updated]);
    world.clerk.change(|objects| objects.remove(&USERS, "user_0000"));
    assert_eq!(
        resync(&world, &["user_0000"], false).await,
        [ResyncOutcome::Unproven],
        "it was written lately"
    );
    world.pass(301);
    assert_eq!(resync(&world, &["user_0000"], false).await, [ResyncOutcome::Deleted]);
    assert_eq!(resync(&world, &["user_0000", "user_9999"], false).await, [ResyncOutcome::Absent; 2]);
    assert_eq!(resync(&world, &["sess_1"], false).await, [ResyncOutcome::UnknownKind]);
}

#[tokio::test]
async fn a_wrongly_deleted_row_lives_again_by_force_only_and_older_events_are_ignored() {
    let world = World::new();
    world.populate(3, 0, 0);
    world.run().await.expect("a run");
    world.webhook("msg_1", "user.deleted", at(9), &deleted("user", &user_id(1))).await;
    world.pass(3600);
    assert_eq!(resync(&world, &["user_0001"], false).await, [ResyncOutcome::WronglyDeleted]);
    assert_eq!(world.living(&USERS).await.len(), 2);
    assert_eq!(resync(&world, &["user_0001"], true).await, [ResyncOutcome::Revived]);
    world.assert_equal().await;
    // The same webhook again, as Svix replays it.
    world.webhook("msg_1", "user.deleted", at(9), &deleted("user", &user_id(1))).await;
    world.assert_equal().await;
    // A deletion that happens later deletes.
    let now = world.now();
    world.webhook("msg_2", "user.deleted", now, &deleted("user", &user_id(1))).await;
    assert_eq!(world.living(&USERS).await.len(), 2);
}

#[tokio::test]
async fn a_deletion_that_arrives_while_clerk_is_read_is_not_undone_by_force() {
    let world = World::new();
    world.populate(3, 0, 0);
    world.run().await.expect("a run");
    world.webhook("msg_1", "user.deleted", at(9), &deleted("user", &user_id(1))).await;
    world.pass(3600);
    // Clerk's answer is from before the second deletion, and its webhook is faster.
    let (store, now) = (world.store.clone(), world.now());
    let source = Scripted::new(&world.clerk, move |request| {
        let store = store.clone();
        async move {
            if matches!(request, Request::Fetch(_)) {
                let change = change_of("msg_2", &event("user.deleted", now, &deleted("user", &user_id(1))));
                store.apply_many(&[change]).await.expect("the store applies it");
            }
            Ok(())
        }
        .boxed()
    });
    let ids = [user_id(1)];
    let resynced = world.reconciler_of(source).resync(&ids, true, &CancellationToken::new()).await;
    assert_eq!(resynced.expect("a resync")[0].outcome, ResyncOutcome::RowIsLater);
    let row = world.store.get(&USERS, &user_id(1)).await.expect("the store reads").expect("a row");
    assert!(row.is_deleted(), "{row:?}");
    // A replay of that webhook finds it done: the floor was not raised above it.
    world.webhook("msg_3", "user.deleted", now, &deleted("user", &user_id(1))).await;
    assert_eq!(world.living(&USERS).await.len(), 2);
}

#[tokio::test]
async fn a_deletion_as_late_as_clerks_answer_waits_a_moment_and_one_with_an_impossible_time_is_undone() {
    let world = World::new();
    world.populate(3, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    let (now, gone) = (world.now(), deleted("user", &user_id(1)));
    world.webhook("msg_1", "user.deleted", now, &gone).await;
    assert_eq!(resync(&world, &["user_0001"], true).await, [ResyncOutcome::RowIsLater]);
    world.pass(9);
    assert_eq!(resync(&world, &["user_0001"], true).await, [ResyncOutcome::RowIsLater]);
    world.pass(2);
    assert_eq!(resync(&world, &["user_0001"], true).await, [ResyncOutcome::Revived]);
    // A clock that was a day ahead.
    world.webhook("msg_2", "user.deleted", world.now() + 86_400_000, &gone).await;
    assert_eq!(resync(&world, &["user_0001"], true).await, [ResyncOutcome::Revived]);
    world.assert_equal().await;
}

#[tokio::test]
async fn children_of_a_revived_organization_live_again() {
    let world = World::new();
    world.populate(3, 1, 3);
    world.run().await.expect("a run");
    world.webhook("msg_1", "organization.deleted", at(9), &deleted("organization", "org_0000")).await;
    assert_eq!(world.living(&ORGANIZATION_MEMBERSHIPS).await.len(), 0);
    world.pass(3600);
    assert_eq!(resync(&world, &["org_0000"], true).await, [ResyncOutcome::Revived]);
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), 1);
    world.assert_equal().await;
}

#[tokio::test]
async fn a_row_with_a_later_version_and_other_content_is_not_called_equal() {
    let world = World::new();
    world.populate(1, 0, 0);
    // The version of the row has a time a day ahead, as a wrong clock gives it.
    let mut old = user_object(0);
    old["first_name"] = json!("Old");
    world.webhook("msg_1", "user.updated", world.now() + 86_400_000, &old).await;
    let first_name = async || world.rows(&USERS).await[0].columns["first_name"].clone();
    assert_eq!(resync(&world, &["user_0000"], false).await, [ResyncOutcome::RowIsLater]);
    assert_eq!(first_name().await, "Old");
    assert_eq!(resync(&world, &["user_0000"], true).await, [ResyncOutcome::Updated]);
    world.assert_equal().await;
    assert_eq!(resync(&world, &["user_0000"], true).await, [ResyncOutcome::Unchanged]);
    // A change with a later updated_at is not kept out.
    let mut newer = user_object(0);
    newer["first_name"] = json!("New");
    newer["updated_at"] = json!(world.now());
    world.webhook("msg_2", "user.updated", world.now(), &newer).await;
    assert_eq!(first_name().await, "New");
    assert_eq!(
        resync(&world, &["user_0000"], true).await,
        [ResyncOutcome::RowIsLater],
        "the answer is older"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_reads_one_object_and_checks_the_instance_of_the_key_every_five_minutes() {
    let world = World::new();
    world.populate(2, 1, 0);
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    let refresh = async |id: &str| reconciler.refresh(id, &stop).await.map(|of| of.outcome);
    assert_eq!(refresh("user_0000").await, Ok(ResyncOutcome::Inserted));
    assert_eq!(refresh("user_0000").await, Ok(ResyncOutcome::Unchanged));
    assert_eq!(refresh("org_0000").await, Ok(ResyncOutcome::Inserted));
    assert_eq!(refresh("user_9999").await, Ok(ResyncOutcome::Absent));
    assert_eq!(world.clerk.calls(), (0, 4), "one point read each, and no list");
    assert_eq!(refresh("orgmem_1").await, Ok(ResyncOutcome::UnknownKind));
    assert_eq!(world.living(&USERS).await, ["user_0000"], "nothing else is read");
    world.clerk.set_instance("ins_2");
    let second = Duration::from_secs(1);
    tokio::time::advance(INSTANCE_CHECKED_FOR.saturating_sub(second)).await;
    assert_eq!(refresh("user_0001").await, Ok(ResyncOutcome::Inserted));
    tokio::time::advance(second).await;
    let wrong = refresh("user_0001").await;
    assert!(matches!(wrong, Err(ReconcileError::WrongInstance { .. })), "{wrong:?}");
    let again = refresh("user_0001").await;
    assert!(
        matches!(again, Err(ReconcileError::WrongInstance { .. })),
        "a failed check is repeated: {again:?}"
    );
}

#[tokio::test]
async fn a_refresh_without_patience_does_not_ask_again() {
    let world = World::new();
    world.populate(1, 0, 0);
    let reconciler = world.reconciler().with_patience(Duration::ZERO);
    let stop = CancellationToken::new();
    assert!(reconciler.refresh("user_0000", &stop).await.is_ok());
    world.clerk.fail([Some(ClerkFault::Unavailable)]);
    let failed = reconciler.refresh("user_0000", &stop).await.expect_err("no answer");
    assert!(matches!(failed, ReconcileError::Source(SourceError::Unavailable(_))), "{failed:?}");
    assert!(reconciler.refresh("user_0000", &stop).await.is_ok());
}

#[tokio::test]
async fn an_object_that_clerk_cannot_read_alone_does_not_keep_the_others_from_being_read() {
    let world = World::new();
    world.populate(2, 0, 0);
    let entry = json!({ "id": "wle_1", "created_at": at(1), "updated_at": at(1) });
    world.webhook("msg_1", "waitlistEntry.created", at(1), &entry).await;
    let source = Scripted::new(&world.clerk, |request| {
        let is_unsupported = request == Request::Fetch(&WAITLIST_ENTRIES);
        let error = SourceError::Unsupported("Clerk has no read of one object of this resource");
        async move { if is_unsupported { Err(error) } else { Ok(()) } }.boxed()
    });
    let ids = ["wle_1", "user_0000"].map(str::to_owned);
    let resynced = world.reconciler_of(source).resync(&ids, false, &CancellationToken::new()).await;
    let outcomes: Vec<_> =
        resynced.expect("a resync").into_iter().map(|of| (of.id, of.table, of.outcome)).collect();
    let expected = [
        ("user_0000".to_owned(), Some("users"), ResyncOutcome::Inserted),
        ("wle_1".to_owned(), Some("waitlist_entries"), ResyncOutcome::NotReadable),
    ];
    assert_eq!(outcomes, expected);
    assert!(!ResyncOutcome::NotReadable.is_success());
}

#[tokio::test(start_paused = true)]
async fn refreshes_of_a_day_delete_no_more_rows_than_a_run_may_and_a_resync_by_an_operator_is_not_limited() {
    let world = World::new();
    world.populate(60, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| (0..30).for_each(|number| objects.remove(&USERS, &user_id(number))));
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    let refresh =
        async |number: usize| reconciler.refresh(&user_id(number), &stop).await.map(|of| of.outcome);
    for number in 0..20 {
        assert_eq!(refresh(number).await, Ok(ResyncOutcome::Deleted), "{number}");
        assert_eq!(refresh(number).await, Ok(ResyncOutcome::Absent), "{number}");
    }
    for _ in 0..2 {
        assert_eq!(refresh(20).await, Ok(ResyncOutcome::Unproven), "an incident at Clerk, perhaps");
    }
    assert_eq!(world.living(&USERS).await.len(), 40);
    assert_eq!(refresh(40).await, Ok(ResyncOutcome::Unchanged), "others are read");
    assert_eq!(resync(&world, &["user_0020"], false).await, [ResyncOutcome::Deleted]);
    tokio::time::advance(Duration::from_secs(86_400)).await;
    assert_eq!(refresh(21).await, Ok(ResyncOutcome::Deleted), "the next day");
}

#[tokio::test]
async fn a_refresh_deletes_no_organization_with_more_members_than_a_run_may_delete() {
    let world = World::new();
    world.populate(30, 2, 42);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| objects.remove(&ORGANIZATIONS, "org_0000"));
    let refreshed = world.reconciler().refresh("org_0000", &CancellationToken::new()).await;
    assert_eq!(refreshed.map(|of| of.outcome), Ok(ResyncOutcome::Unproven));
    assert_eq!(world.living(&ORGANIZATION_MEMBERSHIPS).await.len(), 42);
}
