//! Work on many rows runs in steps: large cascades and erasures, slow and refusing triggers, retention.

mod cascades;
mod erasing;
mod refusals;
mod retention;

use std::time::Duration;

use rollbook_postgres::PostgresSettings;
pub(super) use rollbook_testkit::conformance::store::work_off;
pub(super) use rollbook_testkit::events::{joined, organization_deleted};

use crate::world::World;

/// More rows than one recheck repairs.
const MEMBERS: u32 = 2_500;

/// Creates members of an organization as a store writes them, each with a ledger entry.
pub(super) async fn members(world: &World, organization: &str, count: u32) {
    world
        .psql(&format!(
            "INSERT INTO mirror_2.organization_memberships
                 (id, organization_id, user_id, role, data, synced_at, synced_by, version_updated_at, version_event_at,
                  version_hash, version_revision)
             SELECT 'orgmem_{organization}_' || i, '{organization}', 'user_' || i, 'r', '{{\"a\": 1}}', now(), 'm', 1, 1,
                    decode(md5(i::text), 'hex'), 1 FROM generate_series(1, {count}) AS i;
             INSERT INTO mirror_2.deliveries
             SELECT 'msg_{organization}_' || i, 'organizationMembership.created', 'orgmem_{organization}_' || i, 'inserted',
                    now(), now(), now(), 1 FROM generate_series(1, {count}) AS i"
        ))
        .await;
}

/// Returns the body of a trigger that takes this many seconds for each row. The slowness is the tested fault:
/// no test uses it to wait.
pub(super) fn slow_row(seconds: f64) -> String {
    format!("PERFORM pg_sleep({seconds});")
}

/// Creates a trigger before updates of a table.
pub(super) async fn trigger(world: &World, table: &str, body: &str) {
    world
        .psql(&format!(
            "CREATE OR REPLACE FUNCTION public.of_theirs() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {body} RETURN NEW; END $$;
             CREATE OR REPLACE TRIGGER of_theirs BEFORE UPDATE ON mirror_2.{table}
             FOR EACH ROW EXECUTE FUNCTION public.of_theirs()"
        ))
        .await;
}

/// Creates a trigger after updates of a table. Its own statements run it again.
pub(super) async fn trigger_after(world: &World, table: &str, body: &str) {
    world
        .psql(&format!(
            "CREATE OR REPLACE FUNCTION public.later() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF pg_trigger_depth() = 1 THEN {body} END IF; RETURN NULL; END $$;
             CREATE OR REPLACE TRIGGER later AFTER UPDATE ON mirror_2.{table}
             FOR EACH ROW EXECUTE FUNCTION public.later()"
        ))
        .await;
}

pub(super) async fn count(world: &World, condition: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM mirror_2.organization_memberships WHERE {condition}");
    world.psql(&sql).await.trim().parse().expect("a number")
}

pub(super) async fn lines(world: &World) -> String {
    world.psql("SELECT what, count(*) FROM mirror_2.rollbook_cascades GROUP BY 1 ORDER BY 1").await
}

/// Makes all pending work due.
pub(super) async fn make_due(world: &World) {
    world.psql("UPDATE mirror_2.rollbook_cascades SET next_try_at = now()").await;
}

pub(super) fn impatient(world: &World, statement_timeout: Duration) -> PostgresSettings {
    PostgresSettings { statement_timeout, ..world.settings.clone() }
}
