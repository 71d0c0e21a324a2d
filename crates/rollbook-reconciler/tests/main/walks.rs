//! Walks over lists that stay, grow and shrink.

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, ROLES, USERS};
use rollbook_core::drift::Drift;
use rollbook_core::source::RECONCILED;
use rollbook_core::store::RunState;
use rollbook_reconciler::{ResourceProgress, RunReport, RunRequest};
use rollbook_testkit::events::{START, organization};
use rollbook_testkit::memory::clerk::ClerkFault;
use serde_json::json;

use super::world::{World, at, organization_id, user_id, user_object};

fn drift_of(report: &RunReport, table: &str, kind: Drift) -> u64 {
    let of = report.progress.resources.iter().find(|of| of.table == table).expect("the resource");
    of.drift[kind.as_str()]
}

#[tokio::test]
async fn the_first_run_inserts_everybody_and_the_second_writes_nothing() {
    let world = World::new();
    world.populate(421, 30, 133);
    let first = world.run().await.expect("a run");
    assert_eq!(first.state, RunState::Complete);
    assert_eq!(drift_of(&first, "users", Drift::Missing), 421);
    assert_eq!(first.progress.sum(|of| of.written), 421 + 30 + 133);
    world.assert_equal().await;
    assert!(world.rows(&USERS).await.iter().all(|row| row.columns["synced_by"] == "reconcile"));
    world.pass(3600);
    let second = world.run().await.expect("a run");
    let written = (second.progress.sum(|of| of.written), second.progress.sum(ResourceProgress::drifted));
    assert_eq!((second.state, written), (RunState::Complete, (0, 0)));
}

#[tokio::test]
async fn a_run_needs_about_one_request_for_each_full_page() {
    let mut world = World::new();
    world.settings.page_size = 500;
    world.populate(0, 2_000, 0);
    world.run().await.expect("a run");
    let (pages, fetches) = world.clerk.calls();
    // Five pages of organizations, because each overlaps the one before, the empty one behind them, and one page of
    // each other resource.
    assert!(pages <= 5 + 1 + 1 + RECONCILED.len() as u64, "{pages} pages");
    assert_eq!(fetches, 0, "nothing is in doubt");
}

#[tokio::test]
async fn a_short_page_and_the_count_of_the_rest_end_a_part_of_the_users() {
    let mut world = World::new();
    world.settings.page_size = 500;
    world.populate(700, 0, 0);
    world.run().await.expect("a run");
    // The first user, two pages, and one page of each list that is empty.
    let (pages, _) = world.clerk.calls();
    assert_eq!(pages, 1 + 2 + (RECONCILED.len() as u64 - 1) + 1);
    world.assert_equal().await;
}

#[tokio::test]
async fn an_update_that_never_arrived_is_repaired_and_the_ledger_names_the_reason() {
    let world = World::new();
    world.populate(3, 0, 0);
    world.run().await.expect("a run");
    let mut changed = user_object(1);
    changed["first_name"] = json!("Ada");
    changed["updated_at"] = json!(at(1) + 5);
    let mut undated = user_object(2);
    undated["banned"] = json!(true);
    world.clerk.change(|objects| {
        objects.put(&USERS, &changed);
        objects.put(&USERS, &undated);
    });
    world.pass(3600);
    let report = world.run().await.expect("a run");
    assert_eq!(drift_of(&report, "users", Drift::Stale), 1);
    assert_eq!(drift_of(&report, "users", Drift::Undated), 1);
    world.assert_equal().await;
    let lines = world.store.deliveries(&user_id(2), 10).await.expect("the ledger");
    let types: Vec<&str> = lines.iter().map(|line| line.event_type.as_str()).collect();
    assert_eq!(types, ["reconcile.missing", "reconcile.undated"]);
}

#[tokio::test]
async fn a_row_that_a_webhook_made_newer_than_the_page_is_left_alone() {
    let world = World::new();
    world.populate(1, 0, 0);
    let mut newer = user_object(0);
    newer["first_name"] = json!("Ada");
    newer["updated_at"] = json!(at(0) + 60_000);
    world.webhook("msg_1", "user.updated", at(0) + 60_001, &newer).await;
    let report = world.run().await.expect("a run");
    assert_eq!(report.progress.sum(ResourceProgress::drifted), 0);
    assert_eq!(world.rows(&USERS).await[0].columns["first_name"], "Ada");
}

#[tokio::test]
async fn counts_and_nested_copies_that_differ_do_not_count_as_drift() {
    let world = World::new();
    world.populate(2, 1, 2);
    world.run().await.expect("a run");
    world.clerk.change(|objects| {
        let mut organization = organization(&organization_id(0), at(0));
        organization["members_count"] = json!(99);
        objects.put(&ORGANIZATIONS, &organization);
        let membership =
            objects.get(&ORGANIZATION_MEMBERSHIPS, "orgmem_0000").cloned().expect("a membership");
        let mut membership = serde_json::Value::Object(membership);
        membership["organization"]["name"] = json!("Renamed");
        objects.put(&ORGANIZATION_MEMBERSHIPS, &membership);
    });
    world.pass(3600);
    let report = world.run().await.expect("a run");
    assert_eq!(report.progress.sum(ResourceProgress::drifted), 0);
}

#[tokio::test]
async fn objects_deleted_during_the_walk_let_no_other_be_missed() {
    let world = World::new();
    world.populate(400, 400, 400);
    // Before each page some of the first objects go, so that every later one moves to a smaller offset.
    world.clerk.before_each_page(|objects, page| {
        let number = usize::try_from(page).expect("a small number");
        for number in number * 3..number * 3 + 3 {
            objects.remove(&ORGANIZATIONS, &organization_id(number));
            objects.remove(&USERS, &user_id(number));
        }
    });
    world.run().await.expect("a run");
    let missing = |ours: Vec<String>, theirs: Vec<String>| {
        theirs.into_iter().filter(|id| !ours.contains(id)).collect::<Vec<String>>()
    };
    for resource in [&ORGANIZATIONS, &USERS] {
        let theirs = world.clerk.change(|objects| {
            objects
                .list(resource)
                .iter()
                .map(|object| object["id"].as_str().expect("an id").to_owned())
                .collect()
        });
        assert_eq!(missing(world.living(resource).await, theirs), Vec::<String>::new(), "{resource:?}");
    }
    world.clerk.before_each_page(|_, _| {});
    world.pass(3600);
    // More than the brake lets through may be left to delete; that is the second run's business.
    world.run().await.expect("a run");
}

#[tokio::test]
async fn objects_created_during_the_walk_are_read_or_left_to_the_next_run() {
    let world = World::new();
    world.populate(120, 60, 0);
    world.clerk.before_each_page(|objects, page| {
        if page > 12 {
            return;
        }
        let number = 1_000 + usize::try_from(page).expect("a small number");
        objects.put(&USERS, &user_object(number));
        objects.put(&ORGANIZATIONS, &organization(&organization_id(number), at(number)));
    });
    world.run().await.expect("a run");
    world.clerk.before_each_page(|_, _| {});
    world.pass(3600);
    world.run().await.expect("a run");
    world.assert_equal().await;
}

#[tokio::test]
async fn lists_that_grow_as_fast_as_they_are_read_do_not_keep_a_walk_from_ending() {
    let world = World::new();
    world.populate(120, 60, 0);
    let now = world.now();
    world.clerk.before_each_page(move |objects, page| {
        for number in page * 100..page * 100 + 100 {
            let created_at = now + 1_000 + i64::try_from(number).expect("a small number");
            for (resource, mut object) in
                [(&USERS, user_object(0)), (&ORGANIZATIONS, organization("org_0000", created_at))]
            {
                object["id"] = json!(format!("{}_{number}", resource.table));
                object["created_at"] = json!(created_at);
                objects.put(resource, &object);
            }
        }
    });
    let run = tokio::time::timeout(std::time::Duration::from_secs(30), world.run());
    run.await.expect("the walk ends").expect("a run");
    let living = world.living(&USERS).await;
    assert!((0..120).all(|number| living.contains(&user_id(number))), "everybody from before is there");
}

#[tokio::test]
async fn many_objects_created_in_the_same_millisecond_are_all_read() {
    let world = World::new();
    world.clerk.change(|objects| {
        for number in 0..240 {
            let mut user = user_object(number);
            user["created_at"] = json!(START);
            objects.put(&USERS, &user);
            // `organization` gives all the same creation time.
            objects.put(&ORGANIZATIONS, &organization(&organization_id(number), at(number)));
        }
    });
    let report = world.run().await.expect("a run");
    assert_eq!(report.state, RunState::Complete);
    world.assert_equal().await;
}

#[tokio::test]
async fn pages_cut_to_ten_objects_end_no_list_early() {
    let world = World::new();
    world.populate(130, 130, 0);
    world.clerk.fail(std::iter::repeat_n(Some(ClerkFault::TenObjects), 10_000));
    world.run().await.expect("a run");
    world.assert_equal().await;
}

#[tokio::test]
async fn a_dry_run_counts_and_writes_nothing_at_all() {
    let world = World::new();
    world.populate(60, 5, 5);
    let request = RunRequest { is_dry: true, ..RunRequest::default() };
    let report = world.run_as(&request).await.expect("a run");
    assert_eq!(report.progress.sum(ResourceProgress::drifted), 70);
    assert_eq!(world.rows(&USERS).await, []);
    assert_eq!(world.store.runs(10).await.expect("runs"), []);
    assert_eq!(world.store.freshness().await.expect("freshness"), []);
}

#[tokio::test]
async fn only_the_named_resources_are_walked() {
    let world = World::new();
    world.populate(10, 4, 4);
    let request = RunRequest { only: vec![&ORGANIZATIONS, &ROLES], ..RunRequest::default() };
    world.run_as(&request).await.expect("a run");
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), 4);
    assert_eq!(world.living(&USERS).await.len(), 0);
    let tables: Vec<String> =
        world.store.freshness().await.expect("freshness").into_iter().map(|of| of.table).collect();
    assert_eq!(tables, ["instance:ins_1", "organizations", "roles"]);
}

#[tokio::test]
async fn an_object_without_an_id_is_counted_and_the_others_are_read() {
    let world = World::new();
    world.populate(3, 0, 0);
    let report = world.run().await.expect("a run");
    assert_eq!(report.progress.sum(|of| of.unreadable), 0);
    // The model refuses such an object; the page of a source that has one is made by hand.
    let source = super::faults::WithoutId(world.clerk.clone());
    let reconciler = world.reconciler_of(std::sync::Arc::new(source));
    let stop = tokio_util::sync::CancellationToken::new();
    world.pass(3600);
    let report = reconciler
        .run(&RunRequest::default(), &stop, tokio::sync::watch::Sender::default())
        .await
        .expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.unreadable) > 0), (RunState::Held, true));
    world.assert_equal().await;
}

#[tokio::test]
async fn users_who_signed_up_within_a_minute_of_years_are_read_in_parts_all_the_same() {
    let mut world = World::new();
    world.settings.page_size = 10;
    world.populate(700, 0, 0);
    // One user is years older than all others.
    let mut first = user_object(9_999);
    first["created_at"] = json!(START - 100_000_000_000_i64);
    world.clerk.change(|objects| objects.put(&USERS, &first));
    let stop = tokio_util::sync::CancellationToken::new();
    let (watch, _) = tokio::sync::watch::channel(rollbook_reconciler::Progress::default());
    let token = stop.clone();
    world.clerk.before_each_page(move |_, page| {
        if page == 12 {
            token.cancel();
        }
    });
    world.reconciler().run(&RunRequest::default(), &stop, watch).await.expect_err("it is stopped");
    let run = world.store.runs(1).await.expect("runs").remove(0);
    let progress: serde_json::Value = serde_json::from_str(&run.progress).expect("JSON");
    let users = progress["resources"].as_array().expect("resources").iter().find(|of| of["table"] == "users");
    let parts = users.expect("users")["slices"].as_array().expect("parts").len();
    assert!(parts > 3, "{parts} parts");
    world.clerk.before_each_page(|_, _| {});
    world.resume().await.expect("a run");
    world.assert_equal().await;
}
