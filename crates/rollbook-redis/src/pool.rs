//! Connections, made when they are needed and used by one call at a time.
//!
//! * A call has a connection to itself: a batch of a mebibyte delays no settlement behind it, and WAIT and
//!   WAITAOF ask about the writes of their own connection only.
//! * A connection that failed, or whose call was given up, is not used again: what it would answer next
//!   belongs to someone else.
//! * Nothing is asked before a call: the ready-made pools ping first, which costs a flush of Redis's log.

use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult, Timeouts};
use redis::{Cmd, ErrorKind, FromRedisValue, Script, ServerErrorKind};
use rollbook_core::queue::{Durability, QueueError};

use crate::address::{Address, Form};
use crate::connection::{self, Connection};
use crate::durability::{self, Confirm};
use crate::fault;
use crate::shard::Keys;

/// Two batches of the receiver, a lease and a settlement for each of some lanes, and an operator.
const CONNECTIONS_MAX: usize = 32;

/// A connection with what is known of its server.
pub(crate) struct Line {
    pub(crate) connection: Connection,
    /// What must be asked after a write before it may be acknowledged.
    pub(crate) confirm: Confirm,
    in_use: bool,
}

/// Makes connections.
pub(crate) struct Maker {
    address: Address,
    strict: bool,
    replicas: u32,
    call_timeout: Duration,
    shards: Vec<Keys>,
}

/// The connections.
pub(crate) type Pool = managed::Pool<Maker>;

impl Maker {
    pub(crate) fn new(address: Address, strict: bool, replicas: u32, call_timeout: Duration, shards: &[Keys]) -> Self {
        Self { address, strict, replicas, call_timeout, shards: shards.to_vec() }
    }

    /// The connections of a queue.
    pub(crate) fn pool(self) -> Result<Pool, QueueError> {
        let timeout = Some(self.call_timeout);
        Pool::builder(self)
            .max_size(CONNECTIONS_MAX)
            .timeouts(Timeouts { wait: timeout, create: timeout, recycle: timeout })
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| QueueError::Deployment(error.to_string()))
    }

    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// A connection for reads that block for up to `block`.
    pub(crate) async fn connect_to_wait(&self, block: Duration) -> Result<Connection, QueueError> {
        let connected = connection::connect(&self.address, self.call_timeout, block + self.call_timeout).await;
        connected.map_err(|error| fault::judge(&error, &self.address))
    }

    /// What is weak about the servers, asked on a connection of its own: strict or not, this is answered.
    pub(crate) async fn ask_durability(&self) -> Result<Durability, QueueError> {
        let asked = async {
            let connected = connection::connect(&self.address, self.call_timeout, self.call_timeout).await;
            let mut connection = connected.map_err(|error| fault::judge(&error, &self.address))?;
            Ok(self.durability(&mut connection).await?.0)
        };
        asked.await
    }

    /// What is weak about the servers of all shards.
    pub(crate) async fn durability(
        &self,
        connection: &mut Connection,
    ) -> Result<(Durability, Confirm), QueueError> {
        // One server holds all shards, unless it is a cluster.
        let asked = if self.address.form == Form::Cluster { &self.shards[..] } else { &self.shards[..1] };
        let mut weaknesses = Vec::new();
        let mut confirm = Confirm::None;
        for keys in asked {
            let facts = durability::facts(connection, keys.messages()).await;
            let facts = facts.map_err(|error| fault::judge(&error, &self.address))?;
            let judged = facts.judge(self.replicas);
            let (found, needed) = judged.map_err(|why| QueueError::Deployment(format!("{}: {why}", self.address)))?;
            weaknesses.extend(found.into_iter().filter(|weakness| !weaknesses.contains(weakness)).collect::<Vec<_>>());
            confirm = needed;
        }
        Ok((Durability { weaknesses }, confirm))
    }
}

impl managed::Manager for Maker {
    type Type = Line;
    type Error = QueueError;

    async fn create(&self) -> Result<Line, QueueError> {
        let connected = connection::connect(&self.address, self.call_timeout, self.call_timeout).await;
        let mut connection = connected.map_err(|error| fault::judge(&error, &self.address))?;
        let (durability, confirm) = self.durability(&mut connection).await?;
        if self.strict && durability.is_degraded() {
            return Err(QueueError::Deployment(format!(
                "{}: an acknowledgement would not mean \"on the disk\", and durability is strict: {}",
                self.address,
                durability.weaknesses.join("; ")
            )));
        }
        Ok(Line { connection, confirm, in_use: false })
    }

    async fn recycle(&self, line: &mut Line, _: &Metrics) -> RecycleResult<QueueError> {
        if line.in_use { Err(RecycleError::message("its last call was given up")) } else { Ok(()) }
    }
}

/// A connection, for one call after the other.
pub(crate) async fn take(pool: &Pool) -> Result<Held, QueueError> {
    match pool.get().await {
        Ok(line) => Ok(Held { line }),
        Err(PoolError::Backend(error)) => Err(error),
        Err(PoolError::Timeout(_)) => {
            Err(QueueError::Unavailable(format!("{}: no answer in time", pool.manager().address)))
        }
        Err(error) => Err(QueueError::Deployment(error.to_string())),
    }
}

/// A connection in use.
pub(crate) struct Held {
    line: managed::Object<Maker>,
}

impl Held {
    /// Runs a command.
    pub(crate) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, QueueError> {
        self.used(async |line: &mut Line| command.query_async(&mut line.connection).await).await
    }

    /// Runs a script, whose call is `command`, and loads it where the server does not know it.
    pub(crate) async fn run<T: FromRedisValue>(&mut self, script: &Script, command: &Cmd) -> Result<T, QueueError> {
        self.used(async |line: &mut Line| {
            let answer = command.query_async(&mut line.connection).await;
            match answer {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    script.load_async(&mut line.connection).await?;
                    command.query_async(&mut line.connection).await
                }
                answer => answer,
            }
        })
        .await
    }

    /// Returns when what this connection has written is as safe as is asked for.
    pub(crate) async fn confirm(&mut self, timeout: Duration) -> Result<(), QueueError> {
        let Some((command, enough)) = self.line.confirm.command(timeout) else { return Ok(()) };
        let answer: redis::Value = self.query(&command).await?;
        enough(&answer).map_err(|why| {
            QueueError::Unavailable(format!("{}: {why}", managed::Object::pool(&self.line).map_or_else(
                || "Redis".to_owned(),
                |pool| pool.manager().address.to_string()
            )))
        })
    }

    async fn used<T>(&mut self, call: impl AsyncFnOnce(&mut Line) -> redis::RedisResult<T>) -> Result<T, QueueError> {
        self.line.in_use = true;
        let answer = call(&mut self.line).await;
        // Dropped before this line, it stays in use and is thrown away.
        self.line.in_use = answer.as_ref().is_err_and(fault::ends_connection);
        answer.map_err(|error| {
            let pool = managed::Object::pool(&self.line);
            pool.map_or_else(
                || QueueError::Unavailable("the queue is closed".to_owned()),
                |pool| fault::judge(&error, &pool.manager().address),
            )
        })
    }
}
