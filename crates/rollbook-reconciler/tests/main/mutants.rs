//! Wrong rules on purpose: each must be found by the property or by a count.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rollbook_core::catalog::{ORGANIZATIONS, Resource};
use rollbook_core::source::{
    Fetched, Instance, Lookup, Page, PageRequest, Position, Presence, RawObject, Source, SourceError, Window,
};
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::{Map, Value, json};

use super::interleavings::{Driver, check, clock, play};
use super::world::{World, at, organization_id, user_id, user_object};

/// A wrong rule, in the form of a source that makes the reconciler behave as if it had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// Objects that a page lacks count as absent: no point read contradicts.
    DeletesOnAbsence,
    /// An empty page is the end of the list: no count contradicts.
    TrustsEmptyPages,
    /// The walk steps by whole pages: the object that must overlap is made up.
    StepsWithoutOverlap,
    /// Counts that change without an event are compared.
    ComparesVolatileKeys,
}

struct Wrong {
    mutant: Mutant,
    driver: Arc<Driver>,
    /// Last object that a page by offset showed.
    last: Mutex<Option<RawObject>>,
    pages: Mutex<u64>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Source for Wrong {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.driver.world.clerk.instance().await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        if self.mutant == Mutant::TrustsEmptyPages {
            Ok(0)
        } else {
            self.driver.world.clerk.count(resource, window).await
        }
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        let number = {
            let mut pages = lock(&self.pages);
            *pages += 1;
            *pages
        };
        let clerk = &self.driver.world.clerk;
        match (self.mutant, &request.position) {
            (Mutant::TrustsEmptyPages, _) if number.is_multiple_of(3) => {
                let page = clerk.page(resource, request).await?;
                Ok(Page { objects: Vec::new(), total: page.total.map(|_| 0), ..page })
            }
            (Mutant::DeletesOnAbsence, _) if number.is_multiple_of(3) => {
                // A page that leaves one object out.
                let mut page = clerk.page(resource, request).await?;
                if page.objects.len() > 1 {
                    page.objects.remove(0);
                }
                Ok(page)
            }
            (Mutant::StepsWithoutOverlap, Position::Offset(offset)) if *offset > 0 => {
                let request = PageRequest {
                    position: Position::Offset(offset + 1),
                    limit: request.limit - 1,
                    ..*request
                };
                // Meanwhile the first object of the list is deleted, once.
                clerk.change(|objects| {
                    let first = objects
                        .list(resource)
                        .first()
                        .and_then(|object| Some(object.get("id")?.as_str()?.to_owned()));
                    if let Some(first) = first.filter(|id| *id == organization_id(0)) {
                        objects.remove(resource, &first);
                    }
                });
                let mut page = clerk.page(resource, &request).await?;
                page.objects.splice(0..0, lock(&self.last).clone());
                lock(&self.last).clone_from(&page.objects.last().cloned());
                Ok(page)
            }
            (Mutant::ComparesVolatileKeys, _) => {
                let mut page = clerk.page(resource, request).await?;
                for raw in &mut page.objects {
                    let mut object: Map<String, Value> =
                        serde_json::from_str(raw.decode().as_str()).expect("an object");
                    object.insert("has_image".to_owned(), json!(format!("counted {number}")));
                    *raw = object.into();
                }
                Ok(page)
            }
            _ => {
                let page = clerk.page(resource, request).await?;
                lock(&self.last).clone_from(&page.objects.last().cloned());
                Ok(page)
            }
        }
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        self.driver.world.clerk.recently_updated_users(offset, limit).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        let fetched = self.driver.world.clerk.fetch(resource, lookups).await?;
        let trusts = matches!(self.mutant, Mutant::DeletesOnAbsence | Mutant::TrustsEmptyPages);
        Ok(fetched
            .into_iter()
            .map(|one| if trusts { Fetched { presence: Presence::Absent, ..one } } else { one })
            .collect())
    }
}

fn wrong(mutant: Mutant, driver: Arc<Driver>) -> Arc<dyn Source> {
    Arc::new(Wrong { mutant, driver, last: Mutex::default(), pages: Mutex::default() })
}

#[test]
fn the_property_finds_each_wrong_rule() {
    for mutant in [Mutant::DeletesOnAbsence, Mutant::TrustsEmptyPages, Mutant::ComparesVolatileKeys] {
        let result = check(200, |history| async move {
            let clock = clock();
            let driver = Arc::new(Driver::new(Arc::new(MemoryStore::new(clock.clone())), clock));
            play(driver.clone(), wrong(mutant, driver), &history).await
        });
        assert!(result.is_err(), "{mutant:?} is not found");
    }
}

/// Reads organizations of which some are deleted during the walk. Returns those that were missed.
async fn missed(source: impl FnOnce(Arc<Driver>) -> Arc<dyn Source>) -> Vec<String> {
    let clock = clock();
    let driver = Arc::new(Driver::new(Arc::new(MemoryStore::new(clock.clone())), clock));
    driver.world.populate(0, 400, 0);
    let reconciler = driver.world.reconciler_of(source(driver.clone()));
    let stop = tokio_util::sync::CancellationToken::new();
    drop(reconciler.run(&<_>::default(), &stop, tokio::sync::watch::Sender::default()).await);
    let ours = driver.world.living(&ORGANIZATIONS).await;
    let theirs = driver.world.clerk.change(|objects| {
        objects
            .list(&ORGANIZATIONS)
            .iter()
            .filter_map(|object| Some(object.get("id")?.as_str()?.to_owned()))
            .collect::<Vec<_>>()
    });
    theirs.into_iter().filter(|id| !ours.contains(id)).collect()
}

#[tokio::test]
async fn a_walk_without_overlap_misses_objects_and_the_real_one_does_not() {
    let without = missed(|driver| wrong(Mutant::StepsWithoutOverlap, driver)).await;
    assert_ne!(without, Vec::<String>::new(), "the wrong rule is not found");
    let with = missed(|driver| {
        driver.world.clerk.before_each_page(|objects, page| {
            if page > 0 {
                objects.remove(&ORGANIZATIONS, &organization_id(usize::try_from(page).expect("small") - 1));
            }
        });
        driver.world.clerk.clone()
    })
    .await;
    assert_eq!(with, Vec::<String>::new());
}

#[tokio::test]
async fn a_page_size_above_five_hundred_costs_fifty_times_the_requests_so_it_is_never_asked_for() {
    let pages = |page_size| async move {
        let mut world = World::new();
        world.settings.page_size = page_size;
        world.clerk.change(|objects| {
            for number in 0..900 {
                let mut user = user_object(number);
                user["id"] = json!(user_id(number));
                user["created_at"] = json!(at(number));
                objects.put(&rollbook_core::catalog::USERS, &user);
            }
        });
        world.run().await.expect("a run");
        world.assert_equal().await;
        world.clerk.calls().0
    };
    let (at_limit, above) = (pages(500).await, pages(501).await);
    assert_eq!(above, at_limit, "the size is cut to the limit");
}
