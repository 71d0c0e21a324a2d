//! An owner and a worker without superuser rights, as `ops/postgres/roles.sh` makes them. That the worker's
//! rights are enough is shown by `store.rs`, which runs everything that a store must keep with them.

use rollbook_core::store::{Erasure as _, Store as _, StoreError};
use rollbook_postgres::apply_migrations;

use crate::world::{World, open, user_change};

#[tokio::test]
async fn the_worker_may_write_rows_and_nothing_else_and_nobody_is_a_superuser() {
    let (world, owner) = World::with_roles().await;
    let (database, schema) = (&world.database, &world.settings.schema);
    let worker = format!("worker_{database}");
    let powers = world
        .psql(&format!(
            "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles
             WHERE rolname IN ('owner_{database}', '{worker}') ORDER BY 1"
        ))
        .await;
    assert_eq!(powers, format!("owner_{database}|f|f|f|f|f\n{worker}|f|f|f|f|f\n"));
    let may = world
        .psql(&format!(
            "SELECT has_schema_privilege('{worker}', '{schema}', 'CREATE'),
                    has_database_privilege('{worker}', '{database}', 'CREATE'),
                    bool_or(has_table_privilege('{worker}', oid, 'TRUNCATE, TRIGGER, REFERENCES')),
                    bool_and(has_table_privilege('{worker}', oid, 'SELECT') AND has_table_privilege('{worker}', oid, 'DELETE'))
             FROM pg_class WHERE relkind = 'r' AND relnamespace = '{schema}'::regnamespace"
        ))
        .await;
    assert_eq!(may, "f|f|f|t\n", "no DDL, and all rows");

    let store = open(&world.settings);
    assert_eq!(store.ping().await, Ok(()));
    assert!(store.apply_many(&[user_change("user_1", 0)]).await.is_ok());
    // Nothing is pending, and `migrate` as the worker finds that out without further rights.
    let migrated = apply_migrations(&world.settings).await;
    assert!(
        matches!(&migrated, Ok(names) if names.is_empty())
            || matches!(migrated, Err(StoreError::Deployment(_)))
    );
    assert_eq!(apply_migrations(&owner).await, Ok(Vec::new()));
}

#[tokio::test]
async fn what_a_later_migration_of_the_owner_makes_is_the_workers_too() {
    let (world, owner) = World::with_roles().await;
    let (database, schema) = (&world.database, &world.settings.schema);
    let mut session = World::session_as(&owner).await;
    session
        .run(Box::leak(format!("CREATE TABLE {schema}.later (id text PRIMARY KEY)").into_boxed_str()))
        .await;
    let may = world
        .psql(&format!(
            "SELECT bool_and(has_table_privilege('worker_{database}', '{schema}.later', name))
             FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) name"
        ))
        .await;
    assert_eq!(may, "t\n");
}

#[tokio::test]
async fn a_right_that_is_missing_on_the_notes_of_cascades_is_named_before_it_is_needed() {
    let (world, _) = World::with_roles().await;
    let (database, schema) = (&world.database, &world.settings.schema);
    world.psql(&format!("REVOKE DELETE ON {schema}.rollbook_cascades FROM worker_{database}")).await;
    let refused = open(&world.settings).ping().await;
    let Err(StoreError::Deployment(text)) = refused else { panic!("{refused:?}") };
    for word in [": GRANT DELETE ON mirror_2.rollbook_cascades TO", "ops/postgres/roles.sh", schema] {
        assert!(text.contains(word), "{text}");
    }
}

/// An erasure can neither erase nor check rows that a policy hides.
#[tokio::test]
async fn tables_with_policies_that_may_hide_rows_are_named() {
    let (world, _) = World::with_roles().await;
    let (database, schema) = (&world.database, &world.settings.schema);
    let store = open(&world.settings);
    assert_eq!(store.hidden_tables().await, Ok(Vec::new()));
    let hidden = Ok(vec!["organization_memberships".to_owned()]);
    let none = Ok(Vec::new());
    let table = format!("{schema}.organization_memberships");
    for (change, expected) in [
        (format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"), &hidden),
        (format!("CREATE POLICY one ON {table} FOR SELECT TO worker_{database} USING (true)"), &hidden),
        (format!("CREATE POLICY two ON {table} FOR UPDATE USING (id <> 'orgmem_1')"), &hidden),
        (format!("CREATE POLICY three ON {table} FOR UPDATE USING (true)"), &none),
        (format!("CREATE POLICY four ON {table} AS RESTRICTIVE TO owner_{database} USING (false)"), &none),
        (format!("CREATE POLICY five ON {table} AS RESTRICTIVE USING (id <> 'orgmem_1')"), &hidden),
        (format!("DROP POLICY five ON {table}"), &none),
        (
            format!("CREATE POLICY six ON {table} AS RESTRICTIVE FOR INSERT WITH CHECK (id <> 'orgmem_1')"),
            &none,
        ),
        (format!("DROP POLICY three ON {table}"), &hidden),
        (format!("CREATE POLICY three ON {table} FOR UPDATE USING (current_user = 'somebody')"), &hidden),
        (format!("ALTER POLICY three ON {table} USING (current_user = 'worker_{database}')"), &none),
        (format!("ALTER POLICY three ON {table} USING (current_user::text = 'worker_{database}')"), &none),
        (
            format!("ALTER POLICY three ON {table} USING (role = 'x' OR current_user = 'worker_{database}')"),
            &none,
        ),
        (
            format!("ALTER POLICY three ON {table} USING (current_user = 'worker_{database}' OR role = 'x')"),
            &none,
        ),
        (
            format!(
                "ALTER POLICY three ON {table} USING (role = 'x' AND current_user = 'worker_{database}')"
            ),
            &hidden,
        ),
        (
            format!(
                "ALTER POLICY three ON {table} USING (id = 'y' AND (role = 'x' OR current_user = 'worker_{database}'))"
            ),
            &hidden,
        ),
        (
            format!(
                "ALTER POLICY three ON {table} USING ((current_user = 'worker_{database}' OR role = 'x') AND id = 'y')"
            ),
            &hidden,
        ),
        (
            format!(
                "CREATE POLICY seven ON {table} AS RESTRICTIVE USING (current_user = 'worker_{database}')"
            ),
            &hidden,
        ),
        (format!("ALTER POLICY three ON {table} USING (true)"), &none),
        (format!("ALTER ROLE worker_{database} BYPASSRLS; DROP POLICY three ON {table}"), &none),
        (format!("ALTER ROLE worker_{database} NOBYPASSRLS"), &hidden),
        (format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"), &none),
    ] {
        world.psql(&change).await;
        assert_eq!(&store.hidden_tables().await, expected, "{change}");
    }
}

#[test]
fn the_page_about_the_tables_gives_the_same_rights_as_the_script() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |name: &str| std::fs::read_to_string(format!("{root}/{name}")).expect("it is there");
    let (script, page) = (read("ops/postgres/roles.sh"), read("migrations/README.md"));
    let granted = script.lines().filter(|line| line.starts_with("GRANT") || line.contains(" GRANT "));
    let mut count = 0;
    for line in granted {
        let named = [
            ("owner", "rollbook"),
            ("worker", "clerk_worker"),
            ("schema", "clerk"),
            ("database", "rollbook"),
        ]
        .iter()
        .fold(line.to_owned(), |line, (name, value)| line.replace(&format!(":\"{name}\""), value));
        assert!(page.contains(&named), "migrations/README.md lacks: {named}");
        count += 1;
    }
    assert_eq!(count, 4);
}
