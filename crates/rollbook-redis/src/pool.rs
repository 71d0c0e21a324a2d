//! Connections, made when they are needed and used by one call at a time.
//!
//! * A call has a connection to itself: a batch of a mebibyte delays no settlement behind it, and WAIT and
//!   WAITAOF ask about the writes of their own connection only.
//! * A connection that failed, or whose call was given up, is not used again: what it would answer next
//!   belongs to someone else. Nor is one that knows its server otherwise than it was found since.
//! * Nothing is asked before a call: the ready-made pools ping first, which costs a flush of Redis's log.
//! * Every call ends in time, whatever it needs: a cluster's client alone would try for several times as long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts};
use redis::{Cmd, ErrorKind, FromRedisValue, Script, ServerErrorKind};
use rollbook_core::queue::{Durability, QueueError};
use tokio::time::timeout;

use crate::address::{Address, Form};
use crate::connection::{self, Connection};
use crate::durability::{self, Confirm};
use crate::fault;
use crate::shard::Keys;

/// Two batches of the receiver, a lease and a settlement for each of some lanes, and an operator.
const CONNECTIONS_MAX: usize = 32;

/// A connection with what is known of its server.
pub(crate) struct Line {
    connection: Connection,
    found: Found,
    in_use: bool,
}

/// What was found out about the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    durability: Durability,
    /// What must be asked after a write to each shard before it may be acknowledged: in a cluster each has
    /// a server of its own, which may be set up otherwise.
    confirms: Vec<Confirm>,
}

impl Found {
    /// Puts together what was judged of each server: one for all shards, or one for each.
    fn of(judged: Vec<(Vec<String>, Confirm)>, shards: usize) -> Self {
        let mut weaknesses: Vec<String> = Vec::new();
        let mut confirms = Vec::with_capacity(shards);
        for (weak, confirm) in judged {
            for weakness in weak {
                if !weaknesses.contains(&weakness) {
                    weaknesses.push(weakness);
                }
            }
            confirms.push(confirm);
        }
        if let [one] = confirms[..] {
            confirms.resize(shards, one);
        }
        Self { durability: Durability { weaknesses }, confirms }
    }
}

/// Makes connections.
pub(crate) struct Maker {
    address: Address,
    strict: bool,
    replicas: u32,
    call_timeout: Duration,
    shards: Vec<Keys>,
    /// What was found last.
    found: Mutex<Option<Found>>,
}

/// The connections.
pub(crate) type Pool = managed::Pool<Maker>;

impl Maker {
    pub(crate) fn new(
        address: Address,
        strict: bool,
        replicas: u32,
        call_timeout: Duration,
        shards: &[Keys],
    ) -> Self {
        Self { address, strict, replicas, call_timeout, shards: shards.to_vec(), found: Mutex::new(None) }
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
        timeout(self.call_timeout, self.connect(block + self.call_timeout))
            .await
            .map_err(|_| self.too_late())?
    }

    /// What is weak about the servers, asked on a connection of its own: strict or not, this is answered.
    pub(crate) async fn ask_durability(&self) -> Result<Durability, QueueError> {
        let asked = async { self.find_out(&mut self.connect(self.call_timeout).await?).await };
        let found = timeout(self.call_timeout, asked).await.map_err(|_| self.too_late())??;
        Ok(found.durability)
    }

    async fn connect(&self, answer_timeout: Duration) -> Result<Connection, QueueError> {
        let connected = connection::connect(&self.address, self.call_timeout, answer_timeout).await;
        connected.map_err(|error| {
            if error.is_timeout() { self.too_late_to_connect() } else { fault::judge(&error, &self.address) }
        })
    }

    /// Looks at the servers of all shards.
    async fn find_out(&self, connection: &mut Connection) -> Result<Found, QueueError> {
        // One server holds all shards, unless it is a cluster.
        let asked = if self.address.form == Form::Cluster { &self.shards[..] } else { &self.shards[..1] };
        let mut judged = Vec::with_capacity(asked.len());
        for keys in asked {
            let facts = durability::facts(connection, keys.messages()).await;
            let facts = facts.map_err(|error| fault::judge(&error, &self.address))?;
            let told = facts.judge(self.replicas);
            judged.push(told.map_err(|why| QueueError::Deployment(format!("{}: {why}", self.address)))?);
        }
        let found = Found::of(judged, self.shards.len());
        *self.last_found() = Some(found.clone());
        Ok(found)
    }

    fn last_found(&self) -> std::sync::MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn too_late(&self) -> QueueError {
        QueueError::Unavailable(format!("{}: no answer in time", self.address))
    }

    /// A server that knows no TLS waits for more of what it takes for a long line.
    fn too_late_to_connect(&self) -> QueueError {
        let hint = if self.address.tls { "; does this port speak TLS?" } else { "" };
        QueueError::Unavailable(format!("{}: no answer in time{hint}", self.address))
    }
}

impl managed::Manager for Maker {
    type Type = Line;
    type Error = QueueError;

    async fn create(&self) -> Result<Line, QueueError> {
        let mut connection = self.connect(self.call_timeout).await?;
        let found = self.find_out(&mut connection).await?;
        if self.strict && found.durability.is_degraded() {
            return Err(QueueError::Deployment(format!(
                "{}: an acknowledgement would not mean \"on the disk\", and durability is strict: {}",
                self.address,
                found.durability.weaknesses.join("; ")
            )));
        }
        Ok(Line { connection, found, in_use: false })
    }

    async fn recycle(&self, line: &mut Line, _: &Metrics) -> RecycleResult<QueueError> {
        if line.in_use {
            Err(RecycleError::message("its last call was given up"))
        } else if self.last_found().as_ref() != Some(&line.found) {
            Err(RecycleError::message("the server's settings have changed"))
        } else {
            Ok(())
        }
    }
}

/// A connection, for one call after the other.
pub(crate) async fn take(pool: &Pool) -> Result<Held, QueueError> {
    match pool.get().await {
        Ok(line) => Ok(Held { line, pool: pool.clone() }),
        Err(PoolError::Backend(error)) => Err(error),
        Err(PoolError::Timeout(TimeoutType::Create)) => Err(pool.manager().too_late_to_connect()),
        Err(PoolError::Timeout(_)) => Err(pool.manager().too_late()),
        Err(error) => Err(QueueError::Deployment(error.to_string())),
    }
}

/// A connection in use.
pub(crate) struct Held {
    line: managed::Object<Maker>,
    pool: Pool,
}

impl Held {
    /// Runs a command.
    pub(crate) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, QueueError> {
        self.used(async |connection| command.query_async(connection).await).await
    }

    /// Runs a script, whose call is `command`, and loads it where the server does not know it.
    pub(crate) async fn run<T: FromRedisValue>(
        &mut self,
        script: &Script,
        command: &Cmd,
    ) -> Result<T, QueueError> {
        self.used(async |connection| {
            let answer = command.query_async(connection).await;
            match answer {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    script.load_async(connection).await?;
                    command.query_async(connection).await
                }
                answer => answer,
            }
        })
        .await
    }

    /// Returns when what this connection has written to this shard is as safe as is asked for.
    pub(crate) async fn confirm(&mut self, shard: usize) -> Result<(), QueueError> {
        let maker = self.pool.manager();
        let Some((command, enough)) = self.line.found.confirms[shard].command(maker.call_timeout) else {
            return Ok(());
        };
        let key = self.pool.manager().shards[shard].messages().to_owned();
        let answer = self.used(async |connection| connection.ask_holder_of(&key, command).await).await?;
        enough(&answer)
            .map_err(|why| QueueError::Unavailable(format!("{}: {why}", self.pool.manager().address)))
    }

    async fn used<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Connection) -> redis::RedisResult<T>,
    ) -> Result<T, QueueError> {
        // Dropped in the middle, it stays in use and is thrown away.
        self.line.in_use = true;
        let maker = self.pool.manager();
        let answer = timeout(maker.call_timeout, call(&mut self.line.connection))
            .await
            .map_err(|_| maker.too_late())?;
        self.line.in_use = answer.as_ref().is_err_and(fault::ends_connection);
        answer.map_err(|error| fault::judge(&error, &maker.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_confirmed_as_its_own_server_needs_it() {
        let weak = || vec!["maxmemory-policy is allkeys-lru".to_owned()];
        let flushes_later = (weak(), Confirm::WaitAof { replicas: 0 });
        let found = Found::of(vec![flushes_later, (weak(), Confirm::None)], 2);
        assert_eq!(found.confirms, [Confirm::WaitAof { replicas: 0 }, Confirm::None]);
        assert_eq!(found.durability.weaknesses, weak(), "what several have is told once");
        let one_server = Found::of(vec![(Vec::new(), Confirm::Wait { replicas: 1 })], 3);
        assert_eq!(one_server.confirms, [Confirm::Wait { replicas: 1 }; 3]);
    }
}
