//! The operator's view of the queue in memory.

use std::ops::Bound;

use async_trait::async_trait;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterPage, Discard, Durability, MessagesCursor, MessagesPage, PAGE_BYTES_MAX,
    QueueAdmin, QueueError, QueueStats, QueuedMessage,
};

use super::{MemoryQueue, Message, matches};

#[async_trait]
impl QueueAdmin for MemoryQueue {
    async fn stats(&self) -> Result<QueueStats, QueueError> {
        Ok(self.state().stats(self.clock.now()))
    }

    async fn dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        let DeadLetterPage { filter, after, limit } = page;
        let state = self.state();
        let behind = state.dead.values().filter(|letter| after.is_none_or(|after| letter.position > after));
        let mut page = 0;
        let matching = behind.filter(|letter| matches(filter, letter)).take(*limit);
        let fits = |letter: &&DeadLetter| {
            let is_first = page == 0;
            page += letter.body.len().max(1);
            is_first || page <= PAGE_BYTES_MAX
        };
        Ok(matching.take_while(fits).cloned().collect())
    }

    async fn newest_dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        let DeadLetterPage { filter, after: before, limit } = page;
        let state = self.state();
        let all = state.dead.values().rev();
        let earlier = all.filter(|letter| before.is_none_or(|before| letter.position < before));
        Ok(earlier.filter(|letter| matches(filter, letter)).take(*limit).cloned().collect())
    }

    async fn discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError> {
        let state = self.state();
        let of_it = state.discards.iter().filter(|(discarded, _)| discarded == id);
        Ok(of_it.map(|(_, record)| record.clone()).collect())
    }

    async fn redrive(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let now = self.clock.now();
        let mut state = self.state();
        let depth = state.messages.len() as u64;
        let room = usize::try_from(self.depth_max.saturating_sub(depth)).unwrap_or(usize::MAX);
        let (mut positions, mut next) = state.step(page);
        if positions.len() > room {
            positions.truncate(room);
            next = positions.last().copied();
            if next.is_none() {
                return Err(QueueError::Full { depth, limit: self.depth_max });
            }
        }
        for letter in positions.iter().filter_map(|position| state.dead.remove(position)).collect::<Vec<_>>()
        {
            let DeadLetter { id, received_at, traceparent, body, .. } = letter;
            let again = Delivery { id: id.clone(), received_at, traceparent, body };
            let message = Message::new(again, now, state.next_number());
            state.messages.insert(id, message);
        }
        self.changed.notify_waiters();
        Ok(BulkStep { changed: positions.len(), next })
    }

    async fn discard(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let now = self.clock.now();
        let mut state = self.state();
        let (positions, next) = state.step(page);
        for letter in positions.iter().filter_map(|position| state.dead.remove(position)).collect::<Vec<_>>()
        {
            let DeadLetter { id, parked_at, attempts, failure, .. } = letter;
            state.discards.push((id, Discard { discarded_at: now, parked_at, attempts, failure }));
        }
        Ok(BulkStep { changed: positions.len(), next })
    }

    async fn count_dead_letters(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let (positions, next) = self.state().step(page);
        Ok(BulkStep { changed: positions.len(), next })
    }

    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError> {
        let now = self.clock.now();
        let after = after.map(|cursor| MessageId::new(&cursor.0));
        let behind = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let rest = state.messages.range::<MessageId, _>((behind, Bound::Unbounded));
        let messages: Vec<_> = rest.take(limit.max(1)).map(|(id, message)| message.show(id, now)).collect();
        let next = messages.last().map(|last| MessagesCursor(last.id.to_string()));
        Ok(MessagesPage { messages, next })
    }

    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        let now = self.clock.now();
        Ok(self.state().messages.get(id).map(|message| message.show(id, now)))
    }

    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError> {
        let mut state = self.state();
        let before = state.messages.len() + state.dead.len();
        state.messages.retain(|id, _| !ids.contains(id));
        state.dead.retain(|_, letter| !ids.contains(&letter.id));
        Ok(before - state.messages.len() - state.dead.len())
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        Ok(Durability::default())
    }
}
