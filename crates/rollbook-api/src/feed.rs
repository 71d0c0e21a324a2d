//! Reading of the feed for one reader.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::json::Document;
use rollbook_core::store::{Changes, ChangesError, ChangesQuery, Generation, Position, Rows, StoreError};
use rollbook_operator::changes::{self, ChangeView, ExpandedChange, generation_name};
use serde::{Serialize, Serializer};
use tokio::sync::Semaphore;

use crate::outage::Outage;
use crate::parameters::{Parameters, Start};
use crate::problem::Problem;

/// Maximum bytes of the rows of one page. The row that reaches it is the last of its page.
pub(crate) const ROW_BYTES_MAX: usize = 1024 * 1024;
/// Time for which further lines are collected after a reader has waited for the first. It limits a reader to a hundred
/// reads per second.
const COLLECT_FOR: Duration = Duration::from_millis(10);

/// The feed, as all readers of the process share it.
pub(crate) struct Feed {
    changes: Arc<dyn Changes>,
    /// Rows, for `expand=row`.
    rows: Arc<dyn Rows>,
    /// Permits to use the store, so that readers leave the connections of its pool to the workers.
    reads: Semaphore,
    outage: Outage,
}

/// One page, as in the answer.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    pub(crate) changes: Vec<ExpandedChange>,
    pub(crate) through: Position,
    pub(crate) last: Position,
    /// Generation of the feed.
    #[serde(serialize_with = "name")]
    pub(crate) feed: Generation,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn name<S: Serializer>(generation: &Generation, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&generation_name(*generation))
}

impl Page {
    /// Whether the reader has everything.
    pub(crate) fn is_at_end(&self) -> bool {
        self.changes.is_empty() && self.through >= self.last
    }
}

/// Reason why a reader gets no page.
#[derive(Debug)]
pub(crate) enum NoPage {
    /// The store failed; the reader may go on later.
    Store(StoreError),
    /// The reader cannot go on at its position.
    Refused(Problem),
}

impl From<ChangesError> for NoPage {
    fn from(error: ChangesError) -> Self {
        match error {
            ChangesError::Store(error) => Self::Store(error),
            refused => Self::Refused(refused.into()),
        }
    }
}

impl From<NoPage> for Problem {
    fn from(reason: NoPage) -> Self {
        match reason {
            NoPage::Store(error) => error.into(),
            NoPage::Refused(problem) => problem,
        }
    }
}

/// Refuses a reader with a position that belongs to another generation of the feed.
fn check_generation(now: Generation, expected: Option<Generation>) -> Result<(), NoPage> {
    match expected.filter(|expected| *expected != now) {
        Some(_) => Err(NoPage::Refused(Problem::feed_changed(now))),
        None => Ok(()),
    }
}

impl Feed {
    pub(crate) fn new(changes: Arc<dyn Changes>, rows: Arc<dyn Rows>, reads_max: usize) -> Self {
        Self { changes, rows, reads: Semaphore::new(reads_max), outage: Outage::new("the change feed") }
    }

    /// Returns the first query of a reader.
    pub(crate) async fn query(&self, parameters: &Parameters) -> Result<ChangesQuery, ChangesError> {
        let _permit = self.reads.acquire().await;
        let after = self.start(parameters.start).await.map_err(ChangesError::from);
        self.log(after.as_ref().err());
        let Parameters { resources, kinds, limit, .. } = parameters.clone();
        Ok(ChangesQuery { after: after?, resources, kinds, limit })
    }

    async fn start(&self, start: Start) -> Result<Position, StoreError> {
        Ok(match start {
            Start::After(position) => position,
            Start::Since(at) => self.changes.position_before(at).await?,
            Start::Oldest => self.changes.feed().await?.removed_through,
            Start::Last => self.changes.feed().await?.last,
        })
    }

    /// Reads one page. `expected` is the generation that the reader's position belongs to, if it is known. Another generation is
    /// reported before anything about the position, which says nothing about another feed.
    pub(crate) async fn read(
        &self,
        query: &ChangesQuery,
        expand: bool,
        expected: Option<Generation>,
    ) -> Result<Page, NoPage> {
        // The semaphore is never closed.
        let _permit = self.reads.acquire().await;
        let page = self.page(query, expand).await;
        self.log(page.as_ref().err());
        if let (Err(ChangesError::Removed { .. } | ChangesError::Ahead { .. }), Some(_)) = (&page, expected) {
            let state = self.changes.feed().await.map_err(ChangesError::from);
            self.log(state.as_ref().err());
            check_generation(state?.generation, expected)?;
        }
        let page = page?;
        check_generation(page.feed, expected)?;
        Ok(page)
    }

    fn log(&self, error: Option<&ChangesError>) {
        self.outage.log(error.and_then(|error| match error {
            ChangesError::Store(error) => Some(error),
            _ => None,
        }));
    }

    async fn page(&self, query: &ChangesQuery, expand: bool) -> Result<Page, ChangesError> {
        let page = self.changes.changes(query).await?;
        let (mut through, mut bytes) = (page.through, 0);
        let mut rows: HashMap<(String, String), Document> = HashMap::new();
        let mut changes = Vec::with_capacity(page.lines.len());
        for line in page.lines {
            let change = ChangeView::from(line);
            let mut row = None;
            if expand {
                let key = (change.resource.clone(), change.subject_id.clone());
                let found = match rows.get(&key) {
                    Some(known) => known.clone(),
                    None => changes::row(&change, &*self.rows).await?,
                };
                bytes += found.as_str().len();
                rows.insert(key, found.clone());
                row = Some(found);
            }
            changes.push(ExpandedChange { change, row });
            if bytes >= ROW_BYTES_MAX {
                through = changes.last().map_or(through, |line| line.change.position);
                break;
            }
        }
        Ok(Page { changes, through, last: page.last, feed: page.generation })
    }

    /// Waits for a line after a position. Returns `false` if there was none within `timeout`.
    pub(crate) async fn wait(&self, after: Position, timeout: Duration) -> Result<bool, ChangesError> {
        let found = self.changes.wait_for_change(after, timeout).await.map_err(ChangesError::from);
        self.log(found.as_ref().err());
        if found? {
            tokio::time::sleep(COLLECT_FOR.min(timeout)).await;
            return Ok(true);
        }
        Ok(false)
    }

    /// Refuses a reader who would wait at the end of a feed that records nothing.
    pub(crate) async fn check_is_on(&self) -> Result<(), Problem> {
        let _permit = self.reads.acquire().await;
        let state = self.changes.feed().await.map_err(ChangesError::from);
        self.log(state.as_ref().err());
        if state?.is_on { Ok(()) } else { Err(Problem::feed_off()) }
    }
}
