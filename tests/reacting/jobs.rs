//! Jobs that a trigger enqueues in the transaction of the line or of the row, run by the real queues.

use std::path::Path;
use std::process::Command;

use rollbook_testkit::process::until;

use super::{Program, World, block, npm, python, write_block};
use crate::crashes::{history, send};

/// Lines for which a welcome job is due.
const DUE: &str = "FROM clerk.changes WHERE resource = 'users' AND kind = 'created' AND origin <> 'backfill'";

fn node(world: &World, folder: &Path, script: &str) -> Program {
    let path = write_block(folder, script);
    Program::start(folder, "worker", Command::new("node").arg(path).env("DATABASE_URL", world.url()))
}

/// Sends a history, and returns the number of users who are to be welcomed.
async fn users(world: &World) -> String {
    let history = history(400);
    let _serving = world.home.start_ready(&["serve"]).await;
    assert_eq!(send(world.home.listen, &history, 10_000).await.refused, []);
    world.until_applied().await;
    let due = world.sql(&format!("SELECT count(*) {DUE}")).await;
    assert!(due.parse::<u32>().expect("a count") > 30, "{due}");
    due
}

/// Checks that a line that is rolled back leaves no job, and that a line of a backfill has none.
async fn assert_is_one_transaction(world: &World, jobs: &str) {
    let insert = |position: u32, origin: &str| {
        format!(
            "INSERT INTO clerk.changes (position, resource, subject_id, kind, changed, origin, at)
             VALUES ({position}, 'users', 'user_x', 'created', '{{}}', '{origin}', now());"
        )
    };
    let before = world.sql(jobs).await;
    let script = format!(
        "BEGIN; {} {jobs}; {} {jobs}; ROLLBACK;",
        insert(900_001, "backfill"),
        insert(900_002, "webhook")
    );
    let within = world.sql(&script).await;
    let counts: Vec<u32> = within.lines().map(|count| count.parse().expect("a count")).collect();
    let count: u32 = before.parse().expect("a count");
    assert_eq!(counts, [count, count + 1]);
    assert_eq!(world.sql(jobs).await, before);
}

async fn assert_each_line_was_handled(world: &World, due: &str) {
    world.until("every job has run", "SELECT count(*) FROM app.welcomed", due).await;
    let positions = format!(
        "SELECT (SELECT array_agg(position ORDER BY position) {DUE})
                                    = (SELECT array_agg(position ORDER BY position) FROM app.welcomed)"
    );
    assert_eq!(world.sql(&positions).await, "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_boss_runs_one_job_for_each_line() {
    let folder = npm("pg-boss");
    let world = World::new().await;
    let mut worker = node(&world, folder.path(), "pg-boss.mjs");
    worker.until_it_says("ready").await;
    world.sql(&block("pg-boss.sql")).await;
    assert_is_one_transaction(&world, "SELECT count(*) FROM pgboss.job WHERE name = 'welcome'").await;
    let due = users(&world).await;
    assert_eq!(world.sql("SELECT count(*) FROM pgboss.job WHERE name = 'welcome'").await, due);
    assert_each_line_was_handled(&world, &due).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphile_worker_runs_one_job_for_each_line() {
    let folder = npm("graphile-worker");
    let world = World::new().await;
    let mut worker = node(&world, folder.path(), "graphile-worker.mjs");
    worker.until_it_says("ready").await;
    world.sql(&block("graphile-worker.sql")).await;
    assert_is_one_transaction(&world, "SELECT count(*) FROM graphile_worker.jobs").await;
    let due = users(&world).await;
    assert_each_line_was_handled(&world, &due).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn procrastinate_runs_one_job_for_each_new_row() {
    let folder = python();
    let world = World::new().await;
    let script = write_block(folder.path(), "worker.py");
    let python = folder.path().join("venv/bin/python");
    let mut schema = Command::new(&python);
    schema.args(["-m", "procrastinate", "--app", "worker.app", "schema", "--apply"]);
    let mut schema = Program::start(
        folder.path(),
        "schema",
        schema.env("DATABASE_URL", world.url()).env("PYTHONPATH", folder.path()),
    );
    assert!(schema.exit().await.success(), "{}", schema.log());
    world.sql(&block("procrastinate.sql")).await;
    let jobs = "SELECT count(*) FROM procrastinate_jobs";
    let rolled_back = format!(
        "BEGIN; INSERT INTO clerk.users (id, data, synced_at, synced_by, version_updated_at, version_event_at, version_hash)
         SELECT id, '{{}}', now(), synced_by, 0, 0, '\\x01' FROM (VALUES ('user_x', 'msg_x'), ('user_y', 'reconcile')) AS new (id, synced_by);
         {jobs}; ROLLBACK; {jobs}"
    );
    assert_eq!(world.sql(&rolled_back).await, "1\n0");
    users(&world).await;
    // A row that was first known as deleted is filled by a late event: that user is not new.
    let new =
        "SELECT count(DISTINCT subject_id) FROM clerk.changes WHERE resource = 'users' AND kind = 'created'";
    let due = world.sql(new).await;
    assert_eq!(world.sql(jobs).await, due);
    let worker = Program::start(
        folder.path(),
        "worker",
        Command::new(&python).arg(script).env("DATABASE_URL", world.url()),
    );
    until("every job has run", || async { world.sql("SELECT count(*) FROM app.welcomed").await == due })
        .await;
    let all = "SELECT count(*) FROM app.welcomed WHERE user_id IN
               (SELECT subject_id FROM clerk.changes WHERE resource = 'users' AND kind = 'created')";
    assert_eq!(world.sql(all).await, due, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_on_the_feed_that_fails_holds_up_the_feed_and_no_row_until_it_is_corrected() {
    let world = World::new().await;
    let broken = "CREATE FUNCTION app.enqueue() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no such queue''; END';
                  CREATE TRIGGER app_enqueue AFTER INSERT ON clerk.changes FOR EACH ROW EXECUTE FUNCTION app.enqueue()";
    world.sql(broken).await;
    let history = history(60);
    let _serving = world.home.start_ready(&["serve"]).await;
    assert_eq!(send(world.home.listen, &history, 10_000).await.refused, []);
    until("the queue is empty", || async { world.home.metric("rollbook_queue_depth").await == Some(0.0) })
        .await;
    assert!(crate::rows::equal(world.url(), &history).await, "rows are not affected");
    until("the failure is in the metrics", || async {
        world.home.metric("rollbook_changes_pending_seconds").await.is_some_and(|seconds| seconds > 0.0)
    })
    .await;
    assert_eq!(world.sql("SELECT last_position FROM clerk.changes_state").await, "0");
    assert_eq!(world.home.metric("rollbook_dead_letters").await, Some(0.0));
    let pending = world.sql("SELECT count(*) FROM clerk.changes_pending").await;
    let doctor = world.home.command(&["doctor"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains(&format!("{pending} changes wait for their position")), "{said}");
    let log = world.home.log();
    assert!(
        log.contains("changes get no position in the change feed now")
            && log.contains("function app.enqueue()"),
        "{log}"
    );

    world.sql("CREATE OR REPLACE FUNCTION app.enqueue() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'").await;
    world.until("the feed goes on", "SELECT count(*) FROM clerk.changes_pending", "0").await;
    assert_eq!(world.sql("SELECT count(*) FROM clerk.changes").await, pending);
}
