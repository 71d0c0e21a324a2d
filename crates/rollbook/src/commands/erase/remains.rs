//! What an erasure can't reach, and how long that lives: only what applies to where queue and store are.

use rollbook_core::catalog::RESOURCES;
use serde_json::{Value, json};

use crate::config::{Config, Place};
use crate::wire::{self, Component};

/// Something that was not reached.
pub(super) struct Remain {
    /// Where it is.
    pub(super) place: String,
    /// What it is, and how long it lives.
    pub(super) what: String,
    /// What ends it sooner, where anything does.
    pub(super) fix: Option<String>,
}

impl Remain {
    pub(super) fn json(&self) -> Value {
        json!({ "place": self.place, "what": self.what, "fix": self.fix })
    }
}

fn remain(place: &str, what: &str, fix: Option<String>) -> Remain {
    Remain { place: place.to_owned(), what: what.to_owned(), fix }
}

/// All of it. `rewritten` are the parts whose files hold no remains any more.
pub(super) fn all(config: &Config, id: &str, rewritten: &[Component]) -> Vec<Remain> {
    let mut all = Vec::new();
    for part in Component::ALL {
        let place = wire::describe(config, part);
        match (part, part.place(config)) {
            (_, Place::Sqlite(_)) if rewritten.contains(&part) => {}
            (_, Place::Sqlite(_)) => all.push(remain(
                &place,
                "free pages of the file and its write-ahead log (-wal) hold bytes of what was removed, until they are \
                 used again; nothing says when",
                Some(format!("rollbook erase {id} --vacuum")),
            )),
            (Component::Queue, Place::Server(_)) => redis(&mut all, &place),
            (Component::Store, Place::Server(_)) => postgres(&mut all, &place, &config.settings.schema),
        }
        all.push(remain(
            &place,
            "backups and copies that you have made of it, as long as you keep them",
            None,
        ));
    }
    all.push(remain(
        "Clerk's webhook service (Svix)",
        "keeps what it sent for up to 90 days and can send it again; here it is ignored then",
        None,
    ));
    all.push(remain(
        "Clerk",
        "keeps them, and goes on sending events about them, until they are deleted there",
        Some("delete them in Clerk's dashboard, or by its Backend API".to_owned()),
    ));
    all
}

fn redis(all: &mut Vec<Remain>, place: &str) {
    all.push(remain(
        place,
        "the append-only file holds what was once written to it, until Redis rewrites it; by itself it does so when \
         the file has doubled (auto-aof-rewrite-percentage)",
        Some("redis-cli BGREWRITEAOF".to_owned()),
    ));
    all.push(remain(
        place,
        "an RDB snapshot holds what was there when it was taken, until the next one replaces it",
        Some("redis-cli BGSAVE".to_owned()),
    ));
    all.push(remain(place, "replicas keep files of their own, for which the same holds", None));
}

fn postgres(all: &mut Vec<Remain>, place: &str, schema: &str) {
    let tables = RESOURCES.into_iter().map(|resource| resource.table).chain(["deliveries"]);
    let tables: Vec<String> = tables.map(|table| format!("{schema}.{table}")).collect();
    all.push(remain(
        place,
        "the pages of the tables hold the former versions of rows until a vacuum (autovacuum comes sooner or later; only \
         VACUUM FULL, which locks the tables, leaves none of their bytes), and the planner's statistics some values until \
         the next ANALYZE",
        Some(format!("psql -c 'VACUUM (ANALYZE) {}' OWNER_URL", tables.join(", "))),
    ));
    all.push(remain(
        place,
        "the write-ahead log holds them until its segments are recycled, after some checkpoints; an archive of it \
         (point-in-time recovery) as long as you keep it",
        None,
    ));
    all.push(remain(
        place,
        "replicas follow by themselves; what reads the tables by logical replication, and a server log that holds \
         statements, keep what they have",
        None,
    ));
}
