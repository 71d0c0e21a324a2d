//! One receiver, four workers with an API each, Redis and Postgres. Each worker has a database role of its own, by which its
//! sessions are known.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::{DATABASE, block};
use crate::crashes::BINARY;

pub(super) const WORKERS: usize = 4;
pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const ROLE_PASSWORD: &str = "ImAPassword";

pub(super) struct Fleet {
    redis: RedisServer,
    pub(super) postgres: PostgresServer,
    pub(super) receiver: Member,
    workers: Vec<Member>,
    /// Addresses of the workers' APIs.
    pub(super) apis: Vec<SocketAddr>,
}

pub(super) struct Member {
    pub(super) home: Home,
    process: Process,
}

/// A session of somebody else.
pub(super) struct Session(PgConnection);

impl Session {
    pub(super) async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await.expect("it may do this");
    }
}

fn free_address() -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    free.local_addr().expect("an address")
}

impl Fleet {
    pub(super) async fn start() -> Self {
        let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
        postgres.create_database(DATABASE).await;
        let home = |url: String| {
            Home::new(BINARY)
                .with("ROLLBOOK_LOG", "warn")
                .with("ROLLBOOK_QUEUE_URL", redis.url())
                .with("DATABASE_URL", url)
                // Messages of a killed worker are due again only after it.
                .with("ROLLBOOK_LEASE_FOR", "8s")
                .with("ROLLBOOK_STATEMENT_TIMEOUT", "4s")
                .with("ROLLBOOK_DATABASE_CONNECT_TIMEOUT", "3s")
        };
        let receiver = home(postgres.url(DATABASE));
        receiver.migrate();
        postgres.psql(DATABASE, &block("schema.sql")).await;
        let process = receiver.start_ready(&["receive"]).await;
        let receiver = Member { home: receiver, process };
        let (mut workers, mut apis) = (Vec::new(), Vec::new());
        for number in 0..WORKERS {
            let role = format!("CREATE ROLE worker_{number} LOGIN SUPERUSER PASSWORD '{ROLE_PASSWORD}'");
            postgres.psql(DATABASE, &role).await;
            let url = format!(
                "postgres://worker_{number}:{ROLE_PASSWORD}@127.0.0.1:{}/{DATABASE}",
                postgres.port()
            );
            let api = free_address();
            let home =
                home(url).with("ROLLBOOK_API_LISTEN", api.to_string()).with("ROLLBOOK_API_TOKENS", TOKEN);
            let process = home.start_ready(&["work"]).await;
            workers.push(Member { home, process });
            apis.push(api);
        }
        Self { redis, postgres, receiver, workers, apis }
    }

    pub(super) fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    pub(super) async fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).await.trim_end().to_owned()
    }

    pub(super) async fn session(&self) -> Session {
        Session(PgConnection::connect(&self.url()).await.expect("a connection"))
    }

    /// Returns the last position.
    pub(super) async fn last(&self) -> u64 {
        self.sql("SELECT last_position FROM clerk.changes_state").await.parse().expect("a position")
    }

    /// Sends a user and an organization that are in no history, and returns the user's id once both are there.
    pub(super) async fn send_samples(&self) -> String {
        for event in ["user.created", "organization.created"] {
            let sent = self.receiver.home.command(&["send", event]).output().expect("it runs");
            assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        }
        let both = "SELECT (SELECT count(*) FROM clerk.users), (SELECT count(*) FROM clerk.organizations)";
        until("both are there", || async { self.sql(both).await == "1|1" }).await;
        self.sql("CREATE TABLE app.sample AS SELECT id FROM clerk.organizations").await;
        self.sql("SELECT id FROM clerk.users").await
    }

    /// `kill -9` of a worker, and another in its place.
    pub(super) async fn kill_worker(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        worker.process.kill();
        worker.process = worker.home.start_ready(&["work"]).await;
    }

    /// `kill -9` of the worker that gives positions, in the middle of its transaction.
    pub(super) async fn kill_sequencer(&mut self) {
        let mut holder = self.session().await;
        // The sequencer has taken its lock when it waits for this one.
        holder.run("BEGIN; LOCK TABLE clerk.changes IN SHARE MODE").await;
        // There is something to do, whatever the load.
        self.sql("UPDATE clerk.organizations SET name = name || '.' WHERE id IN (SELECT id FROM app.sample)")
            .await;
        let waiting = "SELECT min(substr(usename, 8)) FROM pg_stat_activity WHERE usename LIKE 'worker\\_%'
                       AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM \"clerk\".changes_pending%'";
        until("a worker gives positions", || async { !self.sql(waiting).await.is_empty() }).await;
        let number: usize = self.sql(waiting).await.parse().expect("a number");
        self.workers[number].process.kill();
        holder.run("ROLLBACK").await;
        self.workers[number].process = self.workers[number].home.start_ready(&["work"]).await;
    }

    /// Waits until everything that was acknowledged is applied and has its position.
    pub(super) async fn until_applied(&self) {
        let messages = || self.redis.cli(&["hlen", "{rollbook:0}:messages"]).trim().to_owned();
        until("the queue is empty", || std::future::ready(messages() == "0")).await;
        let pending = "SELECT count(*) FROM clerk.changes_pending";
        until("every change has its position", || async { self.sql(pending).await == "0" }).await;
    }
}
