//! Pages that are too large for one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rollbook_core::catalog::{ORGANIZATIONS, ROLES, Resource, USERS};
use rollbook_core::source::{PageRequest, RawObject, SourceError};
use rollbook_core::store::{RunState, StoreError};
use rollbook_reconciler::{ReconcileError, RunReport, Settings};
use rollbook_testkit::memory::clerk::MemoryClerk;
use serde_json::json;

use super::lying::{Answer, Lying};
use super::world::{World, organization_id, user_id, user_object};

/// Maximum size of an answer in these tests.
const ANSWER_MAX: usize = 64 * 1024;

/// Requests of one run that were too large, and all.
#[derive(Clone, Default)]
struct Seen(Arc<[AtomicUsize; 2]>);

impl Seen {
    fn numbers(&self) -> (usize, usize) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }

    /// Refuses pages that are too large.
    fn limited(&self) -> impl Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer + use<> {
        let seen = self.clone();
        move |_, _, request, page| {
            let page = page?;
            seen.0[1].fetch_add(1, Ordering::Relaxed);
            let bytes: usize = page.objects.iter().map(RawObject::len).sum();
            if bytes > request.bytes_max.min(ANSWER_MAX) {
                seen.0[0].fetch_add(1, Ordering::Relaxed);
                return Err(SourceError::TooLarge(
                    "GET /users: the answer has more than 65536 bytes".to_owned(),
                ));
            }
            Ok(page)
        }
    }
}

/// Users and organizations, of which those in `large` have metadata of this size.
fn world(number: usize, large: std::ops::Range<usize>, bytes: usize) -> World {
    let mut world = World::new();
    world.settings = Settings { page_size: 500, ..world.settings };
    world.populate(number, number, 0);
    world.clerk.change(|objects| {
        for number in large {
            let metadata = json!({ "text": "x".repeat(bytes) });
            let mut user = user_object(number);
            user["public_metadata"] = metadata.clone();
            objects.put(&USERS, &user);
            let id = organization_id(number);
            let mut organization = json!(objects.get(&ORGANIZATIONS, &id).cloned().expect("an organization"));
            organization["public_metadata"] = metadata;
            objects.put(&ORGANIZATIONS, &organization);
        }
    });
    world
}

async fn run(world: &World) -> (Result<RunReport, ReconcileError>, (usize, usize)) {
    let seen = Seen::default();
    let report = Lying::new(world).pages(seen.limited()).run(world, &[]).await;
    (report, seen.numbers())
}

#[tokio::test]
async fn pages_that_are_too_large_are_read_with_fewer_objects() {
    // Three of them fit one answer.
    let world = world(100, 0..100, 20_000);
    let (report, (refused, _)) = run(&world).await;
    assert_eq!(report.expect("a run").state, RunState::Complete);
    world.assert_equal().await;
    // Three parts of the users meet the limit at the same time.
    assert!(refused <= 50, "{refused} answers were too large");
    world.pass(3600);
    world.clerk.change(|objects| objects.remove(&USERS, &user_id(50)));
    assert_eq!(run(&world).await.0.expect("a run").state, RunState::Complete);
    world.assert_equal().await;
}

#[tokio::test]
async fn pages_grow_again_after_the_large_objects() {
    let world = world(1_500, 20..40, 20_000);
    let (report, (_, all)) = run(&world).await;
    assert_eq!(report.expect("a run").state, RunState::Complete);
    world.assert_equal().await;
    // With three objects a page it would be 1,000 or more.
    assert!(all < 500, "{all} pages");
}

#[tokio::test]
async fn one_user_alone_may_be_as_large_as_an_answer() {
    let world = World::new();
    world.populate(30, 0, 0);
    let mut user = user_object(7);
    user["public_metadata"] = json!({ "text": "x".repeat(ANSWER_MAX - 2_000) });
    world.clerk.change(|objects| objects.put(&USERS, &user));
    let (report, _) = run(&world).await;
    assert_eq!(report.expect("a run").state, RunState::Complete);
    world.assert_equal().await;
}

#[tokio::test]
async fn an_object_that_is_larger_than_any_answer_ends_the_walk_of_its_list_alone() {
    let world = World::new();
    world.populate(30, 10, 0);
    world.clerk.change(|objects| {
        objects.put(&ROLES, &json!({ "id": "role_1", "created_at": 1, "updated_at": 1 }));
        let mut user = user_object(7);
        user["public_metadata"] = json!({ "text": "x".repeat(ANSWER_MAX) });
        objects.put(&USERS, &user);
    });
    let (report, _) = run(&world).await;
    let error = report.expect_err("an error").to_string();
    assert!(error.contains("users: an answer of Clerk's API is too large"), "{error}");
    assert_eq!((world.living(&ROLES).await.len(), world.living(&ORGANIZATIONS).await.len()), (1, 10));
    let runs: Result<_, StoreError> = world.store.runs(1).await;
    assert_eq!(runs.expect("runs")[0].state, RunState::Failed);
}
