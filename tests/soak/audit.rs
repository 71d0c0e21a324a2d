//! The oracle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::Store as _;
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_testkit::clock::WallClock;

use crate::fleet::{DATABASE, Fleet};
use crate::load::{Load, Sent};

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Audit {
    /// Acknowledged, and neither in the ledger nor among the dead letters.
    pub(crate) lost: usize,
    /// In the ledger or among the dead letters, and never sent.
    pub(crate) unexpected: usize,
    /// Waiting when all was quiet, and whatever a finished queue must not hold.
    pub(crate) stuck: u64,
    /// Dead letters.
    pub(crate) dead: usize,
    /// Whether the dead letters are exactly the poison that was sent.
    pub(crate) dead_is_poison: bool,
    /// Whether the rows equal the truth.
    pub(crate) rows_equal: bool,
    /// Deliveries in the ledger, and the most attempts that one of them took.
    pub(crate) applied: usize,
    pub(crate) attempts_max: u32,
    /// How many took more than one.
    pub(crate) again: usize,
}

pub(crate) async fn audit(fleet: &Fleet, load: &Load, sent: &Sent<'_>) -> Audit {
    let ledger = fleet.postgres.psql(DATABASE, "SELECT svix_id, attempts FROM clerk.deliveries").await;
    let ledger: Vec<(&str, u32)> = ledger
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(id, attempts)| (id, attempts.parse().expect("a number")))
        .collect();
    let applied: BTreeSet<&str> = ledger.iter().map(|(id, _)| *id).collect();
    let dead = fleet.redis.cli(&["hkeys", "{rollbook:0}:failures"]);
    let dead: BTreeSet<&str> = dead.lines().filter(|id| !id.is_empty()).collect();
    Audit {
        lost: sent.acknowledged.iter().filter(|id| !applied.contains(*id) && !dead.contains(*id)).count(),
        unexpected: applied.union(&dead).filter(|id| !sent.all.contains(*id)).count(),
        stuck: fleet.waiting() + leftovers(fleet),
        dead_is_poison: dead == load.poison(),
        dead: dead.len(),
        rows_equal: rows_equal(fleet, load).await,
        applied: applied.len(),
        attempts_max: ledger.iter().map(|(_, attempts)| *attempts).max().unwrap_or(0),
        again: ledger.iter().filter(|(_, attempts)| *attempts > 1).count(),
    }
}

/// What is left of messages that are done.
fn leftovers(fleet: &Fleet) -> u64 {
    let counts = [("xlen", "new"), ("xlen", "again"), ("zcard", "due"), ("hlen", "tries"), ("zcard", "ages")];
    let count = |(command, key): (&str, &str)| {
        fleet.redis.cli(&[command, &format!("{{rollbook:0}}:{key}")]).parse::<u64>().expect("a count")
    };
    counts.into_iter().map(count).sum()
}

async fn rows_equal(fleet: &Fleet, load: &Load) -> bool {
    let settings = PostgresSettings {
        url: fleet.postgres.url(DATABASE),
        schema: "clerk".to_owned(),
        pgbouncer: false,
        connections_max: 2,
        statement_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(5),
    };
    let store = PostgresStore::new(settings, Arc::new(WallClock)).expect("the store opens");
    let mut rows = Vec::new();
    for resource in RESOURCES {
        let all = store.rows(resource, None, usize::MAX >> 1).await.expect("rows");
        rows.extend(all.into_iter().map(|row| (resource.table, row)));
    }
    load.history.truth.compare(rows.into_iter()).is_equal()
}
