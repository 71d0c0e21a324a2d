//! Permissions in SQL, and the recipe of `migrations/README.md` for row-level security, as a role that may read no table of
//! the mirror.

use rollbook_core::backend::Backend as _;
use rollbook_core::change::Change;
use rollbook_core::store::Store as _;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};
use rollbook_testkit::process::until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::world::{ROLE_PASSWORD, World, open, user_change};

const DELETE: &str = "org:tasks:delete";

fn joined(id: &str, user: &str, organization: &str, at: i64, verb: &str, more: &Value) -> Change {
    let mut data = membership(id, organization, user, START + at);
    data["created_at"] = json!(START + at);
    data["permissions"] = json!([DELETE, "org:sys_memberships:manage"]);
    if let (Some(data), Some(more)) = (data.as_object_mut(), more.as_object()) {
        data.extend(more.clone());
    }
    let event = event(&format!("organizationMembership.{verb}"), START + at, &data);
    change_of(&format!("msg_{id}_{verb}_{at}"), &event)
}

fn role(key: &str, at: i64, permissions: &[&str]) -> Change {
    let permissions: Vec<Value> =
        permissions.iter().map(|key| json!({ "object": "permission", "key": key })).collect();
    let data = json!({ "object": "role", "id": format!("role_{key}"), "key": key, "name": "Role", "permissions": permissions,
                       "created_at": START, "updated_at": START + at });
    change_of(&format!("msg_role_{key}"), &event("role.updated", START + at, &data))
}

fn of_organization(id: &str, verb: &str) -> Change {
    let data = if verb == "deleted" { deleted("organization", id) } else { organization(id, START) };
    change_of(&format!("msg_{id}_{verb}"), &event(&format!("organization.{verb}"), START + 50, &data))
}

/// Users and organizations, by what keeps them out or not.
fn changes() -> Vec<Change> {
    let none = json!({});
    let mut banned = user("user_banned", START);
    banned["banned"] = json!(true);
    let gone = event("user.deleted", START + 50, &deleted("user", "user_deleted"));
    let mut changes: Vec<Change> = ["member", "removed", "deleted", "again", "missed", "lost", "kept"]
        .map(|name| user_change(&format!("user_{name}"), 0))
        .into();
    changes.extend([
        of_organization("org_1", "created"),
        of_organization("org_2", "created"),
        of_organization("org_gone", "created"),
        change_of("msg_banned", &event("user.updated", START, &banned)),
        joined("orgmem_member", "user_member", "org_1", 1, "created", &none),
        joined(
            "orgmem_reader",
            "user_member",
            "org_2",
            1,
            "created",
            &json!({ "permissions": ["org:tasks:read"] }),
        ),
        joined("orgmem_early", "user_not_here_yet", "org_1", 1, "created", &none),
        joined("orgmem_removed", "user_removed", "org_1", 1, "created", &none),
        joined("orgmem_removed", "user_removed", "org_1", 9, "deleted", &none),
        joined("orgmem_deleted", "user_deleted", "org_1", 1, "created", &none),
        change_of("msg_gone", &gone),
        joined("orgmem_banned", "user_banned", "org_1", 1, "created", &none),
        joined("orgmem_org_gone", "user_member", "org_gone", 1, "created", &none),
        of_organization("org_gone", "deleted"),
        // Removed and added again.
        joined("orgmem_again_1", "user_again", "org_1", 1, "created", &none),
        joined("orgmem_again_1", "user_again", "org_1", 2, "deleted", &none),
        joined("orgmem_again_2", "user_again", "org_1", 3, "created", &none),
        // The first removal was never delivered, the second one was.
        joined("orgmem_missed_1", "user_missed", "org_1", 1, "created", &none),
        joined("orgmem_missed_2", "user_missed", "org_1", 3, "created", &none),
        joined("orgmem_missed_2", "user_missed", "org_1", 4, "deleted", &none),
        // A role that lost a permission after one membership was written and before the other.
        joined("orgmem_lost", "user_lost", "org_1", 1, "created", &json!({ "role": "org:clerk" })),
        role("org:clerk", 5, &["org:tasks:read"]),
        joined("orgmem_kept", "user_kept", "org_1", 9, "created", &json!({ "role": "org:clerk" })),
    ]);
    changes
}

async fn filled() -> World {
    let world = World::new().await;
    open(&world.settings).apply_many(&changes()).await.expect("the store applies them");
    world
}

#[tokio::test]
async fn members_have_their_permissions_and_everybody_else_has_none() {
    let world = filled().await;
    let ask = async |call: String| world.psql(&format!("SELECT mirror_2.{call}")).await.trim().to_owned();
    for (user, organization, is_member, may_delete) in [
        ("'user_member'", "'org_1'", "t", "t"),
        ("'user_member'", "'org_2'", "t", "f"),
        ("'user_not_here_yet'", "'org_1'", "t", "t"),
        ("'user_again'", "'org_1'", "t", "t"),
        ("'user_lost'", "'org_1'", "t", "f"),
        ("'user_kept'", "'org_1'", "t", "t"),
        ("'user_member'", "'org_gone'", "f", "f"),
        ("'user_removed'", "'org_1'", "f", "f"),
        ("'user_deleted'", "'org_1'", "f", "f"),
        ("'user_banned'", "'org_1'", "f", "f"),
        ("'user_missed'", "'org_1'", "f", "f"),
        ("'user_unknown'", "'org_1'", "f", "f"),
        ("'user_member'", "'org_unknown'", "f", "f"),
        ("''", "''", "f", "f"),
        ("NULL", "'org_1'", "f", "f"),
        ("'user_member'", "NULL", "f", "f"),
    ] {
        assert_eq!(
            ask(format!("is_member({user}, {organization})")).await,
            is_member,
            "{user} {organization}"
        );
        let found = ask(format!("has_permission({user}, {organization}, '{DELETE}')")).await;
        assert_eq!(found, may_delete, "{user} {organization}");
        for (call, wanted) in [
            (format!("organizations_of({user})"), is_member),
            (format!("organizations_of({user}, '{DELETE}')"), may_delete),
        ] {
            let is_among = format!(
                "is_member(NULL, NULL) OR coalesce({organization} IN (SELECT mirror_2.{call}), false)"
            );
            assert_eq!(ask(is_among).await, wanted, "{call} {organization}");
        }
    }
    for permission in ["NULL", "''", "'org:tasks'", "'org:tasks:DELETE'", "'role'"] {
        assert_eq!(
            ask(format!("has_permission('user_member', 'org_1', {permission})")).await,
            "f",
            "{permission}"
        );
        assert_eq!(ask(format!("organizations_of('user_member', {permission})")).await, "", "{permission}");
    }
    let system = "has_permission('user_member', 'org_1', 'org:sys_memberships:manage')";
    assert_eq!(ask(system.to_owned()).await, "t", "a row has system permissions, as the page says");
}

/// Returns the SQL blocks of a section of the page, for the schema of this test and a role.
fn blocks(role: &str) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/README.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (_, section) = page.split_once("\n## Permissions and row-level security").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sql\n").skip(1).filter_map(|block| block.split("```").next());
    let adapted = |sql: &str| {
        sql.replace("clerk.", "mirror_2.")
            .replace("SCHEMA clerk", "SCHEMA mirror_2")
            .replace("TO app;", &format!("TO {role};"))
    };
    blocks.map(adapted).collect()
}

/// A connection of the restricted role.
struct App(PgConnection);

impl App {
    /// Makes the tables and the role of the page, with a task in each organization.
    async fn new(world: &World) -> Self {
        let role = format!("app_of_{}", world.database);
        world.psql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{ROLE_PASSWORD}'")).await;
        let blocks = blocks(&role);
        assert_eq!(blocks.len(), 4, "table, policies, rights, request");
        world.psql(&blocks[0]).await;
        world.psql("INSERT INTO tasks (organization_id, title) SELECT org, 'task of ' || org FROM unnest(ARRAY['org_1', 'org_2', 'org_gone', 'org_3']) org").await;
        for block in &blocks[1..3] {
            world.psql(block).await;
        }
        let settings = world.with_user(&role, ROLE_PASSWORD);
        Self(PgConnection::connect(&settings.url).await.expect("a connection"))
    }

    /// Runs a statement in a transaction of this user, and returns the first column.
    async fn run(&mut self, user: Option<&str>, sql: &str) -> Result<Vec<String>, String> {
        let set =
            user.map(|user| format!("SELECT set_config('app.user_id', '{user}', true);")).unwrap_or_default();
        let begin = format!("BEGIN; {set}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut self.0).await.expect("it begins");
        let ran = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.0).await;
        let end = if ran.is_ok() { "COMMIT" } else { "ROLLBACK" };
        sqlx::raw_sql(end).execute(&mut self.0).await.expect("it ends");
        let rows = ran.map_err(|error| error.to_string())?;
        Ok(rows.iter().map(|row| row.try_get::<String, _>(0).unwrap_or_default()).collect())
    }

    async fn titles(&mut self, user: Option<&str>) -> Vec<String> {
        self.run(user, "SELECT title FROM tasks ORDER BY title").await.expect("it may read")
    }
}

#[tokio::test]
async fn with_the_policies_of_the_page_a_role_sees_and_changes_only_rows_of_its_users_organizations() {
    let world = filled().await;
    let mut app = App::new(&world).await;
    assert_eq!(app.titles(Some("user_member")).await, ["task of org_1", "task of org_2"]);
    assert_eq!(app.titles(Some("user_again")).await, ["task of org_1"]);
    for nobody in [
        None,
        Some(""),
        Some("user_removed"),
        Some("user_deleted"),
        Some("user_banned"),
        Some("user_unknown"),
    ] {
        assert_eq!(app.titles(nobody).await, [""; 0], "{nobody:?}");
    }
    let delete = "DELETE FROM tasks RETURNING title";
    assert_eq!(app.run(Some("user_lost"), delete).await, Ok(vec![]), "a member without the permission");
    assert_eq!(app.run(None, delete).await, Ok(vec![]));
    assert_eq!(
        app.run(Some("user_member"), delete).await,
        Ok(vec!["task of org_1".to_owned()]),
        "not in org_2"
    );
    let insert = |organization: &str| {
        format!("INSERT INTO tasks (organization_id, title) VALUES ('{organization}', 'new')")
    };
    assert!(app.run(Some("user_member"), &insert("org_2")).await.is_ok());
    for (user, organization) in
        [("user_member", "org_3"), ("user_removed", "org_1"), ("user_member", "org_gone")]
    {
        let refused = app.run(Some(user), &insert(organization)).await.expect_err("it is refused");
        assert!(refused.contains("row-level security"), "{refused}");
    }
    let moved = app.run(Some("user_member"), "UPDATE tasks SET organization_id = 'org_3'").await;
    assert!(moved.expect_err("it is refused").contains("row-level security"));
    for forbidden in ["SELECT id FROM mirror_2.users", "SELECT user_id FROM mirror_2.current_members"] {
        assert!(
            app.run(None, forbidden).await.expect_err("it may not").contains("permission denied"),
            "{forbidden}"
        );
    }
    assert_eq!(world.psql("SELECT count(*) FROM tasks").await, "4\n", "org_2 twice, org_gone, org_3");
}

#[tokio::test]
async fn a_role_cannot_put_a_table_of_its_own_before_those_of_the_functions() {
    let world = filled().await;
    let mut app = App::new(&world).await;
    world.psql(&format!("GRANT TEMPORARY ON DATABASE {} TO app_of_{0}", world.database)).await;
    let shadow = "CREATE TEMPORARY TABLE organization_memberships AS
                      SELECT 'orgmem_x'::text AS id, 'user_x'::text AS user_id, 'org_3'::text AS organization_id, NULL::timestamptz AS deleted_at;
                  SET search_path TO pg_temp;
                  SELECT mirror_2.is_member('user_x', 'org_3')::text";
    assert_eq!(app.run(None, shadow).await, Ok(vec!["false".to_owned()]));
    let pinned = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'mirror_2'::regnamespace AND prosecdef
                  AND proname IN ('is_member', 'has_permission', 'organizations_of')
                  AND proconfig = ARRAY['search_path=mirror_2, pg_temp']";
    assert_eq!(world.psql(pinned).await, "4\n");
    let to_all = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'mirror_2'::regnamespace
                  AND proname IN ('is_member', 'has_permission', 'organizations_of') AND has_function_privilege('public', oid, 'EXECUTE')";
    assert_eq!(world.psql(to_all).await, "0\n", "nobody may call them without a grant");
}

#[tokio::test]
async fn a_role_that_may_create_functions_in_the_schema_is_named_with_the_fix() {
    let world = filled().await;
    let mut app = App::new(&world).await;
    let role = format!("app_of_{}", world.database);
    let named = async || world.settings.weaknesses().await.expect("the server answers");
    assert_eq!(named().await, [], "after the migration nobody may");
    // Postgres prefers this function to its own in the functions of the schema, because the parameter fits better.
    let better =
        "CREATE FUNCTION mirror_2.to_jsonb(text[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT '[]'::jsonb $$";
    assert!(app.run(None, better).await.expect_err("it may not").contains("permission denied"));
    world.psql(&format!("GRANT CREATE ON SCHEMA mirror_2 TO {role}, PUBLIC")).await;
    let found = named().await;
    let fixes: Vec<&str> = found.iter().map(|weakness| &*weakness.fix).collect();
    let own = format!("REVOKE CREATE ON SCHEMA mirror_2 FROM {role}");
    assert_eq!(fixes, ["REVOKE CREATE ON SCHEMA mirror_2 FROM PUBLIC", &*own]);
    assert!(found[1].what.starts_with(&format!("{role} may create functions")), "{}", found[1].what);
    for fix in fixes {
        world.psql(fix).await;
    }
    assert_eq!(named().await, []);
    assert!(app.run(None, better).await.is_err(), "the fix takes the right");
}

#[tokio::test]
async fn an_answer_reads_by_index_however_many_memberships_there_are() {
    let world = filled().await;
    world
        .psql(
            "INSERT INTO mirror_2.organization_memberships (id, organization_id, user_id, permissions, created_at, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
                 SELECT 'orgmem_' || n, 'org_' || n % 500, 'user_' || n, '[\"org:tasks:delete\"]', now(), now(), 'test', 0, 0, ''
                 FROM generate_series(1, 20000) n;
             INSERT INTO mirror_2.users (id, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
                 SELECT 'user_' || n, now(), 'test', 0, 0, '' FROM generate_series(1, 20000) n;
             ANALYZE mirror_2.organization_memberships; ANALYZE mirror_2.users",
        )
        .await;
    let scans = "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('organization_memberships', 'users')";
    let by_index = "SELECT sum(idx_scan) FROM pg_stat_user_tables WHERE relname = 'organization_memberships'";
    let (before, indexed) = (world.psql(scans).await, number(&world.psql(by_index).await));
    let asked = world
        .psql(
            "SELECT count(*) FILTER (WHERE mirror_2.has_permission('user_' || n, 'org_' || n % 500, 'org:tasks:delete')),
                    count(*) FILTER (WHERE mirror_2.is_member('user_' || n, 'org_' || (n + 1) % 500)),
                    sum((SELECT count(*) FROM mirror_2.organizations_of('user_' || n)))
             FROM generate_series(1, 1000) n",
        )
        .await;
    assert_eq!(asked, "1000|0|1000\n");
    until("the statistics have arrived", || async { number(&world.psql(by_index).await) >= indexed + 4000 })
        .await;
    assert_eq!(world.psql(scans).await, before, "no call read a whole table");

    let mut app = App::new(&world).await;
    world.psql("INSERT INTO tasks (organization_id, title) SELECT 'org_' || n % 500, 't' FROM generate_series(1, 50000) n; ANALYZE tasks").await;
    let plan = app.run(Some("user_7"), "EXPLAIN SELECT title FROM tasks").await.expect("a plan").join("\n");
    assert!(plan.contains("tasks_by_organization") && !plan.contains("Seq Scan"), "{plan}");
}

fn number(text: &str) -> u64 {
    text.trim().parse().expect("a number")
}
