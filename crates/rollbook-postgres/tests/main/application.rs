//! Use of the tables by an application: triggers, foreign keys, views, a role that reads.

use rollbook_core::catalog::USERS;
use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{RowView, Rows as _, Store as _};
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization};
use rollbook_testkit::process::until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::world::{World, open, user_change};

async fn user_row(world: &World) -> RowView {
    world.store().get(&USERS, "user_1").await.expect("the store reads").expect("there is a row")
}

fn gone(id: &str) -> Change {
    change_of(&format!("msg_gone_{id}"), &event("user.deleted", START + 9, &deleted("user", id)))
}

#[tokio::test]
async fn a_trigger_fires_once_for_each_real_change_and_for_nothing_else() {
    let world = World::new().await;
    let trigger_on = |table: &str| {
        format!(
            "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON mirror_2.{table}
             FOR EACH ROW EXECUTE FUNCTION note();"
        )
    };
    world
        .psql(&format!(
            "CREATE TABLE fired (what text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $f$BEGIN INSERT INTO public.fired VALUES (TG_OP || ' of ' || NEW.id); RETURN NULL; END$f$;
             {} {}",
            trigger_on("users"),
            trigger_on("sessions")
        ))
        .await;
    let store = world.store();
    let session = json!({ "id": "sess_1", "user_id": "user_1", "updated_at": START });
    let session = change_of("msg_session", &event("session.created", START, &session));
    let (first, second, older) =
        (user_change("user_1", 1), user_change("user_1", 5), user_change("user_1", 3));
    let three = [user_change("user_2", 1), user_change("user_2", 2), user_change("user_2", 0)];
    let (stale, unchanged) = (Applied::Stale, Applied::Unchanged);
    let one = std::slice::from_ref::<Change>;
    let steps: [(&[Change], &[Applied], &[&str]); 8] = [
        (one(&first), &[Applied::Inserted], &["INSERT of user_1"]),
        (one(&first), &[unchanged], &[]),
        (one(&second), &[Applied::Updated], &["UPDATE of user_1"]),
        (&[older.clone(), first.clone(), second.clone()], &[stale, stale, unchanged], &[]),
        (one(&session), &[Applied::Inserted], &["INSERT of sess_1"]),
        // The deletion of a user also changes its child rows, once.
        (&[gone("user_1")], &[Applied::Deleted], &["UPDATE of user_1", "UPDATE of sess_1"]),
        (&[gone("user_1"), session.clone(), older], &[unchanged, unchanged, stale], &[]),
        // Three changes of one subject in one batch are one change of its row.
        (&three, &[Applied::Inserted, Applied::Updated, stale], &["INSERT of user_2"]),
    ];
    for (changes, outcomes, fired) in steps {
        assert_eq!(store.apply_many(changes).await, Ok(outcomes.to_vec()));
        let found = world.psql("DELETE FROM fired RETURNING what").await;
        let found: Vec<&str> = found.lines().filter(|line| !line.starts_with("DELETE")).collect();
        assert_eq!(found, fired);
    }
}

#[tokio::test]
async fn a_foreign_key_holds_for_a_user_before_the_webhook_arrives() {
    let world = World::new().await;
    world
        .psql(
            "CREATE TABLE projects (
                 owner text REFERENCES mirror_2.users (id), organization text REFERENCES mirror_2.organizations (id));
             BEGIN;
             INSERT INTO projects VALUES (mirror_2.ensure_user('user_1'), mirror_2.ensure_organization('org_1'));
             INSERT INTO projects VALUES (mirror_2.ensure_user('user_1'), NULL);
             COMMIT",
        )
        .await;
    let placed = user_row(&world).await;
    let left: Vec<&str> =
        placed.columns.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(left, ["id", "synced_at", "synced_by"]);
    let store = world.store();
    assert_eq!(store.apply_many(&[user_change("user_1", 0)]).await, Ok(vec![Applied::Inserted]));
    assert_eq!(user_row(&world).await.columns["first_name"], "Ines");
    assert_eq!(world.psql("SELECT mirror_2.ensure_user('user_1')").await, "user_1\n");
    assert_eq!(user_row(&world).await.columns["first_name"], "Ines", "nothing happens to who is there");
    store.apply_many(&[gone("user_1")]).await.expect("the store applies it");
    assert_eq!(world.psql("SELECT count(*) FROM projects").await, "2\n", "the key holds for the deleted too");
}

#[tokio::test]
async fn a_trigger_with_a_path_of_its_own_does_the_same_for_a_worker_and_for_a_placeholder_row() {
    let world = World::new().await;
    world
        .psql(
            "CREATE TABLE public.profiles (user_id text);
             CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
                 $f$BEGIN INSERT INTO profiles VALUES (NEW.id); RETURN NULL; END$f$;
             CREATE TRIGGER note AFTER INSERT ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION public.note()",
        )
        .await;
    let store = world.store();
    assert_eq!(store.unpinned_triggers().await, Ok(vec!["public.note".to_owned()]));
    assert_eq!(store.apply_many(&[user_change("user_1", 0)]).await, Ok(vec![Applied::Inserted]));
    let mut connection = PgConnection::connect(&world.settings.url).await.expect("a connection");
    let place = "SELECT mirror_2.ensure_user('user_2')";
    let refused = sqlx::raw_sql(place).execute(&mut connection).await.expect_err("no such table").to_string();
    assert!(refused.contains("relation \"profiles\" does not exist"), "{refused}");

    world.psql("ALTER FUNCTION public.note() SET search_path = public, pg_temp").await;
    assert_eq!(store.unpinned_triggers().await, Ok(Vec::new()));
    // The caller's own path and objects make no difference.
    let hostile = "CREATE SCHEMA theirs; CREATE TABLE theirs.profiles (user_id text);
                   CREATE TEMPORARY TABLE profiles (user_id text); SET search_path = theirs, pg_temp";
    sqlx::raw_sql(hostile).execute(&mut connection).await.expect("a path");
    sqlx::raw_sql(place).execute(&mut connection).await.expect("a placeholder row");
    assert_eq!(store.apply_many(&[user_change("user_3", 0)]).await, Ok(vec![Applied::Inserted]));
    let noted = "SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM public.profiles";
    assert_eq!(world.psql(noted).await, "user_1 user_2 user_3\n");
}

#[tokio::test]
async fn only_functions_that_run_for_a_placeholder_row_and_have_no_path_are_named() {
    let world = World::new().await;
    let function = |name: &str, more: &str| {
        format!(
            "CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql {more} AS $f$BEGIN RETURN NEW; END$f$;"
        )
    };
    for (name, more, on) in [
        ("updated", "", "AFTER UPDATE ON mirror_2.users FOR EACH ROW"),
        ("of_a_child", "", "AFTER INSERT ON mirror_2.sessions FOR EACH ROW"),
        ("pinned", "SET search_path = public, pg_temp", "BEFORE INSERT ON mirror_2.users FOR EACH ROW"),
        ("each", "SET work_mem = '4MB'", "BEFORE INSERT ON mirror_2.organizations FOR EACH ROW"),
        ("\"All\"", "", "AFTER INSERT OR UPDATE ON mirror_2.users FOR EACH STATEMENT"),
        ("off", "", "AFTER INSERT ON mirror_2.users FOR EACH ROW"),
    ] {
        let make = format!("CREATE TRIGGER {name} {on} EXECUTE FUNCTION public.{name}()");
        world.psql(&format!("{} {make}", function(name, more))).await;
    }
    world.psql("ALTER TABLE mirror_2.users DISABLE TRIGGER off").await;
    let named = vec!["public.\"All\"".to_owned(), "public.each".to_owned()];
    assert_eq!(world.store().unpinned_triggers().await, Ok(named));
}

#[tokio::test]
async fn a_placeholder_row_made_while_a_worker_writes_the_same_user_is_filled() {
    let world = World::new().await;
    let store = world.store();
    let mut application = world.session().await;
    application.run("BEGIN; SELECT mirror_2.ensure_user('user_1')").await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let commit = async {
        until("the worker waits for it", || async { world.psql(waiting).await == "1\n" }).await;
        application.run("COMMIT").await;
    };
    let change = [user_change("user_1", 0)];
    let (outcomes, ()) = tokio::join!(store.apply_many(&change), commit);
    assert_eq!(outcomes, Ok(vec![Applied::Inserted]));
    assert_eq!(user_row(&world).await.columns["first_name"], "Ines");
}

#[tokio::test]
async fn no_placeholder_row_is_made_for_an_id_of_another_kind() {
    let world = World::new().await;
    let mut connection = PgConnection::connect(&world.settings.url).await.expect("a connection");
    for call in [
        "SELECT mirror_2.ensure_user('org_1')",
        "SELECT mirror_2.ensure_user('')",
        "SELECT mirror_2.ensure_user(NULL)",
        "SELECT mirror_2.ensure_user('userx1')",
        "SELECT mirror_2.ensure_user('user_' || repeat('x', 251))",
        "SELECT mirror_2.ensure_organization('user_1')",
    ] {
        let refused = sqlx::raw_sql(call).execute(&mut connection).await.expect_err(call).to_string();
        assert!(refused.contains("wants the id of"), "{refused}");
    }
    let made = "SELECT (SELECT count(*) FROM mirror_2.users) + (SELECT count(*) FROM mirror_2.organizations)";
    assert_eq!(world.psql(made).await, "0\n");
}

#[tokio::test]
async fn a_role_that_reads_can_be_given_the_functions_and_nothing_to_write() {
    let world = World::new().await;
    let role = format!("app_role_{}", world.database);
    world
        .psql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'ImAPassword';
             GRANT TEMPORARY ON DATABASE {} TO {role};
             GRANT USAGE ON SCHEMA mirror_2 TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA mirror_2 TO {role}",
            world.database
        ))
        .await;
    let reader = world.with_user(&role, "ImAPassword");
    let ask = async |sql: &'static str| {
        let mut connection = PgConnection::connect(&reader.url).await.expect("a connection");
        sqlx::raw_sql(sql).execute(&mut connection).await.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(ask("SELECT * FROM mirror_2.users, mirror_2.current_members").await, Ok(()));
    for forbidden in ["SELECT mirror_2.ensure_user('user_1')", "UPDATE mirror_2.users SET locked = true"] {
        assert!(ask(forbidden).await.expect_err("it may not").contains("permission denied"), "{forbidden}");
    }
    world.psql(&format!("GRANT EXECUTE ON FUNCTION mirror_2.ensure_user (text) TO {role}")).await;
    // A temporary table of the same name does not catch what the function writes.
    let shadow = "CREATE TEMPORARY TABLE users (LIKE mirror_2.users); SELECT mirror_2.ensure_user('user_1')";
    assert_eq!(ask(shadow).await, Ok(()));
    assert_eq!(user_row(&world).await.id, "user_1");
}

#[tokio::test]
async fn the_members_of_an_organization_are_one_row_for_each_person_with_names_and_addresses() {
    let world = World::new().await;
    let joined = |id: &str, user: &str, at: i64, verb: &str| {
        let mut data = membership(id, "org_1", user, START + at);
        data["created_at"] = json!(START + at);
        let event = event(&format!("organizationMembership.{verb}"), START + at, &data);
        change_of(&format!("msg_{id}_{verb}"), &event)
    };
    let changes = [
        change_of("msg_org", &event("organization.created", START, &organization("org_1", START))),
        user_change("user_1", 0),
        user_change("user_2", 0),
        joined("orgmem_1", "user_1", 1, "created"),
        joined("orgmem_2", "user_1", 2, "created"),
        joined("orgmem_3", "user_2", 1, "created"),
        joined("orgmem_3", "user_2", 5, "deleted"),
        joined("orgmem_4", "user_3", 1, "created"),
        joined("orgmem_5", "user_4", 1, "created"),
        gone("user_4"),
    ];
    open(&world.settings).apply_many(&changes).await.expect("the store applies them");
    let members = "SELECT coalesce(json_agg(m ORDER BY user_id), '[]') FROM
        (SELECT organization_name, user_id, first_name, primary_email_address, membership_id
         FROM mirror_2.current_members WHERE organization_id = 'org_1') AS m";
    let found: Value = serde_json::from_str(&world.psql(members).await.replace('\n', "")).expect("JSON");
    let expected = json!([
        { "organization_name": "Kilnworks Studio", "user_id": "user_1", "first_name": "Ines",
          "primary_email_address": "ines@work.example", "membership_id": "orgmem_2" },
        // The user's webhook has not arrived yet.
        { "organization_name": "Kilnworks Studio", "user_id": "user_3", "first_name": null,
          "primary_email_address": null, "membership_id": "orgmem_4" },
    ]);
    assert_eq!(found, expected);
}
