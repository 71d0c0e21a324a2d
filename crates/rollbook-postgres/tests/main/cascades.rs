//! Child rows of deleted parents, with many concurrent workers and with one that died half-way.

use std::sync::Arc;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, RESOURCES};
use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{RowView, Rows as _, Store as _};
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::process::until;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::world::{World, clock};

const ROUNDS: usize = 60;
const CHILDREN: usize = 8;

fn user_deleted(id: &str) -> Change {
    user_deleted_at(id, 9)
}

fn user_deleted_at(id: &str, at: i64) -> Change {
    change_of(&format!("msg_gone_{id}"), &event("user.deleted", START + at, &deleted("user", id)))
}

fn joined(id: &str, organization: &str, user: &str, at: i64) -> Change {
    let data = membership(id, organization, user, START + at);
    change_of(&format!("msg_{id}_{at}"), &event("organizationMembership.updated", START + at, &data))
}

/// Changes that workers apply at the same time: the deletions of a user and of its organization, their
/// updates, and their memberships in two versions.
fn work_of(round: usize) -> Vec<Vec<Change>> {
    let (user_id, organization_id) = (format!("user_{round}"), format!("org_{round}"));
    let memberships = |at| {
        let id = |child| format!("orgmem_{round}_{child}");
        (0..CHILDREN).map(|child| joined(&id(child), &organization_id, &user_id, at)).collect::<Vec<Change>>()
    };
    let gone = event("organization.deleted", START + 8, &deleted("organization", &organization_id));
    let lives = [
        event("user.created", START, &user(&user_id, START)),
        event("organization.created", START, &organization(&organization_id, START)),
    ];
    let lives =
        lives.iter().enumerate().map(|(number, event)| change_of(&format!("msg_{round}_{number}"), event));
    vec![
        vec![user_deleted(&user_id)],
        vec![change_of(&format!("msg_gone_{organization_id}"), &gone)],
        memberships(0),
        memberships(5),
        lives.collect(),
    ]
}

fn content(mut rows: Vec<RowView>) -> Vec<RowView> {
    for row in &mut rows {
        row.columns.retain(|name, _| !name.starts_with("synced_"));
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_rows_are_deleted_with_their_parents_whichever_worker_commits_last() {
    let world = World::new().await;
    let (store, truth) = (world.store(), MemoryStore::new(clock()));
    for round in 0..ROUNDS {
        let work = work_of(round);
        truth.apply_many(&work.concat()).await.expect("the model applies them");
        let start = Arc::new(Barrier::new(work.len()));
        let mut workers = JoinSet::new();
        for batch in work {
            let (store, start) = (Arc::clone(&store), Arc::clone(&start));
            workers.spawn(async move {
                start.wait().await;
                store.apply_many(&batch).await.expect("the store applies them");
            });
        }
        workers.join_all().await;
    }
    for resource in RESOURCES {
        let rows = store.rows(resource, None, 10_000).await.expect("the store lists rows");
        assert_eq!(content(rows), content(truth.rows_of(resource)));
    }
}

#[tokio::test]
async fn a_redelivery_repairs_what_a_worker_left_that_died_between_its_commit_and_its_recheck() {
    let world = World::new().await;
    let store = world.store();
    let changes = [joined("orgmem_1", "org_1", "user_1", 0), user_deleted("user_1")];
    store.apply_many(&changes).await.expect("the store applies them");
    let ended = async || {
        let row = store.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await.expect("the store reads");
        row.expect("there is a row").is_deleted()
    };
    for change in &changes {
        world
            .psql("UPDATE mirror_2.organization_memberships SET deleted_at = NULL, version_parents_deleted_at = NULL")
            .await;
        assert!(!ended().await);
        let again = store.apply_many(std::slice::from_ref(change)).await;
        assert_eq!(again, Ok(vec![Applied::Unchanged]));
        assert!(ended().await, "after {} came again", change.origin.event_type());
    }
}

/// One worker's batch holds a new membership and one that another session writes. Meanwhile their
/// organization is deleted. The deleting worker can't see the new membership yet, and the writing worker
/// reads the organization a second time, because of the other membership.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_row_is_deleted_with_its_parent_even_if_a_neighbour_is_written_twice() {
    let world = World::new().await;
    let store = world.store();
    let member = |id, at| joined(id, "org_1", "user_1", at);
    store.apply_many(&[member("orgmem_2", 0)]).await.expect("the store applies it");
    let mut other = world.session().await;
    other
        .run("BEGIN; UPDATE mirror_2.organization_memberships SET version_revision = version_revision + 1")
        .await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let blocked = async |count: &str| {
        until("workers wait for the row", || async { world.psql(waiting).await.trim() == count }).await;
    };
    let apply = |batch: Vec<Change>| {
        let store = Arc::clone(&store);
        async move { store.apply_many(&batch).await.expect("the store applies them") }
    };
    let mut workers = JoinSet::new();
    workers.spawn(apply(vec![member("orgmem_1", 0), member("orgmem_2", 5)]));
    blocked("1").await;
    let gone = event("organization.deleted", START + 8, &deleted("organization", "org_1"));
    workers.spawn(apply(vec![change_of("msg_gone", &gone)]));
    blocked("2").await;
    other.run("COMMIT").await;
    workers.join_all().await;
    let living = "SELECT id FROM mirror_2.organization_memberships WHERE deleted_at IS NULL";
    assert_eq!(world.psql(living).await, "");
}

#[tokio::test]
async fn more_rows_than_one_recheck_repairs_are_deleted_with_their_organization() {
    let world = World::new().await;
    let store = world.store();
    let member = |number| joined(&format!("orgmem_{number}"), "org_1", &format!("user_{number}"), 0);
    let all: Vec<Change> = (0..2500).map(member).collect();
    store.apply_many(&all).await.expect("the store applies them");
    // Half of the users were deleted before (the start is 15 ms past a second): their memberships show that
    // and stay as they are.
    let people: Vec<Change> = (0..1250).map(|number| user_deleted_at(&format!("user_{number}"), 5)).collect();
    store.apply_many(&people).await.expect("the store applies them");
    let gone = event("organization.deleted", START + 8, &deleted("organization", "org_1"));
    store.apply_many(&[change_of("msg_gone", &gone)]).await.expect("the store applies it");
    // Rows beyond one recheck are left to the workers.
    while store.cascade().await.expect("it is worked off").due_in.is_some() {}
    let ends = "SELECT count(*), extract(milliseconds FROM deleted_at)::int % 1000 FROM mirror_2.organization_memberships
                GROUP BY 2 ORDER BY 2";
    assert_eq!(world.psql(ends).await, "1250|20\n1250|23\n");
    let living =
        "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FROM mirror_2.organization_memberships";
    assert_eq!(world.psql(living).await, "0|2500\n");
}
