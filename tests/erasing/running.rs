//! Erasures while deliveries arrive and workers apply them, about others and about the person.

use std::collections::BTreeSet;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use serde_json::Value;

use super::person::{self, ID};
use super::places::Places;
use super::{drained, found_in, post, run};
use crate::crashes::{history, send};

/// Number of deliveries of each event about the person before the erasure begins, and again afterwards.
const TIMES: usize = 6;

/// Posts every event about the person this many times, each time newer.
async fn goes_on(places: &Places, name: &str) {
    for round in 0..TIMES {
        let (at, all) = (WallClock.now().as_millis(), person::events().into_iter().chain(person::queued()));
        for (number, (event, at)) in all.zip(at..).enumerate() {
            post(&places.home, &format!("msg_{name}_{round}_{number}"), &person::newer(event, at)).await;
        }
    }
}

async fn others_are_right(places: &Places, history: &rollbook_simulator::history::History) {
    let id = |event: Value| event["data"]["id"].as_str().expect("an id").to_owned();
    let theirs: BTreeSet<String> =
        person::events().into_iter().chain(person::queued()).map(id).chain([ID.to_owned()]).collect();
    let store = places.store();
    let mut rows = Vec::new();
    for resource in RESOURCES {
        let all = store.rows(resource, None, usize::MAX >> 1).await.expect("rows");
        let others = all.into_iter().filter(|row| !theirs.contains(&row.id));
        rows.extend(others.map(|row| (resource.table, row)));
    }
    let compared = history.truth.compare(rows.into_iter());
    assert!(compared.is_equal(), "{compared:?}");
}

async fn is_erased_meanwhile(places: &Places) {
    let history = history(1_500);
    let mut serving = places.home.start_ready(&["serve"]).await;
    goes_on(places, "before").await;
    let others = send(places.home.listen, &history, 500);
    let erasing = run(&places.home, &["erase", ID, "--yes"], 0);
    let (report, output, ()) = tokio::join!(others, erasing, goes_on(places, "meanwhile"));
    assert!(output.contains("is erased"), "{output}");
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
    drained(&places.queue()).await;
    assert_eq!(found_in(places.dump().await.as_bytes()), [""; 0]);
    others_are_right(places, &history).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", places.home.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_erased_from_files_while_deliveries_come() {
    is_erased_meanwhile(&Places::files()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_erased_from_redis_and_postgres_while_deliveries_come() {
    is_erased_meanwhile(&Places::servers().await).await;
}
