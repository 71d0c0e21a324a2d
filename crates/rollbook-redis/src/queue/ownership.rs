//! Operations on the complete queue: existence, owner, server clock, deletion.

use std::collections::HashMap;

use redis::cmd;
use rollbook_core::lock::lock;
use rollbook_core::queue::QueueError;
use rollbook_core::time::Timestamp;

use super::RedisQueue;
use crate::owner::{Claim, Owner};

/// Owner of a queue, and whether this deployment may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Pattern of the queue's keys.
    pub keys: String,
    /// Stored owner, if any.
    pub owner: Option<String>,
    /// Reason for which this deployment must not use the queue, with the fix.
    pub refusal: Option<String>,
    /// Whether the owner can't be checked: the queue has an owner, and this process has nothing to compare with it.
    pub is_unverified: bool,
}

/// Behaviour of a cluster's nodes while some slots have no node: `cluster-require-full-coverage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullCoverage {
    /// At least one node that answers refuses all (`yes`).
    Required,
    /// Every node that answers goes on with its own slots (`no`).
    NotRequired,
    /// This user may not read the setting.
    Hidden,
}

impl RedisQueue {
    /// Returns what the reachable nodes do while some slots have no node; `None` if the server is not a
    /// cluster or no node answers.
    pub async fn full_coverage(&self) -> Option<FullCoverage> {
        let mut found = None;
        for shard in &*self.shards {
            let info = self.command_on::<String>(shard, cmd("INFO").arg("cluster")).await;
            if !info.is_ok_and(|info| info.lines().any(|line| line.trim() == "cluster_enabled:1")) {
                continue;
            }
            let mut config = cmd("CONFIG");
            config.arg("GET").arg("cluster-require-full-coverage");
            let answer = self.command_on::<HashMap<String, String>>(shard, &config).await;
            let coverage = match answer.as_ref().map(|answer| answer.values().next().map(String::as_str)) {
                Ok(Some("yes")) => return Some(FullCoverage::Required),
                Ok(Some(_)) => FullCoverage::NotRequired,
                // A server that became unreachable is reported elsewhere.
                Ok(None) | Err(_) => FullCoverage::Hidden,
            };
            // A hidden value may be either.
            found = found.filter(|_| coverage == FullCoverage::NotRequired).or(Some(coverage));
        }
        found
    }

    /// Returns whether a queue was ever created here, even if it is empty. Does not create one.
    ///
    /// # Errors
    /// Fails if the server can't be asked.
    pub async fn exists(&self) -> Result<bool, QueueError> {
        let mut failed = None;
        for shard in &*self.shards {
            match self.command_on::<u64>(shard, cmd("EXISTS").arg(shard.keys.all())).await {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(error) if self.servers.is_cluster() => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Returns the owner of the queue with this key prefix. Does not create a queue.
    ///
    /// # Errors
    /// Fails if the server can't be asked.
    pub async fn ownership(&self) -> Result<Ownership, QueueError> {
        let keys = format!("{{{}:*", self.settings.key_prefix);
        for shard in &*self.shards {
            let owner: Result<Option<String>, _> =
                self.command_on(shard, cmd("HGET").arg(shard.keys.meta()).arg("owner")).await;
            let owner = match owner {
                // In a cluster another node may answer.
                Err(_) if self.servers.is_cluster() => continue,
                owner => owner?,
            };
            if let Some(owner) = owner {
                let ours = self.owner.current();
                let is_other = ours.claim(&Owner::parse(&owner)) == Claim::Other;
                let refusal =
                    is_other.then(|| self.belongs_to_another(shard, &Owner::parse(&owner)).to_string());
                let is_unverified = *ours == Owner::default();
                return Ok(Ownership { keys, owner: Some(owner), refusal, is_unverified });
            }
        }
        Ok(Ownership { keys, owner: None, refusal: None, is_unverified: false })
    }

    /// Returns the random number that the first shard got with its set-up; `None` before that.
    ///
    /// # Errors
    /// Fails if the server of that shard can't be asked.
    pub async fn identity(&self) -> Result<Option<String>, QueueError> {
        let Some(shard) = self.shards.first() else { return Ok(None) };
        let epoch: Option<String> =
            self.command_on(shard, cmd("HGET").arg(shard.keys.meta()).arg("epoch")).await?;
        Ok(epoch.map(|epoch| format!("queue {epoch}")))
    }

    /// Returns the time of the server's clock, which decides when messages are due. In a cluster: of one server.
    ///
    /// # Errors
    /// Fails if the server can't be asked.
    pub async fn server_time(&self) -> Result<Timestamp, QueueError> {
        let mut failed = None;
        for shard in &*self.shards {
            match self.command_on::<(i64, i64)>(shard, &cmd("TIME")).await {
                Ok((seconds, micros)) => {
                    return Ok(Timestamp::from_millis(
                        seconds.saturating_mul(1000).saturating_add(micros / 1000),
                    ));
                }
                Err(error) if self.servers.is_cluster() => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| QueueError::Deployment("the queue has no shards".to_owned())))
    }

    /// Deletes the queue with all messages in it. No process may be using it.
    ///
    /// # Errors
    /// Fails if a server can't be asked; part of the queue may remain.
    pub async fn remove(&self) -> Result<(), QueueError> {
        for shard in &*self.shards {
            let _: u64 = self.command_on(shard, cmd("UNLINK").arg(shard.keys.all())).await?;
            *lock(&shard.epoch) = None;
        }
        Ok(())
    }
}
