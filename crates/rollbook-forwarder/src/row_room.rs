//! Memory for rows in requests: one limit for all forwards of a process.
//!
//! Few rows are read at once, and each waits for its room before it is sent. Requests give their room back when they end, and
//! wait for no other room, so that they never wait for each other.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of rows that are read at once, in addition to those with room.
const READS_MAX: usize = 4;

/// Memory for rows.
#[derive(Clone, Debug)]
pub(crate) struct RowRoom {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    reads: Arc<Semaphore>,
}

/// Right to read one row.
pub(crate) struct Reading(Option<OwnedSemaphorePermit>);

impl RowRoom {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// Whether more than half of the room is taken: then requests that hang give no room to further ones.
    pub(crate) fn is_tight(&self) -> bool {
        self.bytes.available_permits() < self.bytes_max.div_ceil(2)
    }

    /// Waits until a row may be read.
    pub(crate) async fn read(&self) -> Reading {
        Reading(Arc::clone(&self.reads).acquire_owned().await.ok())
    }

    /// Waits for the room of a row that was read. A row that is greater than all the room has it alone.
    pub(crate) async fn take(&self, bytes: usize, reading: Reading) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok();
        drop(reading.0);
        room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Takes room for a row; `None` if there is none.
    async fn take(room: &RowRoom, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let reading = room.read().await;
        timeout(Duration::from_secs(1), room.take(bytes, reading)).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn rows_have_room_up_to_the_limit_and_one_that_is_greater_goes_alone() {
        let room = RowRoom::new(1_000);
        let (first, second) = (take(&room, 600).await, take(&room, 400).await);
        assert!(first.is_some() && second.is_some());
        assert!(take(&room, 1).await.is_none(), "there is no byte left");
        drop(second);
        assert!(take(&room, 401).await.is_none());
        drop(first);
        let large = take(&room, 5_000).await;
        assert!(large.is_some());
        assert!(take(&room, 1).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_is_tight_once_more_than_half_of_it_is_taken() {
        let room = RowRoom::new(1_000);
        let half = take(&room, 500).await;
        assert!(half.is_some() && !room.is_tight());
        let more = take(&room, 1).await;
        assert!(more.is_some() && room.is_tight());
        drop(half);
        assert!(!room.is_tight());
    }

    #[tokio::test(start_paused = true)]
    async fn few_rows_are_read_at_once() {
        let room = RowRoom::new(1_000);
        let mut readings = Vec::new();
        for _ in 0..READS_MAX {
            readings.push(room.read().await);
        }
        assert!(timeout(Duration::from_secs(1), room.read()).await.is_err());
        readings.pop();
        assert!(timeout(Duration::from_secs(1), room.read()).await.is_ok());
    }
}
