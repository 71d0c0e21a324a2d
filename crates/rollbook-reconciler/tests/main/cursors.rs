//! Lists of users with cursors and counts that are wrong.

use std::time::Duration;

use rollbook_core::catalog::{Resource, USERS};
use rollbook_core::source::{Page, PageRequest, Position, SourceError, Window};
use rollbook_core::store::RunState;
use rollbook_core::time::Timestamp;
use rollbook_reconciler::ReconcileError;
use rollbook_testkit::events::START;
use rollbook_testkit::memory::clerk::MemoryClerk;
use serde_json::json;

use super::lying::{Answer, Lying};
use super::world::{World, user_object};

/// Users who were all created in one millisecond.
fn tied(number: usize) -> World {
    let world = World::new();
    world.clerk.change(|objects| {
        for number in 0..number {
            let mut user = user_object(number);
            user["created_at"] = json!(START);
            objects.put(&USERS, &user);
        }
    });
    world
}

fn spread(users: usize) -> World {
    let world = World::new();
    world.populate(users, 0, 0);
    world
}

/// Runs, in a bounded number of requests. A run that reaches its end leaves no difference.
async fn ended(world: &World, source: Lying) -> Result<(), ReconcileError> {
    let only: [&'static Resource; 1] = [&USERS];
    let run = source.run(world, &only);
    let result = tokio::time::timeout(Duration::from_secs(600), run).await.expect("the walk ends");
    let (pages, _) = world.clerk.calls();
    assert!(pages < 120, "{pages} pages");
    assert_eq!(result?.state, RunState::Complete);
    world.assert_equal().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_the_cursor_is_named_unless_one_page_is_all() {
    fn ignore(
        clerk: &MemoryClerk,
        resource: &'static Resource,
        request: &PageRequest,
        page: Answer,
    ) -> Answer {
        let objects = clerk.change(|objects| {
            objects.list(resource).into_iter().take(request.limit).map(|of| of.clone().into()).collect()
        });
        Ok(Page { objects, ..page? })
    }
    for (world, is_readable) in
        [(tied(1), true), (tied(40), true), (tied(120), false), (spread(40), true), (spread(120), false)]
    {
        let result = ended(&world, Lying::new(&world).pages(ignore)).await;
        assert_eq!(result.is_ok(), is_readable, "{result:?}");
        assert!(
            result.is_ok() || matches!(result, Err(ReconcileError::Contradiction { table: "users", .. }))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_every_cursor_is_named_if_more_than_a_page_has_one_created_at() {
    fn refuse(_: &MemoryClerk, _: &'static Resource, request: &PageRequest, page: Answer) -> Answer {
        match &request.position {
            Position::After { id: Some(_), .. } => Err(SourceError::Refused("422".to_owned())),
            _ => page,
        }
    }
    let world = tied(60);
    let error = ended(&world, Lying::new(&world).pages(refuse)).await.expect_err("an error");
    assert!(error.to_string().contains("starting_after"), "{error}");
    let world = spread(120);
    ended(&world, Lying::new(&world).pages(refuse)).await.expect("the parts go on by created_at");
}

#[tokio::test(start_paused = true)]
async fn counts_that_are_larger_by_one_or_by_inclusive_bounds_end_no_run_by_an_error() {
    let one_more = |_, count| count + 1;
    // The lower bound of a part that begins after an object is one that has this object if it is inclusive.
    let inclusive = |window: Window, count| count + u64::from(window.from != Window::ALL.from);
    for users in [0, 1, 40, 50, 130] {
        let world = spread(users);
        ended(&world, Lying::new(&world).counts(one_more)).await.expect("a run");
        let world = spread(users);
        ended(&world, Lying::new(&world).counts(inclusive)).await.expect("a run");
        let world = tied(users);
        let inclusive_ties = move |window: Window, count| {
            let is_after = window.from == Timestamp::from_millis(START + 1);
            count + if is_after { users as u64 } else { 0 }
        };
        ended(&world, Lying::new(&world).counts(inclusive_ties)).await.expect("a run");
    }
}

#[tokio::test(start_paused = true)]
async fn a_count_that_names_many_more_users_than_the_list_is_an_error_after_some_tries() {
    let world = spread(130);
    let result = ended(&world, Lying::new(&world).counts(|_, count| count + 1_000)).await;
    assert!(matches!(result, Err(ReconcileError::Contradiction { table: "users", .. })), "{result:?}");
    assert_eq!(world.living(&USERS).await.len(), 130);
}
