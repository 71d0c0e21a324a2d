//! The operator's side of a queue that fails as its script says.

use async_trait::async_trait;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    Audit, BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPosition, Discard, Durability, MessagesCursor,
    MessagesPage, QueueAdmin, QueueError, QueueStats, QueuedMessage,
};

use super::{FaultyAdmin, QueueCall};

#[async_trait]
impl QueueAdmin for FaultyAdmin {
    async fn stats(&self) -> Result<QueueStats, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.stats()).await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.dead_letters(filter, after, limit)).await
    }

    async fn newest_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.newest_dead_letters(filter, before, limit)).await
    }

    async fn discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.discards(id)).await
    }

    async fn redrive(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.redrive(filter, after, limit)).await
    }

    async fn discard(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.discard(filter, after, limit)).await
    }

    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.messages(after, limit)).await
    }

    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.message(id)).await
    }

    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.remove_many(ids)).await
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.durability()).await
    }

    async fn count_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.count_dead_letters(filter, after, limit)).await
    }

    async fn audit(&self, repair: bool) -> Result<Audit, QueueError> {
        (self.script)(QueueCall::Admin).strike(self.inner.audit(repair)).await
    }
}
