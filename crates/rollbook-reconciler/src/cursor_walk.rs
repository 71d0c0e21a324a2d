//! Walk over the users: parts of the list by `created_at`, read in parallel, each by cursor.

use std::collections::HashSet;

use futures_util::future::try_join;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use rollbook_core::catalog::{Resource, USERS};
use rollbook_core::source::{Page, PageRequest, Position, SourceError, Window};
use rollbook_core::time::Timestamp;

use crate::context::Context;
use crate::error::ReconcileError;
use crate::page::PageWork;
use crate::parts;
use crate::progress::{Last, Slice};
use crate::readings::created_at;
use crate::room::PageRoom;

/// Number of empty pages after which a part is given up, although Clerk counts more users in it.
const EMPTY_MAX: u32 = 3;
/// Number of answers without a new user in a row after which a part is given up, without counting those that repeat the users
/// of one `created_at`.
const STEPS_MAX: u32 = 8;
/// Least number of objects of a page: Clerk cuts a page to ten where it refuses the limit.
const PAGE_MIN: usize = 10;

impl Context {
    /// Reads every user.
    pub(crate) async fn walk_users(&self) -> Result<(), ReconcileError> {
        let resource: &'static Resource = &USERS;
        let known = self.update(resource.table, |of| of.slices.clone()).unwrap_or_default();
        let room = &PageRoom::new(
            self.settings.pages_under_way(),
            (1, self.settings.page_size),
            self.settings.is_background,
        );
        let slices = if known.is_empty() { self.cut(room).await? } else { known };
        self.update(resource.table, |of| of.slices.clone_from(&slices));
        // All parts go on at the same pace, so that they end together. The room limits the pages in memory.
        stream::iter(slices.into_iter().enumerate().filter(|(_, slice)| !slice.is_done))
            .map(Ok)
            .try_for_each_concurrent(None, |(at, slice)| async move {
                self.walk_slice(resource, at, slice, room).await
            })
            .await
    }

    /// Cuts the list into parts of about equal size.
    async fn cut(&self, room: &PageRoom) -> Result<Vec<Slice>, ReconcileError> {
        let (total, first) = try_join(self.count(Window::ALL), self.first_created(room)).await?;
        self.update(USERS.table, |of| of.total = total);
        let Some((from, to)) = first else {
            return Ok(vec![Slice::new(Window::ALL)]);
        };
        // As many parts in the background as elsewhere: `rollbook reconcile` may go on with them.
        let number = self.settings.parallel.max(1) as u64;
        let enough = total.div_ceil(number).max(4 * self.settings.page_size as u64);
        let (whole, at_once) = ((Window { from, to }, total), self.settings.pages_under_way());
        let windows = parts::cut(whole, enough, at_once, |of| self.count(of).boxed()).await?;
        let mut slices: Vec<Slice> = windows.into_iter().map(Slice::new).collect();
        // The first and the last part are open, for users whom the count did not see.
        if let Some(first) = slices.first_mut() {
            first.from = Window::ALL.from.as_millis();
        }
        if let Some(last) = slices.last_mut() {
            last.to = Window::ALL.to.as_millis();
        }
        Ok(slices)
    }

    async fn count(&self, window: Window) -> Result<u64, ReconcileError> {
        self.patiently("Clerk", || self.ports.source.count(&USERS, window)).await
    }

    /// Returns the creation time of the first user, and Clerk's clock. `None` if there is no user.
    async fn first_created(&self, room: &PageRoom) -> Result<Option<(Timestamp, Timestamp)>, ReconcileError> {
        let position = Position::After { id: None, window: Window::ALL };
        let request = PageRequest { position, limit: 1, bytes_max: usize::MAX };
        let page = self.patiently("Clerk", || self.ports.source.page(&USERS, &request)).await?;
        room.note_first(&page);
        let page = self.decode(&USERS, page).await?;
        let first = page.subjects.first().and_then(created_at);
        Ok(first.map(|at| (Timestamp::from_millis(at), page.clock)))
    }

    async fn walk_slice(
        &self,
        resource: &'static Resource,
        number: usize,
        mut slice: Slice,
        room: &PageRoom,
    ) -> Result<(), ReconcileError> {
        let (mut idle, mut empty) = (0, 0);
        loop {
            self.check_stop()?;
            let position = Position::After { id: slice.cursor.clone(), window: slice.window() };
            let (space, seen) = (room.reserve().await, slice.seen);
            let request = room.request(position);
            let page = match self.patiently("Clerk", || self.ports.source.page(resource, &request)).await {
                // The user whom the cursor names may be deleted.
                Err(ReconcileError::Source(SourceError::Refused(_))) if slice.cursor.is_some() => None,
                Err(ReconcileError::Source(SourceError::TooLarge(_))) if room.is_too_large(request.limit) => {
                    continue;
                }
                page => Some(page?),
            };
            match page {
                None => drop_cursor(&mut slice),
                Some(page) if page.objects.is_empty() => {
                    empty += 1;
                    if self.ends_after(&slice, empty).await? {
                        self.prove_rest(resource, &slice, page.clock).await?;
                        slice.is_done = true;
                    } else {
                        drop_cursor(&mut slice);
                    }
                }
                Some(page) => {
                    room.note(&page, request.limit);
                    self.take_slice_page(resource, &mut slice, (page, request.limit), room).await?;
                }
            }
            drop(space);
            (idle, empty) = if slice.seen > seen { (0, 0) } else { (idle + 1, empty) };
            if !slice.is_done && idle > idle_max(&slice, request.limit) {
                let detail = "its pages show no new user or one twice, and do not end. Clerk may refuse or ignore starting_after";
                return Err(ReconcileError::Contradiction { table: resource.table, detail });
            }
            self.update(resource.table, |of| {
                if let Some(known) = of.slices.get_mut(number) {
                    known.clone_from(&slice);
                }
            });
            self.save_sometimes().await?;
            if slice.is_done {
                return Ok(());
            }
        }
    }

    /// Whether an empty page is the end of a part, the `empty`th one since the last new user. An empty page may be a
    /// failure: then the count of the rest says more. A count that is larger by the users of the last `created_at`, or
    /// by one, is explained by its bounds or by its age. Then the list decides, which was read again from its last
    /// users.
    async fn ends_after(&self, slice: &Slice, empty: u32) -> Result<bool, ReconcileError> {
        if slice.last.as_ref().is_some_and(|last| last.created_at.is_none()) {
            return Ok(true);
        }
        let rest = self.count(after(slice)).await?;
        let ties = slice.last.as_ref().map_or(0, |last| last.ties.len() as u64);
        let unreadable = self.update(USERS.table, |of| of.unreadable).unwrap_or_default();
        let is_explained = rest <= ties + unreadable + 1;
        if rest == 0 || is_explained && empty > 1 {
            return Ok(true);
        }
        if empty == EMPTY_MAX {
            let detail = "a page is empty, and the count names more users";
            return Err(ReconcileError::Contradiction { table: USERS.table, detail });
        }
        Ok(false)
    }

    /// Whether a short page was the last one of a part. A short page alone may be a failure; the count of the rest,
    /// with the objects created at the same time as the last one, must agree.
    async fn is_complete(&self, slice: &Slice) -> Result<bool, ReconcileError> {
        let Some(Last { created_at: Some(at), ties, .. }) = &slice.last else { return Ok(false) };
        let window = Window { from: Timestamp::from_millis(*at), ..slice.window() };
        Ok(self.count(window).await? == ties.len() as u64)
    }

    /// Takes a page, and finds out whether it is the last one. Without a cursor the page begins with objects that were
    /// read already, those created in the same millisecond as the last one.
    async fn take_slice_page(
        &self,
        resource: &'static Resource,
        slice: &mut Slice,
        (page, limit): (Page, usize),
        room: &PageRoom,
    ) -> Result<(), ReconcileError> {
        let (is_short, clock) = (page.objects.len() < limit, page.clock);
        let turn = room.turn().await;
        let mut page = self.decode(resource, page).await?;
        if page.has_twice {
            // In place of others, perhaps. It is read again, as an answer without a new user.
            self.stop.run_until_cancelled(tokio::time::sleep(self.settings.reread_pause)).await;
            return Ok(());
        }
        slice.is_done = page.begin_after(self.started_at_clerk());
        let Some(last) = page.subjects.last().map(|subject| subject.id.clone()) else {
            self.update(resource.table, |of| of.unreadable += page.unreadable);
            let detail = "a page has no object that can be read: each is without an id, of another type, or marked as deleted";
            return Err(ReconcileError::Contradiction { table: resource.table, detail });
        };
        // A set: an import may have given one `created_at` to a hundred thousand users.
        let known: HashSet<&str> =
            slice.last.iter().flat_map(|last| &last.ties).map(String::as_str).collect();
        page.subjects.retain(|subject| !known.contains(subject.id.as_str()));
        slice.seen += page.subjects.len() as u64;
        if !page.is_empty() {
            let work = PageWork::take(resource, slice, page)?;
            self.finish_page(resource, work).await?;
        }
        slice.cursor = Some(last);
        drop(turn);
        if is_short && !slice.is_done && self.is_complete(slice).await? {
            self.prove_rest(resource, slice, clock).await?;
            slice.is_done = true;
        }
        Ok(())
    }
}

/// Returns the number of answers without a new user in a row that a part may have.
fn idle_max(slice: &Slice, limit: usize) -> u32 {
    let ties = slice.last.as_ref().map_or(0, |last| last.ties.len());
    STEPS_MAX.saturating_add(u32::try_from(ties / limit.clamp(1, PAGE_MIN)).unwrap_or(u32::MAX))
}

/// Drops the cursor. The part then begins at the last object that was read: Clerk wants the same window for
/// all pages of one cursor.
fn drop_cursor(slice: &mut Slice) {
    slice.cursor = None;
    if let Some(at) = slice.last.as_ref().and_then(|last| last.created_at) {
        slice.from = at;
    }
}

/// Returns the window after the last object.
fn after(slice: &Slice) -> Window {
    let window = slice.window();
    match slice.last.as_ref().and_then(|last| last.created_at) {
        Some(at) => Window { from: Timestamp::from_millis(at.saturating_add(1)), ..window },
        None => window,
    }
}
