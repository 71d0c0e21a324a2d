//! Receivers, workers, Redis and Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use crate::BINARY;

pub(crate) const DATABASE: &str = "app";
const RECEIVERS: usize = 2;
const WORKERS: usize = 4;
/// The shortest there may be, in seconds: what a killed worker held comes back after it.
pub(crate) const LEASE_SECONDS: u64 = 5;

pub(crate) struct Fleet {
    pub(crate) redis: RedisServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) receivers: Vec<Member>,
    pub(crate) workers: Vec<Member>,
}

/// A process and where it lives.
pub(crate) struct Member {
    pub(crate) home: Home,
    pub(crate) process: Process,
}

impl Fleet {
    /// Starts all. With a library, Redis flushes once a second through it: what a control needs.
    pub(crate) async fn start(slow_flush: Option<PathBuf>) -> Self {
        let (redis, durability) = match slow_flush {
            None => (RedisServer::start().await, "strict"),
            Some(library) => {
                let settings = [("appendfsync", "everysec")];
                (RedisServer::start_preloading(&library, &settings).await, "degraded")
            }
        };
        let postgres = PostgresServer::start().await;
        postgres.create_database(DATABASE).await;
        let home = || {
            Home::new(BINARY)
                .with("ROLLBOOK_LOG", "warn")
                .with("ROLLBOOK_LEASE_FOR", format!("{LEASE_SECONDS}s"))
                .with("ROLLBOOK_STATEMENT_TIMEOUT", "2s")
                .with("ROLLBOOK_DATABASE_CONNECT_TIMEOUT", "2s")
                .with("ROLLBOOK_QUEUE_URL", redis.url())
                .with("DATABASE_URL", postgres.url(DATABASE))
                .with("ROLLBOOK_DURABILITY", durability)
        };
        home().migrate();
        let (mut receivers, mut workers) = (Vec::new(), Vec::new());
        for _ in 0..RECEIVERS {
            receivers.push(Member::start(home(), "receive").await);
        }
        for _ in 0..WORKERS {
            workers.push(Member::start(home(), "work").await);
        }
        Self { redis, postgres, receivers, workers }
    }

    pub(crate) fn addresses(&self) -> [SocketAddr; RECEIVERS] {
        [self.receivers[0].home.listen, self.receivers[1].home.listen]
    }

    /// Messages that are neither done nor dead, by Redis's own count.
    pub(crate) fn waiting(&self) -> u64 {
        let count = |command: &[&str]| self.redis.cli(command).parse::<u64>().unwrap_or(u64::MAX);
        count(&["hlen", "{rollbook:0}:messages"]).saturating_sub(count(&["zcard", "{rollbook:0}:dead"]))
    }

    pub(crate) async fn until_quiet(&self) {
        until("the queue is empty", || std::future::ready(self.waiting() == 0)).await;
    }

    /// Ends all members as a person would. Whether each ended in order.
    pub(crate) async fn stop(&mut self) -> bool {
        let mut in_order = true;
        for member in self.receivers.iter_mut().chain(&mut self.workers) {
            member.process.signal("TERM");
            in_order &= member.process.exit().await.success();
        }
        in_order
    }

    pub(crate) fn logs(&self) -> String {
        let members = self.receivers.iter().chain(&self.workers);
        members.map(|member| member.home.log()).collect::<Vec<_>>().join("\n")
    }
}

impl Member {
    async fn start(home: Home, face: &str) -> Self {
        let process = home.start_ready(&[face]).await;
        Self { home, process }
    }

    /// `kill -9`, and nothing in its place.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts another one, which may find nobody there.
    pub(crate) fn start_again(&mut self, face: &str) {
        self.process = self.home.start(&[face]);
    }

    /// `kill -9`, and at once another in its place, which may find nobody there.
    pub(crate) fn replace(&mut self, face: &str) {
        self.kill();
        self.start_again(face);
    }
}
