//! Logins, permissions, and keys of other programs.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Producer as _, QueueAdmin as _, QueueError, Settlement,
};
use rollbook_redis::{ClockSource, RedisQueue, RedisSettings};
use rollbook_testkit::servers::redis::RedisServer;

use crate::removal::{listed, remove};
use crate::support::{
    LONG, dead_letter, discarded, drain, enqueue, key, lease, names, open, redriven, settings, settle_all,
    stats, try_enqueue,
};
use rollbook_testkit::queues::request;

fn with_login(server: &RedisServer, login: &str) -> Arc<RedisQueue> {
    open(settings(server.url().replace("redis://", &format!("redis://{login}@"))))
}

async fn refusal(queue: &RedisQueue) -> String {
    let refused = try_enqueue(queue, &names("msg", 0..1)).await;
    let Err(QueueError::Deployment(text)) = refused else { panic!("manual action needed: {refused:?}") };
    assert!(text.contains("Redis at 127.0.0.1:") && !text.contains("ImASecret"), "{text}");
    text
}

#[tokio::test]
async fn a_wrong_or_missing_login_is_refused_with_a_text_without_the_password() {
    let server = RedisServer::start_with(&[("requirepass", "right")]).await;
    for login in [":ImASecret", "nobody:ImASecret", "default:ImASecret"] {
        let queue = with_login(&server, login);
        let text = refusal(&queue).await;
        assert!(text.contains("user or password is wrong"), "{text}");
        assert!(matches!(queue.durability().await, Err(QueueError::Deployment(_))));
    }
    let text = refusal(&open(settings(server.url()))).await;
    assert!(text.contains("NOAUTH: user or password is wrong or missing"), "{text}");
    enqueue(&with_login(&server, ":right"), &names("msg", 0..1)).await;
    enqueue(&with_login(&server, "default:right"), &names("msg", 1..2)).await;
}

#[tokio::test]
async fn user_and_password_of_any_characters_are_percent_encoded() {
    let server = RedisServer::start().await;
    server.cli(&["acl", "setuser", "u@x:y", "on", ">p/w?#%é@:", "~*", "+@all"]);
    enqueue(&with_login(&server, "u%40x%3Ay:p%2Fw%3F%23%25%C3%A9%40%3A"), &names("msg", 0..1)).await;
}

/// Permissions named in the error text.
const RIGHTS: [&str; 8] =
    ["~{rollbook:*", "+@read", "+@write", "+@scripting", "+@connection", "+info", "+time", "+config|get"];

#[tokio::test]
async fn a_user_with_the_documented_permissions_can_do_everything() {
    let server = RedisServer::start().await;
    server.cli(&[&["acl", "setuser", "limited", "on", ">right"], &RIGHTS[..]].concat());
    let queue = with_login(&server, "limited:right");
    assert_eq!(queue.durability().await.expect("permission to read settings").weaknesses, []);
    enqueue(&queue, &names("msg", 0..20)).await;
    let leases = lease(&queue, 10).await;
    settle_all(&queue, &leases[..5], &Settlement::Release).await;
    settle_all(&queue, &leases[5..], &dead_letter()).await;
    assert_eq!(redriven(&queue, &DeadLetterFilter::default(), 2).await, Ok(2));
    assert_eq!(discarded(&queue, &DeadLetterFilter::default(), 1).await, Ok(1));
    assert_eq!(
        queue.dead_letters(&DeadLetterFilter::default().page(None, 9)).await.expect("a page").len(),
        2
    );
    enqueue(&queue, &names("gone", 0..3)).await;
    assert_eq!(listed(&queue, 9).await.len(), 20);
    assert_eq!(remove(&queue, &names("gone", 0..3)).await, Ok(3));
    server.cli(&["xgroup", "destroy", &key(0, "new"), "workers"]);
    let request = request(1, LONG, Duration::from_millis(1));
    assert_eq!(drain(&queue).await.len(), 17);
    assert!(queue.lease(request).await.is_ok_and(|leases| leases.is_empty()));
    assert_eq!(stats(&queue).await.depth(), 0);

    // Calls of health checks, doctor, operator commands and the hourly audit.
    assert_eq!(queue.prepare().await, Ok(()));
    assert_eq!(queue.probe().await, Ok(true), "permission for a test write");
    assert!(queue.exists().await.is_ok_and(|exists| exists));
    assert!(queue.server_time().await.is_ok());
    assert!(queue.ownership().await.is_ok());
    assert!(queue.message(&MessageId::new("msg_00000")).await.is_ok());
    server.cli(&["del", &key(0, "due")]);
    for repair in [false, true] {
        assert!(queue.audit(repair).await.is_ok(), "repair: {repair}");
    }
    let refused = server.cli(&["acl", "log"]);
    assert!(!refused.contains("command") && !refused.contains("key"), "nothing was refused: {refused}");
    assert_eq!(queue.remove().await, Ok(()), "permission to remove its own keys");
}

#[tokio::test]
async fn a_user_with_missing_permissions_gets_the_list_of_required_ones() {
    let server = RedisServer::start().await;
    for (user, missing) in [
        ("no-scripts", &["~*", "+@all", "-@scripting"][..]),
        ("no-keys", &["~elsewhere:*", "+@all"]),
        ("no-streams", &["~*", "+@all", "-@stream"]),
        ("no-time", &["~*", "+@all", "-time"]),
        ("no-info", &["~*", "+@all", "-info"]),
    ] {
        server.cli(&[&["acl", "setuser", user, "on", ">ImASecret"], missing].concat());
        let text = refusal(&with_login(&server, &format!("{user}:ImASecret"))).await;
        for right in RIGHTS {
            assert!(text.contains(right), "{user}, {right}: {text}");
        }
    }
}

#[tokio::test]
async fn the_listed_permissions_are_for_the_configured_prefix_and_sufficient() {
    let server = RedisServer::start().await;
    let rights = RIGHTS.map(|right| right.replace("rollbook", "staging-2"));
    let staging = |user: &str| {
        let url = server.url().replace("redis://", &format!("redis://{user}:right@"));
        open(RedisSettings { key_prefix: "staging-2".to_owned(), ..settings(url) })
    };
    server.cli(&["acl", "setuser", "none", "on", ">right"]);
    let text = refusal(&staging("none")).await;
    assert!(rights.iter().all(|right| text.contains(right.as_str())), "{text}");
    let granted = rights.iter().map(String::as_str);
    server.cli(&["acl", "setuser", "limited", "on", ">right"].into_iter().chain(granted).collect::<Vec<_>>());
    enqueue(&staging("limited"), &names("msg", 0..1)).await;
}

#[tokio::test]
async fn keys_of_another_program_are_not_changed_and_are_reported() {
    for name in ["new", "again", "messages", "due", "leases", "dead", "meta"] {
        let server = RedisServer::start().await;
        server.cli(&["set", &key(0, name), "someone else's"]);
        let queue = open(settings(server.url()));
        let taken = try_enqueue(&queue, &names("msg", 0..1)).await.map(drop);
        let request = request(1, LONG, Duration::ZERO);
        let leased = queue.lease(request).await.map(drop);
        let counted = queue.stats().await.map(drop);
        let refusals: Vec<QueueError> =
            [taken, leased, counted].into_iter().filter_map(Result::err).collect();
        assert!(!refusals.is_empty(), "{name}");
        for refusal in refusals {
            let QueueError::Deployment(text) = &refusal else { panic!("{name}: {refusal:?}") };
            assert!(text.contains("another program uses the queue's keys"), "{name}: {text}");
        }
        assert_eq!(server.cli(&["get", &key(0, name)]), "someone else's");
    }
}

#[tokio::test]
async fn databases_of_one_server_are_separate_queues() {
    let server = RedisServer::start().await;
    let other = open(settings(server.url().replace("/0", "/5")));
    enqueue(&open(settings(server.url())), &names("msg", 0..1)).await;
    enqueue(&other, &names("msg", 0..1)).await;
    assert_eq!(server.cli(&["-n", "5", "xlen", &key(0, "new")]), "1");
    assert_eq!(drain(&other).await.len(), 1);
}

#[tokio::test]
async fn an_unreachable_server_is_reported_in_one_line_with_host_port_and_fix() {
    let port = rollbook_testkit::servers::free_port();
    for (host, text) in [
        ("127.0.0.1", "connection refused: check that the server is running"),
        ("nowhere.invalid", "that the address is right"),
    ] {
        let settings = RedisSettings {
            call_timeout: Duration::from_secs(5),
            ..settings(format!("redis://me:ImASecret@{host}:{port}/0"))
        };
        let queue = RedisQueue::new(settings, ClockSource::Server).expect("nothing is connected to yet");
        let refused = try_enqueue(&queue, &names("msg", 0..1)).await;
        let Err(QueueError::Unavailable(line)) = refused else { panic!("{refused:?}") };
        assert!(line.contains(&format!("Redis at {host}:{port}")) && line.contains(text), "{line}");
        assert!(!line.contains("ImASecret") && !line.contains('\n'), "{line}");
    }
}

#[tokio::test]
async fn a_read_only_process_creates_nothing_and_sees_data_that_others_create_later() {
    let server = RedisServer::start().await;
    let looking = open(settings(server.url()));
    let filter = DeadLetterFilter::default();
    let read_all = async || {
        let dead = looking.dead_letters(&filter.page(None, 10)).await.expect("a listing").len();
        let waiting = looking.messages(None, 10).await.expect("a listing").messages.len();
        let found = looking.message(&MessageId::new("msg_00000")).await.expect("an answer").is_some();
        (stats(&looking).await.depth(), dead, waiting, found)
    };
    assert_eq!(read_all().await, (0, 0, 0, false));
    assert_eq!(server.cli(&["DBSIZE"]).trim(), "0");
    let working = open(settings(server.url()));
    enqueue(&working, &names("msg", 0..2)).await;
    assert_eq!(read_all().await, (2, 0, 2, true));
    let leases = lease(&working, 1).await;
    settle_all(&working, &leases, &dead_letter()).await;
    let (depth, dead, ..) = read_all().await;
    assert_eq!((depth, dead), (1, 1));
    enqueue(&looking, &names("more", 0..1)).await;
    assert_eq!(drain(&working).await.len(), 2, "it may also write");
}
