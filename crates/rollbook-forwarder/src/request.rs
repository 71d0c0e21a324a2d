//! One request: reads the row if that is asked for, signs, sends, and judges what came of it.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::store::{ChangeLine, Generation, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use crate::ports::{Endpoint, Ports};
use crate::push::{body, push};
use crate::row_room::RowRoom;
use crate::settings::{BODY_PATIENCE, ForwardSettings};
use crate::verdict::Verdict;

/// Ports and settings of a request.
#[derive(Clone)]
pub(crate) struct Requests {
    pub(crate) ports: Ports,
    pub(crate) settings: Arc<ForwardSettings>,
    pub(crate) endpoint: Arc<dyn Endpoint>,
    pub(crate) room: RowRoom,
}

impl Requests {
    /// Sends a change, within this time.
    pub(crate) async fn send(self, line: &ChangeLine, feed: Generation, limit: Duration) -> Verdict {
        let deadline = Instant::now() + limit;
        let (body, _room) = match self.body(line, feed, deadline).await {
            Ok(body) => body,
            Err(verdict) => return verdict,
        };
        let push = push(line, body, &self.settings.secrets.current(), self.ports.clock.now());
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = timeout(left + BODY_PATIENCE, self.endpoint.send(push, left)).await;
        answer.unwrap_or(Verdict::TimedOut)
    }

    /// Makes the body. Holds the room of its row.
    async fn body(
        &self,
        line: &ChangeLine,
        feed: Generation,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Verdict> {
        if !self.settings.expand {
            return body(line, feed, None).await.map(|body| (body, None)).map_err(unreadable);
        }
        let turn = timeout_at(deadline, self.room.read()).await.map_err(|_| Verdict::Postponed)?;
        let read = timeout_at(deadline, body(line, feed, Some(&*self.ports.rows))).await;
        let body = read.map_err(|_| Verdict::Unreadable)?.map_err(unreadable)?;
        let room = timeout_at(deadline, self.room.take(body.len(), turn)).await;
        room.map(|room| (body, room)).map_err(|_| Verdict::Postponed)
    }
}

fn unreadable(_: StoreError) -> Verdict {
    Verdict::Unreadable
}
