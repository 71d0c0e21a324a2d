//! Dashboard: it answers four questions in their order, with valid expressions and existing metrics.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{assert_readable, listed_series, names_in, read};

const QUESTIONS: [&str; 4] =
    ["Is it healthy?", "How late are we?", "What is failing, and why?", "How much headroom?"];

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/dashboards/rollbook.json")).expect("JSON")
}

fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().expect("panels").clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Returns every expression, with variables replaced as Grafana does.
fn expressions() -> Vec<String> {
    let panels = panels();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let annotations = dashboard()["annotations"]["list"].as_array().expect("annotations").clone();
    let expressions = targets.chain(annotations).map(|asked| text(&asked, "expr").to_owned());
    expressions
        .map(|expression| expression.replace("$__rate_interval", "5m").replace("$job", "rollbook"))
        .collect()
}

#[test]
fn the_dashboard_answers_the_four_questions_in_their_order() {
    let panels = panels();
    let rows = panels.iter().filter(|panel| text(panel, "type") == "row");
    assert_eq!(rows.map(|row| text(row, "title")).collect::<Vec<_>>(), QUESTIONS);
    let at = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().expect("a place");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let mut last = 0;
    for panel in &panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        assert!(at(panel, "y") >= last, "{} stands under another question", text(panel, "title"));
        last = at(panel, "y");
        assert!(at(panel, "x") + at(panel, "w") <= 24, "{panel}");
        for y in at(panel, "y")..at(panel, "y") + at(panel, "h") {
            for x in at(panel, "x")..at(panel, "x") + at(panel, "w") {
                assert!(taken.insert((x, y)), "{} covers another", text(panel, "title"));
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    for panel in panels().iter().filter(|panel| text(panel, "type") != "row") {
        assert!(!text(panel, "title").is_empty() && !text(panel, "description").is_empty(), "{panel}");
        assert_eq!(text(&panel["datasource"], "uid"), "${datasource}", "{panel}");
        assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{panel}");
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{panel}");
    }
}

#[test]
fn alerts_are_listed_by_name_with_a_link_and_deploys_time_to_empty_and_a_closed_gate_are_shown() {
    let panels = panels();
    let panel = |part: &str| {
        let asks = |panel: &&Value| panel["targets"].to_string().contains(part);
        panels.iter().find(asks).unwrap_or_else(|| panic!("a panel that asks for {part}")).to_string()
    };
    let alerts = panel("by (alertname, severity, job) (ALERTS");
    assert!(
        alerts.contains("${alertmanager}/#/alerts?filter=%7Balertname%3D%22${__value.text}%22%7D"),
        "{alerts}"
    );
    assert!(panel("deriv(rollbook:queue_depth").contains(r#""unit":"s""#));
    assert!(panel("rollbook_gate_closed").contains("{{reason}}"));
    for part in ["rollbook_queue_memory_limit_bytes", "rollbook_queue_disk_available_bytes"] {
        panel(part);
    }
    let deploys = &dashboard()["annotations"]["list"][0];
    assert!(
        text(deploys, "expr").contains("rollbook_build_info")
            && text(deploys, "titleFormat").contains("version")
    );
}

#[test]
fn prometheus_can_read_every_expression_and_every_metric_in_it_exists() {
    let listed = listed_series();
    let expressions = expressions();
    assert!(expressions.len() > 20, "{} expressions", expressions.len());
    for expression in &expressions {
        assert!(!expression.contains('$'), "a variable is left: {expression}");
        for name in names_in(expression) {
            assert!(listed.contains(name), "{name} in {expression}");
        }
    }
    assert_readable(&expressions);
}

#[test]
fn every_metric_is_on_the_dashboard_itself_or_within_a_recorded_series() {
    /// Metrics that only an investigation needs.
    // The position of the change feed means something next to the position of its readers only, and so do the counts of
    // the API, which most deployments do not have. Alerts watch the keys of session tokens and their lengths. Secrets are
    // looked at during a rotation; an alert watches their reload.
    const ELSEWHERE: [&str; 18] = [
        // Shown by top; the panel of outcomes shows the kind of failure.
        "rollbook_forward_last_status",
        // Shown by doctor and the log: it says what the setting says.
        "rollbook_durability_trusted",
        "rollbook_signing_secret_last_match_timestamp_seconds",
        "rollbook_secret_reloads_total",
        "rollbook_secret_reload_failing",
        "rollbook_connections_closed_total",
        "rollbook_tidied_total",
        "rollbook_changes_position",
        "rollbook_api_requests_total",
        "rollbook_api_readers",
        "rollbook_api_changes_total",
        "rollbook_api_refreshes_total",
        "rollbook_session_refusals_total",
        "rollbook_session_keys",
        "rollbook_session_key_fetches_total",
        "rollbook_session_keys_fetched_timestamp_seconds",
        "rollbook_token_bytes",
        "rollbook_forward_position",
    ];
    let shown = expressions().join("\n");
    let records = read("prometheus/rules/records.yml");
    let on = |name: &str| {
        let parts = ["", "_bucket", "_sum", "_count"].map(|part| format!("{name}{part}"));
        let is_in =
            |text: &str| names_in(text).into_iter().any(|found| parts.iter().any(|part| part == found));
        is_in(&shown) || is_in(&records)
    };
    for metric in super::metrics::listed(&read("METRICS.md")) {
        let is_ours = metric.name.starts_with("rollbook_");
        assert!(
            !is_ours || on(&metric.name) != ELSEWHERE.contains(&&*metric.name),
            "{}: a panel, or a reason to be in ELSEWHERE",
            metric.name
        );
    }
}

#[test]
fn grafana_is_provisioned_with_the_dashboard_and_the_source_that_it_asks() {
    let compose = std::fs::read_to_string(super::ops().join("../docker-compose.yml")).expect("the file");
    assert!(compose.contains("- ./ops/grafana/dashboards:/etc/grafana/dashboards:ro"), "{compose}");
    assert!(compose.contains("- ./ops/grafana/provisioning:/etc/grafana/provisioning:ro"), "{compose}");
    assert!(read("grafana/provisioning/dashboards/rollbook.yml").contains("path: /etc/grafana/dashboards "));
    let source = &dashboard()["templating"]["list"][0]["current"]["value"];
    let provisioned = read("grafana/provisioning/datasources/prometheus.yml");
    assert!(provisioned.contains(&format!("uid: {}\n", source.as_str().expect("a source"))), "{source}");
}
