//! Lists by offset: their pages are requested before the walk reaches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::{ORGANIZATIONS, Resource};
use rollbook_core::source::{Fetched, Instance, Lookup, Page, PageRequest, Source, SourceError, Window};
use rollbook_core::store::RunState;
use rollbook_reconciler::{PAGES_AT_ONCE_IN_BACKGROUND, RunReport, RunRequest, Settings};
use rollbook_testkit::memory::clerk::{ClerkFault, MemoryClerk};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::world::{World, organization_id};

const LATENCY: Duration = Duration::from_millis(300);
const PARALLEL: usize = 8;

/// Clerk, with a latency before each page.
struct Slow {
    clerk: Arc<MemoryClerk>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

impl Slow {
    fn new(clerk: Arc<MemoryClerk>) -> Arc<Self> {
        Arc::new(Self { clerk, at_once: AtomicUsize::new(0), at_once_max: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Source for Slow {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.clerk.instance().await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        self.clerk.count(resource, window).await
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.at_once_max.fetch_max(at_once, Ordering::Relaxed);
        sleep(LATENCY).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        self.clerk.page(resource, request).await
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        self.clerk.recently_updated_users(offset, limit).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        self.clerk.fetch(resource, lookups).await
    }
}

/// 981 organizations: with pages of 50 objects, which overlap by one, twenty pages.
fn world() -> World {
    world_of(0, 981)
}

fn world_of(users: usize, organizations: usize) -> World {
    let mut world = World::new();
    world.settings = Settings { page_size: 50, parallel: PARALLEL, ..Settings::default() };
    world.populate(users, organizations, 0);
    world
}

async fn run(world: &World, source: Arc<dyn Source>) -> RunReport {
    let request = RunRequest { only: vec![&ORGANIZATIONS], ..RunRequest::default() };
    let (reconciler, stop) = (world.reconciler_of(source), CancellationToken::new());
    reconciler.run(&request, &stop, watch::Sender::default()).await.expect("a run")
}

/// Ids of organizations at Clerk that have no living row.
async fn missed(world: &World) -> Vec<String> {
    let ours = world.living(&ORGANIZATIONS).await;
    let theirs = world.clerk.change(|objects| {
        let ids = objects.list(&ORGANIZATIONS).into_iter().map(|object| object["id"].clone());
        ids.map(|id| id.as_str().expect("a text").to_owned()).collect::<Vec<String>>()
    });
    theirs.into_iter().filter(|id| !ours.contains(id)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_latency_of_each_answer_does_not_add_up_and_no_page_is_asked_for_twice() {
    let world = world();
    let source = Slow::new(world.clerk.clone());
    let begun = Instant::now();
    run(&world, source.clone()).await;
    // The first page alone, which names the total, then nineteen pages, eight at a time, and the end.
    assert!(begun.elapsed() <= LATENCY * 5, "{:?}", begun.elapsed());
    assert_eq!(source.at_once_max.load(Ordering::Relaxed), PARALLEL, "pages at once");
    assert_eq!(world.clerk.calls().0, 20 + 1, "with the empty page behind the last");
    assert_eq!(missed(&world).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_run_in_the_background_reads_few_pages_at_once() {
    for (users, organizations) in [(2_000, 0), (0, 981)] {
        let mut world = world_of(users, organizations);
        world.settings.parallel = 2 * PAGES_AT_ONCE_IN_BACKGROUND;
        let (source, request) = (Slow::new(world.clerk.clone()), RunRequest::default());
        let reconciler = world.reconciler_of(source.clone()).in_background();
        let (stop, watch) = (CancellationToken::new(), watch::Sender::default());
        reconciler.run(&request, &stop, watch).await.expect("a run");
        let most = source.at_once_max.load(Ordering::Relaxed);
        assert_eq!(most, PAGES_AT_ONCE_IN_BACKGROUND, "{users} users");
        world.assert_equal().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_ahead_that_no_longer_overlaps_is_read_again_and_nothing_is_missed() {
    for deleted_before in 2..20 {
        let world = world();
        // The first organization is deleted between two pages that are under way together.
        world.clerk.before_each_page(move |objects, page| {
            if page == deleted_before {
                objects.remove(&ORGANIZATIONS, &organization_id(0));
            }
        });
        let report = run(&world, Slow::new(world.clerk.clone())).await;
        assert_eq!(report.state, RunState::Complete);
        assert_eq!(missed(&world).await, Vec::<String>::new(), "deleted before page {deleted_before}");
        // Discarded at most: the pages under way, and the one to which the walk steps back. One is behind the end.
        let pages = world.clerk.calls().0;
        assert!(pages <= 20 + PARALLEL as u64 + 3, "{pages} pages, deleted before {deleted_before}");
    }
}

#[tokio::test(start_paused = true)]
async fn deletions_before_every_page_ahead_let_nothing_be_missed() {
    let world = world();
    world.clerk.before_each_page(|objects, page| {
        objects.remove(&ORGANIZATIONS, &organization_id(usize::try_from(page).expect("a small number")));
    });
    run(&world, Slow::new(world.clerk.clone())).await;
    assert_eq!(missed(&world).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_request_ahead_that_fails_is_repeated_when_the_walk_is_there() {
    for fault in [ClerkFault::Unavailable, ClerkFault::Unreadable, ClerkFault::Refused, ClerkFault::EmptyPage]
    {
        let world = world();
        world.clerk.fail([None, None, None, Some(fault)]);
        let begun = Instant::now();
        run(&world, Slow::new(world.clerk.clone())).await;
        assert_eq!(missed(&world).await, Vec::<String>::new(), "{fault:?}");
        // Without the pause after an outage: the request is not yet needed.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn pages_that_are_cut_to_ten_objects_are_requested_ahead_in_steps_of_nine() {
    let world = world();
    world.clerk.fail(std::iter::repeat_n(Some(ClerkFault::TenObjects), 10_000));
    let begun = Instant::now();
    run(&world, Slow::new(world.clerk.clone())).await;
    assert_eq!(missed(&world).await, Vec::<String>::new());
    let pages = 980_u32.div_ceil(9);
    assert!(begun.elapsed() < LATENCY * pages / 4, "{:?} for {pages} pages", begun.elapsed());
}
