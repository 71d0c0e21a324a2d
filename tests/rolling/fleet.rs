//! A fleet of two receivers, two workers, Redis and Postgres.

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use sqlx::{Connection as _, PgConnection};

use crate::crashes::BINARY;

pub(super) const DATABASE: &str = "app";

/// Stop delay: several times as long as the balancer needs to notice.
const STOP_DELAY: &str = "700ms";
const LANES: u64 = 3;

pub(super) struct Fleet {
    pub(super) redis: RedisServer,
    pub(super) postgres: PostgresServer,
    pub(super) receivers: Vec<Member>,
    pub(super) workers: Vec<Member>,
}

/// A process and its home.
pub(super) struct Member {
    face: &'static str,
    pub(super) home: Home,
    process: Option<Process>,
}

impl Fleet {
    pub(super) async fn start() -> Self {
        let redis = RedisServer::start().await;
        let postgres = PostgresServer::start().await;
        postgres.create_database(DATABASE).await;
        let home = || {
            Home::new(BINARY)
                .with("ROLLBOOK_LOG", "warn")
                .with("ROLLBOOK_QUEUE_URL", redis.url())
                .with("DATABASE_URL", postgres.url(DATABASE))
                .with("ROLLBOOK_DURABILITY", "strict")
                .with("ROLLBOOK_STOP_DELAY", STOP_DELAY)
                .with("ROLLBOOK_LANES", LANES.to_string())
        };
        home().migrate();
        let (mut receivers, mut workers) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            receivers.push(Member::start("receive", home()).await);
            workers.push(Member::start("work", home()).await);
        }
        Self { redis, postgres, receivers, workers }
    }

    /// Returns the number of messages in Redis, dead letters included.
    pub(super) fn messages(&self) -> u64 {
        self.count(&["hlen", "{rollbook:0}:messages"])
    }

    fn count(&self, command: &[&str]) -> u64 {
        self.redis.cli(command).parse().unwrap_or(u64::MAX)
    }

    /// Stops a worker while it has a batch in every lane.
    pub(super) async fn stop_worker(&mut self, index: usize) {
        let lanes = LANES * self.workers.iter().filter(|worker| worker.process.is_some()).count() as u64;
        let url = self.postgres.url(DATABASE);
        let mut holder = PgConnection::connect(&url).await.expect("a connection");
        let lock = "BEGIN; LOCK TABLE clerk.deliveries IN EXCLUSIVE MODE";
        sqlx::raw_sql(lock).execute(&mut holder).await.expect("a lock");
        until("every lane has leased a batch", || {
            std::future::ready(self.count(&["zcard", "{rollbook:0}:leases"]) == lanes)
        })
        .await;
        let worker = &mut self.workers[index];
        worker.signal();
        holder.close().await.expect("it is closed");
        worker.ended().await;
    }

    pub(super) async fn replace_worker(&mut self, index: usize, round: usize) {
        self.stop_worker(index).await;
        self.workers[index].start_again(round).await;
    }

    pub(super) fn logs(&self) -> String {
        self.receivers.iter().chain(&self.workers).map(|member| member.home.log()).collect()
    }

    pub(super) async fn stop(&mut self) {
        for member in self.receivers.iter_mut().chain(&mut self.workers) {
            if member.process.is_some() {
                member.stop().await;
            }
        }
    }
}

impl Member {
    async fn start(face: &'static str, home: Home) -> Self {
        let process = Some(home.start_ready(&[face]).await);
        Self { face, home, process }
    }

    /// Stops a process as an orchestrator does: sends SIGTERM once, and waits until it ends in order.
    pub(super) async fn stop(&mut self) {
        self.signal();
        self.ended().await;
    }

    fn signal(&self) {
        self.process.as_ref().expect("it runs").signal("TERM");
    }

    async fn ended(&mut self) {
        let ended = self.process.take().expect("it runs").exit().await;
        assert!(ended.success(), "{}: {ended}: {}", self.face, self.home.log());
    }

    /// Stops a process, and starts another in its place.
    pub(super) async fn replace(&mut self, round: usize) {
        self.stop().await;
        self.start_again(round).await;
    }

    async fn start_again(&mut self, round: usize) {
        self.process = Some(self.home.start_ready(&[self.face]).await);
        assert_eq!(self.home.log(), "", "{}, round {round}: nothing is worth a warning", self.face);
    }
}
