//! Development and production side by side on one Redis and one Postgres, as `ops/TWO-INSTANCES.md` says.

use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use serde_json::Value;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, status};

/// Prefix in Redis, schema, instance and signing secret of a deployment.
type Deployment = [&'static str; 4];

const PRODUCTION: Deployment =
    ["rollbook", "clerk", "ins_production", "whsec_cHJvZHVjdGlvbnByb2R1Y3Rpb25wcm9kdWN0"];
const DEVELOPMENT: Deployment =
    ["development", "clerk_development", "ins_development", "whsec_ZGV2ZWxvcG1lbnRkZXZlbG9wbWVudGRl"];

fn home(
    redis: &RedisServer,
    postgres: &PostgresServer,
    [prefix, schema, instance, secrets]: [&str; 4],
) -> Home {
    Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", redis.url())
        .with("DATABASE_URL", postgres.url("postgres"))
        .with("ROLLBOOK_REDIS_KEY_PREFIX", prefix)
        .with("ROLLBOOK_SCHEMA", schema)
        .with("CLERK_INSTANCE_ID", instance)
        .with("CLERK_WEBHOOK_SIGNING_SECRET", secrets)
}

async fn start(home: &Home) -> Process {
    home.migrate();
    home.start_ready(&["serve"]).await
}

/// Sends an event about a user of this instance, signed with a secret. Returns the status.
async fn send(to: &Home, secret: &str, instance: &str, id: &str, name: &str) -> u16 {
    let now = WallClock.now();
    let body = format!(
        r#"{{"type":"user.updated","timestamp":{0},"instance_id":"{instance}","data":{{"id":"user_1","first_name":"{name}","updated_at":{0}}}}}"#,
        now.as_millis()
    );
    let signature = SigningSecrets::parse(secret).expect("a secret").first().sign(id, now, body.as_bytes());
    let request = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: test\r\nsvix-id: {id}\r\nsvix-timestamp: {}\r\nsvix-signature: {signature}\r\n\
         content-length: {}\r\n\r\n{body}",
        now.as_millis() / 1000,
        body.len()
    );
    status(&exchange(to.listen, &request).await)
}

async fn names(postgres: &PostgresServer) -> [String; 2] {
    let name = async |schema: &str| {
        postgres.psql("postgres", &format!("SELECT first_name FROM {schema}.users")).await.trim().to_owned()
    };
    [name("clerk").await, name("clerk_development").await]
}

fn dead_letters(home: &Home) -> Vec<String> {
    let listed = home.command(&["dead-letters", "list", "--output", "json"]).output().expect("it runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let reasons =
        listed.as_array().into_iter().flatten().map(|one| one["reason"].as_str().unwrap_or_default());
    reasons.map(str::to_owned).collect()
}

#[tokio::test]
async fn two_deployments_share_the_servers_and_nothing_else_and_refuse_each_others_events() {
    let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
    let [production, development] = [PRODUCTION, DEVELOPMENT].map(|one| home(&redis, &postgres, one));
    let (mut first, mut second) = (start(&production).await, start(&development).await);
    let [secret, other] = [PRODUCTION[3], DEVELOPMENT[3]];
    // Ids of messages and users are the same on purpose.
    assert_eq!(send(&production, secret, PRODUCTION[2], "msg_1", "Paula").await, 200);
    assert_eq!(send(&development, other, DEVELOPMENT[2], "msg_1", "Dora").await, 200);
    until("both rows are there", || async { names(&postgres).await == ["Paula", "Dora"] }).await;

    // The development endpoint with the URL of production.
    assert_eq!(send(&production, other, DEVELOPMENT[2], "msg_2", "Wrong").await, 400);
    // The same with production's secret: the event names its instance.
    assert_eq!(send(&production, secret, DEVELOPMENT[2], "msg_3", "Wrong").await, 200);
    until("it is a dead letter", || async { dead_letters(&production) == ["wrong_instance"] }).await;
    assert_eq!(names(&postgres).await, ["Paula", "Dora"]);
    assert_eq!(dead_letters(&development), [""; 0]);
    let keys = redis.cli(&["keys", "*"]);
    let of = |prefix: &str| keys.lines().filter(|key| key.starts_with(&format!("{{{prefix}:"))).count();
    assert!(of("rollbook") > 0 && of("development") > 0, "{keys}");
    assert_eq!(of("rollbook") + of("development"), keys.lines().count(), "{keys}");

    // A deployment with the other one's prefix does not start, and takes nothing.
    let mixed_up = home(&redis, &postgres, [PRODUCTION[0], DEVELOPMENT[1], DEVELOPMENT[2], DEVELOPMENT[3]]);
    let refused = mixed_up.command(&["serve"]).output().expect("it runs");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("belongs to another deployment"), "{why}");
    assert_eq!(send(&production, secret, PRODUCTION[2], "msg_4", "Petra").await, 200);
    until("production goes on", || async { names(&postgres).await == ["Petra", "Dora"] }).await;
    first.kill();
    second.kill();
}

#[tokio::test]
async fn a_worker_of_one_instance_has_no_rights_on_the_tables_of_the_other() {
    let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ops/postgres/roles.sh");
    let worker = |[_, schema, _, _]: Deployment| format!("worker_of_{schema}");
    for deployment in [PRODUCTION, DEVELOPMENT] {
        let ran = std::process::Command::new("sh")
            .arg(script)
            .envs(postgres.environment())
            .env("POSTGRES_DB", "postgres")
            .envs([
                ("ROLLBOOK_SCHEMA", deployment[1]),
                ("ROLLBOOK_WORKER", &worker(deployment)),
                ("ROLLBOOK_OWNER", "owner"),
            ])
            .envs([("ROLLBOOK_OWNER_PASSWORD", "owner"), ("ROLLBOOK_WORKER_PASSWORD", "worker")])
            .output()
            .expect("a shell");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let owner = format!("postgres://owner:owner@127.0.0.1:{}/postgres", postgres.port());
        home(&redis, &postgres, deployment).with("DATABASE_URL", owner).migrate();
    }
    for deployment in [PRODUCTION, DEVELOPMENT] {
        let may = |schema: &str| {
            format!("SELECT has_table_privilege('{}', '{schema}.users', 'SELECT')", worker(deployment))
        };
        for schema in [PRODUCTION[1], DEVELOPMENT[1]] {
            let expected = if schema == deployment[1] { "t\n" } else { "f\n" };
            assert_eq!(postgres.psql("postgres", &may(schema)).await, expected, "{schema}");
        }
    }
}
