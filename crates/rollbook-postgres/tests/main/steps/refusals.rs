//! Rows that refuse what follows from their parent's deletion.

use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::store::{PendingWork, Store as _, StoreError};

use super::{
    count, impatient, joined, make_due, members, organization_deleted, trigger, trigger_after, work_off,
};
use crate::spoilt_sessions::make_role;
use crate::world::{World, open};

#[tokio::test]
async fn one_child_that_refuses_keeps_the_deletion_from_nobody_else_and_is_tried_again() {
    let world = World::new().await;
    let store = world.store();
    let all: Vec<Change> = (0..500).map(|number| joined(number, "org_1")).collect();
    store.apply_many(&all).await.expect("the store applies them");
    let refuse = "IF NEW.id = 'orgmem_250' THEN RAISE EXCEPTION 'ImASecret'; END IF;";
    trigger(&world, "organization_memberships", refuse).await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the parent is not to blame");
    let done = work_off(&store).await;
    assert_eq!((done.rows, done.refused, done.parents_left, done.rows_left), (499, 1, 0, 1));
    assert_eq!(count(&world, "deleted_at IS NULL").await, 1);

    // The store lists it: overall, for the parent and for the child.
    for about in [None, Some("org_1"), Some("orgmem_250")] {
        let left = store.cascades(about, 10).await.expect("the store lists them");
        assert_eq!((left.parents, left.rows, left.listed.len()), (0, 1, 1), "{about:?}");
        let line = &left.listed[0];
        assert_eq!((line.id.as_str(), line.what, line.attempts), ("orgmem_250", PendingWork::Row, 1));
        assert_eq!(line.parent, Some(("organizations".to_owned(), "org_1".to_owned())));
        let why = line.last_error.as_deref().expect("a reason");
        assert!(why.contains("P0001") && !why.contains("ImASecret"), "{why}");
        assert!(line.next_try_at > line.noted_at);
    }
    assert_eq!(store.cascades(Some("org_2"), 10).await.expect("the store lists them").rows, 0);

    // Its next try comes by itself; as long as it is refused, it stays.
    make_due(&world).await;
    assert_eq!(work_off(&store).await.rows_left, 1);
    assert_eq!(store.cascades(None, 1).await.expect("a list").listed[0].attempts, 2);
    trigger(&world, "organization_memberships", "").await;
    make_due(&world).await;
    let done = work_off(&store).await;
    assert_eq!((done.rows, done.rows_left), (1, 0));
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_row_that_can_not_take_its_parents_deletion_does_not_refuse_its_own_delivery() {
    let world = World::new().await;
    let store = world.store();
    // Between the write of a member and the recheck somebody deletes the organization: the trigger plays that worker.
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
    assert_eq!(work_off(&store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_trigger_that_swallows_the_change_of_a_child_is_found_out() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 30).await;
    trigger(&world, "organization_memberships", "IF NEW.id = 'orgmem_org_1_7' THEN RETURN NULL; END IF;")
        .await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let done = work_off(&store).await;
    assert_eq!((done.rows_left, count(&world, "deleted_at IS NULL").await), (1, 1));
    let left = store.cascades(None, 1).await.expect("a list");
    assert_eq!(left.listed[0].id, "orgmem_org_1_7");
    assert_eq!(
        left.listed[0].last_error.as_deref(),
        Some("a trigger of the table keeps the row from being written")
    );
}

/// A trigger that refuses all rows: the first hundred are named, and the rest waits for the next try.
#[tokio::test]
async fn where_all_children_refuse_a_hundred_are_named_and_the_rest_waits() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 150).await;
    trigger(&world, "organization_memberships", "RAISE EXCEPTION 'no';").await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let done = work_off(&store).await;
    assert_eq!((done.refused, done.parents_left, done.rows_left), (100, 1, 100));
    assert!(done.due_in.is_some_and(|due_in| due_in > Duration::ZERO), "nothing is tried in a loop");
    trigger(&world, "organization_memberships", "").await;
    make_due(&world).await;
    let done = work_off(&store).await;
    assert_eq!((done.rows, done.parents_left, done.rows_left), (150, 0, 0));
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_child_that_somebody_locks_keeps_the_deletion_from_nobody_else() {
    let world = World::new().await;
    let store = open(&impatient(&world, Duration::from_secs(2)));
    members(&world, "org_1", 50).await;
    let mut holder = world.session().await;
    holder
        .run("BEGIN; SELECT FROM mirror_2.organization_memberships WHERE id = 'orgmem_org_1_9' FOR UPDATE")
        .await;
    store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the store applies it");
    let done = work_off(&store).await;
    assert_eq!((done.rows, done.rows_left), (49, 1));
    holder.run("COMMIT").await;
    make_due(&world).await;
    assert_eq!(work_off(&store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}

#[tokio::test]
async fn a_trigger_that_puts_back_what_a_cascade_or_retention_has_changed_is_found_out() {
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
        let done = work_off(&store).await;
        assert_eq!((done.rows_left, count(&world, "deleted_at IS NULL").await), (1, 1), "{organization}");
        let left = store.cascades(None, 1).await.expect("a list");
        assert_eq!(left.listed[0].id, format!("orgmem_{organization}_7"));
        assert_eq!(left.listed[0].last_error.as_deref(), Some("a trigger of the table undoes the change"));
        trigger(&world, "organization_memberships", "").await;
        world.psql("DROP TRIGGER of_theirs ON mirror_2.organization_memberships").await;
        make_due(&world).await;
        assert_eq!(work_off(&store).await.rows_left, 0);
        assert_eq!(count(&world, "deleted_at IS NULL").await, 0, "{organization}");
    }
}

#[tokio::test]
async fn a_trigger_that_keeps_content_from_being_erased_is_found_out_at_a_row_of_its_own_and_at_a_child() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 3).await;
    let keep = "IF NEW.id = 'orgmem_org_1_2' THEN NEW.data := OLD.data; END IF;";
    trigger(&world, "organization_memberships", keep).await;
    let organizations = &rollbook_core::catalog::ORGANIZATIONS;
    let memberships = &rollbook_core::catalog::ORGANIZATION_MEMBERSHIPS;
    let at = rollbook_core::time::Timestamp::from_millis(rollbook_testkit::events::START + 10);
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

#[tokio::test]
async fn a_trigger_that_keeps_content_from_retention_is_found_out() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[joined(1, "org_1"), joined(2, "org_1")]).await.expect("they are written");
    let left = |id: &str| {
        let gone = rollbook_testkit::events::deleted("organization_membership", id);
        let gone = rollbook_testkit::events::event(
            "organizationMembership.deleted",
            rollbook_testkit::events::START + 5,
            &gone,
        );
        rollbook_testkit::events::change_of(&format!("msg_left_{id}"), &gone)
    };
    store.apply_many(&[left("orgmem_1"), left("orgmem_2")]).await.expect("they are deleted");
    trigger(&world, "organization_memberships", "IF NEW.id = 'orgmem_1' THEN NEW.data := OLD.data; END IF;")
        .await;
    let before = rollbook_core::time::Timestamp::from_millis(rollbook_testkit::events::START + 900_000);
    let due = rollbook_core::store::RetentionLimits {
        ledger_before: None,
        deleted_before: Some(before),
        limit: 100,
    };
    assert_eq!(store.retain(&due).await.map(|tidied| tidied.rows), Ok(1));
    assert_eq!(count(&world, "data IS NOT NULL").await, 1);
    let listed = store.cascades(None, 1).await.expect("a list").listed;
    assert_eq!((listed[0].id.as_str(), listed[0].what), ("orgmem_1", PendingWork::Content));
    assert_eq!(listed[0].last_error.as_deref(), Some("a trigger of the table undoes the change"));
}

#[tokio::test]
async fn a_trigger_that_puts_back_the_deletion_of_its_own_row_refuses_the_delivery() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[joined(1, "org_1")]).await.expect("it is written");
    trigger(&world, "organizations", "NEW.deleted_at := OLD.deleted_at;").await;
    let created = rollbook_testkit::events::event(
        "organization.created",
        rollbook_testkit::events::START,
        &rollbook_testkit::events::organization("org_1", rollbook_testkit::events::START),
    );
    store
        .apply_many(&[rollbook_testkit::events::change_of("msg_org", &created)])
        .await
        .expect("it is written");
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
async fn a_child_whose_trigger_ends_the_session_keeps_the_deletion_from_nobody_else() {
    let world = World::new().await;
    let store = world.store();
    make_role(&world).await;
    members(&world, "org_1", 40).await;
    for body in ["PERFORM pg_terminate_backend(pg_backend_pid());", "SET LOCAL ROLE nobody_;"] {
        let body = format!("IF NEW.id = 'orgmem_org_1_9' THEN {body} END IF;");
        trigger(&world, "organization_memberships", &body).await;
        store.apply_many(&[organization_deleted("org_1", 5)]).await.expect("the parent is not to blame");
        make_due(&world).await;
        assert_eq!(work_off(&store).await.rows_left, 1, "{body}");
        assert_eq!(count(&world, "deleted_at IS NULL").await, 1);
    }
    trigger(&world, "organization_memberships", "").await;
    make_due(&world).await;
    assert_eq!(work_off(&store).await.rows_left, 0);
    assert_eq!(count(&world, "deleted_at IS NULL").await, 0);
}
