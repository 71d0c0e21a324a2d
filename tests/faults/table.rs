//! Checks the table of `ops/RELIABILITY.md`: every named test exists, every experiment has a test or a reason
//! why not, and every test of this folder is in the table.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Number of experiments.
const EXPERIMENTS: usize = 33;
const PAGE: &str = "ops/RELIABILITY.md";
const SOAK: &str = "tests/soak/experiment.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns number, experiment, promise, tests and result of each row.
fn rows(page: &str) -> Vec<[&str; 5]> {
    let rows = page.lines().filter(|line| line.starts_with('|') && line.contains(" | "));
    let cells = rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    let numbered = cells.filter(|cells| cells[0].parse::<usize>().is_ok());
    numbered
        .map(|cells| cells.try_into().unwrap_or_else(|cells| panic!("not five cells: {cells:?}")))
        .collect()
}

/// Returns the texts in `code`.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the functions of a source that are tests, by their attribute.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let after = source.split("test]\n").skip(1).chain(source.split("test(").skip(1));
    let names = after.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
    names.map(|(name, _)| name).collect()
}

#[test]
fn every_experiment_has_a_test_that_exists_or_says_why_not() {
    let page = read(PAGE);
    let rows = rows(&page);
    let numbers: Vec<usize> = rows.iter().map(|row| row[0].parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=EXPERIMENTS).collect::<Vec<_>>());
    for [number, experiment, promise, tests, result] in rows {
        assert!(![experiment, promise, result].contains(&""), "row {number} has an empty cell");
        let (tests, reason) = tests.split_once("not tested: ").unwrap_or((tests, ""));
        let named: Vec<&str> = code(tests).collect();
        assert!(!named.is_empty() || !reason.is_empty(), "row {number} names no test and no reason");
        for name in named {
            if let Some((file, function)) = name.split_once("::") {
                assert!(tests_of(&read(file)).contains(function), "row {number}: there is no test {name}");
            } else {
                let experiment =
                    name.strip_prefix("ops/soak ").unwrap_or_else(|| panic!("row {number}: {name}"));
                let known = read(SOAK).contains(&format!("=> \"{experiment}\""));
                assert!(known, "row {number}: ops/soak has no experiment {experiment}");
            }
        }
    }
}

#[test]
fn every_experiment_with_the_real_binary_is_in_the_table() {
    let page = read(PAGE);
    let named: BTreeSet<&str> = code(&page).collect();
    let folder = std::fs::read_dir(root().join("tests/faults")).expect("a folder");
    for entry in folder.map(|entry| entry.expect("an entry")) {
        let file = format!("tests/faults/{}", entry.file_name().display());
        if file.ends_with("/table.rs") {
            continue;
        }
        for test in tests_of(&read(&file)) {
            assert!(named.contains(&*format!("{file}::{test}")), "{PAGE} does not name {file}::{test}");
        }
    }
}
