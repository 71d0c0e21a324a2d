//! Subscription items: differences are counted by id and status, and never repaired. Clerk's API shows them in
//! another shape than the webhooks, so a reading must not go through the same merge.

use std::collections::HashMap;

use rollbook_core::catalog::{Resource, SUBSCRIPTION_ITEMS};
use rollbook_core::drift::Drift;
use rollbook_core::event::id_of;
use rollbook_core::source::{PageRequest, Position, RawObject};
use serde_json::{Map, Value};

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::Slice;

impl Context {
    /// Reads every subscription item, and counts those that have no row or another status. The list is in
    /// descending order: what is created during the walk moves the others to larger offsets, so that an item
    /// may be read twice, and none is left out.
    pub(crate) async fn count_statuses(&self) -> Result<(), ReconcileError> {
        let resource: &'static Resource = &SUBSCRIPTION_ITEMS;
        let known = self.update(resource.table, |of| of.slices.first().cloned()).flatten();
        let mut offset = known.map_or(0, |slice| slice.offset);
        loop {
            self.check_stop()?;
            let request = PageRequest { position: Position::Offset(offset), limit: self.settings.page_size };
            let page = self.patiently("Clerk", || self.ports.source.page(resource, &request)).await?;
            self.clerk_says(page.clock);
            let objects: Vec<Map<String, Value>> = page.objects.iter().map(RawObject::decode).collect();
            let counts = self.compare_statuses(resource, &objects).await?;
            offset += page.objects.len() as u64;
            self.update(resource.table, |of| {
                of.total = page.total.unwrap_or_default();
                of.read += page.objects.len() as u64;
                of.slices = vec![Slice { offset, ..Slice::default() }];
                for (kind, number) in counts {
                    of.count(kind, number);
                }
            });
            self.save_sometimes().await?;
            if page.objects.is_empty() || page.total.is_some_and(|total| offset >= total) {
                return Ok(());
            }
        }
    }

    async fn compare_statuses(
        &self,
        resource: &'static Resource,
        objects: &[Map<String, Value>],
    ) -> Result<[(Drift, u64); 2], ReconcileError> {
        let ids: Vec<&str> = objects.iter().filter_map(id_of).collect();
        let rows = self.patiently("the store", || self.ports.records.contents(resource, &ids)).await?;
        let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
        let rows: HashMap<String, Map<String, Value>> =
            rows.into_iter().filter_map(|(id, data)| Some((id, parse(&data)?))).collect();
        let (mut missing, mut differing) = (0, 0);
        for object in objects {
            let Some(id) = id_of(object) else { continue };
            match rows.get(id) {
                None => missing += 1,
                Some(row) if is_behind(row, object) => differing += 1,
                Some(_) => {}
            }
        }
        Ok([(Drift::Missing, missing), (Drift::Undated, differing)])
    }
}

/// Whether the row shows another status, and no later state than the page.
fn is_behind(row: &Map<String, Value>, object: &Map<String, Value>) -> bool {
    let updated_at = |of: &Map<String, Value>| of.get("updated_at").and_then(Value::as_i64);
    let is_newer = updated_at(row).zip(updated_at(object)).is_some_and(|(row, page)| row > page);
    row.get("status") != object.get("status") && !is_newer
}
