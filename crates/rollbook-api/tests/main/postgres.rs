//! The API on a real server: a notification of another process ends a wait, and an outage is an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_api::Settings;
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::START;
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::json;

use crate::engine::{Backing, Engine};
use crate::stage::{DEADLINE, Server, TOKEN};

const POLLS: u32 = 20;
/// A reader that is not notified reads once a second.
const UNNOTIFIED: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_is_answered_by_the_notification_of_another_process() {
    let server = Server::start(Engine::Postgres).await;
    let mut waited = Duration::ZERO;
    for number in 1..=POLLS {
        let path = format!("/v1/changes?after={}&wait=55s", number - 1);
        let creating = async {
            server.feed.waited(number as usize).await;
            let began_at = Instant::now();
            server.create_user(&format!("user_{number}")).await;
            began_at
        };
        let (answer, began_at) = tokio::join!(server.get(&path, &[]), creating);
        waited += began_at.elapsed();
        assert_eq!(answer.positions(), [u64::from(number)]);
    }
    println!("{POLLS} changes were answered after {waited:?} in total");
    assert!(waited < UNNOTIFIED * POLLS / 4, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_is_503_without_its_address_and_a_stream_goes_on_after_its_restart() {
    let mut postgres = PostgresServer::start().await;
    postgres.create_database("app_killed").await;
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
    let backing = Backing::on(&postgres, "app_killed", clock.clone()).await;
    let settings = Settings { heartbeat: Duration::from_millis(200), ..Settings::default() };
    let server = Server::on(backing, clock, settings, TOKEN).await;
    server.create_user("user_1").await;
    let mut events = server.open("/v1/changes?after=0&expand=row", &[]).await;
    assert_eq!(events.change().await.data["row"]["id"], json!("user_1"));

    postgres.kill();
    let answer = server.get("/v1/changes?after=0", &[]).await;
    answer.problem(503, "store-unavailable");
    for secret in ["127.0.0.1", &postgres.port().to_string(), "ImTheTestPassword", "app_killed"] {
        assert!(!answer.body.contains(secret), "{secret}: {}", answer.body);
    }
    assert_eq!(events.next().await.expect("the stream stays open").name, "heartbeat");

    postgres.restart().await;
    let answers = async { while server.get("/v1/changes?after=0", &[]).await.status == 503 {} };
    tokio::time::timeout(DEADLINE, answers).await.expect("it answers again");
    server.create_user("user_2").await;
    let next = events.change().await;
    assert_eq!((next.id, &next.data["row"]["id"]), (Some(2), &json!("user_2")));
}
