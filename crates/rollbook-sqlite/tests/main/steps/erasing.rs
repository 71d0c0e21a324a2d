//! Erasures that are large, killed, or refused by rows or ledger entries.

use std::sync::Mutex;

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::store::{ErasedCounts, Erasure as _, Rows as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_sqlite::SqliteStore;
use rollbook_testkit::events::{START, change_of, event, organization};

use super::{MEMBERS, World, joined, work_off};

const AT: Timestamp = Timestamp::from_millis(START + 100);

async fn erase(store: &SqliteStore, id: &str) -> Result<ErasedCounts, StoreError> {
    store.erase(&[(&ORGANIZATIONS, id.to_owned())], AT).await
}

/// Members with content.
fn with_content(world: &World) -> u64 {
    world.members_where("data IS NOT NULL OR role IS NOT NULL")
}

#[tokio::test]
async fn a_large_organization_is_erased_in_steps_that_are_reported() {
    let world = World::new();
    world.members("org_1", MEMBERS);
    world.members("org_2", 3);
    let reports = Mutex::new(Vec::new());
    let progress = |counts: ErasedCounts| reports.lock().expect("no panic").push(counts);
    let subjects = [(&ORGANIZATIONS, "org_1".to_owned()), (&USERS, "user_7".to_owned())];
    let erased = world.store.erase_in_steps(&subjects, AT, &progress).await.expect("it is erased");
    // The members, the organization, the user, and the user's other membership.
    assert_eq!(erased, ErasedCounts { rows: u64::from(MEMBERS) + 2, ledger: u64::from(MEMBERS) });
    let reports = reports.into_inner().expect("no panic");
    assert!(reports.len() > 5, "{reports:?}");
    assert!(
        reports.is_sorted_by_key(|counts| counts.rows) && reports.is_sorted_by_key(|counts| counts.ledger)
    );
    assert_eq!(reports.last().map(|counts| counts.ledger), Some(u64::from(MEMBERS)));
    assert_eq!((with_content(&world), world.count("deliveries"), world.lines()), (3, 3, 0));
    // Again: nothing is left.
    assert_eq!(
        erase(&world.store, "org_1").await,
        Ok(ErasedCounts { rows: u64::from(MEMBERS) + 1, ledger: 0 })
    );
}

/// The command was killed right after its tombstone: nothing is restored, and a worker finishes it when its
/// hold ends.
#[tokio::test]
async fn an_erasure_that_was_killed_is_finished_by_workers() {
    let world = World::new();
    world.members("org_1", MEMBERS);
    // The trigger stands for the kill: it refuses all writes but the tombstones.
    world.trigger("1", "RAISE(ABORT, 'killed')");
    assert!(erase(&world.other(), "org_1").await.is_err());
    world.no_trigger();
    assert_eq!(with_content(&world), u64::from(MEMBERS));
    world.apply(&[joined(1, "org_1")]).await;
    assert_eq!(with_content(&world), u64::from(MEMBERS), "a late one comes bare");
    world.make_due();
    work_off(&world.store).await;
    assert_eq!((with_content(&world), world.lines()), (0, 0));
    let about = world.count("deliveries WHERE subject_id GLOB 'orgmem_org_1_*'");
    assert_eq!(about, 0, "the ledger too");
}

/// A child row keeps its content: all others are erased, the row is named, and the second run reports when it
/// is erased.
#[tokio::test]
async fn an_erasure_succeeds_only_if_no_content_is_left() {
    for action in ["ABORT, 'no'", "IGNORE", "ROLLBACK, 'no'"] {
        let world = World::new();
        world.members("org_1", 300);
        world.trigger("NEW.id = 'orgmem_org_1_7'", &format!("RAISE({action})"));
        for run in 0..2 {
            let erased = erase(&world.store, "org_1").await;
            let Err(StoreError::Event(why)) = erased else { panic!("{action} {run}: {erased:?}") };
            assert!(why.contains("orgmem_org_1_7") && why.contains("trigger"), "{why}");
            assert_eq!((with_content(&world), world.count("deliveries")), (1, 0), "{action}");
        }
        world.no_trigger();
        assert_eq!(erase(&world.store, "org_1").await, Ok(ErasedCounts { rows: 301, ledger: 0 }));
        assert_eq!((with_content(&world), world.lines()), (0, 0));
    }
}

/// A trigger keeps a ledger entry: silently, or by an error.
#[tokio::test]
async fn an_erasure_succeeds_only_if_no_ledger_entry_is_left() {
    for action in ["ABORT, 'no'", "IGNORE", "ROLLBACK, 'no'"] {
        let world = World::new();
        world.members("org_1", 300);
        world.sql(&format!(
            "CREATE TRIGGER keeps BEFORE DELETE ON deliveries WHEN OLD.svix_id = 'msg_org_1_7'
             BEGIN SELECT RAISE({action}); END"
        ));
        let erased = erase(&world.store, "org_1").await;
        let Err(StoreError::Event(why)) = erased else { panic!("{action}: {erased:?}") };
        assert!(why.contains("1 ledger entries") && why.contains("msg_org_1_7"), "{why}");
        assert_eq!(
            (with_content(&world), world.count("deliveries")),
            (0, 1),
            "{action}: all others are removed"
        );
        // The entry is recorded, and workers continue to retry it.
        let left = world.store.cascades(Some("org_1"), 1).await.expect("a list");
        assert!(left.listed[0].last_error.as_deref().is_some_and(|why| why.contains("msg_org_1_7")));
        world.make_due();
        let left = work_off(&world.store).await;
        assert_eq!((left.parents_left, world.count("deliveries")), (1, 1));
        world.sql("DROP TRIGGER keeps");
        world.make_due();
        work_off(&world.store).await;
        assert_eq!((world.lines(), world.count("deliveries")), (0, 0), "{action}");
    }
}

#[tokio::test]
async fn a_subject_that_a_trigger_keeps_is_named_and_the_others_are_erased() {
    let world = World::new();
    world.members("org_1", 5);
    world.sql(
        "CREATE TRIGGER keeps BEFORE INSERT ON organizations WHEN NEW.id = 'org_2' BEGIN SELECT RAISE(IGNORE); END",
    );
    let subjects = [(&ORGANIZATIONS, "org_1".to_owned()), (&ORGANIZATIONS, "org_2".to_owned())];
    let erased = world.store.erase(&subjects, AT).await;
    let Err(StoreError::Event(why)) = erased else { panic!("{erased:?}") };
    assert!(why.contains("org_2 is not erased"), "{why}");
    assert_eq!((with_content(&world), world.count("organizations"), world.lines()), (0, 1, 0));
}

/// The subject has no tombstone: workers can't continue, and the error does not claim that they would.
#[tokio::test]
async fn an_erasure_without_a_tombstone_says_that_workers_do_not_continue_it() {
    for action in ["ABORT, 'no'", "IGNORE", "ROLLBACK, 'no'"] {
        let world = World::new();
        lives(&world, "org_1").await;
        world.members("org_1", 3);
        world.sql(&format!(
            "CREATE TRIGGER keeps BEFORE UPDATE ON organizations BEGIN SELECT RAISE({action}); END"
        ));
        let erased = erase(&world.store, "org_1").await;
        let Err(StoreError::Event(why)) = erased else { panic!("{action}: {erased:?}") };
        assert!(why.contains("org_1 is not erased") && why.contains("workers do not try"), "{why}");
        assert!(!why.contains("try these again"), "{why}");
        assert_eq!((with_content(&world), world.lines()), (3, 0), "{action}");
        world.sql("DROP TRIGGER keeps");
        assert!(erase(&world.store, "org_1").await.is_ok(), "{action}");
        assert_eq!((with_content(&world), world.lines()), (0, 0), "{action}");
    }
}

#[tokio::test]
async fn a_subject_with_more_ledger_entries_than_one_step_removes_is_erased() {
    let world = World::new();
    world.sql(
        "WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 12000)
         INSERT INTO deliveries (svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts)
         SELECT 'msg_' || i, 'organization.updated', 'org_1', 'updated', 't', 't', 't', 1 FROM numbers",
    );
    assert_eq!(erase(&world.store, "org_1").await, Ok(ErasedCounts { rows: 1, ledger: 12_000 }));
}

/// Creates a trigger after updates of a table that restores these columns when they are emptied.
fn puts_back(world: &World, name: &str, table: &str, columns: &[&str]) {
    let emptied: Vec<String> =
        columns.iter().map(|name| format!("NEW.{name} IS NULL AND OLD.{name} IS NOT NULL")).collect();
    let back: Vec<String> = columns.iter().map(|name| format!("{name} = OLD.{name}")).collect();
    world.sql(&format!(
        "CREATE TRIGGER {name} AFTER UPDATE ON {table} WHEN {} BEGIN UPDATE {table} SET {} WHERE id = NEW.id; END",
        emptied.join(" OR "),
        back.join(", ")
    ));
}

async fn lives(world: &World, id: &str) {
    let data = organization(id, START);
    world.apply(&[change_of(&format!("msg_{id}"), &event("organization.created", START, &data))]).await;
}

/// Whichever columns the trigger restores: the subject is named, and the command after the fix erases it.
#[tokio::test]
async fn a_subject_with_content_that_a_trigger_restores_is_named_and_erased_once_the_trigger_is_gone() {
    for columns in [&["data", "name"][..], &["name"]] {
        let world = World::new();
        lives(&world, "org_1").await;
        puts_back(&world, "keeps", "organizations", columns);
        for _ in 0..2 {
            let erased = erase(&world.store, "org_1").await;
            let Err(StoreError::Event(why)) = erased else { panic!("{columns:?}: {erased:?}") };
            assert!(why.contains("org_1") && why.contains("undoes the change"), "{why}");
        }
        world.sql("DROP TRIGGER keeps");
        assert!(erase(&world.store, "org_1").await.is_ok(), "{columns:?}");
        let content = "organizations WHERE coalesce(data, name) IS NOT NULL";
        assert_eq!((world.count(content), world.lines()), (0, 0), "{columns:?}");
    }
}

/// A team's trigger may set the time of each write: the time is not content.
#[tokio::test]
async fn a_trigger_that_sets_updated_at_at_each_write_refuses_no_erasure() {
    let world = World::new();
    lives(&world, "org_1").await;
    world.sql(
        "CREATE TRIGGER stamps AFTER UPDATE ON organizations
         BEGIN UPDATE organizations SET updated_at = 'now' WHERE id = new.id; END",
    );
    assert!(erase(&world.store, "org_1").await.is_ok());
    let content = "organizations WHERE coalesce(data, name) IS NOT NULL";
    assert_eq!((world.count(content), world.lines()), (0, 0));
}

/// An earlier build marked a row as erased that kept some content.
#[tokio::test]
async fn left_over_content_of_an_erased_row_is_removed_by_the_next_erasure() {
    let world = World::new();
    world.apply(&[joined(1, "org_1")]).await;
    erase(&world.store, "org_1").await.expect("it is erased");
    world.sql("UPDATE organizations SET name = 'N'; UPDATE organization_memberships SET role = 'r'");
    erase(&world.store, "org_1").await.expect("it is erased again");
    assert_eq!((world.count("organizations WHERE name IS NOT NULL"), with_content(&world)), (0, 0));
}

#[tokio::test]
async fn a_child_with_single_columns_that_a_trigger_restores_is_named() {
    let world = World::new();
    world.members("org_1", 3);
    puts_back(&world, "keeps", "organization_memberships", &["role"]);
    let erased = erase(&world.store, "org_1").await;
    let Err(StoreError::Event(why)) = erased else { panic!("{erased:?}") };
    assert!(why.contains("3 rows of theirs keep their content"), "{why}");
    world.sql("DROP TRIGGER keeps");
    world.make_due();
    work_off(&world.store).await;
    assert_eq!((with_content(&world), world.lines()), (0, 0));
}
