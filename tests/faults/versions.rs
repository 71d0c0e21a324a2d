//! Upgrade and downgrade with a backlog of another version in the queue.

use rollbook_testkit::process::until;
use rollbook_testkit::servers::redis::RedisServer;

use super::{assert_nothing_lost, home_on, messages, send_at_once, stop};
use crate::crashes::history;

const META: &str = "{rollbook:0}:meta";
/// Format that no version writes yet.
const NEWER: &str = "250";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_in_the_format_of_a_newer_version_is_left_alone_and_applied_after_the_upgrade() {
    let redis = RedisServer::start().await;
    let home = home_on(redis.url());
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    let history = history(300);
    let report = send_at_once(home.listen, &history).await;
    stop(&home, &mut receiver).await;
    let before = messages(&redis);
    let format = redis.cli(&["hget", META, "format"]);

    redis.cli(&["hset", META, "format", NEWER]);
    let mut old = home.start(&["work"]);
    until("the worker of the older version says why it does nothing", || {
        std::future::ready(home.log().contains(&format!("format {NEWER}")))
    })
    .await;
    assert_eq!(messages(&redis), before, "nothing is dead, nothing is gone");
    old.kill();

    redis.cli(&["hset", META, "format", &format]);
    let mut worker = home.start_ready(&["work"]).await;
    assert_nothing_lost(&home, &mut worker, &redis, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_an_unknown_format_is_kept_unchanged_affects_no_neighbour_and_is_applied_after_the_upgrade()
 {
    let redis = RedisServer::start().await;
    let home = home_on(redis.url());
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    let history = history(300);
    let report = send_at_once(home.listen, &history).await;
    stop(&home, &mut receiver).await;
    let all = messages(&redis).0;
    let unknown = history.events[0].id.as_str();
    let set_format = |format: &str| {
        let script = "local value = redis.call('HGET', KEYS[1], ARGV[1]) \
             redis.call('HSET', KEYS[1], ARGV[1], string.char(ARGV[2]) .. string.sub(value, 2)) \
             return string.byte(value)";
        redis.cli(&["eval", script, "1", "{rollbook:0}:messages", unknown, format])
    };
    let format = set_format(NEWER);

    let mut worker = home.start_ready(&["work"]).await;
    until("its neighbours are applied", || std::future::ready(messages(&redis) == (0, 1))).await;
    let listed = home.command(&["dead-letters", "list", "--output", "json"]).output().expect("a listing");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(unknown) && listed.contains("corrupt_entry"), "{listed}");
    assert!(!home.log().contains("queue unreachable"), "an entry is not an outage: no lane pauses for it");
    stop(&home, &mut worker).await;
    assert!(all > 1);

    // A version that knows the format.
    set_format(&format);
    let redriven = home.command(&["dead-letters", "redrive", "--all"]).output().expect("it runs");
    assert!(redriven.status.success(), "{redriven:?}");
    let mut worker = home.start_ready(&["work"]).await;
    assert_nothing_lost(&home, &mut worker, &redis, &history, &report).await;
}
