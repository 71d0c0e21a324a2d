//! A backup in the middle of a feed, and its restore, by the commands of `ops/RUNBOOK.md`: what readers and forwards get then.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use rollbook_simulator::history::{History, HistorySettings};
use rollbook_testkit::hooks::{HookAnswer, HookServer};
use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::Value;
use tempfile::TempDir;

use crate::blocks::Page;
use crate::crashes::{BINARY, SEED, history, send};
use crate::raw_http::{exchange, status};

const RUNBOOK: Page = Page("ops/RUNBOOK.md");
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const DATABASE: &str = "app";
/// Deliveries a second while the backup is made.
const RATE: u32 = 300;

/// A Rollbook with a reader of its API, a forward `crm`, and a folder in which the page's commands run.
struct World {
    home: Home,
    api: SocketAddr,
    endpoint: HookServer,
    folder: TempDir,
    postgres: Option<PostgresServer>,
}

impl World {
    async fn new(postgres: Option<PostgresServer>) -> Self {
        let endpoint = HookServer::start(|_| HookAnswer::Status(200, Vec::new()));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let api = free.local_addr().expect("an address");
        drop(free);
        let mut home = Home::new(BINARY)
            .with("ROLLBOOK_LOG", "warn")
            .with("ROLLBOOK_API_LISTEN", api.to_string())
            .with("ROLLBOOK_API_TOKENS", TOKEN);
        if let Some(postgres) = &postgres {
            postgres.create_database(DATABASE).await;
            home = home.with("DATABASE_URL", postgres.url(DATABASE));
        }
        home.configure(&format!(
            "[forward.crm]\nurl = \"{}\"\nsecret = \"{SECRET}\"\n",
            endpoint.url("/hooks/rollbook")
        ));
        home.migrate();
        let folder = tempfile::tempdir().expect("a folder");
        symlink(BINARY, folder.path().join("rollbook")).expect("a link");
        Self { home, api, endpoint, folder, postgres }
    }

    fn engine(&self) -> &'static str {
        if self.postgres.is_some() { "postgres" } else { "sqlite" }
    }

    /// Runs a script in the folder, with the settings of the home.
    async fn run(&self, script: &str) {
        let script = script.replace("/var/lib/rollbook", &self.home.data().display().to_string());
        let mut command = Command::new("sh");
        let settings = self.home.command(&[]);
        command.env_clear().args(["-euc", &script]).current_dir(self.folder.path());
        command.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.folder.path().display()));
        if let Some(postgres) = &self.postgres {
            command.env("OWNER_URL", postgres.url(DATABASE));
        }
        let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
        let Output { status, stdout, stderr } = ran.expect("a shell");
        let [out, err] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(status.success(), "{script}: {out}{err}");
    }

    /// Restores the backup; if that is wanted, with the command of the page that gives the feed another generation.
    async fn restore(&self, renews: bool) {
        let script = RUNBOOK.block(&format!("restore-{}.sh", self.engine()));
        let (before, after) = script.split_once("rollbook changes renew").expect("the page renews the feed");
        let (_, after) = after.split_once('\n').expect("the end of the line");
        self.run(if renews { script.clone() } else { format!("{before}{after}") }.as_str()).await;
    }

    async fn serve(&self) -> Process {
        self.home.start_ready(&["serve"]).await
    }

    async fn stop(&self, mut serving: Process) {
        serving.signal("TERM");
        assert!(serving.exit().await.success(), "{}", self.home.log());
    }

    /// Asks the API for changes. Returns the status and the body.
    async fn get(&self, query: &str) -> (u16, Value) {
        let request =
            format!("GET /v1/changes?{query} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
        let answer = exchange(self.api, &request).await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status(&answer), serde_json::from_str(body).expect("JSON"))
    }

    /// Asserts that a request is refused by a problem of this name.
    async fn assert_refused(&self, query: &str, name: &str) {
        let (status, problem) = self.get(query).await;
        assert_eq!(
            (status, &problem["type"]),
            (409, &format!("urn:rollbook:problem:{name}").into()),
            "{query}"
        );
    }

    /// Reads the feed to its end. Returns its name and the last position, and asserts that no position is missing.
    async fn read(&self) -> (String, u64) {
        let mut through = 0;
        loop {
            let (status, page) = self.get(&format!("after={through}")).await;
            assert_eq!(status, 200, "{page}");
            for change in page["changes"].as_array().expect("changes") {
                through += 1;
                assert_eq!(change["position"], through, "no position is missing");
            }
            if page["last"] == through {
                return (page["feed"].as_str().expect("a feed").to_owned(), through);
            }
        }
    }

    /// Waits until everything that was sent is applied and has its position.
    async fn until_applied(&self) {
        until("the queue is empty", || async { self.home.metric("rollbook_queue_depth").await == Some(0.0) })
            .await;
        if let Some(postgres) = &self.postgres {
            let waiting = "SELECT count(*) FROM clerk.changes_pending";
            until("every change has its position", || async {
                postgres.psql(DATABASE, waiting).await.trim() == "0"
            })
            .await;
        }
    }

    fn command(&self, arguments: &[&str]) -> (bool, String) {
        let ran = self.home.command(arguments).output().expect("it runs");
        let text = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (ran.status.success(), text.concat())
    }

    fn forward(&self) -> Value {
        // Exit code 1 and a text for people if it has stopped.
        let ran = self.home.command(&["changes", "status", "--output", "json"]).output().expect("it runs");
        let all: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        all[0].clone()
    }

    /// Applies a history during which a backup is made. Returns the feed and the last position that a reader has seen.
    async fn feed_with_a_backup_in_its_middle(&self) -> (String, u64) {
        let serving = self.serve().await;
        until("the forward has begun", || async { self.forward()["state"] == "running" }).await;
        let backup = async {
            let applied = || async { self.home.metric("rollbook_applied_total").await };
            until("some are applied", || async { applied().await.is_some_and(|count| count > 100.0) }).await;
            self.run(&RUNBOOK.block(&format!("back-up-{}.sh", self.engine()))).await;
        };
        let history = history(900);
        let (report, ()) = tokio::join!(send(self.home.listen, &history, RATE), backup);
        assert_eq!(report.refused, []);
        self.until_applied().await;
        let (feed, last) = self.read().await;
        until("everything is delivered", || async { self.forward()["position"] == last }).await;
        self.stop(serving).await;
        (feed, last)
    }

    /// Applies other changes, until there are more than a reader has seen before the restore.
    async fn change_more_than(&self, last: u64) {
        for seed in SEED + 1.. {
            let settings = HistorySettings {
                seed,
                users: 200,
                organizations: 10,
                changes: 1_500,
                ..HistorySettings::default()
            };
            assert_eq!(send(self.home.listen, &History::generate(&settings), 5_000).await.refused, []);
            self.until_applied().await;
            let (_, page) = self.get("after=last").await;
            if page["last"].as_u64().expect("a position") > last {
                return;
            }
        }
    }

    /// After `changes renew`: readers and forwards notice the restore, before and after there are as many changes as before.
    async fn assert_everybody_notices(&self, (feed, last): (String, u64)) {
        let serving = self.serve().await;
        self.until_applied().await;
        let (restored_feed, restored_last) = self.read().await;
        assert!(
            (1..last).contains(&restored_last),
            "the backup was made in the middle: {restored_last} of {last}"
        );
        assert_ne!(restored_feed, feed);
        self.assert_refused(&format!("after={last}&feed={feed}"), "feed-changed").await;
        self.assert_refused(&format!("after={restored_last}&feed={feed}"), "feed-changed").await;
        self.assert_refused(&format!("after={last}"), "position-ahead").await;
        let (succeeded, text) = self.command(&["changes", "list", "--after", &last.to_string()]);
        assert!(!succeeded && text.contains("after the last change"), "{text}");
        until("the forward stops", || async { self.forward()["state"] == "stopped" }).await;
        let reason = self.forward()["stop_reason"].to_string();
        assert!(reason.contains("the feed is another one"), "{reason}");

        let delivered = self.endpoint.received().len();
        self.change_more_than(last).await;
        self.assert_refused(&format!("after={last}&feed={feed}"), "feed-changed").await;
        let (status, _) = self.get(&format!("after={last}")).await;
        assert_eq!(status, 200, "a reader that names no feed does not notice it any more");
        let (status, page) = self.get(&format!("after={restored_last}&feed={restored_feed}")).await;
        assert_eq!(status, 200, "whoever took the new feed goes on: {page}");
        assert_eq!(self.endpoint.received().len(), delivered, "the forward has sent nothing");

        assert!(self.command(&["changes", "resume", "crm"]).0);
        let (_, last) = self.read().await;
        until("the forward goes on", || async { self.forward()["position"] == last }).await;
        for request in &self.endpoint.received()[delivered..] {
            let change: Value = serde_json::from_slice(&request.body).expect("JSON");
            assert_eq!(change["feed"], restored_feed, "{change}");
        }
        assert!(self.endpoint.received().len() > delivered);
        self.stop(serving).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_a_dump_and_renew_every_reader_and_forward_notices_it() {
    let world = World::new(Some(PostgresServer::start_with(&[("fsync", "off")]).await)).await;
    let seen = world.feed_with_a_backup_in_its_middle().await;
    world.restore(true).await;
    world.assert_everybody_notices(seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_is_restored_into_its_own_cluster_is_noticed_without_renew() {
    let world = World::new(Some(PostgresServer::start_with(&[("fsync", "off")]).await)).await;
    let seen = world.feed_with_a_backup_in_its_middle().await;
    world.restore(false).await;
    world.assert_everybody_notices(seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_the_files_and_renew_every_reader_and_forward_notices_it() {
    let world = World::new(None).await;
    let seen = world.feed_with_a_backup_in_its_middle().await;
    world.restore(true).await;
    world.assert_everybody_notices(seen).await;
}

/// The control, and what the page says of a restore without `changes renew`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_the_files_without_renew_only_a_position_after_the_last_change_is_noticed() {
    let world = World::new(None).await;
    let (feed, last) = world.feed_with_a_backup_in_its_middle().await;
    world.restore(false).await;
    let serving = world.serve().await;
    let (restored_feed, _) = world.read().await;
    assert_eq!(restored_feed, feed);
    world.assert_refused(&format!("after={last}&feed={feed}"), "position-ahead").await;
    let delivered = world.endpoint.received().len();
    world.change_more_than(last).await;
    let (status, page) = world.get(&format!("after={last}&feed={feed}")).await;
    assert_eq!(status, 200, "the reader goes on, and never sees the changes up to {last}: {page}");
    until("the forward goes on", || async { world.endpoint.received().len() > delivered }).await;
    let ids = |requests: &[rollbook_testkit::hooks::HookRequest]| -> std::collections::BTreeSet<String> {
        requests.iter().filter_map(|request| request.header("webhook-id").map(str::to_owned)).collect()
    };
    let received = world.endpoint.received();
    let (before, after) = received.split_at(delivered);
    assert!(!ids(before).is_disjoint(&ids(after)), "an endpoint that drops known ids drops new changes");
    world.stop(serving).await;
}
