//! Erasures of what is large.

use std::time::Duration;

use rollbook_core::catalog::ORGANIZATIONS;
use rollbook_core::store::{ErasedCounts, Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresStore;
use rollbook_testkit::events::{START, change_of, event, membership};
use rollbook_testkit::process::until;

use super::{count, impatient, lines, make_due, members, slow_row, trigger, work_off};
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
async fn a_subject_with_more_ledger_lines_than_one_step_takes_is_forgotten() {
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

/// The command was killed right after the tombstone: workers finish what it has begun, and nothing came back.
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
    let done = work_off(&world.store()).await;
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
    work_off(&store).await;
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

/// A trigger on the ledger swallows the removal: of the organization's own line, and of a member's.
#[tokio::test]
async fn only_without_any_line_in_the_ledger_an_erasure_is_a_success() {
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
        assert!(text.contains("lines of the ledger") && text.contains(kept), "{text}");
        assert_eq!(world.psql("SELECT svix_id FROM mirror_2.deliveries").await, format!("{kept}\n"));
        assert_eq!(count(&world, "data IS NOT NULL").await, 0);
        world.psql("DROP TRIGGER keep ON mirror_2.deliveries").await;
        assert_eq!(erase(&store, "org_1").await, Ok(ErasedCounts { rows: 31, ledger: 1 }));
    }
}
