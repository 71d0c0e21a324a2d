//! Child rows that refuse their parent's deletion; see also the conformance suite.

use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{PendingWork, Rows as _, Store as _, StoreError};
use rollbook_testkit::events::{START, change_of, event, membership, organization};

use super::{World, joined, organization_deleted, work_off};

#[tokio::test]
async fn a_child_that_refuses_in_any_way_blocks_no_other_child_and_is_retried() {
    for action in ["ABORT, 'ImASecret'", "FAIL, 'ImASecret'", "ROLLBACK, 'ImASecret'", "IGNORE"] {
        let world = World::new();
        let all: Vec<Change> = (0..500).map(|number| joined(number, "org_1")).collect();
        world.apply(&all).await;
        world.trigger("NEW.id = 'orgmem_250'", &format!("RAISE({action})"));
        let applied = world.store.apply_many(&[organization_deleted("org_1", 5)]).await;
        assert_eq!(applied, Ok(vec![Applied::Deleted]), "{action}: the parent is not to blame");
        assert_eq!(world.lines(), 1);
        let done = work_off(&world.store).await;
        assert_eq!((done.rows, done.refused, done.parents_left, done.rows_left), (499, 1, 0, 1), "{action}");
        assert_eq!(world.members_where("deleted_at IS NULL"), 1);

        // The store lists the row: overall, for the parent and for the child.
        for about in [None, Some("org_1"), Some("orgmem_250")] {
            let left = world.store.cascades(about, 10).await.expect("the store lists them");
            assert_eq!((left.parents, left.rows, left.listed.len()), (0, 1, 1), "{about:?}");
            let line = &left.listed[0];
            assert_eq!((line.id.as_str(), line.what, line.attempts), ("orgmem_250", PendingWork::Row, 1));
            assert_eq!(line.parent, Some(("organizations".to_owned(), "org_1".to_owned())));
            let why = line.last_error.as_deref().expect("a reason");
            assert!(why.contains("trigger") && !why.contains("ImASecret"), "{why}");
            assert!(Some(line.next_try_at) > line.noted_at);
        }
        assert_eq!(world.store.cascades(Some("org_2"), 10).await.expect("the store lists them").rows, 0);

        // The row is retried by itself, and stays pending while it is refused.
        assert_eq!(world.store.cascade().await.expect("a turn").refused, 0, "it is not due yet");
        world.make_due();
        assert_eq!(work_off(&world.store).await.rows_left, 1);
        assert_eq!(world.store.cascades(None, 1).await.expect("a list").listed[0].attempts, 2);
        world.no_trigger();
        world.make_due();
        let done = work_off(&world.store).await;
        assert_eq!((done.rows, done.rows_left, world.lines()), (1, 0, 0));
        assert_eq!(world.members_where("deleted_at IS NULL"), 0);
    }
}

#[tokio::test]
async fn the_waits_of_a_row_that_is_refused_double_from_five_seconds_to_ten_minutes() {
    let world = World::new();
    world.apply(&[joined(1, "org_1")]).await;
    world.trigger("1", "RAISE(ABORT, 'no')");
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let left = work_off(&world.store).await;
        let wait = left.due_in.expect("a next try");
        waits.push(wait.as_secs());
        world.clock.advance(wait);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
}

/// A trigger refuses all rows: each has an entry, and the search for more ends.
#[tokio::test]
async fn if_all_children_refuse_each_is_recorded_and_nothing_is_retried_in_a_loop() {
    let world = World::new();
    world.members("org_1", 150);
    world.trigger("1", "RAISE(ABORT, 'no')");
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let done = work_off(&world.store).await;
    assert_eq!((done.refused, done.parents_left, done.rows_left), (150, 0, 150));
    assert!(done.due_in.is_some_and(|due_in| !due_in.is_zero()), "nothing is tried in a loop");
    world.no_trigger();
    for _ in 0..2 {
        world.make_due();
        work_off(&world.store).await;
    }
    assert_eq!((world.members_where("deleted_at IS NULL"), world.lines()), (0, 0));
}

/// Each step finds the undone changes by itself, however slow the trigger is: no turn has to complete a page.
#[tokio::test]
async fn a_trigger_that_undoes_the_change_of_every_child_is_detected_in_the_step_itself() {
    let world = World::new();
    world.members("org_1", 150);
    world.sql(
        "CREATE TRIGGER theirs AFTER UPDATE OF deleted_at ON organization_memberships WHEN NEW.deleted_at IS NOT NULL
         BEGIN UPDATE organization_memberships SET deleted_at = NULL, version_parents_deleted_at = NULL
               WHERE id = NEW.id; END",
    );
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let done = work_off(&world.store).await;
    assert_eq!((done.rows, done.refused, done.parents_left, done.rows_left), (0, 150, 0, 150));
    world.sql("DROP TRIGGER theirs");
    for _ in 0..2 {
        world.make_due();
        work_off(&world.store).await;
    }
    assert_eq!((world.members_where("deleted_at IS NULL"), world.lines()), (0, 0));
}

#[tokio::test]
async fn an_entry_with_text_that_is_not_a_time_is_listed_without_it_and_is_due() {
    let world = World::new();
    world.apply(&[joined(1, "org_1")]).await;
    world.trigger("1", "RAISE(ABORT, 'no')");
    world.apply(&[organization_deleted("org_1", 5)]).await;
    work_off(&world.store).await;
    world.sql("UPDATE rollbook_cascades SET noted_at = 'soon', next_try_at = 'now'");
    let left = world.store.cascades(None, 1).await.expect("a list");
    assert_eq!((left.listed[0].id.as_str(), left.listed[0].noted_at), ("orgmem_1", None));
    world.no_trigger();
    assert_eq!(work_off(&world.store).await.rows_left, 0, "it is due");
}

#[tokio::test]
async fn a_trigger_that_names_a_missing_table_refuses_the_children_and_not_their_parent() {
    let world = World::new();
    world.members("org_1", 3);
    world.sql(
        "CREATE TRIGGER theirs AFTER UPDATE ON organization_memberships
         BEGIN INSERT INTO nosuch VALUES (NEW.id); END",
    );
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let done = work_off(&world.store).await;
    assert_eq!((done.refused, done.rows_left), (3, 3));
    let left = world.store.cascades(None, 1).await.expect("a list");
    assert_eq!(left.listed[0].last_error.as_deref(), Some("no such table: main.nosuch"));
    world.no_trigger();
    world.make_due();
    assert_eq!(work_off(&world.store).await.rows, 3);
}

/// The trigger undoes the change after the write: only a second read finds it.
#[tokio::test]
async fn a_trigger_that_undoes_the_change_of_a_child_is_detected() {
    let world = World::new();
    world.members("org_1", 30);
    world.sql(
        "CREATE TRIGGER theirs AFTER UPDATE OF deleted_at ON organization_memberships
         WHEN NEW.id = 'orgmem_org_1_7' AND NEW.deleted_at IS NOT NULL
         BEGIN UPDATE organization_memberships SET deleted_at = NULL, version_parents_deleted_at = NULL
               WHERE id = NEW.id; END",
    );
    world.apply(&[organization_deleted("org_1", 5)]).await;
    let done = work_off(&world.store).await;
    assert_eq!((done.parents_left, done.rows_left, world.members_where("deleted_at IS NULL")), (0, 1, 1));
    let left = world.store.cascades(None, 1).await.expect("a list");
    assert_eq!(left.listed[0].last_error.as_deref(), Some("a trigger of the table undoes the change"));
    world.make_due();
    assert_eq!(work_off(&world.store).await.rows_left, 1, "its next try is found out too");
    world.no_trigger();
    world.make_due();
    assert_eq!((work_off(&world.store).await.rows_left, world.lines()), (0, 0));
}

/// A child row that does not show its deletion yet gets deliveries of its own.
#[tokio::test]
async fn deliveries_of_a_child_that_refuses_its_parents_deletion_are_applied() {
    let world = World::new();
    world.apply(&[joined(1, "org_1")]).await;
    world.trigger("NEW.synced_by = OLD.synced_by", "RAISE(ABORT, 'no')");
    world.apply(&[organization_deleted("org_1", 5)]).await;
    work_off(&world.store).await;
    let again = world.store.apply_many(&[joined(1, "org_1")]).await;
    assert_eq!(again, Ok(vec![Applied::Unchanged]));
    let left = world.store.cascades(None, 10).await.expect("a list");
    assert_eq!((left.rows, left.parents), (1, 0), "it is known already");
    // A delivery of its own makes the change that the trigger refuses otherwise.
    let mut data = membership("orgmem_1", "org_1", "user_1", START + 9);
    data["role"] = "org:owner".into();
    let updated = event("organizationMembership.updated", START + 9, &data);
    world.apply(&[change_of("msg_updated", &updated)]).await;
    assert_eq!(world.members_where("deleted_at IS NULL"), 0);
    world.make_due();
    assert_eq!((work_off(&world.store).await.rows_left, world.lines()), (0, 0));
}

/// The row of the delivery itself refuses: the message is refused, and its redelivery deletes the row.
#[tokio::test]
async fn a_deletion_that_a_trigger_undoes_is_refused_and_applied_once_the_trigger_is_gone() {
    let world = World::new();
    let lives = organization("org_1", START);
    world.apply(&[change_of("msg_1", &event("organization.created", START, &lives))]).await;
    world.sql(
        "CREATE TRIGGER theirs AFTER UPDATE ON organizations WHEN NEW.deleted_at IS NOT NULL
         BEGIN UPDATE organizations SET deleted_at = NULL WHERE id = NEW.id; END",
    );
    for _ in 0..2 {
        let refused = world.store.apply_many(&[organization_deleted("org_1", 5)]).await;
        let why = StoreError::Event("a trigger of the table undoes the change".to_owned());
        assert_eq!((refused, world.count("deliveries")), (Err(why), 1));
    }
    world.no_trigger();
    let applied = world.store.apply_many(&[organization_deleted("org_1", 5)]).await;
    assert_eq!(applied, Ok(vec![Applied::Deleted]));
    assert_eq!(world.count("organizations WHERE deleted_at IS NULL"), 0);
}

/// The trigger restores only the column that readers use.
#[tokio::test]
async fn a_trigger_that_restores_only_deleted_at_of_a_child_is_detected() {
    let world = World::new();
    world.members("org_1", 30);
    world.sql(
        "CREATE TRIGGER theirs AFTER UPDATE OF deleted_at ON organization_memberships
         WHEN NEW.id = 'orgmem_org_1_7' AND NEW.deleted_at IS NOT NULL
         BEGIN UPDATE organization_memberships SET deleted_at = NULL WHERE id = NEW.id; END",
    );
    world.apply(&[organization_deleted("org_1", 5)]).await;
    assert_eq!(work_off(&world.store).await.rows_left, 1);
    world.no_trigger();
    world.apply(&[organization_deleted("org_1", 5)]).await;
    assert_eq!(world.members_where("deleted_at IS NULL"), 0, "the deletion that comes again repairs it");
}
