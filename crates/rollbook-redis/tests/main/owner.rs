//! Several deployments on one server.

use rollbook_core::queue::{Consumer as _, QueueAdmin as _, QueueError};
use rollbook_redis::{ClockSource, Owner, RedisQueue, RedisSettings};
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{LONG, drain, enqueue, names, open, set, settings, try_enqueue};

fn owner(instance_id: Option<&str>, fingerprints: &[&str]) -> Owner {
    Owner {
        instance_id: instance_id.map(str::to_owned),
        fingerprints: fingerprints.iter().map(|&fingerprint| fingerprint.to_owned()).collect(),
    }
}

fn owned(server: &RedisServer, owner: Owner) -> RedisSettings {
    RedisSettings { owner, ..settings(server.url()) }
}

#[tokio::test]
async fn a_queue_of_another_deployment_is_refused_with_a_clear_text_and_nothing_is_taken_from_it() {
    let server = RedisServer::start().await;
    let production = open(owned(&server, owner(None, &["aaaa"])));
    enqueue(&production, &names("msg", 0..3)).await;
    for foreign in [owner(None, &["bbbb"]), owner(Some("ins_2"), &["bbbb"])] {
        let staging = open(owned(&server, foreign));
        let refusals = [
            staging.lease(request(10, LONG, std::time::Duration::ZERO)).await.map(drop),
            try_enqueue(&staging, &names("msg", 3..4)).await.map(drop),
            staging.stats().await.map(drop),
            staging.audit(true).await.map(drop),
        ];
        for refusal in refusals {
            let Err(QueueError::Deployment(text)) = refusal else { panic!("{refusal:?}") };
            assert!(
                text.contains("belongs to another deployment (its owner: secrets=aaaa; this process:"),
                "{text}"
            );
            assert!(
                text.contains("redis_key_prefix") && text.contains("HDEL '{rollbook:0}:meta' owner"),
                "{text}"
            );
        }
    }
    assert_eq!(drain(&production).await, set(&names("msg", 0..3)));
}

#[tokio::test]
async fn instance_ids_decide_if_both_are_known() {
    let server = RedisServer::start().await;
    enqueue(&open(owned(&server, owner(Some("ins_1"), &["aaaa"]))), &names("msg", 0..1)).await;
    let other =
        try_enqueue(&open(owned(&server, owner(Some("ins_2"), &["aaaa"]))), &names("msg", 1..2)).await;
    assert!(matches!(other, Err(QueueError::Deployment(_))), "{other:?}");
    enqueue(&open(owned(&server, owner(Some("ins_1"), &["bbbb"]))), &names("msg", 2..3)).await;
    enqueue(&open(owned(&server, owner(None, &["bbbb"]))), &names("msg", 3..4)).await;
}

#[tokio::test]
async fn a_rotated_secret_keeps_the_owner_and_a_worker_without_secrets_works() {
    let server = RedisServer::start().await;
    for (number, secrets) in
        [&["old"][..], &["new", "old"], &["new"], &["newer", "new"], &["newer"]].into_iter().enumerate()
    {
        let queue = open(owned(&server, owner(None, secrets)));
        enqueue(&queue, &names("msg", number..number + 1)).await;
    }
    assert_eq!(server.cli(&["hget", "{rollbook:0}:meta", "owner"]), "secrets=newer,new,old");
    assert_eq!(drain(&open(owned(&server, Owner::default()))).await.len(), 5);
}

#[tokio::test]
async fn a_queue_created_without_an_owner_is_claimed_by_the_first_deployment_that_has_one() {
    let server = RedisServer::start().await;
    enqueue(&open(owned(&server, Owner::default())), &names("msg", 0..1)).await;
    assert_eq!(server.cli(&["hexists", "{rollbook:0}:meta", "owner"]), "0");
    enqueue(&open(owned(&server, owner(None, &["aaaa"]))), &names("msg", 1..2)).await;
    let other = try_enqueue(&open(owned(&server, owner(None, &["bbbb"]))), &names("msg", 2..3)).await;
    assert!(matches!(other, Err(QueueError::Deployment(_))), "{other:?}");
}

#[tokio::test]
async fn deployments_with_their_own_prefixes_share_only_the_server() {
    let server = RedisServer::start().await;
    let prefixed = |prefix: &str, secret: &str| {
        let key_prefix = prefix.to_owned();
        open(RedisSettings { key_prefix, shards: 2, ..owned(&server, owner(None, &[secret])) })
    };
    let (production, staging) = (prefixed("production", "aaaa"), prefixed("staging", "bbbb"));
    enqueue(&production, &names("msg", 0..20)).await;
    enqueue(&staging, &names("msg", 10..40)).await;
    assert_eq!(drain(&production).await, set(&names("msg", 0..20)));
    assert_eq!(drain(&staging).await, set(&names("msg", 10..40)));
    assert!(server.cli(&["keys", "{rollbook:*"]).is_empty());
    assert!(
        server
            .cli(&["keys", "*"])
            .lines()
            .all(|key| key.starts_with("{production:") || key.starts_with("{staging:"))
    );
}

#[test]
fn a_prefix_with_special_characters_is_refused() {
    for prefix in ["", "a:b", "a}", "a b"] {
        let settings = RedisSettings { key_prefix: prefix.to_owned(), ..settings("redis://h".to_owned()) };
        let refused = RedisQueue::new(settings, ClockSource::Server).err();
        assert!(
            matches!(refused, Some(QueueError::Deployment(text)) if text.contains("redis_key_prefix")),
            "{prefix}"
        );
    }
}
