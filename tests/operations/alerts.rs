//! Rules of Prometheus: they use existing metrics, and each alert links to its entry in the runbook.

use std::collections::BTreeSet;

use super::{listed_series, names_in, read, rules};
use crate::architecture;

/// Returns the chapter of the runbook about alerts.
fn chapter() -> String {
    let runbook = read("RUNBOOK.md");
    let (_, chapter) = runbook.split_once("\n## Alerts\n").expect("a chapter about alerts");
    chapter.split("\n## ").next().expect("the chapter").to_owned()
}

/// Returns the values of a key in the rules, one for each line with it.
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
    // A link is absolute where Prometheus has the external label.
    let anchor = |alert: &String| {
        format!("{{{{ $externalLabels.runbook_base }}}}ops/RUNBOOK.md#{}", alert.to_lowercase())
    };
    assert_eq!(urls, alerts().iter().map(anchor).collect());
}

#[test]
fn every_entry_says_what_it_means_how_to_check_how_to_fix_it_and_whom_to_call() {
    for entry in chapter().split("\n### ").skip(1) {
        let name = entry.lines().next().unwrap_or_default();
        for part in ["**Means:**", "**Check:**", "**Fix", "**Call:**", "```sh"] {
            assert!(entry.contains(part), "{name} has no {part}");
        }
    }
}

/// Patterns of `grep` in the alerts' entries that do not search for a text of Rollbook's.
const OTHER_PATTERNS: [&str; 3] = ["WARN", "ERROR", "panicked"];

/// Returns the texts of Rollbook's log and answers in the chapter: quoted ones, and those that its commands
/// search for.
fn quoted_texts(chapter: &str) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for (number, part) in chapter.split("```").enumerate() {
        if number % 2 == 1 {
            let lines = part
                .lines()
                .filter(|line| line.contains(" logs "))
                .filter_map(|line| line.split_once("| grep "));
            let patterns = lines.filter_map(|(_, grep)| grep.split('\'').nth(1));
            texts.extend(patterns.flat_map(|pattern| pattern.split('|')).map(str::to_owned));
        } else {
            let prose: String = part.split('`').step_by(2).collect();
            let words: Vec<&str> = prose.split_whitespace().collect();
            let prose = words.join(" ");
            let quoted = prose.split('"').skip(1).step_by(2).flat_map(|text| text.split('…'));
            texts.extend(quoted.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()));
        }
    }
    texts.retain(|text| text != "on disk" && !OTHER_PATTERNS.contains(&text.as_str()));
    texts
}

#[test]
fn every_text_that_an_entry_quotes_or_looks_for_in_a_log_is_one_that_the_code_writes() {
    let sources: String = architecture::sources(&architecture::root().join("crates"))
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "src"))
        .flat_map(|path| {
            std::fs::read_to_string(path).expect("a source").lines().map(code).collect::<Vec<_>>()
        })
        .collect();
    let texts = quoted_texts(&chapter());
    assert!(texts.len() > 20, "{texts:?}");
    let unknown: Vec<&String> = texts.iter().filter(|text| !sources.contains(text.as_str())).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "the runbook quotes texts that no source contains");
}

/// Returns a line without its comment, joined with the next one if a text continues there.
fn code(line: &str) -> String {
    let line = line.trim_start();
    match line.strip_suffix('\\') {
        _ if line.starts_with("//") => String::new(),
        Some(continued) => continued.to_owned(),
        None => format!("{line}\n"),
    }
}

#[test]
fn every_alert_says_how_urgent_it_is_and_has_a_test_that_sees_it_fire_with_that_urgency() {
    let severities = values("labels");
    assert_eq!(severities.len(), values("alert").len());
    let known = ["{ severity: critical }", "{ severity: warning }"];
    assert!(severities.iter().all(|severity| known.contains(&severity.as_str())), "{severities:?}");
    let tests = std::fs::read_dir(super::ops().join("prometheus/tests")).expect("the tests").flatten();
    let tests: String = tests.map(|entry| std::fs::read_to_string(entry.path()).expect("a test")).collect();
    for (alert, labels) in values("alert").iter().zip(&severities) {
        let severity = labels.trim_matches(['{', '}', ' ']).trim_start_matches("severity: ");
        let seen = format!("{{alertname=\"{alert}\", severity=\"{severity}\"}}");
        assert!(tests.contains(&seen), "{seen}");
    }
}
