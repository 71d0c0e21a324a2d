//! Inspection of a server: its settings, and what they mean for acknowledged data.
//!
//! Repeated inspections use one connection, so that a watched server gets two commands each time and no new
//! connection.

use std::sync::atomic::Ordering;

use rollbook_core::lock::lock;
use rollbook_core::queue::{Durability, QueueError};
use tokio::time::{Instant, timeout};

use super::{Connector, IDLE_MAX, LATE_AFTER_SHARE, Server, ServerState};
use crate::connection::Connection;
use crate::durability::Assessment;
use crate::{durability, fault};

/// Connection of an inspection.
pub(super) struct Kept {
    connection: Connection,
    generation: u64,
    used_at: Instant,
}

impl Server {
    /// Reads the server's weaknesses, even if `strict` refuses to work with the server.
    pub(crate) async fn ask_durability(&self) -> Result<Durability, QueueError> {
        let connector = self.connector();
        let generation = connector.generation.load(Ordering::Relaxed);
        if let Some(state) = self.inspect_again(generation).await {
            return Ok(state.durability);
        }
        let asked = async {
            let mut connection = connector.connect(connector.options.call_timeout).await?;
            let state = connector.inspect(&mut connection).await?;
            self.keep_inspection(connection, generation);
            Ok(state.durability)
        };
        timeout(connector.options.call_timeout, asked).await.map_err(|_| connector.timed_out())?
    }

    /// Inspects the server on the connection of the last inspection. Returns its state if it is the known one:
    /// a changed one may be that of a server that is no longer the right one.
    async fn inspect_again(&self, generation: u64) -> Option<ServerState> {
        let connector = self.connector();
        let kept = lock(&self.inspection).take()?;
        if kept.generation != generation || kept.used_at.elapsed() >= IDLE_MAX {
            return None;
        }
        let mut connection = kept.connection;
        let limit = connector.options.call_timeout / LATE_AFTER_SHARE;
        let state = timeout(limit, connector.ask_state(&mut connection)).await.ok()?.ok()?;
        if lock(&connector.state).as_ref() != Some(&state) {
            return None;
        }
        self.keep_inspection(connection, generation);
        Some(state)
    }

    fn keep_inspection(&self, connection: Connection, generation: u64) {
        let kept = Kept { connection, generation, used_at: Instant::now() };
        *lock(&self.inspection) = Some(kept);
    }
}

impl Connector {
    /// Reads the server's state and remembers it.
    pub(super) async fn inspect(&self, connection: &mut Connection) -> Result<ServerState, QueueError> {
        let state = self.ask_state(connection).await?;
        *lock(&self.state) = Some(state.clone());
        Ok(state)
    }

    async fn ask_state(&self, connection: &mut Connection) -> Result<ServerState, QueueError> {
        let facts = durability::facts(connection).await.map_err(|error| fault::classify(&error, self))?;
        self.note_run(facts.get("run_id"));
        let assessed = facts.assess(self.options.replicas, self.options.trusted);
        let Assessment { weaknesses, vouched, confirm } =
            assessed.map_err(|why| QueueError::Deployment(format!("{self}: {why}")))?;
        Ok(ServerState { durability: Durability { weaknesses, vouched, ..Durability::default() }, confirm })
    }

    /// Notes which run of the server answers. A provider that hides the id shows no restart.
    fn note_run(&self, id: &str) {
        let known = lock(&self.run).replace(id.to_owned());
        if known.is_some_and(|known| known != id) {
            self.options.restarted.notify_one();
        }
    }
}
