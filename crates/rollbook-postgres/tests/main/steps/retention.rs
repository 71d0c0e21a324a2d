//! Retention: slow rows, rows that refuse, and rows that were erased before.

use std::time::Duration;

use rollbook_core::catalog::USERS;
use rollbook_core::merge::DeletedRows;
use rollbook_core::store::{
    PendingWork, RetentionChoices, RetentionLimits, RetentionStep, Rows as _, Store as _,
};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresStore;
use rollbook_testkit::events::{START, change_of, deleted, event, user};
use rollbook_testkit::process::until;

use super::{count, impatient, joined, lines, make_due, slow_row, trigger, trigger_after};
use crate::world::{World, clock, open};

fn due(ledger: bool, deleted: bool) -> RetentionLimits {
    let now = Timestamp::from_millis(START + 1_000_000);
    RetentionLimits {
        ledger_before: ledger.then_some(now),
        deleted_before: deleted.then_some(now),
        changes_before: None,
        limit: 1_000,
    }
}

async fn retain_all(store: &PostgresStore, due: RetentionLimits) -> RetentionStep {
    let mut all = RetentionStep::default();
    loop {
        let step = store.retain(&due).await.expect("the store tidies");
        (all.ledger, all.rows) = (all.ledger + step.ledger, all.rows + step.rows);
        if step == RetentionStep::default() {
            return all;
        }
    }
}

async fn deleted_users(world: &World, count: u32) {
    world
        .psql(&format!(
            "INSERT INTO mirror_2.users (id, first_name, data, deleted_at, synced_at, synced_by, version_updated_at,
                 version_event_at, version_hash, version_deleted_at, version_revision)
             SELECT 'user_' || i, 'x', '{{}}', '2020-01-01'::timestamptz + i * interval '1 second', now(), 'm', 1, 1,
                    decode(md5(i::text), 'hex'), 1, 1 FROM generate_series(1, {count}) AS i"
        ))
        .await;
}

#[tokio::test]
async fn slow_rows_keep_no_ledger_entry_and_are_erased_in_smaller_steps() {
    let world = World::new().await;
    let store = open(&impatient(&world, Duration::from_secs(1)));
    deleted_users(&world, 150).await;
    let old = "INSERT INTO mirror_2.deliveries SELECT 'msg_' || i, 'user.updated', 'user_1', 'updated', now(), now(),
                      '2020-01-01', 1 FROM generate_series(1, 1500) AS i";
    world.psql(old).await;
    trigger(&world, "users", &slow_row(0.025)).await;
    assert_eq!(
        retain_all(&store, due(true, true)).await,
        RetentionStep { ledger: 1_500, rows: 150, changes: 0 }
    );
}

#[tokio::test]
async fn content_that_a_trigger_restores_after_retention_is_recorded_and_erased_once_the_trigger_is_gone() {
    let world = World::new().await;
    let store = world.store();
    deleted_users(&world, 50).await;
    // Erased before by retention, and put back: content of which nothing was noted.
    world.psql(r"UPDATE mirror_2.users SET version_hash = '\xff' WHERE id = 'user_9'").await;
    let put_back = "IF NEW.id = 'user_7' THEN UPDATE mirror_2.users SET first_name = OLD.first_name WHERE id = NEW.id; END IF;";
    trigger_after(&world, "users", put_back).await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 49);
    let listed = store.cascades(None, 10).await.expect("a list").listed;
    assert_eq!((listed.len(), listed[0].id.as_str(), listed[0].what), (1, "user_7", PendingWork::Content));
    assert_eq!(listed[0].last_error.as_deref(), Some("a trigger of the table undoes the change"));
    world.psql("DROP TRIGGER later ON mirror_2.users").await;
    make_due(&world).await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 1);
    let left = "SELECT count(*) FROM mirror_2.users WHERE num_nonnulls(first_name, data) > 0";
    assert_eq!(world.psql(left).await, "0\n");
}

#[tokio::test]
async fn a_row_that_refuses_to_lose_its_content_blocks_no_other_row() {
    let world = World::new().await;
    let store = world.store();
    deleted_users(&world, 50).await;
    trigger(&world, "users", "IF NEW.id = 'user_7' THEN RAISE EXCEPTION 'no'; END IF;").await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 49);
    let left = store.cascades(None, 10).await.expect("a list");
    assert_eq!(
        (left.rows, left.listed[0].id.as_str(), left.listed[0].what),
        (1, "user_7", PendingWork::Content)
    );
    trigger(&world, "users", "").await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 0, "its next try is not due yet");
    make_due(&world).await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 1);
    assert_eq!(lines(&world).await, "");
}

/// More of one instant than one page takes, and to the microsecond, as a statement of the team's may have left them.
#[tokio::test]
async fn more_rows_of_one_instant_than_one_page_takes_are_all_erased() {
    let world = World::new().await;
    let store = world.store();
    deleted_users(&world, 1_500).await;
    world.psql("UPDATE mirror_2.users SET deleted_at = '2020-01-01 00:00:00.123456'").await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 1_500);
}

/// Steps of retention do not read again what was erased before: 2,000 users are erased in steps of 100.
#[tokio::test]
async fn a_step_of_retention_does_not_read_again_what_was_erased_before() {
    let world = World::new().await;
    let store = world.store();
    deleted_users(&world, 2_000).await;
    world.psql("VACUUM ANALYZE mirror_2.users").await;
    let read = "SELECT coalesce(idx_tup_read, 0) FROM pg_stat_user_indexes
                WHERE schemaname = 'mirror_2' AND indexrelname = 'users_deleted'";
    let due = RetentionLimits { limit: 100, ..due(false, true) };
    assert_eq!(retain_all(&store, due).await.rows, 2_000);
    drop(store);
    // Sessions report what they have read when they end, at the latest.
    let entries = || async { world.psql(read).await.trim().parse::<u64>().expect("a number") };
    until("the server has counted the steps", || async { entries().await >= 2_000 }).await;
    let entries = entries().await;
    assert!(entries < 8_000, "{entries} entries of the index were read for 2,000 rows");
}

#[tokio::test]
async fn content_kept_before_the_choice_to_erase_is_erased_with_that_of_its_children() {
    let world = World::new().await;
    let store = world.store();
    let gone = change_of("msg_gone", &event("user.deleted", START + 5, &deleted("user", "user_1")));
    let lives = change_of("msg_lives", &event("user.created", START, &user("user_1", START)));
    store.apply_many(&[lives, joined(1, "org_1"), gone]).await.expect("the store applies them");
    assert_eq!(count(&world, "data IS NOT NULL").await, 1);
    let retention = RetentionChoices { deleted_rows: DeletedRows::Erase, ..RetentionChoices::default() };
    let store = PostgresStore::new(world.settings.clone(), clock())
        .expect("the settings are right")
        .with_retention(retention);
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 1);
    assert_eq!(count(&world, "data IS NOT NULL").await, 0);
    let row = store.get(&USERS, "user_1").await.expect("the store reads").expect("a row");
    assert!(row.columns["first_name"].is_null());
}

/// The first 10 of 30 old entries are kept. The limit is smaller than 10: a step that ended with them would remove nothing.
#[tokio::test]
async fn ledger_entries_that_refuse_to_go_keep_no_other_entry() {
    let keeps = |body: &str| {
        format!(
            "CREATE FUNCTION public.keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE TRIGGER keeps BEFORE DELETE ON mirror_2.deliveries FOR EACH ROW
             WHEN (OLD.subject_id = 'user_kept') EXECUTE FUNCTION public.keeps()"
        )
    };
    let references = "CREATE TABLE public.theirs AS SELECT svix_id FROM mirror_2.deliveries WHERE subject_id = 'user_kept';
                      ALTER TABLE public.theirs ADD FOREIGN KEY (svix_id) REFERENCES mirror_2.deliveries";
    for keeps in [keeps("RAISE EXCEPTION 'no';"), keeps("RETURN NULL;"), references.to_owned()] {
        let world = World::new().await;
        let old = "INSERT INTO mirror_2.deliveries SELECT 'msg_' || i, 'user.updated',
                          CASE WHEN i <= 10 THEN 'user_kept' ELSE 'user_1' END, 'updated', now(), now(),
                          '2020-01-01'::timestamptz + i / 4 * interval '1 second', 1 FROM generate_series(1, 30) AS i";
        world.psql(old).await;
        world.psql(&keeps).await;
        let store = world.store();
        let due = RetentionLimits { limit: 4, ..due(true, false) };
        let mut gone = 0;
        for _ in 0..9 {
            gone += store.retain(&due).await.expect("the others go").ledger;
        }
        assert_eq!(gone, 20, "{keeps}");
        assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "10\n");
        // After a restart all entries are tried again.
        world.psql("DROP TABLE IF EXISTS public.theirs; DROP FUNCTION IF EXISTS public.keeps CASCADE").await;
        assert_eq!(retain_all(&world.store(), due).await.ledger, 10);
    }
}

#[tokio::test]
async fn retention_that_is_switched_off_leaves_no_entry_about_content() {
    let world = World::new().await;
    let store = world.store();
    deleted_users(&world, 1).await;
    trigger(&world, "users", "RAISE EXCEPTION 'no';").await;
    assert_eq!(retain_all(&store, due(false, true)).await.rows, 0);
    assert_eq!(store.cascades(None, 10).await.expect("a list").rows, 1);
    assert_eq!(retain_all(&store, due(false, false)).await.rows, 0);
    assert_eq!(store.cascades(None, 10).await.expect("a list").rows, 0);
}
