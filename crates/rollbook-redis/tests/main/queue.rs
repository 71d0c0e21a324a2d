//! Conformance tests of the queue port on Redis.

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Consumer, Producer, QueueAdmin};
use rollbook_core::time::Timestamp;
use rollbook_redis::{ClockSource, RedisQueue, RedisSettings};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::queue::QueueHarness;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::sync::Mutex;

use crate::support::settings;

/// One server for the whole process; each harness first empties it and holds it for its lifetime.
static SERVER: Mutex<Option<RedisServer>> = Mutex::const_new(None);

struct Harness {
    server: tokio::sync::MutexGuard<'static, Option<RedisServer>>,
    queue: Arc<RedisQueue>,
    clock: Arc<ManualClock>,
    settings: RedisSettings,
}

impl Harness {
    fn open(settings: &RedisSettings, clock: &Arc<ManualClock>) -> Arc<RedisQueue> {
        let queue = RedisQueue::new(settings.clone(), ClockSource::Clock(clock.clone()));
        Arc::new(queue.expect("the settings can be used"))
    }
}

async fn open(depth_max: u64) -> Harness {
    let mut server = SERVER.lock().await;
    match &*server {
        Some(server) => drop(server.cli(&["flushall"])),
        None => *server = Some(RedisServer::start().await),
    }
    let url = server.as_ref().expect("it runs").url();
    let settings = RedisSettings { depth_max, ..settings(url) };
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
    Harness { queue: Harness::open(&settings, &clock), server, clock, settings }
}

#[async_trait]
impl QueueHarness for Harness {
    fn producer(&self) -> Arc<dyn Producer> {
        self.queue.clone()
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        self.queue.clone()
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.queue.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    /// Changes the format, the first byte of the value, to an unknown one; the body stays as received.
    async fn corrupt(&mut self, id: &MessageId) {
        let server = self.server.as_ref().expect("it runs");
        let script = "local value = redis.call('HGET', KEYS[1], ARGV[1]) \
             return redis.call('HSET', KEYS[1], ARGV[1], string.char(99) .. string.sub(value, 2))";
        let changed = server.cli(&["eval", script, "1", "{rollbook:0}:messages", id.as_str()]);
        assert_eq!(changed, "0", "the field is there");
    }

    /// Redis crashes and reloads its log; the client is recreated.
    async fn reopen(&mut self) {
        let server = self.server.as_mut().expect("it runs");
        server.kill();
        server.restart().await;
        self.queue = Self::open(&self.settings, &self.clock);
    }
}

rollbook_testkit::queue_conformance!(open);
rollbook_testkit::queue_agrees_with_model!(open);
