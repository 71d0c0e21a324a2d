//! Every index can hold what its columns may hold: the catalog limits the texts that are in one.

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::catalog::{Kind, RESOURCES, find_resource};
use rollbook_core::delivery::MessageId;
use rollbook_core::event::{INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX};

use super::{Mirror, lines, page, sqlite};

/// Bytes of an index entry in addition to its values. Postgres refuses a B-tree entry that is longer than
/// 2,704 bytes.
const ENTRY_MAX: usize = 2704 - 64;
/// Bytes of a time or a number.
const FIXED: usize = 8;

/// Returns the columns of each index by its name, from lines of table, index and column.
fn columns(lines: &[String]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut indexes = BTreeMap::<_, Vec<_>>::new();
    for line in lines {
        let parts: Vec<&str> = line.split('|').collect();
        let [table, index, column] = parts[..] else { panic!("{line}") };
        let columns = indexes.entry(index.to_owned()).or_default();
        columns.push((table.to_owned(), column.to_owned()));
    }
    indexes
}

/// Returns the maximum bytes of a column; `None` if it has no limit. Rollbook itself chooses the names of
/// migrations.
fn length_max(table: &str, column: &str) -> Option<usize> {
    match (table, column) {
        ("deliveries", "svix_id") => return Some(MessageId::LENGTH_MAX),
        ("rollbook_migrations" | "reconcile_locks" | "forwards", "name")
        | ("forward_changes", "forward")
        | ("rollbook_cascades", "table_name" | "what")
        | ("deliveries", "subject_id")
        | ("reconcile_held", "run" | "table_name")
        | ("reconcile_walks", "resource")
        | (_, "id") => {
            return Some(NAME_LENGTH_MAX);
        }
        ("deliveries", "applied_at" | "bucket")
        | ("changes" | "forward_changes", "position")
        | ("changes_pending", "number")
        | ("changes_state", "single")
        | (_, "deleted_at" | "created_at" | "started_at" | "noted_at") => {
            return Some(FIXED);
        }
        _ => {}
    }
    let column = find_resource(table)?.columns.iter().find(|known| known.name == column)?;
    match column.kind {
        Kind::Id => Some(NAME_LENGTH_MAX),
        Kind::IndexedText => Some(INDEXED_TEXT_LENGTH_MAX),
        Kind::Integer | Kind::Bool | Kind::Time => Some(FIXED),
        Kind::Text | Kind::Json => None,
    }
}

/// Asserts that each index can hold every permitted value, and that no column is limited without need.
fn check(indexes: &BTreeMap<String, Vec<(String, String)>>) {
    for (index, columns) in indexes {
        let lengths = columns.iter().map(|(table, column)| {
            length_max(table, column).unwrap_or_else(|| panic!("{index}: nothing limits {table}.{column}"))
        });
        assert!(lengths.sum::<usize>() <= ENTRY_MAX, "{index} can't hold its columns: {columns:?}");
    }
    let held: BTreeSet<&(String, String)> = indexes.values().flatten().collect();
    for resource in RESOURCES {
        for column in resource.columns.iter().filter(|column| column.kind == Kind::IndexedText) {
            let key = (resource.table.to_owned(), column.name.to_owned());
            assert!(held.contains(&key), "no index has {key:?}");
        }
    }
}

#[test]
fn every_text_in_an_index_of_sqlite_is_limited_by_the_catalog() {
    let (_folder, connection) = sqlite();
    let all = lines(
        &connection,
        "SELECT concat_ws('|', known.tbl_name, known.name, found.name)
         FROM sqlite_schema AS known, pragma_index_info(known.name) AS found
         WHERE known.type = 'index' ORDER BY known.name, found.seqno",
    );
    check(&columns(&all));
}

#[tokio::test]
async fn every_text_in_an_index_of_postgres_is_limited_by_the_catalog() {
    let mirror = Mirror::start().await;
    let all = mirror
        .psql(
            "SELECT concat_ws('|', known.indrelid::regclass::text, known.indexrelid::regclass::text,
                              coalesce(own.attname, 'an expression'))
             FROM pg_index AS known
             JOIN pg_class AS class ON class.oid = known.indexrelid
             CROSS JOIN unnest(known.indkey) WITH ORDINALITY AS part (number, place)
             LEFT JOIN pg_attribute AS own ON own.attrelid = known.indrelid AND own.attnum = part.number AND part.number > 0
             WHERE class.relnamespace = 'clerk'::regnamespace ORDER BY known.indexrelid, part.place",
        )
        .await;
    let all: Vec<String> = all.lines().map(|line| line.replace("clerk.", "")).collect();
    assert!(all.iter().any(|line| line == "users|users_pkey|id"), "{all:?}");
    check(&columns(&all));
}

#[test]
fn the_page_states_the_limits() {
    let page = page("README.md");
    assert_eq!((NAME_LENGTH_MAX, INDEXED_TEXT_LENGTH_MAX), (255, 2000));
    assert!(page.contains("an id of more than 255 bytes") && page.contains("a text of more than 2,000 |"));
}
