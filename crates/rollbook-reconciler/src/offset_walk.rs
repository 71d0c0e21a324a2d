//! Walk over a list by offset. Each page overlaps the one before by one object: if that object is not there,
//! something before it was deleted meanwhile, and the walk steps back.
//!
//! Pages are requested ahead ([`ReadAhead`]) and taken in their order. The overlap proves as much about a page that
//! was read early as about any other: it shows everything that followed the last object at the time of its own
//! answer, and is compared at that time. One that does not overlap is read again before the walk steps back.
//!
//! The total alone ends no walk. A list ends where a page reaches its total exactly and the page behind is empty, or
//! where it goes on with objects that are newer than the run. Every object before the end
//! of a page was read, so the number of objects read is at least that position; if it is not, something was moved or
//! left out, and the walk begins again.

use std::collections::HashSet;

use rollbook_core::catalog::Resource;
use rollbook_core::source::{Page, Position, SourceError, Window};

use crate::context::Context;
use crate::error::ReconcileError;
use crate::page::PageWork;
use crate::progress::Slice;
use crate::read_ahead::{Places, ReadAhead};
use crate::readings::{Readings, created_at};
use crate::room::PageRoom;

/// Least number of objects of a page: it overlaps the one before by one.
const LIMIT_MIN: usize = 2;
/// Number of steps back, or pages without a new object, in a row after which the walk is given up.
const STEPS_MAX: u32 = 8;
/// Number of times that a page is read again before its contradiction counts: a copy of Clerk's database that is some
/// seconds behind needs time.
const REREADS_MAX: u32 = 4;
/// Number of times that a walk begins again because objects are missing between its pages.
const RESTARTS_MAX: u32 = 2;

/// Progress that a page made in the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The page had new objects, or ended the list.
    New,
    /// The page had no new object.
    Known,
    /// Objects between the page before and this one may be missing.
    Gap,
    /// More objects are before the end of this page than were read, or an object is there twice.
    Lost,
}

/// Steps without progress so far.
#[derive(Default)]
struct Patience {
    steps: u32,
    rereads: u32,
    restarts: u32,
}

impl Context {
    /// Reads every object of a resource by offset.
    pub(crate) async fn walk_offset(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        let table = resource.table;
        let known = self.update(table, |of| of.slices.first().cloned()).flatten();
        let mut slice = known.unwrap_or_else(|| Slice::new(Window::ALL));
        let limits = (LIMIT_MIN, self.settings.page_size);
        let room = PageRoom::new(self.settings.pages_under_way(), limits, self.settings.is_background);
        let mut ahead = ReadAhead::new(self, resource, &room);
        let mut patience = Patience::default();
        while !slice.is_done {
            self.check_stop()?;
            let early = ahead.take(slice.offset).await;
            let is_early = early.is_some();
            let (page, limit, space) = if let Some((page, limit, space)) = early {
                (page, limit, Some(space))
            } else {
                let read = self.read_offset(resource, slice.offset, &room, &mut ahead).await;
                if read.is_err() {
                    // An error of a later page is not one of the first: its position is saved before.
                    ahead.finish_writes().await?;
                }
                let (page, limit) = read?;
                (page, limit, None)
            };
            room.note(&page, limit);
            let places = [space, ahead.meanwhile(room.turn()).await];
            ahead.check()?;
            let step = self.take_offset_page(resource, &mut slice, (page, places), &mut ahead).await?;
            let is_back = matches!(step, Step::Gap | Step::Lost);
            if is_back {
                ahead.clear();
                ahead.finish_writes().await?;
            }
            self.follow(table, step, is_early, (&mut slice, &room), &mut patience).await?;
            if is_back || slice.is_done {
                self.update(table, |of| of.slices = vec![slice.clone()]);
            }
            ahead.meanwhile(self.save_sometimes()).await?;
        }
        Ok(())
    }

    /// Moves the walk after a page, or gives it up.
    async fn follow(
        &self,
        table: &'static str,
        step: Step,
        is_early: bool,
        (slice, room): (&mut Slice, &PageRoom),
        patience: &mut Patience,
    ) -> Result<(), ReconcileError> {
        let unreliable = |detail| ReconcileError::Contradiction { table, detail };
        match step {
            Step::New => (patience.steps, patience.rereads) = (0, 0),
            Step::Known => patience.steps += 1,
            // The page itself may be outdated: it is read again at the same offset.
            Step::Gap | Step::Lost if is_early => {}
            Step::Gap => {
                let step = room.limit() as u64 - 1;
                slice.offset = slice.offset.saturating_sub(step);
                patience.steps += 1;
            }
            Step::Lost if patience.rereads < REREADS_MAX => {
                patience.rereads += 1;
                // A stop is noticed before the next page.
                self.stop.run_until_cancelled(tokio::time::sleep(self.settings.reread_pause)).await;
            }
            Step::Lost if patience.restarts < RESTARTS_MAX => {
                *patience = Patience { restarts: patience.restarts + 1, ..Patience::default() };
                *slice = Slice::new(Window::ALL);
            }
            Step::Lost => return Err(unreliable("objects are missing between its pages")),
        }
        if patience.steps == STEPS_MAX {
            let is_blind = slice.is_blind;
            return Err(unreliable(if is_blind {
                "its objects can't be read: they have no id, another type, or are marked as deleted"
            } else {
                "its pages and its total do not agree"
            }));
        }
        Ok(())
    }

    /// Reads a page while others are under way. Returns it with the number of objects that it was asked for with: fewer if
    /// it was too large.
    async fn read_offset(
        &self,
        resource: &'static Resource,
        offset: u64,
        room: &PageRoom,
        ahead: &mut ReadAhead<'_>,
    ) -> Result<(Page, usize), ReconcileError> {
        loop {
            let request = room.request(Position::Offset(offset));
            let read = self.patiently("Clerk", || self.ports.source.page(resource, &request));
            match ahead.meanwhile(read).await {
                Err(ReconcileError::Source(SourceError::TooLarge(_))) if room.is_too_large(request.limit) => {
                    ahead.clear();
                }
                page => return Ok((page?, request.limit)),
            }
        }
    }

    /// Takes a page: decodes it, compares its position with the pages before, and begins to write it.
    async fn take_offset_page<'a>(
        &'a self,
        resource: &'static Resource,
        slice: &mut Slice,
        (page, places): (Page, Places<'a>),
        ahead: &mut ReadAhead<'a>,
    ) -> Result<Step, ReconcileError> {
        let (total, length) = (page.total, page.objects.len() as u64);
        let total = total
            .ok_or(ReconcileError::Contradiction { table: resource.table, detail: "a page has no total" })?;
        self.update(resource.table, |of| of.total = total);
        let end = slice.offset + length;
        let mut page = ahead.meanwhile(self.decode(resource, page)).await?;
        if page.has_twice {
            return Ok(Step::Lost);
        }
        if !follows(slice, &page) {
            return Ok(Step::Gap);
        }
        let (clock, is_newer) = (page.clock, page.begin_after(self.started_at_clerk()));
        let next = match page.last_at {
            Some(at) if at > 0 || length == 1 => Some(slice.offset + at),
            _ => None,
        };
        if slice.is_blind {
            // Nothing is known about the objects before: their window proves nothing.
            slice.last = None;
            slice.from = page.subjects.first().and_then(created_at).unwrap_or(slice.from);
        }
        retain_new(slice, &mut page);
        let (has_new, number) = (!page.subjects.is_empty(), page.subjects.len() as u64 + page.unreadable);
        if slice.seen + number < end {
            return Ok(Step::Lost);
        }
        if let Some(next) = next.filter(|_| end < total && !is_newer) {
            ahead.request(next, next - slice.offset, total);
        }
        let work = if page.is_empty() { None } else { Some(PageWork::take(resource, slice, page)?) };
        slice.seen += number;
        // Without an object that the next page can begin with, the walk goes on by position alone.
        let is_blind = next.is_none() && length > 0;
        let after = Slice { is_blind, offset: next.unwrap_or(end), ..slice.clone() };
        if let Some(work) = work {
            ahead.write(work, after.clone(), places);
        }
        if is_newer || end >= total && self.ends_at(resource, end, total, ahead).await? {
            ahead.finish_writes().await?;
            self.prove_rest(resource, slice, clock).await?;
            slice.is_done = true;
            return Ok(Step::New);
        }
        *slice = after;
        Ok(if has_new { Step::New } else { Step::Known })
    }

    /// Whether the list ends here, after a page with this end and total: the page behind is empty. Its total may be
    /// less, because something was deleted meanwhile.
    async fn ends_at(
        &self,
        resource: &'static Resource,
        end: u64,
        total: u64,
        ahead: &mut ReadAhead<'_>,
    ) -> Result<bool, ReconcileError> {
        if end == 0 {
            // An empty list with a total of zero may be a failure: it is asked for again, in another way.
            let count = || self.ports.source.count(resource, Window::ALL);
            return Ok(self.patiently("Clerk", count).await? == 0);
        }
        let room = ahead.room();
        let (rest, _) = self.read_offset(resource, end, room, ahead).await?;
        Ok(end == total && rest.objects.is_empty() && rest.total.is_some_and(|total| total <= end))
    }
}

/// Whether every object between those read before and the page was read: the page begins with an object that was
/// read, or was created before the last one. The last object elsewhere on the page proves nothing: it may have moved.
fn follows(slice: &Slice, page: &Readings) -> bool {
    if slice.offset == 0 || slice.is_blind {
        return true;
    }
    let (Some(last), Some(first)) = (&slice.last, page.subjects.first()) else { return false };
    last.ties.contains(&first.id)
        || created_at(first).zip(last.created_at).is_some_and(|(first, last)| first < last)
}

/// Leaves the objects that are not known to be read.
fn retain_new(slice: &Slice, page: &mut Readings) {
    let Some(last) = &slice.last else { return };
    let ties: HashSet<&str> = last.ties.iter().map(String::as_str).collect();
    page.subjects.retain(|subject| {
        let is_earlier = created_at(subject).zip(last.created_at).is_some_and(|(this, last)| this < last);
        !is_earlier && !ties.contains(subject.id.as_str())
    });
}
