//! Passes the commit and its date to the compiler, for `rollbook --version`.
//!
//! The date is the commit's, so that a second build of the same commit gives the same binary. `ROLLBOOK_COMMIT` in
//! the environment wins, for builds of images and packages, where no repository is at hand. Without both it is
//! "unknown commit".

use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "a build script has no other source of its settings")]
fn main() {
    println!("cargo:rerun-if-env-changed=ROLLBOOK_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    // Asked first: a source archive may be unpacked inside some other repository.
    let is_ours = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    if is_ours && let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={path}");
    }
    let named = std::env::var("ROLLBOOK_COMMIT").ok().filter(|name| !name.trim().is_empty());
    let commit = named
        .or_else(|| git(&["log", "-1", "--abbrev=12", "--format=%h %cs"]).filter(|_| is_ours))
        .unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo:rustc-env=ROLLBOOK_BUILD={}", commit.replace(['\n', '\r'], " ").trim());
}

/// Returns one line that git prints, or nothing if it fails or is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let ran = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(ran.stdout).ok()?.trim().to_owned();
    (ran.status.success() && !text.is_empty()).then_some(text)
}
