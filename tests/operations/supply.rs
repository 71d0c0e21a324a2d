//! Supply chain of the binary and the images: licences, sources and bans of deny.toml, notices,
//! digests.
//!
//! cargo-deny need not be installed: cargo's own metadata has the same facts, offline.

use std::process::Command;

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Returns the text of a file, by its path from the root.
fn read(name: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).current_dir(ROOT).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

/// Returns the third-party crates in the binary: name, version, licence.
pub(super) fn crates() -> Vec<(String, String, String)> {
    let format = ["--format", "{p}|{l}"];
    let which =
        ["tree", "--package", "rollbook", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"];
    let listed = run(env!("CARGO"), &[&which[..], &format, &["--offline", "--locked"]].concat());
    let others = listed.lines().filter(|line| !line.contains(" (/"));
    let mut crates: Vec<_> = others
        .map(|line| {
            let (package, licence) = line.split_once('|').expect("two fields");
            let (name, version) = package.split_once(" v").expect("a version");
            let version = version.split(' ').next().unwrap_or_default();
            (name.to_owned(), version.to_owned(), licence.to_owned())
        })
        .collect();
    crates.sort();
    crates.dedup();
    crates
}

fn texts<'a>(table: &'a toml::Table, path: [&str; 2]) -> Vec<&'a str> {
    let list = table[path[0]][path[1]].as_array().expect("a list");
    list.iter().filter_map(|entry| entry.as_str().or_else(|| entry.get("crate")?.as_str())).collect()
}

fn deny() -> toml::Table {
    read("deny.toml").parse().expect("deny.toml is TOML")
}

/// Returns whether an SPDX expression without nested brackets is allowed: for each part that AND joins, one
/// of those that OR joins.
fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    let plain = licence.replace('/', " OR ").replace(['(', ')'], "");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|name| allowed.contains(&name.trim())))
}

#[test]
fn every_crate_in_the_binary_has_a_licence_that_is_allowed() {
    let deny = deny();
    let allowed = texts(&deny, ["licenses", "allow"]);
    let crates = crates();
    assert!(crates.len() > 100, "{} crates", crates.len());
    let refused: Vec<_> = crates.iter().filter(|(.., licence)| !is_allowed(licence, &allowed)).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(!is_allowed("GPL-3.0-only", &allowed) && !is_allowed("MIT AND GPL-3.0-only", &allowed));
    assert!(
        is_allowed("(MIT OR GPL-3.0-only) AND Unicode-3.0", &allowed)
            && is_allowed("MIT/Apache-2.0", &allowed)
    );
}

#[test]
fn every_crate_comes_from_the_registry_with_a_checksum_and_none_is_banned() {
    let deny = deny();
    let lock: toml::Table = read("Cargo.lock").parse().expect("Cargo.lock is TOML");
    let banned = texts(&deny, ["bans", "deny"]);
    let sources = texts(&deny, ["sources", "allow-registry"]);
    let binary: Vec<String> = crates().into_iter().map(|(name, ..)| name).collect();
    for package in lock["package"].as_array().expect("packages") {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str);
        let name = text("name").expect("a name");
        let Some(source) = text("source") else {
            assert!(name.starts_with("rollbook"), "{name} is a folder");
            continue;
        };
        let source = source.strip_prefix("registry+").unwrap_or(source);
        assert!(sources.contains(&source), "{name} comes from {source}");
        assert!(text("checksum").is_some(), "{name} has no checksum");
    }
    for name in banned {
        assert!(!binary.iter().any(|found| found == name), "{name} is in the binary");
    }
}

#[test]
fn the_notices_name_every_crate_and_hold_a_text_of_each_licence() {
    let notices = run("sh", &["ops/third-party-notices"]);
    for (name, version, licence) in crates() {
        assert!(notices.contains(&format!("\n{name} v{version}")), "{name} {version}");
        assert!(notices.contains(&format!("licence: {licence}")), "{licence}");
    }
    for words in
        ["Permission is hereby granted", "Apache License", "UNICODE LICENSE", "Boost Software License"]
    {
        assert!(notices.contains(words), "{words}");
    }
    let dockerfile = read("ops/Dockerfile");
    assert!(dockerfile.contains("THIRD-PARTY-NOTICES /usr/share/doc/rollbook/"), "the image has them");
}

#[test]
fn every_image_is_pinned_by_digest() {
    let said = run("bash", &["ops/pin-images", "--check"]);
    assert!(said.contains("all are pinned"), "{said}");
}

#[test]
fn the_metadata_names_the_licence_of_every_crate_of_ours() {
    let metadata =
        run(env!("CARGO"), &["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    for package in metadata["packages"].as_array().expect("packages") {
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{}", package["name"]);
    }
}
