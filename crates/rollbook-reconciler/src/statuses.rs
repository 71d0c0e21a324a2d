//! Subscription items: differences are counted by id and status, and never repaired. Clerk's API shows them in
//! another shape than the webhooks, so a reading must not go through the same merge.

use std::collections::{HashMap, HashSet};

use rollbook_core::catalog::{Resource, SUBSCRIPTION_ITEMS};
use rollbook_core::drift::Drift;
use rollbook_core::event::{id_of, is_of};
use rollbook_core::json::{Document, Json};
use rollbook_core::source::{Position, RawObject, SourceError};

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::Slice;
use crate::room::PageRoom;

/// Number of pages in a row without a new item after which the list is given up.
const IDLE_MAX: u32 = 8;
/// Number of items by which a list may outgrow its first total while it is read, in addition to as many again.
const GROWTH_MAX: u64 = 1_000;

impl Context {
    /// Reads every subscription item, and counts those that have no row or another status. The list is in
    /// descending order: what is created during the walk moves the others to larger offsets, so that an item
    /// may be read twice, and none is left out. A list that does not end is given up.
    pub(crate) async fn count_statuses(&self) -> Result<(), ReconcileError> {
        let resource: &'static Resource = &SUBSCRIPTION_ITEMS;
        let unreliable = |detail| ReconcileError::Contradiction { table: resource.table, detail };
        let known = self.update(resource.table, |of| of.slices.first().cloned()).flatten();
        let mut offset = known.map_or(0, |slice| slice.offset);
        let room = PageRoom::new(1, (1, self.settings.page_size), self.settings.is_background);
        let (mut before, mut idle, mut end) = (HashSet::new(), 0, None::<u64>);
        loop {
            self.check_stop()?;
            let request = room.request(Position::Offset(offset));
            let page = match self.patiently("Clerk", || self.ports.source.page(resource, &request)).await {
                Err(ReconcileError::Source(SourceError::TooLarge(_))) if room.is_too_large(request.limit) => {
                    continue;
                }
                page => page?,
            };
            self.clerk_says(page.clock);
            room.note(&page, request.limit);
            let total = page.total.ok_or(unreliable("a page has no total"))?;
            let end = *end.get_or_insert(total.saturating_mul(2).saturating_add(GROWTH_MAX));
            let length = page.objects.len() as u64;
            let items = page.objects.iter().map(RawObject::decode).filter_map(|of| Item::read(resource, &of));
            let items: Vec<Item> = items.collect();
            let ids: HashSet<String> = items.iter().map(|item| item.id.clone()).collect();
            let unreadable = length.saturating_sub(items.len() as u64);
            idle = if ids.is_subset(&before) { idle + 1 } else { 0 };
            before = ids;
            let counts = self.compare_statuses(resource, &items).await?;
            offset += length;
            self.update(resource.table, |of| {
                of.total = total;
                of.read += length;
                of.unreadable += unreadable;
                of.slices = vec![Slice { offset, ..Slice::default() }];
                for (kind, number) in counts {
                    of.count(kind, number);
                }
            });
            self.save_sometimes().await?;
            if length == 0 || offset >= total {
                return Ok(());
            }
            if idle >= IDLE_MAX || offset > end {
                return Err(unreliable("its pages do not end, or show no new item"));
            }
        }
    }

    async fn compare_statuses(
        &self,
        resource: &'static Resource,
        items: &[Item],
    ) -> Result<[(Drift, u64); 2], ReconcileError> {
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        let rows = self.patiently("the store", || self.ports.records.contents(resource, &ids)).await?;
        let read = |data: &str| Some(State::of(Document::read(data.as_bytes()).ok()?.value()));
        let rows: HashMap<String, State> =
            rows.into_iter().filter_map(|(id, data)| Some((id, read(&data)?))).collect();
        let (mut missing, mut differing) = (0, 0);
        for item in items {
            match rows.get(&item.id) {
                None => missing += 1,
                Some(row) if row.is_behind(&item.state) => differing += 1,
                Some(_) => {}
            }
        }
        Ok([(Drift::Missing, missing), (Drift::Undated, differing)])
    }
}

/// Subscription item of a page.
struct Item {
    id: String,
    state: State,
}

impl Item {
    /// Reads a living item. `None` if the object is another one, or has no usable id.
    fn read(resource: &Resource, object: &Document) -> Option<Self> {
        let object = Some(object.value()).filter(|object| is_of(resource, *object))?;
        Some(Self { id: id_of(object)?.into_owned(), state: State::of(object) })
    }
}

/// State of an item, at Clerk or in its row.
struct State {
    updated_at: Option<i64>,
    /// JSON text of the status.
    status: Option<String>,
}

impl State {
    fn of(item: Json<'_>) -> Self {
        Self {
            updated_at: item.get("updated_at").and_then(Json::as_integer),
            status: item.get("status").map(|status| status.as_json().to_owned()),
        }
    }

    /// Whether a row shows another status than a page, and no later state.
    fn is_behind(&self, page: &Self) -> bool {
        let is_newer = self.updated_at.zip(page.updated_at).is_some_and(|(row, page)| row > page);
        self.status != page.status && !is_newer
    }
}
