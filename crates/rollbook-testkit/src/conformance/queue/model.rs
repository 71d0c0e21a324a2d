//! A queue and the model in memory, driven by the same actions.
//!
//! Unlikely actions are included: leases lost long ago are settled, messages are delivered again in any
//! state, the queue is full, crashes happen at any time.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestCaseError;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer as _, DeadLetter, DeadLetterFilter, Lease, Producer as _, QueueAdmin, QueuedMessage, Settlement,
};
use rollbook_core::retry::Failure;
use rollbook_core::time::Clock as _;
use rollbook_core::trace::Traceparent;

use super::{LEASE_FOR, QueueHarness, RETRY_AFTER, TICK, almost, settlements};
use crate::memory::queue::MemoryQueue;
use crate::properties;
use crate::queues::request;

const CASES: u32 = 64;
const ACTIONS_MAX: usize = 60;
/// Number of ids, small enough that most actions meet an existing message.
const IDS: u8 = 8;
/// Depth limit, below [`IDS`] so that the queue is often full.
const MODEL_DEPTH_MAX: u64 = 5;
/// Messages per page.
const PAGE: usize = 2;

#[derive(Clone, Debug)]
enum Action {
    Enqueue(Vec<u8>),
    Lease(usize),
    /// Settles some of all leases ever issued.
    Settle(Vec<(Index, Settlement)>),
    /// Counts the attempt of one of all leases ever issued.
    Count(Index),
    Advance(Duration),
    Reopen,
    Redrive(DeadLetterFilter, usize),
    Discard(DeadLetterFilter, usize),
    Remove(Vec<u8>),
}

fn action() -> impl Strategy<Value = Action> {
    let steps = [TICK, almost(RETRY_AFTER), RETRY_AFTER, almost(LEASE_FOR), LEASE_FOR, LEASE_FOR + TICK];
    let settle = (any::<Index>(), select(settlements().to_vec()));
    prop_oneof![
        4 => vec(0..IDS, 0..4).prop_map(Action::Enqueue),
        6 => (1_usize..4).prop_map(Action::Lease),
        6 => vec(settle, 1..4).prop_map(Action::Settle),
        2 => any::<Index>().prop_map(Action::Count),
        4 => select(steps.to_vec()).prop_map(Action::Advance),
        1 => Just(Action::Reopen),
        1 => (filter(), 0_usize..4).prop_map(|(filter, limit)| Action::Redrive(filter, limit)),
        1 => (filter(), 0_usize..3).prop_map(|(filter, limit)| Action::Discard(filter, limit)),
        1 => vec(0..IDS, 0..3).prop_map(Action::Remove),
    ]
}

fn filter() -> impl Strategy<Value = DeadLetterFilter> {
    prop_oneof![
        2 => Just(DeadLetterFilter::default()),
        1 => (0..IDS).prop_map(|id| DeadLetterFilter { id: Some(message_id(id)), ..DeadLetterFilter::default() }),
    ]
}

fn message_id(number: u8) -> MessageId {
    MessageId::new(format!("msg_{number}"))
}

/// The engine and the model, and all leases that both have issued.
struct Pair<H> {
    engine: H,
    model: MemoryQueue,
    leases: Vec<(Lease, Lease)>,
}

/// Fields of a dead letter that must be equal: all except the position.
type Letter = (MessageId, i64, i64, u32, Failure, Option<Traceparent>, Bytes);

fn letters(letters: Vec<DeadLetter>) -> Vec<Letter> {
    let letter = |letter: DeadLetter| {
        let (received_at, parked_at) = (letter.received_at.as_millis(), letter.parked_at.as_millis());
        (letter.id, received_at, parked_at, letter.attempts, letter.failure, letter.traceparent, letter.body)
    };
    letters.into_iter().map(letter).collect()
}

/// Returns all messages in the order of their ids. The pages are so small that there are several.
async fn messages(admin: &dyn QueueAdmin) -> Result<Vec<QueuedMessage>, TestCaseError> {
    let (mut all, mut after) = (Vec::new(), None);
    for _ in 0..=10 * IDS {
        let page = admin.messages(after.as_ref(), PAGE).await.expect("the queue lists messages");
        prop_assert!(page.messages.len() <= PAGE, "{} on a page of {PAGE}", page.messages.len());
        all.extend(page.messages);
        after = page.next;
        if after.is_none() {
            all.sort_by(|one, other| one.id.cmp(&other.id));
            return Ok(all);
        }
    }
    Err(TestCaseError::fail("the listing of messages has no end"))
}

fn same<T: PartialEq + Debug>(engine: T, model: &T, of: &str) -> Result<T, TestCaseError> {
    prop_assert_eq!(&engine, model, "{} of the engine (left) and of the model (right)", of);
    Ok(engine)
}

impl<H: QueueHarness> Pair<H> {
    async fn act(&mut self, action: Action) -> Result<(), TestCaseError> {
        match action {
            Action::Enqueue(numbers) => self.enqueue(&numbers).await?,
            Action::Lease(max) => self.lease(max).await?,
            Action::Settle(settlements) => self.settle(&settlements).await?,
            Action::Advance(span) => self.engine.advance(span),
            Action::Reopen => self.engine.reopen().await,
            Action::Redrive(filter, limit) => {
                let model = self.model.redrive(&filter.page(None, limit)).await.map(|step| step.changed);
                let engine = self.engine.admin().redrive(&filter.page(None, limit)).await;
                _ = same(engine.map(|step| step.changed), &model, "redrive")?;
            }
            Action::Discard(filter, limit) => {
                let model = self.model.discard(&filter.page(None, limit)).await.map(|step| step.changed);
                let engine = self.engine.admin().discard(&filter.page(None, limit)).await;
                _ = same(engine.map(|step| step.changed), &model, "discard")?;
            }
            Action::Count(index) => self.count(index).await?,
            Action::Remove(numbers) => {
                let ids: Vec<MessageId> = numbers.into_iter().map(message_id).collect();
                let model = self.model.remove_many(&ids).await;
                _ = same(self.engine.admin().remove_many(&ids).await, &model, "remove_many")?;
            }
        }
        self.compare().await
    }

    async fn enqueue(&self, numbers: &[u8]) -> Result<(), TestCaseError> {
        let received_at = self.engine.clock().now();
        let delivery = |number: &u8| Delivery {
            id: message_id(*number),
            received_at,
            // Some deliveries have no trace context.
            traceparent: Traceparent::from_bytes(&[number % 3; Traceparent::BYTES]),
            body: Bytes::from(vec![*number; usize::from(*number)]),
        };
        let deliveries: Vec<Delivery> = numbers.iter().map(delivery).collect();
        let model = self.model.enqueue_many(&deliveries).await;
        same(self.engine.producer().enqueue_many(&deliveries).await, &model, "enqueue_many").map(drop)
    }

    /// Between messages with the same due time the engine chooses, and the model follows.
    async fn lease(&mut self, max: usize) -> Result<(), TestCaseError> {
        let request = request(max, LEASE_FOR, Duration::ZERO);
        let given = self.engine.consumer().lease(request).await.expect("the queue gives leases");
        let ids: Vec<MessageId> = given.iter().map(|lease| lease.id.clone()).collect();
        let Some(expected) = self.model.lease_these(&ids, max, LEASE_FOR) else {
            return Err(TestCaseError::fail(format!("{ids:?} is not a correct answer to a lease of {max}")));
        };
        for (given, expected) in given.into_iter().zip(expected) {
            let fields = |lease: &Lease| {
                let Lease { attempt, unsettled, received_at, traceparent, .. } = *lease;
                (attempt, unsettled, received_at, traceparent, lease.body.clone())
            };
            _ = same(fields(&given), &fields(&expected), "lease")?;
            self.leases.push((given, expected));
        }
        Ok(())
    }

    async fn settle(&self, settlements: &[(Index, Settlement)]) -> Result<(), TestCaseError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let chosen = || settlements.iter().map(|(index, how)| (index.get(&self.leases).clone(), how.clone()));
        let model: Vec<_> = chosen().map(|((_, model), how)| (model, how)).collect();
        let engine: Vec<_> = chosen().map(|((engine, _), how)| (engine, how)).collect();
        let model = self.model.settle_many(&model).await;
        same(self.engine.consumer().settle_many(&engine).await, &model, "settle_many").map(drop)
    }

    async fn count(&self, index: Index) -> Result<(), TestCaseError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let (engine, model) = index.get(&self.leases);
        let model = self.model.count_attempt(model).await;
        same(self.engine.consumer().count_attempt(engine).await, &model, "count_attempt").map(drop)
    }

    async fn compare(&self) -> Result<(), TestCaseError> {
        let admin = self.engine.admin();
        _ = same(admin.stats().await, &self.model.stats().await, "stats")?;
        let engine = admin.dead_letters(&DeadLetterFilter::default().page(None, usize::from(IDS))).await;
        let engine = engine.expect("the queue lists dead letters");
        _ = same(letters(engine), &letters(self.model.dead()), "dead letters")?;
        let (engine, model) = (messages(&*admin).await?, messages(&self.model).await?);
        _ = same(engine, &model, "messages")?;
        for id in (0..IDS).map(message_id) {
            let found = self.model.message(&id).await;
            _ = same(admin.message(&id).await, &found, "message")?;
        }
        Ok(())
    }
}

/// Checks that a queue gives the same answers as the model for any actions.
pub fn check<H: QueueHarness, F: Future<Output = H>>(open: impl Fn(u64) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    properties::check(CASES, &vec(action(), 1..ACTIONS_MAX), |actions| {
        runtime.block_on(async {
            let engine = open(MODEL_DEPTH_MAX).await;
            let model = MemoryQueue::new(MODEL_DEPTH_MAX, engine.clock());
            let mut pair = Pair { engine, model, leases: Vec::new() };
            for (step, action) in actions.into_iter().enumerate() {
                let context = format!("step {step}, {action:?}");
                pair.act(action).await.map_err(|error| TestCaseError::fail(format!("{context}: {error}")))?;
            }
            Ok(())
        })
    });
}
