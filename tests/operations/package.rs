//! Files of a release: `ops/deb` and `ops/release` with the binary that is being tested.

use std::process::Command;

use super::supply::crates;
use crate::crashes::BINARY;

/// Runs a program to its end and returns its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program} can't be run ({error}); it is part of every Debian: ops/deb needs it")
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_debian_package_holds_binary_units_sample_and_licences_and_names_the_release() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = super::ops().join("deb").display().to_string();
    let package = run(&script, &[BINARY, &folder.path().display().to_string()]);
    let package = package.trim();

    let files = run("dpkg-deb", &["--contents", package]);
    let units = std::fs::read_dir(super::ops().join("systemd")).expect("the units").flatten();
    let units = units.map(|unit| format!("usr/lib/systemd/system/{}", unit.file_name().display()));
    let others = [
        "usr/bin/rollbook",
        "usr/share/doc/rollbook/examples/rollbook.toml",
        "usr/share/doc/rollbook/LICENSE-MIT",
        "usr/share/doc/rollbook/LICENSE-APACHE",
        "usr/share/doc/rollbook/THIRD-PARTY-NOTICES",
    ];
    for file in units.chain(others.map(str::to_owned)) {
        assert!(files.lines().any(|line| line.ends_with(&format!("./{file}"))), "{file} is not in:\n{files}");
    }
    assert!(files.lines().all(|line| line.contains("root/root")), "{files}");

    let field = |name: &str| run("dpkg-deb", &["--field", package, name]).trim().to_owned();
    assert_eq!((field("Package"), field("Version")), ("rollbook".into(), env!("CARGO_PKG_VERSION").into()));

    let unpacked = folder.path().join("unpacked").display().to_string();
    run("dpkg-deb", &["--extract", package, &unpacked]);
    let version = run(&format!("{unpacked}/usr/bin/rollbook"), &["--version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let unit = std::fs::read_to_string(format!("{unpacked}/usr/lib/systemd/system/rollbook.service"));
    assert!(
        unit.expect("the unit").contains("ExecStart=/usr/bin/rollbook serve"),
        "the unit runs another binary"
    );
}

#[test]
fn a_release_has_an_archive_a_package_checksums_notices_and_a_bill_of_materials_with_every_crate() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let script = super::ops().join("release").display().to_string();
    let listed = run(&script, &[&path(""), BINARY]);
    let named = |ending: &str| {
        let mut found = listed.lines().filter(|name| name.ends_with(ending));
        let name = found.next().unwrap_or_else(|| panic!("no {ending} in {listed}"));
        assert!(found.next().is_none(), "{listed}");
        name.to_owned()
    };
    let archive = named(".tar.gz");
    let prefix = archive.trim_end_matches(".tar.gz");
    assert!(prefix.starts_with(&format!(
        "rollbook-{}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    )));
    for name in [named(".deb"), named("THIRD-PARTY-NOTICES"), named("SHA256SUMS")] {
        assert!(std::fs::metadata(path(&name)).expect("a file").len() > 0, "{name}");
    }
    run("sh", &["-c", &format!("cd '{}' && sha256sum --check --strict --quiet SHA256SUMS", path(""))]);
    let sums = std::fs::read_to_string(path("SHA256SUMS")).expect("the sums");
    assert_eq!(sums.lines().count(), listed.lines().count() - 1, "every other file has one");

    run("tar", &["-C", &path(""), "-xzf", &path(&archive)]);
    for file in ["rollbook.toml", "LICENSE-MIT", "THIRD-PARTY-NOTICES", "systemd/rollbook.service"] {
        assert!(folder.path().join(prefix).join(file).exists(), "{file}");
    }
    let packed = path(&format!("{prefix}/rollbook"));
    assert!(run(&packed, &["--version"]).contains(env!("CARGO_PKG_VERSION")));
    let sections = run("readelf", &["--section-headers", "--wide", &packed]);
    assert!(sections.contains(".symtab") && !sections.contains(".debug_info"), "names stay, for backtraces");

    let bill = std::fs::read_to_string(path(&named(".cdx.json"))).expect("the bill");
    let bill: serde_json::Value = serde_json::from_str(&bill).expect("JSON");
    assert_eq!(
        bill["metadata"]["component"]["purl"],
        format!("pkg:cargo/rollbook@{}", env!("CARGO_PKG_VERSION"))
    );
    let components = bill["components"].as_array().expect("components");
    let has = |name: &str, version: &str, licence: &str| {
        components.iter().any(|one| {
            let is_it =
                one["name"] == name && one["version"] == version && one["hashes"][0]["alg"] == "SHA-256";
            is_it && one["licenses"][0]["expression"] == licence.replace('/', " OR ")
        })
    };
    for (name, version, licence) in crates() {
        assert!(has(&name, &version, &licence), "{name} {version} {licence}");
    }
}
