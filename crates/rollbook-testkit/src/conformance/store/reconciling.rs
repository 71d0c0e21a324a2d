//! Readings of Clerk's API in rows and ledger, and the records of the reconciler.

use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::change::Applied::{Inserted, Unchanged, Updated};
use rollbook_core::change::{Change, Effect, Origin};
use rollbook_core::drift::Drift;
use rollbook_core::event::observed;
use rollbook_core::store::{
    Freshness, Held, HeldCount, HeldKey, HeldState, RUNS_KEPT_FOR, RUNS_KEPT_MIN, Run, RunState,
};
use rollbook_core::time::{Clock as _, Timestamp};
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::{Mirror, StoreHarness};
use crate::events::{START, event, user};
use crate::process::until;

const LIMIT: usize = 100;

/// Returns the `data` of an event.
pub(super) fn data_of(event: &Value) -> Map<String, Value> {
    event["data"].as_object().cloned().expect("data is an object")
}

/// Returns the change that a reading of this object at this time makes.
pub(super) fn reading_of(resource: &'static Resource, object: &Value, read_at: i64) -> Change {
    let read_at = Timestamp::from_millis(read_at);
    let object = object.as_object().cloned().expect("an object");
    let (subject, _) = observed(resource, object, read_at).expect("the object has an id");
    let origin = Origin::reconcile("run_1", &subject, Drift::Missing, read_at);
    Change { origin, effect: Effect::Merge(Box::new(subject)) }
}

pub async fn a_reading_is_a_change_and_the_ledger_gives_its_run_and_reason(
    mirror: Mirror<impl StoreHarness>,
) {
    let reading = reading_of(&USERS, &user("user_1", START), START + 50);
    assert_eq!(mirror.apply_changes(std::slice::from_ref(&reading)).await, [Inserted]);
    assert_eq!(mirror.row(&USERS, "user_1").await["synced_by"], "reconcile");
    let entry = mirror.ledger("reconcile:run_1:users:user_1").await.expect("an entry");
    assert_eq!(
        (entry.event_type.as_str(), entry.subject_id.as_deref(), entry.outcome, entry.attempts),
        ("reconcile.missing", Some("user_1"), Inserted, 1)
    );
    let read_at = Timestamp::from_millis(START + 50);
    assert_eq!((entry.event_at, entry.received_at), (read_at, read_at));
    let row = mirror.row(&USERS, "user_1").await;
    mirror.harness.clock().advance(Duration::from_secs(1));
    assert_eq!(mirror.apply_changes(&[reading]).await, [Unchanged]);
    assert_eq!(mirror.row(&USERS, "user_1").await, row, "an equal reading writes nothing");
    let webhook = event("user.updated", START + 51, &user("user_1", START + 51));
    assert_eq!(mirror.apply_one("msg_1", webhook).await, Updated);
    assert_eq!(mirror.row(&USERS, "user_1").await["synced_by"], "msg_1");
}

async fn lock<H: StoreHarness>(mirror: &Mirror<H>, name: &str, holder: &str, seconds: u64) -> bool {
    let taken = mirror.harness.store().lock(name, holder, Duration::from_secs(seconds)).await;
    taken.expect("the store locks")
}

pub async fn a_lock_has_one_holder_who_may_renew_it_and_give_it_back(mirror: Mirror<impl StoreHarness>) {
    let store = mirror.harness.store();
    assert!(lock(&mirror, "walk", "one", 3_600).await);
    assert!(!lock(&mirror, "walk", "other", 3_600).await);
    assert!(lock(&mirror, "walk", "one", 3_600).await, "its holder renews it");
    assert!(lock(&mirror, "counts", "other", 3_600).await, "each name is a lock of its own");
    assert_eq!(store.unlock("walk", "other").await, Ok(()));
    assert!(!lock(&mirror, "walk", "other", 3_600).await, "only its holder gives it back");
    assert_eq!(store.unlock("walk", "one").await, Ok(()));
    assert_eq!(store.unlock("walk", "one").await, Ok(()), "again does no harm");
    assert!(lock(&mirror, "walk", "other", 3_600).await);
}

pub async fn a_lock_ends_by_itself(mut mirror: Mirror<impl StoreHarness>) {
    assert!(lock(&mirror, "walk", "one", 3_600).await);
    mirror.harness.reopen().await;
    // An engine with the test's clock keeps it for the whole hour; any other one at least until now.
    assert!(!lock(&mirror, "walk", "other", 3_600).await);
    let store = mirror.harness.store();
    assert_eq!(
        store.lock("walk", "one", Duration::from_millis(20)).await,
        Ok(true),
        "a renewal may shorten it"
    );
    mirror.harness.clock().advance(Duration::from_millis(20));
    until("the lock ends", || async { lock(&mirror, "walk", "other", 3_600).await }).await;
    assert!(!lock(&mirror, "walk", "one", 3_600).await);
    assert!(store.lock("walk", "other", Duration::MAX).await.expect("the longest hold is limited"));
}

pub async fn one_of_many_processes_that_take_a_lock_at_once_gets_it(mirror: Mirror<impl StoreHarness>) {
    for round in 0..5 {
        let mut takers = JoinSet::new();
        for number in 0..16 {
            let (store, name) = (mirror.harness.store(), format!("walk_{round}"));
            takers.spawn(async move {
                store.lock(&name, &format!("holder_{number}"), Duration::from_secs(3_600)).await
            });
        }
        let taken = takers.join_all().await;
        let holders = taken.into_iter().filter(|taken| *taken.as_ref().expect("the store locks")).count();
        assert_eq!(holders, 1);
    }
}

fn run(id: &str, started_at: i64) -> Run {
    let started_at = Timestamp::from_millis(START + started_at);
    Run {
        id: id.to_owned(),
        started_at,
        saved_at: started_at,
        finished_at: None,
        state: RunState::Running,
        is_dry: false,
        progress: r#"{"users": {"b": 1, "a": [2.50, null]}}"#.to_owned(),
        last_error: None,
    }
}

pub async fn a_run_is_recorded_replaced_and_kept_exactly(mut mirror: Mirror<impl StoreHarness>) {
    let (first, second) = (run("run_1", 1), Run { is_dry: true, ..run("run_2", 2) });
    for run in [&second, &first] {
        mirror.harness.store().save_run(run).await.expect("the store records");
    }
    let over = Run {
        saved_at: Timestamp::from_millis(START + 9),
        finished_at: Some(Timestamp::from_millis(START + 9)),
        state: RunState::Failed,
        progress: "{}".to_owned(),
        last_error: Some("Clerk's API refuses the key".to_owned()),
        ..first.clone()
    };
    mirror.harness.store().save_run(&over).await.expect("the store records");
    mirror.harness.reopen().await;
    let store = mirror.harness.store();
    assert_eq!(store.run("run_1").await, Ok(Some(over.clone())));
    assert_eq!(store.run("run_3").await, Ok(None));
    assert_eq!(store.runs(LIMIT).await, Ok(vec![second.clone(), over]), "the latest first");
    assert_eq!(store.runs(1).await, Ok(vec![second]));
    for state in RunState::ALL {
        let run = Run { state, ..run("run_4", 4) };
        store.save_run(&run).await.expect("the store records");
        assert_eq!(store.run("run_4").await, Ok(Some(run)));
    }
}

fn held(resource: &Resource, id: &str, state: HeldState) -> Held {
    Held {
        key: HeldKey { table: resource.table.to_owned(), id: id.to_owned() },
        kind: Drift::NotDeleted,
        state,
        noted_at: Timestamp::from_millis(START),
    }
}

async fn hold<H: StoreHarness>(mirror: &Mirror<H>, run: &str, held: &[Held]) {
    mirror.harness.store().hold(run, held).await.expect("the store holds");
}

async fn held_ids<H: StoreHarness>(mirror: &Mirror<H>, run: &str, state: HeldState) -> Vec<String> {
    let found = mirror.harness.store().held(run, state, None, LIMIT).await.expect("the store reads");
    found.into_iter().map(|held| held.key.id).collect()
}

pub async fn held_objects_are_listed_by_table_and_id_and_a_known_one_stays(
    mirror: Mirror<impl StoreHarness>,
) {
    use HeldState::{Collected, Done, Waiting};
    let store = mirror.harness.store();
    let first = [
        held(&USERS, "user_b", Collected),
        held(&USERS, "user_A", Collected),
        Held { kind: Drift::WronglyDeleted, ..held(&ORGANIZATIONS, "org_1", Waiting) },
        held(&ORGANIZATIONS, "org_2", Collected),
    ];
    hold(&mirror, "run_1", &first).await;
    hold(&mirror, "run_2", &[held(&USERS, "user_b", Waiting)]).await;
    hold(&mirror, "run_1", &[Held { kind: Drift::WronglyDeleted, ..held(&USERS, "user_b", Done) }]).await;
    hold(&mirror, "run_1", &[]).await;
    let listed = store.held("run_1", Collected, None, LIMIT).await.expect("the store reads");
    assert_eq!(listed, [first[3].clone(), first[1].clone(), first[0].clone()], "in the order of bytes");
    assert_eq!(store.held("run_1", Waiting, None, LIMIT).await, Ok(vec![first[2].clone()]));
    let page = store.held("run_1", Collected, Some(&listed[0].key), 1).await;
    assert_eq!(page, Ok(vec![listed[1].clone()]));

    let keys = [listed[1].key.clone(), HeldKey { table: "users".into(), id: "user_unknown".into() }];
    store.settle_held("run_1", &keys, Done).await.expect("the store settles");
    store.settle_held("run_1", &[], Done).await.expect("nothing to settle");
    assert_eq!(held_ids(&mirror, "run_1", Collected).await, ["org_2", "user_b"]);
    assert_eq!(held_ids(&mirror, "run_1", Done).await, ["user_A"]);
    assert_eq!(held_ids(&mirror, "run_2", Waiting).await, ["user_b"], "another run's stays");
}

pub async fn held_objects_are_counted_by_run_table_kind_and_state(mirror: Mirror<impl StoreHarness>) {
    use HeldState::{Collected, Waiting};
    let revived = Held { kind: Drift::WronglyDeleted, ..held(&USERS, "user_3", Waiting) };
    let all = [held(&USERS, "user_1", Waiting), held(&USERS, "user_2", Waiting), revived];
    hold(&mirror, "run_1", &all).await;
    hold(&mirror, "run_2", &[held(&ORGANIZATIONS, "org_1", Collected)]).await;
    let count = |run: &str, table: &str, kind, state, count| HeldCount {
        run: run.to_owned(),
        table: table.to_owned(),
        kind,
        state,
        count,
    };
    let first = [
        count("run_1", "users", Drift::NotDeleted, Waiting, 2),
        count("run_1", "users", Drift::WronglyDeleted, Waiting, 1),
    ];
    let second = count("run_2", "organizations", Drift::NotDeleted, Collected, 1);
    let store = mirror.harness.store();
    assert_eq!(store.count_held(Some("run_1")).await, Ok(first.to_vec()));
    assert_eq!(store.count_held(None).await, Ok([&first[..], &[second]].concat()));
    assert_eq!(store.count_held(Some("run_3")).await, Ok(Vec::new()));
}

pub async fn old_records_leave_with_a_finished_run_and_the_latest_and_the_waiting_stay(
    mirror: Mirror<impl StoreHarness>,
) {
    let store = mirror.harness.store();
    let finished = |id: &str, number: i64| Run {
        finished_at: Some(Timestamp::from_millis(START + number)),
        state: RunState::Complete,
        ..run(id, number)
    };
    // One run more than always stays, one with an object that waits, and one that is not over.
    store.save_run(&finished("waiting", -3)).await.expect("the store records");
    store.save_run(&run("open", -2)).await.expect("the store records");
    store.save_run(&finished("old", -1)).await.expect("the store records");
    for (_, number) in (1..RUNS_KEPT_MIN).zip(0..) {
        store.save_run(&finished(&format!("run_{number:02}"), number)).await.expect("the store records");
    }
    hold(&mirror, "waiting", &[held(&USERS, "user_1", HeldState::Waiting)]).await;
    hold(&mirror, "open", &[held(&USERS, "user_2", HeldState::Collected)]).await;
    hold(&mirror, "old", &[held(&USERS, "user_3", HeldState::Done)]).await;
    hold(&mirror, "old", &[held(&USERS, "user_4", HeldState::Collected)]).await;

    mirror.harness.clock().set(Timestamp::from_millis(START).plus(RUNS_KEPT_FOR));
    let last = Run { started_at: mirror.harness.clock().now(), ..finished("last", 0) };
    store.save_run(&Run { finished_at: None, ..last.clone() }).await.expect("the store records");
    assert_eq!(held_ids(&mirror, "old", HeldState::Done).await, ["user_3"], "an open run removes nothing");
    store.save_run(&last).await.expect("the store records");
    assert_eq!(
        held_ids(&mirror, "old", HeldState::Done).await,
        ["user_3"],
        "at the time limit itself it stays"
    );

    mirror.harness.clock().advance(Duration::from_millis(1));
    store.save_run(&last).await.expect("the store records");
    for state in [HeldState::Done, HeldState::Collected] {
        assert_eq!(held_ids(&mirror, "old", state).await, [""; 0]);
    }
    assert_eq!(held_ids(&mirror, "waiting", HeldState::Waiting).await, ["user_1"]);
    assert_eq!(held_ids(&mirror, "open", HeldState::Collected).await, ["user_2"]);
    let kept = store.runs(LIMIT).await.expect("the store reads");
    let kept: Vec<&str> = kept.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(kept.len(), RUNS_KEPT_MIN + 2, "{kept:?}");
    assert!(!kept.contains(&"old") && kept.ends_with(&["run_00", "open", "waiting"]), "{kept:?}");
}

pub async fn the_last_walk_of_each_resource_is_kept(mut mirror: Mirror<impl StoreHarness>) {
    let store = mirror.harness.store();
    assert_eq!(store.freshness().await, Ok(Vec::new()));
    let walk = |table: &str, complete_since: Option<i64>, last: i64, drift| Freshness {
        table: table.to_owned(),
        complete_since: complete_since.map(|at| Timestamp::from_millis(START + at)),
        last_walk_at: Timestamp::from_millis(START + last),
        drift,
    };
    for walk in
        [walk("users", None, 1, 3), walk("organizations", Some(1), 2, 0), walk("users", Some(4), 5, 0)]
    {
        store.save_freshness(&walk).await.expect("the store records");
    }
    mirror.harness.reopen().await;
    let known = mirror.harness.store().freshness().await.expect("the store reads");
    assert_eq!(known, [walk("organizations", Some(1), 2, 0), walk("users", Some(4), 5, 0)]);
}

pub async fn instances_are_remembered_for_good(mut mirror: Mirror<impl StoreHarness>) {
    let store = mirror.harness.store();
    for id in ["ins_1", "ins_2", "ins_1"] {
        store.remember_instance(id).await.expect("the store records");
    }
    mirror.harness.reopen().await;
    let known = mirror.harness.store().freshness().await.expect("the store reads");
    assert_eq!(known.iter().filter_map(Freshness::instance).collect::<Vec<_>>(), ["ins_1", "ins_2"]);
}
