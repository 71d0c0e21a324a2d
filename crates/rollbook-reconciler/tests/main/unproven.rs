//! Rows that were proved absent once, and of which the second proof fails: they live on, and the run says so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use rollbook_core::catalog::USERS;
use rollbook_core::store::RunState;
use rollbook_reconciler::{Approved, RunReport};
use rollbook_testkit::events::{change_of, event};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::{World, user_id, user_object};

/// A store with sixty users, of which Clerk has lost this many.
async fn with_gone_users(gone: usize) -> World {
    let world = World::new();
    world.populate(60, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| (0..gone).for_each(|number| objects.remove(&USERS, &user_id(number))));
    world
}

fn unproven(report: &RunReport) -> u64 {
    report.progress.sum(|of| of.unproven)
}

#[tokio::test]
async fn rows_without_a_second_proof_are_counted_as_unproven_and_the_next_run_deletes_them() {
    let world = with_gone_users(5).await;
    let (fetches, doubted): (_, Arc<Mutex<Option<Arc<Scripted>>>>) = (AtomicU64::new(0), Arc::default());
    let doubting = doubted.clone();
    let source = Scripted::new(&world.clerk, move |request| {
        if matches!(request, Request::Fetch(_)) && fetches.fetch_add(1, Ordering::Relaxed) == 1 {
            doubting.lock().expect("not poisoned").iter().for_each(|source| source.prove_nothing(true));
        }
        async { Ok(()) }.boxed()
    });
    *doubted.lock().expect("not poisoned") = Some(source.clone());
    let report = world.run_from(source, &CancellationToken::new()).await.expect("a run");
    assert_eq!((report.state, unproven(&report)), (RunState::Complete, 5));
    assert_eq!(world.living(&USERS).await.len(), 60);
    let next = world.run().await.expect("a run");
    assert_eq!((next.state, unproven(&next), world.living(&USERS).await.len()), (RunState::Complete, 0, 55));
}

#[tokio::test]
async fn a_row_that_a_webhook_writes_between_its_proofs_is_counted_as_unproven() {
    for is_during_the_read in [false, true] {
        let world = with_gone_users(5).await;
        let (fetches, store, clock) = (AtomicU64::new(0), world.store.clone(), world.clock.clone());
        // During the first point read: its row is written lately when the second one is due.
        let number_of_the_read = u64::from(is_during_the_read);
        let source = Scripted::new(&world.clerk, move |request| {
            let is_now = matches!(request, Request::Fetch(_))
                && fetches.fetch_add(1, Ordering::Relaxed) == number_of_the_read;
            let (store, now) = (store.clone(), rollbook_core::time::Clock::now(&*clock).as_millis());
            async move {
                if is_now {
                    let mut user = user_object(3);
                    user["updated_at"] = json!(now);
                    let change = change_of("msg_1", &event("user.updated", now, &user));
                    store.apply_many(&[change]).await.expect("the store applies it");
                }
                Ok(())
            }
            .boxed()
        });
        let report = world.run_from(source, &CancellationToken::new()).await.expect("a run");
        assert_eq!((report.state, unproven(&report)), (RunState::Complete, 1), "{is_during_the_read}");
        let living = world.living(&USERS).await;
        assert_eq!((living.len(), living.contains(&user_id(3))), (56, true));
        world.pass(3600);
        world.run().await.expect("a run");
        assert_eq!(world.living(&USERS).await.len(), 55, "Clerk lacks it still");
    }
}

#[tokio::test]
async fn an_approval_says_how_many_rows_it_could_not_prove_and_they_go_on_waiting() {
    let world = with_gone_users(25).await;
    let held = world.run().await.expect("a run");
    assert_eq!(held.state, RunState::Held);
    let source = Scripted::new(&world.clerk, |_| async { Ok(()) }.boxed());
    source.prove_nothing(true);
    let stop = CancellationToken::new();
    for _ in 0..2 {
        let approved = world.reconciler_of(source.clone()).approve(&held.run, &stop).await;
        assert_eq!(approved, Ok(Approved { unproven: 25, ..Approved::default() }));
    }
    assert_eq!(world.living(&USERS).await.len(), 60);
    source.prove_nothing(false);
    let approved = world.reconciler_of(source).approve(&held.run, &stop).await;
    assert_eq!(approved, Ok(Approved { deleted: 25, ..Approved::default() }));
    let run = world.store.run(&held.run).await.expect("the store").expect("the run");
    assert_eq!(run.state, RunState::Complete);
    assert!(!run.progress.contains("\"unproven\":25"), "an approval is not a walk: {}", run.progress);
}
