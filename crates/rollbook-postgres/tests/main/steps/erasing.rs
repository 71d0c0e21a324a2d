//! Erasures of large subjects.

use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::store::{ErasedCounts, Erasure as _, Rows as _, Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresStore;
use rollbook_testkit::events::{START, change_of, event, membership};
use rollbook_testkit::process::until;

use super::{count, impatient, lines, make_due, members, slow_row, trigger, trigger_after, work_off};
use crate::world::{World, open};

async fn erase(store: &PostgresStore, id: &str) -> Result<ErasedCounts, StoreError> {
    store.erase(&[(&ORGANIZATIONS, id.to_owned())], Timestamp::from_millis(START + 100)).await
}

#[tokio::test]
async fn a_large_organization_is_erased_in_steps_that_are_reported() {
    let world = World::new().await;
    let store = open(&impatient(&world, Duration::from_secs(1)));
    members(&world, "org_1", 600).await;
    // 600 rows of 5 ms: three times what one statement may take.
    trigger(&world, "organization_memberships", &slow_row(0.005)).await;
    let reports = std::sync::Mutex::new(Vec::new());
    let progress = |counts: ErasedCounts| reports.lock().expect("no panic").push(counts.rows);
    let subjects = [(&ORGANIZATIONS, "org_1".to_owned())];
    let at = Timestamp::from_millis(START + 100);
    let erased = store.erase_in_steps(&subjects, at, &progress).await.expect("it is erased");
    assert_eq!(erased, ErasedCounts { rows: 601, ledger: 600 });
    let reports = reports.into_inner().expect("no panic");
    assert!(reports.len() > 5 && reports.is_sorted() && reports.last() == Some(&601), "{reports:?}");
    assert_eq!(count(&world, "data IS NOT NULL OR role IS NOT NULL").await, 0);
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "0\n");
    assert_eq!(lines(&world).await, "");
}

#[tokio::test]
async fn a_subject_with_more_ledger_entries_than_one_step_removes_is_erased() {
    let world = World::new().await;
    let store = world.store();
    world
        .psql(
            "INSERT INTO mirror_2.deliveries SELECT 'msg_' || i, 'organization.updated', 'org_1', 'updated', now(), now(),
                    now(), 1 FROM generate_series(1, 3500) AS i",
        )
        .await;
    assert_eq!(erase(&store, "org_1").await, Ok(ErasedCounts { rows: 1, ledger: 3_500 }));
}

/// The command was killed right after the tombstone: workers finish the erasure, and nothing is restored.
#[tokio::test]
async fn an_erasure_that_was_killed_is_finished_by_workers() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 300).await;
    trigger(&world, "organization_memberships", &slow_row(0.05)).await;
    let at = Timestamp::from_millis(START + 100);
    {
        let subjects = [(&ORGANIZATIONS, "org_1".to_owned())];
        let erasing = store.erase(&subjects, at);
        let tombstone = until("the tombstone is there", || async {
            world.psql("SELECT count(*) FROM mirror_2.organizations").await == "1\n"
        });
        tokio::select! {
            erased = erasing => panic!("too quick: {erased:?}"),
            () = tombstone => {}
        }
    }
    trigger(&world, "organization_memberships", "").await;
    let late = membership("orgmem_late", "org_1", "user_1", START + 200);
    let late = event("organizationMembership.created", START + 200, &late);
    store.apply_many(&[change_of("msg_late", &late)]).await.expect("it is applied");
    make_due(&world).await;
    let done = work_off(&*world.store()).await;
    assert_eq!((done.parents_left, done.rows_left), (0, 0));
    assert_eq!(count(&world, "data IS NOT NULL").await, 0);
    let left = world.psql("SELECT count(*) FROM mirror_2.deliveries WHERE subject_id <> 'orgmem_late'").await;
    assert_eq!(left, "0\n");
}

#[tokio::test]
async fn an_erasure_with_a_row_that_refuses_erases_all_others_and_says_so_until_it_is_done() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 300).await;
    trigger(
        &world,
        "organization_memberships",
        "IF NEW.id = 'orgmem_org_1_7' THEN RAISE EXCEPTION 'no'; END IF;",
    )
    .await;
    for attempt in 0..2 {
        let refused = erase(&store, "org_1").await;
        let Err(StoreError::Event(text)) = &refused else { panic!("{attempt}: {refused:?}") };
        assert!(text.starts_with("1 rows of theirs keep their content, such as orgmem_org_1_7"), "{text}");
        assert_eq!(count(&world, "data IS NOT NULL").await, 1);
    }
    trigger(&world, "organization_memberships", "").await;
    // No worker, and no wait: the command tries the row itself.
    assert_eq!(erase(&store, "org_1").await.map(|erased| erased.rows), Ok(301));
    assert_eq!(count(&world, "data IS NOT NULL").await, 0);
    make_due(&world).await;
    work_off(&*store).await;
}

#[tokio::test]
async fn an_erasure_that_a_trigger_undoes_ends_and_names_the_row() {
    let world = World::new().await;
    let store = world.store();
    members(&world, "org_1", 300).await;
    trigger(
        &world,
        "organization_memberships",
        "IF NEW.id = 'orgmem_org_1_7' THEN NEW.data = OLD.data; NEW.role = OLD.role; END IF;",
    )
    .await;
    let refused = erase(&store, "org_1").await;
    let Err(StoreError::Event(text)) = &refused else { panic!("{refused:?}") };
    assert!(
        text.contains("orgmem_org_1_7") && text.contains("a trigger of the table undoes the change"),
        "{text}"
    );
    assert_eq!(count(&world, "data IS NOT NULL").await, 1);
    trigger(&world, "organization_memberships", "").await;
    assert_eq!(erase(&store, "org_1").await.map(|erased| erased.rows), Ok(301));
    assert_eq!(count(&world, "data IS NOT NULL").await, 0);
}

/// Users with content and nothing else, alive.
async fn users(world: &World, count: u32) {
    world
        .psql(&format!(
            "INSERT INTO mirror_2.users (id, first_name, primary_email_address, data, synced_at, synced_by, version_updated_at,
                 version_event_at, version_hash, version_revision)
             SELECT 'user_' || i, 'Ines', 'ines@x.org', '{{}}', now(), 'm', 1, 1, decode(md5(i::text), 'hex'), 1
             FROM generate_series(1, {count}) AS i"
        ))
        .await;
}

async fn erase_user(store: &PostgresStore) -> Result<ErasedCounts, StoreError> {
    store.erase(&[(&USERS, "user_1".to_owned())], Timestamp::from_millis(START + 100)).await
}

const CONTENT_LEFT: &str = "SELECT count(*) FROM mirror_2.users
    WHERE id = 'user_1' AND (num_nonnulls(first_name, primary_email_address, data) > 0 OR deleted_at IS NULL)";

#[tokio::test]
async fn content_that_a_trigger_restored_after_an_erasure_is_erased_once_the_trigger_is_gone() {
    for put_back in
        ["data = OLD.data, first_name = OLD.first_name", "first_name = OLD.first_name", "deleted_at = NULL"]
    {
        let world = World::new().await;
        let store = world.store();
        users(&world, 2).await;
        let body = format!("UPDATE mirror_2.users SET {put_back} WHERE id = NEW.id;");
        trigger_after(&world, "users", &body).await;
        for _ in 0..2 {
            let refused = erase_user(&store).await;
            let Err(StoreError::Event(text)) = &refused else { panic!("{put_back}: {refused:?}") };
            assert!(
                text.contains("user_1") && text.contains("a trigger of the table undoes the change"),
                "{text}"
            );
            assert_eq!(world.psql(CONTENT_LEFT).await, "1\n", "{put_back}");
        }
        world.psql("DROP TRIGGER later ON mirror_2.users").await;
        assert_eq!(erase_user(&store).await.map(|erased| erased.rows), Ok(1), "{put_back}");
        assert_eq!(world.psql(CONTENT_LEFT).await, "0\n", "{put_back}");
        assert_eq!(world.psql("SELECT first_name FROM mirror_2.users WHERE id = 'user_2'").await, "Ines\n");
    }
}

/// `updated_at` does not count as content: triggers that set it at each write are common.
#[tokio::test]
async fn a_typed_column_that_a_trigger_keeps_is_content_and_a_time_is_not() {
    let world = World::new().await;
    let store = world.store();
    users(&world, 1).await;
    trigger(&world, "users", "NEW.first_name := OLD.first_name;").await;
    let refused = erase_user(&store).await;
    assert!(
        matches!(&refused, Err(StoreError::Event(text)) if text.contains("undoes the change")),
        "{refused:?}"
    );
    trigger(&world, "users", "NEW.updated_at := now();").await;
    assert_eq!(erase_user(&store).await.map(|erased| erased.rows), Ok(1));
    assert_eq!(world.psql(CONTENT_LEFT).await, "0\n");

    // At a child.
    members(&world, "org_1", 30).await;
    let keep = "IF NEW.id = 'orgmem_org_1_7' THEN NEW.role := OLD.role; END IF;";
    trigger(&world, "organization_memberships", keep).await;
    let refused = erase(&store, "org_1").await;
    let Err(StoreError::Event(text)) = &refused else { panic!("{refused:?}") };
    assert!(text.starts_with("1 rows of theirs keep their content, such as orgmem_org_1_7"), "{text}");
    trigger(&world, "organization_memberships", "").await;
    assert_eq!(erase(&store, "org_1").await.map(|erased| erased.rows), Ok(31));
    assert_eq!(count(&world, "role IS NOT NULL").await, 0);
}

/// The content and all other entries are removed. An entry that stays has a reason and is retried.
#[tokio::test]
async fn a_ledger_that_refuses_to_lose_entries_keeps_no_content() {
    for (raises, kept) in [("OLD.svix_id IN ('msg_own', 'msg_org_1_7')", 2), ("true", 31)] {
        let world = World::new().await;
        let store = world.store();
        members(&world, "org_1", 30).await;
        world
            .psql(&format!(
                "INSERT INTO mirror_2.deliveries VALUES ('msg_own', 'organization.created', 'org_1', 'inserted', now(),
                        now(), now(), 1);
                 CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF {raises} THEN RAISE EXCEPTION 'ImASecret'; END IF; RETURN OLD; END $$;
                 CREATE TRIGGER keep BEFORE DELETE ON mirror_2.deliveries FOR EACH ROW EXECUTE FUNCTION public.keep()"
            ))
            .await;
        let refused = erase(&store, "org_1").await;
        let Err(StoreError::Event(text)) = &refused else { panic!("{refused:?}") };
        assert!(
            text.starts_with(&format!("{kept} ledger entries (table deliveries) about them stay")),
            "{text}"
        );
        assert!(text.contains("P0001") && !text.contains("ImASecret"), "{text}");
        assert_eq!(count(&world, "data IS NOT NULL OR role IS NOT NULL").await, 0);
        assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, format!("{kept}\n"));

        // Workers retry it, and wait longer each time.
        for attempts in 1..=2 {
            let left = store.cascades(Some("org_1"), 10).await.expect("a list");
            assert_eq!((left.parents, left.rows, left.listed[0].attempts), (1, 0, attempts));
            let why = left.listed[0].last_error.as_deref().expect("a reason");
            assert!(why.contains("(table deliveries)") && why.contains("P0001"), "{why}");
            make_due(&world).await;
            assert!(work_off(&*store).await.due_in.is_some_and(|due_in| due_in > Duration::ZERO));
        }
        world.psql("DROP TRIGGER keep ON mirror_2.deliveries").await;
        make_due(&world).await;
        assert_eq!(work_off(&*store).await.parents_left, 0);
        assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "0\n");
    }
}

/// A trigger on the ledger skips the removal: of the organization's own entry, and of a member's.
#[tokio::test]
async fn an_erasure_succeeds_only_if_no_ledger_entry_is_left() {
    for kept in ["msg_own", "msg_org_1_7"] {
        let world = World::new().await;
        let store = world.store();
        members(&world, "org_1", 30).await;
        world
            .psql(&format!(
                "INSERT INTO mirror_2.deliveries VALUES ('msg_own', 'organization.created', 'org_1', 'inserted', now(),
                        now(), now(), 1);
                 CREATE OR REPLACE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF OLD.svix_id = '{kept}' THEN RETURN NULL; END IF; RETURN OLD; END $$;
                 CREATE TRIGGER keep BEFORE DELETE ON mirror_2.deliveries FOR EACH ROW EXECUTE FUNCTION public.keep()"
            ))
            .await;
        let refused = erase(&store, "org_1").await;
        let Err(StoreError::Event(text)) = &refused else { panic!("{refused:?}") };
        assert!(text.contains("ledger entries") && text.contains(kept), "{text}");
        assert_eq!(world.psql("SELECT svix_id FROM mirror_2.deliveries").await, format!("{kept}\n"));
        assert_eq!(count(&world, "data IS NOT NULL").await, 0);
        world.psql("DROP TRIGGER keep ON mirror_2.deliveries").await;
        assert_eq!(erase(&store, "org_1").await, Ok(ErasedCounts { rows: 31, ledger: 1 }));
    }
}
