//! The schedule: when a full walk is due, and what the metrics show of the runs.

use std::time::Duration;

use futures_util::FutureExt as _;
use prometheus::Registry;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS};
use rollbook_core::drift::Drift;
use rollbook_core::source::SourceError;
use rollbook_core::store::{Held, HeldKey, HeldState, RunState};
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{ReconcileMetrics, RunRequest, Schedule, Status};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::World;

/// Keeps the schedule until this many runs are recorded, or for some ticks.
async fn keep(world: &World, runs: usize) -> usize {
    let metrics = ReconcileMetrics::new(&Registry::new()).expect("metrics");
    let (day, check) = (Duration::from_secs(86_400), Duration::from_secs(300));
    let schedule = Schedule { every: Some(day), check_every: Some(check) };
    let stop = CancellationToken::new();
    let (reconciler, kept) = (world.reconciler(), stop.clone());
    let keeping = reconciler.keep_schedule(schedule, metrics, kept);
    let watching = async {
        for _ in 0..100 {
            if world.store.runs(10).await.expect("runs").len() >= runs {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(keeping, watching);
    world.store.runs(10).await.expect("runs").len()
}

#[tokio::test(start_paused = true)]
async fn a_run_of_named_resources_postpones_no_full_walk() {
    let world = World::new();
    world.populate(20, 5, 5);
    let request = RunRequest { only: vec![&USERS], ..RunRequest::default() };
    world.run_as(&request).await.expect("a run");
    world.pass(60);
    assert_eq!(keep(&world, 2).await, 2, "the backfill begins");
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), 5);
    world.pass(60);
    assert_eq!(keep(&world, 3).await, 2, "the next full walk is due in a day");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_failed_goes_on_an_hour_later_and_a_day_later_a_new_one_begins() {
    for (later, expected) in [(Duration::from_secs(3_700), 1), (Duration::from_secs(90_000), 2)] {
        let world = World::new();
        world.populate(120, 30, 30);
        let source = Scripted::new(&world.clerk, |request| {
            let refused = matches!(request, Request::Page(of) if of == &ORGANIZATION_MEMBERSHIPS);
            let error = SourceError::Refused("402 unsupported_plan".to_owned());
            async move { if refused { Err(error) } else { Ok(()) } }.boxed()
        });
        world.run_from(source, &CancellationToken::new()).await.expect_err("an error");
        let failed = world.store.runs(1).await.expect("runs").remove(0);
        world.pass(later.as_secs());
        assert_eq!(keep(&world, 3).await, expected, "{later:?}");
        let last = world.store.runs(1).await.expect("runs").remove(0);
        assert_eq!((last.id == failed.id, last.state), (expected == 1, RunState::Complete));
        world.assert_equal().await;
    }
}

/// Keeps a schedule of checks alone for some ticks. Returns the numbers of pages and point reads at Clerk.
async fn check_only(world: &World) -> (u64, u64) {
    let metrics = ReconcileMetrics::new(&Registry::new()).expect("metrics");
    let schedule = Schedule { every: None, check_every: Some(Duration::from_secs(300)) };
    let (stop, before) = (CancellationToken::new(), world.clerk.calls());
    let reconciler = world.reconciler();
    let ticks = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        stop.cancel();
    };
    tokio::join!(reconciler.keep_schedule(schedule, metrics, stop.clone()), ticks);
    (world.clerk.calls().0 - before.0, world.clerk.calls().1 - before.1)
}

#[tokio::test(start_paused = true)]
async fn without_scheduled_walks_the_checks_go_on_once_a_walk_has_filled_the_tables_and_leave_a_record() {
    let world = World::new();
    world.populate(20, 5, 5);
    assert_eq!(check_only(&world).await, (0, 0), "before the backfill there is nothing to check");
    assert!(world.store.runs(10).await.expect("runs").is_empty(), "and no walk begins");
    world.run().await.expect("the backfill");
    world.pass(3_600);
    let equal_at = async |table: &str| {
        let status = Status::read(&*world.store, 1, 0).await.expect("the status");
        let of = status.resources.into_iter().find(|of| of.resource == table).expect("the table");
        (of.numbers_equal_at.map(Timestamp::as_millis), of.in_sync_at().map(Timestamp::as_millis))
    };
    assert_eq!(equal_at("users").await.0, None);
    // A membership is new at Clerk, and its webhook is lost.
    world.clerk.change(|objects| {
        let object = objects.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_0001").cloned().expect("a membership");
        let mut object = Value::Object(object);
        object["id"] = json!("orgmem_9999");
        objects.put(&ORGANIZATION_MEMBERSHIPS, &object);
    });
    assert!(check_only(&world).await.0 > 0);
    let now = world.now();
    assert_eq!(equal_at("users").await, (Some(now), Some(now)));
    let (equal, in_sync) = equal_at("organization_memberships").await;
    assert_eq!((equal, in_sync), (None, Some(now - 3_600_000)), "the numbers differ: the walk counts");
    world.pass(3_600);
    world.run().await.expect("a run");
    world.pass(3_600);
    check_only(&world).await;
    let now = world.now();
    assert_eq!(equal_at("organization_memberships").await, (Some(now), Some(now)));
    assert_eq!(world.store.runs(10).await.expect("runs").len(), 2, "a check is not a run");
}

#[tokio::test]
async fn only_a_full_run_counts_as_the_last_success_and_each_resource_shows_its_last_run() {
    let world = World::new();
    world.populate(20, 5, 5);
    let registry = Registry::new();
    let metrics = ReconcileMetrics::new(&registry).expect("metrics");
    let value = |name: &str, label: &str| shown(&registry, name, label);
    let success = "rollbook_reconcile_last_success_timestamp_seconds";
    world.run_as(&RunRequest { only: vec![&USERS], ..RunRequest::default() }).await.expect("a run");
    metrics.refresh(world.store.as_ref()).await.expect("the store answers");
    assert!(value(success, "") < 1.0, "a run of named resources is not one");
    assert!((value("rollbook_reconcile_drift", "users") - 20.0).abs() < 0.5);
    world.pass(60);
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Complete);
    world.pass(60);
    world.run_as(&RunRequest { only: vec![&USERS], ..RunRequest::default() }).await.expect("a run");
    metrics.refresh(world.store.as_ref()).await.expect("the store answers");
    let finished = value(success, "")
        - 0.001 * f64::from(i32::try_from(report.finished_at.as_millis() % 1000).expect("small"));
    assert!(
        (finished - f64::from(u32::try_from(report.finished_at.as_millis() / 1000).expect("until 2106")))
            .abs()
            < 0.5
    );
    assert!((value("rollbook_reconcile_drift", "organizations") - 5.0).abs() < 0.5, "of the full run");
    assert!(value("rollbook_reconcile_drift", "users") < 0.5, "of the last run");
}

/// Metrics, and the sum of a metric's values with a label.
fn shown(registry: &Registry, name: &str, label: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("the metric");
    let of = |metric: &&prometheus::proto::Metric| {
        label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
    };
    family.get_metric().iter().filter(of).map(|metric| metric.get_gauge().get_value()).sum()
}

#[tokio::test(start_paused = true)]
async fn many_runs_of_named_resources_hide_no_full_walk() {
    let world = World::new();
    world.populate(20, 5, 5);
    world.run().await.expect("a full run");
    let request = RunRequest { only: vec![&USERS], ..RunRequest::default() };
    for _ in 0..25 {
        world.pass(60);
        world.run_as(&request).await.expect("a run");
    }
    let registry = Registry::new();
    let metrics = ReconcileMetrics::new(&registry).expect("metrics");
    metrics.refresh(world.store.as_ref()).await.expect("the store answers");
    assert!(shown(&registry, "rollbook_reconcile_last_success_timestamp_seconds", "") > 1.0);
    keep(&world, 100).await;
    assert_eq!(world.store.runs(100).await.expect("runs").len(), 26, "the next full walk is due in a day");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_no_longer_counts_shows_no_difference_and_what_an_operator_settles_shows_during_a_walk()
{
    let world = World::new();
    world.populate(5, 0, 0);
    world.run().await.expect("a run");
    let registry = Registry::new();
    let metrics = ReconcileMetrics::new(&registry).expect("metrics");
    metrics.counted(&[("users", 7)]);
    world.store.lock("schedule", "other", Duration::from_secs(3_600)).await.expect("the store locks");
    let schedule = Schedule { every: None, check_every: Some(Duration::from_secs(300)) };
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    let ticks = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        stop.cancel();
    };
    tokio::join!(reconciler.keep_schedule(schedule, metrics.clone(), stop.clone()), ticks);
    assert!(shown(&registry, "rollbook_count_difference", "users") < 0.5, "another process counts");

    // A walk that waits for Clerk, for as long as it takes.
    let waits = Scripted::new(&world.clerk, |request| {
        let waits = matches!(request, Request::Page(_));
        async move { if waits { std::future::pending().await } else { Ok(()) } }.boxed()
    });
    world.store.unlock("schedule", "other").await.expect("the store unlocks");
    world.pass(90_000);
    let key = HeldKey { table: "users".to_owned(), id: "user_0001".to_owned() };
    let noted_at = Timestamp::from_millis(world.now());
    let held = Held { key, kind: Drift::WronglyDeleted, state: HeldState::Waiting, noted_at };
    let schedule = Schedule { every: Some(Duration::from_secs(86_400)), check_every: None };
    let (reconciler, stop) = (world.reconciler_of(waits), CancellationToken::new());
    let during = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.store.hold("run_1", &[held]).await.expect("the store holds");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!((shown(&registry, "rollbook_reconcile_held", "wrongly_deleted") - 1.0).abs() < 0.5);
        stop.cancel();
    };
    tokio::join!(reconciler.keep_schedule(schedule, metrics, stop.clone()), during);
}
