//! Selection, order, body and parallelism of requests.

use std::time::Duration;

use rollbook_core::catalog::ORGANIZATIONS;
use rollbook_core::store::ChangeKind;
use rollbook_forwarder::{ForwardSettings, Verdict};
use serde_json::Value;

use crate::stage::{Stage, by_subject, refused, settings, until};

#[tokio::test(start_paused = true)]
async fn a_forward_begins_with_the_next_change_and_sends_each_once_in_order() {
    let stage = Stage::accepting();
    stage.write(&["user_0"]).await;
    let running = stage.begin(settings()).await;
    stage.write(&["user_1", "user_2", "user_1", "user_1"]).await;
    stage.until_settled().await;
    let got = stage.endpoint.got();
    let mut ids: Vec<&str> = got.iter().map(|got| got.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["chg_2", "chg_3", "chg_4", "chg_5"]);
    assert_eq!(by_subject(&got)["user_1"], [2, 4, 5]);
    running.stop().await;
    stage.write(&["user_3"]).await;
    let running = stage.start(settings());
    stage.until_settled().await;
    assert_eq!(stage.endpoint.accepted().len(), 5, "a stop in order sends nothing twice");
    assert_eq!(running.metric("rollbook_forward_deliveries_total", "delivered"), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_body_is_the_change_as_the_api_shows_it_and_has_the_row_if_that_is_wanted() {
    for expand in [false, true] {
        let stage = Stage::accepting();
        let running = stage.begin(ForwardSettings { expand, ..settings() }).await;
        stage.write(&["user_1"]).await;
        stage.until_settled().await;
        let change = &stage.endpoint.got()[0].change;
        let mut names: Vec<&str> =
            change.as_object().expect("an object").keys().map(String::as_str).collect();
        names.retain(|name| *name != "row");
        assert_eq!(change["feed"], "0000000000000001", "the generation of the feed");
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "at",
                "cause",
                "changed",
                "event_at",
                "feed",
                "kind",
                "origin",
                "position",
                "resource",
                "subject_id"
            ]
        );
        assert_eq!((&change["position"], &change["kind"]), (&Value::from(1), &Value::from("created")));
        assert_eq!(change.get("row").map(|row| &row["username"]), expand.then_some(&Value::from("name_1")));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_selected_changes_are_sent_and_the_position_passes_all() {
    let kinds = vec![ChangeKind::Updated];
    for (settings, sent) in [
        (ForwardSettings { resources: vec![&ORGANIZATIONS], ..settings() }, vec![]),
        (ForwardSettings { kinds, ..settings() }, vec![2]),
    ] {
        let stage = Stage::accepting();
        let running = stage.begin(settings).await;
        stage.write(&["user_1", "user_1", "user_2"]).await;
        stage.until_settled().await;
        assert_eq!(stage.endpoint.accepted(), sent);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_as_many_requests_at_once_as_is_set_and_one_per_subject() {
    let stage = Stage::new(|_, _| (Duration::from_secs(3), Verdict::Accepted));
    let running = stage.begin(ForwardSettings { concurrency: 5, slow_max: 0, ..settings() }).await;
    let subjects: Vec<String> = (0..40).map(|number| format!("user_{}", number % 20)).collect();
    stage.write(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
    stage.until_settled().await;
    assert_eq!(stage.endpoint.most_open(), 5);
    assert_eq!(stage.endpoint.accepted().len(), 40);
    let last = stage.endpoint.got().last().expect("a request").at;
    assert!(last <= Duration::from_secs(26), "8 rounds of 3 s: {last:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_poison_subject_harms_no_other_and_its_change_becomes_a_dead_letter() {
    let stage = Stage::new(|subject, _| {
        let verdict = if subject == "poison" { refused(500) } else { Verdict::Accepted };
        (Duration::from_millis(20), verdict)
    });
    let running = stage.begin(settings()).await;
    let subjects: Vec<String> = (0..1_000).map(|number| format!("user_{number}")).collect();
    let mut all = vec!["poison"];
    all.extend(subjects.iter().map(String::as_str));
    stage.write(&all).await;
    until("the healthy ones are delivered", || async { stage.endpoint.accepted().len() == 1_000 }).await;
    let last = stage.endpoint.got().iter().filter(|got| got.subject != "poison").map(|got| got.at).max();
    let ideal = Duration::from_millis(20 * 1_000 / 8);
    assert!(last.expect("a request") < ideal * 2, "{last:?} against {ideal:?}");
    assert_eq!(stage.forward().await.blocked, 1);
    // Other changes show that the endpoint is up, so that attempts count.
    until("it is a dead letter", || async {
        stage.write(&["user_1"]).await;
        stage.failed().await == [1]
    })
    .await;
    let tries = stage.endpoint.got().iter().filter(|got| got.subject == "poison").count();
    assert!((6..=9).contains(&tries), "{tries}");
    stage.until_settled().await;
    running.stop().await;
}
