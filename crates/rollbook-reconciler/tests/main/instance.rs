//! A key of another instance makes everybody look deleted, so a run checks the instance first.

use rollbook_core::catalog::USERS;
use rollbook_core::store::RunState;
use rollbook_reconciler::ReconcileError;

use super::world::{World, user_object};

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
    for number in 0..5 {
        world
            .webhook(&format!("msg_{number}"), "user.created", super::world::at(number), &user_object(number))
            .await;
    }
    let error = world.run().await.expect_err("a refusal");
    assert!(matches!(error, ReconcileError::ForeignRows(5)), "{error}");
    assert_eq!(world.living(&USERS).await.len(), 5);
    world.clerk.change(|objects| objects.put(&USERS, &user_object(2)));
    world.pass(1);
    world.run().await.expect("one of them is enough");
}
