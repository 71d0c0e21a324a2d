//! The rules: they ask for metrics that there are, and each alert leads to its entry in the runbook, whose
//! commands can be typed as they stand.

use std::collections::BTreeSet;

use rollbook_testkit::process::Home;

use super::{assert_readable, listed_series, names_in, read, rules};
use crate::crashes::BINARY;

/// The chapter of the runbook about alerts.
fn chapter() -> String {
    let runbook = read("RUNBOOK.md");
    let (_, chapter) = runbook.split_once("\n## Alerts\n").expect("a chapter about alerts");
    chapter.split("\n## ").next().expect("the chapter").to_owned()
}

/// The values of a key in the rules, one for each line that has it.
fn values(key: &str) -> Vec<String> {
    let text: Vec<String> =
        rules().iter().map(|file| std::fs::read_to_string(file).expect("rules")).collect();
    let lines = text.iter().flat_map(|text| text.lines());
    let prefix = format!("{key}: ");
    lines
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(&prefix))
        .map(|value| value.trim_matches('"').to_owned())
        .collect()
}

fn alerts() -> BTreeSet<String> {
    values("alert").into_iter().collect()
}

#[test]
fn every_metric_that_a_rule_asks_for_is_in_the_list_and_every_record_too() {
    let listed = listed_series();
    for file in rules() {
        let text = std::fs::read_to_string(&file).expect("rules");
        let unknown: Vec<&str> = names_in(&text).into_iter().filter(|name| !listed.contains(*name)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{}", file.display());
    }
    let recorded: BTreeSet<String> = values("record").into_iter().collect();
    let listed: BTreeSet<String> = listed.into_iter().filter(|name| name.contains(':')).collect();
    assert_eq!(recorded, listed);
}

#[test]
fn every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert() {
    let chapter = chapter();
    let entries: BTreeSet<String> =
        chapter.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    assert_eq!(entries, alerts());
    let urls: BTreeSet<String> = values("runbook_url").into_iter().collect();
    let anchor = |alert: &String| format!("ops/RUNBOOK.md#{}", alert.to_lowercase());
    assert_eq!(urls, alerts().iter().map(anchor).collect());
}

#[test]
fn every_entry_says_what_to_look_at_why_it_happens_and_what_mends_it() {
    for entry in chapter().split("\n### ").skip(1) {
        let name = entry.lines().next().unwrap_or_default();
        for part in ["**Means:**", "**First look:**", "**Usual causes", "**Call:**", "```sh"] {
            assert!(entry.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn every_command_and_every_metric_of_the_runbook_exists() {
    let runbook = read("RUNBOOK.md");
    let listed = listed_series();
    let unknown: Vec<&str> = names_in(&runbook).into_iter().filter(|name| !listed.contains(*name)).collect();
    assert_eq!(unknown, Vec::<&str>::new());
    let home = Home::new(BINARY);
    let in_text = runbook.split('`').filter(|part| part.starts_with("rollbook "));
    let in_blocks = runbook.lines().filter(|line| line.starts_with("rollbook "));
    let mut commands = 0;
    for command in in_text.chain(in_blocks) {
        let words = command.split(['|', '#']).next().unwrap_or_default().split_whitespace().skip(1);
        // With this at their end the words are read, and nothing is done.
        let arguments: Vec<&str> = words.chain(["--help"]).collect();
        let output = home.command(&arguments).output().expect("the binary starts");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        commands += 1;
    }
    assert!(commands > 15, "{commands} commands");
    let queries = runbook.lines().filter(|line| line.starts_with("promtool query instant "));
    let queries = queries.map(|line| line.split('\'').nth(1).expect("an expression in quotes").to_owned());
    assert_readable(&queries.collect::<Vec<_>>());
}

#[test]
fn every_alert_says_how_urgent_it_is_and_has_a_test_that_sees_it_fire() {
    let severities = values("labels");
    assert_eq!(severities.len(), values("alert").len());
    let known = ["{ severity: critical }", "{ severity: warning }"];
    assert!(severities.iter().all(|severity| known.contains(&severity.as_str())), "{severities:?}");
    let tests = std::fs::read_dir(super::ops().join("prometheus/tests")).expect("the tests").flatten();
    let tests: String = tests.map(|entry| std::fs::read_to_string(entry.path()).expect("a test")).collect();
    for alert in alerts() {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert}");
    }
}
