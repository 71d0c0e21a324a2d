//! A key of another instance makes everybody look deleted, so a run checks the instance first.

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::store::{Freshness, RunState};
use rollbook_reconciler::{ReconcileError, RunRequest};
use rollbook_testkit::events::{change_of, event, organization};

use super::world::{World, at, user_object};

#[tokio::test]
async fn a_key_of_another_instance_than_configured_is_refused_before_anything_is_read() {
    let mut world = World::new();
    world.populate(10, 0, 0);
    world.settings.instance_id = Some("ins_other".to_owned());
    let error = world.run().await.expect_err("a refusal");
    assert!(
        matches!(&error, ReconcileError::WrongInstance { known_by, .. } if known_by.contains("CLERK_INSTANCE_ID"))
    );
    assert_eq!((world.clerk.calls(), world.living(&USERS).await.len()), ((0, 0), 0));
    let runs = world.store.runs(1).await.expect("runs");
    assert_eq!(runs[0].state, RunState::Failed);
}

#[tokio::test]
async fn a_key_of_another_instance_than_the_last_run_read_is_refused() {
    let world = World::new();
    world.populate(10, 0, 0);
    world.run().await.expect("a run");
    world.clerk.set_instance("ins_2");
    world.clerk.change(|objects| *objects = <_>::default());
    world.pass(3600);
    let error = world.run().await.expect_err("a refusal");
    assert!(matches!(error, ReconcileError::WrongInstance { .. }), "{error}");
    assert_eq!(world.living(&USERS).await.len(), 10);
}

#[tokio::test]
async fn where_nothing_names_the_instance_a_sample_of_the_rows_must_exist_at_clerk() {
    let world = World::new();
    let mut foreign = vec![event("organization.created", at(1), &organization("org_1", at(1)))];
    foreign.extend((0..4).map(|number| event("user.created", at(number), &user_object(number))));
    for (number, event) in foreign.iter().enumerate() {
        // As an earlier build did: the instance is not remembered.
        let change = change_of(&format!("msg_{number}"), event);
        world.store.apply_many(&[change]).await.expect("the store applies it");
        world.pass(3600);
        let error = world.run().await.expect_err("a refusal");
        assert!(matches!(error, ReconcileError::ForeignRows(sampled) if sampled == number + 1), "{error}");
    }
    assert_eq!((world.living(&USERS).await.len(), world.living(&ORGANIZATIONS).await.len()), (4, 1));
    world.clerk.change(|objects| objects.put(&USERS, &user_object(2)));
    world.pass(1);
    world.run().await.expect("one of them is enough");
}

#[tokio::test]
async fn a_key_of_another_instance_than_the_events_name_is_refused_however_few_rows_there_are_and_how_often_it_is_tried()
 {
    let world = World::new();
    world.webhook("msg_1", "organization.created", at(1), &organization("org_1", at(1))).await;
    world.clerk.set_instance("ins_2");
    for _ in 0..25 {
        world.pass(3600);
        let error = world.run().await.expect_err("a refusal");
        assert!(matches!(error, ReconcileError::WrongInstance { .. }), "{error}");
    }
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), 1);
}

#[tokio::test]
async fn events_of_another_instance_than_the_first_run_read_make_the_next_run_ask_for_the_setting() {
    let mut world = World::new();
    world.clerk.set_instance("ins_2");
    world.run().await.expect("an empty store takes any instance");
    for number in 0..10 {
        world.webhook(&format!("msg_{number}"), "user.created", at(number), &user_object(number)).await;
    }
    for instance in ["ins_2", "ins_1"] {
        world.clerk.set_instance(instance);
        world.pass(3600);
        let error = world.run().await.expect_err("a refusal");
        let text = error.to_string();
        assert!(["ins_1, ins_2", "CLERK_INSTANCE_ID"].iter().all(|words| text.contains(words)), "{text}");
        assert!(!error.is_temporary());
    }
    assert_eq!(world.living(&USERS).await.len(), 10);
    world.settings.instance_id = Some("ins_1".to_owned());
    world.clerk.change(|objects| (0..10).for_each(|number| objects.put(&USERS, &user_object(number))));
    world.run().await.expect("the setting decides");
    assert_eq!(world.living(&USERS).await.len(), 10);
}

#[tokio::test]
async fn a_dry_run_remembers_no_instance() {
    let world = World::new();
    world.clerk.set_instance("ins_2");
    world.run_as(&RunRequest { is_dry: true, ..RunRequest::default() }).await.expect("a dry run");
    world.clerk.set_instance("ins_1");
    world.run().await.expect("the instance of the first run");
    assert_eq!(
        world.store.freshness().await.expect("records").iter().filter_map(Freshness::instance).count(),
        1
    );
}
