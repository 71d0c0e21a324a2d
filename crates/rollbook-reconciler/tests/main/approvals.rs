//! An approval is not a walk, and settles nothing of other runs.

use std::time::Duration;

use futures_util::FutureExt as _;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, USERS};
use rollbook_core::drift::Drift;
use rollbook_core::source::SourceError;
use rollbook_core::store::{HeldState, Run, RunState};
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{ReconcileError, Resume, RunRequest};
use rollbook_testkit::events::deleted;
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::{World, user_id, user_object};

const DAY: u64 = 86_400;

/// A store with sixty users, of which Clerk has lost twenty-five.
async fn with_many_gone() -> World {
    let world = World::new();
    world.populate(60, 2, 2);
    world.run().await.expect("a run");
    world.pass(DAY);
    world.clerk.change(|objects| (0..25).for_each(|number| objects.remove(&USERS, &user_id(number))));
    world
}

async fn waiting(world: &World) -> Vec<(Drift, u64)> {
    let counts = world.store.count_held(None).await.expect("counts");
    let waiting = counts.into_iter().filter(|of| of.state == HeldState::Waiting);
    waiting.map(|of| (of.kind, of.count)).collect()
}

async fn walked_at(world: &World) -> Option<Timestamp> {
    let records = world.store.freshness().await.expect("freshness");
    records.iter().find(|of| of.table == "users").map(|of| of.last_walk_at)
}

#[tokio::test]
async fn an_approval_moves_neither_the_time_of_the_last_walk_nor_the_end_of_the_run() {
    let world = with_many_gone().await;
    let report = world.run().await.expect("a run");
    let walked = walked_at(&world).await;
    world.pass(5 * DAY);
    let approved = world.reconciler().approve(&report.run, &CancellationToken::new()).await;
    assert_eq!(approved.expect("an approval").deleted, 25);
    assert_eq!(walked_at(&world).await, walked, "nothing was walked since");
    let run = world.store.run(&report.run).await.expect("the store").expect("the run");
    assert_eq!((run.state, run.finished_at), (RunState::Complete, Some(report.finished_at)));
    let records = world.store.freshness().await.expect("freshness");
    assert!(records.iter().any(|of| of.table == "users" && of.complete_since.is_some()));
}

#[tokio::test]
async fn an_approval_keeps_the_reason_of_a_failed_run_and_what_a_later_check_holds() {
    let world = with_many_gone().await;
    let source = Scripted::new(&world.clerk, |request| {
        let refused = matches!(request, Request::Page(of) if of == &ORGANIZATION_MEMBERSHIPS);
        let error = SourceError::Refused("402 unsupported_plan".to_owned());
        async move { if refused { Err(error) } else { Ok(()) } }.boxed()
    });
    world.run_from(source, &CancellationToken::new()).await.expect_err("a list is refused");
    let failed = world.store.runs(1).await.expect("runs").remove(0);
    let gone = deleted("user", &user_id(40));
    world.webhook("msg_1", "user.deleted", world.now(), &gone).await;
    world.pass(3_600);
    let stop = CancellationToken::new();
    world.reconciler().check_recent_users(Timestamp::from_millis(0), &stop).await.expect("a check");
    assert_eq!(waiting(&world).await.len(), 2);
    world.reconciler().approve(&failed.id, &stop).await.expect("an approval");
    assert_eq!(waiting(&world).await, [(Drift::WronglyDeleted, 1)], "the check's finding waits still");
    let run = world.store.run(&failed.id).await.expect("the store").expect("the run");
    assert_eq!((run.state, run.last_error.is_some()), (RunState::Failed, true));
    assert_eq!(run.last_error, failed.last_error);
}

#[tokio::test]
async fn a_wrongly_deleted_user_whom_every_check_sees_waits_once_and_again_after_it_was_settled() {
    let world = World::new();
    world.populate(10, 0, 0);
    world.run().await.expect("a run");
    let gone = deleted("user", &user_id(4));
    world.webhook("msg_1", "user.deleted", world.now(), &gone).await;
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    for _ in 0..3 {
        world.pass(300);
        reconciler.check_recent_users(Timestamp::from_millis(0), &stop).await.expect("a check");
        assert_eq!(waiting(&world).await, [(Drift::WronglyDeleted, 1)]);
    }
    let revived = reconciler.resync(&[user_id(4)], true, &stop).await.expect("a resync");
    assert!(revived[0].outcome.is_success());
    assert_eq!(waiting(&world).await, []);
    world.pass(3_600);
    world.webhook("msg_2", "user.deleted", world.now(), &gone).await;
    world.pass(3_600);
    reconciler.check_recent_users(Timestamp::from_millis(0), &stop).await.expect("a check");
    assert_eq!(waiting(&world).await, [(Drift::WronglyDeleted, 1)]);
}

#[tokio::test]
async fn a_run_of_another_instance_is_neither_approved_nor_gone_on_with() {
    let mut world = with_many_gone().await;
    let held = world.run().await.expect("a run");
    world.settings.save_every = Duration::ZERO;
    let stop = CancellationToken::new();
    let token = stop.clone();
    let source = Scripted::new(&world.clerk, move |request| {
        if matches!(request, Request::Page(of) if of == &ORGANIZATION_MEMBERSHIPS) {
            token.cancel();
        }
        async { Ok(()) }.boxed()
    });
    world.pass(3_600);
    let request = RunRequest { only: vec![&ORGANIZATION_MEMBERSHIPS], ..RunRequest::default() };
    let stopped =
        world.reconciler_of(source).run(&request, &stop, tokio::sync::watch::Sender::default()).await;
    assert!(matches!(stopped, Err(ReconcileError::Stopped)), "{stopped:?}");
    let stopped = world.store.runs(1).await.expect("runs").remove(0);
    // An operator names another instance, which has other users.
    world.settings.instance_id = Some("ins_2".to_owned());
    world.clerk.set_instance("ins_2");
    let approved = world.reconciler().approve(&held.run, &CancellationToken::new()).await;
    let error = approved.expect_err("a refusal").to_string();
    assert!(error.contains("another Clerk instance"), "{error}");
    assert_eq!(world.living(&USERS).await.len(), 60);
    world.clerk.change(|objects| objects.put(&USERS, &user_object(99)));
    let request = RunRequest { resume: Resume::IfUnfinished, ..RunRequest::default() };
    let report = world.run_as(&request).await.expect("a run");
    assert_ne!(report.run, stopped.id, "a new one");
    assert!(world.living(&USERS).await.contains(&user_id(99)), "it reads every list");
    let stopped = world.store.run(&stopped.id).await.expect("the store").expect("the run");
    assert_eq!(stopped.state, RunState::Failed);
}

#[tokio::test]
async fn a_run_with_a_record_that_another_version_has_written_is_not_approved_and_keeps_it() {
    let world = with_many_gone().await;
    let held = world.run().await.expect("a run");
    let run = world.store.run(&held.run).await.expect("the store").expect("the run");
    let newer = Run { progress: r#"{"resources":"in another form"}"#.to_owned(), ..run };
    world.store.save_run(&newer).await.expect("a record");
    let approved = world.reconciler().approve(&held.run, &CancellationToken::new()).await;
    let error = approved.expect_err("a refusal").to_string();
    assert!(error.contains("another version of Rollbook") && error.contains("rollbook reconcile"), "{error}");
    assert_eq!(world.living(&USERS).await.len(), 60);
    let kept = world.store.run(&held.run).await.expect("the store").expect("the run");
    assert_eq!(kept.progress, newer.progress);
}
