//! The signing secret is rotated under load, as `ops/RUNBOOK.md` says: both, then the new one alone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, Process, SECRET, until};
use rollbook_testkit::servers::redis::RedisServer;
use tokio::sync::RwLock;

use super::{home_on, messages, stop};
use crate::raw_http::{exchange, status};

pub(super) const NEW_SECRET: &str = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3";
const VARIABLE: &str = "CLERK_WEBHOOK_SIGNING_SECRET";
pub(super) const SENDERS: usize = 8;
/// Number of deliveries that are answered in each phase.
const SOME: usize = 100;

/// Secrets with which senders sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signing {
    Old,
    Both,
    New,
}

fn signature(secret: &str, id: &str, now: Timestamp, body: &str) -> String {
    let secrets = SigningSecrets::parse(secret).expect("a secret");
    secrets.first().sign(id, now, body.as_bytes())
}

/// A delivery with one, two or five signatures in its header, in turn, in any order, with others among them.
pub(super) fn delivery(number: usize, signing: Signing) -> (String, String) {
    let id = format!("msg_{number}");
    let body =
        format!(r#"{{"type":"user.created","timestamp":1785312000032,"data":{{"id":"user_{number}"}}}}"#);
    // Read once: header and signatures must have the same second.
    let now = WallClock.now();
    let (old, new) = (signature(SECRET, &id, now, &body), signature(NEW_SECRET, &id, now, &body));
    let right = match signing {
        Signing::Old => vec![old],
        Signing::Both if number.is_multiple_of(2) => vec![old, new],
        Signing::Both => vec![new, old],
        Signing::New => vec![new],
    };
    let asymmetric = "v1a,c2lnbmVkIHdpdGggYW5vdGhlciBraW5kIG9mIGtleQ==".to_owned();
    let wrong = signature("whsec_d3Jvbmd3cm9uZ3dyb25nd3Jvbmd3cm9uZ3dy", &id, now, &body);
    let mut all = match number % 3 {
        0 => right,
        1 => [vec![asymmetric], right].concat(),
        _ => [vec![wrong.clone(), asymmetric], right, vec![wrong]].concat(),
    };
    let turns = number % all.len();
    all.rotate_left(turns);
    let head = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: test\r\nconnection: close\r\nsvix-id: {id}\r\nsvix-timestamp: {}\r\n\
         svix-signature: {}\r\ncontent-length: {}\r\n\r\n",
        now.as_millis() / 1000,
        all.join(" "),
        body.len()
    );
    (id, format!("{head}{body}"))
}

pub(super) struct Load {
    receivers: [SocketAddr; 2],
    /// Receiver that takes deliveries, and the secrets that sign them. A sender holds the lock until it has
    /// its answer.
    pub(super) way: RwLock<(usize, Signing)>,
    pub(super) next: AtomicUsize,
    answered: AtomicUsize,
    pub(super) is_over: AtomicBool,
}

impl Load {
    /// Creates a load on these receivers, signed with the old secret.
    pub(super) fn on(receivers: [SocketAddr; 2]) -> Self {
        Self {
            receivers,
            way: RwLock::new((0, Signing::Old)),
            next: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Sends until the end of the test. Returns the answers other than 200.
    pub(super) async fn sender(&self) -> Vec<String> {
        let mut refused = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let way = self.way.read().await;
            let (receiver, signing) = *way;
            let (id, request) = delivery(self.next.fetch_add(1, Ordering::Relaxed), signing);
            let answer = exchange(self.receivers[receiver], &request).await;
            if answer.is_empty() || status(&answer) != 200 {
                refused.push(format!("{id}, signed {signing:?}: {answer:?}"));
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        refused
    }

    pub(super) async fn some_more(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + SOME;
        until("deliveries are answered", || {
            std::future::ready(self.answered.load(Ordering::Relaxed) >= enough)
        })
        .await;
    }

    /// Restarts the receivers one after the other with these secrets; senders go to the one that stays.
    async fn restart(&self, homes: &mut [Option<Home>; 2], processes: &mut [Process; 2], secrets: &str) {
        for index in 0..2 {
            self.way.write().await.0 = 1 - index;
            self.some_more().await;
            let home = homes[index].take().expect("a home");
            stop(&home, &mut processes[index]).await;
            let home = home.with(VARIABLE, secrets);
            processes[index] = home.start_ready(&["receive"]).await;
            homes[index] = Some(home);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_rotated_under_load_refuses_no_delivery_and_then_the_old_one_is_refused() {
    let redis = RedisServer::start().await;
    let homes = [home_on(redis.url()), home_on(redis.url())];
    homes[0].migrate();
    let mut processes = [homes[0].start_ready(&["receive"]).await, homes[1].start_ready(&["receive"]).await];
    let load = Load::on([homes[0].listen, homes[1].listen]);
    let mut homes = homes.map(Some);
    let rotation = async {
        load.some_more().await;
        load.restart(&mut homes, &mut processes, &format!("{SECRET},{NEW_SECRET}")).await;
        load.way.write().await.1 = Signing::Both;
        load.some_more().await;
        load.way.write().await.1 = Signing::New;
        load.some_more().await;
        load.restart(&mut homes, &mut processes, NEW_SECRET).await;
        load.some_more().await;
        load.is_over.store(true, Ordering::Relaxed);
    };
    let (refused, ()) = tokio::join!(join_all((0..SENDERS).map(|_| load.sender())), rotation);
    assert_eq!(refused.concat(), [""; 0]);
    let all = load.next.load(Ordering::Relaxed);
    assert_eq!(messages(&redis), (all as u64, 0), "each delivery is in the queue once");
    let (_, old) = delivery(all, Signing::Old);
    assert_eq!(status(&exchange(load.receivers[0], &old).await), 400, "the old secret is worth nothing now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_rotated_while_nothing_comes_is_known_to_every_shard() {
    const SHARDS: usize = 6;
    let redis = RedisServer::start().await;
    let owner = |shard: usize| redis.cli(&["hget", &format!("{{rollbook:{shard}}}:meta"), "owner"]);
    let home = |secrets: &str| {
        home_on(redis.url()).with("ROLLBOOK_QUEUE_SHARDS", SHARDS.to_string()).with(VARIABLE, secrets)
    };
    let both = format!("{SECRET},{NEW_SECRET}");
    let mut owners = vec![String::new(); SHARDS];
    for (secrets, signing) in [(SECRET, Some(Signing::Old)), (&both, None), (NEW_SECRET, Some(Signing::New))]
    {
        let home = home(secrets);
        home.migrate();
        let mut receiver = home.start_ready(&["receive"]).await;
        if signing.is_none() {
            // No delivery arrives.
            until("every shard knows the new secret", || {
                let found: Vec<String> = (0..SHARDS).map(owner).collect();
                let is_new =
                    found.iter().zip(&owners).all(|(found, before)| found != before && !found.is_empty());
                std::future::ready(is_new)
            })
            .await;
        }
        for number in (0..10 * SHARDS).filter(|_| signing.is_some()) {
            let (_, request) = delivery(number, signing.unwrap_or(Signing::Both));
            assert_eq!(status(&exchange(home.listen, &request).await), 200, "{}", home.log());
        }
        owners = (0..SHARDS).map(owner).collect();
        stop(&home, &mut receiver).await;
    }
}
