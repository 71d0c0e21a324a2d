//! Copies that an erasure cannot reach, and how long they live.

use rollbook_core::catalog::RESOURCES;
use serde::Serialize;

/// A copy that was not reached.
#[derive(Debug, Serialize)]
pub struct RemainingCopy {
    /// Backend or service that has it.
    pub place: String,
    /// Description of the copy, and the time for which it exists.
    pub what: String,
    /// Command that removes it sooner, if there is one.
    pub fix: Option<String>,
}

/// Place of a queue or a store.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Description without secrets.
    pub place: String,
    /// Kind of the backend.
    pub kind: BackendKind,
}

/// Kind of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// File of SQLite.
    Sqlite {
        /// Whether the file was rewritten after the erasure (`--vacuum`).
        is_rewritten: bool,
    },
    /// Redis server.
    Redis,
    /// Postgres server.
    Postgres {
        /// Schema of the tables.
        schema: String,
    },
}

fn copy(place: &str, what: &str, fix: Option<String>) -> RemainingCopy {
    RemainingCopy { place: place.to_owned(), what: what.to_owned(), fix }
}

/// Lists the copies that an erasure of this id cannot reach. Names only what applies to these backends.
pub fn remaining_copies(id: &str, backends: &[Backend]) -> Vec<RemainingCopy> {
    let mut all = Vec::new();
    for Backend { place, kind } in backends {
        match kind {
            BackendKind::Sqlite { is_rewritten: true } => {}
            BackendKind::Sqlite { is_rewritten: false } => all.push(copy(
                place,
                "free pages of the file and its write-ahead log (-wal) contain removed bytes until they are reused; the \
                 time is unknown",
                Some(format!("rollbook erase {id} --vacuum")),
            )),
            BackendKind::Redis => redis(&mut all, place),
            BackendKind::Postgres { schema } => postgres(&mut all, place, schema),
        }
        all.push(copy(place, "backups and copies that you made of it, as long as you keep them", None));
    }
    all.push(copy(
        "Clerk's webhook service (Svix)",
        "keeps what it sent for up to 90 days and can send it again; it is ignored here",
        None,
    ));
    all.push(copy(
        "Clerk",
        "keeps the data, and continues to send events about it, until it is deleted there",
        Some("delete it in Clerk's dashboard, or by its Backend API".to_owned()),
    ));
    all
}

fn redis(all: &mut Vec<RemainingCopy>, place: &str) {
    all.push(copy(
        place,
        "the append-only file contains everything written to it until Redis rewrites it, which it does by itself when \
         the file has doubled (auto-aof-rewrite-percentage)",
        Some("redis-cli BGREWRITEAOF".to_owned()),
    ));
    all.push(copy(
        place,
        "an RDB snapshot contains the data at its time, until the next one replaces it",
        Some("redis-cli BGSAVE".to_owned()),
    ));
    all.push(copy(place, "replicas have files of their own, for which the same is true", None));
}

fn postgres(all: &mut Vec<RemainingCopy>, place: &str, schema: &str) {
    let tables = RESOURCES.into_iter().map(|resource| resource.table).chain(["deliveries"]);
    let tables: Vec<String> = tables.map(|table| format!("{schema}.{table}")).collect();
    all.push(copy(
        place,
        "the pages of the tables contain old versions of rows until a vacuum (autovacuum runs at some time; only \
         VACUUM FULL, which locks the tables, removes all bytes), and the planner's statistics contain some values \
         until the next ANALYZE",
        Some(format!("psql -c 'VACUUM (ANALYZE) {}' OWNER_URL", tables.join(", "))),
    ));
    all.push(copy(
        place,
        "the write-ahead log contains them until its segments are recycled, after some checkpoints; an archive of it \
         (point-in-time recovery) as long as you keep it",
        None,
    ));
    all.push(copy(
        place,
        "replicas follow by themselves; consumers of logical replication, and a server log with statements, keep \
         their copies",
        None,
    ));
}
