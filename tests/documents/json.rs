//! `ops/JSON.md` documents exactly the keys that the real binary prints with `--output json`, with their
//! types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{Consumer as _, Producer as _, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Clock as _;
use rollbook_core::trace::Traceparent;
use rollbook_simulator::api::{ApiSettings, ClerkApi, DEFAULT_KEY, Fault};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_sqlite::{QueueSettings, SqliteQueue};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::queues::{all_of, request};
use rollbook_testkit::tokens::{ISSUER, Signer, claims};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::crashes::BINARY;

const USER: &str = "user_1";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Keys that no run of this test prints: SQLite files have no weaknesses, and the processes that it asks are well.
const NEVER_PRINTED: [(&str, &str); 2] = [("demo", "weaknesses[]"), ("top", "processes[].since.*")];

/// Documentation of one command.
#[derive(Default)]
struct Section {
    /// Types of each key, by its path.
    keys: BTreeMap<String, BTreeSet<String>>,
    examples: Vec<Value>,
}

/// Reads the page: a section per command.
fn sections() -> BTreeMap<String, Section> {
    let page = std::fs::read_to_string(root().join("ops/JSON.md")).expect("the page");
    let mut sections = BTreeMap::new();
    for text in page.split("\n## ").skip(1) {
        let (heading, text) = text.split_once('\n').expect("a heading");
        let Some(command) = heading.strip_prefix("rollbook ") else { continue };
        let mut section = Section::default();
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let types = cells[2].split(" or ").map(str::to_owned).collect();
            let previous = section.keys.insert(cells[1].trim_matches('`').to_owned(), types);
            assert!(previous.is_none(), "{command}: {line} is there twice");
        }
        for block in text.split("```json\n").skip(1) {
            let block = block.split("\n```").next().unwrap_or_default();
            section
                .examples
                .push(serde_json::from_str(block).unwrap_or_else(|why| panic!("{command}: {why}")));
        }
        assert!(
            !section.keys.is_empty() && !section.examples.is_empty(),
            "{command} has keys and an example"
        );
        sections.insert(command.to_owned(), section);
    }
    sections
}

/// Commands with `--output`, by the snapshots of their help.
fn commands() -> BTreeSet<String> {
    let folder = root().join("crates/rollbook/tests/help");
    let pages = std::fs::read_dir(folder).expect("the snapshots").flatten().map(|entry| entry.path());
    pages
        .filter(|path| std::fs::read_to_string(path).expect("a snapshot").contains("--output"))
        // It follows the feed until it is stopped, and prints what `changes list` prints.
        .filter(|path| !path.ends_with("changes-tail.txt"))
        .map(|path| {
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            name.replace("dead-letters-", "dead-letters ")
                .replace("reconcile-", "reconcile ")
                .replace("changes-", "changes ")
                .replace("token-", "token ")
        })
        .collect()
}

impl Section {
    /// Records the paths in a value, and reports paths that are not documented or have another type.
    fn compare(&self, value: &Value, path: &str, seen: &mut BTreeSet<String>, wrong: &mut Vec<String>) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !path.is_empty() {
            seen.insert(path.to_owned());
            match self.keys.get(path) {
                None => wrong.push(format!("{path} ({kind}) is not documented: {value}")),
                Some(types) if types.contains("any") => return,
                Some(types) if !types.contains(kind) => wrong.push(format!("{path} is {kind}: {value}")),
                Some(_) => {}
            }
        }
        match value {
            Value::Array(elements) => {
                for element in elements {
                    self.compare(element, &format!("{path}[]"), seen, wrong);
                }
            }
            Value::Object(object) => {
                for (key, value) in object {
                    let below =
                        |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    let path = if self.keys.contains_key(&below("*")) { below("*") } else { below(key) };
                    self.compare(value, &path, seen, wrong);
                }
            }
            _ => {}
        }
    }
}

/// Outputs of the commands.
struct Outputs {
    home: Home,
    all: Vec<(&'static str, Value)>,
}

impl Outputs {
    /// Runs a command, asserts its exit code, and keeps its output.
    async fn run(&mut self, command: &'static str, arguments: &[&str], code: i32) -> &Value {
        self.run_with(command, arguments, Stdio::null(), code).await
    }

    /// Runs a command with this input, likewise.
    async fn run_with(
        &mut self,
        command: &'static str,
        arguments: &[&str],
        input: Stdio,
        code: i32,
    ) -> &Value {
        let words: Vec<&str> = command.split(' ').chain(arguments.iter().copied()).collect();
        let mut command_line = self.home.command(&[words.as_slice(), &["--output", "json"]].concat());
        command_line.stdin(input);
        let ran = tokio::task::spawn_blocking(move || command_line.output());
        let ran = ran.await.expect("it runs").expect("it runs");
        let (out, error) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert_eq!(ran.status.code(), Some(code), "{words:?}\n{out}\n{error}");
        let value =
            serde_json::from_str(&out).unwrap_or_else(|why| panic!("{words:?}: {why}\n{out}\n{error}"));
        self.all.push((command, value));
        &self.all.last().expect("it was added").1
    }
}

fn user(address: &str) -> Value {
    let verified = json!({ "status": "verified" });
    json!({
        "id": USER,
        "created_at": 1_785_312_000_000_i64,
        "updated_at": 1_785_312_000_000_i64,
        "first_name": ["a value that does not fit"],
        "email_addresses": [
            { "id": "idn_1", "email_address": "ines@x.example", "verification": verified },
            { "id": "idn_2", "email_address": address, "verification": null },
        ],
    })
}

fn event(event_type: &str, at: i64, data: &Value) -> Value {
    json!({ "type": event_type, "object": "event", "timestamp": 1_785_312_000_000_i64 + at, "data": data })
}

/// Events that are applied: a user with memberships, what the user is mentioned in, and an update that
/// arrives late.
fn applied() -> Vec<Value> {
    let joined = |id: &str, organization: &str| {
        let organization = json!({ "id": organization });
        let user = json!({ "user_id": USER });
        json!({ "id": id, "organization": organization, "public_user_data": user, "role": "org:admin" })
    };
    let invited = json!({ "id": "orginv_1", "organization_id": "org_1", "inviter_id": USER });
    let payer = json!({ "organization_id": "org_1", "email": "ines@x.example" });
    let domain = json!({
        "id": "orgdmn_1", "organization_id": "org_1", "affiliation_email_address": "ines@x.example",
    });
    vec![
        event("subscription.created", 1, &json!({ "id": "csub_1", "status": "active", "payer": payer })),
        event("organizationDomain.created", 1, &domain),
        event("user.created", 1, &user("listed@x.example")),
        event("user.updated", 3, &user("listed@x.example")),
        event("user.updated", 2, &user("listed@x.example")),
        event("organization.created", 1, &json!({ "id": "org_1", "created_by": USER })),
        event("organizationMembership.created", 1, &joined("orgmem_1", "org_1")),
        event("organizationMembership.created", 1, &joined("orgmem_2", "org_2")),
        event("organizationInvitation.created", 1, &invited),
        event("organization.deleted", 9, &json!({ "id": "org_2", "deleted": true })),
        event("waitlistEntry.created", 1, &json!({ "id": "wle_1", "email_address": "listed@x.example" })),
        event("waitlistEntry.created", 1, &json!({ "id": "wle_2", "email_address": "ines@x.example" })),
    ]
}

/// Puts messages of the user into the queue: dead letters, one of the membership, one with a trace.
async fn fill(home: &Home) {
    let settings = QueueSettings { depth_max: 1_000, due_ahead_max: Duration::from_secs(600) };
    let queue =
        SqliteQueue::open(&home.data().join("queue.db"), settings, Arc::new(WallClock)).expect("a queue");
    let put = async |id: &str, event: Value, trace: Option<&str>| {
        let traceparent = trace.map(|trace| Traceparent::parse(trace.as_bytes()).expect("a trace"));
        let body = event.to_string().into();
        let delivery = Delivery { id: MessageId::new(id), received_at: WallClock.now(), traceparent, body };
        all_of(queue.enqueue_many(&[delivery]).await).expect("it is taken");
    };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for id in ["msg_dead", "msg_dead_too"] {
        put(id, event("user.updated", 4, &user("listed@x.example")), Some(trace)).await;
        let lease = queue.lease(request(1, Duration::from_secs(60), Duration::ZERO)).await.expect("leases");
        let failure =
            Failure { reason: Reason::StoreRefused, detail: "as the test says".to_owned(), event_type: None };
        let settled =
            lease.into_iter().map(|lease| (lease, Settlement::DeadLetter { failure: failure.clone() }));
        all_of(queue.settle_many(&settled.collect::<Vec<_>>()).await).expect("it is settled");
    }
    put("msg_waiting", event("user.updated", 5, &user("listed@x.example")), Some(trace)).await;
    put("msg_session", event("session.created", 5, &json!({ "id": "sess_1", "user_id": USER })), None).await;
}

/// Refuses every change of these tables.
fn refuse(home: &Home, file: &str, trigger: &str) -> Connection {
    let database = Connection::open(home.data().join(file)).expect("the file opens");
    database
        .execute_batch(&format!("CREATE TRIGGER keeps {trigger} BEGIN SELECT RAISE(ABORT, 'no'); END"))
        .expect("a trigger");
    database
}

/// Runs every command, so that every key is printed at least once.
async fn outputs() -> Vec<(&'static str, Value)> {
    let mut outputs = Outputs { home: Home::new(BINARY).with("ROLLBOOK_LOG", "warn"), all: Vec::new() };
    outputs.run("migrate", &[], 0).await;
    outputs.run("migrate", &["--check"], 0).await;
    outputs.run("config", &[], 0).await;
    let mut serving = outputs.home.start_ready(&["serve"]).await;
    for (number, event) in applied().into_iter().enumerate() {
        let file = outputs.home.data().join(format!("{number}.json"));
        std::fs::write(&file, event.to_string()).expect("a file");
        outputs.run("send", &["--file", &file.display().to_string()], 0).await;
    }
    outputs.run("doctor", &["--send"], 0).await;
    let ops = outputs.home.ops.to_string();
    outputs.run("top", &[&ops, "127.0.0.1:1", "--every", "200ms"], 0).await;
    outputs.run("config", &[], 0).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", outputs.home.log());
    fill(&outputs.home).await;
    outputs.run("explain", &[USER], 0).await;
    outputs.run("changes list", &["--after", "0"], 0).await;
    outputs.run("explain", &["orgmem_2"], 0).await;
    outputs.run("explain", &["user_unknown"], 3).await;
    // The user, who has verified the address, and the users and entries that have it too.
    outputs.run("explain", &["ines@x.example"], 0).await;
    outputs.run("explain", &["listed@x.example"], 1).await;

    outputs.run("dead-letters summary", &[], 0).await;
    outputs.run("dead-letters list", &[], 0).await;
    outputs.run("dead-letters show", &["msg_dead", "--body"], 0).await;
    let queue = refuse(&outputs.home, "queue.db", "BEFORE DELETE ON dead_letters");
    outputs.run("dead-letters redrive", &["--all"], 1).await;
    outputs.run("dead-letters discard", &["--all"], 1).await;
    queue.execute_batch("DROP TRIGGER keeps").expect("it is removed");
    outputs.run("dead-letters discard", &["msg_dead_too"], 0).await;
    outputs.run("explain", &["msg_dead_too"], 0).await;

    outputs.run("erase", &["listed@x.example", "--yes"], 1).await;
    outputs.run("erase", &[USER, "--dry-run"], 0).await;
    let _store = refuse(&outputs.home, "store.db", "BEFORE UPDATE ON organization_memberships");
    outputs.run("erase", &[USER, "--yes"], 1).await;
    outputs.run("explain", &[USER], 0).await;
    outputs.run("demo", &["--deliveries", "400", "--naive"], 0).await;

    let Outputs { home, all } = outputs;
    let home = home
        .with("ROLLBOOK_QUEUE_URL", "redis://127.0.0.1:1")
        .with("DATABASE_URL", "postgres://rollbook@127.0.0.1:1/app");
    let mut outputs = Outputs { home, all };
    outputs.run("explain", &[USER], 1).await;
    outputs.all.extend(reconciled().await);
    outputs.all.extend(forwarded().await);
    outputs.all.extend(watched_with_a_forward_that_stopped().await);
    outputs.all.extend(inspected().await);
    outputs.all
}

/// Inspects a session token, without a key to verify it with.
async fn inspected() -> Vec<(&'static str, Value)> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let token = Signer::of_the_instance().token(&claims("user_1", WallClock.now().as_millis() / 1000));
    std::fs::write(file.path(), token).expect("it is written");
    let mut outputs = Outputs { home: Home::new(BINARY), all: Vec::new() };
    let input = std::fs::File::open(file.path()).expect("it is there");
    outputs.run_with("token inspect", &[], Stdio::from(input), 0).await;
    outputs.home = Home::new(BINARY)
        .with("CLERK_ISSUER", ISSUER)
        .with("CLERK_JWT_KEY", Signer::of_another_instance().pem());
    let input = std::fs::File::open(file.path()).expect("it is there");
    outputs.run_with("token inspect", &[], Stdio::from(input), 1).await;
    outputs.all
}

/// Runs the commands of the reconciliation against a simulated API of Clerk.
async fn reconciled() -> Vec<(&'static str, Value)> {
    let clerk = HistorySettings { users: 40, organizations: 4, changes: 200, ..HistorySettings::default() };
    let state = Arc::new(Mutex::new(History::generate(&clerk).state()));
    let api = ClerkApi::start(state.clone(), ApiSettings::new(Arc::new(WallClock))).await.expect("a port");
    let home = Home::new(BINARY).with("CLERK_SECRET_KEY", DEFAULT_KEY).with("CLERK_API_URL", api.url());
    home.migrate();
    let mut outputs = Outputs { home: home.with("ROLLBOOK_API_BUDGET", "1"), all: Vec::new() };
    outputs.run("ready", &[], 1).await;
    api.controls().inject(Fault::Unauthorized, 1);
    outputs.run("reconcile", &["--only", "users"], 1).await;
    // All tables, so that the users have memberships, which a deletion takes with it.
    outputs.run("reconcile", &[], 0).await;
    let users = state.lock().expect("no panic").ids("users");
    assert!(users.len() > 21, "the brake must hold");
    for id in &users[..21] {
        assert!(state.lock().expect("no panic").remove("users", id));
    }
    // A run leaves rows alone that were written a moment ago: Clerk's answer may be older.
    let store = Connection::open(outputs.home.data().join("store.db")).expect("the file opens");
    store.execute_batch("UPDATE users SET synced_at = '2026-01-01T00:00:00.000Z'").expect("older rows");
    let run = outputs.run("reconcile", &["--only", "users"], 1).await["run"].clone();
    outputs.run("reconcile status", &[], 0).await;
    outputs.run("explain", &[&users[0]], 0).await;
    outputs.run("reconcile approve", &[run.as_str().expect("an id")], 0).await;
    outputs.run("resync", &[&users[30], "role_unheard_of"], 1).await;
    outputs.all
}

/// Runs the commands about forwards, with one that stopped and has dead letters.
async fn forwarded() -> Vec<(&'static str, Value)> {
    let home = Home::new(BINARY);
    home.migrate();
    let store = Connection::open(home.data().join("store.db")).expect("the file opens");
    store
        .execute_batch(
            "INSERT INTO forwards (name, position, epoch, stopped_at, stop_reason, saved_at, paused_until) VALUES
                 ('crm', 2, 1, '2026-07-29T08:00:00.000Z', 'the endpoint answered 410', '2026-07-29T08:00:00.000Z',
                  '9000-01-01T00:00:00.000Z'),
                 ('mail', 2, 1, NULL, NULL, '2026-07-29T08:00:00.000Z', NULL);
             INSERT INTO forward_changes VALUES
                 ('crm', 1, 'users', 'user_1', 'created', '[\"data\"]', 'webhook', 'msg_1', '2026-07-29T08:00:00.000Z',
                  '2026-07-29T08:00:00.000Z', 'failed', 12, 12, '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z', 'no'),
                 ('crm', 2, 'users', 'user_2', 'erased', '[]', 'erase', NULL, NULL,
                  '2026-07-29T08:00:00.000Z', 'failed', 0, 0, NULL, '2026-07-29T08:00:00.000Z', NULL),
                 ('mail', 2, 'users', 'user_2', 'updated', '[]', 'webhook', 'msg_2', NULL,
                  '2026-07-29T08:00:00.000Z', 'waiting', 1, 0, '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z', 'no');
             WITH RECURSIVE letters (position) AS (SELECT 3 UNION ALL SELECT position + 1 FROM letters WHERE position < 10002)
             INSERT INTO forward_changes
             SELECT 'mail', position, 'users', 'user_3', 'updated', '[]', 'webhook', 'msg_3', NULL,
                    '2026-07-29T08:00:00.000Z', 'failed', 1, 0, NULL, '2026-07-29T08:00:00.000Z', 'no' FROM letters",
        )
        .expect("records");
    let mut outputs = Outputs { home, all: Vec::new() };
    outputs.run("changes status", &[], 0).await;
    outputs.run("changes failed", &["crm"], 0).await;
    outputs.run("changes failed", &["--waiting"], 0).await;
    outputs.run("changes renew", &[], 0).await;
    outputs.run("changes redrive", &["crm", "--position", "1"], 0).await;
    outputs.run("changes discard", &["crm", "--all"], 0).await;
    outputs.run("changes resume", &["crm"], 0).await;
    outputs.run("changes replay", &["crm", "--after", "0"], 0).await;
    outputs.all
}

/// Watches a process with a forward that stopped.
async fn watched_with_a_forward_that_stopped() -> Vec<(&'static str, Value)> {
    let home = Home::new(BINARY);
    home.migrate();
    Connection::open(home.data().join("store.db"))
        .and_then(|store| {
            store.execute_batch(
                "INSERT INTO forwards (name, position, epoch, stopped_at, stop_reason, saved_at) VALUES
                     ('crm', 0, 1, '2026-07-29T08:00:00.000Z', 'the endpoint answered 410', '2026-07-29T08:00:00.000Z')",
            )
        })
        .expect("a record");
    home.configure(
        "[forward.crm]\nurl = \"http://127.0.0.1:9/\"\nsecret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"\n",
    );
    let mut outputs = Outputs { home, all: Vec::new() };
    let mut serving = outputs.home.start_ready(&["serve"]).await;
    let stopped = "rollbook_forward_stopped{forward=\"crm\"}";
    until("the stop is shown", || async { outputs.home.metric(stopped).await == Some(1.0) }).await;
    let ops = outputs.home.ops.to_string();
    outputs.run("top", &[&ops, "--every", "200ms"], 0).await;
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", outputs.home.log());
    outputs.all
}

/// Reports settings that the examples of `config` show otherwise than the command: defaults change.
fn differing_settings(section: &Section, printed: &Value) -> Vec<String> {
    let shown = section.examples.iter().filter_map(Value::as_object).flatten();
    let differing = shown.filter(|(name, setting)| printed.get(name) != Some(setting));
    differing.map(|(name, setting)| format!("config, example: {name} is not {setting}: {printed}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_documents_exactly_the_keys_that_commands_print() {
    let sections = sections();
    let documented: BTreeSet<String> = sections.keys().cloned().collect();
    assert_eq!(documented, commands(), "every command with --output has its section in ops/JSON.md");
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (command, value) in &outputs().await {
        let mut complaints = Vec::new();
        sections[*command].compare(value, "", seen.entry(command).or_default(), &mut complaints);
        wrong.extend(complaints.into_iter().map(|why| format!("{command}: {why}")));
        if *command == "config" {
            wrong.extend(differing_settings(&sections[*command], value));
        }
    }
    for (command, section) in &sections {
        for example in &section.examples {
            let mut complaints = Vec::new();
            section.compare(example, "", &mut BTreeSet::new(), &mut complaints);
            wrong.extend(complaints.into_iter().map(|why| format!("{command}, example: {why}")));
        }
        let printed = &seen[command.as_str()];
        let is_excused = |key: &str| NEVER_PRINTED.contains(&(command.as_str(), key));
        let missing = section.keys.keys().filter(|key| !printed.contains(*key) && !is_excused(key));
        wrong.extend(missing.map(|key| format!("{command}: {key} is documented and never printed")));
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "ops/JSON.md and the commands differ:\n{}", wrong.join("\n"));
}
