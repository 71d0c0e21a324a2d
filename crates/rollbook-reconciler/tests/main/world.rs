//! An instance of Clerk, a store, and a reconciler between them.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, USERS};
use rollbook_core::source::{RECONCILED, Source};
use rollbook_core::store::{FullStore, RowView};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_reconciler::{Ports, ReconcileError, Reconciler, Resume, RunReport, RunRequest, Settings};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, event, membership, organization, user};
use rollbook_testkit::memory::clerk::MemoryClerk;
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// More than the rows of any test.
const ROWS_MAX: usize = 100_000;

pub(super) struct World {
    pub(super) clerk: Arc<MemoryClerk>,
    pub(super) store: Arc<dyn FullStore>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) settings: Settings,
}

/// A clock that is ahead of another one, or behind.
struct Ahead {
    clock: Arc<ManualClock>,
    seconds: i64,
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now().as_millis() + self.seconds * 1_000)
    }
}

impl World {
    /// Starts a world with Clerk's clock ahead of ours by this many seconds, or behind.
    pub(super) fn with_clerk_ahead(seconds: i64) -> Self {
        let mut world = Self::new();
        world.clerk = Arc::new(MemoryClerk::new(Arc::new(Ahead { clock: world.clock.clone(), seconds })));
        world
    }

    /// An empty instance and an empty store in memory, a day after [`START`].
    pub(super) fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START + 86_400_000)));
        let store: Arc<dyn FullStore> = Arc::new(MemoryStore::new(clock.clone()));
        Self::over(store, clock)
    }

    pub(super) fn over(store: Arc<dyn FullStore>, clock: Arc<ManualClock>) -> Self {
        let clerk = Arc::new(MemoryClerk::new(clock.clone()));
        let settings =
            Settings { page_size: 50, parallel: 3, reread_pause: Duration::ZERO, ..Settings::default() };
        Self { clerk, store, clock, settings }
    }

    pub(super) fn reconciler(&self) -> Reconciler {
        self.reconciler_of(self.clerk.clone())
    }

    pub(super) fn reconciler_of(&self, source: Arc<dyn Source>) -> Reconciler {
        let ports = Ports {
            source,
            store: self.store.clone(),
            rows: self.store.clone(),
            records: self.store.clone(),
            clock: self.clock.clone(),
        };
        Reconciler::new(ports, self.settings.clone())
    }

    pub(super) async fn run(&self) -> Result<RunReport, ReconcileError> {
        self.run_as(&RunRequest::default()).await
    }

    pub(super) async fn run_from(
        &self,
        source: Arc<dyn Source>,
        stop: &CancellationToken,
    ) -> Result<RunReport, ReconcileError> {
        let reconciler = self.reconciler_of(source);
        reconciler.run(&RunRequest::default(), stop, watch::Sender::default()).await
    }

    pub(super) async fn resume(&self) -> Result<RunReport, ReconcileError> {
        self.run_as(&RunRequest { resume: Resume::Required, ..RunRequest::default() }).await
    }

    pub(super) async fn run_as(&self, request: &RunRequest) -> Result<RunReport, ReconcileError> {
        self.reconciler().run(request, &CancellationToken::new(), watch::Sender::default()).await
    }

    /// Users, organizations and memberships at Clerk, of which the store knows nothing. Numbers in the ids
    /// have four digits, so that the order of ids is the order of creation.
    pub(super) fn populate(&self, users: usize, organizations: usize, memberships: usize) {
        self.clerk.change(|objects| {
            for number in 0..users {
                objects.put(&USERS, &user_object(number));
            }
            for number in 0..organizations {
                objects.put(&ORGANIZATIONS, &organization(&organization_id(number), at(number)));
            }
            for number in 0..memberships {
                let (organization, user) = (organization_id(number % organizations), user_id(number % users));
                let mut object = membership(&format!("orgmem_{number:04}"), &organization, &user, at(number));
                object["created_at"] = json!(at(number));
                objects.put(&ORGANIZATION_MEMBERSHIPS, &object);
            }
        });
    }

    /// Delivers a webhook about an object of Clerk.
    pub(super) async fn webhook(&self, id: &str, event_type: &str, sent_at: i64, data: &Value) {
        self.store.remember_instance("ins_1").await.expect("the store records");
        let change = change_of(id, &event(event_type, sent_at, data));
        self.store.apply_many(&[change]).await.expect("the store applies it");
    }

    pub(super) async fn rows(&self, resource: &'static Resource) -> Vec<RowView> {
        self.store.rows(resource, None, ROWS_MAX).await.expect("the store lists rows")
    }

    pub(super) async fn living(&self, resource: &'static Resource) -> Vec<String> {
        let rows = self.rows(resource).await;
        rows.into_iter().filter(|row| !row.is_deleted()).map(|row| row.id).collect()
    }

    /// Asserts that the living rows of every resource are the objects at Clerk, with their content.
    pub(super) async fn assert_equal(&self) {
        if let Some(difference) = self.difference().await {
            panic!("{difference}");
        }
    }

    /// Returns the first difference between the living rows and the objects at Clerk.
    pub(super) async fn difference(&self) -> Option<String> {
        for resource in RECONCILED {
            let mut expected: Vec<Value> = self
                .clerk
                .change(|objects| objects.list(resource).into_iter().cloned().map(Value::Object).collect());
            expected.sort_by_key(id);
            let rows = self.rows(resource).await;
            let living: Vec<Value> =
                rows.iter().filter(|row| !row.is_deleted()).map(|row| row.columns["data"].clone()).collect();
            let (ours, theirs): (Vec<String>, Vec<String>) =
                (living.iter().map(id).collect(), expected.iter().map(id).collect());
            if ours != theirs {
                let lacks = theirs.iter().find(|id| !ours.contains(id));
                let extra = ours.iter().find(|id| !theirs.contains(id));
                return Some(format!("{resource:?}: lacks {lacks:?}, has {extra:?} in addition"));
            }
            let mut pairs = living.iter().zip(&expected);
            if let Some((ours, _)) = pairs.find(|(ours, theirs)| !is_same(resource, ours, theirs)) {
                return Some(format!("{resource:?}: {} differs", id(ours)));
            }
        }
        None
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_millis()
    }
}

/// Written without the rule under test: the columns that the catalog takes from `data` are equal by value.
fn is_same(resource: &Resource, ours: &Value, theirs: &Value) -> bool {
    let skipped = |name: &str| resource.volatile.iter().any(|path| *path == [name]);
    let (ours, theirs) = (ours.as_object().expect("an object"), theirs.as_object().expect("an object"));
    theirs.iter().filter(|(key, _)| !skipped(key)).all(|(key, value)| ours.get(key) == Some(value))
}

fn id(object: &Value) -> String {
    object["id"].as_str().expect("an id").to_owned()
}

pub(super) fn at(number: usize) -> i64 {
    START + i64::try_from(number).expect("a small number") * 1_000
}

pub(super) fn user_id(number: usize) -> String {
    format!("user_{number:04}")
}

pub(super) fn organization_id(number: usize) -> String {
    format!("org_{number:04}")
}

pub(super) fn user_object(number: usize) -> Value {
    let mut object = user(&user_id(number), at(number));
    object["created_at"] = json!(at(number));
    object
}
