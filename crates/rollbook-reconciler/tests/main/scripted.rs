//! Clerk's API in memory, with a script that runs before each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt as _};
use rollbook_core::catalog::Resource;
use rollbook_core::source::{
    Fetched, Instance, Lookup, Page, PageRequest, Presence, Source, SourceError, Window,
};
use rollbook_testkit::memory::clerk::MemoryClerk;

/// A request that the script sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Page(&'static Resource),
    Fetch(&'static Resource),
}

type Script = Box<dyn Fn(Request) -> BoxFuture<'static, Result<(), SourceError>> + Send + Sync>;

pub(super) struct Scripted {
    /// Answers lists and counts.
    lists: Arc<MemoryClerk>,
    /// Answers point reads.
    points: Arc<MemoryClerk>,
    script: Script,
    /// Whether point reads prove nothing.
    proves_nothing: AtomicBool,
}

impl Scripted {
    pub(super) fn new(
        clerk: &Arc<MemoryClerk>,
        script: impl Fn(Request) -> BoxFuture<'static, Result<(), SourceError>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            lists: clerk.clone(),
            points: clerk.clone(),
            script: Box::new(script),
            proves_nothing: AtomicBool::default(),
        })
    }

    /// Lists that do not show what point reads find.
    pub(super) fn with_lists_of(lists: &Arc<MemoryClerk>, points: &Arc<MemoryClerk>) -> Arc<Self> {
        let script: Script = Box::new(|_| async { Ok(()) }.boxed());
        Arc::new(Self {
            lists: lists.clone(),
            points: points.clone(),
            script,
            proves_nothing: AtomicBool::default(),
        })
    }

    /// Answers to point reads prove nothing from now on, or something again.
    pub(super) fn prove_nothing(&self, yes: bool) {
        self.proves_nothing.store(yes, Ordering::Relaxed);
    }
}

#[async_trait]
impl Source for Scripted {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.lists.instance().await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        self.lists.count(resource, window).await
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        (self.script)(Request::Page(resource)).await?;
        self.lists.page(resource, request).await
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        self.lists.recently_updated_users(offset, limit).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        (self.script)(Request::Fetch(resource)).await?;
        let mut fetched = self.points.fetch(resource, lookups).await?;
        if self.proves_nothing.load(Ordering::Relaxed) {
            for one in &mut fetched {
                one.presence = Presence::Unknown("two answers contradict each other");
            }
        }
        Ok(fetched)
    }
}
