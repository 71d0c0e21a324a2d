//! The triggers of the feed: made, replaced and dropped by migrations, next to those of a team, for any role.

use rollbook_core::store::{Changes as _, FeedState, Store as _};
use rollbook_postgres::{PostgresSettings, apply_migrations};

use super::{ids, lines};
use crate::world::{ROLE_PASSWORD, World, open, user_change};

const TRIGGERS: &str =
    "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rollbook\\_changes\\_%' AND NOT tgisinternal";
const FUNCTIONS: &str = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'rollbook\\_changes\\_%'";

#[tokio::test]
async fn a_feed_that_is_switched_off_leaves_nothing_that_costs_and_can_be_switched_on_again() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    // A trigger of the team on the same table, and a line that waits.
    world
        .psql(
            "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER rollbook_changes_theirs AFTER UPDATE ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION public.theirs()",
        )
        .await;
    let off = PostgresSettings { changes: false, ..world.settings.clone() };
    assert_eq!(apply_migrations(&off).await, Ok(vec![]));
    assert_eq!((world.psql(TRIGGERS).await.as_str(), world.psql(FUNCTIONS).await.as_str()), ("1\n", "0\n"));
    store.apply_many(&[user_change("user_2", 0)]).await.expect("applied");
    assert_eq!(ids(&lines(&store, 0).await), ["user_1"], "what was recorded gets its position");
    let state = store.feed().await.expect("a feed");
    let generation = state.generation;
    assert_eq!(state, FeedState { is_on: false, last: 1, generation, ..FeedState::default() });
    assert_eq!(apply_migrations(&world.settings).await, Ok(vec![]));
    assert_eq!((world.psql(TRIGGERS).await.as_str(), world.psql(FUNCTIONS).await.as_str()), ("25\n", "24\n"));
    assert!(store.feed().await.expect("a feed").is_on);
    store.apply_many(&[user_change("user_3", 0)]).await.expect("applied");
    assert_eq!(ids(&lines(&store, 1).await), ["user_3"]);
}

#[tokio::test]
async fn a_function_of_another_release_is_replaced_and_one_that_is_right_is_left_alone() {
    let world = World::new().await;
    let versions = "SELECT string_agg(xmin::text, ',' ORDER BY proname) FROM pg_proc WHERE proname LIKE 'rollbook\\_changes\\_%'";
    let before = world.psql(versions).await;
    apply_migrations(&world.settings).await.expect("nothing is to be done");
    assert_eq!(world.psql(versions).await, before);
    world
        .psql(
            "CREATE OR REPLACE FUNCTION mirror_2.rollbook_changes_users_insert() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RETURN NULL; END $$; DROP TRIGGER rollbook_changes_update ON mirror_2.sessions",
        )
        .await;
    let store = world.store();
    assert!(!store.feed().await.expect("a feed").is_on, "a trigger is missing");
    apply_migrations(&world.settings).await.expect("they are made again");
    assert!(store.feed().await.expect("a feed").is_on);
    store.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    assert_eq!(ids(&lines(&store, 0).await), ["user_1"]);
}

/// Counts the locks of this session on the table of lines without a position.
const LOCKS: &str = "SELECT count(*) FROM pg_locks
                     WHERE relation = 'mirror_2.changes_pending'::regclass AND pid = pg_backend_pid()";

#[tokio::test]
async fn a_statement_that_writes_no_row_does_not_touch_the_feed() {
    let world = World::new().await;
    let locks = async |rows: &str| {
        let written = world
            .psql(&format!(
                "BEGIN;
                 INSERT INTO mirror_2.users (id, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
                 SELECT 'user_' || n, now(), 'msg_1', 1, 1, decode(md5('1'), 'hex') FROM generate_series(1, {rows}) AS n
                 ON CONFLICT (id) DO UPDATE SET synced_by = excluded.synced_by;
                 {LOCKS};
                 COMMIT"
            ))
            .await;
        written.lines().find_map(|line| line.parse::<u32>().ok())
    };
    assert_eq!(locks("0").await, Some(0), "both triggers run, and neither begins to write");
    assert_eq!(locks("1").await, Some(1));
}

#[tokio::test]
async fn whoever_may_write_a_row_records_the_change_and_needs_no_right_on_the_feed() {
    let (world, owner) = World::with_roles().await;
    let app = format!("app_of_{}", world.database);
    world
        .psql(&format!(
            "CREATE ROLE {app} LOGIN PASSWORD '{ROLE_PASSWORD}'; GRANT USAGE ON SCHEMA mirror_2 TO {app};
             GRANT SELECT, INSERT, UPDATE ON mirror_2.users TO {app};
             GRANT EXECUTE ON FUNCTION mirror_2.ensure_user (text) TO {app}; GRANT CREATE ON SCHEMA public TO {app};
             GRANT SELECT ON mirror_2.changes, mirror_2.changes_state TO {app}"
        ))
        .await;
    let worker = open(&world.settings);
    worker.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    let mut session = World::session_as(&world.with_user(&app, ROLE_PASSWORD)).await;
    // An operator of its own comes first in the search path of the role.
    session.run("SELECT mirror_2.ensure_user('user_2')").await;
    session
        .run(
            "CREATE FUNCTION public.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
             CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.never);
             SET search_path = public, pg_catalog; UPDATE mirror_2.users SET username = 'x' WHERE id OPERATOR(pg_catalog.=) 'user_1'",
        )
        .await;
    let found = lines(&worker, 0).await;
    assert_eq!(ids(&found), ["user_1", "user_1"], "a placeholder row is not a change");
    assert_eq!(
        (found[1].origin.as_str(), found[1].changed.as_slice()),
        ("other", &["username".to_owned()][..])
    );
    worker.apply_many(&[user_change("user_2", 0)]).await.expect("applied");
    let filled = lines(&worker, 2).await;
    assert_eq!((ids(&filled), filled[0].kind.as_str()), (vec!["user_2"], "created"));
    let refused = format!(
        "SET SESSION AUTHORIZATION {app};
         DO $$ BEGIN
             BEGIN PERFORM FROM mirror_2.changes_pending; RAISE 'it reads pending lines';
             EXCEPTION WHEN insufficient_privilege THEN NULL; END;
             BEGIN INSERT INTO mirror_2.changes VALUES (9, 'users', 'user_9', 'created', '{{}}', 'webhook', NULL, NULL, now());
                 RAISE 'it writes lines';
             EXCEPTION WHEN insufficient_privilege THEN NULL; END;
             CREATE TABLE public.own (id text);
             BEGIN CREATE TRIGGER forged AFTER INSERT ON public.own FOR EACH STATEMENT
                       EXECUTE FUNCTION mirror_2.rollbook_changes_users_insert(); RAISE 'it forges lines';
             EXCEPTION WHEN insufficient_privilege THEN NULL; END;
         END $$; SELECT count(*) FROM mirror_2.changes"
    );
    assert_eq!(world.psql(&refused).await, "3\n");
    drop(owner);
}

#[tokio::test]
async fn a_version_with_a_time_that_no_timestamp_can_show_refuses_no_row() {
    let world = World::new().await;
    world
        .psql(
            "INSERT INTO mirror_2.users (id, data, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
             SELECT 'user_' || n, '{}', now(), 'msg', 1, n, decode(md5('x'), 'hex')
             FROM unnest(ARRAY[9223372036854775807, -9223372036854775808, 253402300800000, 0]) AS n;
             UPDATE mirror_2.users SET version_deleted_at = version_event_at, deleted_at = now()",
        )
        .await;
    let found = lines(&world.store(), 0).await;
    assert_eq!(found.len(), 8);
    assert!(found.iter().all(|line| line.event_at.is_some()), "{found:?}");
}

#[tokio::test]
async fn two_schemas_of_a_database_have_two_feeds() {
    let world = World::new().await;
    let other = PostgresSettings { schema: "mirror_3".to_owned(), ..world.settings.clone() };
    apply_migrations(&other).await.expect("the migrations apply");
    let (one, two) = (world.store(), open(&other));
    one.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    two.apply_many(&[user_change("user_2", 0), user_change("user_3", 0)]).await.expect("applied");
    assert_eq!(ids(&lines(&one, 0).await), ["user_1"]);
    assert_eq!(ids(&lines(&two, 0).await), ["user_2", "user_3"]);
    let off = PostgresSettings { changes: false, ..other };
    apply_migrations(&off).await.expect("it is switched off");
    assert!(one.feed().await.expect("a feed").is_on && !two.feed().await.expect("a feed").is_on);
}
