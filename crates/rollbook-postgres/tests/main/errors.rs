//! Error texts: cause, place and fix, and never a value.

use rollbook_core::backend::Backend as _;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::{Change, Effect, Field};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{
    Changes as _, Ledger as _, Reconciliation as _, Rows as _, Store as _, StoreError,
};
use rollbook_postgres::{PostgresSettings, pending_migrations};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::json;

use crate::world::{SECRET, World, is_outage, open, user_change, user_with};

/// Asserts that the values are blamed, in a text that contains this and no value.
#[track_caller]
fn assert_blames_values<T: std::fmt::Debug>(result: Result<T, StoreError>, words: &str) {
    let Err(StoreError::Event(text)) = result else { panic!("{result:?}") };
    assert!(text.contains(words) && !text.contains(SECRET) && !text.contains('\n'), "{text}");
}

#[track_caller]
fn assert_deployment<T: std::fmt::Debug>(result: Result<T, StoreError>, words: &[&str]) {
    let Err(StoreError::Deployment(text)) = result else { panic!("{result:?}") };
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(!text.contains(SECRET) && !text.contains("Password") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn constraints_and_triggers_of_the_team_blame_the_values_and_quote_none() {
    let world = World::new().await;
    let store = world.store();
    world.psql("CREATE UNIQUE INDEX one_name ON mirror_2.users (username)").await;
    let taken = |id| user_with(id, "username", &json!(SECRET));
    assert!(store.apply_many(&[taken("user_1")]).await.is_ok());
    assert_blames_values(
        store.apply_many(&[taken("user_2")]).await,
        "SQLSTATE 23505, table users, constraint one_name",
    );

    world.psql("ALTER TABLE mirror_2.users ADD CONSTRAINT short CHECK (length(first_name) < 20)").await;
    let long = user_with("user_3", "first_name", &json!(SECRET.repeat(5)));
    assert_blames_values(store.apply_many(&[long]).await, "constraint short");

    world
        .psql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no %', NEW.last_name USING DETAIL = NEW.last_name; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON mirror_2.users FOR EACH ROW
             WHEN (NEW.id = 'user_4') EXECUTE FUNCTION refuse();
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN EXECUTE NEW.last_name; RETURN NEW; END $$;
             CREATE TRIGGER fail BEFORE INSERT ON mirror_2.users FOR EACH ROW
             WHEN (NEW.id = 'user_5') EXECUTE FUNCTION fail();
             CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER swallow BEFORE INSERT ON mirror_2.users FOR EACH ROW
             WHEN (NEW.id = 'user_7') EXECUTE FUNCTION swallow()",
        )
        .await;
    let named = |id| user_with(id, "last_name", &json!(SECRET));
    assert_blames_values(
        store.apply_many(&[named("user_4")]).await,
        "a trigger refuses the row (SQLSTATE P0001)",
    );
    assert_blames_values(
        store.apply_many(&[named("user_7")]).await,
        "a trigger of the table keeps the row from being written",
    );
    // A trigger that is itself wrong fails its row, and no other.
    assert_blames_values(
        store.apply_many(&[named("user_5")]).await,
        "a trigger or function of the table fails for the row (SQLSTATE 42601)",
    );

    let fine = user_change("user_6", 0);
    assert!(store.apply_many(&[fine]).await.is_ok(), "nobody else is held up");
}

#[tokio::test]
async fn values_that_postgres_cannot_hold_are_refused_alone_and_not_quoted() {
    let world = World::new().await;
    let store = world.store();
    let mut number = user_change("user_1", 0);
    put(&mut number, "public_metadata", Field::Json(format!(r#"{{"{SECRET}":1e200000}}"#)));
    assert_blames_values(store.apply_many(&[number]).await, "SQLSTATE 22003");
    // Random, so that it can't be compressed to a length that an index takes.
    let long: String = std::iter::repeat_with(fastrand::alphanumeric).take(20_000).collect();
    let mut indexed = user_change("user_2", 0);
    put(&mut indexed, "external_id", Field::Text(format!("{SECRET}{long}")));
    assert_blames_values(store.apply_many(&[indexed]).await, "SQLSTATE 54000");
    let mut broken = user_change("user_3", 0);
    put(&mut broken, "public_metadata", Field::Json(format!("{{{SECRET}")));
    assert_blames_values(store.apply_many(&[broken]).await, "SQLSTATE 22P02");
    let mut nul = user_change("user_4", 0);
    put(&mut nul, "username", Field::Text(format!("{SECRET}\0")));
    assert_blames_values(store.apply_many(&[nul, user_change("user_5", 0)]).await, "SQLSTATE 22021");
    assert_eq!(
        world.psql("SELECT count(*) FROM mirror_2.users").await,
        "0\n",
        "nothing of a batch is written"
    );
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "0\n");
}

/// Puts a value into a column that no event could have.
fn put(change: &mut Change, name: &str, value: Field) {
    let Effect::Merge(assertion) = &mut change.effect else { panic!("no content") };
    let position = assertion.resource.columns.iter().position(|column| column.name == name);
    let row = assertion.row.as_mut().expect("a living row");
    row.values[position.expect("a column")] = value;
}

#[tokio::test]
async fn a_wrong_login_database_or_schema_is_reported_with_its_address_and_fix() {
    let world = World::empty().await;
    let place = format!("Postgres at 127.0.0.1:{}", world.server.port());
    let wrong = open(&world.with_user("rollbook", SECRET));
    let said = "the server says: password authentication failed for user \"rollbook\"";
    assert_deployment(
        wrong.ping().await,
        &[&place, "user rollbook is refused", "28P01", "pg_hba.conf", said],
    );
    let missing = PostgresSettings { url: world.server.url("nowhere"), ..world.settings.clone() };
    assert_deployment(open(&missing).ping().await, &[&place, "database nowhere does not exist", "createdb"]);
    assert_deployment(pending_migrations(&missing).await, &[&place, "database nowhere does not exist"]);

    let store = world.store();
    assert_deployment(store.ping().await, &["migration 0001_mirror is pending; run: rollbook migrate"]);
    let refused = store.apply_many(&[user_change("user_1", 0)]).await;
    assert_deployment(refused, &[&place, "mirror_2.", "does not exist", "run: rollbook migrate", "42P01"]);
    let tls =
        PostgresSettings { url: format!("{}?sslmode=require", world.settings.url), ..world.settings.clone() };
    assert_deployment(open(&tls).ping().await, &[&place, "no TLS", "sslmode"]);
    let described = world.settings.describe();
    assert_eq!(described, format!("{place}, database {}, schema mirror_2", world.database));
}

#[tokio::test]
async fn ping_names_the_tables_for_which_a_role_lacks_rights() {
    let world = World::new().await;
    let (role, login) = (format!("reader_{}", world.database), "CREATE ROLE");
    world
        .psql(&format!(
            "{login} {role} LOGIN PASSWORD 'ImAPassword'; GRANT USAGE ON SCHEMA mirror_2 TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA mirror_2 TO {role};
             GRANT INSERT, UPDATE ON mirror_2.users TO {role}"
        ))
        .await;
    let reader = open(&world.with_user(&role, "ImAPassword"));
    let lacking = RESOURCES.iter().map(|resource| resource.table).filter(|table| *table != "users");
    let lacking: Vec<_> = lacking.map(|table| format!("mirror_2.{table}")).collect();
    let ours = ["deliveries", "rollbook_cascades", "changes_pending", "changes", "changes_state"];
    let missing = format!(
        "lacks rights in schema mirror_2. Fix, as the owner of the tables or a superuser: GRANT INSERT, UPDATE ON {} TO \
         {role}; GRANT INSERT, UPDATE, DELETE ON {} TO {role} (",
        lacking.join(", "),
        ours.map(|table| format!("mirror_2.{table}")).join(", "),
    );
    assert_deployment(reader.ping().await, &[&missing, &role]);
    let refused = reader.apply_many(&[user_change("user_1", 0)]).await;
    assert_deployment(refused, &[&missing, &role]);
    world
        .psql(&format!(
            "GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA mirror_2 TO {role};
             GRANT DELETE ON {} TO {role}",
            ours.map(|table| format!("mirror_2.{table}")).join(", ")
        ))
        .await;
    assert_eq!(reader.ping().await, Ok(()), "as soon as it has them");
    assert!(reader.apply_many(&[user_change("user_1", 0)]).await.is_ok());
}

#[tokio::test]
async fn a_worker_without_rights_on_the_records_of_runs_applies_deliveries_and_the_reconciler_names_them() {
    let (world, _) = World::with_roles().await;
    let (database, schema) = (&world.database, &world.settings.schema);
    let store = open(&world.settings);
    assert_eq!(store.check_records().await, Ok(()));
    let tables = ["reconcile_runs", "reconcile_held", "reconcile_locks", "reconcile_walks"];
    let listed = tables.map(|table| format!("{schema}.{table}")).join(", ");
    world.psql(&format!("REVOKE ALL ON {listed} FROM worker_{database}")).await;
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(store.rehearse().await, Ok(true));
    assert!(store.apply_many(&[user_change("user_1", 0)]).await.is_ok());
    let missing = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {listed} TO worker_{database} (");
    assert_deployment(store.check_records().await, &[&missing, "ops/postgres/roles.sh"]);
    world.psql(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {listed} TO worker_{database}")).await;
    world.psql(&format!("REVOKE UPDATE ON {schema}.reconcile_walks FROM worker_{database}")).await;
    assert_deployment(store.check_records().await, &[": GRANT UPDATE ON mirror_2.reconcile_walks TO"]);
}

#[tokio::test]
async fn a_worker_that_may_not_use_the_schema_reads_which_of_a_workers_rights_are_missing() {
    let (world, _) = World::with_roles().await;
    let (role, schema) = (format!("worker_{}", world.database), &world.settings.schema);
    let store = open(&world.settings);
    let usage = format!("GRANT USAGE ON SCHEMA {schema} TO {role}");
    let all = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}");
    let deletes = format!("GRANT DELETE ON {schema}.deliveries TO {role}");
    for (revoke, grants) in [
        (format!("REVOKE DELETE ON {schema}.deliveries FROM {role}"), vec![&deletes]),
        (format!("REVOKE USAGE ON SCHEMA {schema} FROM {role}"), vec![&usage, &deletes]),
        (format!("REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}"), vec![&usage, &all]),
    ] {
        world.psql(&revoke).await;
        let grants = grants.iter().map(|grant| grant.as_str()).collect::<Vec<_>>().join("; ");
        let fix =
            format!(". Fix, as the owner of the tables or a superuser: {grants} (ops/postgres/roles.sh");
        assert_deployment(store.ping().await, &[&role, &fix]);
        if grants.contains("USAGE") {
            assert_deployment(pending_migrations(&world.settings).await, &[&role, &fix]);
        }
    }
    world.psql(&format!("{usage}; {all}")).await;
    assert_eq!((store.ping().await, pending_migrations(&world.settings).await), (Ok(()), Ok(Vec::new())));
}

#[tokio::test]
async fn an_unknown_outcome_in_the_ledger_is_an_error_that_says_to_upgrade() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[user_change("user_1", 0)]).await.expect("a user");
    assert_eq!(store.deliveries("user_1", 2).await.map(|entries| entries.len()), Ok(1));
    world.psql("UPDATE mirror_2.deliveries SET outcome = 'merged_twice'").await;
    let errors = [
        store.deliveries("user_1", 2).await.map(drop),
        store.delivery(&MessageId::new("msg_user_1_0")).await.map(drop),
    ];
    for error in errors {
        let Err(StoreError::Unreadable(text)) = error else { panic!("{error:?}") };
        assert!(
            text.starts_with("the ledger entry of msg_user_1_0 has the outcome \"merged_twice\""),
            "{text}"
        );
        assert!(text.contains("Fix: upgrade this Rollbook"), "{text}");
    }
}

#[tokio::test]
async fn a_number_that_rollbook_does_not_write_is_an_error_that_names_it_and_not_zero() {
    let world = World::new().await;
    let store = world.store();
    store.apply_many(&[user_change("user_1", 0)]).await.expect("a user");
    world.psql("UPDATE mirror_2.deliveries SET attempts = -1").await;
    world
        .psql("INSERT INTO mirror_2.rollbook_cascades (table_name, id, what, attempts) VALUES ('users', 'user_1', 'row', -1)")
        .await;
    world.psql("UPDATE mirror_2.changes_state SET last_position = -1").await;
    for (error, what) in [
        (store.deliveries("user_1", 2).await.map(drop), "deliveries.attempts holds a value that"),
        (store.cascades(None, 10).await.map(drop), "rollbook_cascades.attempts holds a value that"),
        (store.feed().await.map(drop), "a position of the change feed holds a value that"),
    ] {
        let Err(StoreError::Unreadable(text)) = error else { panic!("{error:?}") };
        assert!(text.contains(what) && text.contains("Fix: "), "{text}");
    }
}

#[tokio::test]
async fn a_server_without_free_connections_or_in_recovery_is_waited_for() {
    let server = PostgresServer::start_with(&[("max_connections", "4"), ("fsync", "off")]).await;
    server.psql("postgres", "CREATE ROLE guest LOGIN PASSWORD 'ImAPassword' CONNECTION LIMIT 0").await;
    let url = format!("postgres://guest:ImAPassword@127.0.0.1:{}/postgres", server.port());
    let busy = open(&PostgresSettings { url, ..crate::world::settings(String::new()) });
    let Err(StoreError::Unavailable(text)) = busy.ping().await else { panic!("a connection too many") };
    assert!(text.contains("53300") && text.contains("max_connections"), "{text}");
    assert!(text.contains("the server says: too many connections for role \"guest\""), "{text}");
    server.psql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on").await;
    server.psql("postgres", "SELECT pg_reload_conf()").await;
    let read_only = crate::world::settings(server.url("postgres"));
    let Err(error) = rollbook_postgres::apply_migrations(&read_only).await else { panic!("it is read-only") };
    assert!(is_outage(&error) && error.to_string().contains("25006"), "{error}");
}
