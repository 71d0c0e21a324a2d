//! Setting up a queue on Redis, which has no migrations.

use async_trait::async_trait;
use rollbook_core::backend::Backend;
use rollbook_core::queue::QueueError;
use rollbook_core::time::Timestamp;

use crate::address::Address;
use crate::queue::RedisQueue;
use crate::settings::{ClockSource, RedisSettings};

impl RedisSettings {
    fn queue(&self) -> Result<RedisQueue, QueueError> {
        RedisQueue::new(self.clone(), ClockSource::Server)
    }
}

#[async_trait]
impl Backend for RedisSettings {
    fn describe(&self) -> String {
        Address::describe(&self.url)
    }

    fn check(&self) -> Result<(), String> {
        self.queue().map(drop).map_err(|error| match error {
            QueueError::Deployment(wrong) => wrong,
            error => error.to_string(),
        })
    }

    async fn exists(&self) -> Result<bool, String> {
        let exists = async { self.queue()?.exists().await };
        exists.await.map_err(|error| error.to_string())
    }

    async fn identity(&self) -> Result<Option<String>, String> {
        let identity = async { self.queue()?.identity().await };
        identity.await.map_err(|error| error.to_string())
    }

    async fn server_time(&self) -> Option<Result<Timestamp, String>> {
        let time = async { self.queue()?.server_time().await };
        Some(time.await.map_err(|error| error.to_string()))
    }

    async fn remove(&self) -> Result<(), String> {
        let removed = async { self.queue()?.remove().await };
        removed.await.map_err(|error| error.to_string())
    }
}
