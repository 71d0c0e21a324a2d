//! The worker of the release before on the schema of this one: a rolling update migrates first, and the old
//! workers run on until the new ones replace them.
//!
//! The commit of the release before is in `migrations/PREVIOUS_RELEASE`. The test builds it from the
//! repository's history, with the dependencies that are compiled already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use crate::architecture::root;
use crate::audit::{self, CLEAN};
use crate::crashes::{BINARY, SEED, acknowledged, history, send_part, sent};
use crate::rows;

const DATABASE: &str = "app";
/// Deliveries per second: far above the possible rate.
const RATE: u32 = 10_000;

/// Unpacks the release before into `folder`, builds it, and returns its binary.
fn build_previous(folder: &Path) -> PathBuf {
    let pin = std::fs::read_to_string(root().join("migrations/PREVIOUS_RELEASE")).expect("the commit's file");
    let commit = pin.lines().find(|line| !line.starts_with('#')).expect("a commit");
    let mut archive = Command::new("git")
        .args(["archive", commit])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    let tar = archive.stdout.take().expect("a pipe");
    let unpacked = Command::new("tar").args(["-x", "-C"]).arg(folder).stdin(tar).status();
    let archived = archive.wait().expect("git ends").success();
    assert!(
        archived && unpacked.expect("tar is installed").success(),
        "commit {commit} of migrations/PREVIOUS_RELEASE is not in this clone. Fix: git fetch --unshallow"
    );
    // Cargo treats crates with the same name and version as equal, wherever they are.
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    let version = concat!("version = \"", env!("CARGO_PKG_VERSION"));
    let renamed = manifest.replacen(version, &format!("{version}-previous"), 1);
    std::fs::write(folder.join("Cargo.toml"), renamed).expect("the manifest is written");
    // Build scripts of dependencies would run again if they saw the variables that Cargo sets for this test.
    let of_this_test = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "NEXTEST"].iter().any(|start| name.starts_with(start))
    });
    let mut cargo = Command::new(env!("CARGO"));
    of_this_test.for_each(|name| _ = cargo.env_remove(name));
    let built = cargo
        .args(["build", "--package", "rollbook"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env("CARGO_BUILD_BUILD_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(".."))
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .expect("cargo is installed");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    folder.join("target/debug/rollbook")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_the_release_before_applies_to_the_schema_of_this_one() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let previous = build_previous(folder.path());
    on_sqlite(&previous).await;
    on_postgres(&previous).await;
}

/// The log of warnings, but for the one about steps that only add, which a worker of the release before does
/// not know.
fn warnings(home: &Home) -> String {
    let log = home.log();
    let is_other =
        |line: &&str| !line.contains("a newer Rollbook has migrated this schema; this one works with it");
    log.lines().filter(is_other).collect()
}

/// This release migrates; the release before serves the first half of the deliveries, this one the rest.
async fn on_sqlite(previous: &Path) {
    let history = history(2_000);
    let order = history.schedule(SEED, 250);
    let (first, rest) = order.split_at(order.len() / 2);
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    home.migrate();
    let mut deliveries = std::collections::BTreeSet::new();
    for (binary, part) in [(previous, first), (Path::new(BINARY), rest)] {
        let mut process = home.start_ready_as(binary, &["serve"]).await;
        let report = send_part(home.listen, &history, part, RATE).await;
        deliveries.extend(acknowledged(&history, &report));
        until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
        process.signal("TERM");
        assert!(process.exit().await.success(), "{}", home.log());
        assert_eq!(warnings(&home), "", "{}: nothing is worth a warning", binary.display());
    }
    assert_eq!(audit::audit(&home.data(), &deliveries, &sent(&history)), CLEAN);
    let rows = audit::compare(&home.data(), &history).await;
    assert!(rows.is_equal(), "{rows:?}");
}

/// This release migrates; workers of both releases apply the deliveries at the same time.
async fn on_postgres(previous: &Path) {
    let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
    postgres.create_database(DATABASE).await;
    let home = || {
        Home::new(BINARY)
            .with("ROLLBOOK_LOG", "warn")
            .with("ROLLBOOK_QUEUE_URL", redis.url())
            .with("DATABASE_URL", postgres.url(DATABASE))
            .with("ROLLBOOK_DURABILITY", "strict")
    };
    let (receiver, old, new) = (home(), home(), home());
    receiver.migrate();
    let _receiving = receiver.start_ready(&["receive"]).await;
    let mut old_worker = old.start_ready_as(previous, &["work"]).await;
    let mut new_worker = new.start_ready(&["work"]).await;

    let history = history(4_000);
    send_part(receiver.listen, &history, &history.schedule(SEED, 250), RATE).await;
    until("the queue is empty", || {
        let left = redis.cli(&["hlen", "{rollbook:0}:messages"]);
        std::future::ready(left == "0")
    })
    .await;
    for (home, name) in [(&old, "before"), (&new, "this one")] {
        let applied = home.metric_with("rollbook_settlements_total", "ack").await;
        assert!(applied.is_some_and(|count| count > 0.0), "the worker of the release {name} applied nothing");
        assert_eq!(warnings(home), "", "the release {name}: nothing is worth a warning");
    }
    assert!(rows::equal(postgres.url(DATABASE), &history).await);

    // Control: a step that does not expand stops the old worker with an error.
    let contract = "INSERT INTO clerk.rollbook_migrations (name) VALUES ('0099_later')";
    postgres.psql(DATABASE, contract).await;
    send_part(receiver.listen, &history, &[0], RATE).await;
    until("the old worker refuses the schema", || std::future::ready(old.log().contains("0099_later"))).await;
    for worker in [&mut old_worker, &mut new_worker] {
        worker.signal("TERM");
        worker.exit().await;
    }
}
