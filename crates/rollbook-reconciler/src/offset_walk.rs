//! Walk over a list by offset. Each page overlaps the one before by one object: if that object is not there,
//! something before it was deleted meanwhile, and the walk steps back.

use rollbook_core::catalog::Resource;
use rollbook_core::event::id_of;
use rollbook_core::source::{Page, PageRequest, Position, SourceError, Window};
use serde_json::{Map, Value};
use tracing::info;

use crate::compare::Objects;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::page::{begins_after, created_at};
use crate::progress::{Last, Slice};

/// Number of steps back, or pages without progress, in a row after which the walk is given up.
const STEPS_MAX: u32 = 8;

/// Relation of a page to the objects read before.
enum Relation {
    /// Every object after the ones read before is in the list behind this position.
    Follows(usize),
    /// Objects between the page before and this one may be missing.
    Gap,
}

impl Context {
    /// Reads every object of a resource by offset. Returns `false` if the instance does not have the feature, as the
    /// first page of the list says. The same answer later contradicts the pages before it, and is an error.
    pub(crate) async fn walk_offset(&self, resource: &'static Resource) -> Result<bool, ReconcileError> {
        let table = resource.table;
        let known = self.update(table, |of| of.slices.first().cloned()).flatten();
        let mut slice = known.unwrap_or_else(|| Slice::new(Window::ALL));
        let mut steps = 0;
        while !slice.is_done {
            self.check_stop()?;
            let request =
                PageRequest { position: Position::Offset(slice.offset), limit: self.settings.page_size };
            let page = match self.patiently("Clerk", || self.ports.source.page(resource, &request)).await {
                Err(ReconcileError::Source(error @ SourceError::NotEnabled(_))) if slice.last.is_none() => {
                    info!(table, %error, "reconciliation: nothing to read");
                    return Ok(false);
                }
                page => page?,
            };
            if self.take_offset_page(resource, &mut slice, page).await? {
                steps = 0;
            } else {
                steps += 1;
            }
            if steps == STEPS_MAX {
                let detail = "its pages and its total do not agree";
                return Err(ReconcileError::Contradiction { table, detail });
            }
            self.update(table, |of| of.slices = vec![slice.clone()]);
            self.save_sometimes().await?;
        }
        Ok(true)
    }

    /// Takes a page. Returns whether the walk made progress.
    async fn take_offset_page(
        &self,
        resource: &'static Resource,
        slice: &mut Slice,
        page: Page,
    ) -> Result<bool, ReconcileError> {
        let Page { mut objects, total, clock } = page;
        let total = total
            .ok_or(ReconcileError::Contradiction { table: resource.table, detail: "a page has no total" })?;
        self.update(resource.table, |of| of.total = total);
        let end = slice.offset + objects.len() as u64;
        let Relation::Follows(at) = relation(slice, &objects) else {
            slice.offset = slice.offset.saturating_sub((self.settings.page_size as u64).max(2) - 1);
            return Ok(false);
        };
        let is_late = begins_after(&objects, self.started_at_clerk());
        objects.drain(..at);
        let is_known = |id: &str| slice.last.iter().any(|last| last.ties.iter().any(|tie| tie == id));
        objects.retain(|object| !id_of(object).is_some_and(is_known));
        let has_new = !objects.is_empty();
        if has_new {
            self.take_page(resource, slice, Objects { objects, clock }).await?;
        }
        if end >= total || is_late {
            self.prove_rest(resource, slice, clock).await?;
            slice.is_done = true;
            return Ok(true);
        }
        slice.offset = end.saturating_sub(1);
        Ok(has_new)
    }
}

/// Returns the relation of a page to the objects read before.
fn relation(slice: &Slice, objects: &[Map<String, Value>]) -> Relation {
    let Some(last) = &slice.last else {
        return if slice.offset == 0 { Relation::Follows(0) } else { Relation::Gap };
    };
    if let Some(at) = objects.iter().position(|object| id_of(object) == Some(last.id.as_str())) {
        return Relation::Follows(at + 1);
    }
    let Last { created_at: Some(before), .. } = last else {
        return if slice.offset == 0 { Relation::Follows(0) } else { Relation::Gap };
    };
    // The last object itself was deleted. A page that begins before it leaves nothing out.
    let is_earlier = |object: &Map<String, Value>| created_at(object).is_some_and(|at| at < *before);
    if slice.offset == 0 || objects.first().is_some_and(is_earlier) {
        let first_new = objects.iter().position(|object| created_at(object).is_some_and(|at| at >= *before));
        return Relation::Follows(first_new.unwrap_or(objects.len()));
    }
    Relation::Gap
}
