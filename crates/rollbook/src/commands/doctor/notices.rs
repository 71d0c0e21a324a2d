//! Checks of what is neither broken nor weak and still matters: migrations of a newer Rollbook, row-level
//! policies, and what a cluster does about a failed shard.
use rollbook_operator::erase::HIDDEN_ROWS_FIX;

use super::finding::{Finding, ok, skipped, warning};
use super::{ASK_TIMEOUT, in_time};
use crate::config::Config;
use crate::wire::{self, Component, FullCoverage};

const MIGRATIONS: &str = "migrations";
const FULL_COVERAGE: &str = "full_coverage";
const POLICIES: &str = "policies";

/// Reports migrations of a newer Rollbook that this one works with; `None` if there are none.
pub(super) async fn newer(config: &Config, part: Component) -> Option<Finding> {
    let found = in_time(wire::pending_migrations(config, part)).await.ok()?;
    let newer = found.newer.join(", ");
    (!newer.is_empty()).then(|| {
        let what = "a newer Rollbook has applied migrations that only add, and this one works with them";
        ok(MIGRATIONS, format!("{} ({}): {what}: {newer}", part.name(), found.place))
    })
}

/// Reports policies of the database that may hide rows; `None` if there are none.
pub(super) fn policies(tables: &[String]) -> Option<Finding> {
    let tables = (!tables.is_empty()).then(|| tables.join(", "))?;
    let found = format!(
        "row-level security policies on {tables} apply to this role: rows that they hide can't be erased, deleted or checked"
    );
    Some(warning(POLICIES, found, HIDDEN_ROWS_FIX))
}

/// Reports what a Redis cluster does while one of its shards has failed; `None` if the queue is not on a cluster.
pub(super) async fn full_coverage(config: &Config) -> Option<Finding> {
    tokio::time::timeout(ASK_TIMEOUT, wire::full_coverage(config)).await.ok().flatten().map(judge)
}

fn judge(found: FullCoverage) -> Finding {
    match found {
        FullCoverage::NotRequired => ok(
            FULL_COVERAGE,
            "cluster-require-full-coverage is no: a failed shard stops its own messages, and no others",
        ),
        FullCoverage::Required => warning(
            FULL_COVERAGE,
            "cluster-require-full-coverage is yes: while one shard has failed the whole cluster refuses, and every \
             delivery is answered 503",
            "redis-cli -h EACH_NODE CONFIG SET cluster-require-full-coverage no, then CONFIG REWRITE",
        ),
        FullCoverage::Hidden => skipped(
            FULL_COVERAGE,
            "this user may not read cluster-require-full-coverage (+config|get), which should be no on every node",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn policies_that_may_hide_rows_are_a_warning_with_the_tables() {
        assert!(policies(&[]).is_none());
        let finding = policies(&["users".to_owned(), "deliveries".to_owned()]).expect("a finding");
        assert!(
            finding.state == State::Warning && finding.found.contains("users, deliveries"),
            "{finding:?}"
        );
    }

    #[test]
    fn a_cluster_that_one_failed_shard_stops_is_a_warning() {
        for (found, state, words) in [
            (FullCoverage::NotRequired, State::Ok, "stops its own messages"),
            (FullCoverage::Required, State::Warning, "the whole cluster refuses"),
            (FullCoverage::Hidden, State::Skipped, "may not read"),
        ] {
            let finding = judge(found);
            assert!(finding.state == state && finding.found.contains(words), "{finding:?}");
        }
    }
}
