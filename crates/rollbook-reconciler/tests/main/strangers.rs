//! Objects of another type, and objects that are marked as deleted: neither rows nor proofs.

use std::sync::Arc;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, SUBSCRIPTION_ITEMS, USERS};
use rollbook_core::source::RECONCILED;
use rollbook_core::store::RunState;
use rollbook_reconciler::{ResyncOutcome, Status};
use rollbook_testkit::memory::clerk::MemoryClerk;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::scripted::Scripted;
use super::world::{World, at, user_id, user_object};

/// Makes an object of Clerk's one that is not of its list.
type Spoil = fn(&mut Value);

const SPOILT: [Spoil; 3] = [
    |object| object["object"] = json!("session"),
    |object| object["object"] = json!(7),
    |object| object["deleted"] = json!(true),
];

fn object_of(resource: &'static Resource, number: usize) -> Value {
    let id = format!("{}_{number:04}", resource.object);
    json!({ "id": id, "object": resource.object, "created_at": at(number), "updated_at": at(number) })
}

#[tokio::test]
async fn an_object_of_another_type_or_marked_as_deleted_in_any_list_becomes_no_row() {
    for resource in RECONCILED {
        for spoil in SPOILT {
            let world = World::new();
            let mut spoilt = object_of(resource, 2);
            spoil(&mut spoilt);
            world.clerk.change(|objects| {
                for number in [0, 1, 3] {
                    objects.put(resource, &object_of(resource, number));
                }
                objects.put(resource, &spoilt);
            });
            let report = world.run().await.expect("a run");
            let case = format!("{resource:?}: {spoilt}");
            let of = report.progress.resources.iter().find(|of| of.table == resource.table).expect("it");
            assert_eq!((report.state, of.unreadable, of.read), (RunState::Held, 1, 4), "{case}");
            assert_eq!(world.living(resource).await.len(), 3, "{case}");
            let status = Status::read(&*world.store, 1, 10).await.expect("the store answers");
            assert_eq!((status.waiting[0].count, status.waiting[0].resource.as_str()), (1, resource.table));
            assert!(status.waiting[0].fix.contains("of another type"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_row_of_which_the_object_is_of_another_type_now_stays_as_it_is() {
    for spoil in SPOILT {
        let world = World::new();
        world.populate(12, 1, 0);
        world.run().await.expect("a run");
        world.pass(3600);
        let before = world.rows(&USERS).await;
        let mut spoilt = user_object(5);
        (spoilt["first_name"], spoilt["updated_at"]) = (json!("Nobody"), json!(world.now()));
        spoil(&mut spoilt);
        world.clerk.change(|objects| objects.put(&USERS, &spoilt));
        let report = world.run().await.expect("a run");
        assert_eq!((report.state, report.progress.sum(|of| of.unreadable)), (RunState::Held, 1));
        assert_eq!(world.rows(&USERS).await, before, "{spoilt}");
        let ids = [user_id(5)];
        let resynced = world.reconciler().resync(&ids, true, &CancellationToken::new()).await;
        assert_eq!(resynced.expect("a resync")[0].outcome, ResyncOutcome::Unproven, "{spoilt}");
        assert_eq!(world.rows(&USERS).await, before, "{spoilt}");
        world.clerk.change(|objects| objects.put(&USERS, &user_object(5)));
        assert_eq!(world.run().await.expect("a run").state, RunState::Complete);
        world.assert_equal().await;
    }
}

#[tokio::test]
async fn a_point_read_that_answers_with_an_object_of_another_type_proves_neither_life_nor_death() {
    for spoil in SPOILT {
        let world = World::new();
        world.populate(12, 0, 0);
        world.run().await.expect("a run");
        world.pass(3600);
        let before = world.rows(&USERS).await;
        // The list leaves the user out; the point read has something else under its id.
        let listed = Arc::new(MemoryClerk::new(world.clock.clone()));
        listed.change(|objects| {
            (0..12)
                .filter(|number| *number != 5)
                .for_each(|number| objects.put(&USERS, &user_object(number)));
        });
        let mut spoilt = user_object(5);
        spoil(&mut spoilt);
        world.clerk.change(|objects| objects.put(&USERS, &spoilt));
        let source = Scripted::with_lists_of(&listed, &world.clerk);
        let report = world.run_from(source, &CancellationToken::new()).await.expect("a run");
        let of = report.progress.resources.iter().find(|of| of.table == "users").expect("users");
        assert_eq!((of.unproven, of.alive, of.written), (1, 0, 0), "{spoilt}");
        assert_eq!(world.rows(&USERS).await, before);
    }
}

#[tokio::test]
async fn pages_that_end_with_objects_of_another_type_lose_no_later_object_and_prove_no_absence() {
    for resource in [&ORGANIZATIONS, &USERS, &ORGANIZATION_MEMBERSHIPS] {
        let world = World::new();
        // A page has 50 objects.
        world.clerk.change(|objects| {
            for number in 0..130 {
                let mut object = object_of(resource, number);
                if (40..60).contains(&number) {
                    object["object"] = json!("session");
                }
                objects.put(resource, &object);
            }
        });
        let report = world.run().await.expect("a run");
        // Those at the end of a page are on the next one too.
        assert_eq!((report.state, report.progress.sum(|of| of.unreadable) >= 20), (RunState::Held, true));
        assert_eq!(world.living(resource).await.len(), 110, "{resource:?}");
    }
}

#[tokio::test]
async fn subscription_items_of_another_type_are_counted_and_not_compared() {
    let world = World::new();
    world.clerk.change(|objects| {
        objects.put(&SUBSCRIPTION_ITEMS, &object_of(&SUBSCRIPTION_ITEMS, 1));
        let mut deleted = object_of(&SUBSCRIPTION_ITEMS, 2);
        deleted["deleted"] = json!(true);
        objects.put(&SUBSCRIPTION_ITEMS, &deleted);
    });
    let report = world.run().await.expect("a run");
    let of = report.progress.resources.last().expect("the items");
    assert_eq!((of.read, of.unreadable, of.drift["missing"]), (2, 1, 1));
}
