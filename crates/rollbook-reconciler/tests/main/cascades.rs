//! Rows that deletions take with them: the brake counts them, and a run follows them to their end.

use std::sync::Arc;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS};
use rollbook_core::store::{FullStore, HeldKey, HeldState, RunState};
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{Progress, RunReport, RunRequest, Status};
use rollbook_sqlite::{Schema, SqliteStore};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::START;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::world::{World, organization_id, user_id};

/// A store that has `organizations` with `members` each, of which the first `gone` do not exist at Clerk any more.
async fn with_gone_organizations(world: World, organizations: usize, members: usize, gone: usize) -> World {
    world.populate(organizations * members, organizations, organizations * members);
    world.run().await.expect("a run");
    world.pass(3600);
    remove(&world, organizations, members, gone);
    world
}

fn remove(world: &World, organizations: usize, members: usize, gone: usize) {
    world.clerk.change(|objects| {
        for number in 0..gone {
            objects.remove(&ORGANIZATIONS, &organization_id(number));
            for member in 0..members {
                let id = format!("orgmem_{:04}", member * organizations + number);
                objects.remove(&ORGANIZATION_MEMBERSHIPS, &id);
            }
        }
    });
}

fn along(report: &RunReport) -> u64 {
    report.progress.resources[0].cascades.get("organization_memberships").copied().unwrap_or_default()
}

async fn living(world: &World) -> (usize, usize) {
    (world.living(&ORGANIZATIONS).await.len(), world.living(&ORGANIZATION_MEMBERSHIPS).await.len())
}

#[tokio::test]
async fn twenty_memberships_go_with_their_organization_and_twenty_one_hold_it() {
    let world = with_gone_organizations(World::new(), 3, 20, 1).await;
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, along(&report), living(&world).await), (RunState::Complete, 20, (2, 40)));
    world.assert_equal().await;

    let world = with_gone_organizations(World::new(), 3, 21, 1).await;
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, along(&report), living(&world).await), (RunState::Held, 21, (3, 63)));
    let status = Status::read(&*world.store, 1, 10).await.expect("the store answers");
    let of = status.waiting.iter().find(|of| of.resource == "organizations").expect("it waits");
    assert_eq!((of.count, of.taken_along["organization_memberships"]), (1, 21));
    let approved = world.reconciler().approve(&report.run, &CancellationToken::new()).await;
    assert_eq!(approved.expect("an approval").deleted, 1, "the memberships are deleted with it");
    world.assert_equal().await;
    let run = world.store.run(&report.run).await.expect("the store").expect("the run");
    assert_eq!(run.state, RunState::Complete);
}

#[tokio::test]
async fn one_row_in_a_hundred_counts_for_the_table_of_the_children() {
    for (by_itself, state) in [(0, RunState::Complete), (1, RunState::Held)] {
        let mut world = World::new();
        world.settings.page_size = 500;
        world.populate(10, 100, 2_200);
        world.run().await.expect("a run");
        world.pass(3600);
        remove(&world, 100, 22, 1);
        let id = |number: usize| format!("orgmem_{:04}", number * 100 + 1);
        world.clerk.change(|objects| {
            (0..by_itself).for_each(|number| objects.remove(&ORGANIZATION_MEMBERSHIPS, &id(number)));
        });
        let report = world.run().await.expect("a run");
        assert_eq!((report.state, along(&report)), (state, 22), "{by_itself}");
        assert_eq!(living(&world).await, (99, 2_178), "{by_itself}");
    }
}

#[tokio::test]
async fn what_goes_with_several_parents_and_what_goes_by_itself_is_one_sum() {
    let world = with_gone_organizations(World::new(), 3, 11, 2).await;
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, living(&world).await), (RunState::Held, (3, 33)), "two times eleven");

    let world = with_gone_organizations(World::new(), 3, 15, 1).await;
    world.clerk.change(|objects| {
        for member in 0..6 {
            objects.remove(&ORGANIZATION_MEMBERSHIPS, &format!("orgmem_{:04}", member * 3 + 1));
        }
    });
    let report = world.run().await.expect("a run");
    assert_eq!(
        (report.state, living(&world).await),
        (RunState::Held, (2, 30)),
        "15 with their parent, 6 are held"
    );

    let world = with_gone_organizations(World::new(), 3, 15, 1).await;
    world.clerk.change(|objects| {
        // Each of these users has one membership, in an organization that is still there.
        (0..6).for_each(|number| objects.remove(&USERS, &user_id(number * 3 + 1)));
    });
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, living(&world).await), (RunState::Held, (2, 30)), "the users are held");
    assert_eq!(world.living(&USERS).await.len(), 45);
}

#[tokio::test]
async fn a_dry_run_says_that_the_brake_would_hold() {
    for (members, held, state) in [(20, 0, RunState::Complete), (21, 1, RunState::Held)] {
        let world = with_gone_organizations(World::new(), 3, members, 1).await;
        let request = RunRequest { is_dry: true, ..RunRequest::default() };
        let report = world.run_as(&request).await.expect("a dry run");
        assert_eq!((report.progress.resources[0].held, along(&report)), (held, members as u64));
        assert_eq!(report.state, state, "{members}");
        assert_eq!(living(&world).await, (3, 3 * members));
    }
}

#[tokio::test]
async fn a_resumed_run_counts_what_went_before_it_was_killed() {
    let world = with_gone_organizations(World::new(), 4, 10, 3).await;
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, living(&world).await), (RunState::Held, (4, 40)), "three times ten");
    // As if the brake had let two of them through, and a kill came before the third.
    let mut run = world.store.run(&report.run).await.expect("the store").expect("the run");
    let mut progress = Progress::parse(&run.progress).expect("a progress");
    let of = &mut progress.resources[0];
    (of.held, of.is_done, of.is_braked) = (0, false, false);
    of.cascades.insert("organization_memberships".to_owned(), 30);
    (run.state, run.finished_at, run.progress) = (RunState::Running, None, progress.to_text());
    world.store.save_run(&run).await.expect("the store records");
    let first = HeldKey { table: "organizations".to_owned(), id: String::new() };
    let held = world.store.held(&run.id, HeldState::Waiting, Some(&first), 10).await.expect("held");
    let keys: Vec<HeldKey> = held.into_iter().map(|held| held.key).collect();
    world.store.settle_held(&run.id, &keys[2..], HeldState::Collected).await.expect("the store records");
    let resumed = world.resume().await.expect("a run");
    assert_eq!((resumed.state, living(&world).await), (RunState::Held, (4, 40)), "the third one is held too");
}

fn sqlite() -> (TempDir, World) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START + 86_400_000)));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db");
    rollbook_sqlite::apply_migrations(&file, Schema::Store).expect("the migrations apply");
    let store: Arc<dyn FullStore> =
        Arc::new(SqliteStore::open(&file, clock.clone()).expect("the store opens"));
    (folder, World::over(store, clock))
}

#[tokio::test]
async fn an_approval_ends_when_the_cascade_of_a_large_organization_has_ended() {
    const MEMBERS: usize = 2_500;
    let (_folder, mut world) = sqlite();
    world.settings.page_size = 500;
    world.populate(10, 2, 2 * MEMBERS);
    world.run().await.expect("a run");
    world.pass(3600);
    remove(&world, 2, MEMBERS, 1);
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Held);
    let approved = world.reconciler().approve(&report.run, &CancellationToken::new()).await;
    let approved = approved.expect("an approval");
    assert_eq!((approved.deleted, approved.pending), (1, 0));
    assert_eq!(
        approved.taken_along.into_iter().collect::<Vec<_>>(),
        [("organization_memberships".to_owned(), MEMBERS as u64)]
    );
    assert_eq!(world.store.count_living(&ORGANIZATION_MEMBERSHIPS).await, Ok(MEMBERS as u64));
    let left = world.store.cascades(None, 1).await.expect("the store answers");
    assert_eq!((left.parents, left.rows), (0, 0), "no worker has to end it");
}

#[tokio::test]
async fn a_child_row_that_refuses_its_parents_deletion_keeps_the_run_from_being_complete() {
    let (folder, world) = sqlite();
    let world = with_gone_organizations(world, 2, 5, 1).await;
    let trigger = |sql: &str| {
        let connection = rusqlite::Connection::open(folder.path().join("store.db")).expect("it opens");
        connection.execute_batch(sql).expect("the trigger changes");
    };
    trigger(
        "CREATE TRIGGER refuse BEFORE UPDATE ON organization_memberships WHEN NEW.id = 'orgmem_0002'
         BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.pending)), (RunState::Held, 1));
    assert_eq!(living(&world).await, (1, 6), "the others are marked as deleted");
    let walks = world.store.freshness().await.expect("freshness");
    let organizations = walks.iter().find(|of| of.table == "organizations").expect("its walk");
    assert_eq!(organizations.complete_since, None);
    trigger("DROP TRIGGER refuse");
    world.pass(3600);
    assert_eq!(world.run().await.expect("a run").state, RunState::Complete);
    assert_eq!(living(&world).await, (1, 5));
}
