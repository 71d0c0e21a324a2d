//! Triggers, policies and constraints of a team that affect one row fail that row alone.

use std::time::Duration;

use rollbook_core::catalog::USERS;
use rollbook_core::change::Change;
use rollbook_core::store::{Erasure as _, SlowCause, Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresSettings;
use rollbook_testkit::events::{START, change_of, deleted, event};
use serde_json::json;

use crate::world::{SECRET, World, open, user_change, user_with};

/// Row that is refused.
fn bad() -> Change {
    user_with("user_bad", "last_name", &json!(SECRET))
}

/// Creates a trigger on users with this body, for the refused row alone.
async fn trigger(world: &World, body: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF NEW.id = 'user_bad' THEN {body} END IF; RETURN NEW; END $$;
         DROP TRIGGER IF EXISTS theirs ON mirror_2.users;
         CREATE TRIGGER theirs BEFORE INSERT OR UPDATE ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION public.theirs()"
    );
    world.psql(&sql).await;
}

/// Returns the only session of a store.
async fn session(world: &World) -> String {
    world
        .psql(
            "SELECT string_agg(pid::text, ',') FROM pg_stat_activity
               WHERE application_name = 'rollbook' AND datname = current_database()",
        )
        .await
}

/// Asserts that the row is blamed in a text with this SQLSTATE, that its batch wrote nothing, and that its
/// neighbour is applied on the same connection.
async fn assert_refused_alone(world: &World, what: &str, state: &str) {
    let store = open(&PostgresSettings { connections_max: 1, ..world.settings.clone() });
    assert!(store.apply_many(&[user_change("user_first", 0)]).await.is_ok(), "{what}");
    let before = session(world).await;
    let good = user_change("user_good", 0);
    for changes in [&[bad(), good.clone()][..], &[bad()][..]] {
        let result = store.apply_many(changes).await;
        let Err(StoreError::Event(text)) = result else { panic!("{what}: {result:?}") };
        assert!(text.contains(state) && !text.contains(SECRET) && !text.contains('\n'), "{what}: {text}");
    }
    assert_eq!(
        store.apply_many(&[good]).await.map_err(|error| format!("{what}: {error}")).map(|_| ()),
        Ok(())
    );
    assert_eq!(session(world).await, before, "{what}: nothing is wrong with the connection");
    world.psql("DELETE FROM mirror_2.users").await;
}

#[tokio::test]
async fn an_error_of_a_trigger_for_one_row_blames_that_row_whatever_its_sqlstate() {
    let world = World::new().await;
    for state in [
        "P0001", "PT402", "42P01", "42501", "42883", "0A000", "XX000", "57014", "40001", "40P01", "55P03",
        "08006", "53100", "57P01", "58000", "25006", "26000",
    ] {
        trigger(&world, &format!("RAISE EXCEPTION 'no %', NEW.last_name USING ERRCODE = '{state}';")).await;
        assert_refused_alone(&world, state, &format!("SQLSTATE {state}")).await;
    }
}

#[tokio::test]
async fn a_trigger_that_is_broken_fails_its_row_and_the_text_names_the_function() {
    let world = World::new().await;
    for (body, state) in [
        ("INSERT INTO nosuch VALUES (NEW.last_name);", "42P01"),
        ("PERFORM nosuch(NEW.last_name);", "42883"),
        ("NEW.nosuch := 1;", "42703"),
        ("EXECUTE NEW.last_name;", "42601"),
        ("PERFORM 1 / 0;", "22012"),
        ("ASSERT false, NEW.last_name;", "P0004"),
        ("PERFORM pg_notify('c', repeat(NEW.last_name, 1000));", "22023"),
        ("SET LOCAL role = nosuch;", "22023"),
    ] {
        trigger(&world, body).await;
        assert_refused_alone(&world, body, &format!("SQLSTATE {state}")).await;
        let Err(StoreError::Event(text)) = world.store().apply_many(&[bad()]).await else { panic!("{body}") };
        assert!(text.contains("in PL/pgSQL function") && text.contains("theirs()"), "{text}");
    }
}

#[tokio::test]
async fn constraints_of_a_team_fail_at_once_or_at_the_commit() {
    let world = World::new().await;
    for (what, make, undo, state) in [
        (
            "a deferred trigger",
            "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'PT402'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mirror_2.users DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.id = 'user_bad') EXECUTE FUNCTION public.late()",
            "DROP TRIGGER late ON mirror_2.users",
            "PT402",
        ),
        (
            "an exclusion constraint",
            "CREATE TABLE public.taken AS SELECT 1; ALTER TABLE mirror_2.users
             ADD CONSTRAINT one EXCLUDE USING btree (last_name WITH =) WHERE (id IN ('user_bad', 'user_there'))",
            "ALTER TABLE mirror_2.users DROP CONSTRAINT one",
            "23P01",
        ),
        (
            "a foreign key",
            "CREATE TABLE public.names (name text PRIMARY KEY); INSERT INTO public.names VALUES ('Okafor');
             ALTER TABLE mirror_2.users ADD CONSTRAINT named FOREIGN KEY (last_name) REFERENCES public.names",
            "ALTER TABLE mirror_2.users DROP CONSTRAINT named",
            "23503",
        ),
        (
            "a deferred foreign key",
            "ALTER TABLE mirror_2.users ADD CONSTRAINT named FOREIGN KEY (last_name) REFERENCES public.names
             DEFERRABLE INITIALLY DEFERRED",
            "ALTER TABLE mirror_2.users DROP CONSTRAINT named",
            "23503",
        ),
    ] {
        world.psql(make).await;
        let there = user_with("user_there", "last_name", &json!(SECRET));
        if state == "23P01" {
            let result = world.store().apply_many(&[bad(), there]).await;
            let Err(StoreError::Event(text)) = result else { panic!("{what}: {result:?}") };
            assert!(text.contains("23P01") && !text.contains(SECRET), "{text}");
        } else {
            assert_refused_alone(&world, what, &format!("SQLSTATE {state}")).await;
        }
        world.psql(undo).await;
    }
}

#[tokio::test]
async fn a_policy_blames_the_row_that_it_refuses_alone_and_the_deployment_if_it_refuses_all() {
    let world = World::new().await;
    let role = format!("writer_{}", world.database);
    world
        .psql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'ImAPassword'; GRANT USAGE ON SCHEMA mirror_2 TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA mirror_2 TO {role};
             ALTER TABLE mirror_2.users ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON mirror_2.users USING (true) WITH CHECK (id <> 'user_bad')"
        ))
        .await;
    let store = open(&world.with_user(&role, "ImAPassword"));
    let good = user_change("user_good", 0);
    for changes in [&[good.clone(), bad()][..], &[bad()][..]] {
        let result = store.apply_many(changes).await;
        let Err(StoreError::Ambiguous(inner)) = result else { panic!("{result:?}") };
        let StoreError::Deployment(text) = *inner else { panic!("{inner:?}") };
        assert!(text.contains("row-level security policy") && text.contains("42501"), "{text}");
    }
    assert!(store.apply_many(&[good]).await.is_ok());
    // A missing right is not the fault of a row.
    world.psql(&format!("REVOKE INSERT ON mirror_2.users FROM {role}")).await;
    let refused = store.apply_many(&[user_change("user_good", 1)]).await;
    assert!(matches!(refused, Err(StoreError::Deployment(_))), "{refused:?}");
}

#[tokio::test]
async fn a_missing_right_blames_the_deployment_even_if_the_context_holds_parameters() {
    let world = World::new().await;
    let role = format!("reader_{}", world.database);
    world
        .psql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'ImAPassword'; GRANT USAGE ON SCHEMA mirror_2 TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA mirror_2 TO {role};
             ALTER ROLE {role} SET log_parameter_max_length_on_error = -1"
        ))
        .await;
    let store = open(&world.with_user(&role, "ImAPassword"));
    let named = user_with("user_1", "last_name", &json!("PL/pgSQL function SQL"));
    let refused = store.apply_many(&[named]).await;
    assert!(matches!(refused, Err(StoreError::Deployment(_))), "{refused:?}");
}

#[tokio::test]
async fn a_time_limit_is_reported_with_its_cause_and_the_function_that_was_running() {
    let world = World::new().await;
    // The slow trigger is the fault that is tested: the time limit cuts it short, and no test waits for it.
    trigger(&world, "PERFORM pg_sleep(60);").await;
    let store =
        open(&PostgresSettings { statement_timeout: Duration::from_secs(1), ..world.settings.clone() });
    let result = store.apply_many(&[bad()]).await;
    let Err(StoreError::Slow { cause: SlowCause::Statement, detail }) = result else { panic!("{result:?}") };
    assert!(
        detail.contains("statement_timeout") && detail.contains("theirs() line 1 at PERFORM"),
        "{detail}"
    );
    assert!(store.apply_many(&[user_change("user_locked", 0)]).await.is_ok());
    let mut holder = world.session().await;
    holder.run("BEGIN; UPDATE mirror_2.users SET locked = true WHERE id = 'user_locked'").await;
    let result = store.apply_many(&[user_change("user_locked", 1)]).await;
    let Err(StoreError::Slow { cause: SlowCause::Lock, .. }) = result else { panic!("{result:?}") };
    holder.run("COMMIT").await;
}

#[tokio::test]
async fn a_trigger_that_drops_the_ledger_entry_of_one_delivery_refuses_that_delivery_alone() {
    let world = World::new().await;
    world
        .psql(
            "CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER drops BEFORE INSERT ON mirror_2.deliveries FOR EACH ROW
             WHEN (NEW.subject_id = 'user_bad') EXECUTE FUNCTION public.drops()",
        )
        .await;
    let store = world.store();
    let good = user_change("user_good", 0);
    for changes in [&[good.clone(), bad()][..], &[bad()][..]] {
        let result = store.apply_many(changes).await;
        let Err(StoreError::Event(text)) = result else { panic!("{result:?}") };
        assert_eq!(text, "a trigger of the table deliveries keeps the ledger entry from being written");
    }
    for _ in 0..2 {
        assert!(store.apply_many(std::slice::from_ref(&good)).await.is_ok(), "also when it comes again");
    }
    world.psql("DROP TRIGGER drops ON mirror_2.deliveries").await;
    assert!(store.apply_many(&[bad()]).await.is_ok());
}

#[tokio::test]
async fn a_trigger_that_returns_the_old_row_refuses_the_delivery_and_the_erasure() {
    let world = World::new().await;
    let store = world.store();
    let before = [user_change("user_bad", 0), user_change("user_good", 0)];
    store.apply_many(&before).await.expect("they are written");
    world
        .psql(
            "CREATE FUNCTION public.keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
             CREATE TRIGGER keeps BEFORE UPDATE ON mirror_2.users FOR EACH ROW
             WHEN (OLD.id = 'user_bad') EXECUTE FUNCTION public.keeps()",
        )
        .await;
    let undone = "a trigger of the table undoes the change";
    let gone = change_of("msg_gone", &event("user.deleted", START + 5, &deleted("user", "user_bad")));
    for changes in
        [&[gone.clone(), user_change("user_good", 1)][..], &[gone][..], &[user_change("user_bad", 1)]]
    {
        assert_eq!(store.apply_many(changes).await, Err(StoreError::Event(undone.to_owned())));
    }
    let subject = (&USERS, "user_bad".to_owned());
    let erased = store.erase(&[subject], Timestamp::from_millis(START + 9)).await;
    let Err(StoreError::Event(text)) = &erased else { panic!("{erased:?}") };
    assert!(text.contains(undone), "{text}");
    assert!(store.apply_many(&[user_change("user_good", 1)]).await.is_ok(), "others go on");
}

/// Triggers that run after the insert, at once or deferred to the commit, and one that changes the entry
/// before it.
#[tokio::test]
async fn a_trigger_that_removes_or_changes_a_ledger_entry_refuses_its_delivery() {
    let world = World::new().await;
    let store = world.store();
    let removes = "DELETE FROM mirror_2.deliveries WHERE svix_id = NEW.svix_id;";
    let (after, late) = ("TRIGGER theirs AFTER", "CONSTRAINT TRIGGER theirs AFTER");
    let before = "TRIGGER theirs BEFORE";
    for (kind, when, body, reason) in [
        (after, "", removes, "keeps the ledger entry from being written"),
        (late, "DEFERRABLE INITIALLY DEFERRED", removes, "keeps the ledger entry from being written"),
        (before, "", "NEW.svix_id := 'msg_other';", "changes the ledger entry"),
        (before, "", "NEW.outcome := 'fine';", "changes the ledger entry"),
        (before, "", "NEW.subject_id := NULL;", "changes the ledger entry"),
    ] {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {body} RETURN NEW; END $$;
             CREATE {kind} INSERT ON mirror_2.deliveries {when} FOR EACH ROW
             WHEN (NEW.subject_id = 'user_bad') EXECUTE FUNCTION public.theirs()"
        );
        world.psql(&sql).await;
        let result = store.apply_many(&[bad()]).await;
        assert_eq!(
            result,
            Err(StoreError::Event(format!("a trigger of the table deliveries {reason}"))),
            "{sql}"
        );
        let good = store.apply_many(&[user_change("user_good", 0)]).await;
        assert!(good.is_ok(), "others are applied, first or again: {good:?}");
        world.psql("DROP TRIGGER theirs ON mirror_2.deliveries").await;
    }
    assert!(store.apply_many(&[bad()]).await.is_ok());
}
