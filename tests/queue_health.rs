//! A queue that answers reads and stores no delivery is not reported as healthy.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::redis::RedisServer;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

const EVENT: &str = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;

/// Stores a delivery, refuses one during `refusing`, stores another; asserts that readiness follows.
async fn readiness_follows_deliveries(home: &Home, refuse: impl Fn(), end: impl Fn(), error: &str) {
    let _rollbook = home.start_ready(&["receive"]).await;
    assert_eq!(status(&exchange(home.listen, &signed("msg_1", EVENT)).await), 200);
    refuse();
    assert_eq!(status(&exchange(home.listen, &signed("msg_2", EVENT)).await), 503);
    let ready = home.ops_get("/readyz").await.expect("an answer");
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(ready.body.contains(r#""queue":"deliveries are answered 503"#), "{}", ready.body);
    assert!(ready.body.contains(error), "{}", ready.body);
    assert_eq!(home.metric_with("rollbook_up", "part=\"queue\"").await, Some(0.0));
    assert_eq!(home.metric("rollbook_queue_depth").await, Some(1.0), "the queue answers questions");
    let live = home.ops_get("/livez").await.expect("an answer");
    assert_eq!(live.status, 200, "a restart would fix nothing: {}", live.body);
    end();
    assert_eq!(status(&exchange(home.listen, &signed("msg_2", EVENT)).await), 200);
    until("it is ready again", || async {
        home.ops_get("/readyz").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(home.metric_with("rollbook_up", "part=\"queue\"").await, Some(1.0));
}

#[tokio::test]
async fn readiness_names_the_queue_while_the_file_refuses_deliveries() {
    let home = Home::new(BINARY);
    home.migrate();
    let sql = |text: &str| {
        let other = rusqlite::Connection::open(home.data().join("queue.db")).expect("a second connection");
        other.busy_timeout(std::time::Duration::from_secs(30)).expect("a setting");
        other.execute_batch(text).expect("it is done");
    };
    // The effect of a full disk: reads work, no delivery is stored.
    let refuse =
        || sql("CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'full'); END");
    readiness_follows_deliveries(&home, refuse, || sql("DROP TRIGGER full"), "a trigger refuses the row")
        .await;
}

#[tokio::test]
async fn readiness_names_the_queue_while_redis_has_no_room_for_deliveries() {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    home.migrate();
    let limit = |bytes: &str| assert!(redis.cli(&["config", "set", "maxmemory", bytes]).contains("OK"));
    readiness_follows_deliveries(&home, || limit("1"), || limit("0"), "no room").await;
}
