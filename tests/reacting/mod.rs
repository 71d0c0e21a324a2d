//! The recipes of `ops/REACTING.md`. Each block of code runs as it stands in the page, with the real libraries and servers.

mod jobs;
mod kills;
mod mail;
mod push;
mod reader;
mod readers;
mod stream;

use std::path::{Path, PathBuf};

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use tempfile::TempDir;

use crate::architecture::root;
use crate::blocks::Page;
use crate::crashes::BINARY;
use crate::packages::{Program, finished};

const DATABASE: &str = "app";

const PAGE: Page = Page("ops/REACTING.md");

/// Returns a block of the page by the name in the comment above it.
fn block(name: &str) -> String {
    PAGE.block(name)
}

/// Writes a block of the page into a folder, under its name.
fn write_block(folder: &Path, name: &str) -> PathBuf {
    PAGE.write_block(folder, name)
}

fn packages(name: &str) -> PathBuf {
    root().join("tests/reacting/packages").join(name)
}

/// Returns a folder with the npm packages of this name, as locked.
fn npm(name: &str) -> TempDir {
    crate::packages::npm(&packages(name))
}

/// Returns a folder with a Python that has the pinned packages.
fn python() -> TempDir {
    crate::packages::python(&packages("python.txt"))
}

/// A mirror on Postgres with the tables of the recipes. Its ports are free when it is made, so that packages are installed before.
struct World {
    postgres: PostgresServer,
    home: Home,
}

impl World {
    async fn new() -> Self {
        let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
        postgres.create_database(DATABASE).await;
        let home =
            Home::new(BINARY).with("ROLLBOOK_LOG", "warn").with("DATABASE_URL", postgres.url(DATABASE));
        home.migrate();
        let world = Self { postgres, home };
        world.sql(&block("schema.sql")).await;
        world
    }

    fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    async fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).await.trim_end().to_owned()
    }

    /// Waits until a query returns this.
    async fn until(&self, what: &str, sql: &str, result: &str) {
        until(what, || async { self.sql(sql).await == result }).await;
    }

    /// Waits until everything that was sent is applied and has its position.
    async fn until_applied(&self) {
        until("the queue is empty", || async { self.home.metric("rollbook_queue_depth").await == Some(0.0) })
            .await;
        self.until("every change has its position", "SELECT count(*) FROM clerk.changes_pending", "0").await;
    }
}

#[test]
fn every_block_of_the_page_is_run_by_a_test() {
    PAGE.assert_every_block_is_run(&["tests/reacting"]);
}
