//! Clerk's API in memory: the objects of an instance, with the paging rules of the real one, and faults.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::source::{
    Fetched, Instance, LOOKUPS_MAX, Lookup, PAGE_MAX, Page, PageRequest, Position, Presence, RawObject,
    Source, SourceError, Window,
};
use rollbook_core::time::{Clock, Timestamp};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClerkFault {
    /// No answer: unreachable, 5xx, 429.
    Unavailable,
    /// An answer that cannot be read.
    Unreadable,
    /// The key is refused.
    Refused,
    /// A page without objects, and without an error.
    EmptyPage,
    /// A page of ten objects at most.
    TenObjects,
}

/// Called before each page is read, with the number of pages read so far.
pub type PageHook = Box<dyn FnMut(&mut Objects, u64) + Send>;

/// Objects of an instance, by table and id.
#[derive(Clone, Debug, Default)]
pub struct Objects(BTreeMap<&'static str, BTreeMap<String, Object>>);

/// Clerk's API in memory. Share it in an [`Arc`].
pub struct MemoryClerk {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    instance: String,
    objects: Objects,
    /// Faults of the next calls that read a page or objects, oldest first. `None` lets a call through.
    faults: VecDeque<Option<ClerkFault>>,
    hook: Option<PageHook>,
    pages: u64,
    fetches: u64,
}

impl Objects {
    /// Creates or replaces an object.
    ///
    /// # Panics
    /// Panics if the value is not an object with an id.
    pub fn put(&mut self, resource: &'static Resource, object: &Value) {
        let object = object.as_object().cloned().expect("an object");
        let id = id(&object).expect("an id").to_owned();
        self.0.entry(resource.table).or_default().insert(id, object);
    }

    /// Removes an object.
    pub fn remove(&mut self, resource: &'static Resource, id: &str) {
        self.0.entry(resource.table).or_default().remove(id);
    }

    /// Returns an object.
    pub fn get(&self, resource: &Resource, id: &str) -> Option<&Object> {
        self.0.get(resource.table)?.get(id)
    }

    /// Returns the objects of a resource in ascending order of `created_at` and id.
    pub fn list(&self, resource: &Resource) -> Vec<&Object> {
        let mut objects: Vec<&Object> =
            self.0.get(resource.table).into_iter().flat_map(BTreeMap::values).collect();
        objects.sort_by_key(|object| (number(object, "created_at"), id(object).map(str::to_owned)));
        objects
    }
}

impl MemoryClerk {
    /// Creates an instance without objects. The clock is Clerk's.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State {
            instance: "ins_1".to_owned(),
            objects: Objects::default(),
            faults: VecDeque::new(),
            hook: None,
            pages: 0,
            fetches: 0,
        };
        Self { clock, state: Mutex::new(state) }
    }

    /// Changes the objects.
    pub fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        change(&mut self.state().objects)
    }

    /// Sets the id of the instance.
    pub fn set_instance(&self, id: &str) {
        id.clone_into(&mut self.state().instance);
    }

    /// Lets the next calls fail, one fault for each; `None` lets a call through.
    pub fn fail(&self, faults: impl IntoIterator<Item = Option<ClerkFault>>) {
        self.state().faults.extend(faults);
    }

    /// Calls `hook` before each page.
    pub fn before_each_page(&self, hook: impl FnMut(&mut Objects, u64) + Send + 'static) {
        self.state().hook = Some(Box::new(hook));
    }

    /// Returns the number of pages and of point reads so far.
    pub fn calls(&self) -> (u64, u64) {
        let state = self.state();
        (state.pages, state.fetches)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clerk's clock, in whole seconds as in the `Date` header.
    fn date(&self) -> Timestamp {
        Timestamp::from_seconds(self.clock.now().as_millis() / 1000)
    }
}

impl State {
    fn fault(&mut self) -> Result<Option<ClerkFault>, SourceError> {
        match self.faults.pop_front().flatten() {
            Some(ClerkFault::Unavailable) => Err(SourceError::Unavailable("503".to_owned())),
            Some(ClerkFault::Unreadable) => Err(SourceError::Unreadable("HTML".to_owned())),
            Some(ClerkFault::Refused) => Err(SourceError::Refused("401 clerk_key_invalid".to_owned())),
            fault => Ok(fault),
        }
    }

    /// Begins a page: its fault decides its size.
    fn begin_page(&mut self, limit: usize) -> Result<usize, SourceError> {
        if let Some(mut hook) = self.hook.take() {
            hook(&mut self.objects, self.pages);
            self.hook = Some(hook);
        }
        self.pages += 1;
        Ok(match self.fault()? {
            Some(ClerkFault::EmptyPage) => 0,
            Some(ClerkFault::TenObjects) => limit.min(10),
            _ if limit > PAGE_MAX => 10,
            _ => limit,
        })
    }
}

#[async_trait]
impl Source for MemoryClerk {
    async fn instance(&self) -> Result<Instance, SourceError> {
        let mut state = self.state();
        // An outage and a refused key concern every request; a fault of pages does not.
        let concerns_all = [ClerkFault::Unavailable, ClerkFault::Unreadable, ClerkFault::Refused];
        if state.faults.front().copied().flatten().is_some_and(|fault| concerns_all.contains(&fault)) {
            state.fault()?;
        }
        let id = state.instance.clone();
        drop(state);
        Ok(Instance { id, environment: "development".to_owned(), clock: self.date() })
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        let state = self.state();
        let objects = state.objects.list(resource);
        Ok(objects.into_iter().filter(|object| is_in(object, window)).count() as u64)
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        // A real call waits for its answer; other tasks run meanwhile.
        tokio::task::yield_now().await;
        let mut state = self.state();
        let limit = state.begin_page(request.limit)?;
        let all = state.objects.list(resource);
        let total = all.len() as u64;
        let (objects, total) = match &request.position {
            Position::After { id: last, window } => {
                let listed: Vec<&Object> = all.into_iter().filter(|object| is_in(object, *window)).collect();
                let begin = match last {
                    None => 0,
                    Some(last) => {
                        let at = listed.iter().position(|object| id(object) == Some(last));
                        1 + at.ok_or_else(|| SourceError::Refused("422".to_owned()))?
                    }
                };
                (listed.into_iter().skip(begin).take(limit).map(raw).collect(), None)
            }
            Position::Offset(offset) => {
                let begin = usize::try_from(*offset).unwrap_or(usize::MAX);
                (all.into_iter().skip(begin).take(limit).map(raw).collect(), Some(total))
            }
        };
        Ok(Page { objects, total, clock: self.date() })
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        let mut state = self.state();
        let limit = state.begin_page(limit)?;
        let mut users = state.objects.list(&rollbook_core::catalog::USERS);
        users.sort_by_key(|object| std::cmp::Reverse(number(object, "updated_at")));
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let objects = users.into_iter().skip(begin).take(limit).map(raw).collect();
        Ok(Page { objects, total: None, clock: self.date() })
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        tokio::task::yield_now().await;
        assert!(lookups.len() <= LOOKUPS_MAX, "too many ids");
        let mut state = self.state();
        state.fetches += 1;
        state.fault()?;
        let read = |lookup: &Lookup| Fetched {
            presence: state
                .objects
                .get(resource, &lookup.id)
                .map_or(Presence::Absent, |object| Presence::Exists(object.clone().into())),
            clock: self.date(),
        };
        Ok(lookups.iter().map(read).collect())
    }
}

fn raw(object: &Object) -> RawObject {
    object.clone().into()
}

/// Returns the id of an object.
fn id(object: &Object) -> Option<&str> {
    object.get("id").and_then(Value::as_str)
}

fn number(object: &Object, key: &str) -> Option<i64> {
    object.get(key).and_then(Value::as_i64)
}

fn is_in(object: &Object, window: Window) -> bool {
    let created_at = number(object, "created_at").unwrap_or_default();
    (window.from.as_millis()..window.to.as_millis()).contains(&created_at)
}
