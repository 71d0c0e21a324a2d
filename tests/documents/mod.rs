//! The pages of `migrations/` for developers are correct: the tables are those of the catalog, and the SQL
//! runs. The part that is made from the catalog is updated by `UPDATE=1 cargo test -p rollbook --test
//! end_to_end documents`.

mod history;
mod indexes;
mod json;
mod queries;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollbook_core::catalog::{COMMON_COLUMNS, RESOURCES};
use rollbook_core::time::Timestamp;
use rollbook_postgres::PostgresStore;
use rollbook_sqlite::Schema;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::servers::postgres::PostgresServer;

use self::tables::{Indexes, render, types};
use crate::stores;

/// Beginning of the part that is made from the catalog. The part extends to the end of the page.
const BEGIN: &str = "<!-- From here on made from the catalog: tests/documents. -->\n\n";
const ANEW: &str = "UPDATE=1 cargo test -p rollbook --test end_to_end documents";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations").join(name)
}

fn page(name: &str) -> String {
    std::fs::read_to_string(path(name)).expect("the page")
}

/// Returns heading and text of each section.
fn section_texts(page: &str) -> Vec<(&str, &str)> {
    page.split("\n## ").skip(1).filter_map(|section| section.split_once('\n')).collect()
}

/// Returns the SQL in a text.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sql\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(0)))
}

/// The tables on a separate Postgres.
struct Mirror {
    server: PostgresServer,
    store: Arc<PostgresStore>,
    clock: Arc<ManualClock>,
}

impl Mirror {
    async fn start() -> Self {
        let clock = clock();
        let (server, store) = stores::start(clock.clone()).await;
        Self { server, store, clock }
    }

    async fn psql(&self, sql: &str) -> String {
        self.server.psql("app", sql).await
    }

    /// Creates the application's role, as the page does.
    async fn grant(&self) {
        let text = page("README.md");
        let rights = section_texts(&text).into_iter().find(|(heading, _)| *heading == "Rights on Postgres");
        for sql in blocks(rights.expect("a section on rights").1) {
            self.psql(sql).await;
        }
    }
}

/// Returns the differing middle of two texts.
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let removed = old[start..old.len() - end].iter().map(|line| format!("-{line}\n"));
    removed.chain(new[start..new.len() - end].iter().map(|line| format!("+{line}\n"))).collect()
}

/// Returns the columns of an index from its definition.
fn columns_of(definition: &str) -> String {
    let columns = definition.split_once('(').and_then(|(_, rest)| rest.split_once(')')).expect("columns").0;
    format!("`{columns}`")
}

/// Parses lines of table, index name and definition. Indexes that only Rollbook uses are left out.
fn indexes<'a>(lines: impl Iterator<Item = &'a str>) -> Indexes {
    let mut indexes = Indexes::new();
    for line in lines {
        let parts: Vec<&str> = line.split('|').collect();
        let [table, name, definition] = parts[..] else { panic!("{line}") };
        if !name.ends_with("_deleted") && !name.ends_with("_living") {
            indexes.entry(table.to_owned()).or_default().push(columns_of(definition));
        }
    }
    for columns in indexes.values_mut() {
        columns.sort_unstable();
    }
    indexes
}

fn sqlite() -> (tempfile::TempDir, rusqlite::Connection) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    rollbook_sqlite::apply_migrations(&path, Schema::Store).expect("the tables");
    let connection = rusqlite::Connection::open(path).expect("the file opens");
    (folder, connection)
}

fn lines(connection: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).expect(sql);
    let rows = statement.query_map([], |row| row.get(0)).expect(sql);
    rows.collect::<Result<_, _>>().expect(sql)
}

const SQLITE_INDEXES: &str = "SELECT concat_ws('|', tbl_name, name, sql) FROM sqlite_schema
    WHERE type = 'index' AND sql IS NOT NULL AND name <> 'deliveries_by_bucket' ORDER BY name";

#[test]
fn the_page_has_the_tables_of_the_catalog() {
    let (_folder, connection) = sqlite();
    let indexes = indexes(lines(&connection, SQLITE_INDEXES).iter().map(String::as_str));
    let text = page("README.md");
    let (before, found) = text.split_once(BEGIN).expect("the page has a part that is made");
    let new = render(&indexes);
    if found != new && std::env::var_os("UPDATE").is_some() {
        std::fs::write(path("README.md"), format!("{before}{BEGIN}{new}")).expect("it is written");
        return;
    }
    let differs = difference(found, &new);
    assert!(
        found == new,
        "migrations/README.md differs from the catalog; to write it anew: {ANEW}\n{differs}"
    );
}

#[tokio::test]
async fn both_engines_have_the_types_and_indexes_of_the_page() {
    let (_folder, connection) = sqlite();
    let mirror = Mirror::start().await;
    // The index of one subject's entries differs between the engines, as the page says.
    let postgres = "SELECT tablename, indexname, indexdef FROM pg_indexes
                    WHERE schemaname = 'clerk' AND indexname !~ '_pkey$' AND indexname <> 'deliveries_by_subject'";
    let ours = lines(&connection, SQLITE_INDEXES);
    assert_eq!(indexes(mirror.psql(postgres).await.lines()), indexes(ours.iter().map(String::as_str)));

    let postgres =
        "SELECT table_name, column_name, replace(data_type, 'timestamp with time zone', 'timestamptz')
                    FROM information_schema.columns WHERE table_schema = 'clerk'";
    let postgres = mirror.psql(postgres).await;
    let sqlite = lines(
        &connection,
        "SELECT concat_ws('|', known.name, found.name, found.type)
         FROM sqlite_schema AS known, pragma_table_info(known.name) AS found WHERE known.type = 'table'",
    );
    for resource in RESOURCES {
        for column in resource.columns {
            let is = |kind: &str| format!("{}|{}|{kind}", resource.table, column.name);
            let (on_postgres, on_sqlite) = types(column.kind);
            assert!(postgres.lines().any(|line| line == is(on_postgres)), "{}", is(on_postgres));
            assert!(sqlite.contains(&is(on_sqlite)), "{}", is(on_sqlite));
        }
    }
}

#[test]
fn the_page_has_every_column_that_all_tables_have_and_the_next_step() {
    let text = page("README.md");
    let (before, _) = text.split_once(BEGIN).expect("the page has a part that is made");
    for name in COMMON_COLUMNS {
        assert!(before.contains(&format!("`{name}`")), "nothing about {name}");
    }
    let steps =
        ["postgres", "sqlite/store"].map(|engine| std::fs::read_dir(path(engine)).expect("the steps"));
    let names = steps.into_iter().flatten().flatten().map(|step| step.file_name().display().to_string());
    let last = names.filter_map(|name| name.split_once('_')?.0.parse::<usize>().ok()).max().expect("steps");
    assert!(before.contains(&format!("`{:04}_", last + 1)), "the last step of either engine is {last:04}");
}

#[tokio::test]
async fn the_rights_of_the_page_let_an_application_read_refer_and_make_placeholder_rows_and_write_nothing() {
    let mirror = Mirror::start().await;
    mirror.grant().await;
    let text = page("README.md");
    let keys = section_texts(&text).into_iter().find(|(heading, _)| heading.contains("foreign keys"));
    let keys = blocks(keys.expect("a section on foreign keys").1);
    assert_eq!(keys.len(), 2, "a table and a transaction");
    mirror.psql("CREATE SCHEMA AUTHORIZATION app; CREATE TABLE clerk.of_a_later_step ()").await;
    for sql in keys {
        mirror.psql(&format!("SET ROLE app; {sql}")).await;
    }
    let places =
        "SELECT id, synced_by FROM clerk.users UNION ALL SELECT id, synced_by FROM clerk.organizations";
    let made = mirror.psql(&format!("SET ROLE app; {places}")).await;
    assert_eq!(made, "user_1|ensure_user\norg_1|ensure_organization\n");
    assert_eq!(mirror.psql("SELECT owner_id, organization_id FROM app.projects").await, "user_1|org_1\n");
    let rights =
        "SELECT relname FROM pg_class WHERE relnamespace = 'clerk'::regnamespace AND relkind IN ('r', 'v')
                  AND (NOT has_table_privilege('app', oid, 'SELECT')
                       OR has_table_privilege('app', oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER'))";
    assert_eq!(mirror.psql(rights).await, "", "these can't be read, or can be written");
}
