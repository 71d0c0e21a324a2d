//! Steps and files.

use std::collections::BTreeSet;

use rollbook_core::catalog::{COMMON_COLUMNS, Kind, RESOURCES};

use super::*;

#[test]
fn migrations_are_pending_until_they_are_applied_and_then_not() {
    let folder = tempfile::tempdir().expect("a folder");
    for schema in [Schema::Queue, Schema::Store] {
        let all: Vec<&str> = schema.steps().iter().map(|(name, ..)| *name).collect();
        let path = folder.path().join(format!("{schema:?}.db"));
        assert_eq!(pending_migrations(&path, schema), Ok(all.clone()));
        assert!(!path.exists(), "asking must not make the file");
        assert_eq!(apply_migrations(&path, schema), Ok(all));
        assert_eq!(apply_migrations(&path, schema), Ok(vec![]));
        assert_eq!(pending_migrations(&path, schema), Ok(vec![]));
    }
}

#[test]
fn the_tables_have_the_columns_of_the_catalog_in_its_types() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let connection = connection::open(&path).expect("a file");
    for resource in RESOURCES {
        let mut columns =
            connection.prepare("SELECT name, type FROM pragma_table_info(?1)").expect("a query");
        let found = columns.query_map((resource.table,), |row| Ok((row.get(0)?, row.get(1)?)));
        let is_own = |(name, _): &(String, String)| {
            !COMMON_COLUMNS.contains(&name.as_str()) && !name.starts_with("version_")
        };
        let found: BTreeSet<(String, String)> =
            found.expect("rows").map(|row| row.expect("a column")).filter(is_own).collect();
        let typed = resource.columns.iter().map(|column| {
            let kind = match column.kind {
                Kind::Integer | Kind::Bool => "INTEGER",
                Kind::Text | Kind::IndexedText | Kind::Id | Kind::Time | Kind::Json => "TEXT",
            };
            (column.name.to_owned(), kind.to_owned())
        });
        assert_eq!(found, typed.collect(), "{resource:?}");
    }
}

#[test]
fn a_step_keeps_the_rows_and_fills_what_it_adds_from_what_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let connection = connection::open(&path).expect("a file");
    connection.execute_batch(STORE[0].1).expect("the first step");
    connection.pragma_update(None, "user_version", 1).expect("a version");
    let said = [
        (Some(r#"{"deprovisioned": true}"#), Some(true)),
        (Some(r#"{"deprovisioned": false}"#), Some(false)),
        (Some(r#"{"deprovisioned": "x"}"#), None),
        (Some("{}"), None),
        (None, None),
    ];
    for (number, (data, _)) in said.iter().enumerate() {
        let insert = "INSERT INTO users VALUES
            (?1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?2, 0, 0, 0, 0, 0, 0, 0, 0, x'00', 0)";
        connection.execute(insert, (format!("user_{number}"), data)).expect("a row");
    }
    assert_eq!(apply_migrations(&path, Schema::Store), Ok(STORE[1..].iter().map(|step| step.0).collect()));
    let mut users = connection.prepare("SELECT deprovisioned FROM users ORDER BY id").expect("a query");
    let found: Vec<Option<bool>> =
        users.query_map((), |row| row.get(0)).expect("rows").map(|row| row.expect("a value")).collect();
    assert_eq!(found, said.map(|(_, deprovisioned)| deprovisioned));
}

#[test]
fn what_was_deleted_before_the_step_about_deletions_stays_so_with_all_its_child_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let connection = connection::open(&path).expect("a file");
    for (_, step, _) in &STORE[..2] {
        connection.execute_batch(step).expect("an earlier step");
    }
    connection.pragma_update(None, "user_version", 2).expect("a version");
    let version = "synced_at, synced_by, version_dead, version_updated_at, version_event_at, version_hash";
    let alive = "'t', 'msg', 0, 5, 5, x'00112233445566778899aabbccddeeff'";
    connection
        .execute_batch(&format!(
            "INSERT INTO users (id, deleted_at, {version}) VALUES ('user_1', 't7', 't', 'msg', 1, 0, 7, x'00');
             INSERT INTO users (id, {version}) VALUES ('user_2', {alive});
             INSERT INTO organizations (id, deleted_at, {version}) VALUES ('org_1', 't6', 't', 'msg', 1, 0, 6, x'00');
             INSERT INTO sessions (id, user_id, {version}) VALUES ('sess_1', 'user_1', {alive}), ('sess_2', 'user_2', {alive});
             INSERT INTO organization_memberships (id, user_id, organization_id, {version})
             VALUES ('m_1', 'user_1', 'org_1', {alive}), ('m_2', 'user_2', 'org_1', {alive}), ('m_3', 'user_2', 'org_2', {alive});"
        ))
        .expect("rows");
    assert_eq!(apply_migrations(&path, Schema::Store), Ok(STORE[2..].iter().map(|step| step.0).collect()));
    let ends = "SELECT group_concat(id || ' ' || coalesce(deleted_at, '-') || ' ' || hex(version_hash), ', ')
                FROM (SELECT id, deleted_at, version_hash FROM users UNION ALL
                      SELECT id, deleted_at, x'' FROM sessions UNION ALL
                      SELECT id, deleted_at, x'' FROM organization_memberships ORDER BY id)";
    let found: String = connection.query_row(ends, (), |row| row.get(0)).expect("rows");
    assert_eq!(
        found,
        "m_1 t6 , m_2 t6 , m_3 - , sess_1 t7 , sess_2 - , user_1 t7 , \
         user_2 - 00112233445566778899AABBCCDDEEFF"
    );
    let state =
        "SELECT version_deleted_at, version_updated_at = -9223372036854775808 FROM users WHERE id = 'user_1'";
    let found: (i64, bool) =
        connection.query_row(state, (), |row| Ok((row.get(0)?, row.get(1)?))).expect("a row");
    assert_eq!(found, (7, true));
}

#[test]
fn what_waits_and_what_is_dead_stays_at_the_step_about_traces_and_earlier_statements_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue.db");
    let connection = connection::open(&path).expect("a file");
    connection.execute_batch(QUEUE[0].1).expect("the first step");
    connection.pragma_update(None, "user_version", 1).expect("a version");
    let enqueue = |id: &str| {
        let sql = "INSERT INTO messages (seq, id, received_at, enqueued_at, body)
                   VALUES ((SELECT count(*) + 1 FROM messages), ?1, 1, 1, x'7b7d')";
        connection.execute(sql, (id,)).expect("a message")
    };
    let park = |id: &str| {
        let sql =
            "INSERT INTO dead_letters (id, received_at, died_at, attempts, reason, detail, format, body)
                   SELECT id, received_at, 2, 1, 'r', 'd', format, body FROM messages WHERE id = ?1";
        connection.execute(sql, (id,)).expect("a dead letter")
    };
    enqueue("before");
    park("before");
    assert_eq!(apply_migrations(&path, Schema::Queue), Ok(QUEUE[1..].iter().map(|step| step.0).collect()));
    // As a process of an earlier build does that still has the file open.
    enqueue("after");
    park("after");
    for table in ["messages", "dead_letters"] {
        let sql = format!(
            "SELECT group_concat(id || ' ' || hex(body) || ' ' || (traceparent IS NULL), ', ')
               FROM (SELECT * FROM {table} ORDER BY seq)"
        );
        let found: String = connection.query_row(&sql, (), |row| row.get(0)).expect("rows");
        assert_eq!(found, "before 7B7D 1, after 7B7D 1", "{table}");
    }
}

#[test]
fn a_file_of_a_newer_rollbook_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue.db");
    connection::open(&path).expect("a file").pragma_update(None, "user_version", 99).expect("a version");
    let refusal = pending_migrations(&path, Schema::Queue).expect_err("a newer file");
    assert!(refusal.contains("migration 99"), "{refusal}");
}

#[test]
fn a_file_of_a_newer_rollbook_is_opened_where_each_of_its_steps_expands() {
    let folder = tempfile::tempdir().expect("a folder");
    for schema in [Schema::Queue, Schema::Store] {
        let path = folder.path().join(format!("{schema:?}.db"));
        apply_migrations(&path, schema).expect("the migrations apply");
        let known = schema.steps().len();
        let newer = connection::open(&path).expect("a file");
        let add = |number: usize, expands: bool| {
            let row = "INSERT INTO rollbook_migrations VALUES (?1, ?2, ?3)";
            newer.execute(row, (number, format!("{number:04}_later"), expands)).expect("a row");
            newer.pragma_update(None, "user_version", number).expect("a version");
        };
        add(known + 1, true);
        add(known + 2, true);
        assert_eq!(check(&newer, schema), Ok(()));
        assert_eq!(pending_migrations(&path, schema), Ok(vec![]));
        let names = [known + 1, known + 2].map(|number| format!("{number:04}_later"));
        assert_eq!(newer_migrations(&path, schema), Ok(names.to_vec()));
        assert_eq!(apply_migrations(&path, schema), Ok(vec![]), "and it stays as it is");
        assert_eq!(version(&newer), Ok(i64::try_from(known + 2).expect("few steps")));
        add(known + 3, false);
        let refusal = check(&newer, schema).expect_err("a newer file").to_string();
        assert!(refusal.contains("_later") && refusal.contains("newer"), "{refusal}");
        add(known + 4, true);
        assert!(check(&newer, schema).is_err(), "one that does not expand is among them");
    }
}
