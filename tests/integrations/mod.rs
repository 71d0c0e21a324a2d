//! Libraries of applications on Rollbook's tables: the ready models of `ops/integrations`, and the libraries' own
//! introspection. Each runs with the real library on a migrated Postgres, as a role that may only read.

mod drizzle;
mod models;
mod node_models;
mod other_models;
mod prisma;
mod python;
mod ruby;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rollbook_testkit::events::{START, event, membership, organization, user};
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;

use self::models::{INTERNAL, Type, models};
use crate::architecture::root;
use crate::blocks::Page;
use crate::crashes::BINARY;
use crate::packages::finished;
use crate::raw_http::{exchange, signed, status};

const PAGE: Page = Page("ops/integrations/README.md");
const DATABASE: &str = "app";
/// Password of the application's role on the page, and in a URL.
const APP: (&str, &str) = ("app", "change%20me");
/// Line that each program of the page prints.
const MEMBER: &str = "Kilnworks Studio ines@work.example org:admin";
const UPDATE: &str = "UPDATE=1 cargo nextest run -p rollbook -E 'test(integrations::the_)'";

fn files() -> [(&'static str, String); 5] {
    [
        ("prisma/clerk.prisma", node_models::prisma()),
        ("drizzle/clerk.ts", node_models::drizzle()),
        ("django/clerk_models.py", other_models::django()),
        ("sqlalchemy/clerk_models.py", other_models::sqlalchemy()),
        ("activerecord/clerk.rb", other_models::active_record()),
    ]
}

fn ours(name: &str) -> PathBuf {
    root().join("ops/integrations").join(name)
}

/// Copies a file of the folder.
fn copy(name: &str, to: PathBuf) {
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    std::fs::copy(ours(name), to).expect("a copied file");
}

fn packages(name: &str) -> PathBuf {
    root().join("tests/integrations/packages").join(name)
}

/// A migrated Postgres with a member of an organization, and the application's role.
struct World {
    postgres: PostgresServer,
}

impl World {
    async fn new() -> Self {
        let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
        postgres.create_database(DATABASE).await;
        let home =
            Home::new(BINARY).with("ROLLBOOK_LOG", "warn").with("DATABASE_URL", postgres.url(DATABASE));
        home.migrate();
        let world = Self { postgres };
        world.sql(&PAGE.block("roles.sql")).await;
        let _serving = home.start_ready(&["serve"]).await;
        for (kind, data) in [
            ("user.created", user("user_1", START)),
            ("organization.created", organization("org_1", START)),
            ("organizationMembership.created", membership("orgmem_1", "org_1", "user_1", START)),
            ("organizationMembership.created", membership("orgmem_2", "org_2", "user_2", START)),
        ] {
            let id = format!("msg_{}", data["id"].as_str().expect("an id"));
            let request = signed(&id, &event(kind, START, &data).to_string());
            assert_eq!(status(&exchange(home.listen, &request).await), 200);
        }
        until("the changes have positions", || async {
            world.sql("SELECT last_position FROM clerk.changes_state").await == "4"
        })
        .await;
        world
    }

    async fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).await.trim_end().to_owned()
    }

    /// URL of the application's role.
    fn url(&self) -> String {
        format!("postgresql://{}:{}@127.0.0.1:{}/{DATABASE}", APP.0, APP.1, self.postgres.port())
    }

    /// URL of the role that owns the tables.
    fn owner(&self) -> String {
        self.postgres.url(DATABASE).replacen("postgres://", "postgresql://", 1)
    }

    /// Tables and views of Rollbook's, as one number.
    async fn tables(&self) -> String {
        self.sql("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'clerk'").await
    }

    /// Returns a command in a folder, with what Postgres's clients read.
    fn command(&self, folder: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env("DATABASE_URL", self.url())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.postgres.port().to_string())
            .env("PGUSER", APP.0)
            .env("PGPASSWORD", APP.1.replace("%20", " "))
            .env("PGDATABASE", DATABASE);
        command
    }
}

/// Runs a command to its end and returns its output.
async fn output(what: &str, command: Command) -> String {
    let output = ended(command).await;
    String::from_utf8_lossy(&finished(what, output).stdout).into_owned()
}

async fn ended(mut command: Command) -> std::io::Result<Output> {
    tokio::task::spawn_blocking(move || command.output()).await.expect("it runs")
}

/// Returns all that a command has printed.
fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// Runs a command to its end and returns all that it says.
async fn said(what: &str, command: Command) -> String {
    printed(&finished(what, ended(command).await))
}

/// Runs a command that must fail, and returns all that it says.
async fn refused(what: &str, command: Command) -> String {
    let output = ended(command).await.expect(what);
    assert!(!output.status.success(), "{what} succeeded:\n{}", printed(&output));
    printed(&output)
}

#[test]
fn every_block_of_the_page_is_run_by_a_test() {
    PAGE.assert_every_block_is_run(&["tests/integrations"]);
}

/// Asserts that a file of the folder is this text, or writes it.
fn assert_is_made(name: &str, new: String) {
    let found = std::fs::read_to_string(ours(name)).unwrap_or_default();
    if found != new && std::env::var_os("UPDATE").is_some() {
        std::fs::write(ours(name), new).expect("it is written");
        return;
    }
    assert!(
        found == new,
        "ops/integrations/{name} is not what the catalog and the schema say; to write it anew: {UPDATE}"
    );
}

#[test]
fn the_ready_models_are_those_of_the_catalog() {
    for (name, new) in files() {
        assert_is_made(name, new);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_for_prisma_names_every_table_and_view() {
    let world = World::new().await;
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'clerk' ORDER BY 1";
    assert_is_made("prisma/prisma.config.ts", node_models::prisma_config(world.sql(tables).await.lines()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_models_have_every_column_that_is_not_internal_with_its_type() {
    let world = World::new().await;
    for model in models() {
        let columns = format!(
            "SELECT column_name, data_type FROM information_schema.columns
             WHERE table_schema = 'clerk' AND table_name = '{}'",
            model.table
        );
        let found = world.sql(&columns).await;
        let found: BTreeSet<(&str, &str)> = found
            .lines()
            .filter_map(|line| line.split_once('|'))
            .filter(|(name, _)| !INTERNAL.contains(name))
            .collect();
        let ours: BTreeSet<(&str, &str)> =
            model.fields.iter().map(|field| (field.name, data_type(field.of))).collect();
        assert_eq!(found, ours, "{}", model.table);
    }
    let versions = "SELECT DISTINCT column_name FROM information_schema.columns
                    WHERE table_schema = 'clerk' AND (column_name ~ '^version_' OR column_name = 'last_at')";
    let versions = world.sql(versions).await;
    assert_eq!(versions.lines().collect::<BTreeSet<_>>(), BTreeSet::from(INTERNAL));
}

const fn data_type(of: Type) -> &'static str {
    match of {
        Type::Text => "text",
        Type::Integer => "bigint",
        Type::Bool => "boolean",
        Type::Time => "timestamp with time zone",
        Type::Json => "jsonb",
        Type::Texts => "ARRAY",
    }
}
