//! Pages of a list that are requested before the walk reaches them.
//!
//! A page ahead is a hint: it saves time if it fits, and is read again if it does not. A request that fails is not
//! an error here: the walk repeats it when it reaches the page.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rollbook_core::catalog::Resource;
use rollbook_core::source::{Page, PageRequest, Position};
use tokio::sync::SemaphorePermit;

use crate::context::Context;
use crate::room::PageRoom;

/// A page that arrived, with the number of objects that it was asked for with, and its room.
type Arrived<'a> = (Page, usize, SemaphorePermit<'a>);

/// Pages of a list that are requested before the walk reaches them. Dropping it cancels the requests.
pub(crate) struct ReadAhead<'a> {
    context: &'a Context,
    resource: &'static Resource,
    room: &'a PageRoom,
    /// Offsets of the pages that are requested or have arrived, in ascending order.
    offsets: VecDeque<u64>,
    requests: FuturesUnordered<BoxFuture<'a, (u64, Option<Arrived<'a>>)>>,
    arrived: BTreeMap<u64, Arrived<'a>>,
}

impl<'a> ReadAhead<'a> {
    pub(crate) fn new(context: &'a Context, resource: &'static Resource, room: &'a PageRoom) -> Self {
        let (offsets, requests, arrived) = (VecDeque::new(), FuturesUnordered::new(), BTreeMap::new());
        Self { context, resource, room, offsets, requests, arrived }
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
            let (at, page) = self.requests.next().await?;
            self.arrive(at, page);
        }
        None
    }

    /// Does other work of the walk while requests are under way.
    pub(crate) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some((at, page)) = self.requests.next() => self.arrive(at, page),
            }
        }
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
