//! Clerk's API with answers that are wrong on purpose.

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::source::{Fetched, Instance, Lookup, Page, PageRequest, Source, SourceError, Window};
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{ReconcileError, RunReport, RunRequest};
use rollbook_testkit::memory::clerk::MemoryClerk;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::world::World;

pub(super) type Answer = Result<Page, SourceError>;
type OnPage = Box<dyn Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer + Send + Sync>;
type OnCount = Box<dyn Fn(Window, u64) -> u64 + Send + Sync>;
type OnDate = Box<dyn Fn(Timestamp) -> Timestamp + Send + Sync>;

/// Clerk, of which some answers are replaced.
pub(super) struct Lying {
    clerk: Arc<MemoryClerk>,
    on_page: OnPage,
    on_count: OnCount,
    on_date: OnDate,
}

impl Lying {
    pub(super) fn new(world: &World) -> Self {
        Self {
            clerk: world.clerk.clone(),
            on_page: Box::new(|_, _, _, answer| answer),
            on_count: Box::new(|_, count| count),
            on_date: Box::new(|date| date),
        }
    }

    /// Replaces pages.
    pub(super) fn pages(
        mut self,
        on_page: impl Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.on_page = Box::new(on_page);
        self
    }

    /// Replaces counts.
    pub(super) fn counts(mut self, on_count: impl Fn(Window, u64) -> u64 + Send + Sync + 'static) -> Self {
        self.on_count = Box::new(on_count);
        self
    }

    /// Replaces the times of answers.
    pub(super) fn dates(mut self, on_date: impl Fn(Timestamp) -> Timestamp + Send + Sync + 'static) -> Self {
        self.on_date = Box::new(on_date);
        self
    }

    /// Runs over some resources; over all if none is named.
    pub(super) async fn run(
        self,
        world: &World,
        only: &[&'static Resource],
    ) -> Result<RunReport, ReconcileError> {
        let request = RunRequest { only: only.to_vec(), ..RunRequest::default() };
        let (reconciler, stop) = (world.reconciler_of(Arc::new(self)), CancellationToken::new());
        reconciler.run(&request, &stop, watch::Sender::default()).await
    }
}

#[async_trait]
impl Source for Lying {
    async fn instance(&self) -> Result<Instance, SourceError> {
        let instance = self.clerk.instance().await?;
        Ok(Instance { clock: (self.on_date)(instance.clock), ..instance })
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        Ok((self.on_count)(window, self.clerk.count(resource, window).await?))
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        let answer = self.clerk.page(resource, request).await;
        let page = (self.on_page)(&self.clerk, resource, request, answer)?;
        Ok(Page { clock: (self.on_date)(page.clock), ..page })
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        let page = self.clerk.recently_updated_users(offset, limit).await?;
        Ok(Page { clock: (self.on_date)(page.clock), ..page })
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        let fetched = self.clerk.fetch(resource, lookups).await?;
        Ok(fetched.into_iter().map(|of| Fetched { clock: (self.on_date)(of.clock), ..of }).collect())
    }
}
