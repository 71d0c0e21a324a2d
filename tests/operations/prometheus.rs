//! A real Prometheus scrapes the real binary and evaluates the unchanged rules.

use std::collections::BTreeSet;

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::prometheus::PrometheusServer;
use serde_json::Value;

use super::{promtool, rules};
use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

/// Returns the firing alerts, by name.
pub(super) async fn firing(prometheus: &PrometheusServer) -> BTreeSet<String> {
    let answer = prometheus.api("/alerts").await.unwrap_or_default();
    let alerts = answer["alerts"].as_array().cloned().unwrap_or_default();
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    firing.filter_map(|alert| alert["labels"]["alertname"].as_str()).map(str::to_owned).collect()
}

/// Returns every rule, once all were evaluated after the first scrape.
async fn evaluated(prometheus: &PrometheusServer) -> Vec<Value> {
    let answer = prometheus.api("/rules").await.unwrap_or_default();
    let groups = answer["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
}

async fn value(prometheus: &PrometheusServer, series: &str) -> Option<f64> {
    let answer = prometheus.api(&format!("/query?query={series}")).await?;
    answer["result"][0]["value"][1].as_str()?.parse().ok()
}

#[tokio::test]
async fn a_dead_letter_fires_its_alert_and_no_other_and_discarding_it_ends_the_alert() {
    let home = Home::new(BINARY);
    let _rollbook = home.start_ready(&["serve"]).await;
    let prometheus = PrometheusServer::start(home.ops, &rules()).await;
    until("Prometheus has scraped and recorded", || async {
        value(&prometheus, "rollbook:dead_letters").await == Some(0.0)
    })
    .await;
    let event = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;
    assert_eq!(status(&exchange(home.listen, &signed("msg_good", event)).await), 200);
    assert_eq!(status(&exchange(home.listen, &signed("msg_poison", "no JSON")).await), 200);
    until("the alert fires", || async { firing(&prometheus).await.contains("RollbookDeadLetters") }).await;
    assert_eq!(firing(&prometheus).await, BTreeSet::from(["RollbookDeadLetters".to_owned()]));

    let rules = evaluated(&prometheus).await;
    assert!(rules.len() > 30, "{} rules", rules.len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    assert_eq!(value(&prometheus, "rollbook:queue_fill:ratio").await, Some(0.0));

    let discarded = home.command(&["dead-letters", "discard", "--all"]).output().expect("the binary starts");
    assert!(discarded.status.success(), "{discarded:?}");
    until("nothing fires", || async { firing(&prometheus).await.is_empty() }).await;
}

#[tokio::test]
async fn a_process_that_is_killed_is_down_and_then_absent() {
    let home = Home::new(BINARY);
    let mut rollbook = home.start_ready(&["serve"]).await;
    let prometheus = PrometheusServer::start(home.ops, &rules()).await;
    until("it is seen", || async { value(&prometheus, "rollbook_build_info").await == Some(1.0) }).await;
    until("nothing fires", || async { firing(&prometheus).await.is_empty() }).await;
    rollbook.kill();
    let both = BTreeSet::from(["RollbookAbsent".to_owned(), "RollbookTargetDown".to_owned()]);
    until("both fire, and no other", || async { firing(&prometheus).await == both }).await;
}

#[test]
fn promtool_accepts_the_configurations_and_the_rules() {
    for file in ["prometheus.yml", "one-machine.yml"] {
        let config = super::ops().join("prometheus").join(file);
        promtool(&["check", "config", config.to_str().expect("UTF-8")], "");
    }
}
