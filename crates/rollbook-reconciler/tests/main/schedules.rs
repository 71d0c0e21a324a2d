//! The schedule: when a full walk is due, and what the metrics show of the runs.

use std::time::Duration;

use prometheus::Registry;
use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::store::RunState;
use rollbook_reconciler::{ReconcileMetrics, RunRequest, Schedule};
use tokio_util::sync::CancellationToken;

use super::world::World;

/// Keeps the schedule until this many runs are recorded, or for some ticks.
async fn keep(world: &World, runs: usize) -> usize {
    let metrics = ReconcileMetrics::new(&Registry::new()).expect("metrics");
    let schedule = Schedule { every: Duration::from_secs(86_400), check_every: Duration::from_secs(300) };
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

#[tokio::test]
async fn only_a_full_run_counts_as_the_last_success_and_each_resource_shows_its_last_run() {
    let world = World::new();
    world.populate(20, 5, 5);
    let registry = Registry::new();
    let metrics = ReconcileMetrics::new(&registry).expect("metrics");
    let value = |name: &str, label: &str| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("the metric");
        let of = |metric: &&prometheus::proto::Metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        };
        family.get_metric().iter().filter(of).map(|metric| metric.get_gauge().get_value()).sum::<f64>()
    };
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
