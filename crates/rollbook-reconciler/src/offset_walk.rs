//! Walk over a list by offset. Each page overlaps the one before by one object: if that object is not there,
//! something before it was deleted meanwhile, and the walk steps back.
//!
//! Pages are requested ahead ([`ReadAhead`]) and taken in their order. The overlap proves as much about a page that
//! was read early as about any other: it shows everything that followed the last object at the time of its own
//! answer, and is compared at that time. One that does not overlap is read again before the walk steps back.

use rollbook_core::catalog::Resource;
use rollbook_core::change::SubjectChange;
use rollbook_core::source::{Page, PageRequest, Position, Window};

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::{Last, Slice};
use crate::read_ahead::ReadAhead;
use crate::readings::{Readings, created_at};
use crate::room::PageRoom;

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
    /// Reads every object of a resource by offset.
    pub(crate) async fn walk_offset(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        let table = resource.table;
        let known = self.update(table, |of| of.slices.first().cloned()).flatten();
        let mut slice = known.unwrap_or_else(|| Slice::new(Window::ALL));
        let room = PageRoom::new(self.settings.parallel);
        let mut ahead = ReadAhead::new(self, resource, &room);
        let mut steps = 0;
        while !slice.is_done {
            self.check_stop()?;
            let early = ahead.take(slice.offset).await;
            let (is_early, (page, _room)) = match early {
                Some((page, room)) => (true, (page, Some(room))),
                None => (false, (ahead.meanwhile(self.read_offset(resource, slice.offset)).await?, None)),
            };
            room.note(&page, 1);
            let has_progress = self.take_offset_page(resource, &mut slice, page, &mut ahead).await?;
            match (has_progress, is_early) {
                (Some(true), _) => steps = 0,
                // The page itself may be outdated: it is read again at the same offset.
                (None, true) => {}
                (None, false) => {
                    let step = (self.settings.page_size as u64).max(2) - 1;
                    slice.offset = slice.offset.saturating_sub(step);
                    steps += 1;
                }
                (Some(false), _) => steps += 1,
            }
            if has_progress.is_none() {
                ahead.clear();
            }
            if steps == STEPS_MAX {
                let detail = "its pages and its total do not agree";
                return Err(ReconcileError::Contradiction { table, detail });
            }
            self.update(table, |of| of.slices = vec![slice.clone()]);
            self.save_sometimes().await?;
        }
        Ok(())
    }

    async fn read_offset(&self, resource: &'static Resource, offset: u64) -> Result<Page, ReconcileError> {
        let request = PageRequest { position: Position::Offset(offset), limit: self.settings.page_size };
        self.patiently("Clerk", || self.ports.source.page(resource, &request)).await
    }

    /// Takes a page. Returns whether the walk made progress; `None` if the page does not follow the one before.
    async fn take_offset_page(
        &self,
        resource: &'static Resource,
        slice: &mut Slice,
        page: Page,
        ahead: &mut ReadAhead<'_>,
    ) -> Result<Option<bool>, ReconcileError> {
        let (total, length) = (page.total, page.objects.len() as u64);
        let total = total
            .ok_or(ReconcileError::Contradiction { table: resource.table, detail: "a page has no total" })?;
        self.update(resource.table, |of| of.total = total);
        let end = slice.offset + length;
        let mut page = ahead.meanwhile(Readings::of_page(resource, page)).await;
        let Relation::Follows(at) = relation(slice, &page.subjects) else { return Ok(None) };
        let is_last = end >= total || page.begin_after(self.started_at_clerk());
        if !is_last {
            ahead.request(end.saturating_sub(1), length.saturating_sub(1), total);
        }
        page.subjects.drain(..at);
        let is_known = |id: &str| slice.last.iter().any(|last| last.ties.iter().any(|tie| tie == id));
        page.subjects.retain(|subject| !is_known(&subject.id));
        let (has_new, clock) = (!page.is_empty(), page.clock);
        if has_new {
            ahead.meanwhile(self.take_page(resource, slice, page)).await?;
        }
        if is_last {
            self.prove_rest(resource, slice, clock).await?;
            slice.is_done = true;
            return Ok(Some(true));
        }
        slice.offset = end.saturating_sub(1);
        Ok(Some(has_new))
    }
}

/// Returns the relation of a page to the objects read before.
fn relation(slice: &Slice, page: &[SubjectChange]) -> Relation {
    let Some(last) = &slice.last else {
        return if slice.offset == 0 { Relation::Follows(0) } else { Relation::Gap };
    };
    if let Some(at) = page.iter().position(|subject| subject.id == last.id) {
        return Relation::Follows(at + 1);
    }
    let Last { created_at: Some(before), .. } = last else {
        return if slice.offset == 0 { Relation::Follows(0) } else { Relation::Gap };
    };
    // The last object itself was deleted. A page that begins before it leaves nothing out.
    let is_earlier = |subject: &SubjectChange| created_at(subject).is_some_and(|at| at < *before);
    if slice.offset == 0 || page.first().is_some_and(is_earlier) {
        let first_new = page.iter().position(|subject| created_at(subject).is_some_and(|at| at >= *before));
        return Relation::Follows(first_new.unwrap_or(page.len()));
    }
    Relation::Gap
}
