//! Pages that the next engineer reads first: their size, the glossary, the invariants with their tests, and the
//! records of decisions.

use std::collections::BTreeSet;
use std::path::Path;

use crate::architecture::root;

/// Maximum number of lines of the pages that a newcomer reads first.
const FIRST_PAGES: [(&str, usize); 2] = [("README.md", 150), ("crates/README.md", 149)];
/// Maximum number of terms of the glossary.
const TERMS_MAX: usize = 25;
/// Maximum number of lines of a record of a decision.
const RECORD_MAX: usize = 25;

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).expect("a page")
}

#[test]
fn the_first_pages_and_the_glossary_are_short() {
    for (page, lines_max) in FIRST_PAGES {
        let lines = read(page).lines().count();
        assert!(lines <= lines_max, "{page} has {lines} lines, and at most {lines_max} are allowed");
    }
    let page = read("crates/README.md");
    let (_, glossary) = page.split_once("## Glossary").expect("the glossary");
    let terms = glossary.lines().filter(|line| line.starts_with("| ")).skip(2).count();
    assert!((1..=TERMS_MAX).contains(&terms), "{terms} terms, and at most {TERMS_MAX} are allowed");
}

/// Adds the names of all sources and folders, and of all macros, below a folder.
fn names(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && stem != "target" {
            found.insert(stem);
            names(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(stem);
            let text = std::fs::read_to_string(&path).expect("a source");
            let macros = text.lines().filter_map(|line| line.trim().strip_prefix("macro_rules! "));
            found.extend(macros.map(|name| name.trim_end_matches([' ', '{']).to_owned()));
        }
    }
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let mut known = BTreeSet::from(["disallowed_methods".to_owned()]);
    names(&root().join("crates"), &mut known);
    names(&root().join("tests"), &mut known);
    let page = read("crates/README.md");
    let (_, rest) = page.split_once("## Invariants").expect("the invariants");
    let (invariants, _) = rest.split_once("## ").expect("the next chapter");
    let mut items: Vec<String> = Vec::new();
    for line in invariants.lines() {
        if line.starts_with(|c: char| c.is_ascii_digit()) {
            items.push(line.to_owned());
        } else if let Some(item) = items.last_mut() {
            *item += line;
        }
    }
    assert!(items.len() >= 14, "{items:?}");
    for item in items {
        let (_, brackets) = item.rsplit_once('(').expect("names in brackets");
        let named: Vec<&str> = brackets.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test is named: {item}");
        for name in named {
            let first = name.split("::").next().unwrap_or_default();
            let last = first.rsplit('/').next().unwrap_or_default();
            let name = last.trim_end_matches(".rs").trim_end_matches('!');
            assert!(known.contains(name), "{name} is neither a file of tests nor a macro: {item}");
        }
    }
}

#[test]
fn every_decision_is_a_short_record_with_its_status_and_its_check() {
    let folder = root().join("crates/decisions");
    let mut numbers = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the records").flatten() {
        let name = entry.file_name().into_string().expect("a plain name");
        let Some((number, _)) = name.split_once('-') else { continue };
        let text = std::fs::read_to_string(entry.path()).expect("a record");
        assert!(text.lines().count() <= RECORD_MAX, "{name} has more than {RECORD_MAX} lines");
        assert!(text.contains("\nStatus: "), "{name} has no status");
        assert!(text.contains("\n**Check.**") || text.contains("\nCheck: "), "{name} has no check");
        assert!(numbers.insert(number.to_owned()), "two records have the number {number}");
    }
    assert!(numbers.len() > 100, "{} records", numbers.len());
}
