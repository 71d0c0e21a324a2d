//! One server and the connections to it, made when they are needed and used by one call at a time.
//!
//! * A call has a connection to itself: a batch of a mebibyte delays no settlement behind it, and WAIT and
//!   WAITAOF ask about the writes of their own connection only.
//! * A connection never reconnects by itself. So a confirmation comes from the server that carried the write: where the
//!   connection breaks in between, the write is sent again, on a new connection, and confirmed there.
//! * A connection that failed, or whose call was given up, is not used again: what it would answer next
//!   belongs to someone else. Nor is one that was idle for long, that is older than a failure which concerned all of
//!   them, or that knows its server otherwise than it was found since.
//! * A call that fails because its connection was closed while idle is repeated once, on a new connection. All calls may
//!   be repeated: see the scripts.
//! * Nothing is asked before a call: the ready-made pools ping first, which costs a flush of Redis's log.
//! * Every call ends in time.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::managed::{
    self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind, Value};
use rollbook_core::queue::{Durability, QueueError};
use rollbook_core::weakness::joined;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::connection;
use crate::durability::{self, Confirm};
use crate::fault;
use crate::slots::Node;

/// Two batches of the receiver, a lease and a settlement for each of some lanes, and an operator.
const CONNECTIONS_MAX: usize = 32;

/// A connection that was idle for longer is replaced: balancers and firewalls forget connections after some minutes,
/// and servers close them (`timeout`).
const IDLE_MAX: Duration = Duration::from_secs(60);

/// After this much idle time a connection may have been forgotten on the way. Its first call is then checked on another
/// connection where the answer is late.
const IDLE_TRUSTED: Duration = Duration::from_millis(100);

/// The share of the time of a call after which its answer is late. Check and repetition must fit into a request's time.
const LATE_AFTER_SHARE: u32 = 4;

/// What a user has set.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Refuse to work while an acknowledgement means less than "on the disk".
    pub(crate) strict: bool,
    /// How many replicas must have a delivery before it is acknowledged.
    pub(crate) replicas: u32,
    /// How long a connection, and any one call, may take.
    pub(crate) call_timeout: Duration,
}

/// What to do on a server, in one round trip (and one more to confirm it). It may happen twice.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) command: &'a Cmd,
    /// The script that the command runs. It is loaded where the server does not know it.
    pub(crate) script: Option<&'a Script>,
    /// Whether the answer counts only when what was written is as safe as is asked for.
    pub(crate) confirm: bool,
}

/// The answer to a call.
pub(crate) struct Answer {
    pub(crate) value: Value,
    /// Whether the call was sent twice: the first may have been carried out too.
    pub(crate) repeated: bool,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: QueueError,
    pub(crate) kind: FailureKind,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The server cannot be reached, or does not answer.
    Unreachable,
    /// The connection is of no more use: it broke, or leads to the wrong server.
    Connection,
    /// Another node of the cluster has the keys.
    Moved,
    /// The server refuses.
    Refused,
}

impl Failure {
    const fn refused(error: QueueError) -> Self {
        Self { error, kind: FailureKind::Refused }
    }

    const fn unreachable(error: QueueError) -> Self {
        Self { error, kind: FailureKind::Unreachable }
    }
}

/// A server: the only one, the master that the sentinels name, or a node of a cluster.
pub(crate) struct Server {
    pool: managed::Pool<Maker>,
}

/// Makes connections to a server.
pub(crate) struct Maker {
    pub(crate) address: Address,
    /// Which node it is of a cluster.
    node: Option<Node>,
    options: Options,
    /// What was found last.
    found: Mutex<Option<Found>>,
    /// Connections that were made before this number went up are not used any more.
    generation: AtomicU64,
}

/// What was found out about the server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    durability: Durability,
    /// What must be asked after a write before it may be acknowledged.
    confirm: Confirm,
}

/// A connection with what is known of its server.
pub(crate) struct Pooled {
    connection: MultiplexedConnection,
    found: Found,
    generation: u64,
    in_use: bool,
    /// When its last call was answered. `None` before the first.
    used_at: Option<Instant>,
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some((host, port)) => write!(f, "{}: node {host}:{port}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl Server {
    pub(crate) fn new(address: Address, node: Option<Node>, options: Options) -> Result<Self, QueueError> {
        let timeout = Some(options.call_timeout);
        let maker = Maker { address, node, options, found: Mutex::new(None), generation: AtomicU64::new(0) };
        let pool = managed::Pool::builder(maker)
            .max_size(CONNECTIONS_MAX)
            // Those that are used stay in use, and those that are too many become old.
            .queue_mode(QueueMode::Lifo)
            .timeouts(Timeouts { wait: timeout, create: timeout, recycle: timeout })
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| QueueError::Deployment(error.to_string()))?;
        Ok(Self { pool })
    }

    fn maker(&self) -> &Maker {
        self.pool.manager()
    }

    /// Which node it is of a cluster.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.maker().node.as_ref()
    }

    /// The server in words, without user and password.
    pub(crate) fn name(&self) -> String {
        self.maker().to_string()
    }

    /// A connection for reads that block for up to `block`.
    pub(crate) async fn connect_to_wait(&self, block: Duration) -> Result<MultiplexedConnection, QueueError> {
        let maker = self.maker();
        timeout(maker.options.call_timeout, maker.connect(block + maker.options.call_timeout))
            .await
            .map_err(|_| maker.too_late_to_connect())?
    }

    /// Judges an error that one of its connections brought.
    pub(crate) fn judge(&self, error: &redis::RedisError) -> QueueError {
        fault::judge(error, self.maker())
    }

    /// What is weak about the server, asked on a connection of its own: strict or not, this is answered.
    pub(crate) async fn ask_durability(&self) -> Result<Durability, QueueError> {
        let maker = self.maker();
        let asked = async { maker.find_out(&mut maker.connect(maker.options.call_timeout).await?).await };
        let found = timeout(maker.options.call_timeout, asked).await.map_err(|_| maker.too_late())??;
        Ok(found.durability)
    }

    /// Whether the server can be reached and worked with.
    pub(crate) async fn probe(&self) -> Result<(), QueueError> {
        let maker = self.maker();
        let made = timeout(maker.options.call_timeout, managed::Manager::create(maker)).await;
        made.map_err(|_| maker.too_late_to_connect())?.map(drop)
    }

    /// Carries out a call.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let mut pooled = self.take().await?;
        let was_used_at = pooled.used_at;
        let answered = self.carry_out(&mut pooled, call).await;
        match answered {
            // A new connection has nothing to be blamed for.
            Err(Failure { kind: FailureKind::Connection, .. }) if was_used_at.is_some() => {
                // What ended this one, a restart or a failover, has ended the others.
                self.maker().generation.fetch_add(1, Ordering::Relaxed);
                drop(pooled);
                let mut pooled = self.take().await?;
                let answered = self.carry_out(&mut pooled, call).await;
                answered.map(|value| Answer { value, repeated: true }).map_err(Failure::for_good)
            }
            answered => answered.map(|value| Answer { value, repeated: false }).map_err(Failure::for_good),
        }
    }

    async fn carry_out(&self, pooled: &mut Pooled, call: &Call<'_>) -> Result<Value, Failure> {
        let maker = self.maker();
        let value = if pooled.used_at.is_some_and(|at| at.elapsed() >= IDLE_TRUSTED) {
            maker.run_on_idle(pooled, call).await?
        } else {
            maker.run(pooled, call).await?
        };
        if call.confirm {
            maker.confirm(pooled).await?;
        }
        Ok(value)
    }

    async fn take(&self) -> Result<managed::Object<Maker>, Failure> {
        let maker = self.maker();
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error @ QueueError::Unavailable(_)) => Failure::unreachable(error),
            PoolError::Backend(error) => Failure::refused(error),
            PoolError::Timeout(TimeoutType::Create) => Failure::unreachable(maker.too_late_to_connect()),
            PoolError::Timeout(_) => Failure::unreachable(maker.too_late()),
            error => Failure::refused(QueueError::Deployment(error.to_string())),
        })
    }
}

impl Failure {
    /// The same, where nothing else is tried: a connection that broke leads nowhere.
    fn for_good(self) -> Self {
        let kind = if self.kind == FailureKind::Connection { FailureKind::Unreachable } else { self.kind };
        Self { kind, ..self }
    }
}

impl Maker {
    async fn connect(&self, answer_timeout: Duration) -> Result<MultiplexedConnection, QueueError> {
        let node = self.node.as_ref();
        let connected =
            connection::connect(&self.address, node, self.options.call_timeout, answer_timeout).await;
        connected.map_err(|error| {
            if error.is_timeout() { self.too_late_to_connect() } else { fault::judge(&error, self) }
        })
    }

    /// Looks at the server.
    async fn find_out(&self, connection: &mut MultiplexedConnection) -> Result<Found, QueueError> {
        let facts = durability::facts(connection).await.map_err(|error| fault::judge(&error, self))?;
        let judged = facts.judge(self.options.replicas);
        let (weaknesses, confirm) = judged.map_err(|why| QueueError::Deployment(format!("{self}: {why}")))?;
        let found = Found { durability: Durability { weaknesses, ..Durability::default() }, confirm };
        *self.last_found() = Some(found.clone());
        Ok(found)
    }

    fn last_found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call on a connection that was idle. Where the answer is late, it is found out on another connection whether
    /// it is the server that is slow: then there is nothing to do but wait. If it answers there, the network has
    /// forgotten the connection.
    async fn run_on_idle(&self, pooled: &mut Pooled, call: &Call<'_>) -> Result<Value, Failure> {
        let mut answer = pin!(self.run(pooled, call));
        if let Ok(answer) = timeout(self.options.call_timeout / LATE_AFTER_SHARE, &mut answer).await {
            return answer;
        }
        let check = pin!(async {
            let mut connection = self.connect(self.options.call_timeout).await?;
            self.find_out(&mut connection).await
        });
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            found = check => if found.is_ok() {
                let error = QueueError::Unavailable(format!("{self}: an idle connection no longer answers"));
                return Err(Failure { error, kind: FailureKind::Connection });
            },
        }
        answer.await
    }

    async fn run(&self, pooled: &mut Pooled, call: &Call<'_>) -> Result<Value, Failure> {
        self.used(pooled, async |connection| {
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

    /// Returns when what this connection has written is as safe as is asked for.
    async fn confirm(&self, pooled: &mut Pooled) -> Result<(), Failure> {
        let Some((command, enough)) = pooled.found.confirm.command(self.options.call_timeout) else {
            return Ok(());
        };
        let answer: Value =
            self.used(pooled, async |connection| command.query_async(connection).await).await?;
        enough(&answer).map_err(|why| Failure::refused(QueueError::Unavailable(format!("{self}: {why}"))))
    }

    async fn used<T>(
        &self,
        pooled: &mut Pooled,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Failure> {
        // Dropped in the middle, it stays in use and is thrown away.
        pooled.in_use = true;
        let answer = timeout(self.options.call_timeout, call(&mut pooled.connection))
            .await
            .map_err(|_| Failure::unreachable(self.too_late()))?;
        pooled.in_use = answer.as_ref().is_err_and(fault::ends_connection);
        pooled.used_at = Some(Instant::now());
        answer.map_err(|error| {
            let kind = if error.is_timeout() {
                FailureKind::Unreachable
            } else if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved)) {
                FailureKind::Moved
            } else if fault::is_of_the_connection(&error) {
                FailureKind::Connection
            } else {
                FailureKind::Refused
            };
            Failure { error: fault::judge(&error, self), kind }
        })
    }

    fn too_late(&self) -> QueueError {
        QueueError::Unavailable(format!("{self}: no answer in time"))
    }

    /// A server that knows no TLS waits for more of what it takes for a long line.
    fn too_late_to_connect(&self) -> QueueError {
        let hint = if self.address.tls { "; does this port speak TLS?" } else { "" };
        QueueError::Unavailable(format!("{self}: no answer in time{hint}"))
    }
}

impl managed::Manager for Maker {
    type Type = Pooled;
    type Error = QueueError;

    async fn create(&self) -> Result<Pooled, QueueError> {
        let generation = self.generation.load(Ordering::Relaxed);
        let mut connection = self.connect(self.options.call_timeout).await?;
        let found = self.find_out(&mut connection).await?;
        if self.options.strict && found.durability.is_degraded() {
            return Err(QueueError::Deployment(format!(
                "{self}: an acknowledgement would not mean \"on the disk\", and durability is strict: {}",
                joined(&found.durability.weaknesses, "; ")
            )));
        }
        Ok(Pooled { connection, found, generation, in_use: false, used_at: None })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<QueueError> {
        if pooled.in_use {
            Err(RecycleError::message("its last call was given up"))
        } else if pooled.generation != self.generation.load(Ordering::Relaxed) {
            Err(RecycleError::message("connections of its age have failed"))
        } else if pooled.used_at.is_some_and(|at| at.elapsed() >= IDLE_MAX) {
            Err(RecycleError::message("it was idle for too long"))
        } else if self.last_found().as_ref() != Some(&pooled.found) {
            Err(RecycleError::message("the server's settings have changed"))
        } else {
            Ok(())
        }
    }
}
