//! A fleet of receivers, workers, Redis and Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rollbook_testkit::process::{DEADLINE, Home, Process};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use crate::BINARY;

pub(crate) const DATABASE: &str = "app";
const RECEIVERS: usize = 2;
const WORKERS: usize = 4;
/// Minimum duration of a lease, in seconds: messages of a killed worker are due again after it.
pub(crate) const LEASE_SECONDS: u64 = 5;

pub(crate) struct Fleet {
    pub(crate) redis: RedisServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) receivers: Vec<Member>,
    pub(crate) workers: Vec<Member>,
}

/// A process and its home.
pub(crate) struct Member {
    pub(crate) home: Home,
    pub(crate) process: Process,
}

impl Fleet {
    /// Starts all processes. With a library, Redis flushes once a second through it, as the control needs.
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

    /// Returns the number of messages in Redis that are not settled.
    pub(crate) fn waiting(&self) -> u64 {
        let count = |command: &[&str]| self.redis.cli(command).parse::<u64>().unwrap_or(u64::MAX);
        count(&["hlen", "{rollbook:0}:messages"]).saturating_sub(count(&["zcard", "{rollbook:0}:dead"]))
    }

    /// Waits until the queue is empty. Panics if nothing leaves it for [`DEADLINE`]: a busy machine may be slow, but not stuck.
    pub(crate) async fn until_quiet(&self) {
        let (mut least, mut progress_at) = (u64::MAX, Instant::now());
        loop {
            let waiting = self.waiting();
            if waiting == 0 {
                return;
            }
            if waiting < least {
                (least, progress_at) = (waiting, Instant::now());
            }
            assert!(
                progress_at.elapsed() < DEADLINE,
                "{waiting} messages wait, and none was applied within {DEADLINE:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops all processes with SIGTERM. Returns whether each ended in order.
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

    /// Kills the process (`kill -9`) without a replacement.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts another process; its servers may be down.
    pub(crate) fn start_again(&mut self, face: &str) {
        self.process = self.home.start(&[face]);
    }

    /// Kills the process (`kill -9`) and starts another at once; its servers may be down.
    pub(crate) fn replace(&mut self, face: &str) {
        self.kill();
        self.start_again(face);
    }
}
