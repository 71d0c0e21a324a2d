//! Records of runs as an operator reads them: the last runs, what waits, and the last walk of each resource.

use std::collections::BTreeMap;

use rollbook_core::catalog::Resource;
use rollbook_core::drift::Drift;
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{HeldCount, HeldKey, HeldState, Reconciliation, Run, RunState, StoreError};
use rollbook_core::time::Timestamp;
use serde::Serialize;

use crate::checks::record_of;
use crate::progress::{Progress, ResourceProgress};
use crate::reconciler::RunReport;

/// Runs that are searched for the last one of each resource.
const RUNS: usize = 20;
/// Held objects per page.
const PAGE: usize = 500;

/// State of the reconciliation. Its JSON is what `rollbook reconcile status` prints.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The last runs, newest first.
    pub runs: Vec<RunView>,
    /// Objects that wait for an operator.
    pub waiting: Vec<Waiting>,
    /// Last walk of each resource.
    pub resources: Vec<LastWalk>,
}

/// A run.
#[derive(Debug, Serialize)]
pub struct RunView {
    /// Id of the run.
    pub run: String,
    /// State.
    pub state: RunState,
    /// Whether the run only counted.
    pub dry_run: bool,
    /// Instance of the key.
    pub instance: Option<String>,
    /// Time of its start.
    pub started_at: Timestamp,
    /// Time of its last record.
    pub saved_at: Timestamp,
    /// Time of its end.
    pub finished_at: Option<Timestamp>,
    /// Reason of its failure.
    pub error: Option<String>,
    /// Counts by resource.
    pub resources: Vec<ResourceView>,
}

/// Counts of one resource in a run.
#[derive(Debug, Serialize)]
pub struct ResourceView {
    /// Table.
    pub resource: String,
    /// Whether the resource is done.
    pub done: bool,
    /// Number of objects at Clerk when the walk began.
    pub at_clerk: u64,
    /// Objects read.
    pub read: u64,
    /// Differences by kind.
    pub drift: BTreeMap<String, u64>,
    /// Rows written.
    pub written: u64,
    /// Rows that refused their change.
    pub refused: u64,
    /// Deletions and wrongly deleted rows that wait for an operator.
    pub held: u64,
    /// Living rows that Clerk's lists lack, and that could not be proved absent.
    pub unproven: u64,
    /// Objects that could not be read.
    pub unreadable: u64,
    /// Living rows of a feature that is not enabled at Clerk.
    pub not_enabled: u64,
    /// Rows of other tables, by table, that the deletions take with them: at least so many.
    pub taken_along: BTreeMap<String, u64>,
    /// Child rows of deleted parents, and parents, of which the cascade is not done yet.
    pub pending: u64,
}

/// Objects of one table that wait for an operator.
#[derive(Debug, Serialize)]
pub struct Waiting {
    /// Run that found them.
    pub run: String,
    /// Table.
    pub resource: String,
    /// Kind of drift.
    pub kind: Drift,
    /// Number of objects.
    pub count: u64,
    /// Ids of the first objects.
    pub ids: Vec<String>,
    /// Rows of other tables, by table, that an approval deletes with these: at least so many.
    pub taken_along: BTreeMap<String, u64>,
    /// Command that settles them.
    pub fix: String,
}

/// Last walk of a resource.
#[derive(Debug, Serialize)]
pub struct LastWalk {
    /// Table.
    pub resource: &'static str,
    /// Start of the first walk that left no difference; `None` if the last walk left one.
    pub complete_since: Option<Timestamp>,
    /// End of the last complete walk.
    pub last_walk_at: Option<Timestamp>,
    /// Number of differences that the last walk found.
    pub drift: Option<u64>,
    /// Last check between walks that found as many living rows as Clerk has objects.
    pub numbers_equal_at: Option<Timestamp>,
}

impl LastWalk {
    /// Returns the last time at which the table was found in sync: by a walk, or by a check between walks.
    pub fn in_sync_at(&self) -> Option<Timestamp> {
        self.last_walk_at.max(self.numbers_equal_at)
    }
}

impl Status {
    /// Reads the records: at most this number of runs, and of ids for each table and kind.
    ///
    /// # Errors
    /// The store gave no answer.
    pub async fn read(records: &dyn Reconciliation, runs: usize, ids: usize) -> Result<Self, StoreError> {
        let mut all: Vec<RunView> =
            records.runs(runs.max(RUNS)).await?.into_iter().map(RunView::from).collect();
        let mut waiting = unreadable(&all);
        for of in records.count_held(None).await?.into_iter().filter(|of| of.state == HeldState::Waiting) {
            let ids = waiting_ids(records, &of, ids).await?;
            let HeldCount { run, table, kind, count, .. } = of;
            let fix = fix_of(kind, &run, ids.first().map_or("ID", String::as_str));
            let taken_along =
                if kind == Drift::NotDeleted { along(&all, &run, &table) } else { BTreeMap::new() };
            waiting.push(Waiting { run, resource: table, kind, count, ids, taken_along, fix });
        }
        all.truncate(runs);
        let known = records.freshness().await?;
        let last_walk = |table: &'static str| {
            let record = |name: &str| known.iter().find(|of| of.table == name);
            let (known, check) = (record(table), record(&record_of(table)));
            LastWalk {
                resource: table,
                complete_since: known.and_then(|of| of.complete_since),
                last_walk_at: known.map(|of| of.last_walk_at),
                drift: known.map(|of| of.drift),
                numbers_equal_at: check.map(|of| of.last_walk_at),
            }
        };
        let resources = RECONCILED.into_iter().map(|resource| last_walk(resource.table)).collect();
        Ok(Self { runs: all, waiting, resources })
    }
}

/// Returns the command that settles an object which a run holds.
fn fix_of(kind: Drift, run: &str, id: &str) -> String {
    match kind {
        Drift::NotDeleted => format!("rollbook reconcile approve {run}"),
        Drift::WronglyDeleted => format!("rollbook resync --force {id}"),
        // The row refuses its change.
        _ => format!("correct the trigger or constraint of the table, then rollbook resync {id}"),
    }
}

/// Returns the objects that the last run of each resource could not read. They have no id, so that the store holds none.
fn unreadable(runs: &[RunView]) -> Vec<Waiting> {
    let last = |resource: &&'static Resource| {
        let of = |run: &RunView| run.resources.iter().position(|of| of.resource == resource.table && of.done);
        let (run, at) = runs.iter().filter(|run| !run.dry_run).find_map(|run| Some((run, of(run)?)))?;
        let count = run.resources[at].unreadable;
        (count > 0).then(|| Waiting {
            run: run.run.clone(),
            resource: resource.table.to_owned(),
            kind: Drift::Missing,
            count,
            ids: Vec::new(),
            taken_along: BTreeMap::new(),
            fix: "ask Clerk's support why its list has objects without a usable id, of another type, or marked as deleted"
                .to_owned(),
        })
    };
    RECONCILED.iter().filter_map(last).collect()
}

/// Returns what the deletions of a run and table take with them.
fn along(runs: &[RunView], run: &str, table: &str) -> BTreeMap<String, u64> {
    let resources = runs.iter().filter(|of| of.run == run).flat_map(|of| &of.resources);
    resources.filter(|of| of.resource == table).flat_map(|of| of.taken_along.iter().map(clone)).collect()
}

fn clone((table, rows): (&String, &u64)) -> (String, u64) {
    (table.clone(), *rows)
}

/// Returns the ids of the first objects that wait.
async fn waiting_ids(
    records: &dyn Reconciliation,
    of: &HeldCount,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let mut ids = Vec::new();
    let mut after = HeldKey { table: of.table.clone(), id: String::new() };
    while ids.len() < limit {
        let page = records.held(&of.run, HeldState::Waiting, Some(&after), PAGE).await?;
        let has_more = page.last().is_some_and(|last| last.key.table == of.table) && page.len() == PAGE;
        if let Some(last) = page.last() {
            after = last.key.clone();
        }
        let matching = page.into_iter().filter(|held| held.key.table == of.table && held.kind == of.kind);
        ids.extend(matching.map(|held| held.key.id));
        if !has_more {
            break;
        }
    }
    ids.truncate(limit);
    Ok(ids)
}

impl RunView {
    /// Whether the run writes what it finds, and walks every resource that a reconciliation repairs. Others say nothing about
    /// whether the tables are in sync.
    pub fn is_full(&self) -> bool {
        let walks = |resource: &&Resource| self.resources.iter().any(|of| of.resource == resource.table);
        !self.dry_run && RECONCILED.iter().all(walks)
    }
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        let Run { id, started_at, saved_at, finished_at, state, is_dry, progress, last_error } = run;
        let progress = Progress::parse(&progress).unwrap_or_default();
        Self {
            run: id,
            state,
            dry_run: is_dry,
            instance: Some(progress.instance).filter(|instance| !instance.is_empty()),
            started_at,
            saved_at,
            finished_at,
            error: last_error,
            resources: progress.resources.iter().map(ResourceView::from).collect(),
        }
    }
}

impl From<RunReport> for RunView {
    fn from(report: RunReport) -> Self {
        let RunReport { run, state, is_dry, started_at, finished_at, progress } = report;
        Self {
            run,
            state,
            dry_run: is_dry,
            instance: Some(progress.instance).filter(|instance| !instance.is_empty()),
            started_at,
            saved_at: finished_at,
            finished_at: Some(finished_at),
            error: None,
            resources: progress.resources.iter().map(ResourceView::from).collect(),
        }
    }
}

impl From<&ResourceProgress> for ResourceView {
    fn from(of: &ResourceProgress) -> Self {
        Self {
            resource: of.table.clone(),
            done: of.is_done,
            at_clerk: of.total,
            read: of.read,
            drift: of.drift.clone(),
            written: of.written,
            refused: of.refused + of.undeleted,
            held: of.held,
            unproven: of.unproven,
            unreadable: of.unreadable,
            not_enabled: of.not_enabled,
            taken_along: of.cascades.iter().filter(|(_, rows)| **rows > 0).map(clone).collect(),
            pending: of.pending,
        }
    }
}

impl RunView {
    /// Returns the total of a number over all resources.
    pub fn sum(&self, of: impl Fn(&ResourceView) -> u64) -> u64 {
        self.resources.iter().map(of).sum()
    }
}

impl ResourceView {
    /// Returns the number of differences of all kinds.
    pub fn drifted(&self) -> u64 {
        self.drift.values().sum()
    }
}
