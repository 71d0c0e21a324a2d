//! Audit of a run.

use std::collections::BTreeSet;

use crate::fleet::{DATABASE, Fleet};
use crate::load::{Load, Sent};
use crate::rows;

/// Result of a run.
#[derive(Debug)]
pub(crate) struct Audit {
    /// Acknowledged, and neither in the ledger nor among the dead letters.
    pub(crate) lost: usize,
    /// In the ledger or among the dead letters, and never sent.
    pub(crate) unexpected: usize,
    /// Messages that still wait at the end, and other remains that a finished queue must not hold.
    pub(crate) stuck: u64,
    /// Dead letters.
    pub(crate) dead: usize,
    /// Whether the dead letters are exactly the poison that was sent.
    pub(crate) dead_is_poison: bool,
    /// Whether the rows equal the truth.
    pub(crate) rows_equal: bool,
    /// Number of deliveries in the ledger, and the most attempts of one.
    pub(crate) applied: usize,
    pub(crate) attempts_max: u32,
    /// Number of messages that took more than one attempt.
    pub(crate) again: usize,
}

/// Returns the dead letters in Redis.
pub(crate) fn dead_letters(fleet: &Fleet) -> BTreeSet<String> {
    let dead = fleet.redis.cli(&["hkeys", "{rollbook:0}:failures"]);
    dead.lines().filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

pub(crate) async fn audit(fleet: &Fleet, load: &Load, sent: &Sent<'_>) -> Audit {
    let ledger = fleet.postgres.psql(DATABASE, "SELECT svix_id, attempts FROM clerk.deliveries").await;
    let ledger: Vec<(&str, u32)> = ledger
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(id, attempts)| (id, attempts.parse().expect("a number")))
        .collect();
    let applied: BTreeSet<&str> = ledger.iter().map(|(id, _)| *id).collect();
    let dead = dead_letters(fleet);
    let dead: BTreeSet<&str> = dead.iter().map(String::as_str).collect();
    Audit {
        lost: sent.acknowledged.iter().filter(|id| !applied.contains(*id) && !dead.contains(*id)).count(),
        unexpected: applied.union(&dead).filter(|id| !sent.all.contains(*id)).count(),
        stuck: fleet.waiting() + leftovers(fleet),
        dead_is_poison: dead == load.poison(),
        dead: dead.len(),
        rows_equal: rows::equal(fleet.postgres.url(DATABASE), &load.history).await,
        applied: applied.len(),
        attempts_max: ledger.iter().map(|(_, attempts)| *attempts).max().unwrap_or(0),
        again: ledger.iter().filter(|(_, attempts)| *attempts > 1).count(),
    }
}

/// Returns deliveries that were acknowledged and are neither in the ledger nor among the dead letters, where
/// the ledger holds more than this load.
pub(crate) async fn lost(fleet: &Fleet, sent: &Sent<'_>) -> usize {
    let ledger = fleet.postgres.psql(DATABASE, "SELECT svix_id FROM clerk.deliveries").await;
    let applied: BTreeSet<&str> = ledger.lines().collect();
    let dead = dead_letters(fleet);
    sent.acknowledged.iter().filter(|id| !applied.contains(*id) && !dead.contains(**id)).count()
}

/// Returns remains of settled messages.
fn leftovers(fleet: &Fleet) -> u64 {
    let counts = [("xlen", "new"), ("xlen", "again"), ("zcard", "due"), ("hlen", "tries"), ("zcard", "ages")];
    let count = |(command, key): (&str, &str)| {
        fleet.redis.cli(&[command, &format!("{{rollbook:0}}:{key}")]).parse::<u64>().expect("a count")
    };
    counts.into_iter().map(count).sum()
}
