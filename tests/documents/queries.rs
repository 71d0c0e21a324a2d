//! The queries of `migrations/queries.md`, run unchanged on both engines: their results and indexes.

use rollbook_core::source::RECONCILED;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rusqlite::types::Value;

use super::history::{NOW, play};
use super::{Mirror, blocks, clock, page, section_texts};

/// Expected result of a query, below its heading.
struct Expected {
    heading: &'static str,
    /// Name of the index in the plan of either engine; `None` if the query reads the whole table.
    index: &'static [&'static str],
    /// Times to the minute, in the same form on both engines.
    rows: &'static [&'static str],
}

const fn expected(
    heading: &'static str,
    index: &'static [&'static str],
    rows: &'static [&'static str],
) -> Expected {
    Expected { heading, index, rows }
}

const EXPECTED: [Expected; 14] = [
    expected("A user by address", &["users_by_email"], &["user_1|Ines|Okafor"]),
    expected("A user by address in any case", &[], &["user_2|Rafael@Kilnworks.example"]),
    expected(
        "Members of an organization",
        &["organization_memberships_by_organization"],
        &[
            "user_1|Ines|Okafor|ines@work.example|org:admin",
            "user_2|Rafael|Dimitrov|Rafael@Kilnworks.example|org:member",
        ],
    ),
    expected(
        "Organizations of a user",
        &["organization_memberships_by_user"],
        &["org_1|Kilnworks Studio|org:admin", "org_2|Glaze Cooperative|org:member"],
    ),
    expected(
        "Users who joined an organization this week",
        &["organization_memberships_by_organization"],
        &["user_2|Rafael|2026-07-30 09:00"],
    ),
    expected(
        "Users who signed up this week",
        &["users_living"],
        &["user_2|Rafael|2026-07-30 09:00", "user_4|Noor|2026-07-31 09:00"],
    ),
    expected(
        "Active subscriptions of an organization",
        &["subscription_items_by_organization"],
        &["team|12|4900|USD|2026-08-28 09:00|active"],
    ),
    expected(
        "Open invitations of an organization",
        &["organization_invitations_by_organization"],
        &["noor@home.example|org:member|2026-08-28 09:00"],
    ),
    expected(
        "Users deleted since a time",
        &["users_deleted"],
        &["user_3|ines@work.example|2026-08-01 09:00"],
    ),
    expected("Users by metadata", &[], &["user_1|Ines"]),
    expected(
        "How fresh the tables are",
        &["deliveries_by_age"],
        &["2|2026-08-03 11:40|2026-08-03 11:45|900"],
    ),
    expected(
        "Tables that are not complete yet",
        &["reconcile_walks", "SEARCH walk"],
        &[
            "organization_domains",
            "organization_invitations",
            "organization_memberships",
            "organizations",
            "permissions",
            "roles",
            "users",
            "waitlist_entries",
        ],
    ),
    expected(
        "The outcome of a delivery",
        &["deliveries_pkey", "USING PRIMARY KEY"],
        &["user.updated|user_2|stale|2026-08-03 11:30|2026-08-03 11:45|1"],
    ),
    expected(
        "All deliveries about a user",
        &["deliveries_by_subject", "SCAN deliveries"],
        &[
            "msg_4|user.created|inserted|2026-07-30 09:00",
            "msg_18|user.updated|updated|2026-08-03 11:40",
            "msg_late|user.updated|stale|2026-08-03 11:45",
        ],
    ),
];

impl Expected {
    /// `scan` is what a plan says that reads a whole table.
    /// Drops the indexes of living rows, unless the query is to use one: on tables as small as these each
    /// costs as little as any other index.
    fn drop_living(&self) -> String {
        if self.index.iter().any(|name| name.ends_with("_living")) {
            return String::new();
        }
        RECONCILED.map(|resource| format!("DROP INDEX clerk.{}_living;", resource.table)).concat()
    }

    fn check_plan(&self, plan: &str, scan: &str) {
        let uses = self.index.is_empty() || self.index.iter().any(|name| plan.contains(name));
        assert!(uses && plan.contains(scan) == self.index.is_empty(), "{}\n{plan}", self.heading);
    }
}

/// Returns the query for this engine below each heading.
fn queries(engine: &str) -> Vec<(Expected, String)> {
    let text = page("queries.md");
    let sections = section_texts(&text);
    let headings: Vec<&str> = sections.iter().map(|(heading, _)| *heading).collect();
    assert_eq!(headings, EXPECTED.each_ref().map(|expected| expected.heading));
    let others = |sql: &str| sql.starts_with("-- ") && !sql.starts_with(&format!("-- {engine}\n"));
    EXPECTED
        .into_iter()
        .zip(sections)
        .map(|(expected, (heading, text))| {
            let found: Vec<&str> = blocks(text).into_iter().filter(|sql| !others(sql)).collect();
            assert_eq!(found.len(), 1, "{heading}: one query for {engine}");
            assert_eq!(
                text.contains("whole table"),
                expected.index.is_empty(),
                "{heading}: what its text says"
            );
            (expected, found[0].to_owned())
        })
        .collect()
}

/// Shortens times of both engines to the minute.
fn moment(cell: &str) -> String {
    let is_moment = cell.is_char_boundary(16)
        && cell.get(4..5) == Some("-")
        && (cell.ends_with("+00") || cell.ends_with('Z'));
    if is_moment { cell[..16].replace('T', " ") } else { cell.to_owned() }
}

#[test]
fn a_time_is_the_same_text_on_both_engines() {
    assert_eq!(moment("2026-07-30 09:00:00+00"), "2026-07-30 09:00");
    assert_eq!(moment("2026-07-30T09:00:00.000Z"), "2026-07-30 09:00");
    assert_eq!(moment("user.updated"), "user.updated");
}

#[tokio::test]
async fn every_query_of_the_page_finds_what_it_says_on_postgres_by_its_index() {
    let mirror = Mirror::start().await;
    play(&*mirror.store, &mirror.clock).await;
    mirror.grant().await;
    let begin = "SET ROLE app; SET search_path TO clerk; SET timezone TO 'UTC'; SET enable_seqscan TO off;";
    for (expected, sql) in queries("Postgres") {
        let asked = sql.replace("now()", &format!("timestamptz '{NOW}'"));
        let found = mirror.psql(&format!("{begin} {asked}")).await;
        let rows: Vec<String> =
            found.lines().map(|line| line.split('|').map(moment).collect::<Vec<_>>().join("|")).collect();
        assert_eq!(rows, expected.rows, "{}", expected.heading);
        let drop = expected.drop_living();
        let plan = mirror.psql(&format!("BEGIN; {drop} {begin} EXPLAIN {sql}; ROLLBACK")).await;
        expected.check_plan(&plan, "Seq Scan");
    }
}

#[tokio::test]
async fn every_query_of_the_page_finds_what_it_says_on_sqlite_by_its_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the tables");
    let clock = clock();
    play(&SqliteStore::open(&path, clock.clone()).expect("the store opens"), &clock).await;
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = rusqlite::Connection::open_with_flags(&path, flags).expect("the file opens");
    for (expected, sql) in queries("SQLite") {
        let asked = sql.replace("'now'", &format!("'{NOW}'"));
        assert_eq!(rows(&reader, &asked), expected.rows, "{}", expected.heading);
        let plan = rows(&reader, &format!("EXPLAIN QUERY PLAN {sql}")).join("\n");
        expected.check_plan(&plan, "SCAN users");
    }
}

/// Formats rows as lines of values separated by `|`, as psql does.
fn rows(reader: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut statement = reader.prepare(sql).expect(sql);
    let columns = statement.column_count();
    let line = |row: &rusqlite::Row<'_>| {
        let cells = (0..columns).map(|index| {
            Ok(match row.get(index)? {
                Value::Null => String::new(),
                Value::Integer(number) => number.to_string(),
                Value::Text(text) => moment(&text),
                other => format!("{other:?}"),
            })
        });
        cells.collect::<rusqlite::Result<Vec<String>>>().map(|cells| cells.join("|"))
    };
    let rows = statement.query_map([], line).expect(sql);
    rows.collect::<Result<_, _>>().expect(sql)
}
