//! Checks of facts that an operator should know although nothing is broken: migrations of a newer Rollbook, row-level
//! policies, triggers, cascades that wait, the change feed, and what a cluster does about a failed shard.

use std::time::Duration;

use rollbook_core::store::{FeedState, FullStore, PendingCascades, WAITING_COUNTED_MAX};
use rollbook_core::time::Timestamp;
use rollbook_operator::erase::HIDDEN_ROWS_FIX;
use rollbook_operator::words::{many, thousands, time};

use super::finding::{Finding, Findings, ok, skipped, warning};
use super::{ASK_TIMEOUT, WAITS_MAX, in_time};
use crate::config::Config;
use crate::startup::feed_differs;
use crate::url_notes;
use crate::wire::{self, Component, FullCoverage, Ignored, POOLER_FIX};

const MIGRATIONS: &str = "migrations";
const FULL_COVERAGE: &str = "full_coverage";
const POLICIES: &str = "policies";
const URL_PARAMETERS: &str = "url_parameters";
const POOLER: &str = "pooler";
const RIGHTS: &str = "rights";
const TRIGGERS: &str = "triggers";
const CASCADES: &str = "cascades";
const CHANGES: &str = "changes";
/// Wait for a position after which a warning is due. A worker gives positions within a second, and looks for the changes of
/// other processes every ten seconds.
const CHANGES_WAIT_MAX: Duration = Duration::from_secs(60);

/// Reports migrations of a newer Rollbook that this one works with; `None` if there are none.
pub(super) async fn newer(config: &Config, part: Component) -> Option<Finding> {
    let found = in_time(wire::pending_migrations(config, part)).await.ok()?;
    let newer = found.newer.join(", ");
    (!newer.is_empty()).then(|| {
        let what = "a newer Rollbook has applied migrations that only add, and this one works with them";
        ok(MIGRATIONS, format!("{} ({}): {what}: {newer}", part.name(), found.place))
    })
}

/// Reports policies and triggers of the team's own on Rollbook's tables that make some statements fail or find no row.
pub(super) async fn of_a_team(store: &dyn FullStore) -> Findings {
    let hidden = in_time(store.hidden_tables()).await.unwrap_or_default();
    let unpinned = in_time(store.unpinned_triggers()).await.unwrap_or_default();
    policies(&hidden).into_iter().chain(triggers(&unpinned)).collect()
}

/// Reports roles that may do in the store what they should not.
pub(super) async fn rights(config: &Config) -> Findings {
    let found = in_time(wire::backend(config, Component::Store).weaknesses()).await.unwrap_or_default();
    found.into_iter().map(|weakness| warning(RIGHTS, weakness.what, weakness.fix)).collect()
}

/// Reports functions of triggers that find tables by the search path of whoever writes a row; `None` if there are none.
fn triggers(functions: &[String]) -> Option<Finding> {
    let first = functions.first()?;
    let found = format!(
        "the triggers' functions {} have no search_path of their own: workers run them with the path of their role, and \
         ensure_user and ensure_organization with Rollbook's schema alone, where a table that is named without its schema \
         is not found",
        functions.join(", ")
    );
    let fix = format!(
        "ALTER FUNCTION {first}() SET search_path = public, pg_temp (with the schemas of its tables): then it does the same \
         for both"
    );
    Some(warning(TRIGGERS, found, fix))
}

/// Reports child rows of deleted parents, and rows without their erasure, that are not done yet; `None` if there are none.
pub(super) fn cascades(left: &PendingCascades, now: Timestamp) -> Option<Finding> {
    let PendingCascades { parents, rows, listed } = left;
    let first = listed.first().map_or_else(String::new, |entry| {
        let why = entry.last_error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        format!("; the oldest, {}, since {}{why}", entry.id, time(entry.noted_at))
    });
    let waits = listed.first().and_then(|entry| entry.noted_at).map(|at| now.since(at)).unwrap_or_default();
    if *rows > 0 {
        let found =
            format!("{} could not be changed after a deletion or by retention{first}", many(*rows, "row"));
        let fix = "change the trigger, policy or constraint that refuses the change, or end the session that holds their lock; \
                   then workers change them. rollbook explain ID shows those of one parent";
        return Some(warning(CASCADES, found, fix));
    }
    let found = format!("child rows of {} are not processed yet{first}", many(*parents, "deleted parent"));
    (*parents > 0).then(|| {
        if waits > WAITS_MAX {
            warning(CASCADES, found, "check that a worker is running (rollbook serve or work)")
        } else {
            ok(CASCADES, format!("{found}; workers process them now"))
        }
    })
}

/// Reports what the URL of Postgres has that has no effect, and warns of a pooler to which it may lead, where no setting
/// names it.
pub(super) fn url(config: &Config) -> Findings {
    let Some(Ignored { names, wrong_values, numbers, pooler }) = wire::ignored(config) else {
        return Vec::new();
    };
    let pooler = pooler.map(|sign| {
        warning(POOLER, url_notes::may_be_pooled(sign), format!("if it pools transactions, {POOLER_FIX}"))
    });
    let others = (!names.is_empty())
        .then(|| ok(URL_PARAMETERS, format!("{}: {}", url_notes::OTHERS, names.join(", "))));
    let wrong = (!wrong_values.is_empty()).then(|| {
        let found = format!("{}: {}", url_notes::WRONG_VALUES, wrong_values.join(", "));
        warning(URL_PARAMETERS, found, "write true or false, or leave it out")
    });
    let unknown = (!numbers.is_empty()).then(|| {
        let found = format!("{}: {}", url_notes::UNKNOWN, url_notes::listed(&numbers));
        warning(URL_PARAMETERS, found, "leave them out; in a password write & as %26")
    });
    pooler.into_iter().chain(others).chain(wrong).chain(unknown).collect()
}

/// Reports policies of the database that may hide rows; `None` if there are none.
fn policies(tables: &[String]) -> Option<Finding> {
    let tables = (!tables.is_empty()).then(|| tables.join(", "))?;
    let found = format!(
        "row-level security policies on {tables} apply to this role: rows that they hide can't be erased, deleted or checked"
    );
    Some(warning(POLICIES, found, HIDDEN_ROWS_FIX))
}

/// Reports whether changes of rows are recorded as the setting says, and get their positions; `None` if they are not to be
/// recorded.
pub(super) fn feed(config: &Config, feed: &FeedState) -> Option<Finding> {
    if let Some(wrong) = feed_differs(config, feed) {
        return Some(warning(CHANGES, wrong, "rollbook migrate, as the owner of the tables"));
    }
    if let Some(waiting) = feed.waiting_for.filter(|waiting| *waiting > CHANGES_WAIT_MAX) {
        let found =
            format!("{} have no position yet, the oldest for {} s", waiting_lines(feed), waiting.as_secs());
        let fix = "check that a worker is running (rollbook serve or work), and what its log reports about positions";
        return Some(warning(CHANGES, found, fix));
    }
    let FeedState { last, removed_through, .. } = feed;
    if feed.is_on && *last == 0 && feed.waiting_for.is_none() {
        let found = "changes of rows are recorded (rollbook changes tail shows them); there was none yet";
        return Some(ok(CHANGES, found));
    }
    let waiting = match feed.waiting_for {
        Some(waiting) => {
            format!("{} wait for their position, the oldest for {} s", waiting_lines(feed), waiting.as_secs())
        }
        None => "none waits for its position".to_owned(),
    };
    let found = format!(
        "changes of rows are recorded up to position {}, and kept from {} on; {waiting}",
        thousands(*last),
        thousands(removed_through + 1)
    );
    feed.is_on.then(|| ok(CHANGES, found))
}

/// Formats the number of lines that have no position yet.
fn waiting_lines(feed: &FeedState) -> String {
    let more = if feed.waiting >= WAITING_COUNTED_MAX { " or more" } else { "" };
    format!("{}{more} changes", thousands(feed.waiting))
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
    use rollbook_core::store::{PendingCascade, PendingWork};

    use super::super::finding::State;
    use super::*;
    use crate::config::{Environment, FileSource, Sources};

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
    fn functions_of_triggers_without_a_path_of_their_own_are_a_warning_with_their_names() {
        assert!(triggers(&[]).is_none());
        let finding = triggers(&["app.note".to_owned(), "app.greet".to_owned()]).expect("a finding");
        assert!(
            finding.state == State::Warning && finding.found.contains("app.note, app.greet"),
            "{finding:?}"
        );
    }

    #[test]
    fn rows_that_refuse_a_cascade_are_a_warning_and_one_under_way_is_not_at_first() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let entry = |age: u64, what, last_error: Option<&str>| PendingCascade {
            table: "organizations".to_owned(),
            id: "org_1".to_owned(),
            what,
            parent: None,
            noted_at: Some(now.minus(Duration::from_secs(age))),
            attempts: 0,
            next_try_at: now,
            last_error: last_error.map(str::to_owned),
        };
        let parent = |age| PendingCascades {
            parents: 1,
            rows: 0,
            listed: vec![entry(age, PendingWork::Children, None)],
        };
        let state = |left: &PendingCascades| cascades(left, now).map(|finding| finding.state);
        assert_eq!(state(&PendingCascades::default()), None);
        assert_eq!(state(&parent(10)), Some(State::Ok));
        assert_eq!(state(&parent(301)), Some(State::Warning));
        let listed = vec![entry(10, PendingWork::Row, Some("a trigger refuses the row"))];
        let refused = cascades(&PendingCascades { parents: 0, rows: 1, listed }, now).expect("a finding");
        assert_eq!(refused.state, State::Warning);
        assert!(refused.found.contains("a trigger refuses the row"), "{}", refused.found);
    }

    #[test]
    fn a_schema_that_records_otherwise_than_the_setting_and_changes_that_wait_are_warnings() {
        let sources = Sources { flags: &[], environment: Environment::of(&[]), file: FileSource::None };
        let config = Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
        let off = feed(&config, &FeedState::default()).expect("a finding");
        assert!(off.state == State::Warning && off.found.contains("changes is yes"), "{off:?}");
        let on = FeedState { is_on: true, last: 4211, removed_through: 9, ..FeedState::default() };
        let found = feed(&config, &on).expect("a finding");
        assert!(
            found.state == State::Ok && found.found.contains("4,211, and kept from 10 on; none waits"),
            "{found:?}"
        );
        let many = FeedState { waiting: WAITING_COUNTED_MAX, waiting_for: Some(Duration::ZERO), ..on };
        assert!(feed(&config, &many).expect("a finding").found.contains("10,000 or more changes"));
        for (waiting, state) in
            [(CHANGES_WAIT_MAX, State::Ok), (CHANGES_WAIT_MAX + Duration::from_secs(1), State::Warning)]
        {
            let waits = FeedState { waiting: 3, waiting_for: Some(waiting), ..on };
            let found = feed(&config, &waits).expect("a finding");
            assert_eq!(found.state, state);
            assert!(
                found.found.contains("3 changes") && found.found.contains("the oldest for 6"),
                "{found:?}"
            );
        }
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
