//! Pages of a list that are requested before the walk reaches them, and those that are written behind it.
//!
//! A page ahead is a hint: it saves time if it fits, and is read again if it does not. A request that fails is not
//! an error here: the walk repeats it when it reaches the page.
//!
//! The walk takes one page after another, and does not wait until a page is written: a few are written at the same time. The
//! position that is saved is that of the last page before which all are written.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use rollbook_core::catalog::Resource;
use rollbook_core::source::{Page, PageRequest, Position};
use tokio::sync::SemaphorePermit;

use crate::context::Context;
use crate::error::ReconcileError;
use crate::page::PageWork;
use crate::progress::Slice;
use crate::room::PageRoom;

/// A page that arrived, with the number of objects that it was asked for with, and its room.
type Arrived<'a> = (Page, usize, SemaphorePermit<'a>);

/// Room of a page that is written: that of its text, if it was requested ahead, and its turn.
pub(crate) type Places<'a> = [Option<SemaphorePermit<'a>>; 2];

/// Pages of a list that are requested before the walk reaches them, or are written behind it. Dropping it cancels the
/// requests and the writes.
pub(crate) struct ReadAhead<'a> {
    context: &'a Context,
    resource: &'static Resource,
    room: &'a PageRoom,
    /// Offsets of the pages that are requested or have arrived, in ascending order.
    offsets: VecDeque<u64>,
    requests: FuturesUnordered<BoxFuture<'a, (u64, Option<Arrived<'a>>)>>,
    arrived: BTreeMap<u64, Arrived<'a>>,
    /// Pages that are written, in the order of the walk: the position after each.
    writes: FuturesOrdered<BoxFuture<'a, Result<Slice, ReconcileError>>>,
    /// First error of a write.
    failed: Option<ReconcileError>,
}

impl<'a> ReadAhead<'a> {
    pub(crate) fn new(context: &'a Context, resource: &'static Resource, room: &'a PageRoom) -> Self {
        let (offsets, requests, arrived) = (VecDeque::new(), FuturesUnordered::new(), BTreeMap::new());
        let writes = FuturesOrdered::new();
        Self { context, resource, room, offsets, requests, arrived, writes, failed: None }
    }

    pub(crate) const fn room(&self) -> &'a PageRoom {
        self.room
    }

    /// Requests the page at `next` and those after it, `step` apart, up to the end of the list. Pages that were
    /// requested for other offsets are dropped.
    pub(crate) fn request(&mut self, next: u64, step: u64, total: u64) {
        if self.offsets.front().is_some_and(|first| *first != next) {
            self.clear();
        }
        // The number of objects of a page may be smaller now than that of the page before.
        let step = step.min(self.room.limit() as u64 - 1);
        let mut offset = self.offsets.back().map_or(next, |last| last.saturating_add(step));
        // The page before reaches one object beyond this offset.
        while step > 0 && offset.saturating_add(1) < total {
            let Some(room) = self.room.try_reserve() else { return };
            self.offsets.push_back(offset);
            let request = self.room.request(Position::Offset(offset));
            self.requests.push(Box::pin(read(self.context, self.resource, offset, request, room)));
            offset = offset.saturating_add(step);
        }
    }

    /// Returns the page at this offset if it was requested, and answered.
    pub(crate) async fn take(&mut self, offset: u64) -> Option<Arrived<'a>> {
        while self.offsets.front() == Some(&offset) {
            if let Some(arrived) = self.arrived.remove(&offset) {
                self.offsets.pop_front();
                return Some(arrived);
            }
            if !self.step().await {
                break;
            }
        }
        None
    }

    /// Does other work of the walk while requests and writes are under way.
    pub(crate) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                true = self.step() => {}
            }
        }
    }

    /// Waits for the end of a request or of a write. Returns `false` if none is under way.
    async fn step(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(written) = self.writes.next() => self.note(written),
            Some((at, page)) = self.requests.next() => self.arrive(at, page),
            else => return false,
        }
        true
    }

    /// Begins to write a page. `after` is the position behind it.
    pub(crate) fn write(&mut self, work: PageWork, after: Slice, places: Places<'a>) {
        let (context, resource) = (self.context, self.resource);
        self.writes.push_back(Box::pin(async move {
            context.finish_page(resource, work).await?;
            drop(places);
            Ok(after)
        }));
    }

    /// Moves the position that is saved behind a page that is written.
    fn note(&mut self, written: Result<Slice, ReconcileError>) {
        match written {
            Ok(after) if self.failed.is_none() => {
                self.context.update(self.resource.table, |of| of.slices = vec![after]);
            }
            Ok(_) => {}
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
    }

    /// Returns the error of a page that could not be written.
    pub(crate) fn check(&mut self) -> Result<(), ReconcileError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Waits until all pages that were taken are written.
    pub(crate) async fn finish_writes(&mut self) -> Result<(), ReconcileError> {
        while let Some(written) = self.writes.next().await {
            self.note(written);
        }
        self.check()
    }

    fn arrive(&mut self, at: u64, page: Option<Arrived<'a>>) {
        match page {
            Some(page) => drop(self.arrived.insert(at, page)),
            None => self.offsets.retain(|offset| *offset != at),
        }
    }

    /// Drops every page ahead.
    pub(crate) fn clear(&mut self) {
        self.offsets.clear();
        self.requests.clear();
        self.arrived.clear();
    }
}

async fn read<'a>(
    context: &'a Context,
    resource: &'static Resource,
    offset: u64,
    request: PageRequest,
    room: SemaphorePermit<'a>,
) -> (u64, Option<Arrived<'a>>) {
    let page = context.ports.source.page(resource, &request).await;
    (offset, page.ok().map(|page| (page, request.limit, room)))
}
