//! Rules of the architecture, checked in the manifests and sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates that each crate may use. A new arrow is a reviewed change of this table and of crates/README.md.
const ARROWS: [(&str, &[&str]); 17] = [
    ("rollbook-core", &[]),
    ("rollbook-http", &[]),
    ("rollbook-clerk", &["rollbook-core", "rollbook-http"]),
    ("rollbook-simulator", &["rollbook-core", "rollbook-http"]),
    ("rollbook-sqlite", &["rollbook-core"]),
    ("rollbook-redis", &["rollbook-core"]),
    ("rollbook-postgres", &["rollbook-core"]),
    ("rollbook-receiver", &["rollbook-core", "rollbook-http"]),
    ("rollbook-worker", &["rollbook-core"]),
    ("rollbook-reconciler", &["rollbook-core"]),
    ("rollbook-forwarder", &["rollbook-core", "rollbook-http", "rollbook-operator"]),
    ("rollbook-operator", &["rollbook-core"]),
    ("rollbook-session", &[]),
    ("rollbook-ops", &["rollbook-core", "rollbook-http"]),
    ("rollbook-api", &["rollbook-core", "rollbook-http", "rollbook-operator", "rollbook-session"]),
    ("rollbook-testkit", &["rollbook-core", "rollbook-http", "rollbook-simulator"]),
    (
        "rollbook",
        &[
            "rollbook-api",
            "rollbook-clerk",
            "rollbook-core",
            "rollbook-forwarder",
            "rollbook-http",
            "rollbook-operator",
            "rollbook-ops",
            "rollbook-postgres",
            "rollbook-receiver",
            "rollbook-reconciler",
            "rollbook-redis",
            "rollbook-session",
            "rollbook-simulator",
            "rollbook-sqlite",
            "rollbook-worker",
        ],
    ),
];

/// Crates that a pure core may not use: each does I/O, reads a clock or draws random numbers.
const IMPURE: [&str; 10] =
    ["tokio", "hyper", "axum", "rusqlite", "sqlx", "redis", "fastrand", "rand", "tracing", "prometheus"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn manifests() -> BTreeMap<String, toml::Table> {
    let crates = std::fs::read_dir(root().join("crates")).expect("the crates").flatten();
    crates
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("Cargo.toml")).expect("a manifest");
            let name = entry.file_name().into_string().expect("a plain name");
            (name, text.parse().expect("TOML"))
        })
        .collect()
}

/// Returns the packages of a lock file, each as name and version.
fn locked(path: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(root().join(path)).expect("a lock file");
    let lock: toml::Table = text.parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages").iter();
    let text = |package: &toml::Value, key: &str| package[key].as_str().expect("a text").to_owned();
    packages.map(|package| (text(package, "name"), text(package, "version"))).collect()
}

fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_arrow_between_crates_is_in_the_table() {
    let manifests = manifests();
    let names: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
    assert_eq!(names, ARROWS.iter().map(|(name, _)| *name).collect(), "every crate has its line");
    for (name, allowed) in ARROWS {
        let ours: BTreeSet<String> = dependencies(&manifests[name], "dependencies")
            .into_iter()
            .filter(|used| used.starts_with("rollbook"))
            .collect();
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(ours, allowed, "{name}");
    }
}

#[test]
fn the_testkit_is_used_by_tests_alone_and_never_by_the_core() {
    for (name, manifest) in manifests() {
        assert!(!dependencies(&manifest, "dependencies").contains("rollbook-testkit"), "{name}");
    }
    let core = dependencies(&manifests()["rollbook-core"], "dev-dependencies");
    assert!(core.iter().all(|used| !used.starts_with("rollbook")), "{core:?}");
}

#[test]
fn the_core_has_no_dependency_that_could_do_io() {
    let core = dependencies(&manifests()["rollbook-core"], "dependencies");
    assert!(IMPURE.iter().all(|impure| !core.contains(*impure)), "{core:?}");
}

#[test]
fn only_the_wiring_names_a_backend() {
    let binary = root().join("crates/rollbook/src");
    let names_a_backend = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source");
        ["rollbook_sqlite", "rollbook_redis", "rollbook_postgres", "ClerkSettings"]
            .iter()
            .any(|name| text.contains(name))
    };
    let naming: Vec<PathBuf> = sources(&binary)
        .into_iter()
        .filter(names_a_backend)
        .map(|path| path.strip_prefix(&binary).expect("below it").to_owned())
        .collect();
    assert_eq!(naming, [Path::new("wire.rs")]);
}

#[test]
fn only_one_crate_opens_connections_for_http() {
    for crate_name in ARROWS.map(|(name, _)| name).into_iter().filter(|name| *name != "rollbook-http") {
        for path in sources(&root().join("crates").join(crate_name).join("src")) {
            let text = std::fs::read_to_string(&path).expect("a source");
            let is_client =
                ["hyper::client", "hyper_util::client", "reqwest::"].iter().any(|name| text.contains(name));
            assert!(!is_client, "{}: the HTTP clients are in rollbook-http", path.display());
        }
    }
}

#[test]
fn every_source_begins_by_saying_what_it_is_for() {
    for path in sources(&root().join("crates")).into_iter().chain(sources(&root().join("tests"))) {
        let text = std::fs::read_to_string(&path).expect("a source");
        assert!(text.starts_with("//!"), "{}", path.display());
    }
}

/// Maximum lines of a shipped source file. Clippy limits the length of functions (`clippy.toml`).
const LINES_MAX: usize = 400;

#[test]
fn no_shipped_source_is_longer_than_the_limit() {
    let shipped = sources(&root().join("crates")).into_iter().filter(|path| {
        let path = path.display().to_string();
        path.contains("/src/") && !path.contains("rollbook-testkit")
    });
    for path in shipped {
        let lines = std::fs::read_to_string(&path).expect("a source").lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_dependency_has_its_line_of_reason() {
    let page = std::fs::read_to_string(root().join("crates/DEPENDENCIES.md")).expect("the page");
    let workspace: toml::Table =
        std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest").parse().expect("TOML");
    let listed = workspace["workspace"]["dependencies"].as_table().expect("a table");
    for name in listed.keys().filter(|name| !name.starts_with("rollbook")) {
        assert!(page.contains(&format!("`{name}`")), "crates/DEPENDENCIES.md has no reason for {name}");
    }
}

#[test]
fn what_is_fuzzed_is_what_ships() {
    let shipped = locked("Cargo.lock");
    let is_shipped = |name: &str| shipped.iter().any(|(known, _)| known == name);
    let other: Vec<_> = locked("crates/rollbook-core/fuzz/Cargo.lock")
        .into_iter()
        .filter(|package| is_shipped(&package.0) && !shipped.contains(package))
        .collect();
    assert!(
        other.is_empty(),
        "in other versions than in Cargo.lock: {other:?}\nFix: cp Cargo.lock crates/rollbook-core/fuzz/ && \
         cargo metadata --manifest-path crates/rollbook-core/fuzz/Cargo.toml --format-version 1 >/dev/null"
    );
}
