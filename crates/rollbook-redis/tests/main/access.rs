//! Who may do what: logins, rights, and keys that are someone else's.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Producer as _, QueueAdmin as _, QueueError, Settlement,
};
use rollbook_redis::{DueTimes, RedisQueue, RedisSettings};
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
    let Err(QueueError::Deployment(told)) = refused else { panic!("a person must mend it: {refused:?}") };
    assert!(told.contains("Redis at 127.0.0.1:") && !told.contains("ImASecret"), "{told}");
    told
}

#[tokio::test]
async fn a_wrong_or_missing_login_is_refused_in_words_without_the_password() {
    let server = RedisServer::start_with(&[("requirepass", "right")]).await;
    for login in [":ImASecret", "nobody:ImASecret", "default:ImASecret"] {
        let queue = with_login(&server, login);
        let told = refusal(&queue).await;
        assert!(told.contains("user or password are wrong"), "{told}");
        assert!(matches!(queue.durability().await, Err(QueueError::Deployment(_))));
    }
    let told = refusal(&open(settings(server.url()))).await;
    assert!(told.contains("NOAUTH: user or password are wrong, or missing"), "{told}");
    enqueue(&with_login(&server, ":right"), &names("msg", 0..1)).await;
    enqueue(&with_login(&server, "default:right"), &names("msg", 1..2)).await;
}

#[tokio::test]
async fn user_and_password_of_any_characters_are_percent_encoded() {
    let server = RedisServer::start().await;
    server.cli(&["acl", "setuser", "u@x:y", "on", ">p/w?#%é@:", "~*", "+@all"]);
    enqueue(&with_login(&server, "u%40x%3Ay:p%2Fw%3F%23%25%C3%A9%40%3A"), &names("msg", 0..1)).await;
}

/// The rights that are told to whoever has too few.
const RIGHTS: [&str; 8] =
    ["~{rollbook:*", "+@read", "+@write", "+@scripting", "+@connection", "+info", "+time", "+config|get"];

#[tokio::test]
async fn a_user_with_the_rights_that_we_ask_for_can_do_everything() {
    let server = RedisServer::start().await;
    server.cli(&[&["acl", "setuser", "limited", "on", ">right"], &RIGHTS[..]].concat());
    let queue = with_login(&server, "limited:right");
    assert_eq!(queue.durability().await.expect("it may look").weaknesses, []);
    enqueue(&queue, &names("msg", 0..20)).await;
    let leases = lease(&queue, 10).await;
    settle_all(&queue, &leases[..5], &Settlement::Release).await;
    settle_all(&queue, &leases[5..], &dead_letter()).await;
    assert_eq!(redriven(&queue, &DeadLetterFilter::default(), 2).await, Ok(2));
    assert_eq!(discarded(&queue, &DeadLetterFilter::default(), 1).await, Ok(1));
    assert_eq!(queue.dead_letters(&DeadLetterFilter::default(), None, 9).await.expect("a page").len(), 2);
    enqueue(&queue, &names("gone", 0..3)).await;
    assert_eq!(listed(&queue, 9).await.len(), 20);
    assert_eq!(remove(&queue, &names("gone", 0..3)).await, Ok(3));
    server.cli(&["xgroup", "destroy", &key(0, "new"), "workers"]);
    let request = request(1, LONG, Duration::from_millis(1));
    assert_eq!(drain(&queue).await.len(), 17);
    assert!(queue.lease(request).await.is_ok_and(|leases| leases.is_empty()));
    assert_eq!(stats(&queue).await.depth(), 0);

    // What health, doctor, an operator and the hourly audit ask.
    assert_eq!(queue.prepare().await, Ok(()));
    assert_eq!(queue.probe().await, Ok(true), "it may try a write");
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
    assert_eq!(queue.remove().await, Ok(()), "and remove all that is its own");
}

#[tokio::test]
async fn a_user_with_too_few_rights_is_told_which_it_needs() {
    let server = RedisServer::start().await;
    for (user, missing) in [
        ("no-scripts", &["~*", "+@all", "-@scripting"][..]),
        ("no-keys", &["~elsewhere:*", "+@all"]),
        ("no-streams", &["~*", "+@all", "-@stream"]),
        ("no-time", &["~*", "+@all", "-time"]),
        ("no-info", &["~*", "+@all", "-info"]),
    ] {
        server.cli(&[&["acl", "setuser", user, "on", ">ImASecret"], missing].concat());
        let told = refusal(&with_login(&server, &format!("{user}:ImASecret"))).await;
        for right in RIGHTS {
            assert!(told.contains(right), "{user}, {right}: {told}");
        }
    }
}

#[tokio::test]
async fn the_rights_are_told_for_the_prefix_that_is_set_and_they_suffice() {
    let server = RedisServer::start().await;
    let rights = RIGHTS.map(|right| right.replace("rollbook", "staging-2"));
    let staging = |user: &str| {
        let url = server.url().replace("redis://", &format!("redis://{user}:right@"));
        open(RedisSettings { key_prefix: "staging-2".to_owned(), ..settings(url) })
    };
    server.cli(&["acl", "setuser", "none", "on", ">right"]);
    let told = refusal(&staging("none")).await;
    assert!(rights.iter().all(|right| told.contains(right.as_str())), "{told}");
    let granted = rights.iter().map(String::as_str);
    server.cli(&["acl", "setuser", "limited", "on", ">right"].into_iter().chain(granted).collect::<Vec<_>>());
    enqueue(&staging("limited"), &names("msg", 0..1)).await;
}

#[tokio::test]
async fn keys_of_another_program_are_left_as_they_are_and_told() {
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
            let QueueError::Deployment(told) = &refusal else { panic!("{name}: {refusal:?}") };
            assert!(told.contains("another program uses our keys"), "{name}: {told}");
        }
        assert_eq!(server.cli(&["get", &key(0, name)]), "someone else's");
    }
}

#[tokio::test]
async fn several_databases_of_a_server_are_several_queues() {
    let server = RedisServer::start().await;
    let other = open(settings(server.url().replace("/0", "/5")));
    enqueue(&open(settings(server.url())), &names("msg", 0..1)).await;
    enqueue(&other, &names("msg", 0..1)).await;
    assert_eq!(server.cli(&["-n", "5", "xlen", &key(0, "new")]), "1");
    assert_eq!(drain(&other).await.len(), 1);
}

#[tokio::test]
async fn nobody_at_the_address_is_said_in_one_line_with_host_port_and_mend() {
    let port = rollbook_testkit::servers::free_port();
    for (host, told) in
        [("127.0.0.1", "connection refused: is it running"), ("nowhere.invalid", "is the address right")]
    {
        let settings = RedisSettings {
            call_timeout: Duration::from_secs(5),
            ..settings(format!("redis://me:ImASecret@{host}:{port}/0"))
        };
        let queue = RedisQueue::new(settings, DueTimes::Server).expect("nothing is connected to yet");
        let refused = try_enqueue(&queue, &names("msg", 0..1)).await;
        let Err(QueueError::Unavailable(line)) = refused else { panic!("{refused:?}") };
        assert!(line.contains(&format!("Redis at {host}:{port}")) && line.contains(told), "{line}");
        assert!(!line.contains("ImASecret") && !line.contains('\n'), "{line}");
    }
}

#[tokio::test]
async fn whoever_only_looks_makes_nothing_and_sees_what_others_make_afterwards() {
    let server = RedisServer::start().await;
    let looking = open(settings(server.url()));
    let filter = DeadLetterFilter::default();
    let look = async || {
        let dead = looking.dead_letters(&filter, None, 10).await.expect("a listing").len();
        let waiting = looking.messages(None, 10).await.expect("a listing").messages.len();
        let found = looking.message(&MessageId::new("msg_00000")).await.expect("an answer").is_some();
        (stats(&looking).await.depth(), dead, waiting, found)
    };
    assert_eq!(look().await, (0, 0, 0, false));
    assert_eq!(server.cli(&["DBSIZE"]).trim(), "0");
    let working = open(settings(server.url()));
    enqueue(&working, &names("msg", 0..2)).await;
    assert_eq!(look().await, (2, 0, 2, true));
    let leases = lease(&working, 1).await;
    settle_all(&working, &leases, &dead_letter()).await;
    let (depth, dead, ..) = look().await;
    assert_eq!((depth, dead), (1, 1));
    enqueue(&looking, &names("more", 0..1)).await;
    assert_eq!(drain(&working).await.len(), 2, "and may write as any other");
}
