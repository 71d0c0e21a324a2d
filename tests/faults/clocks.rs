//! Wrong clocks of the receiver and of Redis.

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::Shim;

use super::{assert_nothing_lost, home_on, messages, on_shim, send_at_once, stop, until_taken};
use crate::crashes::{BINARY, history};
use crate::raw_http::{exchange, signed, status};

pub(super) const HOUR: i64 = 3_600;
pub(super) const EVENT: &str = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;

/// Maximum error of the gauge of the clock: the age of the delivery and the rounding of its timestamp.
const SKEW_WITHIN: f64 = 2.0;

async fn count(home: &Home, outcome: &str) -> Option<f64> {
    home.metric_with("rollbook_deliveries_total", &format!("\"{outcome}\"")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_a_wrong_clock_refuses_with_the_reason_and_takes_the_same_deliveries_later() {
    let shim = Shim::new(".db");
    let home = on_shim(Home::new(BINARY), &shim);
    home.migrate();
    let _receiver = home.start_ready(&["receive"]).await;
    let deliver = async |id: &str| status(&exchange(home.listen, &signed(id, EVENT)).await);
    for (number, (ahead, outcome)) in
        [(2 * HOUR, "timestamp_too_old"), (-2 * HOUR, "timestamp_too_new"), (600, "timestamp_too_old")]
            .into_iter()
            .enumerate()
    {
        let id = format!("msg_{number}");
        shim.shift_clock(ahead);
        let before = count(&home, outcome).await;
        assert_eq!(deliver(&id).await, 400, "{ahead} s");
        assert_eq!(count(&home, outcome).await, before.map(|count| count + 1.0), "{ahead} s");
        shim.shift_clock(0);
        // Svix sends it again.
        assert_eq!(deliver(&id).await, 200, "{ahead} s");
    }
    for ahead in [240_i32, -240] {
        shim.shift_clock(ahead.into());
        assert_eq!(deliver(&format!("msg_{ahead}")).await, 200, "within the tolerance");
        let shown = home.metric("rollbook_clock_skew_seconds").await.expect("a gauge");
        // Time by which the sender's clock is ahead.
        assert!((shown + f64::from(ahead)).abs() < SKEW_WITHIN, "{ahead} s: {shown}");
    }
}

/// Kills a worker while it holds messages and waits for a lock of its store.
async fn killed_while_holding(home: &Home, redis: &RedisServer) -> Process {
    let store = rusqlite::Connection::open(home.data().join("store.db")).expect("the store's file");
    let mut worker = home.start_ready(&["work"]).await;
    store.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut receiver_home = home_on(redis.url());
    receiver_home = receiver_home.with("ROLLBOOK_DATA_DIR", home.data().display().to_string());
    let receiver = receiver_home.start_ready(&["receive"]).await;
    let answer = exchange(receiver_home.listen, &signed("msg_held", EVENT)).await;
    assert_eq!(status(&answer), 200);
    until("the message is held", || std::future::ready(redis.cli(&["zcard", "{rollbook:0}:leases"]) == "1"))
        .await;
    worker.kill();
    store.execute_batch("ROLLBACK").expect("no lock");
    receiver
}

/// Kills a worker, steps Redis's clock, and asserts that another worker gets the messages of the first one.
pub(super) async fn a_step_of_redis(seconds: i64) {
    let shim = Shim::new(".incr.aof");
    let redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let _receiver = killed_while_holding(&home, &redis).await;
    shim.shift_clock(seconds);
    let mut worker = home.start_ready(&["work"]).await;
    // Two leases are 10 s; without the correction it would take as long as the step.
    until("what the killed worker held is applied", || std::future::ready(messages(&redis) == (0, 0))).await;
    stop(&home, &mut worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_steps_two_hours_forward_the_messages_of_a_killed_worker_are_applied() {
    a_step_of_redis(2 * HOUR).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_redis_under_load_lose_nothing_and_leave_nothing_stuck() {
    let shim = Shim::new(".incr.aof");
    let redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_200);
    let steps = async {
        for (count, ahead) in [(200.0, 600), (400.0, 2 * HOUR), (600.0, 4 * HOUR)] {
            until_taken(&home, count).await;
            shim.shift_clock(ahead);
        }
    };
    let (report, ()) = tokio::join!(send_at_once(home.listen, &history), steps);
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}
