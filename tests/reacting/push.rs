//! The route of a Next.js application that receives pushes: sent by Rollbook, verified by `standardwebhooks`.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events::{START, event, user};
use rollbook_testkit::process::{SECRET, until};

use super::{Program, World, block, finished, npm, write_block};
use crate::packages::next_dev;
use crate::raw_http::{exchange, signed, status};

const BODY: &str = r#"{"position":7,"resource":"users","subject_id":"user_1","kind":"created","changed":["data"],"origin":"webhook","cause":"msg_1","event_at":"2026-07-29T08:00:00.015Z","at":"2026-07-29T08:00:01.200Z"}"#;

/// Returns a push of this change, as the text of a request.
fn push(id: &str, at: Timestamp, signed: &str, sent: &str) -> String {
    let signature = SigningSecrets::parse(SECRET).expect("a secret").first().sign(id, at, signed.as_bytes());
    format!(
        "POST /api/rollbook HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nwebhook-id: {id}\r\n\
         webhook-timestamp: {}\r\nwebhook-signature: {signature}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{sent}",
        at.as_millis() / 1000,
        sent.len()
    )
}

/// Starts the application, and waits until it answers.
async fn start(world: &World, folder: &std::path::Path) -> (Program, SocketAddr) {
    write_block(folder, "app/api/rollbook/route.ts");
    next_dev(folder, &[("CHANGES_WEBHOOK_SECRET", SECRET), ("DATABASE_URL", &world.url())]).await
}

/// Rollbook itself pushes a change to the route, with the configuration of the page.
async fn pushed(world: &World, folder: &std::path::Path, address: SocketAddr) {
    let secret = folder.join("secret");
    std::fs::write(&secret, SECRET).expect("the file is written");
    let forward = block("rollbook.toml")
        .replace("https://app.example.com", &format!("http://{address}"))
        .replace("/run/secrets/rollbook-app", secret.to_str().expect("a plain path"));
    world.home.configure(&forward);
    let _serve = world.home.start_ready(&["serve"]).await;
    world.until("the forward has begun", "SELECT count(*) FROM clerk.forwards", "1").await;
    let body = event("user.created", START, &user("user_3", START)).to_string();
    let answer = exchange(world.home.listen, &signed("msg_3", &body)).await;
    assert_eq!(status(&answer), 200, "{answer}");
    world.until("the push is handled", "SELECT user_id, kind FROM app.to_index", "user_3|created").await;
    assert_eq!(world.sql("SELECT count(*) FROM app.handled WHERE id ~ '^chg_[0-9]+$'").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_js_route_takes_each_push_of_rollbook_once_and_refuses_what_is_not_signed() {
    let folder = npm("next");
    let world = World::new().await;
    let (program, address) = start(&world, folder.path()).await;
    // The route is compiled at its first request, which takes longer than any answer may.
    let compiled = || async {
        let unsigned = push("chg_0", WallClock.now(), "{}", "not signed");
        let asked = tokio::time::timeout(Duration::from_secs(14), exchange(address, &unsigned)).await;
        asked.is_ok_and(|answer| status(&answer) == 401)
    };
    until("the route answers", compiled).await;

    let now = WallClock.now();
    let hour_ago = Timestamp::from_millis(now.as_millis() - 3_600_000);
    for (what, request, expected) in [
        ("another body than was signed", push("chg_7", now, BODY, &BODY.replace("user_1", "user_2")), 401),
        ("an old signature", push("chg_7", hour_ago, BODY, BODY), 401),
        ("another id than was signed", push("chg_7", now, BODY, BODY).replace("chg_7", "chg_8"), 401),
        ("a push", push("chg_7", now, BODY, BODY), 204),
        ("the same push again", push("chg_7", now, BODY, BODY), 204),
    ] {
        assert_eq!(status(&exchange(address, &request).await), expected, "{what}: {}", program.log());
    }
    assert_eq!(world.sql("SELECT position, user_id, kind FROM app.to_index").await, "7|user_1|created");
    assert_eq!(world.sql("SELECT id FROM app.handled").await, "chg_7");

    // The effect fails: the note is rolled back with it, and the push is refused until the effect succeeds.
    world.sql("ALTER TABLE app.to_index RENAME TO gone").await;
    let next = BODY.replace("\"position\":7", "\"position\":8");
    let request = push("chg_8", WallClock.now(), &next, &next);
    assert_eq!(status(&exchange(address, &request).await), 500);
    world.sql("ALTER TABLE app.gone RENAME TO to_index").await;
    assert_eq!(status(&exchange(address, &request).await), 204);
    assert_eq!(world.sql("SELECT count(*) FROM app.to_index").await, "2");
    world.sql("TRUNCATE app.to_index, app.handled").await;
    pushed(&world, folder.path(), address).await;
    drop(program);

    let mut types = Command::new(folder.path().join("node_modules/.bin/tsc"));
    types.args(["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]);
    types.args(["--moduleResolution", "bundler", "app/api/rollbook/route.ts"]);
    finished("the types of the route", types.current_dir(folder.path()).output());
}
