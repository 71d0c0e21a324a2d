//! Child rows that refuse their parent's deletion.

use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::store::{
    Erasure as _, Ledger as _, PendingWork, RetentionLimits, Rows as _, Store as _, StoreError,
};
use rollbook_core::time::Timestamp;
use rollbook_testkit::events::{START, change_of, deleted, event, organization};

use super::{
    count, impatient, joined, make_due, members, organization_deleted, trigger, trigger_after, work_off,
};
use crate::spoilt_sessions::make_role;
use crate::world::{World, open};

#[tokio::test]
async fn a_child_that_refuses_blocks_no_sibling_and_is_retried() {
    let world = World::new().await;
    let store = world.store();
    let all: Vec<Change> = (0..500).map(|number| joined(number, "org_1")).collect();
    store.apply_many(&all).await.expect("the store applies them");
    let refuse = "IF NEW.id = 'orgmem_250' THEN RAISE EXCEPTION 'ImASecret'; END IF;";
    trigger(&world, "organization_memberships", refuse).await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the parent is not to blame");
    let done = work_off(&*store).await;
    assert_eq!((done.rows, done.refused, done.parents_left, done.rows_left), (499, 1, 0, 1));
    assert_eq!(count(&world, "deleted_at IS NULL").await, 1);

    // The store lists the row: overall, for the parent and for the child.
    for about in [None, Some("org_1"), Some("orgmem_250")] {
        let left = store.cascades(about, 10).await.expect("the store lists them");
        assert_eq!((left.parents, left.rows, left.listed.len()), (0, 1, 1), "{about:?}");
        let line = &left.listed[0];
        assert_eq!((line.id.as_str(), line.what, line.attempts), ("orgmem_250", PendingWork::Row, 1));
        assert_eq!(line.parent, Some(("organizations".to_owned(), "org_1".to_owned())));
        let why = line.last_error.as_deref().expect("a reason");
        assert!(why.contains("P0001") && !why.contains("ImASecret"), "{why}");
        assert!(Some(line.next_try_at) > line.noted_at);
    }
    assert_eq!(store.cascades(Some("org_2"), 10).await.expect("the store lists them").rows, 0);

    // The row is retried by itself, and stays pending while it is refused.
    make_due(&world).await;
    assert_eq!(work_off(&*store).await.rows_left, 1);
    assert_eq!(store.cascades(None, 1).await.expect("a list").listed[0].attempts, 2);
    trigger(&world, "organization_memberships", "").await;
    make_due(&world).await;
    let done = work_off(&*store).await;
    assert_eq!((done.rows, done.rows_left), (1, 0));
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_row_that_can_not_take_its_parents_deletion_does_not_refuse_its_own_delivery() {
    let world = World::new().await;
    let store = world.store();
    // Between the write of a member and the recheck another worker deletes the organization: the trigger stands for it.
    world
        .psql(
            "CREATE FUNCTION public.races() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO mirror_2.organizations (id, deleted_at, synced_at, synced_by, version_updated_at,
                     version_event_at, version_hash, version_deleted_at, version_revision)
                 VALUES ('org_1', now(), now(), 'm', -9223372036854775808, -9223372036854775808, '', 1, 1);
                 RETURN NEW; END $$;
             CREATE TRIGGER races AFTER INSERT ON mirror_2.organization_memberships
             FOR EACH ROW EXECUTE FUNCTION public.races()",
        )
        .await;
    trigger(&world, "organization_memberships", "RAISE EXCEPTION 'no';").await;
    store.apply_many(&[joined(1, "org_1")]).await.expect("it is written");
    let left = store.cascades(Some("org_1"), 10).await.expect("a list");
    assert_eq!((left.rows, left.listed[0].id.as_str()), (1, "orgmem_1"));
    trigger(&world, "organization_memberships", "").await;
    assert_eq!(work_off(&*store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_trigger_that_skips_the_change_of_a_child_is_detected() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 30).await;
    trigger(&world, "organization_memberships", "IF NEW.id = 'orgmem_org_1_7' THEN RETURN NULL; END IF;")
        .await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let done = work_off(&*store).await;
    assert_eq!((done.rows_left, count(&world, "deleted_at IS NULL").await), (1, 1));
    let left = store.cascades(None, 1).await.expect("a list");
    assert_eq!(left.listed[0].id, "orgmem_org_1_7");
    assert_eq!(
        left.listed[0].last_error.as_deref(),
        Some("a trigger of the table keeps the row from being written")
    );
}

/// A trigger refuses all rows: each has an entry, and the search for more ends.
#[tokio::test]
async fn if_all_children_refuse_each_is_recorded_and_nothing_is_retried_in_a_loop() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 150).await;
    trigger(&world, "organization_memberships", "RAISE EXCEPTION 'no';").await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let done = work_off(&*store).await;
    assert_eq!((done.rows, done.parents_left, done.rows_left), (0, 0, 150));
    assert!(done.due_in.is_some_and(|due_in| due_in > Duration::ZERO), "nothing is tried in a loop");
    trigger(&world, "organization_memberships", "").await;
    make_due(&world).await;
    assert_eq!(work_off(&*store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_locked_child_blocks_no_other_child() {
    let world = World::new().await;
    let store = open(&impatient(&world, Duration::from_secs(2)));
    members(&world, "org_1", 50).await;
    let mut holder = world.session().await;
    holder
        .run("BEGIN; SELECT FROM mirror_2.organization_memberships WHERE id = 'orgmem_org_1_9' FOR UPDATE")
        .await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let done = work_off(&*store).await;
    assert_eq!((done.rows, done.rows_left), (49, 1));
    holder.run("COMMIT").await;
    make_due(&world).await;
    assert_eq!(work_off(&*store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_trigger_that_undoes_the_change_of_a_cascade_or_retention_is_detected() {
    let world = World::new().await;
    let store = world.store();
    for (organization, body) in [
        ("org_1", "NEW.deleted_at := OLD.deleted_at;"),
        // After the row was written, by a statement of its own.
        (
            "org_2",
            "IF pg_trigger_depth() = 1 THEN UPDATE mirror_2.organization_memberships SET deleted_at = NULL WHERE id = NEW.id; END IF;",
        ),
    ] {
        members(&world, organization, 30).await;
        let when = if organization == "org_1" { "BEFORE" } else { "AFTER" };
        world
            .psql(&format!(
                "CREATE OR REPLACE FUNCTION public.of_theirs() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF NEW.id = 'orgmem_{organization}_7' THEN {body} END IF; RETURN NEW; END $$;
                 CREATE OR REPLACE TRIGGER of_theirs {when} UPDATE ON mirror_2.organization_memberships
                 FOR EACH ROW EXECUTE FUNCTION public.of_theirs()"
            ))
            .await;
        store.apply_many(&[organization_deleted(organization, 5)]).await.expect("the store applies it");
        let done = work_off(&*store).await;
        assert_eq!((done.rows_left, count(&world, "deleted_at IS NULL").await), (1, 1), "{organization}");
        let left = store.cascades(None, 1).await.expect("a list");
        assert_eq!(left.listed[0].id, format!("orgmem_{organization}_7"));
        assert_eq!(left.listed[0].last_error.as_deref(), Some("a trigger of the table undoes the change"));
        trigger(&world, "organization_memberships", "").await;
        world.psql("DROP TRIGGER of_theirs ON mirror_2.organization_memberships").await;
        make_due(&world).await;
        assert_eq!(work_off(&*store).await.rows_left, 0);
        assert_eq!(count(&world, "deleted_at IS NULL").await, 0, "{organization}");
    }
}

#[tokio::test]
async fn a_trigger_that_keeps_content_from_being_erased_is_detected_in_the_row_and_in_a_child() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 3).await;
    let keep = "IF NEW.id = 'orgmem_org_1_2' THEN NEW.data := OLD.data; END IF;";
    trigger(&world, "organization_memberships", keep).await;
    let organizations = &rollbook_core::catalog::ORGANIZATIONS;
    let memberships = &rollbook_core::catalog::ORGANIZATION_MEMBERSHIPS;
    let at = Timestamp::from_millis(START + 10);
    for subject in [(organizations, "org_1"), (memberships, "orgmem_org_1_2")] {
        let erased = store.erase(&[(subject.0, subject.1.to_owned())], at).await;
        let Err(StoreError::Event(text)) = &erased else { panic!("{subject:?}: {erased:?}") };
        assert!(text.contains("a trigger of the table undoes the change"), "{text}");
    }
    assert_eq!(count(&world, "data IS NOT NULL").await, 1);
    trigger(&world, "organization_memberships", "").await;
    assert!(store.erase(&[(organizations, "org_1".to_owned())], at).await.is_ok());
    assert_eq!(count(&world, "data IS NOT NULL").await, 0);
}

/// Policies of the team for UPDATE hide one row from the worker's changes, and say nothing.
#[tokio::test]
async fn a_policy_that_hides_a_row_from_a_cascade_or_from_retention_is_named_as_one() {
    let (world, _) = World::with_roles().await;
    let store = world.store();
    store.apply_many(&[joined(1, "org_1"), joined(2, "org_2")]).await.expect("they are written");
    store.apply_many(&[left("orgmem_2")]).await.expect("it is deleted");
    world
        .psql(
            "ALTER TABLE mirror_2.organization_memberships ENABLE ROW LEVEL SECURITY;
             CREATE POLICY reads ON mirror_2.organization_memberships FOR SELECT USING (true);
             CREATE POLICY writes ON mirror_2.organization_memberships FOR UPDATE USING (false)",
        )
        .await;
    assert_eq!(store.retain(&all_deleted()).await.map(|done| done.rows), Ok(0));
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the parent is applied");
    work_off(&*store).await;
    let mut listed = store.cascades(None, 10).await.expect("a list").listed;
    listed.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let expected = [("orgmem_1", PendingWork::Row), ("orgmem_2", PendingWork::Content)];
    assert_eq!(listed.len(), expected.len());
    for (entry, expected) in listed.iter().zip(expected) {
        assert_eq!((entry.id.as_str(), entry.what), expected);
        let why = "a row-level security policy of the table keeps the row from being changed";
        assert_eq!(entry.last_error.as_deref(), Some(why));
    }
    world.psql("ALTER TABLE mirror_2.organization_memberships DISABLE ROW LEVEL SECURITY").await;
    make_due(&world).await;
    work_off(&*store).await;
    store.retain(&all_deleted()).await.expect("the store erases content");
    assert_eq!(count(&world, "deleted_at IS NULL OR id = 'orgmem_2' AND data IS NOT NULL").await, 0);
}

/// Returns the deletion of a membership itself.
fn left(id: &str) -> Change {
    let gone = deleted("organization_membership", id);
    change_of(&format!("msg_left_{id}"), &event("organizationMembership.deleted", START + 5, &gone))
}

fn all_deleted() -> RetentionLimits {
    let before = Timestamp::from_millis(START + 900_000);
    RetentionLimits { deleted_before: Some(before), limit: 100, ..RetentionLimits::default() }
}

/// A constraint trigger that is deferred to the commit undoes the change there: it runs before the rows are checked.
#[tokio::test]
async fn a_deferred_trigger_that_undoes_a_change_at_the_commit_is_detected() {
    let world = World::new().await;
    let store = world.store();
    let undo = |table: &str, body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF pg_trigger_depth() = 1 THEN UPDATE mirror_2.{table} SET {body} WHERE id = NEW.id; END IF;
                RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON mirror_2.{table} DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.late()"
        )
    };
    let undone = "a trigger of the table undoes the change";
    store.apply_many(&[joined(1, "org_1"), joined(2, "org_2")]).await.expect("they are written");
    store.apply_many(&[left("orgmem_2")]).await.expect("it is deleted");
    world.psql(&undo("organization_memberships", "deleted_at = NULL, data = '{}'")).await;

    // A row with content that is due to be erased.
    assert_eq!(store.retain(&all_deleted()).await.map(|done| done.rows), Ok(0));
    let listed = store.cascades(Some("orgmem_2"), 1).await.expect("a list").listed;
    assert_eq!((listed[0].what, listed[0].last_error.as_deref()), (PendingWork::Content, Some(undone)));
    world.psql("DELETE FROM mirror_2.rollbook_cascades").await;
    // A child, also when it is retried.
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the parent is applied");
    for attempts in 1..=2 {
        make_due(&world).await;
        let done = work_off(&*store).await;
        assert_eq!((done.rows, done.rows_left), (0, 1), "{attempts}");
        let listed = store.cascades(None, 1).await.expect("a list").listed;
        assert_eq!((listed[0].id.as_str(), listed[0].last_error.as_deref()), ("orgmem_1", Some(undone)));
    }
    // A delivery's own row.
    world.psql(&undo("organizations", "deleted_at = NULL").replace("late", "later")).await;
    let created = event("organization.created", START, &organization("org_3", START));
    store.apply_many(&[change_of("msg_org_3", &created)]).await.expect("it is written");
    let refused = store.apply_many(&[organization_deleted("org_3", 5)]).await;
    assert_eq!(refused, Err(StoreError::Event(undone.to_owned())));
}

#[tokio::test]
async fn a_trigger_that_keeps_content_from_retention_is_detected() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[joined(1, "org_1"), joined(2, "org_1")]).await.expect("they are written");
    store.apply_many(&[left("orgmem_1"), left("orgmem_2")]).await.expect("they are deleted");
    trigger(&world, "organization_memberships", "IF NEW.id = 'orgmem_1' THEN NEW.data := OLD.data; END IF;")
        .await;
    assert_eq!(store.retain(&all_deleted()).await.map(|step| step.rows), Ok(1));
    assert_eq!(count(&world, "data IS NOT NULL").await, 1);
    let listed = store.cascades(None, 1).await.expect("a list").listed;
    assert_eq!((listed[0].id.as_str(), listed[0].what), ("orgmem_1", PendingWork::Content));
    assert_eq!(listed[0].last_error.as_deref(), Some("a trigger of the table undoes the change"));
}

#[tokio::test]
async fn a_trigger_that_undoes_the_deletion_of_the_deliverys_row_refuses_the_delivery() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[joined(1, "org_1")]).await.expect("it is written");
    trigger(&world, "organizations", "NEW.deleted_at := OLD.deleted_at;").await;
    let created = event("organization.created", START, &organization("org_1", START));
    store.apply_many(&[change_of("msg_org", &created)]).await.expect("it is written");
    let refused = store.apply_many(&[organization_deleted("org_1", 5)]).await;
    let Err(StoreError::Event(text)) = &refused else { panic!("{refused:?}") };
    assert_eq!(text, "a trigger of the table undoes the change");
    let line = store.delivery(&rollbook_core::delivery::MessageId::new("msg_gone_org_1_5")).await;
    assert_eq!(line, Ok(None), "the ledger says nothing that is not so");
    assert_eq!(count(&world, "deleted_at IS NULL").await, 1);

    // After the row was written, by a statement of its own.
    trigger(&world, "organizations", "").await;
    trigger_after(
        &world,
        "organizations",
        "UPDATE mirror_2.organizations SET deleted_at = NULL WHERE id = NEW.id;",
    )
    .await;
    let refused = store.apply_many(&[organization_deleted("org_1", 5)]).await;
    assert_eq!(refused, Err(StoreError::Event("a trigger of the table undoes the change".to_owned())));
    world.psql("DROP TRIGGER later ON mirror_2.organizations").await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("it is applied");
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_child_with_a_trigger_that_ends_the_session_blocks_no_other_child() {
    let world = World::new().await;
    let store = world.store();
    make_role(&world).await;
    members(&world, "org_1", 40).await;
    for (body, reason) in [
        ("PERFORM pg_terminate_backend(pg_backend_pid());", "a trigger called pg_terminate_backend"),
        ("SET LOCAL ROLE nobody_;", "a trigger of the table changes the role"),
    ] {
        let body = format!("IF NEW.id = 'orgmem_org_1_9' THEN {body} END IF;");
        trigger(&world, "organization_memberships", &body).await;
        store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the parent is not to blame");
        make_due(&world).await;
        assert_eq!(work_off(&*store).await.rows_left, 1, "{body}");
        let why = store.cascades(None, 1).await.expect("a list").listed[0].last_error.clone();
        assert!(why.as_deref().is_some_and(|why| why.contains(reason)), "{why:?}");
        assert_eq!(count(&world, "deleted_at IS NULL").await, 1);
    }
    trigger(&world, "organization_memberships", "").await;
    make_due(&world).await;
    assert_eq!(work_off(&*store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

/// The policy of one child table fails: nothing else waits for it, and the deletion reaches the children later.
#[tokio::test]
async fn children_that_can_not_be_read_wait_by_themselves() {
    let (world, owner) = World::with_roles().await;
    let store = world.store();
    let mut team = World::session_as(&owner).await;
    store.apply_many(&[joined(1, "org_1")]).await.expect("it is written");
    team.run(
        "ALTER TABLE mirror_2.organization_memberships ENABLE ROW LEVEL SECURITY;
         CREATE POLICY theirs ON mirror_2.organization_memberships USING (organization_id = current_setting('app.org'))",
    )
    .await;
    for _ in 0..2 {
        store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("its own row is right");
    }
    let done = store.cascade().await.expect("a turn");
    assert_eq!((done.parents_left, done.rows_left), (1, 0));
    let listed = store.cascades(Some("org_1"), 10).await.expect("a list").listed;
    assert_eq!((listed[0].what, listed[0].attempts), (PendingWork::Children, 1));
    assert!(listed[0].last_error.as_deref().is_some_and(|why| why.contains("app.org")), "{listed:?}");
    team.run("ALTER TABLE mirror_2.organization_memberships DISABLE ROW LEVEL SECURITY").await;
    make_due(&world).await;
    assert_eq!(work_off(&*store).await.rows, 1);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}
