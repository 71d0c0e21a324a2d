//! Secrets are replaced while the process runs and deliveries flow, as `ops/RUNBOOK.md` says: both, then the new one alone. A
//! wrong file changes nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Timestamp;
use rollbook_testkit::hooks::{HookAnswer, HookRequest, HookServer};
use rollbook_testkit::process::{Home, Process, SECRET, until};
use rollbook_testkit::servers::redis::RedisServer;
use tokio::io::AsyncReadExt as _;

use super::rotation::{Load, NEW_SECRET, SENDERS, Signing, delivery};
use super::{home_on, messages, stop};
use crate::crashes::BINARY;
use crate::raw_http::{exchange, open, signed, status};

const VARIABLE: &str = "CLERK_WEBHOOK_SIGNING_SECRET";
const REPLACED: (&str, &str) = ("rollbook_secret_reloads_total", "replaced");
const OLD_TOKEN: &str = "old-token-old-token-old-token-old-token";
const NEW_TOKEN: &str = "new-token-new-token-new-token-new-token";

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("it is written");
}

/// Waits until the process has replaced secrets this many times.
async fn until_replaced(home: &Home, times: f64) {
    until("the secrets are replaced", || async {
        home.metric_with(REPLACED.0, REPLACED.1).await == Some(times)
    })
    .await;
}

async fn until_failing(home: &Home, is_failing: bool) {
    until("the reload fails, or works again", || async {
        home.metric("rollbook_secret_reload_failing").await.is_some_and(|count| (count > 0.0) == is_failing)
    })
    .await;
}

/// Returns the last match of each of this many secrets, in the order of the setting.
async fn last_matches(home: &Home, secrets: usize) -> Vec<f64> {
    let text = home.ops_get("/metrics").await.expect("an answer").body;
    let lines =
        text.lines().filter(|line| line.starts_with("rollbook_signing_secret_last_match_timestamp_seconds{"));
    let mut found: Vec<(&str, f64)> = lines
        .filter_map(|line| Some((line.split_once("position=")?.1, line.rsplit_once(' ')?.1.parse().ok()?)))
        .collect();
    found.sort_by(|one, other| one.0.cmp(other.0));
    assert_eq!(found.len(), secrets, "{text}");
    found.into_iter().map(|(_, value)| value).collect()
}

fn printed(home: &Home, arguments: &[&str]) -> String {
    let ran = home.command(arguments).output().expect("it runs");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signing_secret_in_a_file_is_rotated_under_load_without_a_restart_and_no_delivery_is_refused() {
    let redis = RedisServer::start().await;
    let home = home_on(redis.url()).without(VARIABLE);
    let secret = home.path("secret");
    let home = home.with("CLERK_WEBHOOK_SIGNING_SECRET_FILE", secret.display().to_string());
    write(&secret, SECRET);
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    let load = Load::on([home.listen; 2]);
    let rotation = async {
        load.some_more().await;
        // The timer finds this change.
        write(&secret, &format!("{NEW_SECRET}\n{SECRET}\n"));
        until_replaced(&home, 1.0).await;
        let found = last_matches(&home, 2).await;
        assert!(found[0] == 0.0 && found[1] > 0.0, "only the old one has matched: {found:?}");
        load.way.write().await.1 = Signing::Both;
        load.some_more().await;
        // A wrong file, and none at all.
        write(&secret, "whsec_damaged");
        receiver.signal("HUP");
        until_failing(&home, true).await;
        load.some_more().await;
        std::fs::remove_file(&secret).expect("it is removed");
        load.way.write().await.1 = Signing::Old;
        load.some_more().await;
        let old_until = last_matches(&home, 2).await[1];
        write(&secret, &format!("{NEW_SECRET}\n{SECRET}\n"));
        until_failing(&home, false).await;
        load.way.write().await.1 = Signing::New;
        load.some_more().await;
        let found = last_matches(&home, 2).await;
        assert!(found[0] > found[1] && found[1] >= old_until, "the old one matches no more: {found:?}");
        write(&secret, NEW_SECRET);
        receiver.signal("HUP");
        until_replaced(&home, 2.0).await;
        load.some_more().await;
        load.is_over.store(true, Ordering::Relaxed);
    };
    let (refused, ()) = tokio::join!(join_all((0..SENDERS).map(|_| load.sender())), rotation);
    assert_eq!(refused.concat(), [""; 0]);
    let all = load.next.load(Ordering::Relaxed);
    assert_eq!(messages(&redis), (all as u64, 0), "each delivery is in the queue once");
    let (_, old) = delivery(all, Signing::Old);
    assert_eq!(status(&exchange(home.listen, &old).await), 400, "the old secret is worth nothing now");

    let shown = printed(&home, &["config"]);
    let new = SigningSecrets::parse(NEW_SECRET).expect("a secret").fingerprints();
    assert!(shown.contains(&format!("signing secret 1 ({}): last matched at 20", new[0])), "{shown}");
    let log = home.log();
    assert!(
        log.contains("not reloaded, the secrets from before are in use")
            && log.contains("damaged or incomplete"),
        "{log}"
    );
    for hidden in [SECRET, NEW_SECRET, "whsec_damaged"] {
        assert!(!log.contains(hidden), "{log}");
    }
    // A process that starts with the new secret alone is not refused as another deployment.
    stop(&home, &mut receiver).await;
    let mut receiver = home.start_ready(&["receive"]).await;
    let (_, new) = delivery(all + 1, Signing::New);
    assert_eq!(status(&exchange(home.listen, &new).await), 200, "{}", home.log());
    stop(&home, &mut receiver).await;
}

fn free_address() -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    free.local_addr().expect("an address")
}

async fn status_with(api: SocketAddr, token: &str) -> u16 {
    let request = format!("GET /v1/changes HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {token}\r\n\r\n");
    status(&exchange(api, &request).await)
}

#[tokio::test]
async fn a_token_of_the_api_is_rotated_without_a_restart_and_a_stream_ends_with_its_token() {
    let home = Home::new(BINARY);
    let (tokens, api) = (home.path("tokens"), free_address());
    let home = home
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS_FILE", tokens.display().to_string());
    write(&tokens, OLD_TOKEN);
    let mut rollbook = home.start_ready(&["serve"]).await;
    assert_eq!([status_with(api, OLD_TOKEN).await, status_with(api, NEW_TOKEN).await], [200, 401]);
    let request = format!(
        "GET /v1/changes HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {OLD_TOKEN}\r\naccept: text/event-stream\r\n\r\n"
    );
    let mut stream = open(api, &request).await;
    write(&tokens, &format!("{NEW_TOKEN},{OLD_TOKEN}"));
    rollbook.signal("HUP");
    until_replaced(&home, 1.0).await;
    assert_eq!([status_with(api, OLD_TOKEN).await, status_with(api, NEW_TOKEN).await], [200, 200]);
    write(&tokens, "too-short");
    rollbook.signal("HUP");
    until_failing(&home, true).await;
    assert_eq!([status_with(api, OLD_TOKEN).await, status_with(api, NEW_TOKEN).await], [200, 200]);
    write(&tokens, NEW_TOKEN);
    until_replaced(&home, 2.0).await;
    assert_eq!([status_with(api, OLD_TOKEN).await, status_with(api, NEW_TOKEN).await], [401, 200]);
    let mut received = Vec::new();
    let read =
        tokio::time::timeout(rollbook_testkit::process::DEADLINE, stream.read_to_end(&mut received)).await;
    read.expect("the stream ends").expect("it is read");
    assert!(String::from_utf8_lossy(&received).contains("event: problem"), "the reader knows why");
    let log = home.log();
    assert!(!log.contains(OLD_TOKEN) && !log.contains(NEW_TOKEN) && !log.contains("too-short"), "{log}");
    rollbook.kill();
}

#[tokio::test]
async fn a_file_that_becomes_a_pipe_is_a_problem_of_this_file_and_ends_no_reload() {
    let home = Home::new(BINARY);
    let (tokens, api) = (home.path("tokens"), free_address());
    let home = home
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS_FILE", tokens.display().to_string());
    write(&tokens, OLD_TOKEN);
    let mut rollbook = home.start_ready(&["serve"]).await;
    std::fs::remove_file(&tokens).expect("it is removed");
    let made = std::process::Command::new("mkfifo").arg(&tokens).status().expect("mkfifo runs");
    assert!(made.success());
    rollbook.signal("HUP");
    until_failing(&home, true).await;
    assert_eq!([status_with(api, OLD_TOKEN).await, status_with(api, NEW_TOKEN).await], [200, 401]);
    let problem = format!("{} can't be read (it is not a regular file any more)", tokens.display());
    assert!(home.log().contains(&problem), "{}", home.log());
    std::fs::remove_file(&tokens).expect("it is removed");
    write(&tokens, NEW_TOKEN);
    rollbook.signal("HUP");
    until_replaced(&home, 1.0).await;
    until_failing(&home, false).await;
    assert_eq!([status_with(api, OLD_TOKEN).await, status_with(api, NEW_TOKEN).await], [401, 200]);
    rollbook.kill();
}

/// Returns which of the two secrets have signed a request.
fn signers(request: &HookRequest) -> [bool; 2] {
    let header = |name: &str| request.header(name).expect("a header");
    let at = Timestamp::from_seconds(header("webhook-timestamp").parse().expect("a number"));
    [SECRET, NEW_SECRET].map(|secret| {
        let secrets = SigningSecrets::parse(secret).expect("a secret");
        let wanted = secrets.sign(header("webhook-id"), at, &request.body);
        header("webhook-signature").split(' ').any(|signature| signature == wanted)
    })
}

/// Sends changes until the forward has sent one that these have signed.
async fn until_signed(home: &Home, server: &HookServer, wanted: [bool; 2], sent: &mut i64) {
    until("a change is signed so", || {
        *sent += 1;
        let number = *sent;
        async move {
            let body = format!(
                r#"{{"type":"user.created","timestamp":1785312000032,"data":{{"id":"user_{number}"}}}}"#
            );
            let answer = exchange(home.listen, &signed(&format!("msg_{number}"), &body)).await;
            assert_eq!(status(&answer), 200, "{answer}");
            server.received().last().map(signers) == Some(wanted)
        }
    })
    .await;
}

fn forward(home: &Home, server: &HookServer, more: &str) {
    home.configure(&format!(
        "{more}\n[forward.crm]\nurl = \"{}\"\nsecret_file = \"{}\"\n",
        server.url("/hooks"),
        home.path("crm").display()
    ));
}

#[tokio::test]
async fn the_secret_of_a_forward_is_rotated_without_a_restart_and_settings_that_need_one_are_named() {
    let server = HookServer::start(|_| HookAnswer::Status(200, Vec::new()));
    let home = Home::new(BINARY);
    write(&home.path("crm"), SECRET);
    forward(&home, &server, "");
    let mut rollbook: Process = home.start_ready(&["serve"]).await;
    let mut sent = 0;
    until_signed(&home, &server, [true, false], &mut sent).await;
    write(&home.path("crm"), &format!("{NEW_SECRET} {SECRET}"));
    rollbook.signal("HUP");
    until_signed(&home, &server, [true, true], &mut sent).await;
    write(&home.path("crm"), NEW_SECRET);
    forward(&home, &server, "lanes = 2");
    rollbook.signal("HUP");
    until_signed(&home, &server, [false, true], &mut sent).await;
    let signed = server.received();
    assert!(signed.iter().map(signers).all(|signers| signers != [false, false]), "none was sent unsigned");
    until("the log names the setting", || async { home.log().contains("need a restart") }).await;
    assert!(home.log().contains("lanes"), "{}", home.log());
    // A broken file of settings changes nothing, until it is repaired.
    home.configure("[forward.crm\n");
    rollbook.signal("HUP");
    until_failing(&home, true).await;
    until_signed(&home, &server, [false, true], &mut sent).await;
    forward(&home, &server, "");
    until_failing(&home, false).await;
    rollbook.kill();
}
