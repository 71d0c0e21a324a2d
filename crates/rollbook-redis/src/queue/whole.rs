//! The queue as a whole: whether there is one, what its server's clock says, and its end.

use std::collections::HashMap;

use redis::cmd;
use rollbook_core::queue::QueueError;
use rollbook_core::time::Timestamp;

use super::RedisQueue;
use crate::owner::{Claim, Owner};

/// Who a queue belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The pattern of its keys.
    pub keys: String,
    /// What its owner is known by, where anybody has said so.
    pub owner: Option<String>,
    /// Why this deployment must not use it, and how to fix that.
    pub refusal: Option<String>,
    /// Whether nobody can tell: the queue has an owner, and this process has nothing to compare with it.
    pub is_unverified: bool,
}

/// What the nodes of a cluster do while some slots have no node: `cluster-require-full-coverage`.
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
    /// What the nodes that answer do while some slots have no node; `None` where the server is not a cluster or none
    /// answers.
    pub async fn full_coverage(&self) -> Option<FullCoverage> {
        let mut found = None;
        for shard in &self.shards {
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
                // A server that is unreachable by now has a line of its own.
                Ok(None) | Err(_) => FullCoverage::Hidden,
            };
            // What one node hides may be anything.
            found = found.filter(|_| coverage == FullCoverage::NotRequired).or(Some(coverage));
        }
        found
    }

    /// Whether a queue was ever made here, empty as it may be. Makes none.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn exists(&self) -> Result<bool, QueueError> {
        let mut failed = None;
        for shard in &self.shards {
            match self.command_on::<u64>(shard, cmd("EXISTS").arg(shard.keys.all())).await {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(error) if self.servers.are_several() => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Who the queue under our keys belongs to. Makes none.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn ownership(&self) -> Result<Ownership, QueueError> {
        let keys = format!("{{{}:*", self.settings.key_prefix);
        for shard in &self.shards {
            let owner: Result<Option<String>, _> =
                self.command_on(shard, cmd("HGET").arg(shard.keys.meta()).arg("owner")).await;
            let owner = match owner {
                // Of a cluster another node may tell.
                Err(_) if self.servers.are_several() => continue,
                owner => owner?,
            };
            if let Some(owner) = owner {
                let is_other = self.settings.owner.claim(&Owner::parse(&owner)) == Claim::Other;
                let refusal =
                    is_other.then(|| self.belongs_to_another(shard, &Owner::parse(&owner)).to_string());
                let is_unverified = self.settings.owner == Owner::default();
                return Ok(Ownership { keys, owner: Some(owner), refusal, is_unverified });
            }
        }
        Ok(Ownership { keys, owner: None, refusal: None, is_unverified: false })
    }

    /// What the server's clock says, which decides what is due. Of a cluster: one server's.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn server_time(&self) -> Result<Timestamp, QueueError> {
        let mut failed = None;
        for shard in &self.shards {
            match self.command_on::<(i64, i64)>(shard, &cmd("TIME")).await {
                Ok((seconds, micros)) => {
                    return Ok(Timestamp::from_millis(
                        seconds.saturating_mul(1000).saturating_add(micros / 1000),
                    ));
                }
                Err(error) if self.servers.are_several() => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| QueueError::Deployment("the queue has no shards".to_owned())))
    }

    /// Deletes the queue with all that waits in it. Nobody may be using it.
    ///
    /// # Errors
    /// The server can't be asked: part of it may still be there.
    pub async fn remove(&self) -> Result<(), QueueError> {
        for shard in &self.shards {
            let _: u64 = self.command_on(shard, cmd("UNLINK").arg(shard.keys.all())).await?;
            *shard.epoch() = None;
        }
        Ok(())
    }
}
