//! Answers of Clerk that a feature is not enabled.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::source::{PageRequest, Position, SourceError};
use rollbook_core::store::{HeldState, RunState};
use rollbook_reconciler::ReconcileError;
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use rollbook_testkit::memory::clerk::MemoryClerk;

use super::lying::{Answer, Lying};
use super::world::{World, organization_id};

fn not_enabled(
    of: &'static Resource,
    from: u64,
) -> impl Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer {
    move |_, resource, request, page| {
        let is_before = matches!(request.position, Position::Offset(offset) if offset < from);
        if resource != of || is_before {
            return page;
        }
        Err(SourceError::NotEnabled(
            "GET /organizations: 403 organization_not_enabled_in_instance".to_owned(),
        ))
    }
}

#[tokio::test]
async fn a_feature_that_was_never_enabled_leaves_nothing_to_read() {
    let world = World::new();
    world.populate(3, 0, 0);
    let source = Lying::new(&world).pages(not_enabled(&ORGANIZATIONS, 0));
    let report = source.run(&world, &[]).await.expect("a run");
    assert_eq!(report.state, RunState::Complete);
    let walks = world.store.freshness().await.expect("freshness");
    // The record of the instance is not a walk.
    let mut walks = walks.iter().filter(|of| !of.table.contains(':'));
    assert!(walks.all(|of| of.complete_since.is_some()));
}

#[tokio::test]
async fn rows_of_a_feature_that_is_not_enabled_any_more_stay_and_the_run_is_not_complete() {
    let world = World::new();
    world.populate(3, 10, 0);
    for number in 0..10 {
        let id = organization_id(number);
        let object = world.clerk.change(|objects| objects.get(&ORGANIZATIONS, &id).cloned());
        let object = object.expect("an organization").into();
        world.webhook(&format!("msg_{number}"), "organization.created", world.now(), &object).await;
    }
    let source = Lying::new(&world).pages(not_enabled(&ORGANIZATIONS, 0));
    let report = source.run(&world, &[]).await.expect("a run");
    assert_eq!((report.state, report.progress.resources[0].not_enabled), (RunState::Held, 10));
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), 10);
    let walks = world.store.freshness().await.expect("freshness");
    assert!(walks.iter().all(|of| of.table != "organizations"), "{walks:?}");
}

#[tokio::test]
async fn what_is_held_waits_on_while_the_feature_is_not_enabled() {
    let world = World::new();
    world.populate(0, 60, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| (0..30).for_each(|of| objects.remove(&ORGANIZATIONS, &organization_id(of))));
    assert_eq!(world.run().await.expect("a run").state, RunState::Held);
    world.pass(3600);
    let source = Lying::new(&world).pages(not_enabled(&ORGANIZATIONS, 0));
    assert_eq!(source.run(&world, &[]).await.expect("a run").state, RunState::Held);
    let held = world.store.count_held(None).await.expect("held");
    let waiting: u64 = held.iter().filter(|of| of.state == HeldState::Waiting).map(|of| of.count).sum();
    assert_eq!(waiting, 30);
}

#[tokio::test(start_paused = true)]
async fn users_and_later_pages_can_not_be_without_the_feature() {
    let mut world = World::new();
    world.populate(3, 130, 0);
    // The page before is still written when the answer comes.
    world.store = Arc::new(FaultyStore::new(world.store.clone(), |call| match call {
        StoreCall::Apply(_) => Fault::Late(Duration::from_secs(1)),
        _ => Fault::None,
    }));
    for (resource, from) in [(&USERS, 0), (&ORGANIZATIONS, 1), (&ORGANIZATIONS, 90)] {
        let source = Lying::new(&world).pages(not_enabled(resource, from));
        let error = source.run(&world, &[resource]).await.expect_err("an error");
        let text = error.to_string();
        let names_the_list = text.contains(&format!("{}: the feature is not enabled", resource.table));
        assert!(names_the_list && matches!(error, ReconcileError::Lists { .. }), "{text}");
        let walks = world.store.freshness().await.expect("freshness");
        assert!(walks.iter().all(|of| of.table != resource.table), "{walks:?}");
    }
}
