//! Large tables on Postgres: see `large.rs` of SQLite.

use std::sync::Arc;

use rollbook_postgres::PostgresStore;
use rollbook_testkit::clock::WallClock;

use super::{new_database, raw_postgres, start_postgres};
use crate::Scale;
use crate::large::{Size, applied, report_ledger, report_turns};
use crate::report::{Report, progress};

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let size = Size::of(scale);
    let (users, entries) = (size.users, size.entries());
    progress(&format!("filling Postgres with {users} users and {entries} entries"));
    let postgres = start_postgres().await;
    let settings = new_database(&postgres, "large").await;
    let fill = format!(
        "SET search_path TO clerk; SET session_replication_role = replica;
         INSERT INTO users (id, first_name, primary_email_address, data, synced_at, synced_by,
                            version_updated_at, version_event_at, version_hash)
         SELECT 'user_' || lpad(i::text, 9, '0'), 'Ines', 'u' || i || '@work.example',
                jsonb_build_object('m', (SELECT string_agg(md5((i * 100 + part)::text), '') FROM generate_series(1, 56) AS part)),
                now(), 'msg', 1, 1, decode(md5(i::text), 'hex') FROM generate_series(1, {users}) AS i;
         INSERT INTO deliveries
         SELECT 'msg_' || md5(i::text), 'user.updated', 'user_' || lpad((i % {users} + 1)::text, 9, '0'), 'updated',
                at, at, at, 1
         FROM generate_series(0, {entries} - 1) AS i, LATERAL (SELECT now() - (i % 604800) * interval '1 s' AS at) AS entry"
    );
    postgres.psql("large", &fill).await;
    for statement in ["VACUUM ANALYZE clerk.users", "VACUUM ANALYZE clerk.deliveries", "CHECKPOINT"] {
        postgres.psql("large", statement).await;
    }
    let store = PostgresStore::new(settings.clone(), Arc::new(WallClock)).expect("a store");
    let mut turns = Vec::new();
    for turn in 0..size.turns {
        progress(&format!("applying to large tables on Postgres, turn {}", turn + 1));
        let ours = applied(&store, &size.events(turn * 2)).await;
        turns.push((ours, raw_postgres::upserts(&size.events(turn * 2 + 1), &settings).await));
    }
    report_turns(report, "Postgres", size, &turns);
    report_ledger(report, "Postgres", size, &store).await;
}
