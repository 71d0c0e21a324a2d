//! Connection pool of one server: connections are created on demand and used by one call at a time.
//!
//! * A call has a connection to itself: a batch of one MiB does not delay a settlement, and WAIT and WAITAOF
//!   concern only the writes of their own connection.
//! * A connection never reconnects by itself. A confirmation therefore comes from the server that executed
//!   the write: if the connection breaks in between, the write is sent again on a new connection and
//!   confirmed there.
//! * A connection is not reused after a failure or an abandoned call: its next answer would belong to another
//!   call. It is also not reused after a long idle time, if it is older than a failure that concerned all
//!   connections, or if the server's state has changed since.
//! * A call that fails because its connection was closed while idle is repeated once, on a new connection.
//!   All calls may be repeated: see the scripts.
//! * No ping before a call, as existing pools send it: a ping costs a flush of Redis's log.
//! * Every call has a time limit.

mod inspection;

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool::managed::{
    self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind, Value};
use rollbook_core::lock::lock;
use rollbook_core::queue::{Durability, QueueError};
use rollbook_core::weakness::joined;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::connection::{self, Connection};
use crate::durability::Confirm;
use crate::failure::{Failure, FailureKind};
use crate::fault::{self, Location};
use crate::slots::Node;

/// Maximum connections: two batches of the receiver, a lease and a settlement for each lane, and an operator.
const CONNECTIONS_MAX: usize = 32;

/// Idle time after which a connection is replaced: load balancers and firewalls drop connections after some
/// minutes, and servers close them (`timeout`).
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Idle time after which the network may have dropped a connection. If the answer to its next call is late,
/// the server is checked on another connection.
const IDLE_TRUSTED: Duration = Duration::from_millis(100);

/// Divisor of the call's time limit after which an answer is late. Check and retry must fit into a request's
/// time limit.
const LATE_AFTER_SHARE: u32 = 4;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Refuse to work if acknowledged data may not be on the disk.
    pub(crate) strict: bool,
    /// The operator vouches that the server keeps acknowledged data.
    pub(crate) trusted: bool,
    /// Number of replicas that must have a delivery before it is acknowledged.
    pub(crate) replicas: u32,
    /// Maximum time of a connection attempt and of each call.
    pub(crate) call_timeout: Duration,
    /// Notified when a server answers that has restarted.
    pub(crate) restarted: Arc<Notify>,
}

/// One round trip to a server, plus one to confirm it. A call may be executed twice.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) command: &'a Cmd,
    /// Script of the command; loaded if the server does not know it.
    pub(crate) script: Option<&'a Script>,
    /// Whether the write must be confirmed as configured before the answer counts.
    pub(crate) confirm: bool,
}

pub(crate) struct Answer {
    pub(crate) value: Value,
    /// Whether the call was sent twice: the first one may have been executed too.
    pub(crate) repeated: bool,
}

/// One server: the only one, the master that the sentinels name, or a node of a cluster.
pub(crate) struct Server {
    pool: managed::Pool<Connector>,
    /// Connection of the last inspection, kept for the next one.
    inspection: Mutex<Option<inspection::Kept>>,
}

/// Creates the connections to a server.
pub(crate) struct Connector {
    pub(crate) address: Address,
    /// Node of a cluster; `None` for a single server.
    node: Option<Node>,
    options: Options,
    /// State of the server at the last inspection.
    state: Mutex<Option<ServerState>>,
    /// Id of the server's run at the last inspection: another one after each restart.
    run: Mutex<Option<String>>,
    /// Connections of an earlier generation are not reused.
    generation: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ServerState {
    durability: Durability,
    /// Confirmation required after a write before it may be acknowledged.
    confirm: Confirm,
}

/// A connection with the state of its server.
pub(crate) struct Pooled {
    connection: Connection,
    state: ServerState,
    generation: u64,
    in_use: bool,
    /// Time of the last answer; `None` before the first call.
    used_at: Option<Instant>,
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some((host, port)) => write!(f, "{}: node {host}:{port}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl Location for Connector {
    fn key_prefix(&self) -> &str {
        &self.address.key_prefix
    }

    fn is_encrypted(&self) -> bool {
        self.address.tls
    }
}

impl Server {
    pub(crate) fn new(address: Address, node: Option<Node>, options: Options) -> Result<Self, QueueError> {
        let timeout = Some(options.call_timeout);
        let (state, run, generation) = (Mutex::new(None), Mutex::new(None), AtomicU64::new(0));
        let connector = Connector { address, node, options, state, run, generation };
        let pool = managed::Pool::builder(connector)
            .max_size(CONNECTIONS_MAX)
            // Last in, first out: connections in use stay fresh, surplus ones age and are replaced.
            .queue_mode(QueueMode::Lifo)
            .timeouts(Timeouts { wait: timeout, create: timeout, recycle: timeout })
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| QueueError::Deployment(error.to_string()))?;
        Ok(Self { pool, inspection: Mutex::default() })
    }

    fn connector(&self) -> &Connector {
        self.pool.manager()
    }

    pub(crate) fn node(&self) -> Option<&Node> {
        self.connector().node.as_ref()
    }

    /// Describes the server in words, without user and password.
    pub(crate) fn name(&self) -> String {
        self.connector().to_string()
    }

    /// Opens a connection for reads that block for up to `block`.
    pub(crate) async fn connect_to_wait(&self, block: Duration) -> Result<Connection, QueueError> {
        let connector = self.connector();
        timeout(connector.options.call_timeout, connector.connect(block + connector.options.call_timeout))
            .await
            .map_err(|_| connector.connect_timed_out())?
    }

    /// Classifies an error of one of its connections.
    pub(crate) fn classify(&self, error: &redis::RedisError) -> QueueError {
        fault::classify(error, self.connector())
    }

    /// Checks whether the server is reachable and usable.
    pub(crate) async fn probe(&self) -> Result<(), QueueError> {
        let connector = self.connector();
        let made = timeout(connector.options.call_timeout, managed::Manager::create(connector)).await;
        made.map_err(|_| connector.connect_timed_out())?.map(drop)
    }

    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let mut pooled = self.checkout().await?;
        let was_used_at = pooled.used_at;
        let result = self.execute(&mut pooled, call).await;
        match result {
            // The failure of a new connection is not repeated.
            Err(Failure { kind: FailureKind::Connection, .. }) if was_used_at.is_some() => {
                // A restart or failover that closed this connection has closed the others too.
                self.connector().generation.fetch_add(1, Ordering::Relaxed);
                drop(pooled);
                let mut pooled = self.checkout().await?;
                let result = self.execute(&mut pooled, call).await;
                result.map(|value| Answer { value, repeated: true }).map_err(Failure::without_retry)
            }
            result => result.map(|value| Answer { value, repeated: false }).map_err(Failure::without_retry),
        }
    }

    async fn execute(&self, pooled: &mut Pooled, call: &Call<'_>) -> Result<Value, Failure> {
        let connector = self.connector();
        let value = if pooled.used_at.is_some_and(|at| at.elapsed() >= IDLE_TRUSTED) {
            connector.run_on_idle(pooled, call).await?
        } else {
            connector.run(pooled, call).await?
        };
        if call.confirm {
            connector.confirm(pooled).await?;
        }
        Ok(value)
    }

    async fn checkout(&self) -> Result<managed::Object<Connector>, Failure> {
        let connector = self.connector();
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error @ QueueError::Unavailable(_)) => Failure::unreachable(error),
            PoolError::Backend(error) => Failure::refused(error),
            PoolError::Timeout(TimeoutType::Create) => Failure::unreachable(connector.connect_timed_out()),
            PoolError::Timeout(_) => Failure::unreachable(connector.timed_out()),
            error => Failure::refused(QueueError::Deployment(error.to_string())),
        })
    }
}

impl Failure {
    /// Without a retry, a broken connection means that the server is unreachable.
    fn without_retry(self) -> Self {
        let kind = if self.kind == FailureKind::Connection { FailureKind::Unreachable } else { self.kind };
        Self { kind, ..self }
    }
}

impl Connector {
    async fn connect(&self, answer_timeout: Duration) -> Result<Connection, QueueError> {
        let node = self.node.as_ref();
        let connected =
            connection::connect(&self.address, node, self.options.call_timeout, answer_timeout).await;
        connected.map_err(|error| {
            if error.is_timeout() { self.connect_timed_out() } else { fault::classify(&error, self) }
        })
    }

    /// Runs a call on a connection that was idle. If the answer is late, another connection checks whether
    /// the server is slow. If the server answers there, the network has dropped the idle connection;
    /// otherwise the call keeps waiting.
    async fn run_on_idle(&self, pooled: &mut Pooled, call: &Call<'_>) -> Result<Value, Failure> {
        let mut answer = pin!(self.run(pooled, call));
        if let Ok(answer) = timeout(self.options.call_timeout / LATE_AFTER_SHARE, &mut answer).await {
            return answer;
        }
        let check = pin!(async {
            let mut connection = self.connect(self.options.call_timeout).await?;
            self.inspect(&mut connection).await
        });
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            state = check => if state.is_ok() {
                let error = QueueError::Unavailable(format!("{self}: an idle connection no longer answers"));
                return Err(Failure { error, kind: FailureKind::Connection });
            },
        }
        answer.await
    }

    async fn run(&self, pooled: &mut Pooled, call: &Call<'_>) -> Result<Value, Failure> {
        self.run_timed(pooled, async |connection| {
            let answer = call.command.query_async(connection).await;
            match (answer, call.script) {
                (Err(error), Some(script))
                    if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
                {
                    script.load_async(connection).await?;
                    call.command.query_async(connection).await
                }
                (answer, _) => answer,
            }
        })
        .await
    }

    /// Returns when the writes of this connection are confirmed as configured.
    async fn confirm(&self, pooled: &mut Pooled) -> Result<(), Failure> {
        let Some((command, check_answer)) = pooled.state.confirm.command(self.options.call_timeout) else {
            return Ok(());
        };
        let answer: Value =
            self.run_timed(pooled, async |connection| command.query_async(connection).await).await?;
        check_answer(&answer)
            .map_err(|why| Failure::refused(QueueError::Unavailable(format!("{self}: {why}"))))
    }

    async fn run_timed<T>(
        &self,
        pooled: &mut Pooled,
        call: impl AsyncFnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Failure> {
        // If the future is dropped here, the connection stays marked as in use and is discarded.
        pooled.in_use = true;
        let answer = timeout(self.options.call_timeout, call(&mut pooled.connection))
            .await
            .map_err(|_| Failure::unreachable(self.timed_out()))?;
        pooled.in_use = answer.as_ref().is_err_and(fault::ends_connection);
        pooled.used_at = Some(Instant::now());
        answer.map_err(|error| {
            let kind = if error.is_timeout() {
                FailureKind::Unreachable
            } else if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved)) {
                FailureKind::Moved
            } else if fault::is_connection_error(&error) {
                FailureKind::Connection
            } else {
                FailureKind::Refused
            };
            Failure { error: fault::classify(&error, self), kind }
        })
    }

    fn timed_out(&self) -> QueueError {
        QueueError::Unavailable(format!("{self}: no answer in time"))
    }

    /// A server without TLS reads the TLS handshake as the start of a long line and waits for more.
    fn connect_timed_out(&self) -> QueueError {
        let hint = if self.address.tls { "; does this port speak TLS?" } else { "" };
        QueueError::Unavailable(format!("{self}: no answer in time{hint}"))
    }
}

impl managed::Manager for Connector {
    type Type = Pooled;
    type Error = QueueError;

    async fn create(&self) -> Result<Pooled, QueueError> {
        let generation = self.generation.load(Ordering::Relaxed);
        let mut connection = self.connect(self.options.call_timeout).await?;
        let state = self.inspect(&mut connection).await?;
        if self.options.strict && state.durability.is_degraded() {
            return Err(QueueError::Deployment(format!(
                "{self}: acknowledged data may not be on the disk, and durability is strict: {}",
                joined(&state.durability.weaknesses, "; ")
            )));
        }
        Ok(Pooled { connection, state, generation, in_use: false, used_at: None })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<QueueError> {
        if pooled.in_use {
            Err(RecycleError::message("last call was abandoned"))
        } else if pooled.generation != self.generation.load(Ordering::Relaxed) {
            Err(RecycleError::message("connections of this generation have failed"))
        } else if pooled.used_at.is_some_and(|at| at.elapsed() >= IDLE_MAX) {
            Err(RecycleError::message("idle for too long"))
        } else if lock(&self.state).as_ref() != Some(&pooled.state) {
            Err(RecycleError::message("server settings have changed"))
        } else {
            Ok(())
        }
    }
}
