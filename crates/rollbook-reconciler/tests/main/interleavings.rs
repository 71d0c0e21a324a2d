//! Any interleaving of webhooks, lost webhooks, stale pages, runs, kills and resumptions ends in rows equal to
//! Clerk's state, on every engine. A run after that writes nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, USERS};
use rollbook_core::source::{Fetched, Instance, Lookup, Page, PageRequest, Source, SourceError, Window};
use rollbook_core::store::{FullStore, RunState};
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{ReconcileError, Reconciler, ResourceProgress, Resume, RunReport, RunRequest};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::world::World;

/// Subjects of each resource. Fewer than the brake lets through.
const SUBJECTS: u8 = 5;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Something changes at Clerk, and a webhook about it may be sent.
    Change { kind: u8, subject: u8, is_dated: bool, is_sent: bool },
    /// A sent webhook arrives, perhaps not for the last time.
    Deliver { which: u8, stays: bool },
    /// Time passes, in milliseconds.
    Pass(u16),
}

/// A step of a history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Act(Action),
    /// A run, with what happens after each answer of Clerk. It may be killed after some answers.
    Run {
        meanwhile: Vec<Action>,
        kill_after: Option<u8>,
        resume: bool,
    },
}

fn actions() -> impl Strategy<Value = Action> {
    let change = (0..9_u8, 0..SUBJECTS, any::<bool>(), any::<bool>())
        .prop_map(|(kind, subject, is_dated, is_sent)| Action::Change { kind, subject, is_dated, is_sent });
    let deliver = (any::<u8>(), any::<bool>()).prop_map(|(which, stays)| Action::Deliver { which, stays });
    prop_oneof![4 => change, 3 => deliver, 1 => (0..30_000_u16).prop_map(Action::Pass)]
}

pub(super) fn histories() -> impl Strategy<Value = Vec<Step>> {
    let run = (prop::collection::vec(actions(), 0..8), prop::option::of(0..20_u8), any::<bool>())
        .prop_map(|(meanwhile, kill_after, resume)| Step::Run { meanwhile, kill_after, resume });
    prop::collection::vec(prop_oneof![5 => actions().prop_map(Step::Act), 1 => run], 1..40)
}

/// Clerk, the webhooks under way, and the store that they reach.
pub(super) struct Driver {
    pub(super) world: World,
    sent: Mutex<Vec<(String, Value)>>,
    meanwhile: Mutex<VecDeque<Action>>,
    answers: Mutex<(u32, Option<u32>)>,
    kill: Mutex<CancellationToken>,
    numbers: Mutex<u32>,
    /// Ids that were deleted at Clerk.
    gone: Mutex<BTreeSet<String>>,
}

impl Driver {
    pub(super) fn new(store: Arc<dyn FullStore>, clock: Arc<ManualClock>) -> Self {
        let mut world = World::over(store, clock);
        // Small pages, so that lists have several, and every position is saved. The lock of a killed run ends
        // at once, by the engine's own clock too.
        (world.settings.page_size, world.settings.save_every) = (2, Duration::ZERO);
        world.settings.lock_for = Duration::from_millis(1);
        Self {
            world,
            sent: Mutex::default(),
            meanwhile: Mutex::default(),
            answers: Mutex::default(),
            kill: Mutex::default(),
            numbers: Mutex::default(),
            gone: Mutex::default(),
        }
    }

    pub(super) async fn act(&self, action: &Action) {
        match *action {
            Action::Pass(millis) => self.world.clock.advance(Duration::from_millis(millis.into())),
            Action::Change { kind, subject, is_dated, is_sent } => {
                self.world.clock.advance(Duration::from_millis(1));
                for (event_type, data) in self.change(kind, subject, is_dated) {
                    if is_sent {
                        let sent = event(event_type, self.world.now(), &data);
                        let mut number = lock(&self.numbers);
                        *number += 1;
                        lock(&self.sent).push((format!("msg_{number}"), sent));
                    }
                }
            }
            Action::Deliver { which, stays } => {
                let delivery = {
                    let mut sent = lock(&self.sent);
                    if sent.is_empty() {
                        return;
                    }
                    let at = usize::from(which) % sent.len();
                    if stays { sent[at].clone() } else { sent.swap_remove(at) }
                };
                self.deliver(&delivery).await;
            }
        }
    }

    async fn deliver(&self, (id, event): &(String, Value)) {
        self.world.store.remember_instance("ins_1").await.expect("the store records");
        self.world.store.apply_many(&[change_of(id, event)]).await.expect("the store applies it");
    }

    /// Delivers what is left of the sent webhooks.
    pub(super) async fn deliver_all(&self) {
        let left = std::mem::take(&mut *lock(&self.sent));
        for delivery in left {
            self.deliver(&delivery).await;
        }
    }

    /// Changes an object at Clerk. Returns the events about it.
    fn change(&self, kind: u8, subject: u8, is_dated: bool) -> Vec<(&'static str, Value)> {
        let now = self.world.now();
        self.world.clerk.change(|objects| {
            let (user_id, org_id, mem_id) =
                (format!("user_{subject}"), format!("org_{subject}"), format!("orgmem_{subject}"));
            let (resource, id, fresh, names): (&'static Resource, _, Value, [&'static str; 3]) = match kind
                % 3
            {
                0 => {
                    (&USERS, &user_id, user(&user_id, now), ["user.created", "user.updated", "user.deleted"])
                }
                1 => (
                    &ORGANIZATIONS,
                    &org_id,
                    organization(&org_id, now),
                    ["organization.created", "organization.updated", "organization.deleted"],
                ),
                _ => (
                    &ORGANIZATION_MEMBERSHIPS,
                    &mem_id,
                    membership(&mem_id, &org_id, &user_id, now),
                    [
                        "organizationMembership.created",
                        "organizationMembership.updated",
                        "organizationMembership.deleted",
                    ],
                ),
            };
            let known = objects.get(resource, id).cloned().map(Value::Object);
            let is_gone = lock(&self.gone).contains(id);
            match (known, kind / 3) {
                // Clerk never reuses an id, and a membership needs both parents.
                (None, 0 | 1) if !is_gone => {
                    let lacks_parent = resource == &ORGANIZATION_MEMBERSHIPS
                        && (objects.get(&USERS, &user_id).is_none()
                            || objects.get(&ORGANIZATIONS, &org_id).is_none());
                    if lacks_parent {
                        return Vec::new();
                    }
                    let mut object = fresh;
                    object["created_at"] = json!(now);
                    objects.put(resource, &object);
                    vec![(names[0], object)]
                }
                (Some(mut object), 0 | 1) => {
                    object["public_metadata"] = json!({ "changed_at": now });
                    if is_dated {
                        object["updated_at"] = json!(now);
                    }
                    objects.put(resource, &object);
                    vec![(names[1], object)]
                }
                (Some(object), _) => {
                    objects.remove(resource, id);
                    lock(&self.gone).insert(id.clone());
                    if resource != &ORGANIZATION_MEMBERSHIPS {
                        // Without an event, as Clerk may do.
                        objects.remove(&ORGANIZATION_MEMBERSHIPS, &mem_id);
                        lock(&self.gone).insert(mem_id.clone());
                        return vec![(names[2], deleted("object", id))];
                    }
                    vec![(names[2], object)]
                }
                _ => Vec::new(),
            }
        })
    }
}

fn lock<T: ?Sized>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clerk, with what happens meanwhile: after each answer, before the reconciler has it.
pub(super) struct Busy(pub(super) Arc<Driver>);

impl Busy {
    async fn after_answer(&self) {
        let next = lock(&self.0.meanwhile).pop_front();
        if let Some(action) = next {
            self.0.act(&action).await;
        }
        let mut answers = lock(&self.0.answers);
        answers.0 += 1;
        if answers.1.is_some_and(|kill_after| answers.0 > kill_after) {
            lock(&self.0.kill).cancel();
        }
    }
}

#[async_trait]
impl Source for Busy {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.0.world.clerk.instance().await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        let answer = self.0.world.clerk.count(resource, window).await;
        self.after_answer().await;
        answer
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        let answer = self.0.world.clerk.page(resource, request).await;
        self.after_answer().await;
        answer
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        self.0.world.clerk.recently_updated_users(offset, limit).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        let answer = self.0.world.clerk.fetch(resource, lookups).await;
        self.after_answer().await;
        answer
    }
}

/// Runs as soon as the lock is free. A server may still be at a killed run's last statement, which renews it.
async fn run_when_free(
    driver: &Driver,
    reconciler: &Reconciler,
    request: &RunRequest,
    stop: &CancellationToken,
) -> Result<RunReport, ReconcileError> {
    for _ in 0..30_000 {
        match reconciler.run(request, stop, watch::Sender::default()).await {
            Err(ReconcileError::Busy(_)) => {
                // The lock ends by the server's clock, or by that of the test.
                driver.world.clock.advance(Duration::from_millis(1));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            ended => return ended,
        }
    }
    panic!("the lock of a killed run does not end")
}

/// Performs a run, which may be killed. A run that Clerk's lists contradict too often ends, as it should.
async fn run(
    driver: &Arc<Driver>,
    source: Arc<dyn Source>,
    meanwhile: &[Action],
    kill_after: Option<u8>,
    resume: bool,
) {
    *lock(&driver.meanwhile) = meanwhile.iter().cloned().collect();
    *lock(&driver.answers) = (0, kill_after.map(u32::from));
    let kill = CancellationToken::new();
    *lock(&driver.kill) = kill.clone();
    let resume = if resume { Resume::IfUnfinished } else { Resume::New };
    let request = RunRequest { resume, ..RunRequest::default() };
    let (reconciler, stop) = (driver.world.reconciler_of(source), CancellationToken::new());
    match kill.run_until_cancelled(run_when_free(driver, &reconciler, &request, &stop)).await {
        None => {
            // An engine's thread may still be at the killed run's last write. This one follows it.
            driver.world.store.unlock("none", "none").await.expect("the store answers");
            driver.world.clock.advance(Duration::from_secs(1));
        }
        Some(Ok(_) | Err(ReconcileError::Contradiction { .. })) => {}
        Some(Err(error)) => panic!("{error}"),
    }
}

/// Plays a history, and checks the end.
pub(super) async fn play(
    driver: Arc<Driver>,
    source: Arc<dyn Source>,
    history: &[Step],
) -> Result<(), TestCaseError> {
    for step in history {
        match step {
            Step::Act(action) => driver.act(action).await,
            Step::Run { meanwhile, kill_after, resume } => {
                run(&driver, source.clone(), meanwhile, *kill_after, *resume).await;
            }
        }
    }
    *lock(&driver.answers) = (0, None);
    lock(&driver.meanwhile).clear();
    // What was sent arrives at last, and what was not is found by a run after the margin.
    driver.deliver_all().await;
    driver.world.pass(3600);
    let last = driver.world.reconciler_of(source.clone());
    let (request, stop) = (RunRequest::default(), CancellationToken::new());
    let report = run_when_free(&driver, &last, &request, &stop).await;
    let report = report.map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(report.state, RunState::Complete, "{:?}", report.progress);
    prop_assert_eq!(driver.world.difference().await, None);
    driver.world.pass(3600);
    let again = run_when_free(&driver, &last, &request, &stop).await;
    let again = again.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let rest = (again.progress.sum(ResourceProgress::drifted), again.progress.sum(|of| of.written));
    prop_assert_eq!(rest, (0, 0), "a run straight after another writes nothing");
    prop_assert_eq!(driver.world.difference().await, None);
    Ok(())
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(START)))
}

/// Checks the property on `cases` histories. A failure prints its seed and the smallest history.
pub(super) fn check<F>(cases: u32, play: impl Fn(Vec<Step>) -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), TestCaseError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let result = TestRunner::new(config).run(&histories(), |history| runtime.block_on(play(history)));
    result.map_err(|error| error.to_string())
}

fn busy(driver: &Arc<Driver>) -> Arc<dyn Source> {
    Arc::new(Busy(Arc::clone(driver)))
}

#[test]
fn any_interleaving_ends_equal_to_clerk_in_memory() {
    let result = check(200, |history| async move {
        let clock = clock();
        let driver = Arc::new(Driver::new(Arc::new(MemoryStore::new(clock.clone())), clock));
        let source = busy(&driver);
        play(driver, source, &history).await
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn any_interleaving_ends_equal_to_clerk_on_sqlite() {
    let result = check(24, |history| async move {
        let (clock, folder) = (clock(), tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("store.db");
        rollbook_sqlite::apply_migrations(&file, rollbook_sqlite::Schema::Store)
            .expect("the migrations apply");
        let store = rollbook_sqlite::SqliteStore::open(&file, clock.clone()).expect("the store opens");
        let driver = Arc::new(Driver::new(Arc::new(store), clock));
        let source = busy(&driver);
        play(driver, source, &history).await
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn any_interleaving_ends_equal_to_clerk_on_postgres() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(PostgresServer::start_with(&[("fsync", "off")]));
    let next = std::sync::atomic::AtomicU32::new(0);
    let result = check(12, |history| {
        let schema = format!("mirror_{}", next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let settings = rollbook_postgres::PostgresSettings {
            url: server.url("postgres"),
            schema,
            changes: true,
            pgbouncer: false,
            connections_max: 4,
            statement_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(20),
        };
        async move {
            let clock = clock();
            rollbook_postgres::apply_migrations(&settings).await.expect("the migrations apply");
            let store = rollbook_postgres::PostgresStore::new(settings, clock.clone()).expect("settings");
            let driver = Arc::new(Driver::new(Arc::new(store), clock));
            let source = busy(&driver);
            play(driver, source, &history).await
        }
    });
    assert_eq!(result, Ok(()));
}
