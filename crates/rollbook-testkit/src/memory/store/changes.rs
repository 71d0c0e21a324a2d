//! The change feed of the store in memory. Each write compares the rows that it touched, and their child rows, with what
//! they showed before.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::change::Origin;
use rollbook_core::merge::{Content, SubjectState};
use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, Changes, ChangesError, ChangesPage, ChangesQuery, FeedState,
    Generation, PASSED_MAX, Position, StoreError,
};
use rollbook_core::table_layout::ERASED_BY;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{MemoryStore, State};

/// Lines, and what each row showed when they were written.
#[derive(Default)]
pub(super) struct Feed {
    lines: Vec<ChangeLine>,
    removed_through: Position,
    generation: Generation,
    last_at: Timestamp,
    shown: BTreeMap<(usize, String), Shown>,
    pub(super) last: watch::Sender<Position>,
}

/// A row, as the feed knows it.
#[derive(Clone)]
struct Shown {
    state: SubjectState,
    columns: Map<String, Value>,
    synced_by: String,
}

/// A row that was written, and by what.
pub(super) struct Touched {
    pub(super) resource: &'static Resource,
    pub(super) id: String,
    pub(super) origin: ChangeOrigin,
    pub(super) cause: Option<String>,
}

impl Touched {
    pub(super) fn by(origin: &Origin, resource: &'static Resource, id: &str) -> Self {
        let cause = Some(origin.feed_cause().to_owned());
        Self { resource, id: id.to_owned(), origin: ChangeOrigin::of(origin), cause }
    }

    pub(super) fn erased(resource: &'static Resource, id: &str) -> Self {
        Self { resource, id: id.to_owned(), origin: ChangeOrigin::Erase, cause: None }
    }
}

impl Shown {
    fn is_row(&self) -> bool {
        self.state.content != Content::Unknown || self.state.deleted_at.is_some()
    }

    fn has(&self, column: &str) -> bool {
        self.columns.get(column).is_some_and(|value| !value.is_null())
    }

    fn time(&self, column: &str) -> Option<Timestamp> {
        Timestamp::parse(self.columns.get(column)?.as_str()?)
    }
}

impl State {
    /// Writes the lines of rows that were written, and of their child rows.
    pub(super) fn record(&mut self, touched: Vec<Touched>, now: Timestamp) {
        let mut has_new_ends = false;
        for row in touched {
            let is_parent = row.resource.links.is_empty();
            let known = |state: &State| {
                let key = (row.resource.number, row.id.clone());
                let state = state.feed.shown.get(&key).map(|shown| shown.state).unwrap_or_default();
                (state.deleted_at, state.content == Content::Erased)
            };
            let before = known(self);
            self.compare(&row, now);
            has_new_ends |= is_parent && known(self) != before;
        }
        if !has_new_ends {
            return;
        }
        for resource in RESOURCES.into_iter().filter(|resource| !resource.links.is_empty()) {
            let ids = self.tables.get(resource.table).into_iter().flatten().map(|(id, _)| id.clone());
            for id in ids.collect::<Vec<_>>() {
                self.compare(&Touched { resource, id, origin: ChangeOrigin::Cascade, cause: None }, now);
            }
        }
    }

    /// Writes the line of a row that shows something else than before.
    fn compare(&mut self, row: &Touched, now: Timestamp) {
        let Touched { resource, id, .. } = row;
        let Some(stored) = self.find(resource, id) else { return };
        let view = self.view(resource, id, stored).columns;
        let shown = Shown { state: stored.state, columns: view, synced_by: stored.synced_by.clone() };
        let key = (resource.number, id.clone());
        let before = self.feed.shown.insert(key, shown.clone()).filter(Shown::is_row);
        if !shown.is_row() {
            return;
        }
        let names = resource.columns.iter().map(|column| column.name).chain(["deleted_at", "data"]);
        let differs = |name: &&str| match &before {
            Some(before) => before.columns.get(*name) != shown.columns.get(*name),
            None => shown.has(name),
        };
        let changed: Vec<String> = names.filter(differs).map(str::to_owned).collect();
        let was_deleted = before.as_ref().is_some_and(|before| before.has("deleted_at"));
        let lost_content = before.as_ref().is_some_and(|before| before.has("data") && !shown.has("data"));
        let is_erased = shown.synced_by == ERASED_BY
            && before.as_ref().is_none_or(|before| before.synced_by != ERASED_BY);
        let kind = match &before {
            _ if is_erased || was_deleted && lost_content => ChangeKind::Erased,
            _ if shown.has("deleted_at") && !was_deleted => ChangeKind::Deleted,
            None => ChangeKind::Created,
            Some(_) if !changed.is_empty() => ChangeKind::Updated,
            Some(_) => return,
        };
        let state = before.as_ref().map(|before| before.state).unwrap_or_default();
        let event_at = if shown.state.deleted_at != state.deleted_at {
            shown.state.deleted_at.map(Timestamp::from_millis)
        } else if let (true, Content::At(version)) =
            (shown.state.content != state.content, shown.state.content)
        {
            Some(Timestamp::from_millis(version.event_at))
        } else if before.is_some_and(|before| before.time("deleted_at") != shown.time("deleted_at")) {
            shown.time("deleted_at")
        } else {
            None
        };
        let feed = &mut self.feed;
        feed.last_at = feed.last_at.max(now);
        let position = feed.removed_through + feed.lines.len() as u64 + 1;
        feed.lines.push(ChangeLine {
            position,
            resource: resource.table.to_owned(),
            subject_id: id.clone(),
            kind,
            changed,
            origin: row.origin,
            cause: row.cause.clone(),
            event_at,
            at: feed.last_at,
        });
        feed.last.send_replace(position);
    }
}

impl Feed {
    /// Removes old lines.
    pub(super) fn prune(&mut self, before: Timestamp, limit: usize) -> u64 {
        let old = self.lines.iter().take(limit).take_while(|line| line.at < before).count();
        self.lines.drain(..old);
        self.removed_through += old as u64;
        old as u64
    }

    fn state(&self) -> FeedState {
        let last = self.removed_through + self.lines.len() as u64;
        let (removed_through, generation) = (self.removed_through, self.generation + 1);
        FeedState { is_on: true, last, removed_through, generation, ..FeedState::default() }
    }
}

#[async_trait]
impl Changes for MemoryStore {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
        let state = self.state();
        state.feed.state().check(query.after)?;
        let passed = query.after.saturating_add(PASSED_MAX);
        let is_selected = |line: &&ChangeLine| {
            line.position > query.after && line.position <= passed && query.selects(&line.resource, line.kind)
        };
        let lines = state.feed.lines.iter().filter(is_selected).take(query.lines_max()).cloned().collect();
        Ok(ChangesPage::new(lines, query, &state.feed.state()))
    }

    async fn feed(&self) -> Result<FeedState, StoreError> {
        Ok(self.state().feed.state())
    }

    async fn position_before(&self, at: Timestamp) -> Result<Position, StoreError> {
        let state = self.state();
        let earlier = state.feed.lines.iter().take_while(|line| line.at < at).count();
        Ok(state.feed.removed_through + earlier as u64)
    }

    async fn wait_for_change(&self, after: Position, limit: Duration) -> Result<bool, StoreError> {
        let mut last = self.state().feed.last.subscribe();
        Ok(timeout(limit, last.wait_for(|last| *last > after)).await.is_ok_and(|found| found.is_ok()))
    }

    async fn renew_feed(&self) -> Result<Generation, StoreError> {
        let mut state = self.state();
        state.feed.generation += 1;
        Ok(state.feed.state().generation)
    }
}
