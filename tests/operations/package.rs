//! The Debian package: `ops/deb` with the binary that is being tested.

use std::process::Command;

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
