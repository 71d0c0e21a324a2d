//! Changes of a backfill.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, Changes, ChangesError, ChangesPage, ChangesQuery, FeedState,
    Forwards as _, Generation, PASSED_MAX, Position, StoreError,
};
use rollbook_core::time::Timestamp;
use rollbook_forwarder::{ForwardSettings, Ports};
use rollbook_testkit::events::START;

use crate::stage::{NAME, Running, Stage, settings, until};

/// A feed with so many lines of a backfill, and one of a webhook after them.
struct LongFeed(Position);

impl LongFeed {
    fn line(&self, position: Position) -> ChangeLine {
        ChangeLine {
            position,
            resource: "users".to_owned(),
            subject_id: format!("user_{position}"),
            kind: ChangeKind::Created,
            changed: Vec::new(),
            origin: if position <= self.0 { ChangeOrigin::Backfill } else { ChangeOrigin::Webhook },
            cause: None,
            event_at: None,
            at: Timestamp::from_millis(START),
        }
    }
}

#[async_trait]
impl Changes for LongFeed {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
        let last = self.0 + 1;
        let end = last.min(query.after + (query.lines_max() as Position).min(PASSED_MAX));
        let lines = (query.after + 1..=end).map(|position| self.line(position)).collect();
        Ok(ChangesPage::new(lines, query, &self.feed().await?))
    }

    async fn feed(&self) -> Result<FeedState, StoreError> {
        Ok(FeedState { is_on: true, last: self.0 + 1, ..FeedState::default() })
    }

    async fn position_before(&self, _: Timestamp) -> Result<Position, StoreError> {
        Ok(0)
    }

    async fn wait_for_change(&self, after: Position, timeout: Duration) -> Result<bool, StoreError> {
        if after <= self.0 {
            return Ok(true);
        }
        tokio::time::sleep(timeout).await;
        Ok(false)
    }

    async fn renew_feed(&self) -> Result<Generation, StoreError> {
        Ok(FeedState::default().generation)
    }
}

/// Sends a feed with a backfill of so many users from its beginning. Returns the accepted positions.
async fn sent(users: Position, settings: ForwardSettings) -> Vec<Position> {
    let stage = Stage::accepting();
    let taken = stage.store.take_forward(NAME, "test", Duration::from_secs(1), 0).await.expect("the store");
    let epoch = taken.expect("it is free").epoch;
    stage.store.release_forward(NAME, epoch).await.expect("it is free again");
    let ports = Ports { changes: Arc::new(LongFeed(users)), ..stage.ports() };
    let running = Running::new(ports, settings, stage.endpoint.clone());
    until("it is at the end", || async { stage.forward().await.position == users + 1 }).await;
    running.stop().await;
    let mut accepted = stage.endpoint.accepted();
    accepted.sort_unstable();
    accepted
}

#[tokio::test(start_paused = true)]
async fn a_backfill_of_100_000_users_sends_nothing_unless_asked_and_the_next_change_is_sent() {
    assert_eq!(sent(100_000, settings()).await, [100_001]);
}

#[tokio::test(start_paused = true)]
async fn a_backfill_is_sent_if_that_is_asked_for() {
    let accepted = sent(3_000, ForwardSettings { backfill: true, ..settings() }).await;
    assert_eq!(accepted, (1..=3_001).collect::<Vec<_>>());
}
