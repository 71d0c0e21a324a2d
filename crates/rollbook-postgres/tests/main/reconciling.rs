//! The reconciler's port with concurrent workers, on large tables, and with a team's triggers.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS};
use rollbook_core::change::{Applied, Change, Effect, Origin};
use rollbook_core::drift::Drift;
use rollbook_core::event::observed;
use rollbook_core::source::{RECONCILED, Window};
use rollbook_core::store::{
    Forwards as _, Living, Reconciliation as _, Reset, Rows as _, Store as _, StoreError,
};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresStore;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization};
use rollbook_testkit::process::until;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::world::{OURS, World, open, user_change};

/// A time after every write.
fn later() -> Timestamp {
    Timestamp::from_millis(START).plus(Duration::from_secs(1_000_000))
}

fn reading(object: &Value, read_at: i64) -> Change {
    let (object, read_at) = (object.as_object().expect("an object"), Timestamp::from_millis(read_at));
    let (subject, _) = observed(&ORGANIZATIONS, object.clone(), read_at).expect("it has an id");
    let origin = Origin::reconcile("run_1", &subject, Drift::Resync, read_at);
    Change { origin, effect: Effect::Merge(Box::new(subject)) }
}

fn organization_created() -> Change {
    change_of("msg_org", &event("organization.created", START, &organization("org_1", START)))
}

fn organization_deleted() -> Change {
    let end = event("organization.deleted", START + 7, &deleted("organization", "org_1"));
    change_of("msg_end", &end)
}

fn joined(at: i64) -> Change {
    let joined = membership("orgmem_1", "org_1", "user_1", START + at);
    change_of(&format!("msg_member_{at}"), &event("organizationMembership.updated", START + at, &joined))
}

#[tokio::test]
async fn living_rows_of_a_large_table_are_paged_and_counted_by_their_index() {
    let world = World::new().await;
    for resource in RECONCILED {
        world
            .psql(&format!(
                "INSERT INTO mirror_2.{table} (id, created_at, deleted_at, synced_at, synced_by, version_updated_at,
                                               version_event_at, version_hash)
                 SELECT 'id_' || n, CASE WHEN n % 10 > 0 THEN now() + n * interval '1 s' END,
                        CASE WHEN n % 7 = 0 THEN now() END, 'epoch', 'msg', 0, 0, ''
                 FROM generate_series(1, 5000) AS n;
                 ANALYZE mirror_2.{table}",
                table = resource.table
            ))
            .await;
        let store = world.store();
        let page = store.living(resource, Window::ALL, later(), None, 100).await.expect("a page");
        let next = store.living(resource, Window::ALL, later(), page.last(), 100).await.expect("a page");
        assert_eq!((page.len(), next.len()), (100, 100));
        assert_eq!(store.undated(resource, later(), None, 100).await.map(|page| page.len()), Ok(100));
        assert_eq!(store.count_living(resource).await, Ok(4286));
        // The server counts what a session has read at the latest when that ends. Three pages of 100 rows and
        // one count.
        drop(store);
        let read = format!(
            "SELECT idx_scan, idx_tup_read FROM pg_stat_user_indexes
             WHERE indexrelid = 'mirror_2.{}_living'::regclass",
            resource.table
        );
        until("all four have used the index", || async { world.psql(&read).await.starts_with("4|") }).await;
        let entries: u64 = world.psql(&read).await.trim().trim_start_matches("4|").parse().expect("a number");
        assert!((4586..4700).contains(&entries), "{entries} entries of the index were read");
    }
}

#[tokio::test]
async fn a_row_with_a_time_below_a_millisecond_is_listed_once() {
    let world = World::new().await;
    world
        .psql(
            "CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.created_at := NEW.created_at + interval '7 us'; RETURN NEW; END $$;
             CREATE TRIGGER stamp BEFORE INSERT ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION public.stamp()",
        )
        .await;
    let store = world.store();
    let changes = ["user_1", "user_2", "user_3"].map(|id| user_change(id, 0));
    store.apply_many(&changes).await.expect("they are applied");
    let mut found: Vec<Living> = Vec::new();
    for _ in 0..4 {
        found.extend(store.living(&USERS, Window::ALL, later(), found.last(), 1).await.expect("a page"));
    }
    let ids: Vec<&str> = found.iter().map(|row| row.lookup.id.as_str()).collect();
    assert_eq!(ids, ["user_1", "user_2", "user_3"]);
}

#[tokio::test]
async fn an_equal_reading_writes_no_row_and_fires_no_trigger() {
    let world = World::new().await;
    world
        .psql(
            "CREATE TABLE public.fired (id text);
             CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (NEW.id); RETURN NEW; END $$;
             CREATE TRIGGER fire BEFORE INSERT OR UPDATE ON mirror_2.organizations
             FOR EACH ROW EXECUTE FUNCTION public.fire()",
        )
        .await;
    let store = world.store();
    let reading = reading(&organization("org_1", START), START + 5);
    let row = "SELECT xmin, ctid FROM mirror_2.organizations";
    assert_eq!(store.apply_many(std::slice::from_ref(&reading)).await, Ok(vec![Applied::Inserted]));
    let before = world.psql(row).await;
    assert_eq!(store.apply_many(std::slice::from_ref(&reading)).await, Ok(vec![Applied::Unchanged]));
    assert_eq!(world.psql(row).await, before);
    assert_eq!(world.psql("SELECT count(*) FROM public.fired").await, "1\n");
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "1\n", "nor another entry");
}

async fn deleted_at(store: &PostgresStore) -> [Value; 2] {
    let member = store.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_1").await.expect("it is read");
    let organization = store.get(&ORGANIZATIONS, "org_1").await.expect("it is read");
    [organization, member].map(|row| row.expect("a row").columns["deleted_at"].clone())
}

/// Resets the organization in the state that it has now.
async fn reset_organization(store: &PostgresStore) -> Result<Reset, StoreError> {
    let state = store.heads(&ORGANIZATIONS, &["org_1"]).await?[0].state;
    store.reset(&ORGANIZATIONS, "org_1", &state).await
}

#[tokio::test]
async fn a_repair_that_is_under_way_does_not_bring_back_a_deletion_that_was_reset() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[organization_created(), joined(0)]).await.expect("they are applied");
    // A worker has deleted the organization. Another one is about to show this in the child row.
    let mut worker = world.session().await;
    worker
        .run(
            "UPDATE mirror_2.organizations SET deleted_at = '2026-07-30', version_deleted_at = 1785369600000,
                 version_revision = version_revision + 1",
        )
        .await;
    worker
        .run(
            "BEGIN; UPDATE mirror_2.organization_memberships SET deleted_at = '2026-07-30',
                 version_parents_deleted_at = '2026-07-30', version_revision = version_revision + 1",
        )
        .await;
    let (resetting, mut reset) = (Arc::clone(&store), JoinSet::new());
    reset.spawn(async move { reset_organization(&resetting).await });
    let waiting = format!("{OURS} AND wait_event_type = 'Lock'");
    until("the reset waits for the child's lock", || async { world.psql(&waiting).await == "1\n" }).await;
    worker.run("COMMIT").await;
    let floor = Ok(Reset::Done(Timestamp::from_millis(1_785_369_600_000)));
    assert_eq!(reset.join_all().await, [floor]);
    assert_eq!(deleted_at(&store).await, [Value::Null, Value::Null]);
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.rollbook_cascades").await, "0\n", "nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_apply_older_events_at_the_same_time_do_not_undo_a_reset() {
    let world = World::new().await;
    let store = world.store();
    for round in 0..10 {
        store.apply_many(&[organization_created(), joined(0)]).await.expect("they are applied");
        store.apply_many(&[organization_deleted()]).await.expect("it is applied");
        let mut workers = JoinSet::new();
        for change in [organization_deleted(), joined(1), organization_deleted(), joined(2)] {
            let worker = open(&world.settings);
            workers.spawn(async move {
                for _ in 0..5 {
                    worker.apply_many(std::slice::from_ref(&change)).await.expect("it is applied");
                }
            });
        }
        let reset = reset_organization(&store).await;
        assert_eq!(reset, Ok(Reset::Done(Timestamp::from_millis(START + 7))));
        let fresh = reading(&organization("org_1", START), START + 8);
        store.apply_many(&[fresh]).await.expect("it is applied");
        workers.join_all().await;
        assert_eq!(deleted_at(&store).await, [Value::Null, Value::Null], "round {round}");
        world.psql("DELETE FROM mirror_2.organizations; DELETE FROM mirror_2.organization_memberships").await;
    }
}

#[tokio::test]
async fn a_trigger_that_refuses_a_reset_fails_it_and_one_that_refuses_a_child_is_recorded() {
    let world = World::new().await;
    let store = world.store();
    let changes = [organization_created(), joined(0), organization_deleted()];
    store.apply_many(&changes).await.expect("they are applied");
    for body in ["RAISE EXCEPTION 'no'", "RETURN NULL", "NEW.version_deleted_at := OLD.version_deleted_at"] {
        world
            .psql(&format!(
                "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN {body}; RETURN NEW; END $$;
                 CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON mirror_2.organizations
                 FOR EACH ROW EXECUTE FUNCTION public.refuse()"
            ))
            .await;
        let refused = reset_organization(&store).await;
        assert!(matches!(refused, Err(StoreError::Event(_))), "{body}: {refused:?}");
    }
    world
        .psql(
            "DROP TRIGGER refuse ON mirror_2.organizations;
             CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON mirror_2.organization_memberships
             FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        )
        .await;
    assert!(reset_organization(&store).await.is_ok());
    assert_eq!(deleted_at(&store).await[0], Value::Null);
    let pending = "SELECT table_name, id, what, attempts FROM mirror_2.rollbook_cascades";
    assert_eq!(world.psql(pending).await, "organization_memberships|orgmem_1|row|1\n");
    world
        .psql(
            "DROP TRIGGER refuse ON mirror_2.organization_memberships;
             UPDATE mirror_2.rollbook_cascades SET next_try_at = now()",
        )
        .await;
    store.cascade().await.expect("a turn");
    assert_eq!(deleted_at(&store).await, [Value::Null, Value::Null]);
}

#[tokio::test]
async fn the_view_freshness_has_a_row_for_each_resource_and_the_latest_event_of_the_ledger() {
    let world = World::new().await;
    let store = world.store();
    let view = "SELECT count(*), count(applied_through), count(last_walk_at) FROM mirror_2.freshness";
    assert_eq!(world.psql(view).await, "8|0|0\n");
    let walk = rollbook_core::store::Freshness {
        table: "organizations".to_owned(),
        complete_since: Some(Timestamp::from_millis(START)),
        last_walk_at: Timestamp::from_millis(START + 1),
        drift: 3,
    };
    store.save_freshness(&walk).await.expect("it is recorded");
    store.apply_many(&[user_change("user_1", 5), user_change("user_2", 3)]).await.expect("they are applied");
    store.apply_many(&[reading(&organization("org_1", START), START + 99)]).await.expect("it is applied");
    let line = "SELECT (extract(epoch FROM complete_since) * 1000)::int8, (extract(epoch FROM last_walk_at) * 1000)::int8,
                       drift, (extract(epoch FROM applied_through) * 1000)::int8
                FROM mirror_2.freshness WHERE resource = 'organizations'";
    assert_eq!(world.psql(line).await, format!("{START}|{}|3|{}\n", START + 1, START + 5));
    assert_eq!(world.psql(view).await, "8|8|1\n");
    let names =
        world.psql("SELECT string_agg(resource, ' ' ORDER BY resource) FROM mirror_2.freshness").await;
    let mut known = RECONCILED.map(|resource| resource.table);
    known.sort_unstable();
    assert_eq!(names.trim(), known.join(" "));
    let plan = world.psql("SET enable_seqscan = off; EXPLAIN SELECT * FROM mirror_2.freshness").await;
    assert!(plan.contains("Index Scan Backward using deliveries_by_age"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}

#[tokio::test]
async fn roles_that_could_work_or_read_before_may_use_what_the_step_adds() {
    let world = World::empty().await;
    let (worker, reader) =
        (format!("old_worker_{}", world.database), format!("old_reader_{}", world.database));
    rollbook_postgres::apply_migrations(&world.settings).await.expect("the migrations apply");
    world
        .psql(&format!(
            "CREATE ROLE {worker}; CREATE ROLE {reader}; SET search_path TO mirror_2;
             DROP VIEW freshness; DROP TABLE reconcile_runs, reconcile_held, reconcile_locks, reconcile_walks;
             DELETE FROM rollbook_migrations WHERE name = '0010_reconcile';
             GRANT SELECT, INSERT, DELETE ON deliveries TO {worker}; GRANT SELECT ON current_members TO {reader}"
        ))
        .await;
    rollbook_postgres::apply_migrations(&world.settings).await.expect("the step applies again");
    let rights = world
        .psql(&format!(
            "SELECT bool_and(has_table_privilege('{worker}', oid, right_)) FROM pg_class,
                    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_
             WHERE relnamespace = 'mirror_2'::regnamespace AND relkind = 'r' AND relname LIKE 'reconcile%';
             SELECT has_table_privilege('{reader}', 'mirror_2.freshness', 'SELECT'),
                    has_table_privilege('{reader}', 'mirror_2.reconcile_held', 'SELECT')"
        ))
        .await;
    assert_eq!(rights, "t\nt|f\n");
    let valid =
        "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid::regclass::text LIKE '%\\_living'";
    assert_eq!(world.psql(valid).await, "8\n", "the indexes were built again while the tables were in use");
}

#[tokio::test]
async fn locks_and_forwards_that_were_taken_while_the_servers_clock_was_ahead_end_once_it_is_right() {
    let world = World::new().await;
    let (store, minute) = (world.store(), Duration::from_secs(60));
    assert_eq!(store.lock("run", "killed", minute).await, Ok(true));
    assert!(store.take_forward("crm", "killed", minute, 0).await.expect("it takes").is_some());
    for (held_for, is_free) in [("23 hours", false), ("25 hours", true)] {
        let ahead = format!(
            "UPDATE mirror_2.reconcile_locks SET held_until = clock_timestamp() + interval '{held_for}';
             UPDATE mirror_2.forwards SET held_until = clock_timestamp() + interval '{held_for}'"
        );
        world.psql(&ahead).await;
        assert_eq!(store.lock("run", "next", minute).await, Ok(is_free), "{held_for}");
        let taken = store.take_forward("crm", "next", minute, 0).await.expect("it takes");
        assert_eq!(taken.is_some(), is_free, "{held_for}");
    }
}
